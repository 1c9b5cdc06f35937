"""An analytic ray-caster in torch: rooms and grounds, quadrics and boxes, shadows, exact depth.

Rays have camera z = 1, so the ray parameter of a hit is its z-depth. Objects are intersected in
their own frame, scaled to a unit sphere, cube or cylinder; lighting is Lambert with one hard
shadow, softened by supersampling.
"""

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourreal.cameras import look_at, pixel_grid, pixel_intrinsics
from fourreal.scenes.describe import (
    BACKDROP_RADIUS,
    COLORS,
    ROOM_BACK,
    ROOM_FRONT,
    ROOM_HALF_WIDTH,
    ROOM_HEIGHT,
    SET_COLORS,
    SceneDescription,
)

FAR = 1e6
SAMPLES = 2  # a pixel of a frame is the mean of SAMPLES x SAMPLES rays
SHAPE_IDS = {"sphere": 0, "ellipsoid": 0, "box": 1, "cylinder": 2}


def _unit_sphere(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """First hit of rays o + t d ([..., 3, P]) with the unit sphere: t and the normal there."""
    a, b = (d * d).sum(-2), (o * d).sum(-2)
    root = b * b - a * ((o * o).sum(-2) - 1)
    t = (-b - root.clamp_min(0).sqrt()) / a
    t = torch.where((root > 0) & (t > 0), t, FAR)
    return t, o + t[..., None, :] * d


def _unit_box(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
    middle, reach = -o * inverse, inverse.abs()
    enter, axis = (middle - reach).max(-2)
    leave = (middle + reach).amin(-2)
    t = torch.where((enter < leave) & (enter > 0), enter, FAR)
    normal = torch.zeros_like(d).scatter_(-2, axis[..., None, :], 1.0) * -d.sign()
    return t, normal


def _unit_cylinder(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Radius 1 about y, y in [-1, 1]."""
    flat = d.new_tensor([1.0, 0.0, 1.0])[:, None]
    of, df = o * flat, d * flat
    a, b = (df * df).sum(-2).clamp_min(1e-9), (of * df).sum(-2)
    root = b * b - a * ((of * of).sum(-2) - 1)
    half = root.clamp_min(0).sqrt() / a
    inverse = 1 / torch.where(d[..., 1, :].abs() < 1e-9, 1e-9, d[..., 1, :])
    cap_middle, cap_reach = -o[..., 1, :] * inverse, inverse.abs()
    side, cap = -b / a - half, cap_middle - cap_reach
    enter = torch.maximum(side, cap)
    leave = torch.minimum(-b / a + half, cap_middle + cap_reach)
    t = torch.where((root > 0) & (enter < leave) & (enter > 0), enter, FAR)
    hit = o + t[..., None, :] * d
    up = torch.zeros_like(hit)
    up[..., 1, :] = -d[..., 1, :].sign()
    return t, torch.where((cap > side)[..., None, :], up, hit * flat)


MOST_THINGS = 3  # objects of a scene
INTERSECT = (_unit_sphere, _unit_box, _unit_cylinder)


def _any_shape(
    shape: Tensor, kinds: tuple[int, ...], o: Tensor, d: Tensor
) -> tuple[Tensor, Tensor]:
    """Hits with one object of each scene; shape [B] says which unit solid it is, of these kinds."""
    first, *others = kinds
    t, normal = INTERSECT[first](o, d)
    for kind in others:
        t_kind, n_kind = INTERSECT[kind](o, d)
        chosen = (shape == kind).view(-1, *[1] * (t.ndim - 1))
        t = torch.where(chosen, t_kind, t)
        normal = torch.where(chosen[..., None], n_kind, normal)
    return t, normal


def _texture(kind: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Brightness factor [B, V, P] of floor textures 0 plain, 1 checker, 2 stripes, 3 noise."""
    checker = ((u.floor() + v.floor()) % 2) * 0.26 - 0.13
    stripes = ((u * 1.4).floor() % 2) * 0.26 - 0.13
    noise = 0.11 * (
        torch.sin(2.1 * u + 1.7 * torch.sin(1.3 * v))
        + torch.sin(2.7 * v + 1.9 * torch.sin(1.1 * u))
    )
    kind = kind[:, None, None]
    zero = torch.zeros_like(u)
    pattern = torch.where(kind == 1, checker, torch.where(kind == 2, stripes, zero))
    return 1 + torch.where(kind == 3, noise, pattern)


Things = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of S objects: shape [B, S] and exists [B, S]; the maps [B, S, 3, 3] from the set's frame to that
of each unit solid, and positions [B, S, 3]."""
Kinds = tuple[tuple[int, ...], ...]
"""Of each object the unit solids that it is in some scene."""


def _cast(
    things: Things, kinds: Kinds, camera: Tensor, d: Tensor, t_set: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest depth [B, V, P], object index (-1 is the set) and its normal, of rays d
    [B, V, 3, P] from the cameras that meet the empty set at t_set."""
    shape, exists, to_unit, position = things
    nearest, normal = t_set.clone(), torch.zeros_like(d)
    index = torch.full_like(nearest, -1, dtype=torch.long)
    for n in range(shape.shape[1]):
        to_local = to_unit[:, n]
        o = to_local[:, None] @ (camera - position[:, None, n])[..., None]
        t, local_normal = _any_shape(shape[:, n], kinds[n], o.expand_as(d), to_local[:, None] @ d)
        closer = (t < nearest) & exists[:, n, None, None]
        nearest = torch.where(closer, t, nearest)
        index = torch.where(closer, n, index)
        world = to_local.transpose(-1, -2)[:, None] @ local_normal
        normal = torch.where(closer[..., None, :], world, normal)
    return nearest, index, normal


def _lit(things: Things, kinds: Kinds, light: Tensor, hit: Tensor, owner: Tensor) -> Tensor:
    """1 where the light is seen from hit [B, V, 3, P], else 0. An object does not shade itself
    (all are convex, and Lambert's cosine already darkens its far side)."""
    shape, exists, to_unit, position = things
    lit = torch.ones_like(hit[..., 0, :])
    for n in range(shape.shape[1]):
        to_local = to_unit[:, n]
        o = to_local[:, None] @ (hit - position[:, None, n, :, None])
        d = (to_local @ light[..., None])[:, None].expand_as(o)
        t, _ = _any_shape(shape[:, n], kinds[n], o, d)
        lit = lit * ((t >= FAR) | (owner == n) | ~exists[:, n, None, None])
    return lit


def _shade(
    d: Tensor,
    empty: tuple[Tensor, Tensor, Tensor],
    camera: Tensor,
    lights: tuple[Tensor, Tensor],
    colors: Tensor,
    things: Things,
    kinds: Kinds,
) -> Tensor:
    """Colours [B, V, 3, P] of pixels, the means of SAMPLES^2 rays that follow each other in d.

    empty: depth, albedo and normal of the empty set along the rays; lights: direction [B, 3] and
    ambient share [B]; colors [B, S, 3].
    """
    t_set, albedo_set, normal_set = empty
    direction, ambient = lights[0], lights[1][:, None, None]
    t, index, normal = _cast(things, kinds, camera, d, t_set)
    on_set = (index < 0)[..., None, :]
    scene = torch.arange(len(index), device=index.device)[:, None, None]
    color = colors[scene, index.clamp_min(0)].transpose(-1, -2)
    albedo = torch.where(on_set, albedo_set, color)
    normal = torch.where(on_set, normal_set, normal)
    length = normal.square().sum(-2, keepdim=True).sqrt()  # norm() is slow over dim -2
    normal = normal / length.clamp_min(1e-9)
    hit = camera[..., None] + t[..., None, :] * d
    cosine = (normal * direction[:, None, :, None]).sum(-2).clamp_min(0)
    light = ambient + (1 - ambient) * 1.1 * cosine * _lit(things, kinds, direction, hit, index)
    color = (albedo * light[..., None, :]).clamp(0, 1)
    return color.unflatten(-1, (-1, SAMPLES**2)).mean(-1)


OF_TIMES = ("position", "rotation")  # tensors of a SceneBatch [B, T, ...]
OF_VIEWS = ("camera", "extrinsics", "fov_y")  # and [B, V, ...]; the others are [B, ...]


class SceneBatch:
    """B scenes of V views and T times, ready to be drawn."""

    def __init__(self, descriptions: list[SceneDescription]):
        def tensor(rows: Any, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.as_tensor(np.asarray(rows), dtype=dtype)

        self.descriptions = descriptions
        slots = max(len(d.things) for d in descriptions)
        times = descriptions[0].things[0].positions.shape[0]
        count = len(descriptions)
        self.shape = torch.zeros(count, slots, dtype=torch.long)
        self.exists = torch.zeros(count, slots, dtype=torch.bool)
        self.mobile = torch.zeros(count, slots, dtype=torch.bool)
        self.color = torch.zeros(count, slots, 3)
        self.half = torch.ones(count, slots, 3)
        self.position = torch.zeros(count, times, slots, 3)
        self.rotation = torch.eye(3).repeat(count, times, slots, 1, 1)
        for b, description in enumerate(descriptions):
            for n, thing in enumerate(description.things):
                self.shape[b, n] = SHAPE_IDS[thing.shape]
                self.exists[b, n] = True
                self.mobile[b, n] = thing.motion != "still"
                self.color[b, n] = tensor(COLORS[thing.color])
                self.half[b, n] = tensor(thing.half_extents)
                self.position[b, :, n] = tensor(thing.positions)
                self.rotation[b, :, n] = tensor(thing.rotations)
        self.room = tensor([d.room for d in descriptions], torch.bool)
        textures = ("plain", "checker", "stripes", "noise")
        self.texture = tensor([textures.index(d.floor_texture) for d in descriptions], torch.long)
        self.floor_color = tensor([SET_COLORS[d.floor_color] for d in descriptions])
        self.wall_color = tensor([SET_COLORS[d.wall_color] for d in descriptions])
        self.floor_scale = tensor([d.floor_scale for d in descriptions])
        self.floor_angle = tensor([d.floor_angle for d in descriptions])
        self.light = tensor([d.light_direction for d in descriptions])
        self.ambient = tensor([d.ambient for d in descriptions])
        self.camera = tensor([d.camera_positions for d in descriptions])  # [B, V, 3]
        target = tensor([d.camera_target for d in descriptions])[:, None]
        self.extrinsics = look_at(self.camera, target, self.camera.new_tensor([0.0, -1.0, 0.0]))
        self.fov_y = tensor([d.fov_y for d in descriptions])[:, None].expand(self.camera.shape[:2])

    @property
    def num_times(self) -> int:
        return self.position.shape[1]

    def to(self, device: torch.device | str) -> "SceneBatch":
        """The same on a device."""
        return self._changed(lambda _, value: value.to(device))

    def select(
        self, views: list[int] | None = None, times: list[int] | None = None
    ) -> "SceneBatch":
        """Keep only some views and (or) times, in the order given; returns itself."""
        if views is not None:
            self.camera, self.fov_y = self.camera[:, views], self.fov_y[:, views]
            self.extrinsics = self.extrinsics[:, views]
        if times is not None:
            self.position, self.rotation = self.position[:, times], self.rotation[:, times]
        return self

    def apart(self) -> "SceneBatch":
        """Each view and time as a scene of its own: B * T * V scenes, in this order, of one view
        and one time."""
        views, times = self.camera.shape[1], self.num_times

        def alone(name: str, value: Tensor) -> Tensor:
            if name in OF_TIMES:
                return value.flatten(0, 1).repeat_interleave(views, 0)[:, None]
            if name in OF_VIEWS:
                return value.repeat_interleave(times, 0).flatten(0, 1)[:, None]
            return value.repeat_interleave(times * views, 0)

        return self._changed(alone)

    def scenes(self, chosen: slice) -> "SceneBatch":
        """Some of the scenes."""
        return self._changed(lambda _, value: value[chosen])

    def _changed(self, change: Callable[[str, Tensor], Tensor]) -> "SceneBatch":
        """A batch whose tensors are change(name, tensor)."""
        changed = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(changed, name, change(name, value))
        return changed

    def intrinsics(self, height: int, width: int) -> Tensor:
        return pixel_intrinsics(self.fov_y, height, width)

    def rays(self, height: int, width: int, samples: int) -> Tensor:
        """Directions [B, V, 3, P] with camera z = 1 through a samples x samples grid per pixel."""
        grid = pixel_grid(height * samples, width * samples, self.camera.device) / samples
        grid = rearrange(grid, "(h i) (w j) c -> (h w i j) c", i=samples, j=samples)
        k = self.intrinsics(height, width)
        local = torch.cat(
            [
                (grid - k[..., None, :2, 2]) / k[..., 0, 0][..., None, None],
                torch.ones_like(grid[:, :1]).expand(*k.shape[:2], -1, -1),
            ],
            -1,
        )
        return (local @ self.extrinsics[..., :3]).transpose(-1, -2).contiguous()

    def background(self, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Depth [B, V, P], albedo and normal [B, V, 3, P] of the empty set along the rays."""
        o = self.camera[..., None].expand_as(d)
        low = d.new_tensor([-ROOM_HALF_WIDTH, -ROOM_HEIGHT, ROOM_FRONT])[:, None]
        high = d.new_tensor([ROOM_HALF_WIDTH, 0.0, ROOM_BACK])[:, None]
        slope = torch.where(d.abs() < 1e-9, 1e-9, d)
        leave = torch.maximum((low - o) / slope, (high - o) / slope)
        t_room, axis = leave.min(-2)
        normal_room = torch.zeros_like(d).scatter_(-2, axis[..., None, :], 1.0) * -d.sign()
        a, b = (d * d).sum(-2), (o * d).sum(-2)
        t_dome = (-b + (b * b - a * ((o * o).sum(-2) - BACKDROP_RADIUS**2)).sqrt()) / a
        t_floor = torch.where(d[..., 1, :] > 1e-6, -o[..., 1, :] / slope[..., 1, :], FAR)
        t_ground = torch.minimum(t_dome, t_floor)
        down = torch.zeros_like(d)
        down[..., 1, :] = -1.0
        room = self.room[:, None, None]
        t = torch.where(room, t_room, t_ground)
        hit = o + t[..., None, :] * d
        is_floor = torch.where(room, (axis == 1) & (d[..., 1, :] > 0), t_floor < t_dome)
        normal = torch.where(room[..., None], normal_room, down)
        cosine, sine = self.floor_angle.cos()[:, None, None], self.floor_angle.sin()[:, None, None]
        x, y, z = hit.unbind(-2)
        scale = self.floor_scale[:, None, None]
        pattern = _texture(
            self.texture, (x * cosine + z * sine) / scale, (z * cosine - x * sine) / scale
        )
        height = (-y / ROOM_HEIGHT).clamp(0, 1)
        wall = self.wall_color[:, None, :, None] * (0.85 + 0.25 * height)[..., None, :]
        sky = d.new_tensor([0.70, 0.80, 0.92])[:, None] * (1.10 - 0.30 * height)[..., None, :]
        floor = self.floor_color[:, None, :, None] * pattern[..., None, :]
        other = torch.where(room[..., None], wall, sky)
        return t, torch.where(is_floor[..., None, :], floor, other), normal

    def things(self, time: int) -> Things:
        """The objects at a time."""
        to_local = self.rotation[:, time].transpose(-1, -2) / self.half[..., None]
        return self.shape, self.exists, to_local, self.position[:, time]

    def kinds(self) -> Kinds:
        """Which unit solids each object is in any of the scenes."""
        return tuple(tuple(column.unique().tolist()) for column in self.shape.unbind(1))

    def draw(self, height: int, width: int) -> Tensor:
        """Frames [B, V, T, 3, H, W] in [0, 1]."""
        return self._draw(height, width, _shade, self.kinds())

    def draw_compiled(self, height: int, width: int) -> Tensor:
        """The frames of `draw` by a compiled program, which takes half a minute to make, once for
        each number of scenes, views and pixels, and then a fraction of the time."""
        self._fill_slots(MOST_THINGS)
        every = (tuple(range(len(INTERSECT))),) * MOST_THINGS  # one program for all scenes
        return self._draw(height, width, torch.compile(_shade, dynamic=False), every)

    def draw_bytes(self, height: int, width: int, compiled: bool) -> Tensor:
        """The frames of `draw`, or of `draw_compiled`, from 0 to 255."""
        frames = (self.draw_compiled if compiled else self.draw)(height, width)
        return (frames * 255).round().byte()

    def _fill_slots(self, count: int) -> None:
        """Make room for `count` objects; those that are added do not exist."""
        more = count - self.shape.shape[1]
        self.shape, self.exists = (F.pad(x, (0, more)) for x in (self.shape, self.exists))
        self.color = F.pad(self.color, (0, 0, 0, more))
        self.half = F.pad(self.half, (0, 0, 0, more), value=1.0)
        self.position = F.pad(self.position, (0, 0, 0, more))
        self.rotation = F.pad(self.rotation, (0, 0, 0, 0, 0, more))

    def _draw(self, height: int, width: int, shade: Callable[..., Tensor], kinds: Kinds) -> Tensor:
        rays = self.rays(height, width, SAMPLES)
        empty = self.background(rays)
        lights = self.light, self.ambient
        frames = [
            shade(rays, empty, self.camera, lights, self.color, self.things(time), kinds)
            for time in range(self.num_times)
        ]
        return torch.stack(frames, 2).unflatten(-1, (height, width))

    def geometry(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Exact at pixel centres: z-depth [B, V, T, H, W], instances (0 is the set, n + 1 object
        n) and the mask of pixels on objects that move."""
        d = self.rays(height, width, 1)
        t_set, kinds = self.background(d)[0], self.kinds()
        depth, instances = [], []
        for time in range(self.num_times):
            t, index, _ = _cast(self.things(time), kinds, self.camera, d, t_set)
            depth.append(t.unflatten(-1, (height, width)))
            instances.append((index + 1).unflatten(-1, (height, width)))
        owners = torch.stack(instances, 2)
        mobile = torch.cat([torch.zeros_like(self.mobile[:, :1]), self.mobile], 1)
        batch = torch.arange(len(mobile)).view(-1, 1, 1, 1, 1)
        return torch.stack(depth, 2), owners, mobile[batch, owners]
