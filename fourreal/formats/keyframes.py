"""Cameras that a path goes through, from the user's JSON file."""

import math
import os

import torch
from torch import Tensor

from fourreal.cameras import Keyframes, look_at
from fourreal.files.json_files import JsonValue, read_json

KEYS = {"view", "position", "target", "up", "fov", "time"}


def load_keyframes(path: str | os.PathLike, extrinsics: Tensor, num_times: int) -> Keyframes:
    """Keyframes of a JSON file: a list of at least two objects, spread evenly over the path.

    Each has "view" (the number of an input camera of extrinsics [V, 3, 4], from 0) or "position"
    and "target" (world, three numbers each) with an optional "up" (default: the first camera's);
    optionally "fov" (vertical, degrees) and "time" (0 to num_times - 1; in all of them or none).
    Raises ValueError in one sentence for anything else, a missing file among it.
    """
    items = read_json(path).entries()
    if len(items) < 2:
        raise ValueError(
            f"{path} must hold a list of at least two keyframes, but has {len(items)}."
        )
    cameras, fov, times = [], [], []
    for item in items:
        cameras.append(keyframe_camera(item, extrinsics))
        degrees = item.find("fov")
        fov.append(math.radians(degrees.number(1, 179)) if degrees else math.nan)
        if time := item.find("time"):
            times.append(time.number(0, num_times - 1))
    if times and len(times) < len(items):
        raise ValueError(
            f"{path} gives a time for {len(times)} of {len(items)} keyframes; give it for all of "
            "them or for none."
        )
    return Keyframes(
        torch.stack(cameras), torch.tensor(fov), torch.tensor(times) if times else None
    )


def keyframe_camera(item: JsonValue, extrinsics: Tensor) -> Tensor:
    """The camera [3, 4] of one keyframe. Raises ValueError naming the file and the place in it."""
    keys = item.items()
    if unknown := set(keys) - KEYS:
        raise ValueError(
            f"{item.file} has {', '.join(sorted(keys[key].place for key in unknown))}, but a "
            f"keyframe may only have {', '.join(sorted(KEYS))}."
        )
    if view := item.find("view"):
        if {"position", "target", "up"} & set(keys):
            raise ValueError(
                f"{item.file} has both a view and a place in {item.place}; give one of them."
            )
        return extrinsics[view.integer(0, len(extrinsics) - 1)]
    up = item.find("up")
    position, target = (
        extrinsics.new_tensor(item.get(k).numbers(3)) for k in ("position", "target")
    )
    upward = extrinsics.new_tensor(up.numbers(3)) if up else -extrinsics[0, 1, :3]
    try:
        return look_at(position, target, upward)
    except ValueError as error:
        raise ValueError(f"{item.place} of {item.file} cannot be a camera: {error}") from error
