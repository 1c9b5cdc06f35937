"""The embedded VACE is a VACE file like the public ones, small, with the grid's conventions."""

import json
import re

import pytest
import torch
from safetensors import safe_open

from fourreal import weights
from fourreal.video import load_embedded_pipeline

from ..tiny import key_list

FILE = weights.folder() / "vace.safetensors"


def kinds(keys) -> set[str]:
    """The keys with N for the number of a block."""
    return {re.sub(r"\.\d+\.", ".N.", key, count=1) for key in keys}


def test_its_keys_are_those_of_public_vace_files():
    with safe_open(FILE, "pt") as file:
        keys, metadata = set(file.keys()), file.metadata()
        types = {file.get_slice(key).get_dtype() for key in keys}
    assert kinds(keys) == kinds(key_list("wan2.1_vace_1.3B")) and types == {"F16"}
    config = json.loads(metadata["config"])
    assert config["vace_layers"] == [0, 2, 4] and config["vace_in_channels"] == 96
    assert json.loads(metadata["fourreal"])["conditioning"] == "mask"


def test_the_embedded_models_stay_small():
    sizes = [path.stat().st_size for path in weights.folder().glob("*.safetensors")]
    assert len(sizes) == 5 and sum(sizes) <= 64e6


def test_what_it_is_shown_comes_back_and_a_hole_is_filled_from_the_other_view():
    pipe = load_embedded_pipeline(transformer=FILE)
    pipe.set_progress_bar_config(disable=True)
    video = torch.full((2, 5, 3, 64, 64), 0.6)
    video[..., 32:, :] = torch.tensor([0.5, 0.37, 0.26])[:, None, None]  # a floor before a wall
    mask = torch.zeros(2, 5, 1, 64, 64)
    mask[1, :, :, 16:48, 16:48] = 1
    options = {"num_views": 2, "num_frames": 5, "height": 64, "width": 64}
    options |= {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    shown = torch.where(mask > 0.5, 0.5, video)
    filled = pipe("a box", video=shown, mask=mask, **options).frames
    error = (filled - video).square()
    known = error[(mask < 0.5).expand_as(error)].mean()
    hole = error[(mask > 0.5).expand_as(error)].mean()
    assert -10 * known.log10() > 20 and -10 * hole.log10() > 20
    grey = (shown - video).square()[(mask > 0.5).expand_as(error)].mean()
    assert hole < 0.5 * grey


@pytest.mark.parametrize("name", ["transformer", "vace"])
def test_both_transformers_go_with_the_same_other_parts(name):
    pipe = load_embedded_pipeline(transformer=weights.folder() / f"{name}.safetensors")
    assert pipe.config.conditioning == {"transformer": "replace", "vace": "mask"}[name]
