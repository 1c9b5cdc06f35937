"""Videos of several cameras: the same moment in each column."""

import numpy as np
import pytest
import torch

from fourreal.files.media import read_synchronised, view_files, write_image, write_video

from .made_videos import grey, make_video


def camera(path, rate=8, count=12, begin=0, size=(48, 64)):
    """A video whose frame k has the grey 8 per 1/8 s since the common beginning."""
    return make_video(
        path, [grey(round(40 + 64 * (begin + k / rate)), *size) for k in range(count)], rate
    )


def moments(grid):
    return (grid.mean((2, 3, 4)) * 255).round().numpy()


def test_cameras_of_one_rate_come_as_a_grid(tmp_path):
    paths = [camera(tmp_path / f"{v}.mp4") for v in range(3)]
    grid, rate = read_synchronised(paths, max_frames=5)
    assert grid.shape == (3, 5, 3, 48, 64) and rate == 8
    assert np.allclose(moments(grid), 40 + 8 * np.arange(5), atol=2)


@pytest.mark.parametrize("rates", [(30, 60), (24, 25), (8, 12)])
def test_cameras_of_other_rates_are_refused_or_resampled(tmp_path, rates):
    paths = [camera(tmp_path / f"cam{r}.mp4", r, 12) for r in rates]
    with pytest.raises(ValueError, match=rf"cam{rates[1]}\.mp4 has {rates[1]} .*{rates[0]}; cam"):
        read_synchronised(paths)
    grid, rate = read_synchronised(paths, fps=6, trim=True)
    assert rate == 6
    expected = 40 + 64 * np.arange(grid.shape[1]) / 6
    assert np.allclose(moments(grid), expected, atol=64 / min(rates) / 2 + 2)


def test_cameras_that_started_at_other_moments_are_brought_together(tmp_path, caplog):
    begins = (0, -0.5, -0.25)  # seconds of the common clock at which each began
    paths = [camera(tmp_path / f"{v}.mp4", begin=b) for v, b in enumerate(begins)]
    for offsets in ((0, 0.5, 0.25), (-0.5, 0, -0.25)):
        grid, _ = read_synchronised(paths, offsets=offsets)
        assert grid.shape[:2] == (3, 8)
        assert np.allclose(moments(grid), 40 + 8 * np.arange(8), atol=2)
    grid, _ = read_synchronised(paths, offsets=(0, 0.5, 0.25), max_frames=3, fps=4)
    assert np.allclose(moments(grid), 40 + 16 * np.arange(3), atol=2)
    for offsets in ((0, 1), (0, 1, float("nan"))):
        with pytest.raises(ValueError, match="offsets"):
            read_synchronised(paths, offsets=offsets)
    with pytest.raises(ValueError, match=r"1\.mp4 .* ends before 9 s"):
        read_synchronised(paths, offsets=(0, 9, 0))


def test_other_lengths_and_sizes_are_named(tmp_path):
    whole, short = camera(tmp_path / "a.mp4"), camera(tmp_path / "b.mp4", count=7)
    with pytest.raises(ValueError, match=r"b\.mp4 has 7 frames of 48 x 64, but .*a\.mp4 has 12"):
        read_synchronised([whole, short])
    assert read_synchronised([whole, short], trim=True)[0].shape[:2] == (2, 7)
    small = camera(tmp_path / "c.mp4", size=(32, 64))
    with pytest.raises(ValueError, match=r"c\.mp4 has 12 frames of 32 x 64"):
        read_synchronised([whole, small], trim=True)
    assert read_synchronised([whole, small], fit=(16, 16))[0].shape == (2, 12, 3, 16, 16)


def test_a_folder_gives_its_videos_in_natural_order(tmp_path):
    for v in (10, 2, 1):
        write_video(tmp_path / f"cam{v}.mp4", torch.full((2, 3, 16, 16), v / 20), 8)
    (tmp_path / "._cam1.mp4").write_bytes(b"\0\5\26\7")  # macOS's
    (tmp_path / ".cam3.mp4").write_bytes(b"")
    paths = view_files([tmp_path])
    assert [p.name for p in paths] == ["cam1.mp4", "cam2.mp4", "cam10.mp4"]
    grid, _ = read_synchronised(paths)
    assert torch.allclose(grid.mean((1, 2, 3, 4)), torch.tensor([1, 2, 10]) / 20, atol=0.01)


def test_a_photo_beside_videos_is_told_by_its_one_frame(tmp_path):
    paths = [tmp_path / "a.png", camera(tmp_path / "b.mp4"), camera(tmp_path / "c.mp4")]
    write_image(paths[0], torch.zeros(3, 48, 64))
    with pytest.raises(ValueError, match=r"b\.mp4 has 12 frames of 48 x 64, but .*a\.png has 1 of"):
        read_synchronised(paths)
    grid, rate = read_synchronised(paths, max_frames=1)
    assert grid.shape == (3, 1, 3, 48, 64) and rate == 25  # of what has one frame
    assert read_synchronised(paths, trim=True)[1] == 8


def test_photos_are_views_of_one_frame(tmp_path):
    for v in (10, 2):
        write_image(tmp_path / f"{v}.png", torch.full((3, 16, 24), v / 20))
    grid, _ = read_synchronised(view_files([tmp_path]))
    assert grid.shape == (2, 1, 3, 16, 24)
    assert torch.allclose(grid.mean((1, 2, 3, 4)), torch.tensor([2, 10]) / 20, atol=0.01)
    (tmp_path / "empty").mkdir()
    for inputs in ([], [tmp_path / "empty"]):
        with pytest.raises(ValueError, match="holds"):
            view_files(inputs)


@pytest.mark.parametrize(
    ("length", "size", "trim", "advice"),
    [
        (7, (48, 64), False, "of equal length (--trim cuts them to the shortest)."),
        (
            12,
            (24, 32),
            False,
            "of equal size (scale them to one: ffmpeg -i {b} -vf scale=64:48 {c}).",
        ),
        (
            7,
            (24, 32),
            True,
            "of equal size (scale them to one: ffmpeg -i {b} -vf scale=64:48 {c}).",
        ),
        (
            *(7, (24, 64), False),
            "of equal length and size (--trim cuts them to the shortest; scale them to one: ffmpeg "
            "-i {b} -vf scale=64:48:force_original_aspect_ratio=increase,crop=64:48 {c}).",
        ),
    ],
)
def test_what_differs_is_what_the_advice_is_about(tmp_path, length, size, trim, advice):
    paths = [camera(tmp_path / "a.mp4"), camera(tmp_path / "my b.mp4", count=length, size=size)]
    quoted = [f"'{tmp_path}/{name}.mp4'" for name in ("my b", "my b_64x48")]
    with pytest.raises(ValueError) as error:
        read_synchronised(paths, trim=trim)
    assert str(error.value).endswith(advice.format(b=quoted[0], c=quoted[1]))


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([], None),
        (["notes.txt"], "notes.txt"),
        ([f"n{k}.txt" for k in range(20)], "n0.txt, n1.txt, n2.txt, n3.txt, n4.txt, 15 more"),
    ],
)
def test_files_of_a_folder_that_are_no_views_are_told_once(tmp_path, caplog, others, told):
    caplog.set_level("INFO", logger="fourreal")
    (tmp_path / ".hidden").touch()
    (tmp_path / "deeper").mkdir()
    for name in ("1.mp4", "2.mp4", *others):
        (tmp_path / name).touch()
    assert len(view_files([tmp_path])) == 2
    said = [f"{tmp_path}: 2 views are read; left out: {told}."] if told else []
    assert caplog.messages == said
