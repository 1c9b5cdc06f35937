"""Parallax: exact views have it, still pictures and shifted views do not."""

import math

import pytest
import torch

from fourreal.metrics.parallax import Parallax
from fourreal.neighborhoods import blurred
from fourreal.scenes import make_scene, scene_seed


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("validation", 2), 4, 3)


@pytest.fixture(scope="module")
def parallax(scene):
    return Parallax(scene.frames, scene.depth, scene.extrinsics, scene.intrinsics)


def test_exact_views_have_their_parallax_and_blur_tells_less_of_it(scene, parallax):
    exact = parallax.score(scene.frames)
    assert exact == {"parallax_right": 1, "parallax_error": 0}
    found = [parallax.score(blurred(scene.frames, sigma)) for sigma in (1.0, 2.0)]
    errors = [0, *(f["parallax_error"] for f in found)]
    assert errors == sorted(errors) and errors[1] > 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x[:1].expand_as(x),  # one view everywhere
        lambda x: x.mean((0, 1), keepdim=True).expand_as(x),
        lambda x: x.flip(0),
        lambda x: torch.full_like(x, 0.5),
    ],
)
def test_views_without_parallax_are_worse_than_any_blur(scene, parallax, wrong):
    worst = parallax.score(blurred(scene.frames, 2.0))
    found = parallax.score(wrong(scene.frames))
    assert found["parallax_error"] > worst["parallax_error"] + 0.5
    assert found["parallax_right"] < worst["parallax_right"] - 0.2


def test_a_view_that_is_shifted_is_found_as_far_off(scene, parallax):
    shifted = scene.frames.clone()
    shifted[1::2] = shifted[1::2].roll(2, -1)
    assert parallax.score(shifted)["parallax_error"] == pytest.approx(2, abs=0.5)


def test_a_flat_scene_tells_nothing(scene):
    flat = Parallax(
        torch.full_like(scene.frames, 0.5), scene.depth, scene.extrinsics, scene.intrinsics
    )
    told = flat.score(scene.frames)
    assert all(map(math.isnan, told.values())) or told["parallax_error"] < 2
