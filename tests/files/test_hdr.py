"""Video of high dynamic range: what PQ and HLG say, by their standards' own figures."""

from fractions import Fraction

import av
import numpy as np
import pytest

from fourreal.files.hdr import HLG, PQ, compress, hlg_light, pq_light, tone_map
from fourreal.files.media import read_video


def test_pq_and_hlg_have_the_light_of_their_standards():
    # BT.2408, table 1: signals of 1, 203 and 1000 cd/m2 in PQ; HLG at 75% is 203 on a 1000 screen
    assert np.allclose(pq_light(np.array([0.15, 0.58, 0.75, 1.0])), [1, 203, 983, 10000], rtol=0.03)
    grey = hlg_light(np.array([[0.75] * 3, [1.0] * 3, [0.0] * 3]))[:, 0]
    assert np.allclose(grey, [203, 1000, 0], rtol=0.01)


def test_light_is_compressed_smoothly_and_in_order():
    light = np.linspace(0, 1000 / 203, 5000)
    shown = compress(light)
    assert np.array_equal(shown[light <= 0.75], light[light <= 0.75])
    assert shown[-1] == pytest.approx(1) and (np.diff(shown) > 0).all()
    slopes = np.diff(shown) / np.diff(light)
    assert abs(np.diff(slopes)).max() < 0.01  # no corner at the shoulder


@pytest.mark.parametrize("transfer, white", [(PQ, 0.58), (HLG, 0.75)])
def test_white_is_nearly_white_and_hues_stay(transfer, white):
    image = np.full((1, 2, 3), round(white * 65535), np.uint16)
    image[0, 1] = image[0, 1] * (1.0, 0.7, 0.7)
    grey = tone_map(image, transfer, 9)[0, 0].astype(int)  # of BT.2020, whose white is BT.709's
    assert np.ptp(grey) <= 1 and 235 <= grey[0] <= 250
    red, green, blue = tone_map(image, transfer, 1)[0, 1].astype(int)
    assert red > 1.5 * green and abs(green - blue) <= 1


@pytest.mark.parametrize("transfer, white", [(PQ, 0.58), (HLG, 0.75)])
def test_videos_of_high_dynamic_range_are_tone_mapped(tmp_path, transfer, white):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        coder = stream.codec_context
        coder.color_trc, coder.color_primaries, coder.colorspace = transfer, 9, 9
        frame = av.VideoFrame(64, 64, "yuv420p10le")
        for plane, level in zip(frame.planes, (64 + 876 * white, 512, 512)):
            plane.update(np.full(plane.buffer_size // 2, round(level), "<u2").tobytes())
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    for options in ({}, {"fit": (16, 16)}):
        frames, _ = read_video(path, **options)
        assert 235 / 255 <= float(frames.mean()) <= 250 / 255  # untouched PQ would be 0.58
        assert float(frames.std()) < 0.01
