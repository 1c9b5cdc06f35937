"""The input frames of a scene: read, written into the page, and faded over the view."""

import pytest
import torch

from fourreal import viewer
from fourreal.cli import main
from fourreal.files.media import write_video
from fourreal.formats import save_scene
from fourreal.grid import tile_views

from ..tiny import pixels, psnr
from .letters import SIZE, TIMES


@pytest.fixture
def frames() -> torch.Tensor:
    """Three views of eight times, each a colour of its own with a gradient in it."""
    r = torch.Generator().manual_seed(1)
    colors = torch.rand(3, TIMES, 3, 1, 1, generator=r) * 0.6 + 0.1
    return colors + torch.linspace(0, 0.3, 32)[None, None, None, :, None] * torch.ones(24)


def test_input_frames_are_read_from_a_video_of_tiles_without_its_empty_ones(tmp_path, frames):
    write_video(tmp_path / "grid.mp4", tile_views(frames), 8)
    tiles = viewer.read_frames(tmp_path / "grid.mp4", 3, TIMES)
    assert tiles.shape == frames.shape
    assert (tiles - frames).abs().mean() < 0.02
    with pytest.raises(ValueError, match=r"8 frames.* 9 times"):
        viewer.read_frames(tmp_path / "grid.mp4", 3, 9)


def test_input_frames_are_read_from_a_folder_of_videos_in_natural_order(tmp_path, frames):
    for view in range(3):
        write_video(tmp_path / f"view_{9 + view}.mp4", frames[view][..., :20], 8)
    views = viewer.read_frames(tmp_path, 3, TIMES)  # view_10 comes after view_9
    assert (views - frames[..., :20]).abs().mean() < 0.02
    with pytest.raises(ValueError, match=r"3 videos.* 4 input views"):
        viewer.read_frames(tmp_path, 4, TIMES)
    write_video(tmp_path / "view_10.mp4", frames[1], 8)
    with pytest.raises(ValueError, match=r"view_10.* another length or size"):
        viewer.read_frames(tmp_path, 3, TIMES)


def test_the_command_takes_the_grid_video_beside_the_scene(tmp_path, scene, frames):
    save_scene(scene, tmp_path / "scene.safetensors")
    command = ["view", str(tmp_path / "scene.safetensors"), "--html"]
    assert main([*command, str(tmp_path / "without.html")]) == 0
    write_video(tmp_path / "grid.mp4", tile_views(frames), 8)
    assert main([*command, str(tmp_path / "with.html")]) == 0
    first = f'id="part:{scene.num_views - 1}_{TIMES - 1}.jpg"'
    assert first not in (tmp_path / "without.html").read_text(encoding="utf-8")
    assert first in (tmp_path / "with.html").read_text(encoding="utf-8")


def test_frames_of_the_wrong_grid_are_refused_and_nothing_is_written(scene, tmp_path):
    with pytest.raises(ValueError, match=r"needs \[3, 8, 3, H, W\]"):
        viewer.export_html(scene, tmp_path / "x.html", torch.zeros(2, 8, 3, 4, 4))
    assert not list(tmp_path.iterdir())


def test_the_input_frame_fades_over_the_view_of_its_camera(shown, rendered):
    """The input frames of this page are negatives of what it draws."""

    def seen():
        return pixels(shown.page.screenshot())[60 : SIZE - 10]  # below what is written on it

    shown.do("fourreal.snap(1); fourreal.setTime(5)")
    with shown.another_input_frame():
        shown.set("fade", "1")
    assert psnr(seen(), 1 - rendered(1, 5)[60 : SIZE - 10]) > 30
    with shown.another_input_frame():
        shown.do("fourreal.snap(2)")
    assert psnr(seen(), 1 - rendered(2, 5)[60 : SIZE - 10]) > 30
    shown.set("fade", "0")
    assert psnr(seen(), rendered(2, 5)[60 : SIZE - 10]) > 30
