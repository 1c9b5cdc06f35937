"""From a V x T grid of frames to a dynamic Gaussian scene, without camera poses.

Paper, section 4: the network sees the views of each time; camera tokens of all times are replaced
by those of the first, so that one camera per view serves the whole grid; depth unprojected through
it carries the Gaussians. Around it: one unit of length for all times, filters, and the split into
what stands still and what moves.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fourreal.cameras import relative_to_first, unproject
from fourreal.gaussians import GaussianScene
from fourreal.reconstruction.alignment import (
    baseline_scale,
    combine_pose_encodings,
    photometric_scale,
    scale_between,
)
from fourreal.reconstruction.camera_head import ANYSPLAT_TANGENT, pose_encoding_to_cameras
from fourreal.reconstruction.checkpoint import LICENSES, load_model, save_model
from fourreal.reconstruction.emission import Maps, emit_gaussians
from fourreal.reconstruction.filters import Filters, sharpen_depth
from fourreal.reconstruction.image_fit import ImageFit, check_frames
from fourreal.reconstruction.network import VGGT
from fourreal.reconstruction.refinement import refine_scene
from fourreal.reconstruction.split import StaticSplit

CAMERA_MODES = ("first", "mean", "median")
FRAMES_PER_HEAD_PASS = 8


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
        model: the network; kind: "fourreal", "vggt", "vggt-commercial" or "anysplat";
        license_note: a sentence on the weights' licence, empty for this project's own.
    """

    def __init__(self, model: VGGT, *, device=None, dtype=None, kind: str = "fourreal"):
        """device: where the network runs (its own by default). dtype: of the transformer's matrix
        products, e.g. torch.bfloat16 (by default bfloat16 on CUDA, float32 elsewhere); the heads
        always run in float32."""
        self.model = model.eval().to(device or next(model.parameters()).device)
        self.kind = kind
        self.license_note = LICENSES[kind]
        self.dtype = dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        if self.dtype != torch.float32:
            for part in self.model.aggregator.modules():
                if isinstance(part, nn.Linear):
                    part.to(self.dtype)  # what autocast would do at every call, in half the memory

    @staticmethod
    def from_file(path: str | os.PathLike, *, device=None, dtype=None) -> "Reconstructor":
        """Load VGGT-1B, VGGT-1B-Commercial, AnySplat or one of this project's files.

        Raises FileNotFoundError, or ValueError in one sentence for a damaged, foreign or
        incomplete file. The licence of known public weights is logged.
        """
        model, kind = load_model(path)
        return Reconstructor(model, device=device, dtype=dtype, kind=kind)

    def save(self, path: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
        """Write the network as a safetensors file that from_file reads; dtype of the numbers."""
        metadata = {"license": self.license_note} if self.license_note else None
        save_model(self.model, path, dtype, metadata)

    @property
    def device(self) -> torch.device:
        return self.model.aggregator.camera_token.device

    def _fit(self, height: int, width: int, resolution: int | None) -> ImageFit:
        config = self.model.config
        return ImageFit.to(height, width, resolution or config.img_size, config.patch_size)

    def cameras(self, encoding: Tensor, fit: ImageFit) -> tuple[Tensor, Tensor]:
        """Extrinsics [..., 3, 4] and intrinsics [..., 3, 3] (of the fitted image's pixels) of pose
        encodings [..., 9]; the field of view is kept open."""
        # Keeps a field of view that the head closed from dividing by zero.
        encoding = torch.cat([encoding[..., :7], encoding[..., 7:].clamp(0.02, 3.0)], -1)
        offset = ANYSPLAT_TANGENT if self.model.config.gaussian_head == "anysplat" else 0.0
        return pose_encoding_to_cameras(encoding, fit.height, fit.width, offset)

    def _tokens(self, images: Tensor) -> list[Tensor]:
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed):
            # Untrained temporal layers change nothing, so their time is saved.
            trained = self.model.aggregator.temporal_is_trained()
            return self.model.aggregator(images, len(images), temporal=trained)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Maps:
        """Everything the network says about images [N, V, 3, h, w] of N times, fitted to it; every
        time has cameras of its own, and the maps are on the CPU."""
        tokens = self._tokens(images)
        encodings = self.model.camera_head(tokens)[-1]
        passes = (FRAMES_PER_HEAD_PASS, "cpu")
        depth, confidence = self.model.depth_head(tokens, images, *passes)
        raw = None
        if self.model.config.gaussian_head != "none":
            raw = self.model.gaussian_head(tokens, images, *passes)
        return Maps(encodings, depth, confidence, raw)

    @torch.no_grad()
    def predict_cameras(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The cameras of each time of frames [V, T, 3, H, W], without camera token replacement.

        Extrinsics [T, V, 3, 4], each time's world being its first camera and its unit of length its
        own, and intrinsics [T, V, 3, 3] in pixels of the frames.
        """
        check_frames(frames)
        fit = self._fit(*frames.shape[-2:], None)
        tokens = self._tokens(fit.images(frames).transpose(0, 1).to(self.device))
        encodings = self.model.camera_head(tokens)[-1].float().cpu()
        extrinsics, intrinsics = self.cameras(encodings, fit)
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
        height, width = images.shape[-2:]
        fit = self._fit(height, width, resolution)
        fitted = fit.images(images).to(self.device)[None]  # one time
        tokens = self._tokens(fitted)
        encoding = self.model.camera_head(tokens)[-1][0]
        extrinsics, intrinsics = self.cameras(encoding, fit)
        depth, confidence = self.model.depth_head(tokens, fitted, FRAMES_PER_HEAD_PASS)
        if self.model.config.point_head:
            points, certain = self.model.point_head(tokens, fitted, FRAMES_PER_HEAD_PASS)
        else:
            points, certain = unproject(depth, extrinsics, intrinsics), confidence

        def back(maps, outside=None):
            return fit.maps_back(maps[0][:, None].cpu(), outside)[:, 0]

        return Geometry(
            extrinsics.cpu(),
            fit.intrinsics_back(intrinsics.cpu()),
            back(depth),
            back(confidence, 1.0),
            fit.maps_back(points[0].movedim(-1, 1).cpu()).movedim(1, -1),
            back(certain, 1.0),
        )

    @torch.no_grad()
    def __call__(
        self,
        frames: Tensor,
        *,
        cameras: str | tuple[Tensor, Tensor] = "first",
        shared_intrinsics: bool = False,
        fps: float = 8.0,
        resolution: int | None = None,
        window: int | None = None,
        align: bool | None = None,
        filters: Filters | None = None,
        split: StaticSplit | None = StaticSplit(),  # noqa: B008 (frozen)
        sh_degree: int = 0,
        refine: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Reconstruction:
        """Reconstruct a grid of frames [V, T, 3, H, W] in [0, 1].

        Args:
            cameras: "first" (camera token replacement: those of the first time), "mean" or
                "median" over all times, or given (extrinsics [V, 3, 4], intrinsics [V, 3, 3] in
                pixels of the frames).
            shared_intrinsics: all views get the median field of view.
            resolution: the longer side the network sees; its training size by default.
            window: times per run of the network. Without trained temporal layers it only trades
                memory for speed (1 by default); with them, times see each other inside a window
                (8 by default), and windows overlap by a quarter.
            align: match the depth scale of each time to the first (by default where no trained
                temporal layers do so).
            filters: Filters(); Filters.none() keeps all.
            split: how static pixels are found; None stores all pixels at every time.
            sh_degree: degree of the harmonics to keep of a head that predicts them.
            refine: steps of photometric optimisation of the Gaussians on the frames (see
                `refine_scene`); 200 to 300 are a good number, 0 keeps what the network says.
            progress: called as progress(done, total) after every time and every step of refinement;
                what it raises ends the work.

        Raises ValueError in one sentence for unusable frames, cameras or options.
        """
        check_frames(frames)
        filters = filters or Filters()
        num_views, (height, width) = len(frames), frames.shape[-2:]
        self._check_cameras(cameras, num_views)
        fit = self._fit(height, width, resolution)
        images = fit.images(frames).transpose(0, 1)  # [T, V, 3, h, w]
        num_times = len(images)
        told = progress and (lambda done, _: progress(done, num_times + refine))
        maps, scales = self._run(images, window, align, sh_degree, told)
        if filters.sharpen:
            sharp = (sharpen_depth(i, d.to(i), filters.sharpen) for i, d in zip(images, maps.depth))
            maps.depth = torch.stack([d.cpu() for d in sharp])

        # Cameras of all times in one unit of length, then one per view.
        if isinstance(cameras, str):
            encodings = maps.pose_encodings.clone()
            encodings[..., :3] *= scales[:, None, None]
            encoding = combine_pose_encodings(encodings, cameras)
            if shared_intrinsics:
                encoding[:, 7:] = encoding[:, 7:].median(dim=0).values
            extrinsics, intrinsics = self.cameras(encoding, fit)
            extrinsics = relative_to_first(extrinsics)
        else:
            extrinsics = relative_to_first(cameras[0].float().cpu())
            intrinsics = fit.intrinsics(cameras[1].float().cpu())
            own, _ = self.cameras(maps.pose_encodings[0], fit)
            scales = scales * baseline_scale(extrinsics, own)
            first = maps.depth[0] * scales[0]
            scales = scales * photometric_scale(images[0].cpu(), first, extrinsics, intrinsics)
        depth = maps.depth * scales[:, None, None, None]

        static, dynamic = emit_gaussians(
            self.model.config.gaussian_head,
            images,
            Maps(maps.pose_encodings, depth, maps.confidence, maps.raw),
            scales,
            (extrinsics, intrinsics),
            filters,
            split,
        )
        intrinsics = fit.intrinsics_back(intrinsics)
        scene = GaussianScene(
            static,
            dynamic,
            extrinsics,
            intrinsics,
            width,
            height,
            fps,
            {"reconstructor": self.kind},
        )
        if refine:
            told = progress and (lambda done: progress(num_times + done, num_times + refine))
            scene = refine_scene(scene, frames.float().cpu(), refine, progress=told)

        def back(values, outside=None):  # [T, V, h, w] to [V, T, H, W]
            return fit.maps_back(values.transpose(0, 1), outside)

        return Reconstruction(
            extrinsics, intrinsics, back(depth), back(maps.confidence, 1.0), scene, scales
        )

    @staticmethod
    def _check_cameras(cameras, num_views: int) -> None:
        if isinstance(cameras, str):
            if cameras not in CAMERA_MODES:
                raise ValueError(
                    f"cameras is {cameras!r}, but must be one of {', '.join(CAMERA_MODES)} or a "
                    "pair (extrinsics, intrinsics)."
                )
            return
        shapes = [tuple(part.shape) for part in cameras]
        if shapes != [(num_views, 3, 4), (num_views, 3, 3)]:
            raise ValueError(
                f"given cameras have the shapes {shapes}, but extrinsics ({num_views}, 3, 4) and "
                f"intrinsics ({num_views}, 3, 3) are needed for {num_views} views."
            )

    def _run(self, images, window, align, sh_degree, progress) -> tuple[Maps, Tensor]:
        """The network on images [T, V, 3, h, w], window by window, and the scale of each time."""
        num_times = len(images)
        trained = self.model.aggregator.temporal_is_trained()
        window = max(1, min(window or (8 if trained else 1), num_times))
        overlap = max(1, window // 4) if trained and window > 1 else 0
        align = not trained if align is None else align
        kept: list[Maps] = []
        depths, confidences, scales = [], [], []
        start, done = 0, 0
        while done < num_times:
            end = min(start + window, num_times)
            maps = self.predict(images[start:end].to(self.device))
            maps = Maps(*(None if m is None else m.float().cpu() for m in vars(maps).values()))
            joint = 1.0  # what brings this window to the scale of the one before
            if start < done:
                joint = self._scale(
                    (torch.stack(depths[start:done]), torch.stack(confidences[start:done])),
                    (maps.depth[: done - start], maps.confidence[: done - start]),
                    torch.zeros_like(maps.depth[: done - start]),
                )
            for time in range(done, end):
                depth, confidence = maps.depth[time - start], maps.confidence[time - start]
                scale = joint
                if align and time > 0:
                    change = (images[time] - images[0]).abs().amax(dim=1).cpu()
                    scale = self._scale((depths[0], confidences[0]), (depth, confidence), change)
                scales.append(scale)
                depths.append(depth * scale)
                confidences.append(confidence)
                if progress is not None:
                    progress(time + 1, num_times)
            new = slice(done - start, end - start)
            raw = None if maps.raw is None else self._reduced(maps.raw[new], sh_degree)
            kept.append(Maps(maps.pose_encodings[new], maps.depth[new], maps.confidence[new], raw))
            done, start = end, max(end - overlap, 1)
        whole = Maps(
            *(
                None if parts[0] is None else torch.cat(parts)
                for parts in zip(*(vars(k).values() for k in kept))
            )
        )
        return whole, torch.tensor(scales)

    @staticmethod
    def _scale(reference, other, change) -> float:
        return scale_between(reference[0], other[0], (reference[1], other[1]), change)

    def _reduced(self, raw: Tensor, sh_degree: int) -> Tensor:
        """Raw maps [N, V, C, h, w] with only the harmonics up to a degree, to save memory."""
        if self.model.config.gaussian_head != "anysplat":
            return raw
        most = self.model.config.sh_degree
        keep = (min(sh_degree, most) + 1) ** 2
        harmonics = raw[:, :, 8:-1].unflatten(2, (3, (most + 1) ** 2))[:, :, :, :keep]
        return torch.cat([raw[:, :, :8], harmonics.flatten(2, 3), raw[:, :, -1:]], dim=2)
