"""Carry References: what the library makes of the images, and what it refuses."""

from types import SimpleNamespace

import pytest
import torch

from fourreal.carry import carry_first_time, carry_references
from fourreal.grid import frames_to_images
from fourreal.scenes import make_scene, scene_seed
from fourreal.warp import reference_cells

VIEWS, TIMES, SIZE = 2, 3, 32


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("validation", 1), VIEWS, TIMES, SIZE, SIZE)


def knowing(scene):
    """A reconstructor that knows the scene."""

    def reconstructor(frames, progress, **_):
        progress(TIMES, TIMES)
        return SimpleNamespace(**{k: getattr(scene, k) for k in ("depth", *CAMERAS)})

    return reconstructor


CAMERAS = ("extrinsics", "intrinsics")


@pytest.mark.parametrize(
    "names", [("fixed_view",), ("freeze_time",), ("fixed_view", "freeze_time")]
)
def test_the_grid_gets_what_the_references_show(nodes, scene, names):
    soft = (0.9 * scene.frames + 0.05).clamp(0, 1)
    cells = {"fixed_view": scene.frames[0], "freeze_time": scene.frames[:, 0]}
    given = {name: cells[name] for name in names}
    images = {name: frames.movedim(1, -1) for name, frames in given.items()}
    found = nodes.CarryReferences.execute(
        knowing(scene), frames_to_images(soft), VIEWS, **images
    ).args
    references = reference_cells((VIEWS, TIMES, SIZE, SIZE), **given)
    reconstructor = knowing(scene)
    wanted, _ = carry_references(reconstructor, soft, references, progress=lambda *_: None)
    torch.testing.assert_close(found[0], frames_to_images(wanted))
    assert found[1].shape == (VIEWS, 4, 4)
    assert torch.equal(found[1][:, :3], scene.extrinsics)
    assert torch.equal(found[2], scene.intrinsics)


def test_its_own_first_time_and_even_cameras_make_of_text_what_generate_makes(nodes, scene):
    asked = []

    def reconstructor(frames, cameras, **options):
        asked.append(cameras)
        return knowing(scene)(frames, **options)

    soft = (0.9 * scene.frames + 0.05).clamp(0, 1)
    images = frames_to_images(soft)
    first = nodes.PickTime.execute(images, VIEWS, 0).args[0]
    make = nodes.CarryReferences.execute
    found = make(reconstructor, images, VIEWS, freeze_time=first, cameras="even").args
    wanted, _ = carry_first_time(reconstructor, soft)
    torch.testing.assert_close(found[0], frames_to_images(wanted))
    make(reconstructor, images, VIEWS, freeze_time=first)  # as older workflows have it
    assert asked == ["even", "even", "first"]


def test_a_larger_and_longer_video_is_fitted_to_the_grid(nodes, scene):
    images, make = frames_to_images(scene.frames), nodes.CarryReferences.execute
    row = frames_to_images(scene.frames[:1])
    plain = make(knowing(scene), images, VIEWS, fixed_view=row).args
    larger = row.repeat_interleave(2, 1).repeat_interleave(2, 2)
    fitted = make(knowing(scene), images, VIEWS, fixed_view=torch.cat([larger, larger])).args
    assert fitted[0].shape == plain[0].shape
    assert (fitted[0] - plain[0]).abs().mean() < 0.005  # what enlarging and shrinking leave


def test_without_references_and_of_another_size_it_says_what_to_connect(nodes, scene):
    images, make = frames_to_images(scene.frames), nodes.CarryReferences.execute
    with pytest.raises(ValueError, match="connect fixed_view, freeze_time or both"):
        make(knowing(scene), images, VIEWS)
    with pytest.raises(ValueError, match="fixed_view has 2 images of 32 x 32 pixels"):
        make(knowing(scene), images, VIEWS, fixed_view=torch.zeros(2, SIZE, SIZE, 3))
    with pytest.raises(ValueError, match="freeze_time has 3 images of 32 x 32 pixels"):
        make(knowing(scene), images, VIEWS, freeze_time=torch.zeros(3, 48, 48, 4))
    with pytest.raises(ValueError, match="4 views"):
        make(knowing(scene), images, 4)
