"""Small VACE models in ComfyUI's own objects, and texts that are shown videos."""

import importlib

import torch

from fourreal.video.wan_keys import comfy_key

TEXT = [[torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(n)), {}] for n in (1, 2)]
NOISE = torch.randn(3, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def comfy_vace(transformer):
    """A MODEL as core's loader makes it of a file with these weights."""
    config: dict = dict(transformer.config)
    supported = importlib.import_module("comfy.supported_models").WAN21_Vace(
        {
            "image_model": "wan2.1",
            "model_type": "vace",
            "patch_size": (1, 2, 2),
            "in_dim": config["in_channels"],
            "out_dim": config["out_channels"],
            "dim": config["num_attention_heads"] * config["attention_head_dim"],
            "num_heads": config["num_attention_heads"],
            "num_layers": config["num_layers"],
            "ffn_dim": config["ffn_dim"],
            "freq_dim": config["freq_dim"],
            "text_dim": config["text_dim"],
            "eps": config["eps"],
            "vace_layers": len(config["vace_layers"]),
            "vace_in_dim": config["vace_in_channels"],
        }
    )
    supported.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = supported.get_model({}, "", device=cpu)
    tensors = {comfy_key(k): v.clone() for k, v in transformer.state_dict().items()}
    model.diffusion_model.load_state_dict(tensors)
    return importlib.import_module("comfy.model_patcher").CoreModelPatcher(model, cpu, cpu)


def controlled(contexts: int, frames: int, views: slice = slice(None)) -> list:
    """positive and negative of 3 views that are shown several videos, or of some of the views."""
    generator = torch.Generator().manual_seed(5)
    shown = [torch.randn(3, 32, frames, 4, 4, generator=generator) for _ in range(contexts)]
    masks = [torch.rand(3, 64, frames, 4, 4, generator=generator) for _ in range(contexts)]
    values = {
        "vace_frames": [part[views] for part in shown],
        "vace_mask": [part[views] for part in masks],
        "vace_strength": [1.0, 0.6][:contexts],
    }
    return [[[text, values]] for text, _ in TEXT]


def sample(model, noise, texts, cfg=3.0):
    import comfy.sample

    return comfy.sample.sample(
        model, noise, 2, cfg, "euler", "simple", *texts, torch.zeros_like(noise), disable_pbar=True
    )
