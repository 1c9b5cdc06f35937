"""The reader of videos: upright, in the right colours, and nothing but the file itself."""

import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from fourreal.files.media import measure_video, read_video, write_video
from fourreal.files.video_reader import VIDEO_SUFFIXES

from .made_videos import COLOURS, grey, make_video, quarters

# Display matrices (a, b, c, d) of x' = a x + c y, y' = b x + d y, and what NumPy calls them.
TURNS = {
    "none": ((1, 0, 0, 1), lambda image: image),
    "90 clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "270 clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "transverse": ((0, -1, -1, 0), lambda image: image[::-1, ::-1].swapaxes(0, 1)),
}


def size(path):
    measures = measure_video(path)
    return measures.num_frames, measures.height, measures.width


def with_matrix(path, a, b, c, d):
    """Write a display matrix into the track header of an .mp4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    values = [a, b, 0, c, d, 0, 0, 0, 1 << 14]
    data[at : at + 36] = struct.pack(">9i", *(v * 65536 for v in values))
    path.write_bytes(data)
    return path


def as_array(frame):
    return (frame * 255).round().permute(1, 2, 0).numpy()


def quarter_colours(image):
    """The colours in the middle of the quarters of [H, W, 3]."""
    height, width = image.shape[:2]
    rows, columns = (height // 4, 3 * height // 4), (width // 4, 3 * width // 4)
    return [image[r, c] for r in rows for c in columns]


@pytest.mark.parametrize("name", TURNS)
def test_frames_are_shown_as_the_display_matrix_says(tmp_path, name):
    matrix, shown = TURNS[name]
    path = with_matrix(make_video(tmp_path / "a.mp4", [quarters()] * 2), *matrix)
    expected = shown(quarters())
    frames, _ = read_video(path)
    assert frames.shape[-2:] == expected.shape[:2]
    assert size(path) == (2, *expected.shape[:2])
    assert np.allclose(quarter_colours(as_array(frames[0])), quarter_colours(expected), atol=4)
    fitted, _ = read_video(path, fit=(32, 32))
    assert fitted.shape[-2:] == (32, 32)
    assert np.allclose(quarter_colours(as_array(fitted[0])), quarter_colours(expected), atol=4)


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    def wide(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    path = make_video(tmp_path / "a.mp4", [quarters()], prepare=wide)
    assert size(path) == (1, 48, 85)
    assert read_video(path)[0].shape[-2:] == (48, 85)


def yuv_of(rgb, kr, kb):
    """Limited-range Y, Cb, Cr of R, G, B in 0..255, by the definition of ITU-R BT.601 and 709."""
    r, g, b = (value / 255 for value in rgb)
    y = kr * r + (1 - kr - kb) * g + kb * b
    return 16 + 219 * y, 128 + 112 * (b - y) / (1 - kb), 128 + 112 * (r - y) / (1 - kr)


@pytest.mark.parametrize("height, width", [(64, 64), (720, 1280), (481, 301)])
def test_what_is_written_is_bt709_and_tagged_so(tmp_path, height, width):
    for rgb in ((0, 191, 0), (255, 0, 0), (20, 90, 220)):
        frame = torch.tensor(rgb).view(1, 3, 1, 1).expand(2, 3, height, width) / 255
        write_video(tmp_path / "a.mp4", frame, 8)
        with av.open(str(tmp_path / "a.mp4")) as container:
            coder = container.streams.video[0].codec_context
            tags = coder.colorspace, coder.color_primaries, coder.color_trc, coder.color_range
            assert tags == (1, 1, 1, 1)  # FFmpeg's numbers of BT.709, and of limited range
            decoded = next(container.decode(video=0))
        levels = [np.frombuffer(bytes(plane), np.uint8)[0] for plane in decoded.planes]
        assert np.allclose(levels, yuv_of(rgb, 0.2126, 0.0722), atol=1.5)
        assert np.allclose(as_array(read_video(tmp_path / "a.mp4")[0][0])[5, 5], rgb, atol=3)


@pytest.mark.parametrize(
    "tag, kr, kb", [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)]
)
def test_colours_are_read_by_the_matrix_of_the_tag(tmp_path, tag, kr, kb):
    rgb = (30, 160, 90)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.options = {"crf": "1"}
        stream.codec_context.colorspace = tag
        frame = av.VideoFrame(32, 32, "yuv420p")
        for plane, level in zip(frame.planes, yuv_of(rgb, kr, kb)):
            plane.update(bytes([round(level)]) * plane.buffer_size)
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert np.allclose(as_array(read_video(path)[0][0])[9, 9], rgb, atol=3)


def test_full_range_is_read_as_such(tmp_path):
    path = make_video(tmp_path / "a.avi", [grey(250), grey(5)], codec="mjpeg", pix_fmt="yuvj420p")
    levels = read_video(path)[0].mean((1, 2, 3)) * 255
    assert torch.allclose(levels, torch.tensor([250.0, 5.0]), atol=2)


@pytest.mark.parametrize(
    "suffix, codec",
    [
        (".m4v", "libx264"),
        (".mts", "libx264"),
        (".3gp", "mpeg4"),
        (".mpg", "mpeg2video"),
        (".mov", "libx264"),
        (".mkv", "libx264"),
        (".webm", "libvpx-vp9"),
        (".avi", "mpeg4"),
        (".ts", "libx264"),
        (".gif", "gif"),
        (".flv", "libx264"),
    ],
)
def test_containers_are_read_by_the_one_list_of_suffixes(tmp_path, suffix, codec):
    assert suffix in VIDEO_SUFFIXES
    pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
    images = [quarters(96, 128)] * 5
    path = make_video(tmp_path / f"a{suffix}", images, 25, codec=codec, pix_fmt=pix_fmt)
    frames, rate = read_video(path)
    assert frames.shape == (5, 3, 96, 128) and rate == pytest.approx(25, rel=0.01)
    assert np.allclose(quarter_colours(as_array(frames[2])), COLOURS, atol=36)  # GIF has 8 levels


def test_an_image_of_one_frame_is_a_video_of_one(tmp_path):
    from PIL import Image

    Image.fromarray(quarters()).save(tmp_path / "a.gif")
    frames, rate = read_video(tmp_path / "a.gif")
    assert frames.shape == (1, 3, 48, 64) and rate > 0
    assert size(tmp_path / "a.gif") == (1, 48, 64)


def test_transparent_frames_lie_on_white_as_images_do(tmp_path):
    from PIL import Image

    clear = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    clear.paste((0, 200, 0, 255), (0, 0, 16, 32))
    clear.save(tmp_path / "a.gif")
    frame = as_array(read_video(tmp_path / "a.gif")[0][0])
    assert np.allclose(frame[4, 4], (0, 200, 0), atol=8) and np.allclose(frame[4, 28], 255)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparent_webm_lies_on_white_too(tmp_path, codec):
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[:, :16] = 0, 200, 0, 255
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream(codec, rate=8, options={"auto-alt-ref": "0", "crf": "4"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuva420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(clear, format="rgba")))
        container.mux(stream.encode(None))
    frames = read_video(tmp_path / "a.webm")[0]
    assert frames.shape == (3, 3, 32, 32)
    frame = as_array(frames[2])
    assert np.allclose(frame[4, 4], (0, 200, 0), atol=8) and np.allclose(frame[4, 28], 255, atol=2)


def test_a_size_that_changes_on_the_way_is_named(tmp_path):
    parts = [make_video(tmp_path / f"{w}.ts", [quarters(48, w)] * 4) for w in (64, 96)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for read in (read_video, measure_video, lambda p: read_video(p, fit=(16, 16))):
        with pytest.raises(
            ValueError, match=r"joined\.ts changes its size from 64 x 48 to 96 x 48"
        ):
            read(path)


def test_names_are_only_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = torch.rand(3, 3, 16, 16)
    os.makedirs("http:")
    for name in ("take:2.mp4", "concat:a.mp4", "file:b.mp4", "%03d.mp4", "http:/x.mp4", "a|b.mp4"):
        write_video(name, frames, 8)
        assert os.path.isfile(name)
        assert read_video(name)[0].shape == frames.shape
        assert size(name) == (3, 16, 16)
    with pytest.raises(ValueError, match=r"concat:take:2\.mp4 does not exist"):
        read_video("concat:take:2.mp4")


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{url}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1"><BaseURL>{url}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9999 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".mpd", ".ts"])
def test_a_playlist_reaches_no_other_file(tmp_path, kind, suffix):
    write_video(tmp_path / "secret.ts", torch.rand(3, 3, 16, 16), 8)
    for url in ("secret.ts", f"file:{tmp_path}/secret.ts", "http://127.0.0.1:9/a.ts"):
        path = tmp_path / f"list{suffix}"
        path.write_text(PLAYLISTS[kind].format(url=url))
        with pytest.raises(ValueError, match=r"list\.\w+ cannot be decoded as video") as error:
            read_video(path)
        assert "\n" not in str(error.value)


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    for path in (tmp_path / "a.mp4", "/dev/zero"):
        with pytest.raises(ValueError, match="is a pipe or a device; give the path of a file"):
            read_video(path)


def test_videos_are_written_only_where_h264_goes(tmp_path):
    for name in ("a.m3u8", "a.png", "a", "a.webm"):
        with pytest.raises(ValueError, match=f"{name} is no video that can be written"):
            write_video(tmp_path / name, torch.rand(2, 3, 16, 16), 8)
    assert os.listdir(tmp_path) == []


def test_a_codec_that_is_not_known_and_sound_alone_are_named(tmp_path):
    path = make_video(tmp_path / "a.avi", [quarters()] * 3, codec="mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ"))
    with pytest.raises(ValueError, match=r"a\.avi has video of a codec that is not known"):
        read_video(path)
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 44100
        container.mux([*stream.encode(sound), *stream.encode(None)])
    with pytest.raises(ValueError, match=r"song\.mp4 has no video in it"):
        read_video(tmp_path / "song.mp4")
    (tmp_path / "wave.mp4").write_bytes(b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + b"\1\0" * 64)
    with pytest.raises(ValueError, match=r"wave\.mp4 .* no video of a kind that is read \(\.mp4, "):
        read_video(tmp_path / "wave.mp4")


def test_damaged_videos_end_in_one_sentence_with_their_name(tmp_path, capfd):
    random = np.random.default_rng(5)
    sources = [
        make_video(tmp_path / f"a{suffix}", [quarters()] * 6, codec=codec)
        for suffix, codec in ((".mp4", "libx264"), (".mkv", "mpeg4"), (".ts", "mpeg2video"))
    ]
    for number in range(200):
        source = sources[number % 3]
        data = bytearray(source.read_bytes())
        for at in random.integers(0, min(len(data), 4000), 5):
            data[at] = random.integers(256)
        damaged = tmp_path / f"damaged{source.suffix}"
        damaged.write_bytes(data[: len(data) if number % 4 else int(random.integers(len(data)))])
        try:
            frames, rate = read_video(damaged, 8, fit=(16, 16))
            assert frames.shape[1:] == (3, 16, 16) and rate > 0
        except ValueError as error:
            assert str(damaged) in str(error) and "\n" not in str(error)
    assert "Traceback" not in capfd.readouterr().err
