"""Photos of one point, with its exact place in each, and their cameras in other programs' files."""

import json
import struct

import numpy as np
from PIL import Image

SIZE = WIDTH, HEIGHT = 96, 72
POINT = np.array([0.35, -0.25, 4.0])
CENTERS = np.array([[-0.6, 0.1, 0.0], [0.0, -0.2, 0.1], [0.7, 0.15, -0.1]])
FOCAL, CENTER = (70.0, 75.0), (46.0, 37.5)
FAR = 3e6  # how far from its origin a world in geographic units is
BLOB = 1.5  # pixels, the standard deviation of the point's picture
TURN = {1: 0, 6: 1, 3: 2, 8: 3}  # quarter turns clockwise of EXIF's orientations


def rotation(number):
    """World to camera, by Euler angles that differ from view to view."""
    a, b, c = 0.1 * number - 0.1, 0.08 - 0.06 * number, 0.05 * number
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.array(about_x) @ about_y @ about_z


def bend(x, y, lens):
    """OpenCV's distortion formulas, of a dictionary of its coefficients."""
    get = lens.get
    r2 = x * x + y * y
    if "fisheye" in lens:
        r = np.sqrt(r2)
        t = np.arctan(r)
        bent = t + sum(get(f"k{i}", 0) * t ** (2 * i + 1) for i in (1, 2, 3, 4))
        return x * bent / r, y * bent / r
    radial = 1 + get("k1", 0) * r2 + get("k2", 0) * r2**2 + get("k3", 0) * r2**3
    radial /= 1 + get("k4", 0) * r2 + get("k5", 0) * r2**2 + get("k6", 0) * r2**3
    p1, p2 = get("p1", 0), get("p2", 0)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def seen_at(number, lens):
    """The pixel of the stored image at which the point is."""
    x, y, z = rotation(number) @ (POINT - CENTERS[number])
    x, y = bend(x / z, y / z, lens)
    return FOCAL[0] * x + CENTER[0], FOCAL[1] * y + CENTER[1]


def write_photo(path, number, lens, orientation=1, scale=1.0, turned=False):
    """The photo of a view: a bright blob at the point. turned: its pixels are upright already."""
    width, height = round(WIDTH * scale), round(HEIGHT * scale)
    u, v = (scale * value for value in seen_at(number, lens))
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    level = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * (BLOB * scale) ** 2))
    image = Image.fromarray(np.repeat((level * 255).round().astype(np.uint8)[..., None], 3, 2))
    exif = image.getexif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)


def to_world(number, shift=0.0):
    """Camera-to-world with OpenGL's axes, 4 x 4."""
    pose = np.eye(4)
    pose[:3, :3] = rotation(number).T @ np.diag([1, -1, -1])
    pose[:3, 3] = CENTERS[number] + shift
    return pose.tolist()


def write_transforms(folder, lens=None, shift=0.0, name="transforms.json", camera=None, **photo):
    """Three photos in images/ and their transforms.json. camera: instead of the intrinsics."""
    lens = lens or {}
    if camera is None:
        size = dict(zip("wh", SIZE))
        focal = {"fl_x": FOCAL[0], "fl_y": FOCAL[1], "cx": CENTER[0], "cy": CENTER[1]}
        kind = {"is_fisheye": True} if "fisheye" in lens else {}
        camera = {**size, **focal, **kind, **{k: v for k, v in lens.items() if k != "fisheye"}}
    frames = []
    for number in range(len(CENTERS)):
        file = f"images/photo_{number}.png"
        write_photo(folder / file, number, lens, **photo)
        frames.append({"file_path": file, "transform_matrix": to_world(number, shift)})
    (folder / name).write_text(json.dumps({**camera, "frames": frames}))


MODELS = ["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"]
MODELS += ["FULL_OPENCV", "FOV", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"]


def quaternion(matrix):
    """w, x, y, z of a rotation of less than 180 degrees."""
    w = np.sqrt(1 + np.trace(matrix)) / 2
    m = matrix
    return [w, *np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]) / (4 * w)]


def write_colmap(folder, model, parameters, lens, binary, names=None, **photo):
    """Three photos in images/ and COLMAP's model of them, with a point in each image."""
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    names = names or [f"photo {n}.png" for n in range(len(CENTERS))]
    poses = []
    for number, name in enumerate(names):
        write_photo(folder / "images" / name, number, lens, **photo)
        turn = rotation(number)
        poses.append([*quaternion(turn), *(-turn @ CENTERS[number])])
    if not binary:
        numbers = " ".join(map(repr, parameters))
        (sparse / "cameras.txt").write_text(
            f"# Camera list\n7 {model} {WIDTH} {HEIGHT} {numbers}\n"
        )
        lines = [
            f"{n + 1} {' '.join(map(repr, map(float, pose)))} 7 {name}\n{points}\n"
            for n, (pose, name, points) in enumerate(zip(poses, names, ("1.0 2.0 -1", "", "3 4 5")))
        ]
        (sparse / "images.txt").write_text("# Image list\n" + "".join(lines))
        return
    camera = struct.pack(f"<QiiQQ{len(parameters)}d", 1, 7, MODELS.index(model), *SIZE, *parameters)
    (sparse / "cameras.bin").write_bytes(camera)
    images = struct.pack("<Q", len(poses))
    for n, (pose, name) in enumerate(zip(poses, names)):
        images += struct.pack("<i7di", n + 1, *pose, 7) + name.encode() + b"\0"
        images += struct.pack("<Q", n) + struct.pack("<ddq", 1.0, 2.0, -1) * n
    (sparse / "images.bin").write_bytes(images)
