"""A dynamic scene as .4dgs (4dgs.dev): one file for all times, read and written by `fourdgs`.

What stands still is visible all the time; what moves is visible for the length of its own frame,
so that the file shows what the scene shows. Axes are y up ("y-up-right-handed"), so Gaussians are
turned by 180 degrees about x on the way out and back on the way in. Needs the extra `fourdgs`.
"""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourreal.files.existing import existing_file
from fourreal.files.extras import import_extra, install_extra
from fourreal.formats.blocks import bytes_of, largest_result
from fourreal.formats.finite import only_finite
from fourreal.formats.scene_file import MAX_FPS, MAX_TIMES
from fourreal.formats.similarity import moved
from fourreal.formats.usd import UP
from fourreal.formats.writing import written_whole
from fourreal.gaussians import (
    Gaussians,
    GaussianScene,
    harmonics_to_rgb,
    rgb_to_harmonics,
    turn_about_x,
)

SH_LIMIT = 4.0  # of harmonics above degree 0, which are stored in 256 steps
MAX_DEGREE = 3
FPS = 24.0  # of files that do not say theirs: the format has no frames
TIME = 4096  # bytes that a time takes beside its Gaussians
AXES, COLORS = "y-up-right-handed", "srgb-rec709-display"


def import_fourdgs() -> Any:
    """The package. Raises ValueError where it is not installed."""
    return import_extra(
        "fourdgs", f".4dgs files need the package fourdgs; {install_extra('fourdgs')}."
    )


def save_4dgs(scene: GaussianScene, path: str | os.PathLike) -> None:
    """Write a scene as .4dgs.

    Lossy, as its "fine" profile: positions to 2% of the median scale, scales to 0.5%, rotations to
    0.0005, colours (in [0, 1]) and opacities to half of 1/255, harmonics above degree 0 in 256
    steps from -4 to 4. Gaussians that are not finite are left out, with a warning. Raises
    ValueError without fourdgs.
    """
    fourdgs = import_fourdgs()
    parts, starts, ends = [], [], []
    duration = scene.num_frames / scene.fps
    times = [(scene.static, 0.0, duration)]
    times += [(g, t / scene.fps, (t + 1) / scene.fps) for t, g in enumerate(scene.dynamic)]
    for gaussians, begins, ceases in times:
        parts.append(turn_about_x(only_finite(gaussians, path)))
        starts.append(np.full(len(parts[-1]), begins))
        ends.append(np.full(len(parts[-1]), ceases))
    g = Gaussians.concatenate(parts)
    count, start, end = len(g), np.concatenate(starts), np.concatenate(ends)
    degree = min(round(g.harmonics.shape[1] ** 0.5) - 1, MAX_DEGREE)
    rest = g.harmonics[:, 1 : (degree + 1) ** 2].transpose(1, 2).flatten(1)
    color = torch.cat([harmonics_to_rgb(g.harmonics), g.opacities[:, None]], dim=1).clamp(0, 1)
    splats = fourdgs.GaussianSet(
        positions=g.means.numpy(),
        scales=g.scales.numpy(),
        rotations=torch.nn.functional.normalize(g.quaternions, dim=-1).roll(-1, -1).numpy(),
        colors=color.numpy(),
        motions=np.zeros((count, 3), np.float32),
        mu_t=((start + end) / 2).astype(np.float32),
        sigma_t=np.full(count, np.inf, np.float32),
        win_lo=start,
        win_hi=end,
        sh=_to_bytes(rest) if degree else None,
        sh_degree=degree,
    )
    about = {"coordinate_system": AXES, "color_space": COLORS, "fps": repr(float(scene.fps))}
    options = fourdgs.WriteOptions(profile="fine", metadata=about)
    with written_whole(path) as temporary:
        fourdgs.write(str(temporary), splats, duration, options=options)


def read_4dgs(path: str | os.PathLike) -> tuple[Gaussians, list[Gaussians], float]:
    """(what stands still, what there is at each frame's middle, frames per second) of a .4dgs file.

    Frames are those that the file names, else 24 a second. The frames together may take 64 MB, or
    32 times the file's size where that is more. Gaussians that are not finite are left out, with a
    warning. Raises ValueError for files that are missing, damaged, larger when unfolded, of axes or
    colours that are not known, and without fourdgs.
    """
    fourdgs = import_fourdgs()
    path = existing_file(path)
    try:
        scene = fourdgs.read(str(path), recover_truncated=False)
    except (fourdgs.FourdgsError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a .4dgs file that can be read: {reason}.") from error
    about, duration = scene.header.attributes, scene.header.duration_sec
    if about.get("color_space", COLORS) != COLORS:
        raise ValueError(
            f"{path} has the colour space {about['color_space']!r}, but {COLORS!r} is read."
        )
    fps = _rate(about.get("fps"))
    count = max(1, round(duration * fps)) if 0 <= duration * fps < MAX_TIMES else MAX_TIMES + 1
    if count > MAX_TIMES:
        raise ValueError(f"{path} lasts {duration:g} s, but at most {MAX_TIMES} times are read.")
    splats = scene.gaussians
    ever = (splats.win_lo <= 0) & (splats.win_hi >= duration) & np.isinf(splats.sigma_t)
    tracked = splats.object_id is not None and scene.objects is not None
    still = ever & (splats.motions == 0).all(1) & (not tracked)
    harmonics = _harmonics(splats)
    left = largest_result(path) - bytes_of(int(still.sum()), harmonics.shape[1])

    def part(
        rows: np.ndarray, centers: np.ndarray, turns: np.ndarray, alpha: np.ndarray
    ) -> Gaussians:
        xyzw, scales = torch.from_numpy(turns.astype(np.float32)), splats.scales[rows]
        g = Gaussians(
            torch.from_numpy(centers.astype(np.float32)),
            xyzw.roll(1, -1),
            torch.from_numpy(scales.astype(np.float32)),
            torch.from_numpy(alpha.astype(np.float32)),
            harmonics[torch.from_numpy(rows)],
        )
        return only_finite(_in_our_axes(g, about.get("coordinate_system"), path), path)

    rows = np.flatnonzero(still)
    static = part(rows, splats.positions[rows], splats.rotations[rows], splats.colors[rows, 3])
    dynamic = []
    for time in range(count):
        state = scene.state_at((time + 0.5) / fps)
        moving = ~still[state["indices"]]
        rows = state["indices"][moving]
        left -= bytes_of(len(rows), harmonics.shape[1]) + TIME
        if left < 0:
            raise ValueError(
                f"{path} unfolds to more than 32 times its size at {fps:g} frames per second; "
                "write it with fewer Gaussians."
            )
        values = (state[name][moving] for name in ("centers", "orientations", "opacity"))
        dynamic.append(part(rows, *values))
    return static, dynamic, fps


def _rate(text: str | None) -> float:
    """Frames per second as the file names them."""
    try:
        rate = float(text) if text else FPS
    except ValueError:
        return FPS
    return rate if 0 < rate <= MAX_FPS else FPS


def _to_bytes(rest: Tensor) -> np.ndarray:
    """Harmonics in 256 steps (section 6.5 of the specification)."""
    steps = (rest + SH_LIMIT) * (255 / (2 * SH_LIMIT))
    return steps.round().clamp(0, 255).byte().numpy()


def _harmonics(splats: Any) -> Tensor:
    """Harmonics [N, K, 3] of a decoded set."""
    base = rgb_to_harmonics(torch.from_numpy(splats.colors[:, :3].astype(np.float32)))
    if splats.sh is None or not splats.sh_degree:
        return base
    rest = torch.from_numpy(np.asarray(splats.sh).astype(np.float32))
    rest = rest * (2 * SH_LIMIT / 255) - SH_LIMIT
    return torch.cat([base, rest.view(len(rest), 3, -1).transpose(1, 2)], dim=1)


def _in_our_axes(g: Gaussians, axes: str | None, path: os.PathLike) -> Gaussians:
    """From a file's axes to ours; a file that says nothing has those of the PLY files it was made
    of, which are ours."""
    if axes is None:
        return g
    if axes == AXES:
        return turn_about_x(g)
    if axes == "z-up-right-handed":
        turn = torch.tensor(UP["Z"], dtype=torch.float64)
        return moved(g, 1.0, turn[:3, :3], turn[:3, 3])
    raise ValueError(f"{path} has the axes {axes!r}, but {AXES} or z-up-right-handed is read.")
