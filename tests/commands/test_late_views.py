"""Cameras that did not start together are told before a reconstruction, with the right offsets."""

import logging
from types import SimpleNamespace

import pytest
import torch

from fourreal.cli import main
from fourreal.commands import late_views
from fourreal.commands.late_views import seconds_late, tell_late_views
from fourreal.files.media import write_video
from fourreal.reconstruction import Reconstructor, save_model

from ..reconstruction.test_synchrony import SIZE, TIMES, exact_tracks
from ..tiny import TRACKER, tiny_model

FILES = ("a.mp4", "b.mp4", "c.mp4")


class Following(Reconstructor):
    """A reconstructor that follows points exactly, through views that are late by some frames."""

    def __init__(self, offsets):
        super().__init__(tiny_model(**TRACKER))
        self.offsets, self.asked = offsets, None

    def track(self, frames, points, view=0, time=0, progress=None, **_):
        self.asked = SimpleNamespace(frames=frames, points=points, view=view, time=time)
        tracks = exact_tracks(0, self.offsets)
        return tracks._replace(positions=tracks.positions * min(frames.shape[-2:]) / SIZE)


def test_offsets_are_told_in_seconds_as_the_option_takes_them(caplog):
    frames = torch.rand(3, TIMES, 3, 40, 48)
    with caplog.at_level(logging.WARNING):
        tell_late_views(Following((0, 3, -2)), frames, 8.0, FILES, None)
    (said,) = caplog.messages
    assert "what a.mp4 shows comes in b.mp4 0.38 s later, in c.mp4 0.25 s earlier;" in said
    assert said.endswith("run again with --offsets 0 0.375 -0.25.") and "\n" not in said


def test_offsets_that_were_given_are_counted_in_and_right_ones_are_not_spoken_of(caplog):
    frames = torch.rand(3, TIMES, 3, 40, 48)
    with caplog.at_level(logging.WARNING):
        tell_late_views(Following((0, 3, 0)), frames, 8.0, FILES, [0.0, 1.0, 2.0])
        tell_late_views(Following((0, 0, 0)), frames, 8.0, FILES, [0.0, 1.0, 2.0])
    (said,) = caplog.messages
    assert "c.mp4" not in said and said.endswith("--offsets 0 1.38 2.")


def test_long_videos_are_looked_at_in_steps(monkeypatch):
    monkeypatch.setattr(late_views, "TIMES", TIMES)
    follower = Following((0, 3, 0))
    frames = torch.rand(3, 3 * TIMES - 1, 3, 40, 48)
    assert seconds_late(follower, frames, 24.0) == [0, 3 * 3 / 24, 0]
    assert torch.equal(follower.asked.frames, frames[:, ::3])
    assert (follower.asked.view, follower.asked.time) == (0, TIMES // 2)


@pytest.mark.parametrize(
    "views,times,head",
    [
        (1, TIMES, {"smallest_side": 8}),
        (3, 5, {"smallest_side": 8}),
        (3, TIMES, {"smallest_side": 128}),
        (3, TIMES, None),
    ],
    ids=["one view", "few times", "small frames", "no head"],
)
def test_where_nothing_can_be_told_nothing_is_followed(views, times, head):
    follower = Following((0, 3, 0))
    follower.track_head = SimpleNamespace(**head) if head else None
    assert seconds_late(follower, torch.rand(views, times, 3, 40, 48), 8.0) == [0.0] * views
    assert follower.asked is None


def test_reconstruct_compares_clocks_where_it_can_and_can_be_told_not_to(
    tmp_path, monkeypatch, caplog
):
    for name in ("a", "b"):
        write_video(tmp_path / "in" / f"{name}.mp4", torch.rand(8, 3, 32, 48), 8)
    save_model(tiny_model(**TRACKER), tmp_path / "vggt.safetensors")
    seen = []

    def late(reconstructor, frames, rate):
        seen.append((tuple(frames.shape), rate))
        return [0.0, 0.5]

    monkeypatch.setattr(late_views, "seconds_late", late)
    line = ["reconstruct", str(tmp_path / "in"), "--orbit-size", "16", "--no-adjust", "--out"]
    head = ["--reconstructor", str(tmp_path / "vggt.safetensors")]
    with caplog.at_level(logging.WARNING):
        assert main([*line, str(tmp_path / "o1"), *head]) == 0
        assert main([*line, str(tmp_path / "o2"), *head, "--no-check-synchrony"]) == 0
        assert main([*line, str(tmp_path / "o3")]) == 0  # the embedded one has no track head
    assert seen == [((2, 8, 3, 32, 48), 8.0)]
    assert sum("--offsets 0 0.5." in message for message in caplog.messages) == 1
