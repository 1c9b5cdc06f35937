"""Which frames of a video are read: those that a player shows, at the times they are shown."""

import gc
import logging

import av
import numpy as np
import pytest
import torch

from fourreal.files import video_reader
from fourreal.files.media import fit_frames, measure_video, read_video, write_video
from fourreal.files.videos import at_rate

from .made_videos import grey, make_video


def size(path):
    measures = measure_video(path)
    return measures.num_frames, measures.height, measures.width


def levels(frames):
    """The grey of each frame, 0..255."""
    return (frames.mean((1, 2, 3)) * 255).round().tolist()


def trimmed(source, path, skip):
    """Copy the packets, and hide the first `skip` frames by an edit list, as `ffmpeg -ss -c copy`
    does when the cut is between key frames."""
    with av.open(str(source)) as given, av.open(str(path), "w") as copy:
        old = given.streams.video[0]
        new = copy.add_stream_from_template(old)
        step = int(1 / (old.average_rate * old.time_base))
        for packet in given.demux(old):
            if packet.dts is None:
                continue
            packet.pts -= skip * step
            packet.dts -= skip * step
            packet.stream = new
            copy.mux(packet)
    return path


def test_frames_hidden_by_an_edit_list_are_neither_counted_nor_read(tmp_path):
    images = [grey(20 + 10 * i) for i in range(20)]
    source = make_video(tmp_path / "a.mp4", images)
    path = trimmed(source, tmp_path / "cut.mp4", 7)
    with av.open(str(path)) as container:
        packets = sum(1 for packet in container.demux(video=0) if packet.size)
    assert packets == 20  # all are in the file
    frames, rate = read_video(path)
    assert np.allclose(levels(frames), [20 + 10 * i for i in range(7, 20)], atol=2)
    assert size(path) == (13, 48, 64)
    assert rate == measure_video(path).rate == pytest.approx(8, rel=1e-3)
    assert np.allclose(levels(read_video(path, 2, 11)[0]), [200, 210], atol=2)
    with pytest.raises(ValueError, match="it ends before frame 13"):
        read_video(path, 1, 13)


def test_no_more_is_decoded_than_is_used(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4", [grey(i) for i in range(100)])
    seen = []
    decode = video_reader.VideoReader.decode

    def counted(reader):
        for item in decode(reader):
            seen.append(item[0])
            yield item

    monkeypatch.setattr(video_reader.VideoReader, "decode", counted)
    read_video(path, 5)
    assert len(seen) == 5
    read_video(path, 5, 20, fit=(16, 16))
    assert len(seen) == 5 + 25


def test_a_frame_that_was_read_is_given_up_at_once(tmp_path):
    path = make_video(tmp_path / "a.mp4", [grey(8 * i) for i in range(20)])
    gc.collect()
    gc.disable()  # what refers to itself would wait for it, with 3 MB a frame of 1080p
    try:
        read_video(path, fit=(16, 16))
        alive = [thing for thing in gc.get_objects() if type(thing) is av.VideoFrame]
    finally:
        gc.enable()
    assert len(alive) <= 1


def test_resizing_while_reading_is_resizing_what_was_read(tmp_path):
    y, x = np.mgrid[:120, :200] / 20
    images = [
        np.stack([127 + 99 * np.sin(x + t), 127 + 99 * np.cos(y - t), 90 + 0 * x], -1).astype(
            np.uint8
        )
        for t in range(3)
    ]
    path = make_video(tmp_path / "a.mp4", images, pix_fmt="yuv444p")
    whole, _ = read_video(path)
    for size in ((24, 24), (48, 20), (150, 240)):
        fitted, _ = read_video(path, fit=size)
        assert fitted.shape == (3, 3, *size)
        difference = (fitted - fit_frames(whole, 3, *size)).abs()
        assert difference.mean() < 0.006 and difference.max() < 0.06


def test_a_variable_rate_is_made_constant_with_one_warning(tmp_path, caplog):
    times = [0, 1, 2, 3, 8, 9, 10, 11, 12]  # a phone that lost four frames
    path = make_video(tmp_path / "a.mp4", [grey(10 * t) for t in times], rate=24, times=times)
    with caplog.at_level(logging.WARNING, "fourreal"):
        frames, rate = read_video(path)
    assert rate == pytest.approx(24 * 8 / 12)
    # frame k is the one nearest to k * 1.5 in the times above
    assert np.allclose(levels(frames), [0, 10, 30, 30, 80, 80, 90, 100, 120], atol=11)
    assert len(caplog.records) == 1 and "a.mp4 has a variable frame rate" in caplog.text
    caplog.clear()
    constant = write_video(tmp_path / "b.mkv", torch.rand(9, 3, 16, 16), 29.97)
    assert constant is None and read_video(tmp_path / "b.mkv")[1] == pytest.approx(29.97, abs=0.01)
    assert caplog.records == []  # times in whole milliseconds are no variable rate


def test_resampling_takes_the_nearest_frame_of_each_time():
    random = np.random.default_rng(0)
    for fps in (3.0, 10.0, 24.0, 60.0):
        times = np.sort(random.uniform(0, 2, 20))
        times -= times[0]
        chosen = list(at_rate(zip(times, range(20)), fps, 0.25))
        assert [t for t, _ in chosen] == pytest.approx(0.25 + np.arange(len(chosen)) / fps)
        for time, frame in chosen:
            assert abs(times[frame] - time) <= abs(times - time).min() + 1e-9
        end = times[-1] + (times[-1] - times[-2]) / 2
        assert chosen[-1][0] < end <= chosen[-1][0] + 1 / fps + 1e-9


def test_a_rate_to_resample_to(tmp_path):
    path = make_video(tmp_path / "a.mp4", [grey(10 * i) for i in range(12)], rate=24)
    frames, rate = read_video(path, fps=12)
    assert rate == 12 and np.allclose(levels(frames), [0, 20, 40, 60, 80, 100], atol=2)
    frames, _ = read_video(path, 3, fps=48)
    assert np.allclose(levels(frames)[::2], [0, 10], atol=2)
