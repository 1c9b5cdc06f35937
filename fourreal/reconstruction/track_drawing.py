"""Tracks drawn into their frames: a dot where a point is seen, a ring where it is hidden, and a
tail of where it was."""

import colorsys

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fourreal.files.media import to_uint8
from fourreal.reconstruction.tracking import Tracks

SEEN = 0.5  # a point is taken to be visible from this probability on
TAIL = 8  # times that a tail goes back
FINER = 3  # pixels of the drawing per pixel of the frame, in each direction
SIZE = 0.012  # a dot's radius in parts of the frame's shorter side

Color = tuple[int, int, int]


def colors_of(points: Tensor, height: int, width: int) -> list[Color]:
    """A colour for each of points [N, 2] of one frame: the hue by x, paler by y, so that neighbours
    look alike and strays are seen."""
    x, y = (points / points.new_tensor([width, height])).clamp(0, 1).unbind(-1)
    shares = (
        colorsys.hsv_to_rgb(0.85 * h, 1 - 0.5 * v, 1.0) for h, v in zip(x.tolist(), y.tolist())
    )
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in shares]


def draw_tracks(frames: Tensor, tracks: Tracks, view: int = 0, time: int = 0) -> Tensor:
    """Frames [V, T, 3, H, W] in [0, 1] with the tracks of points of frame (view, time) drawn into
    them, on the CPU. Points that are far outside a frame are left out."""
    num_views, num_times, _, height, width = frames.shape
    colors = colors_of(tracks.positions[view, time], height, width)
    drawn = [
        draw_frame(
            frames[v, t],
            tracks.positions[v, max(0, t - TAIL) : t + 1],
            tracks.visibility[v, max(0, t - TAIL) : t + 1] >= SEEN,
            colors,
        )
        for v in range(num_views)
        for t in range(num_times)
    ]
    return torch.stack(drawn).unflatten(0, (num_views, num_times))


def draw_frame(frame: Tensor, positions: Tensor, seen: Tensor, colors: list[Color]) -> Tensor:
    """A frame [3, H, W] with dots at the last of positions [K, N, 2], and tails through those
    before it where both ends are seen [K, N]."""
    height, width = frame.shape[-2:]
    layer = Image.new("RGBA", (width * FINER, height * FINER))
    pen = ImageDraw.Draw(layer)
    radius = max(1.0, SIZE * min(height, width)) * FINER
    near = ((positions > -max(height, width)) & (positions < 2 * max(height, width))).all(-1)
    shown = seen & near
    places = (positions * FINER).tolist()
    last = len(places) - 1
    for k in range(last):
        opacity = round(200 * (k + 1 + TAIL - last) / (TAIL + 1))
        for n, color in enumerate(colors):
            if shown[k, n] and shown[k + 1, n]:
                ends = (*places[k][n], *places[k + 1][n])
                pen.line(ends, fill=(*color, opacity), width=max(1, round(radius / 2)))
    for n, color in enumerate(colors):
        if not near[last, n]:
            continue
        x, y = places[last][n]
        box = (x - radius, y - radius, x + radius, y + radius)
        if shown[last, n]:
            pen.ellipse(box, fill=(*color, 255), outline=(0, 0, 0, 160))
        else:
            pen.ellipse(box, outline=(*color, 255), width=max(1, round(radius / 3)))
    picture = Image.fromarray(to_uint8(frame)).convert("RGBA")
    picture.alpha_composite(layer.resize((width, height), Image.Resampling.BOX))
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).movedim(-1, 0)
