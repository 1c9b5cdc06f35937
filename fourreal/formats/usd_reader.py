"""The child process that reads an OpenUSD file, in memory and time that are limited.

OpenUSD's own readers may unfold a damaged file of 3 KB to 10 GB, run for ever or end the process,
so the file is read by `python usd_reader.py FILE RESULT LIMITS`, which needs pxr and NumPy only.
It writes the arrays to RESULT (.npz) and prints one line of JSON: what it found, or an `error`.
"""

import json
import os
import sys
from typing import Any

import numpy as np

FIELDS = ("positions", "orientations", "scales", "opacities", "harmonics")


class UnusableUsd(Exception):
    """A sentence about the file, without its name."""


def limit_process(extra_memory: int, cpu_seconds: int) -> None:
    """Let this process take so much more memory, and so much time in all, where it can be set."""
    try:
        import resource
    except ImportError:  # Windows: the parent's time-out remains
        return
    try:
        with open("/proc/self/status") as file:
            words = dict(line.split(":", 1) for line in file)
        held = 1024 * int(words["VmData"].split()[0])
    except (OSError, KeyError):
        held = 2**31
    for name, limit in ((resource.RLIMIT_DATA, held + extra_memory), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(name)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (soft, hard))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))


def attributes(reader: Any) -> tuple[Any, ...]:
    """The attributes of FIELDS of a prim."""
    return (
        *(reader.GetPositionsAttr(), reader.GetOrientationsAttr(), reader.GetScalesAttr()),
        *(reader.GetOpacitiesAttr(), reader.GetRadianceSphericalHarmonicsCoefficientsAttr()),
    )


def read_prim(reader: Any, time: Any) -> dict[str, np.ndarray]:
    """The float32 arrays of a prim's Gaussians at a time."""
    where = reader.GetPrim().GetPath()
    degree = reader.GetRadianceSphericalHarmonicsDegreeAttr().Get()
    values = [attribute.Get(time) for attribute in attributes(reader)]
    if not isinstance(degree, int) or not 0 <= degree <= 4 or any(v is None for v in values):
        raise UnusableUsd(f"{where} lacks an attribute of Gaussians")
    arrays = [np.array(value, dtype=np.float32) for value in values]
    count = len(arrays[0])
    widths = (3, 4, 3, 1, 3 * (degree + 1) ** 2)
    for array, width in zip(arrays, widths):
        if array.size != count * width:
            raise UnusableUsd(f"the arrays of {where} differ in length")
    return {name: a.reshape(count, w) for name, a, w in zip(FIELDS, arrays, widths)}


def sample_times(reader: Any) -> set[float]:
    """The times at which a prim's Gaussians, or what places them, have values of their own."""
    from pxr import UsdGeom

    times = {t for attribute in attributes(reader) for t in attribute.GetTimeSamples()}
    prim = reader.GetPrim()
    while prim and not prim.IsPseudoRoot():
        if prim.IsA(UsdGeom.Xformable):
            times |= set(UsdGeom.Xformable(prim).GetTimeSamples())
        prim = prim.GetParent()
    return times


def read_stage(path: str, most_bytes: int, most_times: int) -> tuple[dict, dict[str, np.ndarray]]:
    """(what is known of the file, its arrays): for each prim the samples one after another."""
    from pxr import Usd, UsdGeom, UsdVol

    stage = Usd.Stage.Open(path)
    kind = UsdVol.ParticleField3DGaussianSplat
    prims = [p for p in stage.Traverse() if p.IsA(kind)]
    if not prims:
        raise UnusableUsd("it has no ParticleField3DGaussianSplat in it")
    samples_of = [sample_times(kind(prim)) for prim in prims]
    times = sorted(set().union(*samples_of))
    if len(times) > most_times or len(prims) > most_times:
        raise UnusableUsd(
            f"it has {len(times)} times and {len(prims)} prims of {most_times} at most"
        )
    about: dict[str, Any] = {
        "up": str(UsdGeom.GetStageUpAxis(stage)),
        "fps": stage.GetTimeCodesPerSecond(),
        "prims": [],
    }
    arrays, total = {}, 0
    for index, prim in enumerate(prims):
        moves = bool(samples_of[index])
        codes = [Usd.TimeCode(t) for t in times] if moves else [Usd.TimeCode.Default()]
        samples, matrices = [], []
        for code in codes:
            samples.append(read_prim(kind(prim), code))
            matrix = UsdGeom.Imageable(prim).ComputeLocalToWorldTransform(code)
            matrices.append(np.array(matrix).T.tolist())  # USD multiplies rows
            total += sum(array.nbytes for array in samples[-1].values())
            if total > most_bytes:
                raise UnusableUsd(f"it unfolds to more than {most_bytes} bytes of Gaussians")
        counts = [len(sample["positions"]) for sample in samples]
        if len({sample["harmonics"].shape[1] for sample in samples}) > 1:
            raise UnusableUsd(f"{prim.GetPath()} changes its degree")
        for name in FIELDS:
            arrays[f"{index}.{name}"] = np.concatenate([sample[name] for sample in samples])
        found = {"path": str(prim.GetPath()), "moves": moves, "counts": counts}
        about["prims"].append(found | {"matrices": matrices})
    return about, arrays


def answer() -> None:
    path, result, most_bytes, most_times, cpu_seconds = sys.argv[1:]
    import pxr.Usd
    import pxr.UsdGeom
    import pxr.UsdVol  # noqa: F401 - loaded before memory is limited

    limit_process(2**28 + 3 * int(most_bytes), int(cpu_seconds))
    try:
        about, arrays = read_stage(path, int(most_bytes), int(most_times))
        np.savez(result, **arrays)  # type: ignore[arg-type]
    except UnusableUsd as refusal:
        about = {"error": str(refusal)}
    except MemoryError:
        about = {"error": "it needs too much memory for its size"}
    except Exception as error:  # pxr's have no common class
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        about = {"error": f"it is damaged ({type(error).__name__}: {(lines or [''])[-1][:200]})"}
    print(json.dumps(about), flush=True)
    os._exit(0)  # a damaged stage may not be taken down in peace


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules have names that others may mean
    answer()
