"""References of `fourreal generate`: what is used is decoded, and what does not fit is named."""

import pytest
import torch

from fourreal.commands.generate import GenerateConfig, read_reference
from fourreal.files import video_reader
from fourreal.files.media import write_images, write_video


@pytest.fixture
def decoded(monkeypatch):
    """The times of the frames that are decoded."""
    times = []
    decode = video_reader.VideoReader.decode

    def counted(reader):
        for item in decode(reader):
            times.append(item[0])
            yield item

    monkeypatch.setattr(video_reader.VideoReader, "decode", counted)
    return times


def config(fit, size=32):
    return GenerateConfig("a ball", height=size, width=size, fit=fit)


def test_of_a_long_video_the_frames_that_are_used_are_decoded(tmp_path, decoded):
    write_video(tmp_path / "a.mp4", torch.rand(60, 3, 48, 80), 8)
    frames = read_reference(tmp_path / "a.mp4", 5, config(fit=True), "fixed_view")
    assert frames.shape == (5, 3, 32, 32) and len(decoded) == 5
    with pytest.raises(ValueError, match=r"a\.mp4 has more than 5 frames of 48 x 80"):
        read_reference(tmp_path / "a.mp4", 5, config(fit=False), "fixed_view")
    assert len(decoded) == 5 + 6


def test_a_reference_that_is_too_short_or_small_is_named(tmp_path):
    write_video(tmp_path / "a.mp4", torch.rand(4, 3, 32, 32), 8)
    for fit, advice in ((True, "give a longer one"), (False, "add --fit")):
        with pytest.raises(ValueError, match=rf"a\.mp4 has 4 frames of 32 x 32.*{advice}"):
            read_reference(tmp_path / "a.mp4", 5, config(fit), "fixed_view")
    write_images(tmp_path / "photos", torch.rand(6, 3, 20, 40))
    frames = read_reference(tmp_path / "photos", 4, config(fit=True), "freeze_time")
    assert frames.shape == (4, 3, 32, 32)
    with pytest.raises(ValueError, match="photos has more than 4 frames of 20 x 40"):
        read_reference(tmp_path / "photos", 4, config(fit=False), "freeze_time")
