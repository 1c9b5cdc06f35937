"""The layouts in which people have Wan's parts: prefixes, names, formats, all in one file."""

import json

import pytest
import torch
from safetensors.torch import save_file

from fourreal.video.sentencepiece import load_sentencepiece
from fourreal.video.umt5 import encode_text, load_text_encoder
from fourreal.video.wan_files import load_transformer, load_vae
from fourreal.video.wan_keys import UMT5_NAMES, comfy_key, vae_to_diffusers

from ..tiny import PROMPT, key_list, tiny_transformer, tiny_vae
from .test_single_files import tiny_umt5

PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "diffusion_model.",
    "model.diffusion_model.",
    "generator.module.",
)


@pytest.fixture(scope="module")
def transformer():
    return tiny_transformer(heads=1, head_size=128)


def equal(model, expected):
    found, expected = model.state_dict(), expected.state_dict()
    return found.keys() == expected.keys() and all(
        torch.equal(found[k].float(), v.float()) for k, v in expected.items()
    )


def original_vae(vae):
    """Its tensors under the original names."""
    public = key_list("wan2.1_vae" if vae.config.z_dim == 16 else "wan2.2_vae")
    names = vae_to_diffusers({key: key for key in public})
    return {names[key]: value for key, value in vae.state_dict().items()}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("names", ["original", "diffusers"])
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_transformer_is_read_in_every_layout(tmp_path, transformer, prefix, names, ending):
    state = transformer.state_dict()
    tensors = {prefix + (comfy_key(k) if names == "original" else k): v for k, v in state.items()}
    (torch.save if ending == "pth" else save_file)(tensors, tmp_path / f"m.{ending}")
    assert equal(load_transformer(tmp_path / f"m.{ending}")[0], transformer)


@pytest.mark.parametrize("prefix", ["", "model.", "first_stage_model.", "vae."])
@pytest.mark.parametrize("names", ["original", "diffusers"])
@pytest.mark.parametrize("channels", [16, 48])
def test_a_vae_is_read_in_every_layout(tmp_path, prefix, names, channels):
    vae = tiny_vae(channels)
    state = original_vae(vae) if names == "original" else vae.state_dict()
    torch.save({prefix + k: v for k, v in state.items()}, tmp_path / "vae.pth")
    found = load_vae(tmp_path / "vae.pth")
    assert equal(found, vae)
    assert dict(found.config).items() >= {"z_dim": channels, "base_dim": 8}.items()


@pytest.mark.parametrize(("file", "stride"), [("wan2.1_vae", 8), ("wan2.2_vae", 16)])
def test_public_vaes_of_diffusers_folders_are_recognised(as_file, file, stride):
    tensors = {k: torch.empty(s, device="meta") for k, s in key_list(file).items()}
    as_file(vae_to_diffusers(tensors))
    assert load_vae("file.safetensors").config.scale_factor_spatial == stride


def wans_own_umt5(encoder):
    """Its tensors as in models_t5_umt5-xxl-enc-bf16.pth: the table of the renaming, backwards."""
    tensors = {}
    for key, value in encoder.state_dict().items():
        for theirs, name in sorted(UMT5_NAMES.items(), key=lambda pair: -len(pair[1])):
            if f".{name}" in key:
                key = key.replace(name, theirs).replace("encoder.block.", "blocks.")
                break
        key = {
            "shared.weight": "token_embedding.weight",
            "encoder.final_layer_norm.weight": "norm.weight",
        }.get(key, key)
        tensors[key] = value
    tensors.pop("encoder.embed_tokens.weight", None)
    return tensors


def wans_own_encoder(tensors, ids):
    """Second source: the encoder of Wan's own file on ids [L], by its formulas."""

    def norm(x, key):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * tensors[key]

    x, length = tensors["token_embedding.weight"][ids], len(ids)
    place = torch.arange(length)[None] - torch.arange(length)[:, None]  # key minus query
    bucket = place.abs() + 16 * (place > 0)  # below 8 apart each distance has its bucket
    assert length <= 8
    for i in range(2):
        b = f"blocks.{i}."
        y = norm(x, b + "norm1.weight")
        q, k, v = (
            (y @ tensors[f"{b}attn.{n}.weight"].T).unflatten(-1, (2, -1)).transpose(0, 1)
            for n in "qkv"
        )
        bias = tensors[b + "pos_embedding.embedding.weight"][bucket].permute(2, 0, 1)
        y = ((q @ k.mT + bias).softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + y @ tensors[b + "attn.o.weight"].T
        y = norm(x, b + "norm2.weight")
        gate = torch.nn.functional.gelu(y @ tensors[b + "ffn.gate.0.weight"].T, approximate="tanh")
        x = x + (gate * (y @ tensors[b + "ffn.fc1.weight"].T)) @ tensors[b + "ffn.fc2.weight"].T
    return norm(x, "norm.weight")


def test_wans_own_text_encoder_gives_its_own_embeddings(tmp_path, pieces):
    tensors = wans_own_umt5(tiny_umt5(330))
    torch.save(tensors, tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    (tmp_path / "google/umt5-xxl").mkdir(parents=True)
    (tmp_path / "google/umt5-xxl/spiece.model").write_bytes(pieces)
    tokenizer, encoder = load_text_encoder(tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    ids = torch.tensor([7, 50, 12, 99, 1])
    expected = wans_own_encoder(tensors, ids)
    with torch.no_grad():
        assert (encoder(ids[None]).last_hidden_state[0] - expected).abs().max() < 1e-4
        assert encode_text(tokenizer, encoder, [PROMPT]).shape == (1, 512, 32)


@pytest.mark.parametrize("layout", ["comfy", "transformers", "tied away", "whole", "stack", "own"])
@pytest.mark.parametrize("prefix", ["", "text_encoders.umt5xxl.transformer.", "text_encoder."])
def test_a_text_encoder_is_read_in_every_layout(tmp_path, pieces, layout, prefix):
    encoder = tiny_umt5(330)
    tensors = {k: v.clone() for k, v in encoder.state_dict().items()}
    if layout == "comfy":
        tensors.pop("encoder.embed_tokens.weight", None)
    elif layout == "tied away":
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    elif layout == "whole":
        tensors |= {"lm_head.weight": torch.zeros(2), "decoder.block.0.q": torch.zeros(2)}
    elif layout == "stack":
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
        tensors = {k.removeprefix("encoder."): v for k, v in tensors.items()}
    elif layout == "own":
        tensors = wans_own_umt5(encoder)
    tensors = {prefix + k: v.clone() for k, v in tensors.items()}
    first = prefix.split(".")[0] + "." if prefix else ""
    tensors[f"{first}spiece_model"] = torch.frombuffer(bytearray(pieces), dtype=torch.uint8)
    save_file(tensors, tmp_path / "text.safetensors")
    tokenizer, found = load_text_encoder(tmp_path / "text.safetensors")
    assert equal(found, encoder)
    assert tokenizer(PROMPT).input_ids == load_sentencepiece(pieces, 512)(PROMPT).input_ids


def test_each_part_is_found_in_one_file_of_all_parts(tmp_path, transformer, pieces):
    """ComfyUI's Save Checkpoint writes such files."""
    vae, encoder = tiny_vae(), tiny_umt5(330)
    start = "text_encoders.umt5xxl.transformer."
    tensors = {
        f"model.diffusion_model.{comfy_key(k)}": v for k, v in transformer.state_dict().items()
    }
    tensors |= {f"vae.{k}": v for k, v in original_vae(vae).items()}
    tensors |= {start + k: v.clone() for k, v in encoder.state_dict().items()}
    tensors["text_encoders.spiece_model"] = torch.frombuffer(bytearray(pieces), dtype=torch.uint8)
    file = tmp_path / "all.safetensors"
    save_file(tensors, file)
    assert equal(load_transformer(file)[0], transformer)
    assert equal(load_vae(file), vae)
    assert equal(load_text_encoder(file)[1], encoder)


def test_a_transformer_in_parts_is_read(tmp_path, transformer):
    """As in Wan's own folder of the 14B and 5B models; diffusers' writer makes the index."""
    transformer.save_pretrained(tmp_path / "transformer", max_shard_size="200KB")
    index = tmp_path / "transformer/diffusion_pytorch_model.safetensors.index.json"
    parts = sorted((tmp_path / "transformer").glob("*-of-*.safetensors"))
    assert len(parts) > 1
    for given in (index, parts[0], tmp_path / "transformer"):
        assert equal(load_transformer(given)[0], transformer)


@pytest.mark.parametrize(
    ("load", "tensors", "sentence"),
    [
        (
            load_vae,
            {"module.patch_embedding.weight": (8, 16, 1), "module.head.head.weight": (64, 8)},
            "holds a Wan transformer of width 8 for 16 latent channels, but a Wan 2.1 or 2.2 VAE",
        ),
        (
            load_transformer,
            {"vae.conv2.weight": (16, 1), "vae.decoder.middle.0.residual.0.gamma": 1},
            "holds the Wan 2.1 VAE, but a Wan text-to-video",
        ),
        (
            load_transformer,
            {"x.token_embedding.weight": (2, 2), "x.blocks.0.attn.q.weight": (2, 2)},
            "holds a T5 text encoder, but",
        ),
        (
            load_transformer,
            {
                "patch_embedding.weight": (8, 16),
                "condition_embedder.time_proj.weight": (8, 8),
                "proj_out.weight": (64, 8),
                "condition_embedder.image_embedder.norm1.weight": 1,
            },
            "holds a Wan image-to-video transformer",
        ),
    ],
)
def test_parts_behind_prefixes_are_called_by_what_they_are(tmp_path, load, tensors, sentence):
    save_file({k: torch.zeros(s) for k, s in tensors.items()}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=sentence):
        load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", ["config", "fourreal", "_quantization_metadata"])
@pytest.mark.parametrize("text", ["[]", "{", "null", "[" * 10**5])
def test_metadata_that_is_no_json_object_is_named(tmp_path, transformer, name, text):
    tensors = {comfy_key(k): v for k, v in transformer.state_dict().items()}
    save_file(tensors, tmp_path / "m.safetensors", {name: text})
    with pytest.raises(ValueError, match=rf"m\.safetensors has metadata \({name}\)") as error:
        load_transformer(tmp_path / "m.safetensors")
    assert "\n" not in str(error.value)


NOTE = {"num_layers": 2, "num_attention_heads": 1, "attention_head_dim": 128, "in_channels": 16}


@pytest.mark.parametrize(
    ("change", "noted", "sentence"),
    [
        ({"text_embedding.0.weight": None}, None, r"lacks text_embedding\.0\.weight"),
        ({"time_embedding.0.weight": (4,)}, None, "has sizes or settings that no Wan model has"),
        ({"patch_embedding.weight": ()}, None, "has sizes or settings that no Wan model has"),
        ({"patch_embedding.weight": (128,)}, None, "has sizes or settings that no Wan model has"),
        ({"patch_embedding.weight": (0, 16, 1, 2, 2)}, None, "sizes or settings|does not fit"),
        ({"patch_embedding.weight": (9, 16, 1, 2, 2)}, None, "sizes or settings|does not fit"),
        ({"blocks.0.ffn.0.comfy_quant": (3,)}, None, "has sizes or settings"),
        ({}, NOTE | {"num_layers": 10**9}, "notes num_layers 1000000000, which its tensors"),
        ({}, NOTE | {"num_layers": "2"}, "notes num_layers 2, which its tensors"),
        ({}, NOTE | {"rope_max_seq_len": 10**12}, "notes rope_max_seq_len"),
        ({}, NOTE | {"num_attention_heads": None}, "has sizes or settings"),
        ({}, NOTE | {"patch_size": []}, "does not fit"),
    ],
)
def test_sizes_that_cannot_be_are_one_sentence(tmp_path, transformer, change, noted, sentence):
    tensors = {comfy_key(k): v for k, v in transformer.state_dict().items()}
    tensors |= {k: v if v is None else torch.zeros(v) for k, v in change.items()}
    note = {"config": json.dumps(noted)} if noted else {}
    save_file({k: v for k, v in tensors.items() if v is not None}, tmp_path / "m.safetensors", note)
    with pytest.raises(ValueError, match=sentence) as error:
        load_transformer(tmp_path / "m.safetensors")
    message = str(error.value)
    assert "m.safetensors" in message and "\n" not in message


def test_weights_of_integers_are_refused(tmp_path, transformer):
    tensors = {comfy_key(k): v for k, v in transformer.state_dict().items()}
    tensors["blocks.0.ffn.0.weight"] = torch.zeros(64, 128, dtype=torch.int8)
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors holds blocks.*as int8, but"):
        load_transformer(tmp_path / "m.safetensors")


def test_a_lora_given_as_the_model_is_named(tmp_path):
    for key in ("diffusion_model.blocks.0.ffn.0.lora_A.weight", "lora_unet_a.lora_down.weight"):
        save_file({key: torch.zeros(2, 2)}, tmp_path / "m.safetensors")
        with pytest.raises(ValueError, match="holds a LoRA"):
            load_transformer(tmp_path / "m.safetensors")
