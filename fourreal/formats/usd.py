"""A dynamic scene as OpenUSD (26.03 or later): UsdVol.ParticleField3DGaussianSplat, time-sampled.

One prim holds what stands still, one what moves, with a sample per time. The data has OpenCV's
axes; their parent turns it by 180 degrees about x, so that it stands upright in a Y-up stage.
Needs the extra `usd` (usd-core).
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourreal.files.atomic import atomic_path
from fourreal.files.existing import existing_file
from fourreal.gaussians import Gaussians, GaussianScene, turn_about_x

SUFFIXES = (".usd", ".usda", ".usdc")


def import_usd() -> tuple[Any, Any, Any, Any, Any]:
    """pxr's Usd, UsdGeom, UsdVol, Vt and Tf. Raises ValueError when they are not installed."""
    try:
        from pxr import Tf, Usd, UsdGeom, UsdVol, Vt

        UsdVol.ParticleField3DGaussianSplat  # noqa: B018 - absent before 26.03
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"OpenUSD files need usd-core 26.3 or later ({error}); pip install 'fourreal[usd]'."
        ) from error
    return Usd, UsdGeom, UsdVol, Vt, Tf


def save_usd(scene: GaussianScene, path: str | os.PathLike) -> None:
    """Write a scene's Gaussians, float32, to *.usd, *.usda or *.usdc with scene.fps times a second.

    Raises ValueError for another suffix or without usd-core.
    """
    Usd, UsdGeom, UsdVol, Vt, _ = import_usd()
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} must end in one of {', '.join(SUFFIXES)}.")
    with atomic_path(path) as temporary:
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
                g = Gaussians.concatenate([gaussians, highest])
                g = g.map(lambda x: x.detach().cpu().float().contiguous())
                harmonics = g.harmonics.view(-1, 3).numpy()
                xyzw = g.quaternions.roll(-1, dims=-1).contiguous().numpy()
                prim.CreatePositionsAttr().Set(Vt.Vec3fArray.FromNumpy(g.means.numpy()), time)
                prim.CreateOrientationsAttr().Set(Vt.QuatfArray.FromNumpy(xyzw), time)
                prim.CreateScalesAttr().Set(Vt.Vec3fArray.FromNumpy(g.scales.numpy()), time)
                prim.CreateOpacitiesAttr().Set(Vt.FloatArray.FromNumpy(g.opacities.numpy()), time)
                prim.CreateRadianceSphericalHarmonicsCoefficientsAttr().Set(
                    Vt.Vec3fArray.FromNumpy(harmonics), time
                )
        stage.GetRootLayer().Save()


def load_usd(path: str | os.PathLike) -> list[Gaussians]:
    """The Gaussians of every time of an OpenUSD file, all its splat prims together.

    Prims may be untransformed (Y up) or turned by 180 degrees about x, as ours. Raises ValueError
    for files that are missing, damaged or without splats, for other transformations, and without
    usd-core.
    """
    Usd, UsdGeom, UsdVol, _, Tf = import_usd()
    path = existing_file(path)
    try:
        stage = Usd.Stage.Open(str(path))
    except Tf.ErrorException as error:
        raise ValueError(f"{path} is not an OpenUSD file, or is damaged.") from error
    prims = [p for p in stage.Traverse() if p.IsA(UsdVol.ParticleField3DGaussianSplat)]
    if not prims:
        raise ValueError(f"{path} has no ParticleField3DGaussianSplat in it.")
    readers = [UsdVol.ParticleField3DGaussianSplat(prim) for prim in prims]
    times = sorted({t for r in readers for t in r.GetPositionsAttr().GetTimeSamples()})
    turns = [is_turned(UsdGeom.Imageable(prim), path) for prim in prims]
    return [
        Gaussians.concatenate(
            [read_prim(r, time, turned, path) for r, turned in zip(readers, turns)]
        )
        for time in [Usd.TimeCode(t) for t in times] or [Usd.TimeCode.Default()]
    ]


def is_turned(prim: Any, path: Path) -> bool:
    """Whether a prim is turned by 180 degrees about x. Raises ValueError unless it is or stands."""
    matrix = np.array(prim.ComputeLocalToWorldTransform(0))
    for turned, signs in ((False, (1, 1, 1, 1)), (True, (1, -1, -1, 1))):
        if np.allclose(matrix, np.diag(signs), atol=1e-6):
            return turned
    raise ValueError(
        f"{path} transforms {prim.GetPath()}, but only splats that stand still in the world, or "
        "are turned by 180 degrees about x, are read."
    )


def read_prim(prim: Any, time: Any, turned: bool, path: Path) -> Gaussians:
    """The Gaussians of a prim at a time, with OpenCV's axes. Raises ValueError for damage."""
    degree = prim.GetRadianceSphericalHarmonicsDegreeAttr().Get()
    arrays = [
        attribute.Get(time)
        for attribute in (
            *(prim.GetPositionsAttr(), prim.GetOrientationsAttr(), prim.GetScalesAttr()),
            *(prim.GetOpacitiesAttr(), prim.GetRadianceSphericalHarmonicsCoefficientsAttr()),
        )
    ]
    if degree is None or not 0 <= degree <= 4 or any(a is None for a in arrays):
        raise ValueError(f"{path} is damaged: {prim.GetPath()} lacks an attribute of Gaussians.")
    means, xyzw, scales, opacities, harmonics = (
        torch.from_numpy(np.array(a, dtype=np.float32)) for a in arrays
    )
    count, num_harmonics = len(means), (degree + 1) ** 2
    if (len(xyzw), len(scales), len(opacities), len(harmonics)) != (
        *(count, count, count, count * num_harmonics),
    ):
        raise ValueError(f"{path} is damaged: the arrays of {prim.GetPath()} differ in length.")
    gaussians = Gaussians(
        means.view(-1, 3),
        xyzw.view(-1, 4).roll(1, dims=-1),
        scales.view(-1, 3),
        opacities,
        harmonics.view(-1, num_harmonics, 3),
    )
    return gaussians if turned else turn_about_x(gaussians)
