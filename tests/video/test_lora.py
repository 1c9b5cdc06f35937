"""LoRA files of all key forms in a pipeline.

Second source: W + scale * up @ down (+ difference) written into the parameter itself.
"""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from fourreal.video.lora_keys import read_lora
from fourreal.video.wan_keys import comfy_key

from ..tiny import sample_grid, tiny_pipeline, tiny_transformer

RANK, ALPHA = 4, 2.0
LAYERS = ["blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.ffn.net.0.proj"]
NAMED = "lora_adapter_metadata"


def original(layer):
    """The layer's name in the original files."""
    return comfy_key(f"{layer}.weight").removesuffix(".weight")


def pair(layer, down, up, a="lora_A.weight", b="lora_B.weight"):
    return {f"{layer}.{a}": down, f"{layer}.{b}": up}


def with_alpha(layer, down, up):
    factors = pair(layer, down, up, "lora_down.weight", "lora_up.weight")
    return factors | {f"{layer}.alpha": torch.tensor(ALPHA)}


def flat(layer):
    return layer.replace(".", "_")


DEFAULT = ("lora_A.default.weight", "lora_B.default.weight")
# (keys of a layer, whether they scale by alpha / rank)
FORMS = {
    "diffusers": (lambda n, *f: pair(f"transformer.{n}", *f), False),
    "diffusers, bare": (pair, False),
    "diffusers, first releases": (
        lambda n, *f: pair(f"transformer.{n}", *f, "lora.down.weight", "lora.up.weight"),
        False,
    ),
    "diffusers, linear layers": (
        lambda n, *f: pair(n, *f, "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
        False,
    ),
    "torch.compile": (lambda n, *f: pair(f"transformer._orig_mod.{n}", *f), False),
    "torch.compile of blocks": (
        lambda n, *f: pair(n.replace("blocks.1.", "blocks.1._orig_mod."), *f),
        False,
    ),
    "PEFT": (lambda n, *f: pair(f"base_model.model.{original(n)}", *f), False),
    "PEFT, with the adapter": (lambda n, *f: pair(f"base_model.model.{n}", *f, *DEFAULT), False),
    "DiffSynth": (lambda n, *f: pair(original(n), *f, *DEFAULT), False),
    "DiffSynth, bare": (lambda n, *f: pair(original(n), *f), False),
    "DiffSynth, of the pipeline": (lambda n, *f: pair(f"pipe.dit.{original(n)}", *f), False),
    "ComfyUI": (lambda n, *f: pair(f"diffusion_model.{original(n)}", *f), False),
    "ComfyUI, alpha": (lambda n, *f: with_alpha(f"diffusion_model.{original(n)}", *f), True),
    "ComfyUI, whole": (lambda n, *f: with_alpha(f"model.diffusion_model.{original(n)}", *f), True),
    "no weight": (lambda n, *f: pair(original(n), *f, "lora_A", "lora_B"), False),
    "musubi": (lambda n, *f: with_alpha(f"lora_unet_{flat(original(n))}", *f), True),
    "VideoX-Fun": (lambda n, *f: with_alpha(f"lora_unet__{flat(original(n))}", *f), True),
    "kohya, names of diffusers": (lambda n, *f: with_alpha(f"lora_unet_{flat(n)}", *f), True),
    "kohya, transformer": (lambda n, *f: with_alpha(f"lora_transformer_{flat(n)}", *f), True),
    "LyCORIS": (lambda n, *f: with_alpha(f"lycoris_{flat(original(n))}", *f), True),
}


def factors(shape, seed, rank=RANK):
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, shape[1], generator=generator) / 4
    return down, torch.randn(shape[0], rank, generator=generator) / 4


def output(transformer):
    """What the stock transformer makes of one noisy video."""
    generator = torch.Generator().manual_seed(9)
    latents = torch.randn(1, 16, 2, 4, 4, generator=generator)
    text = torch.randn(1, 3, 32, generator=generator)
    with torch.no_grad():
        return transformer(latents, torch.tensor([500.0]), text).sample


def changed_by_hand(changes):
    """The output of the tiny transformer with numbers added to its parameters."""
    model = tiny_transformer()
    parameters = dict(model.named_parameters())
    for name, change in changes.items():
        parameters[name].data += change.reshape(parameters[name].shape)
    return output(model)


def assert_same(pipe, changes):
    expected = changed_by_hand(changes)
    assert (output(pipe.transformer) - expected).abs().max() < 1e-4
    assert (output(tiny_transformer()) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_every_key_form_adds_scale_times_up_down_to_the_weights(tmp_path, form):
    keys, scaled = FORMS[form]
    tensors, changes = {}, {}
    for seed, layer in enumerate(LAYERS):
        shape = tiny_transformer().get_submodule(layer).weight.shape
        down, up = factors(shape, seed)
        tensors |= keys(layer, down, up)
        changes[f"{layer}.weight"] = (ALPHA / RANK if scaled else 1) * up @ down
    save_file(tensors, tmp_path / "lora.safetensors")
    pipe = tiny_pipeline()
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert_same(pipe, changes)
    loras = [k for k in pipe.transformer.state_dict() if "lora_" in k]
    assert len(loras) == 2 * len(LAYERS)  # and so no layer without values
    assert not any(p.is_meta for p in pipe.transformer.parameters())
    pipe.unload_lora_weights()
    assert torch.equal(output(pipe.transformer), output(tiny_transformer()))


def test_ranks_and_alphas_of_layers_may_differ(tmp_path):
    tensors, changes = {}, {}
    for rank, layer in zip((1, 4, 8), LAYERS):
        down, up = factors(tiny_transformer().get_submodule(layer).weight.shape, rank, rank)
        start = f"diffusion_model.{original(layer)}"
        tensors |= pair(start, down, up) | {f"{start}.alpha": torch.tensor([3.0])}
        changes[f"{layer}.weight"] = 3 / rank * up @ down
    save_file(tensors, tmp_path / "lora.safetensors")
    pipe = tiny_pipeline()
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert_same(pipe, changes)


@pytest.mark.parametrize("where", ["metadata", "folder"])
@pytest.mark.parametrize("rslora", [False, True])
def test_pefts_settings_scale(tmp_path, where, rslora):
    layer = LAYERS[0]
    down, up = factors((48, 48), 3)
    settings = {"r": RANK, "lora_alpha": 6, "use_rslora": rslora, "alpha_pattern": {}}
    if where == "metadata":
        noted = {NAMED: json.dumps({f"transformer.{k}": v for k, v in settings.items()})}
        save_file(pair(f"transformer.{layer}", down, up), tmp_path / "l.safetensors", noted)
        given = tmp_path / "l.safetensors"
    else:
        file = tmp_path / "adapter_model.safetensors"
        save_file(pair(f"base_model.model.{layer}", down, up), file)
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        given = tmp_path
    pipe = tiny_pipeline()
    pipe.load_lora_weights(given)
    assert_same(pipe, {f"{layer}.weight": 6 / (RANK**0.5 if rslora else RANK) * up @ down})


@pytest.mark.parametrize("end", ["blocks.0.attn1.to_q", "^to_q", "self_attn.q", "q"])
def test_pefts_alpha_of_single_layers_is_used(end):
    down, up = factors((48, 48), 3)
    noted = {"lora_alpha": 1, "alpha_pattern": {end: 6, "(a+)+$": 3, "to_k": 8}}
    content = read_lora(
        pair(LAYERS[0], down, up), {NAMED: json.dumps(noted)}, tiny_transformer(), "m"
    )
    assert torch.allclose(content.factors[LAYERS[0]][1], 6 / RANK * up)


@pytest.mark.parametrize(
    "noted",
    [
        {NAMED: "[]"},
        {NAMED: "{"},
        {NAMED: json.dumps({"lora_alpha": "big"})},
        {NAMED: json.dumps({"alpha_pattern": [1]})},
        {NAMED: json.dumps({"alpha_pattern": {"to_q": None}})},
        {"fourreal": "[]"},
        {"fourreal": "{"},
        {"fourreal": json.dumps({"conditioning": "multiply"})},
        {"fourreal": json.dumps({"conditioning": []})},
        {"fourreal": json.dumps({"max_frames": 0})},
        {"fourreal": json.dumps({"guidance_scale": "nan"})},
        {"fourreal": '{"guidance_scale": NaN}'},
        {"fourreal": json.dumps({"staged": 3})},
    ],
)
def test_notes_that_cannot_be_are_refused(tmp_path, noted):
    save_file(pair(LAYERS[0], *factors((48, 48), 3)), tmp_path / "lora.safetensors", noted)
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=r"lora\.safetensors (has|notes)") as error:
        pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert "\n" not in str(error.value)
    assert not any("lora_" in key for key in pipe.transformer.state_dict())


def test_a_lora_on_the_patch_embedding_is_a_convolution(tmp_path):
    generator = torch.Generator().manual_seed(1)
    down = torch.randn(RANK, 16, 1, 2, 2, generator=generator) / 4
    up = torch.randn(48, RANK, 1, 1, 1, generator=generator) / 4
    save_file(pair("diffusion_model.patch_embedding", down, up), tmp_path / "lora.safetensors")
    pipe = tiny_pipeline()
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    change = torch.einsum("or,rctyx->octyx", up[..., 0, 0, 0], down)
    assert_same(pipe, {"patch_embedding.weight": change})


def test_what_a_lora_of_this_project_notes_is_set(tmp_path):
    down, up = factors((48, 48), 3)
    noted = {"fourreal": json.dumps({"conditioning": "replace", "max_frames": 6})}
    save_file(pair(f"transformer.{LAYERS[0]}", down, up), tmp_path / "lora.safetensors", noted)
    pipe, plain = tiny_pipeline(), tiny_pipeline()
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert pipe.config.conditioning == "replace" and pipe.config.max_frames == 6
    plain.register_to_config(conditioning="replace", max_frames=6)
    plain.transformer.blocks[0].attn1.to_q.weight.data += up @ down
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    grids = [
        sample_grid(p, output_type="latent", fixed_view=images, guidance_scale=1.0)
        for p in (pipe, plain)
    ]
    assert (grids[0] - grids[1]).abs().max() < 1e-4


def test_a_lora_for_other_parts_too_is_applied_and_named_in_one_warning(tmp_path, caplog):
    down, up = factors((48, 48), 3)
    others = {
        **pair("lora_te_encoder_block_0_q", torch.zeros(4, 8), torch.zeros(8, 4)),
        **pair("diffusion_model.blocks.0.cross_attn.k_img", down, up),
        **pair("transformer.blocks.1.attn2.add_v_proj", down, up),
        "diffusion_model.img_emb.proj.1.diff_b": torch.zeros(3),
        "diffusion_model.blocks.0.cross_attn.norm_k_img.diff": torch.zeros(48),
        "text_encoders.umt5xxl.transformer.encoder.block.0.layer.0.q.lora_A.weight": down,
        "something.else": torch.zeros(2),
        "diffusion_model.blocks.1.ffn.0.alpha": torch.tensor(4.0),
    }
    layer = f"diffusion_model.{original(LAYERS[0])}"
    save_file(pair(layer, down, up) | {k: v.clone() for k, v in others.items()}, tmp_path / "l.st")
    (tmp_path / "l.st").rename(tmp_path / "lora.safetensors")
    pipe = tiny_pipeline()
    with caplog.at_level(logging.WARNING):
        pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert_same(pipe, {f"{LAYERS[0]}.weight": up @ down})
    (record,) = [r for r in caplog.records if r.name.startswith("fourreal")]
    assert "3 for the text encoder" in record.message and "6 for image input" in record.message
    assert "2 unknown (something.else, the alpha or bias of blocks.1.ffn.net" in record.message


QUERY = "diffusion_model.blocks.0.self_attn.q"
WHOLE = {f"model.{comfy_key(k)}": v for k, v in tiny_transformer().state_dict().items()}
FULL = pair(QUERY, *factors((48, 48), 3))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (FULL | {f"{QUERY}.dora_scale": torch.ones(48, 1)}, "is DoRA"),
        ({f"{QUERY}.lokr_w1": torch.ones(2, 2), f"{QUERY}.lokr_w2": torch.ones(24, 24)}, "LoKr"),
        ({"lora_unet_blocks_0_self_attn_q.hada_w1_a": torch.ones(48, 2)}, "is LoHa"),
        (pair(QUERY, torch.zeros(4, 96), torch.zeros(96, 4)), r"to_q.*\(96, 96\).*\(48, 48\)"),
        (
            FULL | pair("diffusion_model.blocks.5.ffn.0", *factors((64, 48), 1)),
            "but this one has 2",
        ),
        (FULL | pair("lora_unet_blocks_2_ffn_0", *factors((64, 48), 1)), "more than 2 layers"),
        ({f"{QUERY}.lora_A.weight": torch.zeros(4, 48)}, "only one of the two factors"),
        (pair(QUERY, torch.zeros(4, 48), torch.zeros(48, 3)), "whose product is no matrix"),
        (pair(QUERY, torch.zeros(0, 48), torch.zeros(48, 0)), "whose product is no matrix"),
        (pair("lora_te_text_model", *factors((8, 8), 1)), "holds nothing for a Wan transformer"),
        (pair("double_blocks.0.img_attn", *factors((8, 8), 1)), "holds nothing for"),
        (WHOLE, "holds a Wan transformer of width 48 .*not a LoRA; give it with --transformer"),
        (FULL | pair("transformer.blocks.0.attn1.to_q", *factors((48, 48), 1)), "twice"),
        ({f"{QUERY}.diff_b": torch.zeros(7)}, r"blocks\.0\.attn1\.to_q\.bias of the shape \(7,\)"),
        ({"diffusion_model.blocks.0.norm1.diff": torch.zeros(48)}, "holds nothing for"),
        (FULL | {f"{QUERY}.alpha": torch.tensor(float("nan"))}, r"to_q that are not finite"),
        ({f"{QUERY}.diff_b": torch.full((48,), float("inf"))}, r"to_q\.bias that are not finite"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_changed(tmp_path, tensors, sentence):
    file = tmp_path / "lora.safetensors"
    noted = {"fourreal": json.dumps({"conditioning": "replace", "guidance_scale": 3.0})}
    save_file({k: v.clone() for k, v in tensors.items()}, file, noted)
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=sentence) as error:
        pipe.load_lora_weights(file)
    message = str(error.value)
    assert "\n" not in message and len(message) < 330 + len(str(file)) and str(file) in message
    assert pipe.config.conditioning == "add" and pipe.config.guidance_scale == 5.0
    assert torch.equal(output(pipe.transformer), output(tiny_transformer()))
    with pytest.raises(ValueError, match=r"none\.safetensors does not exist"):
        pipe.load_lora_weights(tmp_path / "none.safetensors")
