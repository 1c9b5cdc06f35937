"""What the reconstructor is trained on: frames whose cameras, and often depth, are known.

Procedural scenes are drawn; folders are read in two layouts:

- Kubric-4D's (see `fourreal.data.kubric`): still cameras and the distance to their centres.
- posed photos of something that stands still: a folder with a `transforms.json` (see
  `fourreal.data.transforms`) or with COLMAP's `sparse/0` (see `fourreal.data.colmap`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourreal.cameras import (
    pixel_grid,
    pixels_hit,
    project,
    relative_to_first,
    scale_intrinsics,
    unproject,
)
from fourreal.data.colmap import colmap_model, read_colmap
from fourreal.data.device_scenes import draw_frames
from fourreal.data.kubric import (
    COLOR_FILES,
    DISTANCE_FILES,
    kubric_camera_file,
    kubric_views,
    read_kubric_camera,
)
from fourreal.data.lens import Straightening
from fourreal.data.posed_photos import (
    PosedPhoto,
    alike,
    around_origin,
    fit_camera,
    stored_size,
)
from fourreal.data.transforms import read_transforms, transforms_file
from fourreal.files.media import natural_order, open_image, read_image
from fourreal.scenes import SceneBatch, describe

MEAN_DEPTH = 3.5  # of procedural scenes; other scenes with depth are brought to this unit
DEPTH_JUMP = 0.2  # range of depth within a pixel, of the least, that no slanted surface has
SEEN_WITHIN = 0.05  # a point is seen where its depth is that of the surface up to this share


@dataclass
class Sample:
    """A batch of scenes: frames [B, T, V, 3, H, W] in [0, 1], z-depth [B, T, V, H, W] or None where
    it is not known, extrinsics [B, V, 3, 4] in the world of the first view, intrinsics
    [B, V, 3, 3] in pixels."""

    frames: Tensor
    depth: Tensor | None
    extrinsics: Tensor
    intrinsics: Tensor

    @property
    def num_times(self) -> int:
        return self.frames.shape[1]

    def to(self, device: torch.device | str) -> "Sample":
        depth = None if self.depth is None else self.depth.to(device)
        cameras = self.extrinsics.to(device), self.intrinsics.to(device)
        return Sample(self.frames.to(device), depth, *cameras)

    @staticmethod
    def cat(parts: "Sequence[Sample]") -> "Sample":
        """All parts' scenes in one batch. Raises ValueError when only some know their depth."""
        known = [part.depth for part in parts if part.depth is not None]
        if len(known) not in (0, len(parts)):
            raise ValueError("some of these scenes have depth and some do not; batch one kind.")
        return Sample(
            torch.cat([part.frames for part in parts]),
            torch.cat(known) if known else None,
            torch.cat([part.extrinsics for part in parts]),
            torch.cat([part.intrinsics for part in parts]),
        )

    def of_views(self, views: list[int]) -> "Sample":
        """Some of the views, of which the first must be view 0: the world stays its own."""
        depth = None if self.depth is None else self.depth[:, :, views]
        cameras = self.extrinsics[:, views], self.intrinsics[:, views]
        return Sample(self.frames[:, :, views], depth, *cameras)

    def by_time(self, orders: list[list[int]]) -> "Sample":
        """Each time as a scene of one time, [B * T, 1, ...], its views in the order orders[t]: the
        world is the first of them."""
        times, views = torch.arange(len(orders))[:, None], torch.tensor(orders)

        def alone(values: Tensor) -> Tensor:
            return values[:, times, views].flatten(0, 1)[:, None]

        extrinsics = self.extrinsics[:, views].flatten(0, 1)
        return Sample(
            alone(self.frames),
            None if self.depth is None else alone(self.depth),
            torch.stack([relative_to_first(own) for own in extrinsics]),
            self.intrinsics[:, views].flatten(0, 1),
        )

    def resized(self, size: int) -> "Sample":
        """The same scenes at size x size pixels, at most as large as they are. Colours are
        averaged, depth too where it does not jump; see shrunk_depth."""
        old = self.frames.shape[-1]
        if old == size:
            return self
        frames = F.interpolate(self.frames.flatten(0, 2), size=(size, size), mode="area")
        depth = self.depth
        if depth is not None:
            depth = shrunk_depth(depth.flatten(0, 1), size).unflatten(0, self.frames.shape[:2])
        return Sample(
            frames.unflatten(0, self.frames.shape[:3]),
            depth,
            self.extrinsics,
            scale_intrinsics(self.intrinsics, size / old, size / old),
        )


def shrunk_depth(depth: Tensor, size: int) -> Tensor:
    """Depth maps [N, V, H, W] at size x size pixels: means, and where depth jumps within a pixel
    one of its depths, because their mean would be the depth of nothing."""
    most = F.adaptive_max_pool2d(depth, size)
    least = -F.adaptive_max_pool2d(-depth, size)
    mean = F.interpolate(depth, size=(size, size), mode="area")
    one = F.interpolate(depth, size=(size, size), mode="nearest-exact")
    return torch.where(most > least * (1 + DEPTH_JUMP), one, mean)


@dataclass
class UndrawnSample:
    """A batch of procedural scenes, of the chosen views and times, before it is drawn at size x
    size pixels: a hundredth of a Sample's bytes."""

    batch: SceneBatch
    size: int

    @property
    def num_times(self) -> int:
        return self.batch.num_times

    def to(self, device: torch.device | str) -> Sample:
        """Draw it there."""
        size, batch = self.size, self.batch
        if torch.device(device).type == "cpu":  # whose caches hold the frames of one time
            with torch.no_grad():
                frames = rearrange(batch.draw(size, size), "b v t c h w -> b t v c h w")
                depth = rearrange(batch.geometry(size, size)[0], "b v t h w -> b t v h w")
        else:
            frames, depth = draw_frames(batch.to(device), size, size)
        # From the CPU: a GPU that trains in half precision would compute cameras in it.
        extrinsics = torch.stack([relative_to_first(e) for e in batch.extrinsics])
        return Sample(frames, depth, extrinsics.to(device), batch.intrinsics(size, size).to(device))


def choose_sample(
    seeds: list[int], views: list[int], times: list[int], num_views: int, size: int
) -> UndrawnSample:
    """Some views and times of the procedural scenes of the given seeds."""
    descriptions = [describe(s, num_views, max(times) + 1) for s in seeds]
    return UndrawnSample(SceneBatch(descriptions).select(views, times), size)


def draw_sample(
    seeds: list[int], views: list[int], times: list[int], num_views: int, size: int
) -> Sample:
    """Draw some views and times of the procedural scenes of the given seeds."""
    return choose_sample(seeds, views, times, num_views, size).to("cpu")


@dataclass(frozen=True)
class PosedScene:
    """A scene on disk: image files and, or None, distance files of every view and time, extrinsics
    [V, 3, 4] and intrinsics [V, 3, 3] in pixels of the images as they are read, upright and without
    distortion; of photos with distortion how it is undone [V]."""

    path: Path
    images: tuple[tuple[Path, ...], ...]
    distances: tuple[tuple[Path, ...], ...] | None
    extrinsics: Tensor
    intrinsics: Tensor
    straightenings: tuple[Straightening | None, ...] = ()

    @property
    def num_views(self) -> int:
        return len(self.images)

    @property
    def num_times(self) -> int:
        return len(self.images[0])

    @property
    def has_depth(self) -> bool:
        return self.distances is not None

    def read(self, views: list[int], times: list[int], size: int) -> Sample:
        """Some views and times as a batch of one, the central square resized to size x size.

        The world is the first of the views; with depth, its unit makes MEAN_DEPTH the mean.
        """
        frames, depth, intrinsics = [], [], []
        for view in views:
            files = [self.images[view][time] for time in times]
            images = [self._image(file, view) for file in files]
            squares = [_square(image, self.intrinsics[view], size) for image in images]
            frames.append(torch.stack([picture for picture, _ in squares]))
            matrix = squares[0][1]
            intrinsics.append(matrix)
            if self.distances is not None:
                files = [self.distances[view][time] for time in times]
                maps = [_square(read_distance(f)[None], matrix, size, "nearest")[0] for f in files]
                depth.append(torch.stack(maps)[:, 0] / _ray_length(matrix, size))
        extrinsics = relative_to_first(self.extrinsics[views])
        depths = None
        if self.distances is not None:
            depths = torch.stack(depth, 1)
            unit = MEAN_DEPTH / depths.mean()
            depths = (depths * unit)[None]
            extrinsics = torch.cat([extrinsics[..., :3], extrinsics[..., 3:] * unit], -1)
        return Sample(
            torch.stack(frames, 1)[None], depths, extrinsics[None], torch.stack(intrinsics)[None]
        )

    def _image(self, file: Path, view: int) -> Tensor:
        """An image [3, H, W] as the view's camera would have seen it without its lens."""
        image = read_image(file)
        straightening = self.straightenings[view] if self.straightenings else None
        return image if straightening is None else straightening.apply(image)


def _square(
    image: Tensor, intrinsics: Tensor, size: int, mode: str = "bilinear"
) -> tuple[Tensor, Tensor]:
    """The central square of an image [C, H, W] at size x size, and its intrinsics."""
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[None, :, top : top + side, left : left + side]
    smooth = mode == "bilinear"
    image = F.interpolate(image, size=(size, size), mode=mode, antialias=smooth)[0]
    scale = size / side
    moved = intrinsics.new_tensor([[scale, 0, -left * scale], [0, scale, -top * scale], [0, 0, 1]])
    return image, moved @ intrinsics


def _ray_length(intrinsics: Tensor, size: int) -> Tensor:
    """Distance over z-depth [size, size] of every pixel's ray."""
    pixels = (pixel_grid(size, size) - intrinsics[:2, 2]) / intrinsics[[0, 1], [0, 1]]
    return (1 + pixels.square().sum(-1)).sqrt()


def read_distance(path: Path) -> Tensor:
    """A map of one number per pixel [H, W]. Raises ValueError when it cannot be decoded."""
    with open_image(path) as image:
        values = torch.from_numpy(np.array(image).astype(np.float32))
    if values.ndim != 2 or not (torch.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{path} must hold one positive distance per pixel.")
    return values


def find_posed_scenes(root: Path) -> list[PosedScene]:
    """The scenes of a folder, or the one that it is.

    Raises ValueError naming the file when one cannot be used, or when there is none.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give one that holds posed scenes.")
    scenes = []
    below = (p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    for folder in [root, *sorted(below, key=natural_order)]:
        if cameras := transforms_file(folder):
            scenes.append(_photo_scene(folder, read_transforms(cameras)))
        elif kubric_views(folder):
            scenes.append(_kubric_scene(folder))
        elif model := colmap_model(folder):
            scenes.append(_photo_scene(folder, read_colmap(folder, model)))
    if not scenes:
        raise ValueError(
            f"{root} holds no posed scenes: neither Kubric-4D's frames_p0_v0, nor transforms.json, "
            "nor COLMAP's sparse/0 was found in it or in its folders."
        )
    return scenes


def _photo_scene(folder: Path, photos: list[PosedPhoto]) -> PosedScene:
    cameras = [fit_camera(photo) for photo in photos]
    return PosedScene(
        folder,
        tuple((photo.file,) for photo in photos),
        None,
        around_origin(torch.stack([camera.extrinsics for camera in cameras])).float(),
        torch.stack([camera.intrinsics for camera in cameras]),
        tuple(camera.straightening for camera in cameras),
    )


def _kubric_scene(folder: Path) -> PosedScene:
    views = kubric_views(folder)
    images = tuple(tuple(sorted(v.glob(COLOR_FILES))) for v in views)
    distances = tuple(tuple(sorted(v.glob(DISTANCE_FILES))) for v in views)
    for view, pictures, maps in zip(views, images, distances):
        if not pictures or len(pictures) != len(images[0]) or len(maps) not in (0, len(pictures)):
            raise ValueError(
                f"{view} has {len(pictures)} images and {len(maps)} maps of depth, but "
                f"{views[0].name} has {len(images[0])} images; all views need the same."
            )
    extrinsics, intrinsics = [], []
    for view, pictures, maps in zip(views, images, distances):
        size = stored_size(pictures[0])[:2]
        camera = read_kubric_camera(kubric_camera_file(view), size)
        extrinsics.append(camera[0])
        intrinsics.append(camera[1])
        if maps and not alike(stored_size(maps[0])[:2], size):
            raise ValueError(f"{maps[0]} has another aspect than {pictures[0]}, which it is of.")
    return PosedScene(
        folder,
        images,
        distances if all(distances) else None,
        torch.stack(extrinsics),
        torch.stack(intrinsics),
    )


def visible_from(sample: Sample, inputs: list[int]) -> Tensor:
    """Pixels whose surface some input view sees too, boolean [B, T, V, H, W].

    By exact depth: a pixel's point is seen by an input view when it falls into its image at the
    depth of the surface there, up to SEEN_WITHIN. Input views see themselves. Everything counts as
    visible where depth is not known.
    """
    if sample.depth is None:
        frames = sample.frames
        return torch.ones_like(frames[:, :, :, 0], dtype=torch.bool)
    height, width = sample.depth.shape[-2:]
    extrinsics, intrinsics = sample.extrinsics[:, None], sample.intrinsics[:, None]
    points = unproject(sample.depth, extrinsics, intrinsics)  # [B, T, V, H, W, 3]
    seen = torch.zeros_like(sample.depth, dtype=torch.bool)
    seen[:, :, inputs] = True
    for view in inputs:
        # The camera's shape must broadcast against [B, T, V, H * W, 3].
        pixels, distance = project(
            points.flatten(3, 4), extrinsics[:, :, view, None], intrinsics[:, :, view, None]
        )
        y, x, inside = pixels_hit(pixels, distance, height, width)  # [B, T, V, H * W]
        index = (y * width + x).flatten(2)
        surface = sample.depth[:, :, view].flatten(2).gather(2, index).view_as(distance)
        near = (surface / distance.clamp_min(1e-6) - 1).abs() < SEEN_WITHIN
        seen |= (inside & near).view_as(seen)
    return seen
