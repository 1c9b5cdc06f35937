"""COLMAP's sparse models: cameras and poses of photos, in text or binary (colmap.github.io/format).

A folder has sparse/0 (or sparse) beside its images. Pixels are counted from the corner of the first
one, poses are world to camera with OpenCV's axes: as everywhere here. 3D points are not read.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from fourreal.cameras import quaternion_to_matrix
from fourreal.data.lens import Lens
from fourreal.data.posed_photos import LARGEST_SIDE, PosedPhoto, check_missing
from fourreal.files.text_files import has_control, read_text, text_lines

PLACES = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "sparse_txt")
# Where the photos are; smaller copies of them (images_2: half the size) are as good.
PHOTOS = ("images", "input", "images_2", "images_4", "images_8", "")
# Name and number of parameters, by COLMAP's number of the model
MODELS = (
    *(("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8)),
    *(("OPENCV_FISHEYE", 8), ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4)),
    *(("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12), ("RAD_TAN_THIN_PRISM_FISHEYE", 16)),
)
ONE_FOCAL = ("SIMPLE_", "RADIAL")  # beginnings of models with one focal length
UNKNOWN = ("FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE")


class ColmapCamera(NamedTuple):
    """Model, width and height in pixels, and the model's parameters."""

    model: str
    size: tuple[int, int]
    parameters: tuple[float, ...]


class ColmapImage(NamedTuple):
    """Quaternion (w, x, y, z) and translation of world to camera, camera and file name."""

    pose: tuple[float, ...]
    camera: int
    name: str


def colmap_model(folder: Path) -> Path | None:
    """The folder with a model's cameras and images, if there is one."""
    for place in PLACES:
        for suffix in (".bin", ".txt"):
            if all((folder / place / f"{n}{suffix}").is_file() for n in ("cameras", "images")):
                return folder / place
    return None


def read_colmap(folder: Path, model: Path) -> list[PosedPhoto]:
    """The photos of a model that exist in a folder; one warning tells how many do not.

    Raises ValueError in one sentence naming the file when a value is wrong, a lens is not known or
    no photo is left.
    """
    binary = all((model / f"{name}.bin").is_file() for name in ("cameras", "images"))
    suffix = ".bin" if binary else ".txt"
    files = model / f"cameras{suffix}", model / f"images{suffix}"
    cameras = (_binary_cameras if binary else _text_cameras)(files[0])
    images = list((_binary_images if binary else _text_images)(files[1]))
    held = (root for root in PHOTOS if any(_is_photo(folder / root / i.name) for i in images))
    root = next(held, "images")
    photos, missing = [], []
    for image in images:
        if image.camera not in cameras:
            raise ValueError(
                f"{files[1]} has {image.name!r} with the camera {image.camera}, which {files[0]} "
                "does not have."
            )
        if not _is_photo(folder / root / image.name):
            missing.append(image.name)
            continue
        camera = cameras[image.camera]
        where = f"the camera of {image.name!r} in {files[1]}"
        extrinsics = _extrinsics(image, where)
        focal, center, lens = _intrinsics(camera, f"camera {image.camera} of {files[0]}")
        path = folder / root / image.name
        photos.append(PosedPhoto(path, where, extrinsics, focal, center, camera.size, lens))
    check_missing(files[1], len(images), missing)
    return photos


def _is_photo(path: Path) -> bool:
    try:
        return path.is_file() and not path.name.startswith(".")
    except OSError:  # a name that no file can have
        return False


def _extrinsics(image: ColmapImage, where: str) -> Tensor:
    quaternion, translation = torch.tensor(image.pose, dtype=torch.float64).split([4, 3])
    if not quaternion.norm() > 1e-6:
        raise ValueError(f"{where} has a quaternion of zeros, which is no rotation.")
    return torch.cat([quaternion_to_matrix(quaternion), translation[:, None]], -1)


def _intrinsics(
    camera: ColmapCamera, where: str
) -> tuple[tuple[float, float], tuple[float, float], Lens | None]:
    model, values = camera.model, camera.parameters
    if model in UNKNOWN:
        raise ValueError(
            f"{where} has a lens of the model {model}, which is not undone here; run `colmap "
            "image_undistorter` before."
        )
    focals = 1 if model.startswith(ONE_FOCAL) else 2
    focal, center = values[:focals] * (3 - focals), values[focals : focals + 2]
    k = values[focals + 2 :]
    if not min(focal) > 0:
        raise ValueError(f"{where} has the focal length {min(focal):g}, which must be positive.")
    if "FISHEYE" in model:
        lens = Lens("fisheye", (*k, *(0.0,) * (4 - len(k))))
    else:
        lens = Lens("perspective", (*k, *(0.0,) * (8 - len(k))))
    return (focal[0], focal[1]), (center[0], center[1]), lens if lens.bends else None


def _camera(
    wrong: Callable[[str], NoReturn], model: str, size: list[int], parameters: list[float]
) -> ColmapCamera:
    """A camera after its values were checked; wrong(reason) raises for those that cannot be."""
    if model not in dict(MODELS) or dict(MODELS)[model] != len(parameters):
        wrong(f"the model {model[:40]!r} with {len(parameters)} parameters, which is not COLMAP's")
    if not all(0 < side <= LARGEST_SIDE for side in size):
        wrong(f"an image of {size[0]} x {size[1]} pixels")
    if not all(abs(value) < 1e9 for value in parameters):  # not of NaN
        wrong("parameters that are not finite")
    return ColmapCamera(model, (size[0], size[1]), tuple(parameters))


def _image(
    wrong: Callable[[str], NoReturn], pose: list[float], camera: int, name: str
) -> ColmapImage:
    if not all(abs(value) < 1e12 for value in pose):
        wrong(f"a pose of {name[:60]!r} that is not finite")
    if not name or has_control(name):
        wrong("an image without a name, or with control characters in it")
    return ColmapImage(tuple(pose), camera, name)


def _told(path: Path, place: str) -> Callable[[str], NoReturn]:
    def wrong(what: str) -> NoReturn:
        raise ValueError(f"{path} has {what} in {place}.")

    return wrong


def _text_rows(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) of a file that are no comments; empty lines too."""
    for number, line in enumerate(text_lines(read_text(path)), 1):
        if not line.startswith("#"):
            yield number, line


def _text_cameras(path: Path) -> dict[int, ColmapCamera]:
    cameras = {}
    for number, line in _text_rows(path):
        if not line.strip():
            continue
        wrong, words = _told(path, f"line {number}"), line.split()
        try:
            key, width, height = (int(words[i]) for i in (0, 2, 3))
            parameters = [float(word) for word in words[4:]]
        except (ValueError, IndexError):
            wrong("no CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]")
        cameras[key] = _camera(wrong, words[1], [width, height], parameters)
    return cameras


def _text_images(path: Path) -> Iterator[ColmapImage]:
    """Every image takes two lines; the second, of points, may be empty."""
    points = False
    for number, line in _text_rows(path):
        if points or not line.strip():
            points = False
            continue
        wrong, words = _told(path, f"line {number}"), line.split(maxsplit=9)
        try:
            pose, camera, name = [float(word) for word in words[1:8]], int(words[8]), words[9]
        except (ValueError, IndexError):
            wrong("no IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME")
        yield _image(wrong, pose, camera, name.strip().replace("\\", "/"))
        points = True


class _Reader:
    """Little-endian values of a binary file, one after the other."""

    def __init__(self, path: Path):
        self.path, self.content, self.at = path, path.read_bytes(), 0

    def take(self, layout: str) -> tuple:
        size = struct.calcsize(f"<{layout}")
        if self.at + size > len(self.content):
            raise ValueError(f"{self.path} ends early: {self.at + size} bytes are needed.")
        values = struct.unpack_from(f"<{layout}", self.content, self.at)
        self.at += size
        return values

    def name(self) -> str:
        end = self.content.find(b"\x00", self.at)
        if end < 0:
            raise ValueError(f"{self.path} ends early: a name has no end.")
        name, self.at = self.content[self.at : end], end + 1
        try:
            return name.decode().replace("\\", "/")
        except UnicodeDecodeError:
            raise ValueError(f"{self.path} has a name that is not UTF-8, {name[:40]!r}.") from None


def _binary_cameras(path: Path) -> dict[int, ColmapCamera]:
    reader, cameras = _Reader(path), {}
    for number in range(reader.take("Q")[0]):
        key, model, *size = reader.take("iiQQ")
        wrong = _told(path, f"camera {number}")
        if not 0 <= model < len(MODELS):
            wrong(f"the model {model}, which is not COLMAP's")
        name, count = MODELS[model]
        cameras[key] = _camera(wrong, name, size, list(reader.take(f"{count}d")))
    return cameras


def _binary_images(path: Path) -> Iterator[ColmapImage]:
    reader = _Reader(path)
    for number in range(reader.take("Q")[0]):
        _, *pose, camera = reader.take("i7di")
        name = reader.name()
        (points,) = reader.take("Q")
        reader.at += points * struct.calcsize("<ddq")
        yield _image(_told(path, f"image {number}"), pose, camera, name)
    reader.take("")  # the points of the last image are there too
