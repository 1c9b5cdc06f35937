"""Small models, Gaussians, images and reference numbers that several tests share."""

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from fourreal.gaussians import Gaussians
from fourreal.reconstruction import VGGT, VGGTConfig

FIXTURES = Path(__file__).with_name("fixtures")


def key_list(name: str) -> dict[str, list[int]]:
    """Every key and shape of a full-size public file (see fixtures/README.md)."""
    return json.loads((FIXTURES / "keys" / f"{name}.json").read_text())


@cache
def fixture(name: str) -> tuple[dict, dict, dict, str]:
    """weights, inputs, outputs and the config's JSON."""
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        groups = [
            {key[len(p) :]: file.get_tensor(key) for key in file.keys() if key.startswith(p)}  # noqa: SIM118
            for p in ("weights.", "inputs.", "outputs.")
        ]
        return *groups, file.metadata()["config"]


def assert_close(ours, reference, limit=1e-4):
    assert ours.shape == reference.shape
    assert reference.abs().max() > 0
    assert (ours - reference).abs().max() / reference.abs().max() < limit


def tiny_config(**changes) -> VGGTConfig:
    sizes = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 4,
        "num_heads": 4,
        "dino_depth": 1,
        "dino_num_heads": 4,
        "dpt_features": 8,
        "dpt_out_channels": (8, 8, 8, 8),
        "intermediate_layers": (0, 1, 2, 3),
        "camera_head_num_heads": 4,
        "layer_scale_init": 1.0,
    }
    return VGGTConfig(**(sizes | changes))


def tiny_model(**changes) -> VGGT:
    torch.manual_seed(0)
    return VGGT(tiny_config(**changes)).eval()


def open_temporal_gates(model: VGGT) -> VGGT:
    with torch.no_grad():
        for block in model.aggregator.temporal_blocks:
            block.ls1.gamma.fill_(1.0)
            block.ls2.gamma.fill_(1.0)
    return model


def cloud(count=50, degree=1, seed=0):
    r = torch.Generator().manual_seed(seed)
    return Gaussians(
        torch.randn(count, 3, generator=r),
        torch.nn.functional.normalize(torch.randn(count, 4, generator=r), dim=-1),
        torch.rand(count, 3, generator=r) * 0.1 + 0.001,
        torch.rand(count, generator=r),
        torch.rand(count, (degree + 1) ** 2, 3, generator=r) * 1.6 - 0.8,
    )


def pixels(file: bytes) -> np.ndarray:
    """An image file as [H, W, 3] in [0, 1]."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), dtype=np.float32) / 255


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))
