"""Photometric bundle adjustment: cameras and depth moved until the views show the same surfaces.

A network's cameras are off by a degree or two where it saw few views, and its depth of a thing by
some percent, in each view by another amount: from between the cameras the thing is then seen
several times. Here views are warped into their neighbours by depth. First the cameras move to
where the colours agree (Alismail et al. 2016, "Photometric Bundle Adjustment for Vision-Based
SLAM"), then the depth of each time. VGGT's authors report that bundle adjustment after the network
helps (arXiv 2503.11651, table 1); theirs is of tracked points, which small images have few of.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import camera_centers, colors_at, places_seen, scale_intrinsics
from fourreal.cameras.screws import even_movement, skew, steps_between
from fourreal.grid import spaced_times
from fourreal.reconstruction.alignment import shrunk_views
from fourreal.reconstruction.image_fit import Images
from fourreal.reconstruction.pixels_to_gaussians import Cameras

# An error counts as e / (e + softness): much for its first bit, and little more where the views
# show another thing altogether.
COLOR_SOFTNESS, DEPTH_SOFTNESS = 0.03, 0.05
DEPTH_WEIGHT = 0.1
HIDDEN = 0.08  # of depth, by which a point lies behind what the other view sees

CAMERA_TIMES = 2  # that cameras are moved by, at most
CAMERA_NEIGHBORS = 3  # views that each view is warped into, and as many again that are into it
CAMERA_RATE = 0.008  # of Adam at the beginning: radians, parts of the depth, logarithms
EVEN_RATE = 0.004  # the same from one camera to the next
# How far all is thought to be from what the network says: turns in radians and shifts in parts of
# the depth; logarithms of each view's unit of depth, and of the focal length.
POSE_SPREAD, UNIT_SPREAD, FOCAL_SPREAD = 0.9, 0.16, 0.32

DEPTH_NEIGHBORS = 2
DEPTH_RATE = 0.02  # logarithms of depth
CELL, SHADES = 2, 8  # pixels across a cell, and cells from black to white
LUMA = (0.299, 0.587, 0.114)
# The same for the corrections of depth, and for their steps from cell to cell in place and shade.
CELL_SPREAD, STEP_SPREAD, SHADE_SPREAD = 0.35, 0.09, 0.17
# Where they begin: the best of these, each by the errors of the cells around, in neighboring shades
# too. A surface off by more than HIDDEN counts there, and must be seen at least half as much.
STARTS = (0.0, *(s * x for x in (0.03, 0.06, 0.09, 0.12, 0.16, 0.21, 0.27) for s in (1, -1)))
START_CELLS, START_SHADES = 9, 3
START_HIDDEN, START_SEEN, START_SPREAD = 0.15, 0.5, 1.0


def adjust_cameras(
    images: Images, depth: Tensor, cameras: Cameras, steps: int = 100, even: bool = False
) -> tuple[Cameras, Tensor]:
    """Cameras, and a factor for each view's depth [V], with which V >= 2 views agree better.

    images [T, V, 3, h, w] in [0, 1] and depth [T, V, h, w] > 0; cameras: extrinsics [V, 3, 4] in
    depth's unit, and intrinsics [V, 3, 3] in pixels of the images. The first camera stays where it
    is, and the focal lengths of all views change by one factor. even: the cameras are those of an
    even movement (see even_movement), and stay so. What is given comes back, with factors of 1,
    where the views do not agree better in the end. Works under no_grad and inference mode.
    """
    device, chosen = cameras[0].device, spaced_times(CAMERA_TIMES, len(depth))
    with torch.inference_mode(False), torch.enable_grad():
        at = [(images[time].to(device), depth[time].to(device)) for time in chosen]
        views = [comparable_views(*own, cameras[1]) for own in at]
        kind, rate = (EvenCameras, EVEN_RATE) if even else (MovingCameras, CAMERA_RATE)
        moving = kind(cameras[0].clone(), views[0][2], views[0][1])
        pairs = neighboring_pairs(cameras[0].clone(), CAMERA_NEIGHBORS)

        def error() -> Tensor:
            now, units = moving.now()
            scaled = [(own, depth * units[:, None, None]) for own, depth, _ in views]
            return torch.stack([disagreement(*own, now, pairs) for own in scaled]).mean()

        before = error().item()
        descend(moving.parts, lambda: error() + moving.unlikely(), rate, steps)
        if not error().item() < before:
            return cameras, torch.ones(len(cameras[0]), device=device)
        (extrinsics, lenses), units = moving.now()
    height, width = views[0][1].shape[-2:]
    factors = depth.shape[-1] / width, depth.shape[-2] / height
    return (extrinsics.detach(), scale_intrinsics(lenses.detach(), *factors)), units.detach()


def adjust_depth(images: Tensor, depth: Tensor, cameras: Cameras, steps: int = 25) -> Tensor:
    """Depth [V, h, w] of one time with which V >= 2 views agree better.

    images [V, 3, h, w] in [0, 1]; depth > 0 in the unit of the cameras, extrinsics [V, 3, 4] and
    intrinsics [V, 3, 3] in pixels of the images. Logarithms of each view's depth are corrected by a
    bilateral grid (Chen et al. 2007, "Real-time Edge-aware Image Processing with the Bilateral
    Grid"), cells of place and brightness: what is one surface moves together, and a correction
    ends where the surface does. They begin where a search among STARTS finds the least error, as
    small steps do not find the way from far off. Works under no_grad and inference mode.
    """
    with torch.inference_mode(False), torch.enable_grad():
        small, near, lenses = comparable_views(images, depth, cameras[1])
        views = cameras[0].clone(), lenses
        pairs = neighboring_pairs(views[0], DEPTH_NEIGHBORS)
        places = cells_of_pixels(small)
        cells = starting_cells(small, near, views, pairs, places)

        def loss() -> Tensor:
            across, down, shades = (cells.diff(dim=dim).square().mean() for dim in (-1, -2, -3))
            unlikely = cells.square().mean() / CELL_SPREAD**2 + shades / SHADE_SPREAD**2
            unlikely = unlikely + (across + down) / STEP_SPREAD**2
            return disagreement(small, near * factors_at(places, cells), views, pairs) + unlikely

        descend([cells], loss, DEPTH_RATE, steps)
        return depth * factors_at(cells_of_pixels(images), cells.detach())


@torch.no_grad()
def starting_cells(
    images: Tensor,
    depth: Tensor,
    cameras: Cameras,
    pairs: tuple[Tensor, Tensor],
    places: Tensor,
) -> Tensor:
    """The logarithms of STARTS with which the surfaces in each cell contradict other views least,
    [V, 1, shades, rows, columns]; 0 where none of them is seen there.

    images [V, 3, h, w], depth [V, h, w], cameras of the views; pairs: see disagreement; places
    [V, 1, h, w, 3]: see cells_of_pixels. Depth of one view is tried at a time, that of the others
    is as it was.
    """
    num_views, height, width = depth.shape
    size = SHADES, max(height // CELL, 2), max(width // CELL, 2)
    last = places.new_tensor(size[::-1]) - 1
    column, row, shade = ((places[:, 0] + 1) / 2 * last).round().long().unbind(-1)
    own = ((shade * size[1] + row) * size[2] + column).flatten(1)

    orders = [torch.arange(float(count), device=depth.device) for count in size]
    counts = START_SHADES, START_CELLS, START_CELLS
    near = [(k - k[:, None]).abs().le(n // 2).to(depth) for k, n in zip(orders, counts)]

    def around(values: Tensor) -> Tensor:
        """Sums over the cells around of values [P, h, w] of pairs."""
        by_view = torch.zeros_like(depth).index_add_(0, pairs[0], values).flatten(1)
        cells = depth.new_zeros(num_views, math.prod(size)).scatter_add_(1, own, by_view)
        return torch.einsum("vsrc,sS,rR,cC->vSRC", cells.view(-1, *size), *near)[:, None]

    tried = [
        contradictions(images, depth, depth * math.exp(start), cameras, pairs, START_HIDDEN)
        for start in STARTS
    ]
    wrong, seen = (torch.stack([around(own.to(depth)) for own in part]) for part in zip(*tried))
    starts = depth.new_tensor(STARTS)
    costs = wrong / seen.clamp_min(1e-6) + (starts / START_SPREAD).square().view(-1, *[1] * 5)
    best = starts[costs.where(seen > START_SEEN * seen[0], torch.inf).argmin(0)]
    return best.where(seen[0] > 0, 0.0)


def disagreement(
    images: Tensor, depth: Tensor, cameras: Cameras, pairs: tuple[Tensor, Tensor]
) -> Tensor:
    """How much views contradict each other, a number between 0 and about 1.

    images [V, 3, h, w], depth [V, h, w], cameras of the views; pairs: two indices [P]. The second
    view of each pair is warped into the first, and compared in colour and depth where it is not
    hidden there.
    """
    errors, counts = contradictions(images, depth, depth, cameras, pairs, HIDDEN)
    return errors.sum() / counts.sum().clamp_min(1)


def contradictions(
    images: Tensor,
    depth: Tensor,
    moved: Tensor,
    cameras: Cameras,
    pairs: tuple[Tensor, Tensor],
    hidden: float,
) -> tuple[Tensor, Tensor]:
    """Errors [P, h, w] of the pixels of the first views of pairs, were their depth `moved`
    [V, h, w], against the second ones with theirs; and which pixels count, which have the others'
    surfaces no more than `hidden` of their depth in front of them. See disagreement."""
    here, there = pairs
    own, others = ((cameras[0][side], cameras[1][side]) for side in pairs)
    places, inside, distance = places_seen(moved.index_select(0, here), own, others)
    # Colours and depth one by one, as only the depth has a gradient.
    seen = colors_at(images[there], places)
    sees = colors_at(depth.log().index_select(0, there)[:, None], places)[:, 0]
    behind = distance.clamp_min(1e-6).log() - sees
    color = soft((seen - images[here]).abs().mean(1), COLOR_SOFTNESS)
    error = color + DEPTH_WEIGHT * soft(behind.abs(), DEPTH_SOFTNESS)
    counts = inside & (behind < hidden)
    return error * counts, counts


def soft(errors: Tensor, softness: float) -> Tensor:
    """Errors >= 0 between 0 and 1, which large ones come near to."""
    return errors / (errors + softness)


def neighboring_pairs(extrinsics: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of cameras [V, 3, 4], each one with its `count` nearest ones, both ways: two indices [P]."""
    num_views = len(extrinsics)
    centers = camera_centers(extrinsics)
    distance = torch.cdist(centers, centers)
    distance.fill_diagonal_(torch.inf)
    count = min(count, num_views - 1)
    there = distance.topk(count, largest=False).indices.flatten()
    here = torch.arange(num_views, device=there.device).repeat_interleave(count)
    both = torch.cat([torch.stack([here, there]), torch.stack([there, here])], 1).unique(dim=1)
    return both[0], both[1]


def descend(parts: list[Tensor], loss: Callable[[], Tensor], rate: float, steps: int) -> None:
    """Move the parts for so many steps of Adam to where the loss is smaller."""
    for part in parts:
        part.requires_grad_(True)
    optimizer = torch.optim.Adam(parts, lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


def comparable_views(
    images: Tensor, depth: Tensor, intrinsics: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Copies of views as shrunk_views makes them; depth that is no number above 0 is replaced by
    the median of the others."""
    usable = depth.isfinite() & (depth > 0)
    filled = depth.where(usable, depth[usable].median())
    # Clones, as tensors made in inference mode cannot be differentiated.
    return shrunk_views(images.clone(), filled, intrinsics.clone())


def cells_of_pixels(images: Tensor) -> Tensor:
    """Where pixels lie in the cells, [V, 1, h, w, 3] between -1 and 1: column, row, shade."""
    height, width = images.shape[-2:]
    rows, columns = (torch.linspace(-1, 1, n, device=images.device) for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    shade = 2 * (images * images.new_tensor(LUMA)[:, None, None]).sum(1) - 1
    return torch.stack([x.expand_as(shade), y.expand_as(shade), shade], -1)[:, None]


def factors_at(places: Tensor, cells: Tensor) -> Tensor:
    """The factors [V, h, w] of depth at places [V, 1, h, w, 3] of the cells
    [V, 1, shades, rows, columns], which hold their logarithms."""
    own = F.grid_sample(cells, places, padding_mode="border", align_corners=True)
    return own[:, 0, 0].exp()


class MovingCameras:
    """Cameras that turn about what they look at, shift and zoom, and units of their views' depth.

    extrinsics [V, 3, 4], intrinsics [V, 3, 3] and depth [V, h, w] as they were.
    """

    def __init__(self, extrinsics: Tensor, intrinsics: Tensor, depth: Tensor):
        self.extrinsics, self.intrinsics = extrinsics, intrinsics
        self.middle = depth.flatten(1).median(1).values[:, None]
        zeros = torch.zeros_like(extrinsics[..., 0])
        self.turns, self.shifts = zeros[1:].clone(), zeros[1:].clone()  # not of the first camera
        self.units, self.zoom = zeros[:, 0].clone(), zeros[0, 0].clone()
        self.parts = [self.turns, self.shifts, self.units, self.zoom]

    def now(self) -> tuple[Cameras, Tensor]:
        """The cameras and the factors [V] of depth."""
        return (self.where(), self.lenses()), self.units.exp()

    def where(self) -> Tensor:
        """Extrinsics [V, 3, 4]."""
        turns, shifts = (F.pad(part, (0, 0, 1, 0)) for part in (self.turns, self.shifts))
        turn = torch.linalg.matrix_exp(skew(turns))
        ahead = F.pad(self.middle, (2, 0))  # [V, 3], stays in its place when the camera turns
        shift = (ahead + shifts * self.middle)[..., None]
        translation = turn @ (self.extrinsics[..., 3] - ahead)[..., None] + shift
        return torch.cat([turn @ self.extrinsics[..., :3], translation], -1)

    def lenses(self) -> Tensor:
        """Intrinsics [V, 3, 3]."""
        focal = torch.ones_like(self.intrinsics)
        focal[:, 0, 0] = focal[:, 1, 1] = self.zoom.exp()
        return self.intrinsics * focal

    def moves(self) -> Tensor:
        """Turns in radians and shifts in parts of the depth [N, 6] from where cameras were."""
        return torch.cat([self.turns, self.shifts], 1)

    def unlikely(self) -> Tensor:
        """How far all is from what the network said."""
        pose = self.moves().square().sum(1).mean()
        units, zoom = self.units.square().mean(), self.zoom.square()
        return pose / POSE_SPREAD**2 + units / UNIT_SPREAD**2 + zoom / FOCAL_SPREAD**2


class EvenCameras(MovingCameras):
    """The same for cameras of an even movement: the step from one to the next changes, about the
    point that the first one has in its middle, so that what it looks at stays."""

    def __init__(self, extrinsics: Tensor, intrinsics: Tensor, depth: Tensor):
        super().__init__(extrinsics, intrinsics, depth)
        self.ahead = F.pad(self.middle[0], (2, 0))[:, None]
        self.around = torch.cat([extrinsics[..., :3], extrinsics[..., 3:] - self.ahead], -1)
        self.step = steps_between(self.around).mean(0)
        self.change = torch.zeros_like(self.step)  # shifts in parts of the depth
        self.parts = [self.change, self.units, self.zoom]

    def where(self) -> Tensor:
        """Extrinsics [V, 3, 4]."""
        turn, shift = self.change.split(3)
        step = self.step + torch.cat([turn, shift * self.middle[0]])
        moved = even_movement(self.around, step)
        return torch.cat([moved[..., :3], moved[..., 3:] + self.ahead], -1)

    def moves(self) -> Tensor:
        """Turns in radians and shifts in parts of the depth [V, 6] from where cameras were."""
        count = torch.arange(len(self.around), device=self.change.device)[:, None]
        return count * self.change
