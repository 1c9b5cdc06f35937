"""ViewTimePipeline.from_single_files against the same weights in diffusers' own folder."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from fourreal.video import ViewTimePipeline
from fourreal.video.sentencepiece import load_sentencepiece
from fourreal.video.wan_keys import comfy_key, vae_to_diffusers

from ..tiny import key_list, sample_grid, tiny_transformer, tiny_vae


def tiny_umt5(vocabulary):
    torch.manual_seed(2)
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return UMT5EncoderModel(config).eval()


def write_single_files(folder, transformer, vae, encoder, pieces):
    """The files as ComfyUI has them, under the names of the public lists."""
    names = {"dit": {f"model.diffusion_model.{comfy_key(k)}": v for k, v in transformer.items()}}
    public = key_list("wan2.1_vae" if vae["quant_conv.bias"].shape[0] == 32 else "wan2.2_vae")
    names["vae"] = {
        key: vae[name] for name, key in vae_to_diffusers({k: k for k in public}).items()
    }
    names["text"] = {k: v for k, v in encoder.items() if k != "encoder.embed_tokens.weight"}
    names["text"]["spiece_model"] = torch.frombuffer(bytearray(pieces), dtype=torch.uint8)
    for name, tensors in names.items():
        save_file(tensors, folder / f"{name}.safetensors")
    return [folder / f"{name}.safetensors" for name in names]


@pytest.mark.parametrize(
    ("channels", "conditioning", "max_frames"), [(16, "add", 21), (48, "replace", 31)]
)
def test_single_files_and_a_diffusers_folder_give_the_same_latents(
    tmp_path, pieces, channels, conditioning, max_frames
):
    """The folder is written by diffusers' own pipeline of Wan."""
    tokenizer = load_sentencepiece(pieces, 512)
    encoder = tiny_umt5(len(tokenizer))
    transformer, vae = tiny_transformer(channels, heads=1, head_size=128), tiny_vae(channels)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock = WanPipeline(tokenizer, encoder, vae, scheduler, transformer)
    stock.save_pretrained(tmp_path / "folder")
    parts = (part.state_dict() for part in (transformer, vae, encoder))
    folder = ViewTimePipeline.from_pretrained(tmp_path / "folder")
    files = ViewTimePipeline.from_single_files(*write_single_files(tmp_path, *parts, pieces))
    assert isinstance(files.scheduler, UniPCMultistepScheduler)
    assert files.scheduler.config.flow_shift == (3.0 if channels == 16 else 5.0)
    files.scheduler = folder.scheduler
    for pipe in (folder, files):
        pipe.set_progress_bar_config(disable=True)
        assert pipe.config.conditioning == conditioning and pipe.config.max_frames == max_frames
    size = files.spatial_stride * 4
    row = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(3))
    options = {"height": size, "width": size, "fixed_view": row, "guidance_scale": 2.0}
    latents = [sample_grid(pipe, output_type="latent", **options) for pipe in (folder, files)]
    assert latents[0].shape == (2, channels, 2, 4, 4)
    assert (latents[0] - latents[1]).abs().max() <= 1e-5
    decoded = [pipe.decode_views(latents[0]) for pipe in (folder, files)]
    assert torch.allclose(*decoded, atol=1e-5)
