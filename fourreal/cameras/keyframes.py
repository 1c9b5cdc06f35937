"""Cameras that a path goes through, from the user's JSON file."""

import json
import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fourreal.cameras.pinhole import look_at

KEYS = {"view", "position", "target", "up", "fov", "time"}


@dataclass
class Keyframes:
    """M cameras that a path goes through: extrinsics [M, 3, 4], fov [M] (vertical, radians; NaN
    for that of the inputs), and times [M] (fractional scene times) or None."""

    extrinsics: Tensor
    fov: Tensor
    times: Tensor | None


def load_keyframes(path: str | os.PathLike, extrinsics: Tensor, num_times: int) -> Keyframes:
    """Keyframes of a JSON file: a list of at least two objects, spread evenly over the path.

    Each has "view" (the number of an input camera of extrinsics [V, 3, 4], from 0) or "position"
    and "target" (world, three numbers each) with an optional "up" (default: the first camera's);
    optionally "fov" (vertical, degrees) and "time" (0 to num_times - 1; in all of them or none).
    Raises ValueError in one sentence for anything else, a missing file among it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            items = json.load(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(items, list) or len(items) < 2:
        found = f"{len(items)} of them" if isinstance(items, list) else type(items).__name__
        raise ValueError(f"{path} must hold a list of at least two keyframes, but has {found}.")
    cameras, fov, times = [], [], []
    for number, item in enumerate(items):
        where = f"keyframe {number} of {path}"
        cameras.append(keyframe_camera(item, extrinsics, where))
        degrees = read_number(item, "fov", where, 1, 179) if "fov" in item else math.nan
        fov.append(math.radians(degrees))
        if "time" in item:
            times.append(read_number(item, "time", where, 0, num_times - 1))
    if times and len(times) < len(items):
        raise ValueError(
            f"{path} gives a time for {len(times)} of {len(items)} keyframes; give it for all of "
            "them or for none."
        )
    return Keyframes(
        torch.stack(cameras), torch.tensor(fov), torch.tensor(times) if times else None
    )


def keyframe_camera(item: Any, extrinsics: Tensor, where: str) -> Tensor:
    """The camera [3, 4] of one keyframe. Raises ValueError naming `where`."""
    if not isinstance(item, dict) or set(item) - KEYS:
        found = ", ".join(sorted(set(item) - KEYS)) if isinstance(item, dict) else repr(item)
        raise ValueError(f"{where} has {found}, but may only have {', '.join(sorted(KEYS))}.")
    if "view" in item:
        view = item["view"]
        if "position" in item or "target" in item or "up" in item:
            raise ValueError(f"{where} has both a view and a place; give one of them.")
        if not isinstance(view, int) or isinstance(view, bool) or not 0 <= view < len(extrinsics):
            raise ValueError(
                f"{where} has the view {view!r}, but the scene has views 0 to "
                f"{len(extrinsics) - 1}."
            )
        return extrinsics[view]
    points = {}
    for name in ("position", "target", "up"):
        value = item.get(name, (-extrinsics[0, 1, :3]).tolist() if name == "up" else None)
        if not isinstance(value, list) or len(value) != 3 or not all(is_number(v) for v in value):
            raise ValueError(
                f"{where} has {name} {value!r}, but three numbers are needed (or a view)."
            )
        points[name] = extrinsics.new_tensor(value)
    camera = look_at(points["position"], points["target"], points["up"])
    if not torch.linalg.det(camera[:, :3]).sub(1).abs() < 1e-3:
        raise ValueError(
            f"{where} cannot be a camera: its target is at its position or straight along up."
        )
    return camera


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a number within +-1e12: not true, false or NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def read_number(item: dict, name: str, where: str, low: float, high: float) -> float:
    """item[name], from low to high. Raises ValueError otherwise."""
    value = item[name]
    if not is_number(value) or not low <= value <= high:
        raise ValueError(
            f"{where} has the {name} {value!r}, but a number from {low} to {high} is needed."
        )
    return float(value)
