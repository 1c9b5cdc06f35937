"""Objects are found by the colours that captions name, white too."""

import pytest
import torch

from fourreal.metrics.objects import color_mask, shown, shown_whole
from fourreal.scenes import SceneBatch, describe, make_scene, scene_seed
from fourreal.scenes.describe import COLORS


def test_every_named_colour_is_found_where_it_is_and_hardly_any_other():
    """Masks against the exact ones of the ray-caster: of all pixels that a mask finds, most are the
    object's, and of all objects most pixels are found."""
    for index in range(8):
        description = describe(scene_seed("validation", index), 2, 5)
        scene = make_scene(scene_seed("validation", index), 2, 5)
        for number, thing in enumerate(description.things):
            mask, exact = color_mask(scene.frames, thing.color), scene.instances == number + 1
            assert (mask & exact).sum() > 0.75 * mask.sum(), (index, thing.color)
            if thing.color != "white":
                assert (mask & exact).sum() > 0.75 * exact.sum(), (index, thing.color)
        named = {thing.color for thing in description.things}
        for color in COLORS.keys() - named - {"white"}:
            assert not shown(color_mask(scene.frames, color)).any(), (index, color)


@pytest.mark.parametrize(("set_color", "whole"), [("teal", True), ("grey", False)])
def test_white_is_found_whole_before_a_coloured_set_and_lit_before_a_grey_one(set_color, whole):
    index = next(
        i
        for i in range(99)
        if [(t.color, t.motion) for t in describe(scene_seed("validation", i), 2, 2).things]
        == [("white", "orbit")]
    )
    description = describe(scene_seed("validation", index), 4, 5)
    description.floor_color = description.wall_color = set_color
    description.floor_texture = "plain"
    batch = SceneBatch([description])
    mask = color_mask(batch.draw(64, 64)[0], "white")
    exact = batch.geometry(64, 64)[1][0] > 0
    assert (mask & exact).sum() > 0.95 * mask.sum()
    share = float((mask & exact).sum() / exact.sum())
    assert share > 0.9 if whole else share < 0.9


def test_an_object_is_shown_where_enough_of_a_cell_is_its_colour():
    mask = torch.zeros(1, 3, 50, 50, dtype=torch.bool)
    mask[0, 1, :2, :5] = mask[0, 2, :2, :6] = True  # 0.4%, and more
    assert shown(mask).tolist() == [[False, False, True]]


@pytest.mark.parametrize("size", [64, 128])
def test_neutral_lines_where_two_colours_of_the_set_blend_are_not_white(size):
    frames = torch.full((1, 2, 3, size, size), 0.5)
    frames[..., 0, :, :] = 0.8  # pink
    frames[..., size // 2 : size // 2 + size // 64, :] = 0.6
    assert not color_mask(frames, "white").any()
    ball = slice(size // 4, size // 4 + size // 8)
    frames[..., ball, ball] = 0.6
    mask = color_mask(frames, "white")
    assert mask[..., ball, ball].all() and mask.sum() == 2 * (size // 8) ** 2


@pytest.mark.parametrize("size", [64, 128])
def test_an_object_is_whole_where_nothing_may_be_before_it(size):
    mask = torch.zeros(1, 3, size, size, dtype=torch.bool)
    mask[..., size // 4 : size // 2, size // 4 : size // 2] = True
    others = torch.zeros_like(mask)
    others[0, 1, :, size // 2 :] = True  # beside it
    others[0, 2, :, size // 2 + size // 16 :] = True  # not near
    assert shown_whole(mask, others).tolist() == [[True, False, True]]
    assert not shown_whole(mask.roll(size // 2, -1), others & False).any()  # at the border
