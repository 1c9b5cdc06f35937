"""Images as people have them: read right, or refused by name; nothing runs."""

import logging
import os
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from fourreal.files.images import MAX_PIXELS, image_files, readable_formats
from fourreal.files.media import read_depth, read_image, read_images, write_image

RAMP = np.linspace(0, 65535, 64 * 48).reshape(48, 64)


def grey_of(path):
    return read_image(path)[0].numpy()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_whole(tmp_path, name):
    Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / name)
    assert np.allclose(grey_of(tmp_path / name), RAMP / 65535, atol=2e-5)
    assert np.allclose(read_image(tmp_path / name, (12, 12)).mean(), 0.5, atol=0.01)


def test_16_bit_colours_are_scaled_whole(tmp_path):
    colours = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png(colours.astype(">u2").tobytes(), 64, 48, 16, 2))
    expected = torch.from_numpy(colours / 65535).permute(2, 0, 1).float()
    assert torch.allclose(read_image(tmp_path / "a.png"), expected, atol=1 / 255)


def test_floats_are_levels_from_0_to_1_or_refused(tmp_path):
    Image.fromarray((RAMP / 65535).astype(np.float32)).save(tmp_path / "a.tif")
    assert np.allclose(grey_of(tmp_path / "a.tif"), RAMP / 65535, atol=1e-6)
    for values in (RAMP / 255, RAMP / 65535 - 0.5, RAMP * np.nan):
        Image.fromarray(values.astype(np.float32)).save(tmp_path / "b.tif")
        with pytest.raises(ValueError, match=r"b\.tif holds numbers from .* whose white is not"):
            read_image(tmp_path / "b.tif")
    Image.fromarray(RAMP.astype(np.int32)).save(tmp_path / "c.tif")
    with pytest.raises(ValueError, match=r"c\.tif holds 32-bit numbers"):
        read_image(tmp_path / "c.tif")


def test_every_exif_orientation_comes_upright_in_every_depth(tmp_path):
    upright = np.arange(4 * 6, dtype=np.uint16).reshape(4, 6) * 2000
    stored = {  # how an upright picture lies in the file, by EXIF's table
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    for orientation, array in stored.items():
        for pixels in (array, (array // 256).astype(np.uint8)):
            image = Image.fromarray(np.ascontiguousarray(pixels))
            exif = image.getexif()
            exif[0x0112] = orientation
            image.save(tmp_path / "a.png", exif=exif)
            assert np.allclose(grey_of(tmp_path / "a.png"), upright / 65535, atol=1 / 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_pixels_show_white(tmp_path, mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    if mode in ("PA", "P"):
        image = image.quantize(4) if mode == "P" else image.convert("PA")
    elif mode == "LA":
        image = image.convert("LA")
    name = "a.tif" if mode == "PA" else "a.png"
    if mode == "PA":
        image = image.convert("RGBA")
    image.save(tmp_path / name)
    pixels = read_image(tmp_path / name)
    assert float(pixels[:, :, :4].max()) == 0 and float(pixels[:, :, 4:].min()) == 1


def test_half_transparent_pixels_are_mixed(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    rgb, alpha = levels[..., :3] / 255, levels[..., 3:] / 255
    expected = torch.from_numpy(rgb * alpha + 1 - alpha).permute(2, 0, 1).float()
    assert torch.allclose(read_image(tmp_path / "a.png"), expected, atol=0.51 / 255)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tif", "a.gif"])
def test_of_several_pictures_the_first_is_read_with_a_warning(tmp_path, name, caplog):
    pictures = [Image.new("RGB", (16, 16), (200 * i, 100, 50)) for i in range(3)]
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
    with caplog.at_level(logging.WARNING, "fourreal"):
        image = read_image(tmp_path / name)
    assert torch.allclose(image[:, 8, 8], torch.tensor([0, 100 / 255, 50 / 255]), atol=0.03)
    assert caplog.messages == [f"{tmp_path / name} has 3 pictures, of which the first is read."]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.heic"])
@pytest.mark.parametrize(
    "program",
    [
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(RAN) print showpage\n",
        '<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/"/></svg>',
        "%PDF-1.4\n",
        "/* XPM */\n",
        "id=ImageMagick\n",
    ],
)
def test_what_is_a_program_is_never_run(tmp_path, name, program, monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(a))
    sys.addaudithook(lambda event, _: started.append(event) if event in EVENTS and ON else None)
    (tmp_path / name).write_text(program)
    ON.append(True)
    try:
        with pytest.raises(ValueError, match=f"{name} cannot be decoded as an image: it is"):
            read_image(tmp_path / name)
        with pytest.raises(ValueError, match="cannot be decoded as an image"):
            os.makedirs(tmp_path / "depth")
            os.rename(tmp_path / name, tmp_path / "depth" / "frame_0001.png")
            read_depth(tmp_path / "depth")
    finally:
        ON.clear()
    assert started == []


EVENTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
ON: list[bool] = []


def png(rows, width, height, bits=8, kind=0, interlaced=0):
    """A PNG file of unfiltered rows of bytes."""
    size = len(rows) // height
    data = b"".join(b"\0" + rows[i * size : (i + 1) * size] for i in range(height))
    return chunks(struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced), data)


def chunks(header, data):
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    packed = zlib.compress(data)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*c) for c in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    )


def test_images_that_are_too_large_are_refused_before_they_unfold(tmp_path):
    side = 50_000
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(chunks(header, bytes(side)))
    over = int(MAX_PIXELS**0.5) + 1
    (tmp_path / "b.png").write_bytes(
        chunks(struct.pack(">IIBBBBB", over, over, 1, 0, 0, 0, 0), b"")
    )
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match=rf"{name} has more than the 134 megapixels"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_images_that_are_cut_off_are_refused(tmp_path, suffix):
    noise = torch.rand(3, 64, 64)
    write_image(tmp_path / f"whole.{suffix}", noise)
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    for share in (0.2, 0.5, 0.9):
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=rf"cut\.{suffix} cannot be decoded"):
            read_image(tmp_path / f"cut.{suffix}")
    assert read_image(tmp_path / f"whole.{suffix}").shape == (3, 64, 64)


EVEN = ("16462646", "56565656", "36463646", "56565656")
ADAM7 = tuple(
    row for even in EVEN for row in (even, "77777777")
)  # the pass of each pixel of 8 x 8, as PNG has it


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("bits, kind, samples", [(1, 0, 1), (8, 0, 1), (8, 2, 3), (16, 6, 4)])
def test_a_png_that_lacks_rows_is_refused(tmp_path, interlaced, bits, kind, samples):
    width, height = 13, 19
    counts: dict[tuple[str, int], int] = {}  # (pass, row of the image): its pixels
    for y in range(height):
        for x in range(width):
            key = (ADAM7[y % 8][x % 8] if interlaced else "", y)
            counts[key] = counts.get(key, 0) + 1
    needed = sum(1 + -(-count * bits * samples // 8) for count in counts.values())
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    (tmp_path / "a.png").write_bytes(chunks(header, bytes(needed)))
    assert read_image(tmp_path / "a.png").shape == (3, height, width)
    for given in (0, needed // 3, needed // 2, needed - 1):
        (tmp_path / "a.png").write_bytes(chunks(header, bytes(given)))
        with pytest.raises(
            ValueError, match=r"a\.png cannot be decoded as an image: i.* (cut|trun)"
        ):
            read_image(tmp_path / "a.png")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100


def test_images_of_unusual_kinds_are_called_what_they_are(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    bits = struct.pack("<HHII", 258, 3, 1, 8)
    assert bits in content
    (tmp_path / "a.tif").write_bytes(content.replace(bits, struct.pack("<HHII", 258, 3, 1, 7)))
    with pytest.raises(
        ValueError, match=r"a\.tif .* it is TIFF, but damaged or of an unusual kind"
    ):
        read_image(tmp_path / "a.tif")
    (tmp_path / "a.png").write_bytes(b"\x89PNG of some kind")
    with pytest.raises(ValueError, match=r"a\.png .* it is PNG, but damaged"):
        read_image(tmp_path / "a.png")


def test_photos_of_iphones_are_never_left_out(tmp_path):
    for i in (1, 3):
        write_image(tmp_path / f"IMG_{i}.JPG", torch.zeros(3, 8, 8))
    (tmp_path / "IMG_2.HEIC").write_bytes(HEIC)
    with pytest.raises(ValueError, match=r"IMG_2\.HEIC cannot be decoded") as error:
        read_images(tmp_path)
    if "HEIF" not in readable_formats():
        assert "pillow-heif; pip install 'fourreal[heif]' (in a clone: " in str(error.value)
    (tmp_path / "renamed.jpg").write_bytes(HEIC)
    with pytest.raises(ValueError, match=r"renamed\.jpg cannot be decoded"):
        read_image(tmp_path / "renamed.jpg")


def test_heic_is_read_where_pillow_heif_is(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (extra `heif`)")
    image = Image.new("RGB", (64, 64), (200, 30, 90))
    heif.from_pillow(image).save(tmp_path / "a.heic", quality=95)
    expected = torch.tensor([200, 30, 90]).view(3, 1, 1) / 255
    assert (read_image(tmp_path / "a.heic") - expected).abs().max() < 0.03


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path):
    Image.new("RGB", (64, 64), (200, 30, 90)).save(tmp_path / "a.avif", quality=95)
    expected = torch.tensor([200, 30, 90]).view(3, 1, 1) / 255
    assert (read_images(tmp_path)[0] - expected).abs().max() < 0.03


def test_pictures_of_other_kinds_are_named_and_raw_files_beside_photos_are_not(tmp_path):
    write_image(tmp_path / "IMG_1.jpg", torch.zeros(3, 8, 8))
    (tmp_path / "IMG_1.DNG").write_bytes(b"II*\0")
    (tmp_path / "._IMG_1.jpg").write_bytes(b"\0\5\26\7")
    (tmp_path / ".thumb.png").write_bytes(b"")
    assert [p.name for p in image_files(tmp_path)] == ["IMG_1.jpg"]
    for name in ("IMG_2.dng", "IMG_3.svg", "IMG_4.jxl", "IMG_5.gif"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=f"{name} is a picture of a kind that is not read"):
            read_images(tmp_path)
        (tmp_path / name).unlink()


def test_images_that_are_fitted_may_have_several_sizes(tmp_path):
    for i, size in enumerate(((20, 30), (16, 16), (9, 40))):
        write_image(tmp_path / f"{i}.png", torch.full((3, *size), i / 4))
    images = read_images(tmp_path, 2, fit=(8, 8))
    assert images.shape == (2, 3, 8, 8)
    assert torch.allclose(images.mean((1, 2, 3)), torch.tensor([0, 0.25]), atol=0.002)


def test_damaged_images_end_in_one_sentence_with_their_name(tmp_path, monkeypatch):
    monkeypatch.setattr("fourreal.files.images.MAX_PIXELS", 2**20)  # so that it takes no time
    random = np.random.default_rng(6)
    suffixes = ["png", "jpg", "webp", "bmp", "tif"] + ["avif"] * features.check("avif")
    whole = {}
    for suffix in suffixes:
        write_image(tmp_path / f"a.{suffix}", torch.rand(3, 24, 32))
        whole[suffix] = (tmp_path / f"a.{suffix}").read_bytes()
    for number in range(200 * len(suffixes)):
        suffix = suffixes[number % len(suffixes)]
        data = bytearray(whole[suffix])
        for at in random.integers(0, min(len(data), 600), random.integers(1, 8)):
            data[at] = random.choice([0, 1, 127, 255, random.integers(256)])
        path = tmp_path / f"damaged.{suffix}"
        path.write_bytes(data)
        try:
            image = read_image(path)
            assert image.shape[0] == 3 and image.min() >= 0 and image.max() <= 1
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
