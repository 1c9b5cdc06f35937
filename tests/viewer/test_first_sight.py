"""What a stranger sees first: an input camera's picture, whole, with nothing torn around it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fourreal import viewer, weights
from fourreal.reconstruction import Reconstructor
from fourreal.scenes import make_scene

from .letters import SIZE
from .shown_page import ShownPage

SIZES = [(420, 480), (900, 600), (1600, 500)]


@pytest.fixture(scope="module")
def grid() -> torch.Tensor:
    """Four synchronised videos of one moment, as in the workflow multi_view_video_to_splats."""
    return make_scene(11, num_views=8, num_frames=5).frames[[0, 2, 5, 7], :1]


@pytest.fixture(scope="module")
def room(grid, tmp_path_factory):
    """The page with the scene that the embedded reconstructor makes of them."""
    reconstructor = Reconstructor.from_file(weights.folder() / "reconstructor.safetensors")
    with torch.no_grad():
        scene = reconstructor(grid, fps=8.0).scene
    path = tmp_path_factory.mktemp("room") / "room.html"
    viewer.export_html(scene, path)
    return path


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_picture_is_whole_and_letterboxed(browser, room, grid, width, height):
    """Along all four borders it shows what the input frame does; around it is the background."""
    shown = ShownPage(browser, room.as_uri(), (width, height))
    image = shown.image()
    shown.keep(f"first_sight_{width}")
    rows, columns = image.shape[:2]
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    picture = image[top : top + side, left : left + side]
    inside = np.zeros((rows, columns), bool)
    inside[top - (side < rows) : top + side + 1, left - (side < columns) : left + side + 1] = True
    assert (image[~inside] == 0).all()
    frame = F.interpolate(grid[0, :1], (side, side), mode="bilinear")[0].movedim(0, -1).numpy()
    strip = slice(2, 6)
    for turned in range(4):
        seen, wanted = (np.rot90(x, turned)[strip, 2:-2] for x in (picture, frame))
        apart = np.abs(seen - wanted)
        assert apart.mean() < 0.06
        assert apart.max(-1).mean(0).max() < 0.25  # no tooth of black in it
    assert shown.views() == ["1"]
    assert shown.errors == []
    shown.page.close()


def colored(image: np.ndarray) -> np.ndarray:
    """Where the red letter is, [H, W]."""
    return (image[..., 0] > 0.5) & (image[..., 1] < 0.4) & (image[..., 2] < 0.4)


@pytest.mark.parametrize(("dx", "dy"), [(120, 0), (-120, 0), (0, 120), (0, -120), (85, 85)])
def test_a_drag_of_120_pixels_turns_gently_and_keeps_the_object_in_sight(shown, dx, dy):
    shown.do("fourreal.snap(0); fourreal.setTime(0)")
    shown.set("fov", "45")  # leaves the picture for the window
    before = colored(shown.image()).sum()
    turned_from = np.array(shown.page.evaluate("fourreal.camera.state.quaternion"))
    x, y = (SIZE - dx) / 2, (SIZE - dy) / 2
    shown.drag((x, y), (x + dx, y + dy))
    shown.keep(f"drag_{dx}_{dy}")
    turned_to = np.array(shown.page.evaluate("fourreal.camera.state.quaternion"))
    angle = np.degrees(2 * np.arccos(min(1, abs(turned_from @ turned_to))))
    assert 3 < angle <= 45
    assert colored(shown.image()).sum() > 0.5 * before
    shown.do("fourreal.snap(0)")
