"""The shape of an object, told by its silhouettes and their shading.

Each silhouette becomes a few numbers; a class of shapes is a normal distribution of these, fitted
to objects whose shape is known.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fourreal.metrics.objects import shown_whole

LEAST_PIXELS = 16  # of a silhouette
EVEN = 0.03  # share of a covariance that is added to its diagonal
KEPT, ROUNDS = 0.7, 2  # of a class's examples, those that fit it best, so many times over
SHARED = 0.1  # of a class's covariance is that of all classes
TAIL = 4.0  # degrees of freedom of a description's distribution
BANDS = 4  # of an object's height, whose widths are compared


def silhouette(mask: Tensor, image: Tensor) -> Tensor | None:
    """Numbers [12] that describe a silhouette [H, W] in its image [3, H, W], whatever its size.

    Height over width; how far it leans; how much of it lies outside the ellipse of its own moments
    and area; how its columns and rows spread; its widths from top to bottom; and how its brightness
    changes from the top to the rest and along its rows. None where it is too small, or cut off by
    the image's border.
    """
    count = int(mask.sum())
    edge = mask[0].any() | mask[-1].any() | mask[:, 0].any() | mask[:, -1].any()
    if count < LEAST_PIXELS or edge:
        return None
    y, x = mask.nonzero().float().unbind(-1)
    x, y = x - x.mean(), y - y.mean()
    xx, yy, xy = (x * x).mean() + 1 / 12, (y * y).mean() + 1 / 12, (x * y).mean()
    root = (xx * yy - xy * xy).clamp_min(1e-6).sqrt()
    # Squared distance in units of the ellipse of these moments, of whose area pi k it is count.
    distance = (yy * x * x - 2 * xy * x * y + xx * y * y) / root**2
    outside = (distance > count / (torch.pi * root)).float().mean()
    spread = [(v**4).mean() / (v * v).mean().square().clamp_min(1e-6) for v in (x, y)]
    place = (y - y.min()) / (y.max() - y.min()).clamp_min(1)
    band = (place * BANDS).long().clamp_max(BANDS - 1)
    widths = torch.stack([_width(x[band == b]) for b in range(BANDS)])
    value = image.amax(0)[mask]
    value = value / value.mean().clamp_min(1e-6)
    upper = place < 0.3
    top, rest = value[upper], value[~upper]
    if len(rest) < LEAST_PIXELS / 2:
        return None
    slope = torch.corrcoef(torch.stack([x[~upper], rest]))[0, 1].nan_to_num()
    numbers = [
        *(0.5 * (yy / xx).log(), (xy / root).abs(), outside, *spread),
        *(widths / widths.max().clamp_min(1)),
        *(top.mean() - rest.mean(), rest.std(correction=0), slope.abs()),
    ]
    return torch.stack([torch.as_tensor(n, dtype=torch.float32) for n in numbers]).nan_to_num()


def _width(x: Tensor) -> Tensor:
    return x.max() - x.min() + 1 if len(x) else torch.tensor(0.0)


def silhouettes(masks: Tensor, frames: Tensor, others: Tensor) -> list[Tensor]:
    """For each view of masks [V, T, H, W] and frames [V, T, 3, H, W] that shows the object whole at
    any time: the medians [12] over these times of its silhouettes' numbers. Where no view does,
    those of all views that show it; others [V, T, H, W] is what may hide a part of it."""
    wholes = shown_whole(masks, others)
    wholes = wholes if wholes.any() else torch.ones_like(wholes)
    found = []
    for own, images, times in zip(masks, frames, wholes):
        pairs = zip(own[times], images[times])
        kept = [s for m, i in pairs if (s := silhouette(m, i)) is not None]
        if kept:
            found.append(torch.stack(kept).median(0).values)
    return found


@dataclass
class Classes:
    """Normal distributions of descriptions [D] by name: mean [D], and factors [D, D] of the
    covariance (whitening) with its log-determinant."""

    means: dict[str, Tensor]
    factors: dict[str, Tensor]
    volumes: dict[str, float]

    @staticmethod
    def fit(examples: dict[str, Tensor]) -> "Classes":
        """Of descriptions [N, D] by name. Covariances are each half the class's own, half that of
        all classes; examples that fit least, as what is behind something else, are left out."""
        kept = examples
        for _ in range(ROUNDS):
            classes = Classes._of(kept)
            kept = {name: rows[classes._near(name, rows)] for name, rows in examples.items()}
        return Classes._of(kept)

    @staticmethod
    def _of(examples: dict[str, Tensor]) -> "Classes":
        means = {name: rows.median(0).values for name, rows in examples.items()}
        centred = {name: rows - means[name] for name, rows in examples.items()}
        shared = torch.cat([*centred.values()]).T.cov()
        factors, volumes = {}, {}
        for name, rows in centred.items():
            own = rows.T.cov() + SHARED * (shared - rows.T.cov())
            own = own + EVEN * torch.diag(shared.diagonal()) + 1e-6 * torch.eye(len(own))
            factor = torch.linalg.cholesky(own)
            factors[name], volumes[name] = factor, float(2 * factor.diagonal().log().sum())
        return Classes(means, factors, volumes)

    def _distances(self, name: str, rows: Tensor) -> Tensor:
        """Squared distances of descriptions [N, D] from a class, in its deviations."""
        away = (rows - self.means[name]).T
        return torch.linalg.solve_triangular(self.factors[name], away, upper=False).square().sum(0)

    def _near(self, name: str, rows: Tensor) -> Tensor:
        distances = self._distances(name, rows)
        return distances <= distances.quantile(KEPT)

    def tell(self, views: Tensor) -> str:
        """The likeliest class of an object that V views describe [V, D]."""
        return min(self.means, key=lambda name: float(self._unlikely(name, views).sum()))

    def _unlikely(self, name: str, views: Tensor) -> Tensor:
        """Twice the negative log-likelihood [V], but for a constant, of views [V, D] in Student's
        distribution, whose tails keep a few odd views from deciding."""
        distances = self._distances(name, views)
        return (TAIL + views.shape[1]) * (1 + distances / TAIL).log() + self.volumes[name]
