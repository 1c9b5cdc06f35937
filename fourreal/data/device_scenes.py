"""Procedural scenes in a device's memory: drawn there at once, without a way over the disk."""

import math

import torch
from torch import Tensor

from fourreal.bars import bar
from fourreal.data.grids import SceneWindow
from fourreal.scenes import SceneBatch, describe_scenes

PIXELS_AT_ONCE = 2**24  # of the frames of several scenes that a GPU draws together
PIXELS_OF_SOME = 2**19  # the same of single frames


class DeviceScenes:
    """Scenes of a split, by their numbers: frames [scenes, V, T, 3, H, W] as bytes on a device.

    size is (V, T, H, W). The program that draws them is compiled or not (see SceneBatch).
    """

    def __init__(
        self,
        split: str,
        numbers: range,
        size: tuple[int, int, int, int],
        device: torch.device,
        compiled: bool = False,
    ):
        views, times, height, width = size
        self.numbers, count = numbers, len(numbers)
        descriptions = describe_scenes(split, numbers, views, times)
        self.frames = torch.empty(
            count, views, times, 3, height, width, dtype=torch.uint8, device=device
        )
        at_once = 1  # a CPU's caches hold no more
        if device.type != "cpu":
            at_once = min(max(PIXELS_AT_ONCE // (views * times * height * width), 1), count)
        shown = bar(total=count, name=f"drawing {split} scenes", mininterval=5)
        for start in range(0, count, at_once):
            # The last ones with some from before: a compiled program is for one number of scenes.
            start = min(start, count - at_once)
            batch = SceneBatch(descriptions[start : start + at_once]).to(device)
            self.frames[start : start + at_once] = batch.draw_bytes(height, width, compiled)
            shown.update(start + at_once - shown.n)
        shown.close()

    def read(self, windows: list[SceneWindow]) -> Tensor:
        """Frames [B, v, t, 3, H, W] in [0, 1] of windows that all have v views and t times."""
        device = self.frames.device
        places = [self.numbers.index(w.scene) for w in windows]
        scenes = torch.tensor(places, device=device)[:, None, None]
        views = torch.tensor([w.views for w in windows], device=device)[:, :, None]
        times = torch.tensor([w.times for w in windows], device=device)[:, None, :]
        return self.frames[scenes, views, times].float() / 255


@torch.no_grad()
def draw_frames(batch: SceneBatch, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Frames [B, T, V, 3, H, W] in [0, 1] and exact z-depth [B, T, V, H, W] of a batch, on its
    device and in full precision: many frames at a time, of whichever scene, view and time."""
    shape = len(batch.camera), batch.num_times, batch.camera.shape[1]
    count, at_once = math.prod(shape), max(PIXELS_OF_SOME // (height * width), 1)
    frames, depth = [], []
    with torch.autocast(batch.camera.device.type, enabled=False):
        alone = batch.apart()
        for start in range(0, count, at_once):
            part = alone.scenes(slice(start, start + at_once))
            frames.append(part.draw(height, width)[:, 0, 0])
            depth.append(part.geometry(height, width)[0][:, 0, 0])
    return torch.cat(frames).unflatten(0, shape), torch.cat(depth).unflatten(0, shape)
