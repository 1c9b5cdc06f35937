"""Any file of Gaussians, or folder of a sequence, opened as a scene that can be drawn.

Files without cameras get one: outside of what they hold, looking along z as captures do.
"""

import os
from pathlib import Path

import torch

from fourreal.files.existing import existing_file
from fourreal.formats.finite import only_finite
from fourreal.formats.four_dgs import read_4dgs
from fourreal.formats.scene_file import load_scene
from fourreal.formats.sequence import load_sequence
from fourreal.formats.suffixes import FORMATS, load_gaussians
from fourreal.formats.usd import SUFFIXES as USD_SUFFIXES
from fourreal.formats.usd import read_usd
from fourreal.formats.zip_sequence import load_zip
from fourreal.gaussians import Gaussians, GaussianScene

WIDTH, HEIGHT = 640, 480
FOCAL = 1.2 * HEIGHT  # pixels: 45 degrees of height
SHARE = 0.9  # of the Gaussians, whose distance from the middle the camera keeps in sight
FPS = 24.0  # of sequences, which do not say theirs


def open_scene(path: str | os.PathLike) -> GaussianScene:
    """A scene from a scene file, a .ply, .spz, .splat or .glb file, a folder or .zip of them,
    OpenUSD or .4dgs.

    What one file of Gaussians holds stands still, in a scene of one time; a folder's files are its
    times (load_sequence). Without cameras of its own it gets one of 640 x 480 pixels that looks at
    its middle. Gaussians that are not finite are left out with a warning. Raises ValueError for
    another suffix, for what holds no Gaussians, and as the readers do.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".zip":
        times = load_sequence(path) if path.is_dir() else load_zip(path)
        return framed_scene(Gaussians.empty(times[0].harmonics.shape[1]), times, FPS, path)
    if suffix == ".safetensors":
        scene = load_scene(path)
        scene.static, *scene.dynamic = (
            only_finite(g, path) for g in (scene.static, *scene.dynamic)
        )
        return scene
    if suffix in USD_SUFFIXES:
        return framed_scene(*read_usd(path), path)
    if suffix == ".4dgs":
        return framed_scene(*read_4dgs(path), path)
    if suffix in FORMATS:
        still = load_gaussians(path)
        return framed_scene(still, [Gaussians.empty(still.harmonics.shape[1])], FPS, path)
    kinds = (".safetensors", *FORMATS, *USD_SUFFIXES, ".4dgs", ".zip")
    existing_file(path)
    raise ValueError(
        f"{path} has the suffix {suffix!r}, but scenes are {', '.join(kinds)} or folders of "
        f"{', '.join(FORMATS)}."
    )


def framed_scene(
    static: Gaussians, dynamic: list[Gaussians], fps: float, name: str | os.PathLike
) -> GaussianScene:
    """A scene with one camera of 640 x 480 pixels, at such a distance that it sees SHARE of what is
    there at first. It has observed nothing.

    Raises ValueError, with the name of where they come from, where there are no Gaussians.
    """
    filled = next((g for g in dynamic if len(g)), Gaussians.empty())
    means = torch.cat([static.means, filled.means])
    if not len(means):
        raise ValueError(f"{name} holds no Gaussians; there is nothing to see.")
    middle = means.median(dim=0).values
    reach = (means - middle).norm(dim=1).sort().values[int(SHARE * (len(means) - 1))]
    distance = max(float(reach) * (1 + 2 * FOCAL / HEIGHT), 1e-3)
    extrinsics = torch.eye(3, 4)
    extrinsics[:, 3] = torch.tensor([0, 0, distance]) - middle
    intrinsics = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return GaussianScene(
        static,
        dynamic,
        extrinsics[None],
        intrinsics[None],
        WIDTH,
        HEIGHT,
        fps,
        observed=torch.zeros(1, len(dynamic), dtype=torch.bool),
    )
