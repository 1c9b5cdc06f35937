"""transforms.json: NeRF's, instant-ngp's and nerfstudio's file of photos and their cameras.

Poses are camera-to-world with OpenGL's axes. Intrinsics stand at the top or in each frame: focal
lengths fl_x, fl_y or angles camera_angle_x, camera_angle_y (radians), x_fov, y_fov (degrees); the
centre cx, cy is the image's where it is missing, and so are w and h. Distortion is OpenCV's
(k1, k2, k3, p1, p2) or, of fisheye lenses, k1 to k4.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from fourreal.cameras import from_opengl
from fourreal.data.lens import Lens
from fourreal.data.posed_photos import (
    LARGEST_SIDE,
    PosedPhoto,
    check_missing,
    rotation_of,
    stored_size,
)
from fourreal.files.json_files import JsonValue, read_json
from fourreal.files.media import IMAGE_SUFFIXES

# The first that a folder has is read: images held out for tests stay held out.
NAMES = (
    "transforms.json",
    "transforms_train.json",
    "transforms_val.json",
    "transforms_test.json",
)
PERSPECTIVE = {"PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE"}
FISHEYE = {"OPENCV_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
# What else these files and those of photogrammetry say of lenses, of which nothing is undone here.
OTHER_LENSES = (
    *("k5", "k6", "p3", "p4", "s1", "s2", "s3", "s4", "b1", "b2", "skew", "distortion_params"),
    *("ftheta_p0", "ftheta_p1", "ftheta_p2", "ftheta_p3", "ftheta_p4"),
    *("latlong", "equirectangular", "orthographic"),
)


def transforms_file(folder: Path) -> Path | None:
    """The file of cameras in a folder, if there is one."""
    return next((path for name in NAMES if (path := folder / name).is_file()), None)


def read_transforms(path: Path) -> list[PosedPhoto]:
    """The photos that a file lists and that exist; one warning tells how many do not.

    Raises ValueError in one sentence naming the file and the place when a value is wrong, a lens
    cannot be undone, no photo is left, or the photos are of several times.
    """
    content = read_json(path)
    frames, photos, missing = content.get("frames").entries(), [], []
    _check_times(frames)
    for frame in frames:
        listed = frame.get("file_path")
        image = _find_image(listed, path.parent)
        if image is None:
            missing.append(listed.string())
        else:
            photos.append(_photo(image, frame, content))
    check_missing(path, len(frames), missing)
    return photos


def _check_times(frames: list[JsonValue]) -> None:
    """Raise ValueError for photos of something that moves, which D-NeRF's files give times."""
    times = [time for frame in frames if (time := frame.find("time"))]
    for time in times:
        if time.number() != times[0].number():
            raise ValueError(
                f"{time.file} has photos of several times ({times[0].value} as {times[0].place}, "
                f"{time.value} as {time.place}), but what is read here must stand still; keep the "
                "photos of one time."
            )


def _find_image(listed: JsonValue, folder: Path) -> Path | None:
    """The image that a frame lists, whose ending may be left away; hidden files are none."""
    path = listed.path_in(folder)
    try:
        for ending in ("", *IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES)):
            found = path.with_name(path.name + ending) if path.name else path
            if found.is_file() and not found.name.startswith("."):
                return found
    except OSError:
        listed.wrong("a name that a file can have")
    return None


def _value(frame: JsonValue, content: JsonValue, key: str) -> JsonValue | None:
    """A value of a frame, or of the whole file where the frame has none."""
    return frame.find(key) or content.find(key)


def _photo(image: Path, frame: JsonValue, content: JsonValue) -> PosedPhoto:
    def find(key: str, low: float, high: float) -> float | None:
        value = _value(frame, content, key)
        return None if value is None else value.number(low, high)

    def focal(axis: str, side: int) -> float | None:
        given = find(f"fl_{axis}", 1e-6, 1e9)
        if given is not None:
            return given
        degrees = find(f"{axis}_fov", 1e-3, 179.9)
        angle = find(f"camera_angle_{axis}", 1e-5, 3.14) if degrees is None else degrees
        if angle is None:
            return None
        return side / 2 / math.tan((angle if degrees is None else math.radians(degrees)) / 2)

    stored = stored_size(image)[:2]
    width, height = (_value(frame, content, key) for key in ("w", "h"))
    given = [side.integer(1, LARGEST_SIDE) if side else None for side in (width, height)]
    size = given[0] or stored[0], given[1] or stored[1]
    across, down = focal("x", size[0]), focal("y", size[1])
    if across is None and down is None:
        raise ValueError(
            f"{frame.file} has no fl_x and no camera_angle_x for {frame.place}; give one of them."
        )
    center = (find("cx", -1e6, 1e6), find("cy", -1e6, 1e6))
    return PosedPhoto(
        image,
        f"{frame.place} of {frame.file}",
        read_pose(frame.get("transform_matrix")),
        (across or down or 0, down or across or 0),
        (
            size[0] / 2 if center[0] is None else center[0],
            size[1] / 2 if center[1] is None else center[1],
        ),
        size,
        _lens(frame, content),
    )


def read_pose(matrix: JsonValue) -> Tensor:
    """Extrinsics [3, 4] in float64 of OpenGL's camera-to-world matrix of 3 or 4 rows."""
    rows = matrix.entries()
    if len(rows) not in (3, 4):
        matrix.wrong("a matrix of 4 x 4")
    values = torch.tensor([row.numbers(4) for row in rows], dtype=torch.float64)
    if len(rows) == 4 and values[3].tolist() != [0, 0, 0, 1]:
        rows[3].wrong("the row [0, 0, 0, 1]")
    rotation = rotation_of(values[:3, :3], matrix.wrong)
    return from_opengl(torch.cat([rotation, values[:3, 3:]], -1))


def _lens(frame: JsonValue, content: JsonValue) -> Lens | None:
    """The lens of a frame; None for a pinhole. Raises ValueError for one that is not known."""
    for key in OTHER_LENSES:
        value = _value(frame, content, key)
        if value is not None and value.value and value.value != [0] * len(_list(value.value)):
            value.wrong("a lens of OpenCV's models (undistort the images before), so nothing here")
    model = _value(frame, content, "camera_model")
    name = model.string().upper() if model else "PERSPECTIVE"
    flag = _value(frame, content, "is_fisheye")
    fisheye = name in FISHEYE or (flag is not None and flag.boolean())
    if model and name not in PERSPECTIVE | FISHEYE:
        model.wrong(f"one of {', '.join(sorted(PERSPECTIVE | FISHEYE))} (undistort others before)")

    def number(key: str) -> float:
        value = _value(frame, content, key)
        return value.number(-1e6, 1e6) if value else 0.0

    k1, k2, k3, k4, p1, p2 = (number(key) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if fisheye:
        if p1 or p2:
            raise ValueError(f"{frame.file} has p1 or p2, which OpenCV's fisheye lens has not.")
        return Lens("fisheye", (k1, k2, k3, k4))
    if k4:  # OpenCV divides by it, nerfstudio multiplies
        raise ValueError(
            f"{frame.file} has k4 with a lens that is no fisheye, of which programs mean different "
            "things; undistort the images before."
        )
    lens = Lens("perspective", (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0))
    return lens if lens.bends else None


def _list(value: object) -> list:
    return value if isinstance(value, list) else []
