"""From a V x T grid of frames to a dynamic Gaussian scene, without camera poses.

Paper, section 4: the network sees the views of each time; camera tokens of all times are replaced
by those of the first (`VGGT.forward`), so that one camera per view serves the whole grid; depth
unprojected through it carries the Gaussians. Around it: one unit of length for all times, filters,
and the split into what stands still and what moves.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fourreal.cameras import relative_to_first, scale_intrinsics, unproject
from fourreal.cameras.screws import even_movement
from fourreal.devices import give_back_memory, matrix_dtype
from fourreal.gaussians import GaussianScene
from fourreal.reconstruction.alignment import (
    combine_pose_encodings,
    scale_between,
    scales_over_time,
    unit_of_cameras,
)
from fourreal.reconstruction.bundle_adjustment import adjust_cameras
from fourreal.reconstruction.camera_head import ANYSPLAT_TANGENT, pose_encoding_to_cameras
from fourreal.reconstruction.checkpoint import LICENSES, load_model, save_model
from fourreal.reconstruction.finished_depth import finished_depth
from fourreal.reconstruction.gaussian_head import keep_harmonics
from fourreal.reconstruction.image_fit import ImageFit, Images, check_frames
from fourreal.reconstruction.maps import Maps, enlarged_map
from fourreal.reconstruction.network import VGGT
from fourreal.reconstruction.options import ReconstructionOptions
from fourreal.reconstruction.pixels_to_gaussians import Cameras, emit_gaussians, no_gaussians
from fourreal.reconstruction.refinement import refine_scene
from fourreal.reconstruction.tracking import Tracks, check_points, track_points

# Through a dense head at once. A GPU wants large passes; a CPU is as fast with small ones, whose
# features take a quarter of the memory.
FRAMES_PER_HEAD_PASS = {"cuda": 8, "cpu": 2}


@dataclass
class Geometry:
    """Plain VGGT on S images: extrinsics [S, 3, 4] (first camera near the identity), intrinsics
    [S, 3, 3] in pixels, depth and depth_confidence [S, H, W], points [S, H, W, 3] in the world,
    points_confidence [S, H, W]."""

    extrinsics: Tensor
    intrinsics: Tensor
    depth: Tensor
    depth_confidence: Tensor
    points: Tensor
    points_confidence: Tensor


@dataclass
class Reconstruction:
    """A reconstructed grid, on the CPU.

    extrinsics [V, 3, 4] (world = first camera), intrinsics [V, 3, 3] in input pixels, depth and
    depth_confidence [V, T, H, W], the scene, and depth_scales [T]: the factor by which each time's
    depth was multiplied.
    """

    extrinsics: Tensor
    intrinsics: Tensor
    depth: Tensor
    depth_confidence: Tensor
    scene: GaussianScene
    depth_scales: Tensor


class Reconstructor:
    """A reconstruction network with everything around it.

    Attributes:
        model: the network, as it was given; it runs where its weights lie;
        dtype: of the transformer's matrix products; the heads always run in float32;
        kind: "fourreal", "vggt", "vggt-commercial" or "anysplat";
        track_head: the network's head that follows points, or None; it comes to the device only
            while `track` runs;
        license_note: a sentence on the weights' licence, empty for this project's own.
    """

    def __init__(self, model: VGGT, *, dtype: torch.dtype | None = None, kind: str = "fourreal"):
        """dtype: see above; by default bfloat16 on CUDA and float32 elsewhere."""
        self.model = model
        self.kind = kind
        self.license_note = LICENSES[kind]
        self.track_head = model.track_head if model.config.track_head else None
        self.dtype = dtype or matrix_dtype(self.device)

    @staticmethod
    def from_file(
        path: str | os.PathLike,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "Reconstructor":
        """Load VGGT-1B, VGGT-1B-Commercial, AnySplat or one of this project's files.

        device: where the network runs, the CPU by default. dtype: as of Reconstructor; the
        transformer's matrices are kept in it. A track head stays on the CPU until `track` needs
        it. Raises FileNotFoundError, or ValueError in one
        sentence for a damaged, foreign or incomplete file. The licence of known public weights is
        logged.
        """
        model, kind = load_model(path)
        device = torch.device(device or "cpu")
        dtype = dtype or matrix_dtype(device)
        for part in model.aggregator.modules():
            if isinstance(part, nn.Linear):
                part.to(dtype)  # what autocast would do at every call, in half the memory
        return Reconstructor(model, dtype=dtype, kind=kind).to(device)

    def to(self, device: torch.device | str) -> "Reconstructor":
        """Move the network, but for its track head, to a device; returns itself."""
        for part in self.model.children():
            if part is not self.track_head:
                part.to(device)
        return self

    def save(self, path: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
        """Write the network as a safetensors file that from_file reads; dtype of the numbers."""
        metadata = {"license": self.license_note} if self.license_note else None
        save_model(self.model, path, dtype, metadata)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.model.aggregator.camera_token.device

    def fit(self, images: Tensor, resolution: int | None = None) -> ImageFit:
        """How images [..., H, W] are fitted to the network, whose training size is the default."""
        config = self.model.config
        height, width = images.shape[-2:]
        return ImageFit.to(height, width, resolution or config.img_size, config.patch_size)

    def cameras(self, encoding: Tensor, fit: ImageFit) -> Cameras:
        """Extrinsics [..., 3, 4] and intrinsics [..., 3, 3] (of the fitted image's pixels) of pose
        encodings [..., 9]; the field of view is kept open."""
        # Keeps a field of view that the head closed from dividing by zero.
        encoding = torch.cat([encoding[..., :7], encoding[..., 7:].clamp(0.02, 3.0)], -1)
        offset = ANYSPLAT_TANGENT if self.model.config.gaussian_head == "anysplat" else 0.0
        return pose_encoding_to_cameras(encoding, fit.height, fit.width, offset)

    def precision(self) -> torch.autocast:
        """The autocast that the network runs in."""
        mixed = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed)

    @torch.no_grad()
    def predict(self, images: Tensor, *, points: bool = False, **options: Any) -> Maps:
        """The network on images [N, V, 3, h, w] of N times, fitted to it; the maps are on the CPU,
        so that memory on the device is that of one call, and float32, but for raw_gaussians, which
        are float16. points, options: see `VGGT.forward`."""
        with self.precision():
            maps = self.model(
                images.to(self.device),
                len(images),
                # Untrained temporal layers change nothing, so their time is saved.
                temporal=self.model.aggregator.temporal_is_trained(),
                points=points,
                chunk=FRAMES_PER_HEAD_PASS.get(self.device.type, 8),
                store="cpu",
                **options,
            )
        raw, maps.raw_gaussians = maps.raw_gaussians, None
        return replace(maps.map(Tensor.float), raw_gaussians=raw)

    @torch.no_grad()
    def predict_cameras(self, frames: Tensor) -> Cameras:
        """The cameras of each time of frames [V, T, 3, H, W], without camera token replacement.

        Extrinsics [T, V, 3, 4], each time's world being its first camera and its unit of length its
        own, and intrinsics [T, V, 3, 3] in pixels of the frames.
        """
        check_frames(frames)
        fit = self.fit(frames)
        images = fit.images(frames).transpose(0, 1)
        maps = self.predict(images, camera_replacement=False, gaussians=False)
        extrinsics, intrinsics = self.cameras(maps.pose_encodings, fit)
        extrinsics = torch.stack([relative_to_first(own) for own in extrinsics])
        return extrinsics, fit.intrinsics_back(intrinsics)

    @torch.no_grad()
    def predict_geometry(self, images: Tensor, *, resolution: int | None = None) -> Geometry:
        """Plain VGGT on S images [S, 3, H, W] in [0, 1] of one time.

        resolution: the longer side the network sees (its training size by default). Points come
        from the point head where there is one, else from depth and cameras.
        """
        if images.ndim != 4:
            raise ValueError(
                f"images have the shape {tuple(images.shape)}, but [S, 3, H, W] is needed."
            )
        check_frames(images[:, None])
        fit = self.fit(images, resolution)
        maps = self.predict(fit.images(images)[None], points=True, gaussians=False)  # one time
        extrinsics, intrinsics = self.cameras(maps.pose_encodings[0], fit)
        points, certain = maps.points, maps.points_confidence
        if points is None or certain is None:
            points = unproject(maps.depth, extrinsics, intrinsics)
            certain = maps.depth_confidence

        def back(values: Tensor, outside: float | None = None) -> Tensor:
            return fit.maps_back(values[0][:, None], outside)[:, 0]

        return Geometry(
            extrinsics,
            fit.intrinsics_back(intrinsics),
            back(maps.depth),
            back(maps.depth_confidence, 1.0),
            fit.maps_back(points[0].movedim(-1, 1)).movedim(1, -1),
            back(certain, 1.0),
        )

    @torch.no_grad()
    def track(
        self,
        frames: Tensor,
        points: Tensor,
        view: int = 0,
        time: int = 0,
        *,
        resolution: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tracks:
        """Where points [N, 2] of frame (view, time) are in all frames [V, T, 3, H, W] in [0, 1].

        points: (x, y) in pixels of the frames, the first pixel's centre being at (0.5, 0.5).
        resolution: the longer side the network sees (its training size by default). progress:
        called as progress(done, total) after every sequence of frames; what it raises ends the
        work. Raises ValueError in one sentence for unusable frames or points, or a network without
        a track head.
        """
        if self.track_head is None:
            raise ValueError(
                "this reconstructor cannot follow points, for its file has no track head; use "
                "VGGT-1B, which has one."
            )
        check_frames(frames)
        check_points(points, frames, view, time)
        num_views, num_times = frames.shape[:2]
        tracks = track_points(
            self.model.aggregator,
            self.track_head,
            frames.flatten(0, 1),
            points,
            view * num_times + time,
            fit=self.fit(frames, resolution),
            precision=self.precision(),
            chunk=FRAMES_PER_HEAD_PASS.get(self.device.type, 8),
            progress=progress,
        )
        return Tracks(*(values.unflatten(0, (num_views, num_times)) for values in tracks))

    @torch.no_grad()
    def __call__(
        self,
        frames: Tensor,
        *,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Reconstruction:
        """Reconstruct a grid of frames [V, T, 3, H, W] in [0, 1].

        options: those of `ReconstructionOptions`, by name. progress: called as progress(done,
        total) while it works; what it raises ends the work. Raises ValueError in one sentence for
        unusable frames, cameras or options.
        """
        chosen = ReconstructionOptions(**options)
        check_frames(frames)
        chosen.check_grid(frames)
        fit = self.fit(frames, chosen.resolution)
        images, total = fit.grid(frames, self.device), chosen.steps(*frames.shape[:2])

        def tell(done: int) -> None:
            if progress is not None:
                progress(done, total)

        maps, raw = self.predict_grid(images, chosen, tell)
        maps, cameras = self.in_one_unit(maps, images, fit, chosen)
        detail = chosen.detail_of(fit, self.model.config.img_size)
        if detail > 1:
            fit, maps = fit.enlarged(detail), maps.enlarged(detail)
            cameras = cameras[0], scale_intrinsics(cameras[1], detail, detail)
            images = fit.grid(frames, self.device)
            raw = raw and [enlarged_map(own, detail) for own in raw]
        given = cameras, chosen, detail, lambda done: tell(len(maps) + done)
        depth = finished_depth(images, maps.depth, *given)
        maps = replace(maps, depth=depth)
        head = self.model.config.gaussian_head
        filled = None if chosen.filled is None else fit.masks(chosen.filled.transpose(0, 1))
        which = chosen.filters, chosen.split, self.device, filled
        if chosen.gaussians:
            static, dynamic, sure = emit_gaussians(head, images, maps, cameras, *which, raw=raw)
        else:
            static, dynamic, sure = no_gaussians(len(maps))
        extrinsics, intrinsics = cameras[0].cpu(), fit.intrinsics_back(cameras[1]).cpu()
        (height, width), metadata = frames.shape[-2:], {"reconstructor": self.kind}
        views = extrinsics, intrinsics, width, height, chosen.fps
        scene = GaussianScene(static, dynamic, *views, metadata, confidences=sure)
        if chosen.refine:
            before, fitted = total - chosen.refine, (frames.float(), chosen.refine, chosen.filled)
            scene = scene.to(self.device)
            scene = refine_scene(scene, *fitted, progress=lambda n: tell(before + n)).to("cpu")

        def back(values: Tensor, outside: float | None = None) -> Tensor:
            return fit.maps_back(values.transpose(0, 1), outside)  # [T, V, h, w] to [V, T, H, W]

        depth, confidence = back(maps.depth), back(maps.depth_confidence, 1.0)
        return Reconstruction(extrinsics, intrinsics, depth, confidence, scene, maps.scales)

    def predict_grid(
        self, images: Images, options: ReconstructionOptions, tell: Callable[[int], None]
    ) -> tuple[Maps, list[Tensor] | None]:
        """The network on images [T, V, 3, h, w], window by window; the windows share one unit.

        Returns the maps of all times, and apart from them raw_gaussians [V, C, h, w] of each, for
        they are large and can go one by one. Memory on the device is that of one window. tell(done)
        is called after every time.
        """
        trained = self.model.aggregator.temporal_is_trained()
        window = options.window_of(len(images), trained)
        overlap = max(1, window // 4) if trained and window > 1 else 0
        kept: list[Maps] = []
        raw: list[Tensor] = []
        first_tokens, start, done = None, 0, 0
        while done < len(images):
            end = min(start + window, len(images))
            maps = self.predict(
                images[start:end],
                camera_replacement=options.cameras in ("first", "even"),
                first_camera_tokens=first_tokens,
                gaussians=options.gaussians,
                gaussians_from=done - start,
            )
            first_tokens = maps.camera_tokens[:1] if first_tokens is None else first_tokens
            if maps.raw_gaussians is not None:
                new = maps.raw_gaussians
                if self.model.config.gaussian_head == "anysplat":
                    new = keep_harmonics(new, options.sh_degree)
                raw += new.unbind()
                maps.raw_gaussians = None
            give_back_memory()
            if start < done:  # times that both windows saw
                before, again = kept[-1][start - done :], maps[: done - start]
                sure = before.depth_confidence, again.depth_confidence
                same = torch.zeros_like(again.depth)
                joint = scale_between(before.depth, again.depth, sure, same)
                maps = maps.scaled(torch.tensor(joint))
            kept.append(maps[done - start :])
            for time in range(done, end):
                tell(time + 1)
            done, start = end, max(end - overlap, 1)
        return Maps.cat(kept), raw or None

    def in_one_unit(
        self, maps: Maps, images: Images, fit: ImageFit, options: ReconstructionOptions
    ) -> tuple[Maps, Cameras]:
        """The maps of all times, and one camera per view (in the fitted image's pixels, on the
        device), in one unit of length: that of the first time, or of given cameras.

        images [T, V, 3, h, w], what the network saw.
        """
        trained = self.model.aggregator.temporal_is_trained()
        joined = trained and options.window_of(len(images), trained) > 1
        if options.align or (options.align is None and not joined):
            maps = maps.scaled(scales_over_time(maps, images, self.device))
        if isinstance(options.cameras, str):
            encodings, how = maps.pose_encodings.to(self.device), options.cameras
            if how == "mean" or how == "median":
                moved = encodings[..., :3] * maps.scales.to(self.device)[:, None, None]
                encodings = torch.cat([moved, encodings[..., 3:]], -1)
                encoding = combine_pose_encodings(encodings, how)
            else:  # replaced: equal at all times, in the unit of the first
                encoding = combine_pose_encodings(encodings, "median")
            if options.shared_intrinsics:
                encoding[:, 7:] = encoding[:, 7:].median(dim=0).values
            extrinsics, intrinsics = self.cameras(encoding, fit)
            extrinsics, even = relative_to_first(extrinsics), how == "even"
            cameras = even_movement(extrinsics) if even else extrinsics, intrinsics
            if options.adjusts(len(extrinsics)):
                cameras, factors = adjust_cameras(images, maps.depth, cameras, even=even)
                maps = replace(maps, depth=maps.depth * factors.to(maps.depth)[:, None, None])
            return maps, cameras

        extrinsics, intrinsics = (part.to(self.device).float() for part in options.cameras)
        cameras = relative_to_first(extrinsics), fit.intrinsics(intrinsics)
        own, _ = self.cameras(maps.pose_encodings[0].to(self.device), fit)
        seen = images[0].to(self.device), maps.depth[0].to(self.device)
        return maps.scaled(unit_of_cameras(*seen, own, cameras)), cameras
