"""A dynamic scene as OpenUSD (26.03 or later): UsdVol.ParticleField3DGaussianSplat, time-sampled.

One prim holds what stands still, one what moves, with a sample per time. The data has OpenCV's
axes; their parent turns it by 180 degrees about x, so that it stands upright in a Y-up stage.
Needs the extra `usd` (usd-core).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourreal.files.existing import existing_file
from fourreal.files.extras import install_extra
from fourreal.formats import usd_reader
from fourreal.formats.blocks import bytes_of, largest_result
from fourreal.formats.finite import only_finite
from fourreal.formats.similarity import placed
from fourreal.formats.usd_reader import FIELDS
from fourreal.formats.writing import written_whole
from fourreal.gaussians import Gaussians, GaussianScene

SUFFIXES = (".usd", ".usda", ".usdc")
MAX_TIMES = 2**15
UP = {  # from a stage's axes to ours
    "Y": [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]],
    "Z": [[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
}


def import_usd() -> tuple[Any, Any, Any, Any]:
    """pxr's Usd, UsdGeom, UsdVol and Vt. Raises ValueError when they are not installed."""
    try:
        from pxr import Usd, UsdGeom, UsdVol, Vt

        UsdVol.ParticleField3DGaussianSplat  # noqa: B018 - absent before 26.03
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"OpenUSD files need usd-core 26.3 or later ({error}); {install_extra('usd')}."
        ) from error
    return Usd, UsdGeom, UsdVol, Vt


def save_usd(scene: GaussianScene, path: str | os.PathLike) -> None:
    """Write a scene's Gaussians, float32, to *.usd, *.usda or *.usdc with scene.fps times a second.

    The stage has Y up. Gaussians that are not finite are left out, with a warning. Raises
    ValueError for another suffix or without usd-core, and OSError where it cannot be written.
    """
    Usd, UsdGeom, UsdVol, Vt = import_usd()
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} must end in one of {', '.join(SUFFIXES)}.")
    with written_whole(path) as temporary:
        stage = Usd.Stage.CreateNew(str(temporary))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        stage.SetTimeCodesPerSecond(scene.fps)
        stage.SetStartTimeCode(0)
        stage.SetEndTimeCode(scene.num_frames - 1)
        root = UsdGeom.Xform.Define(stage, "/Scene")
        root.AddRotateXOp().Set(180.0)
        stage.SetDefaultPrim(root.GetPrim())
        highest = Gaussians.empty(scene.num_harmonics)  # lower degrees are padded to it
        parts = {"Static": [(scene.static, Usd.TimeCode.Default())]}
        parts["Dynamic"] = [(g, Usd.TimeCode(t)) for t, g in enumerate(scene.dynamic)]
        for name, samples in parts.items():
            prim = UsdVol.ParticleField3DGaussianSplat.Define(stage, f"/Scene/{name}")
            prim.CreateRadianceSphericalHarmonicsDegreeAttr(round(scene.num_harmonics**0.5) - 1)
            for gaussians, time in samples:
                g = Gaussians.concatenate([only_finite(gaussians, path), highest])
                g = g.map(lambda x: x.contiguous())
                harmonics = g.harmonics.view(-1, 3).numpy()
                xyzw = g.quaternions.roll(-1, dims=-1).contiguous().numpy()
                prim.CreatePositionsAttr().Set(Vt.Vec3fArray.FromNumpy(g.means.numpy()), time)
                prim.CreateOrientationsAttr().Set(Vt.QuatfArray.FromNumpy(xyzw), time)
                prim.CreateScalesAttr().Set(Vt.Vec3fArray.FromNumpy(g.scales.numpy()), time)
                prim.CreateOpacitiesAttr().Set(Vt.FloatArray.FromNumpy(g.opacities.numpy()), time)
                prim.CreateRadianceSphericalHarmonicsCoefficientsAttr().Set(
                    Vt.Vec3fArray.FromNumpy(harmonics), time
                )
        try:
            stage.GetRootLayer().Save()
        except RuntimeError as error:  # pxr's own, of several lines
            raise OSError(f"cannot write {path}: the disk is full, or not writable") from error


def load_usd(path: str | os.PathLike) -> list[Gaussians]:
    """The Gaussians of every time of an OpenUSD file, all its splat prims together.

    Raises ValueError as read_usd does, and where what stands still, once for each time, would take
    more memory than read_usd reads.
    """
    static, dynamic, _ = read_usd(path)
    repeated = len(dynamic) * bytes_of(len(static), static.harmonics.shape[1])
    if repeated > largest_result(existing_file(path)):
        raise ValueError(
            f"{path} has {len(static)} Gaussians that stand still at {len(dynamic)} times, "
            "too many to repeat for each time; open it with fourreal.formats.open_scene."
        )
    return [Gaussians.concatenate([static, part]) for part in dynamic]


def read_usd(path: str | os.PathLike) -> tuple[Gaussians, list[Gaussians], float]:
    """(what stands still, what moves at each time, times per second) of an OpenUSD file.

    Read in a child process. Z-up stages are turned to our axes; prims may be moved, turned and
    scaled evenly. The arrays may take 64 MB, or 32 times the file's size where that is more.
    Gaussians that are not finite are left out with a warning. Raises ValueError for files that are
    missing, damaged, without splats or larger when unfolded, for other transformations, and
    without usd-core.
    """
    import_usd()
    path = existing_file(path)
    about, arrays = read_in_child(path)
    if about["up"] not in UP:
        raise ValueError(f"{path} has the up axis {about['up']!r}, but Y or Z is needed.")
    upright = torch.tensor(UP[about["up"]], dtype=torch.float64)
    still: list[Gaussians] = []
    times: dict[int, list[Gaussians]] = {}
    for index, prim in enumerate(about["prims"]):
        parts = []
        for field in FIELDS:
            parts.append(torch.from_numpy(arrays[f"{index}.{field}"]).split(prim["counts"]))
        for time, matrix in enumerate(prim["matrices"]):
            g = from_arrays(*(part[time] for part in parts))
            g = placed(g, upright @ torch.tensor(matrix, dtype=torch.float64), prim["path"], path)
            if prim["moves"]:
                times.setdefault(time, []).append(g)
            else:
                still.append(g)
    static = Gaussians.concatenate(still) if still else Gaussians.empty()
    dynamic = [Gaussians.concatenate(parts) for parts in times.values()] or [Gaussians.empty()]
    fps = float(about["fps"])
    good = [only_finite(part, path) for part in (static, *dynamic)]
    return good[0], good[1:], fps if 0 < fps <= 1000 else 24.0


def read_in_child(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """usd_reader's answer about a file. Raises ValueError, naming the file, when it has none."""
    size = path.stat().st_size
    cpu_seconds = 8 + size // 10**6
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        # Threads count as memory, and a thread more for each core finds nothing to do.
        "PXR_WORK_THREAD_LIMIT": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.npz"
        limits = [str(x) for x in (largest_result(path), MAX_TIMES, cpu_seconds)]
        command = [sys.executable, str(Path(usd_reader.__file__)), str(path.absolute())]
        try:
            answer = subprocess.run(
                [*command, str(result), *limits],
                capture_output=True,
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=10 * cpu_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{path} was not read in {10 * cpu_seconds} seconds.") from error
        lines = answer.stdout.decode("utf-8", "replace").splitlines()
        if answer.returncode or not lines:
            raise ValueError(
                f"{path} is damaged: reading it was ended after {cpu_seconds} seconds, or by "
                f"OpenUSD itself or for memory (code {answer.returncode})."
            )
        about = json.loads(lines[-1])
        if "error" in about:
            raise ValueError(f"{path} is not an OpenUSD file of splats: {about['error']}.")
        with np.load(result) as arrays:
            return about, dict(arrays)


def from_arrays(
    means: Tensor, xyzw: Tensor, scales: Tensor, opacities: Tensor, harmonics: Tensor
) -> Gaussians:
    """Gaussians of a prim's arrays [N, width]."""
    return Gaussians(
        means,
        xyzw.roll(1, dims=-1),
        scales,
        opacities[:, 0],
        harmonics.view(len(means), harmonics.shape[1] // 3, 3),
    )
