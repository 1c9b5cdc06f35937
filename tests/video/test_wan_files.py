"""Public checkpoints: full-size key lists on the meta device, and tiny random files."""

import json

import pytest
import torch
from safetensors.torch import save_file

from fourreal.video.wan_files import (
    check_parts,
    load_transformer,
    load_vae,
    name_of,
    save_transformer,
)
from fourreal.video.wan_keys import comfy_key

from ..tiny import key_list, tiny_transformer, tiny_vace


def comfy_transformer(model):
    return {comfy_key(k): v for k, v in model.state_dict().items()}


def on_meta(file, dtype=torch.float32):
    """The tensors of a public file, without their numbers."""
    return {k: torch.empty(s, device="meta", dtype=dtype) for k, s in key_list(file).items()}


@pytest.mark.parametrize(
    ("file", "name", "width", "layout"),
    [
        ("wan2.1_t2v_1.3B", "Wan 2.1 T2V 1.3B", 1536, "plain"),
        ("wan2.1_t2v_1.3B", "Wan 2.1 T2V 1.3B", 1536, "prefix"),
        ("wan2.1_t2v_1.3B", "Wan 2.1 T2V 1.3B", 1536, "fp8_scaled"),
        ("wan2.1_t2v_14B", "Wan 2.1 T2V 14B", 5120, "plain"),
        ("wan2.1_t2v_14B", "Wan 2.1 T2V 14B", 5120, "prefix"),
        ("wan2.2_ti2v_5B", "Wan 2.2 TI2V 5B", 3072, "plain"),
        ("wan2.2_ti2v_5B", "Wan 2.2 TI2V 5B", 3072, "prefix"),
        ("wan2.2_ti2v_5B", "Wan 2.2 TI2V 5B", 3072, "fp8_scaled"),
        ("wan2.1_vace_1.3B", "Wan 2.1 VACE 1.3B", 1536, "plain"),
        ("wan2.1_vace_1.3B", "Wan 2.1 VACE 1.3B", 1536, "prefix"),
        ("wan2.1_vace_1.3B", "Wan 2.1 VACE 1.3B", 1536, "fp8_scaled"),
        ("wan2.1_vace_14B", "Wan VACE 14B", 5120, "plain"),
        ("wan2.1_vace_14B", "Wan VACE 14B", 5120, "fp8_scaled"),
    ],
)
def test_public_transformers_are_recognised_and_no_key_is_left(as_file, file, name, width, layout):
    tensors = on_meta(file, torch.float16)
    count = len(tensors)
    if layout == "prefix":
        tensors = {f"model.diffusion_model.{key}": value for key, value in tensors.items()}
    elif layout == "fp8_scaled":
        for key in [key for key in tensors if key.endswith(".self_attn.q.weight")]:
            tensors[key] = tensors[key].to(torch.float8_e4m3fn)
            tensors[key.replace(".weight", ".scale_weight")] = torch.empty((), device="meta")
        tensors["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
    as_file(tensors)
    model, settings = load_transformer("file.safetensors")
    assert name_of(model) == name and settings == {}
    assert len(model.state_dict()) == count
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())  # rotary tables are in no file
    query = model.blocks[0].attn1.to_q.weight
    assert query.shape == (width, width)
    assert query.dtype == (torch.bfloat16 if layout == "fp8_scaled" else torch.float16)
    assert model.scale_shift_table.dtype == torch.float32  # as from_pretrained keeps it
    if "vace" in file:  # of diffusers' conversion script
        step = {1536: 2, 5120: 5}[width]
        assert model.config.vace_layers == list(range(0, len(model.blocks), step))
        assert model.config.vace_in_channels == 96


@pytest.mark.parametrize(
    ("file", "channels", "stride"), [("wan2.1_vae", 16, 8), ("wan2.2_vae", 48, 16)]
)
def test_public_vaes_are_recognised_and_no_key_is_left(as_file, file, channels, stride):
    as_file(on_meta(file))
    vae = load_vae("file.safetensors")
    assert len(vae.state_dict()) == len(key_list(file)) and vae.config.z_dim == channels
    assert vae.config.scale_factor_spatial == stride
    assert len(vae.config.latents_mean) == len(vae.config.latents_std) == channels


@pytest.mark.parametrize("file", ["wan2.1_vace_1.3B", "wan2.1_vace_14B"])
def test_a_vace_model_with_the_vae_of_the_5b_is_refused_by_both_names(as_file, file):
    as_file(on_meta(file))
    transformer, _ = load_transformer("vace.safetensors")
    as_file(on_meta("wan2.2_vae"))
    vae = load_vae("vae.safetensors")
    words = r"VACE (1\.3B|14B), which needs the Wan 2\.1 VAE, but the Wan 2\.2 VAE was given\."
    with pytest.raises(ValueError, match=words) as error:
        check_parts(transformer, vae)
    assert "\n" not in str(error.value)


def test_a_vae_of_the_wrong_base_is_refused_by_both_names(as_file):
    as_file(on_meta("wan2.2_ti2v_5B"))
    transformer, _ = load_transformer("ti2v.safetensors")
    as_file(on_meta("wan2.1_vae"))
    vae = load_vae("vae.safetensors")
    with pytest.raises(ValueError, match=r"Wan 2\.2 TI2V 5B.*Wan 2\.2 VAE.*Wan 2\.1 VAE was given"):
        check_parts(transformer, vae)
    with pytest.raises(
        ValueError, match=r"vae\.safetensors holds the Wan 2\.1 VAE, but a Wan text"
    ):
        load_transformer("vae.safetensors")


@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale"])
def test_fp8_scaled_weights_are_value_times_scale(tmp_path, scale_name):
    model = tiny_transformer()
    tensors = comfy_transformer(model)
    key = "blocks.1.ffn.0.weight"
    scale = tensors[key].abs().max() / 448
    stored = (tensors[key] / scale).to(torch.float8_e4m3fn)
    tensors |= {key: stored, key.replace("weight", scale_name): scale}
    if scale_name == "scale_weight":
        tensors["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    else:
        note = json.dumps({"format": "float8_e4m3fn"}).encode()
        tensors[key.replace("weight", "comfy_quant")] = torch.tensor(list(note), dtype=torch.uint8)
    config = {"config": json.dumps(dict(model.config)), "fourreal": "{}"}
    save_file(tensors, tmp_path / "model.safetensors", config)
    weight = load_transformer(tmp_path / "model.safetensors", torch.float32)[0].state_dict()[
        "blocks.1.ffn.net.0.proj.weight"
    ]
    # e4m3 by hand: sign, 4 exponent bits of bias 7, 3 mantissa bits.
    bits = stored.view(torch.uint8).int()
    exponent, mantissa = (bits >> 3) & 15, bits & 7
    normal = 2.0 ** (exponent - 7) * (1 + mantissa / 8)
    number = torch.where(exponent > 0, normal, 2.0**-6 * mantissa / 8) * (1 - 2.0 * (bits >> 7))
    assert torch.equal(weight, number * scale)
    assert (weight - model.blocks[1].ffn.net[0].proj.weight).abs().max() < 0.07 * 448 * scale


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"a": 1}, r"holds tensors named a, but a Wan text-to-video or VACE tran"),
        ({"patch_embedding.weight": (8, 36), "head.head.weight": (64, 8)}, "36 input channels"),
        (
            {"patch_embedding.weight": (8, 16), "head.head.weight": (64, 8), "img_emb.0": 1},
            "holds a Wan image-to-video transformer",
        ),
        (
            {"patch_embedding.weight": (8, 16), "head.head.weight": (64, 8), "vace_blocks.0": 1},
            "lacks text_embedding.0.weight",
        ),
        (
            {"vace_blocks.0.after_proj.weight": (8, 8)},
            "holds the VACE blocks of a transformer without the transformer",
        ),
    ],
)
def test_other_files_are_called_by_what_they_are(tmp_path, tensors, sentence):
    file = tmp_path / "model.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, file)
    with pytest.raises(ValueError, match=sentence) as error:
        load_transformer(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"blocks.1.ffn.0.bias": None}, r"1 keys are missing \(blocks\.1\.ffn\.net\.0\.proj\.bias"),
        ({"blocks.1.extra": torch.zeros(1)}, r"1 unknown \(blocks\.1\.extra\)"),
        ({"blocks.0.ffn.0.bias": torch.zeros(3)}, r"shape \(3,\), but \(64,\) is needed"),
        (
            {
                "blocks.0.ffn.0.comfy_quant": torch.tensor(
                    list(b'{"format": "nvfp4"}'), dtype=torch.uint8
                )
            },
            "quantised as nvfp4",
        ),
    ],
)
def test_what_does_not_fit_a_transformer_is_named(tmp_path, change, sentence):
    tensors = comfy_transformer(tiny_transformer(heads=1, head_size=128)) | change
    file = tmp_path / "model.safetensors"
    save_file({key: value for key, value in tensors.items() if value is not None}, file)
    with pytest.raises(ValueError, match=sentence) as error:
        load_transformer(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [tiny_transformer, tiny_vace])
def test_a_saved_transformer_comes_back_in_half_precision_with_its_settings(tmp_path, make):
    model, path = make(), tmp_path / "model.safetensors"
    settings = {"conditioning": "add", "grid": [2, 5]}
    save_transformer(path, model.state_dict(), model.config, settings)
    again, noted = load_transformer(path, torch.float32)
    assert noted == settings and dict(again.config).items() >= {"text_dim": 32}.items()
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.half().float()), key
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a complete \.safetensors"):
        load_transformer(path)
