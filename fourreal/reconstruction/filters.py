"""Which pixels become Gaussians and at which depth, and merging of those that fall together."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import pixels_hit, project, unproject
from fourreal.gaussians import Gaussians
from fourreal.neighborhoods import window, within_reach
from fourreal.reconstruction.alignment import quantile

RADIUS = 3  # pixels around one that say whose depth it has
SAME = 0.05  # relative difference of depth below which two views see one surface
LIKE = 0.1  # standard deviation of the difference of colours that count as one
UNLIKE = 0.2  # of a colour channel, beyond all that another view shows around the place


@dataclass(frozen=True)
class Filters:
    """What is dropped or moved. A value of 0 turns a filter off.

    What depth_edge and consistency would drop stays where nothing else would be drawn.

    The percentile and the border are off by default: holes show more than the points they remove
    (2.5 dB at held-out views of six validation scenes).

    Attributes:
        sharpen: where depth changes by more than this fraction within 3 pixels, each pixel takes
            the median depth of those of its colour, so that the edges of depth follow the edges of
            objects (0.2 dB at held-out views of eight validation scenes).
        unmix: beside a jump in depth of more than this fraction, each pixel goes to the surface
            that it shows more of, and what is left of a thing's colour on what is behind it goes
            (`unmix_edges`). Held-out views are as good without; what is seen between the cameras
            has fewer streaks.
        confidence_percentile: pixels with the lowest depth confidence, percent of all pixels of a
            time.
        depth_edge: pixels beside a jump in depth of more than this fraction (flying pixels).
        border: this fraction of the shorter side along each image border, where networks err most.
        consistency: points that float in front of what other views see, or that have another
            colour there: at least two views more look through the point, or show another colour at
            its place, than have a surface like it within this relative distance.
        min_opacity: Gaussians fainter than this.
        voxel_size: Gaussians in one voxel become one; its edge in pixel footprints at the
            median depth.
    """

    sharpen: float = 0.3
    unmix: float = 0.1
    confidence_percentile: float = 0.0
    depth_edge: float = 0.1
    border: float = 0.0
    consistency: float = 0.1
    min_opacity: float = 0.02
    voxel_size: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.confidence_percentile < 100:
            raise ValueError(
                f"confidence_percentile is {self.confidence_percentile}, but must be at least 0 "
                "and below 100."
            )
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} is {value}, but must not be negative.")
        if self.border >= 0.5 or self.min_opacity >= 1:
            raise ValueError(
                f"border is {self.border} and min_opacity {self.min_opacity}: nothing would be "
                "left; use a border below 0.5 and an opacity below 1."
            )

    @staticmethod
    def none() -> "Filters":
        """Keep everything."""
        return Filters(0, 0, 0, 0, 0, 0, 0, 0)


def sharpen_depth(images: Tensor, depth: Tensor, jump: float, detail: int = 1) -> Tensor:
    """Depth [N, H, W] of images [N, 3, H, W] with edges where the images have them.

    Pixels around which depth changes by more than the fraction `jump` take the median depth of the
    7 x 7 pixels around, weighted by how like in colour they are: a weighted median filter (Ma et
    al., ICCV 2013). Where depth was enlarged by `detail`, so is the reach. Networks blur depth
    across edges, and the blurred pixels of an object, drawn on the wall behind it, show as streaks
    from other views.
    """
    radius = RADIUS * detail
    least, most = within_reach(depth, radius)
    n, y, x = (most > (1 + jump) * least).nonzero(as_tuple=True)
    rows, columns, _ = window(y, x, radius, *depth.shape[-2:])
    pixels = n[:, None, None], rows, columns
    colors = images.movedim(1, -1)
    unlike = colors[pixels] - colors[n, y, x][:, None, None]
    difference = unlike.square().sum(-1).flatten(1)
    around, order = depth[pixels].flatten(1).sort(dim=1)
    weights = (difference / (-2 * LIKE**2)).exp().gather(1, order).cumsum(1)
    middle = (weights < weights[:, -1:] / 2).sum(1, keepdim=True)
    sharp = depth.clone()
    sharp[n, y, x] = around.gather(1, middle)[:, 0]
    return sharp


def keep_pixels(
    images: Tensor,
    depth: Tensor,
    confidence: Tensor,
    extrinsics: Tensor,
    intrinsics: Tensor,
    filters: Filters,
) -> Tensor:
    """The pixels of one time that pass, boolean [V, H, W].

    images [V, 3, H, W]; depth, confidence [V, H, W]; extrinsics [V, 3, 4]; intrinsics [V, 3, 3].
    """
    usable = torch.isfinite(depth) & (depth > 0)
    keep = usable.clone()
    if filters.confidence_percentile:
        keep &= confidence >= quantile(confidence, filters.confidence_percentile / 100)
    if filters.depth_edge:
        keep &= depth_jump(depth) <= filters.depth_edge
    if filters.border:
        margin = round(filters.border * min(depth.shape[-2:]))
        inside = torch.zeros_like(keep)
        inside[:, margin : keep.shape[1] - margin, margin : keep.shape[2] - margin] = True
        keep &= inside
    if filters.consistency and len(depth) > 1:
        keep &= consistent(images, depth, extrinsics, intrinsics, filters.consistency)
    if filters.confidence_percentile or filters.border:
        return keep  # what these drop is meant to be missing
    return keep | (usable & ~covered(depth, keep, extrinsics, intrinsics))


def covered(depth: Tensor, keep: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels [V, H, W] in which a kept pixel of some view lies, however far away.

    Where nothing else would be drawn a doubtful point stays: it shows less than a hole does.
    """
    views, height, width = depth.shape
    points = unproject(depth, extrinsics, intrinsics)[keep][None]
    hit = torch.zeros_like(depth)
    for view in range(views):
        pixels, distance = project(points, extrinsics[view, None], intrinsics[view, None])
        y, x, inside = pixels_hit(pixels[0], distance[0], height, width)
        hit[view, y[inside], x[inside]] = 1
    return hit > 0


def shown_by_others(
    depth: Tensor, filled: Tensor, extrinsics: Tensor, intrinsics: Tensor
) -> Tensor:
    """Pixels in filled [V, H, W] whose place a pixel of another view shows that is not in it.

    depth [V, H, W]; extrinsics [V, 3, 4]; intrinsics [V, 3, 3].
    """
    shown = torch.zeros_like(filled)
    for view in range(len(depth)):
        own = filled[view]
        points = unproject(depth[view], extrinsics[view], intrinsics[view])[own][None]
        for other in range(len(depth)):
            if other == view or not len(points[0]):
                continue
            camera = extrinsics[other, None], intrinsics[other, None]
            pixels, distance = project(points, *camera)
            y, x, inside = pixels_hit(pixels[0], distance[0], *depth.shape[1:])
            same = (depth[other, y, x] / distance[0] - 1).abs() < SAME
            shown[view, own] |= inside & same & ~filled[other, y, x]
    return shown


def depth_jump(depth: Tensor) -> Tensor:
    """How far each pixel [V, H, W] hangs between its neighbours' surfaces, relative to its depth.

    Along rows and columns: the smaller of the two steps to its neighbours when both go the same way
    (a pixel on one side of an edge has one small step), less the smallest step nearby (a slanted
    plane has equal steps everywhere in disparity, and is no edge).
    """
    disparity = 1 / depth.clamp_min(1e-8)
    jump = torch.zeros_like(depth)
    for dim in (1, 2):
        lines = disparity.transpose(dim, 2)  # along the last dimension
        steps = F.pad(lines.diff(dim=2), (1, 1))
        before, after = steps[..., :-1], steps[..., 1:]
        torn = torch.minimum(before.abs(), after.abs()) * (before * after > 0)
        around = F.pad(steps[..., 1:-1].abs(), (3, 4), value=torch.inf)
        slope = -F.max_pool1d(-around, 7, stride=1)[..., : lines.shape[-1]]
        jump = torch.maximum(jump, ((torn - slope) / lines).transpose(dim, 2))
    return jump


def consistent(
    images: Tensor, depth: Tensor, extrinsics: Tensor, intrinsics: Tensor, tolerance: float
) -> Tensor:
    """Pixels [V, H, W] whose point is contradicted by at most one view more than confirm it.

    images [V, 3, H, W]. A view contradicts a point that it looks through, and one that lies on its
    surface in a colour that is more than UNLIKE outside of what it shows within a pixel: the rim of
    a thing, taken for the wall behind it. A single contradicting view may be wrong itself; trusting
    it tears holes (-0.5 dB at held-out views).
    """
    views, height, width = depth.shape
    points = unproject(depth, extrinsics, intrinsics).reshape(1, -1, 3)
    balance = torch.zeros(views, height * width, dtype=torch.int32, device=depth.device)
    colors = images.movedim(1, -1).reshape(-1, 3)
    least, most = ((sign * F.max_pool2d(sign * images, 3, 1, 1)).movedim(1, -1) for sign in (-1, 1))
    for other in range(views):
        pixels, distance = project(
            points, extrinsics[other : other + 1], intrinsics[other : other + 1]
        )
        y, x, inside = pixels_hit(pixels[0], distance[0], height, width)
        surface = depth[other, y, x]
        ahead = (surface - distance[0]) / surface
        beyond = torch.maximum(colors - most[other, y, x], least[other, y, x] - colors).amax(-1)
        near, like = ahead.abs() <= tolerance, beyond <= UNLIKE
        vote = (near & like).int() - ((near & ~like) | (ahead > tolerance)).int()
        vote = torch.where(inside, vote, 0).reshape(views, -1)
        vote[other] = 0
        balance += vote
    return (balance >= -1).reshape(depth.shape)


def merge_voxels(gaussians: Gaussians, size: float, weights: Tensor) -> tuple[Gaussians, Tensor]:
    """One Gaussian per voxel of edge `size` (world units), averaged with weights [N] >= 0.

    Opacity and scale are averaged too, so a merged Gaussian is as large and as solid as its parts;
    the quaternion is that of the part with the largest weight, which is returned beside them.
    """
    if not len(gaussians):
        return gaussians, weights
    cells = (gaussians.means / size).floor().long()
    cells = cells - cells.amin(0)
    extent = cells.amax(0) + 1
    flat = (cells[:, 0] * extent[1] + cells[:, 1]) * extent[2] + cells[:, 2]
    occupied, index = flat.unique(return_inverse=True)
    voxels = len(occupied)
    total = weights.new_zeros(voxels).index_add_(0, index, weights)
    share = weights / total[index].clamp_min(1e-12)

    def average(values: Tensor) -> Tensor:
        out = values.new_zeros(voxels, *values.shape[1:])
        return out.index_add_(0, index, values * share.view(-1, *[1] * (values.ndim - 1)))

    most = weights.new_zeros(voxels).scatter_reduce(0, index, weights, "amax", include_self=False)
    position = torch.arange(len(index), device=index.device)
    position = position.where(weights == most[index], len(index))
    heaviest = position.new_full((voxels,), len(index)).scatter_reduce(0, index, position, "amin")
    merged = Gaussians(
        average(gaussians.means),
        gaussians.quaternions[heaviest],
        average(gaussians.scales),
        average(gaussians.opacities),
        average(gaussians.harmonics),
    )
    return merged, most
