"""Cameras of others: a point in space is where the camera that is read says, in the image that is.

Each photo shows one point, drawn where OpenCV's formulas in NumPy put it; the picture of it is then
looked for in what was read.
"""

import json
import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image

from fourreal.cameras import project
from fourreal.data.posed import find_posed_scenes

from .photo_folders import (
    CENTER,
    CENTERS,
    FOCAL,
    HEIGHT,
    POINT,
    SIZE,
    WIDTH,
    write_colmap,
    write_photo,
    write_transforms,
)

LENSES = {
    "pinhole": {},
    "barrel": {"k1": -0.25, "k2": 0.05},
    "pincushion": {"k1": 0.2},
    "decentred": {"k1": -0.1, "k2": 0.02, "k3": -0.01, "p1": 0.01, "p2": -0.015},
    "fisheye": {"fisheye": 1, "k1": 0.05, "k2": -0.02, "k3": 0.003, "k4": -0.001},
    "equidistant": {"fisheye": 1},
}


def check_point(folder, count=3, size=72, tolerance=0.12):
    """Every view that is read shows the point where its camera has it; returns the scene."""
    (scene,) = find_posed_scenes(folder)
    assert scene.num_views == count
    views = list(range(count))
    sample = scene.read(views, [0], size)
    moved = torch.tensor(POINT - CENTERS[:count].mean(0)).float()
    pixels, depth = project(moved[None], scene.extrinsics, sample.intrinsics[0])
    assert (depth > 3).all()
    for view in views:
        level = sample.frames[0, 0, view].mean(0)
        level = (level - 0.1).clamp_min(0)
        along = torch.arange(size) + 0.5
        x = (level.sum(0) * along).sum() / level.sum()
        y = (level.sum(1) * along).sum() / level.sum()
        wanted = pixels[view, 0]
        assert torch.stack([x, y]).sub(wanted).norm() < tolerance, (view, x, y, wanted)
    return scene


@pytest.mark.parametrize("orientation", [1, 6, 3, 8])
@pytest.mark.parametrize("lens", LENSES)
def test_lenses_and_exif_orientations(tmp_path, lens, orientation):
    write_transforms(tmp_path, LENSES[lens], orientation=orientation)
    check_point(tmp_path)


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("lens", ["pinhole", "decentred", "fisheye"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_images_of_another_size_than_the_cameras(tmp_path, scale, lens, orientation):
    write_transforms(tmp_path, LENSES[lens], scale=scale, orientation=orientation)
    scene = check_point(tmp_path)
    if lens == "pinhole":
        focal = scene.intrinsics[0].diagonal()[:2].tolist()
        assert focal == pytest.approx([scale * f for f in FOCAL][:: -1 if orientation == 6 else 1])


def test_cameras_of_upright_pixels_are_not_turned_again(tmp_path):
    """w and h are those of the upright image: the program that found the cameras had turned it."""
    write_transforms(tmp_path)
    for path in (tmp_path / "images").iterdir():
        image = Image.open(path).convert("RGB")
        exif = image.getexif()
        exif[0x0112] = 8  # stored pixels are turned clockwise, and this turns them back
        image.transpose(Image.Transpose.ROTATE_270).save(path, exif=exif)
    check_point(tmp_path)


def test_a_world_in_geographic_units(tmp_path):
    write_transforms(tmp_path, shift=3e6)
    check_point(tmp_path)


ANGLES = {"camera_angle_x": 2 * math.atan(WIDTH / 2 / FOCAL[0])}
ANGLES["camera_angle_y"] = 2 * math.atan(HEIGHT / 2 / FOCAL[1])
VARIANTS = {
    "angles alone": (ANGLES, (WIDTH / 2, HEIGHT / 2), FOCAL),
    "one angle": ({"camera_angle_x": ANGLES["camera_angle_x"]}, (48, 36), (FOCAL[0],) * 2),
    "degrees": ({"x_fov": math.degrees(ANGLES["camera_angle_x"])}, (48, 36), (FOCAL[0],) * 2),
    "only fl_x": ({"fl_x": 70, "w": 96, "h": 72}, (48, 36), (70, 70)),
    "only fl_y": ({"fl_y": 70}, (48, 36), (70, 70)),
    "no size": ({"fl_x": 70, "fl_y": 75, "cx": 40.0, "cy": 30.0}, (40, 30), (70, 75)),
    "size as float": ({"fl_x": 70.0, "w": 96.0, "h": 72.0, "cx": 50}, (50, 36), (70, 70)),
    "fl_x before angle": ({"fl_x": 70, "camera_angle_x": 1.0}, (48, 36), (70, 70)),
    "null": ({"fl_x": 70, "fl_y": None, "cx": None, "k1": None}, (48, 36), (70, 70)),
    "named pinhole": ({"fl_x": 70, "camera_model": "PINHOLE", "k1": 0.0}, (48, 36), (70, 70)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_intrinsics_in_their_usual_variants(tmp_path, variant):
    camera, center, focal = VARIANTS[variant]
    write_transforms(tmp_path, camera=camera)
    (scene,) = find_posed_scenes(tmp_path)
    wanted = torch.tensor([[focal[0], 0, center[0]], [0, focal[1], center[1]], [0, 0, 1.0]])
    assert torch.allclose(scene.intrinsics, wanted.expand(3, 3, 3), rtol=1e-5)


def rewrite(folder, change, name="transforms.json", end=lambda text: text.encode()):
    content = json.loads((folder / name).read_text())
    for number, frame in enumerate(content["frames"]):
        change(number, frame, content)
    (folder / name).write_bytes(end(json.dumps(content)))


PATHS = {
    "backslashes": lambda name: name.replace("/", "\\"),
    "dot": lambda name: f"./{name}",
    "dot and backslashes": lambda name: ".\\" + name.replace("/", "\\"),
    "no ending": lambda name: name.removesuffix(".png"),
    "up and down": lambda name: f"images/../{name}",
    "as given": lambda name: name,
}


@pytest.mark.parametrize(
    "name", ["transforms.json", "transforms_train.json", "transforms_test.json"]
)
@pytest.mark.parametrize("path", PATHS)
def test_names_of_files_in_their_usual_variants(tmp_path, path, name):
    write_transforms(tmp_path, name=name)

    def change(number, frame, content):
        frame["file_path"] = PATHS[path](frame["file_path"])

    rewrite(tmp_path, change, name, lambda text: b"\xef\xbb\xbf" + text.encode())
    check_point(tmp_path)


def test_intrinsics_of_each_frame_and_poses_of_three_rows(tmp_path):
    write_transforms(tmp_path, scale=0.5)

    def change(number, frame, content):
        frame |= {"fl_x": FOCAL[0], "fl_y": FOCAL[1], "cx": CENTER[0], "cy": CENTER[1]}
        frame |= dict(zip("wh", SIZE))
        frame["transform_matrix"] = frame["transform_matrix"][:3]
        content |= {"fl_x": 1.0, "cx": 1.0}

    rewrite(tmp_path, change)
    check_point(tmp_path)


def test_images_held_out_stay_held_out(tmp_path):
    write_transforms(tmp_path)
    content = json.loads((tmp_path / "transforms.json").read_text())
    (tmp_path / "transforms.json").rename(tmp_path / "transforms_test.json")
    content["frames"] = content["frames"][:2]
    (tmp_path / "transforms_train.json").write_text(json.dumps(content))
    check_point(tmp_path, count=2)


@pytest.mark.parametrize("colmap", [False, True])
def test_missing_and_hidden_images_are_left_out_with_one_warning(tmp_path, caplog, colmap):
    if colmap:
        names = ["a.png", "b.png", "._c.png"]
        write_colmap(tmp_path, "PINHOLE", [*FOCAL, *CENTER], {}, False, names)
    else:
        write_transforms(tmp_path)
        (tmp_path / "images" / "photo_2.png").rename(tmp_path / "images" / "._photo_2.png")

        def change(number, frame, content):
            if number == 2:
                frame["file_path"] = "images/._photo_2.png"

        rewrite(tmp_path, change)
    with caplog.at_level(logging.WARNING):
        check_point(tmp_path, count=2)
    (record,) = caplog.records
    assert "1 images that do not exist" in record.getMessage()


COLMAP = {
    "SIMPLE_PINHOLE": ([70.0, 46.0, 37.5], {}),
    "PINHOLE": ([*FOCAL, *CENTER], {}),
    "SIMPLE_RADIAL": ([70.0, 46.0, 37.5, -0.2], {"k1": -0.2}),
    "RADIAL": ([70.0, 46.0, 37.5, -0.2, 0.05], {"k1": -0.2, "k2": 0.05}),
    "OPENCV": (
        [*FOCAL, *CENTER, -0.2, 0.05, 0.01, -0.015],
        {"k1": -0.2, "k2": 0.05, "p1": 0.01, "p2": -0.015},
    ),
    "OPENCV_FISHEYE": (
        [*FOCAL, *CENTER, 0.05, -0.02, 0.003, -0.001],
        LENSES["fisheye"],
    ),
    "FULL_OPENCV": (
        [*FOCAL, *CENTER, -0.2, 0.05, 0.01, -0.015, 0.02, 0.1, -0.03, 0.01],
        {"k1": -0.2, "k2": 0.05, "p1": 0.01, "p2": -0.015, "k3": 0.02, "k4": 0.1, "k5": -0.03}
        | {"k6": 0.01},
    ),
    "SIMPLE_RADIAL_FISHEYE": ([70.0, 46.0, 37.5, 0.05], {"fisheye": 1, "k1": 0.05}),
    "RADIAL_FISHEYE": ([70.0, 46.0, 37.5, 0.05, -0.02], {"fisheye": 1, "k1": 0.05, "k2": -0.02}),
}


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("model", COLMAP)
def test_colmap_folders(tmp_path, monkeypatch, model, binary):
    parameters, lens = COLMAP[model]
    if model.startswith(("SIMPLE", "RADIAL")):  # one focal length
        monkeypatch.setattr("tests.data.photo_folders.FOCAL", (70.0, 70.0))
    write_colmap(tmp_path, model, parameters, lens, binary, orientation=6 if binary else 1)
    check_point(tmp_path)


def test_colmap_images_in_folders_and_at_half_size(tmp_path):
    names = [f"cam{n}\\photo.png".replace("\\", "/") for n in range(3)]
    write_colmap(tmp_path, "PINHOLE", [*FOCAL, *CENTER], {}, True, names, scale=0.5)
    (tmp_path / "images").rename(tmp_path / "images_2")
    check_point(tmp_path)


def test_distortion_that_cannot_be_undone_or_is_not_known_is_refused_by_name(tmp_path):
    def refused(words):
        with pytest.raises(ValueError, match=words) as error:
            find_posed_scenes(tmp_path)
        assert "\n" not in str(error.value) and "transforms.json" in str(error.value)

    base = {"fl_x": 70, "w": 96, "h": 72}
    for camera, words in (
        ({"k1": -30.0}, "folds the picture"),
        ({"k4": 0.1}, "has k4 with a lens that is no fisheye"),
        ({"k5": 0.1}, "0.1 as k5"),
        ({"s1": 0.1}, "0.1 as s1"),
        ({"is_fisheye": True, "p1": 0.1}, "p1 or p2"),
        ({"is_fisheye": 1}, "true or false"),
        ({"camera_model": "EQUIRECTANGULAR"}, "'EQUIRECTANGULAR' as camera_model"),
        ({"camera_model": "FOV"}, "'FOV' as camera_model"),
        ({"ftheta_p1": 0.3}, "as ftheta_p1"),
        ({"equirectangular": True}, "as equirectangular"),
        ({"k1": "0"}, "'0' as k1, but a number"),
    ):
        write_transforms(tmp_path, camera=base | camera)
        refused(words)


def test_wrong_sizes_centres_and_mirrored_photos_are_refused_by_name(tmp_path):
    def refused(words, **options):
        write_transforms(tmp_path, **options)
        with pytest.raises(ValueError, match=words) as error:
            find_posed_scenes(tmp_path)
        assert "\n" not in str(error.value) and "transforms.json" in str(error.value)

    refused("96 x 96 pixels, but .* has 96 x 72, another", camera={"fl_x": 70, "w": 96, "h": 96})
    refused("centre at .96, 72., outside", camera={"fl_x": 140, "cx": 96, "cy": 72})
    for orientation in (2, 4, 5, 7):
        refused(f"mirrored by its EXIF orientation {orientation}", orientation=orientation)
    refused("has no fl_x and no camera_angle_x for frames.0.", camera={"w": 96, "h": 72})
    refused("0 as fl_x", camera={"fl_x": 0})
    refused("4 as camera_angle_x", camera={"camera_angle_x": 4})


@pytest.mark.parametrize(
    "change, words",
    {
        "nan": (lambda m: m[0].__setitem__(0, math.nan), "it has NaN"),
        "inf": (lambda m: m[0].__setitem__(3, math.inf), "it has Infinity"),
        "large": (lambda m: m[0].__setitem__(3, 1e300), "as frames.1..transform_matrix.0..3."),
        "text": (lambda m: m[0].__setitem__(3, "0"), "'0' as frames.1..transform_matrix.0..3."),
        "stretched": (lambda m: m.__setitem__(0, [2 * v for v in m[0]]), "have the length 1"),
        "sheared": (lambda m: m[0].__setitem__(1, m[0][1] + 0.3), "at right angles"),
        "mirrored": (lambda m: m.__setitem__(0, [-v for v in m[0]]), "not mirrored"),
        "singular": (lambda m: m.__setitem__(0, [0, 0, 0, 0]), "an inverse"),
        "zeros": (lambda m: m.__setitem__(slice(0, 3), [[0] * 4] * 3), "an inverse"),
        "projective": (lambda m: m.__setitem__(3, [0, 0, 1, 1]), "the row .0, 0, 0, 1."),
        "short": (lambda m: m.pop() and m.pop(), "a matrix of 4 x 4"),
        "narrow": (lambda m: m[1].pop(), "a list of 4"),
        "flat": (lambda m: m.__setitem__(slice(0, 4), [1.0] * 16), "a matrix of 4 x 4"),
    }.values(),
)
def test_bad_poses_are_refused_with_file_and_frame(tmp_path, change, words):
    write_transforms(tmp_path)
    rewrite(tmp_path, lambda n, frame, _: change(frame["transform_matrix"]) if n == 1 else None)
    with pytest.raises(ValueError, match=words) as error:
        find_posed_scenes(tmp_path)
    assert "\n" not in str(error.value) and "transforms.json" in str(error.value)


def test_bad_colmap_files_are_refused_in_one_sentence(tmp_path):
    pinhole = ("PINHOLE", [*FOCAL, *CENTER], {})
    text, binary = tmp_path / "text", tmp_path / "binary"
    write_colmap(text, *pinhole, False)
    write_colmap(binary, *pinhole, True)

    def refused(folder, name, content, words):
        path = folder / "sparse" / "0" / name
        right = path.read_bytes()
        path.write_bytes(content(right))
        with pytest.raises(ValueError, match=words) as error:
            find_posed_scenes(folder)
        assert "\n" not in str(error.value) and name in str(error.value)
        path.write_bytes(right)

    def swap(a, b):
        return lambda content: content.replace(a, b)

    refused(text, "cameras.txt", swap(b"70.0", b"nan"), "not finite in line 2")
    refused(text, "cameras.txt", swap(b"70.0", b"-70.0"), "focal length -70")
    refused(text, "cameras.txt", swap(b"PINHOLE", b"FISHEYE360"), "model 'FISHEYE360'")
    refused(text, "cameras.txt", swap(b"PINHOLE 96", b"FOV 96 72 5 5 5 5 5 #"), "no CAMERA_ID")
    refused(text, "cameras.txt", lambda c: b"7 FOV 96 72 70 70 46 37 1\n", "model FOV")
    refused(text, "cameras.txt", swap(b"7 PIN", b"8 PIN"), "camera 7, which .* does not have")
    refused(text, "images.txt", swap(b" 7 photo", b" photo"), "no IMAGE_ID, QW")
    zeros = b"# \n1 0 0 0 0 0 0 0 7 photo 0.png\n\n"
    refused(text, "images.txt", lambda c: zeros, "quaternion of zeros")
    refused(text, "images.txt", lambda c: zeros.replace(b" 0 0 7", b" inf 0 7"), "not finite")
    refused(text, "images.txt", lambda c: b"# none\n", "it lists no images")
    refused(text, "images.txt", lambda c: c + b"\xe9", "is not UTF-8")
    for cut in (4, 20, 60, 100):
        refused(binary, "images.bin", lambda c, cut=cut: c[:cut], "ends early")
    refused(binary, "images.bin", lambda c: c[:-1], "ends early")
    refused(binary, "cameras.bin", lambda c: c[:-1], "ends early")
    refused(binary, "cameras.bin", lambda c: b"\xff" * 8 + c[8:], "ends early")
    refused(binary, "cameras.bin", lambda c: c[:12] + b"\x63" + c[13:], "the model 99")
    nan = np.float64(np.nan).tobytes()
    refused(binary, "images.bin", lambda c: c[:12] + nan + c[20:], "not finite")
    for path in (text / "images").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="none of its 3 images exists"):
        find_posed_scenes(text)


def test_photos_that_are_no_images_are_named(tmp_path):
    write_transforms(tmp_path)
    (tmp_path / "images" / "photo_1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(ValueError, match=r"photo_1\.png cannot be decoded as an image"):
        find_posed_scenes(tmp_path)
    write_photo(tmp_path / "images" / "photo_1.png", 1, {})
    check_point(tmp_path)


def test_photos_of_something_that_moves_are_refused(tmp_path):
    write_transforms(tmp_path, {})
    file = tmp_path / "transforms.json"
    content = json.loads(file.read_text())
    for number, frame in enumerate(content["frames"]):
        frame["time"] = 0.5
        if number == 1:
            frame["time"] = 0.25
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"json has photos of several times .* 0\.25 as frames"):
        find_posed_scenes(tmp_path)
    content["frames"][1]["time"] = 0.5
    file.write_text(json.dumps(content))
    assert find_posed_scenes(tmp_path)[0].num_views == 3
