"""Videos, images and depth on disk: they come back, or are refused by name."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from fourreal.files import videos
from fourreal.files.media import (
    fit_frames,
    natural_order,
    read_depth,
    read_image,
    read_images,
    read_video,
    to_uint8,
    write_depth,
    write_image,
    write_images,
    write_video,
)

MISSING = [
    (read_video, "clip.mp4"),
    (read_image, "photo.png"),
    (read_images, "photos"),
    (read_depth, "depth.npz"),
    (read_depth, "depth"),
]


def smooth_frames(count=9, height=44, width=60):
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    t = torch.linspace(0, 1, count)[:, None, None]
    channels = [0.5 + 0.4 * torch.sin(k * t + a * x + b * y) for k, a, b in ((3, 1, 0), (2, 0, 1))]
    return torch.stack([*channels, channels[0] * channels[1]], dim=1)


def test_a_video_comes_back(tmp_path):
    frames = smooth_frames()
    write_video(tmp_path / "new folder" / "clip.mp4", frames, 12.5)
    result, fps = read_video(tmp_path / "new folder" / "clip.mp4")
    assert fps == 12.5
    assert result.shape == frames.shape
    assert (result - frames).square().mean() < 1e-4  # 40 dB
    assert os.listdir(tmp_path / "new folder") == ["clip.mp4"]
    first, _ = read_video(tmp_path / "new folder" / "clip.mp4", max_frames=3)
    assert torch.equal(first, result[:3])


def test_odd_sizes_repeat_their_border(tmp_path):
    frames = smooth_frames(2, 33, 47)
    write_video(tmp_path / "odd.mp4", frames, 8)
    result, _ = read_video(tmp_path / "odd.mp4")
    assert result.shape == (2, 3, 34, 48)
    assert (result[:, :, 33, :47] - frames[:, :, 32]).abs().mean() < 0.02
    assert (result[:, :, :33, 47] - frames[..., 46]).abs().mean() < 0.02


def test_what_is_not_a_video_is_refused_by_name(tmp_path):
    for name, content in {"text.mp4": b"hello", "empty.mp4": b"", "noise.mkv": bytes(5000)}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_video(tmp_path / name)
    write_video(tmp_path / "whole.mp4", smooth_frames(), 8)
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.mp4"):
        read_video(tmp_path / "half.mp4")
    with pytest.raises(ValueError, match="frames"):
        write_video(tmp_path / "wrong.mp4", torch.rand(4, 5, 6), 8)


def test_an_interrupted_video_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(image):
        raise KeyboardInterrupt

    monkeypatch.setattr(videos, "to_uint8", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "clip.mp4", smooth_frames(), 8)
    assert os.listdir(tmp_path) == []


def test_images_of_a_folder_come_in_natural_order(tmp_path):
    for i in (10, 2, 1):
        write_image(tmp_path / f"view_{i}.png", torch.full((3, 4, 6), i / 255))
    (tmp_path / "notes.txt").write_text("not an image")
    images = read_images(tmp_path)
    assert torch.equal(images[:, 0, 0, 0] * 255, torch.tensor([1.0, 2.0, 10.0]))
    write_image(tmp_path / "view_3.png", torch.zeros(3, 5, 6))
    with pytest.raises(ValueError, match=r"view_3\.png is 6 x 5"):
        read_images(tmp_path)
    (tmp_path / "view_3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ValueError, match=r"view_3\.png"):
        read_images(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        read_images(tmp_path)


def test_depth_comes_back_exactly_or_within_half_a_step(tmp_path):
    depth = torch.rand(3, 5, 7) * 20
    depth[0, 0] = 0
    write_depth(tmp_path / "depth.npz", depth)
    assert torch.equal(read_depth(tmp_path / "depth.npz"), depth)
    write_depth(tmp_path / "depth", depth)
    assert [p.name for p in sorted((tmp_path / "depth").iterdir())] == [
        *(f"frame_000{i}.png" for i in (1, 2, 3))
    ]
    with Image.open(tmp_path / "depth" / "frame_0001.png") as image:
        assert image.mode == "I;16"
    result = read_depth(tmp_path / "depth")
    step = float(depth.max()) / 65535
    torch.testing.assert_close(result, depth, atol=0.5 * step + 1e-6, rtol=0)
    assert not result[0, 0].any()
    with pytest.raises(ValueError, match=r"\[T, H, W\]"):
        write_depth(tmp_path / "bad.npz", depth - 1)
    write_image(tmp_path / "photos" / "a.png", torch.zeros(3, 2, 2))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("photos", "text.npz"):
        with pytest.raises(ValueError, match=name.split(".")[0]):
            read_depth(tmp_path / name)


def test_frames_as_images_replace_a_longer_sequence(tmp_path):
    frames = (torch.rand(3, 3, 4, 6) * 255).round() / 255
    write_images(tmp_path / "out", frames)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    write_images(tmp_path / "out", frames[:2])
    assert sorted(os.listdir(tmp_path / "out")) == ["frame_0001.png", "frame_0002.png", "notes.txt"]
    torch.testing.assert_close(read_images(tmp_path / "out"), frames[:2])


@pytest.mark.parametrize("read, name", MISSING)
def test_what_is_missing_is_named_in_one_sentence(tmp_path, read, name):
    with pytest.raises(ValueError, match=f"{name} does not exist; give") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give the path of a file"):
        read_image(tmp_path)
    write_image(tmp_path / "a.png", torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match=r"a\.png is a file; give the path of a folder"):
        read_images(tmp_path / "a.png")


def test_a_photo_comes_upright(tmp_path):
    upright = torch.zeros(3, 4, 6)
    upright[0, :, :2] = 1  # red on the left
    image = Image.fromarray(to_uint8(upright.rot90(1, (1, 2))))  # lies on its left side
    exif = image.getexif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise"
    image.save(tmp_path / "photo.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "photo.png"), upright)


def test_names_are_ordered_by_their_numbers_and_whatever_their_case():
    names = ["b1.png", "a10.png", "A2.png", "a2b3.png", "a2b12.png"]
    ordered = sorted(map(Path, names), key=natural_order)
    assert [p.name for p in ordered] == ["A2.png", "a2b3.png", "a2b12.png", "a10.png", "b1.png"]


def test_fitted_frames_cover_the_size_and_keep_the_middle():
    frames = torch.zeros(3, 3, 20, 40)
    frames[..., 16:24] = 1  # a bar in the middle
    fitted = fit_frames(frames, 2, 10, 10)
    assert fitted.shape == (2, 3, 10, 10)
    assert fitted[..., 3:7].min() > 0.8 and fitted[..., :2].max() < 0.1  # 4 of 10 columns
    assert torch.equal(fitted, fitted.flip(-1))
    assert torch.equal(fit_frames(frames, 9, 20, 40), frames)
