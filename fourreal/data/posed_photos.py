"""Photos with the cameras that another program gave them, made to fit the photos as they are read.

Cameras belong to the pixels as they are stored, at the size that the program worked on. The photo
may have been resized since, and is turned upright by its EXIF when it is read; then its camera is
turned with it. Lens distortion is undone.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from PIL import Image
from torch import Tensor

from fourreal.cameras import camera_centers, extrinsics_at, scale_intrinsics
from fourreal.data.lens import Lens, Straightening, straight_intrinsics
from fourreal.files.existing import existing_file
from fourreal.files.images import readable_formats

logger = logging.getLogger(__name__)

ORIENTATION = 0x0112  # EXIF's tag
TURNS = {1: 0, 6: 1, 3: 2, 8: 3}  # quarter turns clockwise of its values; the others are mirrored
NOT_A_ROTATION = 0.01  # how much the axes of a pose may be stretched: files are rounded
LARGEST_SIDE = 100_000  # pixels


@dataclass(frozen=True)
class PosedPhoto:
    """A photo and its camera as its file says.

    where: the file, and the place in it, for messages. extrinsics: [3, 4] in float64. focal and
    center (x, y) are in pixels of an image of `size` (width, height).
    """

    file: Path
    where: str
    extrinsics: Tensor
    focal: tuple[float, float]
    center: tuple[float, float]
    size: tuple[int, int]
    lens: Lens | None = None


@dataclass(frozen=True)
class FittedCamera:
    """The camera of a photo as it is read: intrinsics [3, 3] in its pixels, extrinsics [3, 4], and
    how its distortion is undone."""

    extrinsics: Tensor
    intrinsics: Tensor
    straightening: Straightening | None


def stored_size(path: Path) -> tuple[int, int, int]:
    """(width, height, EXIF orientation) of an image's stored pixels, which are not decoded.

    Raises ValueError when there is no such file or it is no image.
    """
    try:
        with Image.open(existing_file(path), formats=readable_formats()) as image:
            return *image.size, image.getexif().get(ORIENTATION, 1)
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has too many pixels; make it smaller.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded as an image: {error}.") from error


def check_missing(path: Path, listed: int, missing: list[str]) -> None:
    """Warn of images that a file of cameras lists but that do not exist.

    Raises ValueError when it lists none, or none exists.
    """
    if len(missing) == listed:
        found = f"none of its {listed} images exists" if listed else "it lists no images"
        raise ValueError(f"{path} gives no photos: {found}.")
    if missing:
        logger.warning(
            "%s lists %d images that do not exist, the first of them %r; they are left out.",
            *(path, len(missing), missing[0]),
        )


def alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) have one aspect, up to one pixel of the smaller image."""
    difference = abs(size[0] * other[1] - size[1] * other[0])
    return difference <= max(max(size), max(other))


def rotation_of(matrix: Tensor, wrong: Callable[[str], NoReturn]) -> Tensor:
    """The rotation [3, 3] nearest to a matrix [3, 3] that should be one.

    Calls wrong(what is needed) for a matrix that is reflected, stretches or has no inverse.
    """
    left, stretch, right = torch.linalg.svd(matrix)
    if not stretch[2] > 1e-6 * stretch[0]:
        wrong("a pose that has an inverse")
    if (stretch - 1).abs().max() > NOT_A_ROTATION:
        wrong("a pose whose axes have the length 1 and are at right angles")
    rotation = left @ right
    if torch.linalg.det(rotation) < 0:
        wrong("a pose that is not mirrored")
    return rotation


def _turned(camera: tuple[Tensor, Tensor], width: int, height: int) -> tuple[Tensor, Tensor]:
    """Extrinsics and intrinsics after the image of width x height was turned clockwise by a
    quarter, by which pixel (x, y) becomes (height - y, x)."""
    extrinsics, k = camera
    turn = extrinsics.new_tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = k.new_tensor([[k[1, 1], 0, height - k[1, 2]], [0, k[0, 0], k[0, 2]], [0, 0, 1]])
    return turn @ extrinsics, turned


def fit_camera(photo: PosedPhoto) -> FittedCamera:
    """The camera of a photo as read_image and the straightening give it.

    Raises ValueError naming the file when its camera is of an image of another aspect, its centre
    lies outside, its EXIF mirrors it, or its distortion cannot be undone.
    """
    width, height, orientation = stored_size(photo.file)
    if orientation in (2, 4, 5, 7):
        raise ValueError(
            f"{photo.file} is mirrored by its EXIF orientation {orientation}, which no camera can "
            f"follow; save it upright, and its camera in {photo.where} with it."
        )
    turns = TURNS.get(orientation, 0)
    if not alike(photo.size, (width, height)):
        if turns % 2 == 0 or not alike(photo.size, (height, width)):
            raise ValueError(
                f"{photo.where} is of an image of {photo.size[0]} x {photo.size[1]} pixels, but "
                f"{photo.file} has {width} x {height}, another aspect; give the images that the "
                "cameras were found with, or resized ones that are not cropped."
            )
        turns, width, height = 0, height, width  # the program had turned the photo upright itself
    intrinsics = torch.eye(3, dtype=torch.float64)
    intrinsics[0, 0], intrinsics[1, 1] = photo.focal
    intrinsics[0, 2], intrinsics[1, 2] = photo.center
    intrinsics = scale_intrinsics(intrinsics, width / photo.size[0], height / photo.size[1])
    x, y = intrinsics[:2, 2].tolist()
    if not (0 < x < width and 0 < y < height):
        raise ValueError(
            f"{photo.where} has its centre at ({x:g}, {y:g}), outside of {photo.file}, which has "
            f"{width} x {height} pixels; w and h may be missing, or it may be of another image."
        )
    straightening = None
    if photo.lens is not None and photo.lens.bends:
        try:
            straight = straight_intrinsics(photo.lens, intrinsics, height, width)
        except ValueError as error:
            raise ValueError(
                f"{photo.where} cannot be used: {error}; undistort the images before."
            ) from None
        straightening = Straightening(photo.lens, turns, intrinsics, straight)
        intrinsics = straight
    camera, size = (photo.extrinsics, intrinsics), (width, height)
    for _ in range(turns):
        camera, size = _turned(camera, *size), size[::-1]
    return FittedCamera(camera[0], camera[1].float(), straightening)


def around_origin(extrinsics: Tensor) -> Tensor:
    """Extrinsics [V, 3, 4] of the same cameras with the world's origin among them.

    Worlds in geographic units have positions of millions, whose differences float32 does not hold.
    """
    centers = camera_centers(extrinsics)
    return extrinsics_at(centers - centers.mean(0), extrinsics[..., :3])
