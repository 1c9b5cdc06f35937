"""3D Gaussians and the dynamic scene made of them.

Conventions (3DGS, gsplat, ComfyUI SPLAT): OpenCV world, quaternions (w, x, y, z), linear scales,
opacities in [0, 1], colour = SH_C0 * harmonics[:, 0] + 0.5.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

SH_C0 = 0.28209479177387814  # the constant real spherical harmonic, 1 / (2 sqrt(pi))


def rgb_to_harmonics(rgb: Tensor) -> Tensor:
    """Colours [..., 3] in [0, 1] to degree-0 harmonics [..., 1, 3]."""
    return ((rgb - 0.5) / SH_C0).unsqueeze(-2)


def harmonics_to_rgb(harmonics: Tensor) -> Tensor:
    """The view-independent colour [..., 3] of harmonics [..., K, 3] (not clamped)."""
    return harmonics[..., 0, :] * SH_C0 + 0.5


@dataclass
class Gaussians:
    """N Gaussians: means [N, 3], quaternions [N, 4] (w, x, y, z), scales [N, 3] (linear, > 0),
    opacities [N] in [0, 1], harmonics [N, K, 3] with K = (degree + 1)^2."""

    means: Tensor
    quaternions: Tensor
    scales: Tensor
    opacities: Tensor
    harmonics: Tensor

    def __post_init__(self) -> None:
        count = self.means.shape[0]
        expected = {
            "means": (count, 3),
            "quaternions": (count, 4),
            "scales": (count, 3),
            "opacities": (count,),
            "harmonics": (count, self.harmonics.shape[1] if self.harmonics.ndim == 3 else -1, 3),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"Gaussians.{name} has shape {tuple(getattr(self, name).shape)}, but {shape} "
                    "is needed: all fields describe the same N Gaussians."
                )

    def __len__(self) -> int:
        return self.means.shape[0]

    def __repr__(self) -> str:
        """Their number, degree and place, not their numbers."""
        degree = round(self.harmonics.shape[1] ** 0.5) - 1
        return f"Gaussians({len(self)} of degree {degree}, {self.means.dtype}, {self.means.device})"

    def map(self, function: Callable[[Tensor], Tensor]) -> "Gaussians":
        """A copy with function(tensor) applied to every field (selection, device, dtype)."""
        return Gaussians(**{f.name: function(getattr(self, f.name)) for f in fields(self)})

    def __getitem__(self, index: Tensor) -> "Gaussians":
        """The Gaussians chosen by a boolean mask [N] or an index tensor."""
        return self.map(lambda x: x[index])

    def to(self, *args: Any, **kwargs: Any) -> "Gaussians":
        """A copy on another device or in another type; the arguments are those of Tensor.to."""
        return self.map(lambda x: x.to(*args, **kwargs))

    def viewing_distance(self, extrinsics: Tensor) -> float:
        """The median depth of what is in front of a camera [3, 4], where an orbit's middle lies;
        1 where there is nothing."""
        axis = extrinsics[2].to(self.means)
        depth = self.means @ axis[:3] + axis[3]
        ahead = depth[depth > 0]
        return ahead.median().item() if len(ahead) else 1.0

    @staticmethod
    def empty(num_harmonics: int = 1, device: torch.device | None = None) -> "Gaussians":
        """No Gaussians, with K = num_harmonics."""
        return Gaussians(
            torch.zeros(0, 3, device=device),
            torch.zeros(0, 4, device=device),
            torch.zeros(0, 3, device=device),
            torch.zeros(0, device=device),
            torch.zeros(0, num_harmonics, 3, device=device),
        )

    @staticmethod
    def concatenate(parts: Sequence["Gaussians"]) -> "Gaussians":
        """All parts (at least one) in order; lower harmonic degrees are padded with zeros."""
        most = max(p.harmonics.shape[1] for p in parts)

        def padded(part: Gaussians) -> Tensor:
            missing = most - part.harmonics.shape[1]
            return torch.nn.functional.pad(part.harmonics, (0, 0, 0, missing))

        return Gaussians(
            torch.cat([p.means for p in parts]),
            torch.cat([p.quaternions for p in parts]),
            torch.cat([p.scales for p in parts]),
            torch.cat([p.opacities for p in parts]),
            torch.cat([padded(p) for p in parts]),
        )


def turn_about_x(gaussians: Gaussians) -> Gaussians:
    """The same Gaussians after (x, y, z) -> (x, -y, -z); its own inverse.

    It leads from OpenCV's axes (y down, z forward) to those of OpenGL, SPZ and USD (y up, z
    backward). Harmonics of order l and index m change sign with (-1)^(l + |m|), and again where
    m is negative.
    """
    degree = round(gaussians.harmonics.shape[1] ** 0.5) - 1
    signs = [
        (1 if m >= 0 else -1) * (-1) ** (order + abs(m))
        for order in range(degree + 1)
        for m in range(-order, order + 1)
    ]
    new = gaussians.means.new_tensor
    return Gaussians(
        gaussians.means * new([1, -1, -1]),
        gaussians.quaternions * new([1, 1, -1, -1]),
        gaussians.scales,
        gaussians.opacities,
        gaussians.harmonics * new(signs)[:, None],
    )


@dataclass
class GaussianScene:
    """A dynamic scene: what stands still once, what moves once per time, and its cameras.

    extrinsics [V, 3, 4] (world to camera, OpenCV) and intrinsics [V, 3, 3] (pixels of a
    width x height image) are the cameras of the input views; fps is the playback rate. observed
    [V, T] says which of these views were there at which times: all where it is None. confidences:
    how sure the network was of each Gaussian, [N] of the static ones and then of each time's; None
    where nobody knows, as in files.
    """

    static: Gaussians
    dynamic: list[Gaussians]
    extrinsics: Tensor
    intrinsics: Tensor
    width: int
    height: int
    fps: float = 8.0
    metadata: dict[str, str] = field(default_factory=dict)
    observed: Tensor | None = None
    confidences: list[Tensor] | None = None

    def __post_init__(self) -> None:
        views = self.extrinsics.shape[0]
        if self.extrinsics.shape != (views, 3, 4) or self.intrinsics.shape != (views, 3, 3):
            raise ValueError(
                f"a scene needs extrinsics [V, 3, 4] and intrinsics [V, 3, 3] of the same V, got "
                f"{tuple(self.extrinsics.shape)} and {tuple(self.intrinsics.shape)}."
            )
        if not self.dynamic:
            raise ValueError("a scene needs at least one time; dynamic is an empty list.")

    def __repr__(self) -> str:
        """Its sizes, not its numbers."""
        still, moving = len(self.static), self.num_gaussians - len(self.static)
        return (
            f"GaussianScene({self.num_frames} times, {self.num_views} views, {still} still and "
            f"{moving} moving Gaussians, {self.width} x {self.height}, {self.fps:g} fps)"
        )

    @property
    def num_frames(self) -> int:
        """Number of times T."""
        return len(self.dynamic)

    @property
    def num_views(self) -> int:
        return self.extrinsics.shape[0]

    @property
    def num_gaussians(self) -> int:
        """Number of Gaussians that are held: the static ones once, the others of every time."""
        return len(self.static) + sum(len(part) for part in self.dynamic)

    @property
    def num_harmonics(self) -> int:
        """Harmonics per colour channel, (degree + 1)^2, of the part with the highest degree."""
        return max(part.harmonics.shape[1] for part in [self.static, *self.dynamic])

    def at(self, time: int) -> Gaussians:
        """All Gaussians of one time (0 <= time < T): the static ones first. Raises ValueError for
        a time that the scene does not have."""
        if not 0 <= time < self.num_frames:
            raise ValueError(
                f"time is {time}, but the scene has times 0 to {self.num_frames - 1}; choose one "
                "of those."
            )
        return Gaussians.concatenate([self.static, self.dynamic[time]])

    def first_times(self, count: int | None) -> "GaussianScene":
        """The scene at its first `count` times; at all where it has fewer, or where it is None."""
        return replace(
            self,
            dynamic=self.dynamic[:count],
            observed=None if self.observed is None else self.observed[:, :count],
            confidences=self.confidences and [self.confidences[0], *self.confidences[1:][:count]],
        )

    def to(self, *args: Any, **kwargs: Any) -> "GaussianScene":
        """A copy on another device or in another type; the arguments are those of Tensor.to."""
        return GaussianScene(
            self.static.to(*args, **kwargs),
            [g.to(*args, **kwargs) for g in self.dynamic],
            self.extrinsics.to(*args, **kwargs),
            self.intrinsics.to(*args, **kwargs),
            self.width,
            self.height,
            self.fps,
            self.metadata,
            self.observed,
            self.confidences and [c.to(*args, **kwargs) for c in self.confidences],
        )
