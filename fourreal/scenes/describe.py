"""Random descriptions of dynamic scenes: a set, objects, motions, light, cameras and a caption.

Everything is drawn from one seed with numpy, so a seed gives the same scene on every device. The
set's frame has y down and the floor at y = 0, with the origin in the middle of the action.
"""

from dataclasses import dataclass

import numpy as np

COLORS = {
    "red": (0.86, 0.12, 0.10),
    "green": (0.12, 0.65, 0.18),
    "blue": (0.12, 0.25, 0.88),
    "yellow": (0.95, 0.83, 0.10),
    "orange": (0.96, 0.50, 0.06),
    "purple": (0.52, 0.16, 0.72),
    "cyan": (0.10, 0.75, 0.82),
    "white": (0.95, 0.95, 0.95),
}
SHAPES = {
    "sphere": ("ball", "ball", "sphere"),
    "box": ("box", "box", "cube", "block"),
    "cylinder": ("cylinder", "cylinder", "can"),
    "ellipsoid": ("egg", "ellipsoid"),
}
MOTIONS = {
    "bounce": ("bouncing", "bouncing", "hopping"),
    "orbit": ("circling", "orbiting"),
    "slide": ("sliding", "sliding", "gliding"),
    "spin": ("spinning", "rotating"),
    "swing": ("swinging",),
    "still": ("", "", "standing still", "resting"),
}
FLOORS = {"plain": "plain", "checker": "checkered", "stripes": "striped", "noise": "marbled"}
SET_COLORS = {
    "grey": (0.62, 0.62, 0.62),
    "beige": (0.76, 0.68, 0.56),
    "brown": (0.50, 0.37, 0.26),
    "teal": (0.36, 0.56, 0.55),
    "lavender": (0.63, 0.58, 0.74),
    "pink": (0.80, 0.62, 0.64),
}
FPS = 8.0
ROOM_HALF_WIDTH, ROOM_BACK, ROOM_FRONT, ROOM_HEIGHT = 1.9, 1.5, -3.6, 2.4
BACKDROP_RADIUS = 3.8


@dataclass
class Thing:
    """One object: half_extents (3,) in its own axes, and its pose over time."""

    shape: str
    color: str
    motion: str
    half_extents: np.ndarray
    positions: np.ndarray  # [T, 3] centre, set frame
    rotations: np.ndarray  # [T, 3, 3] own axes to set frame


@dataclass
class SceneDescription:
    """What the ray-caster draws. Angles are in radians; the action is about 2 units wide."""

    seed: int
    things: list[Thing]
    room: bool
    floor_texture: str
    floor_color: str
    wall_color: str
    floor_scale: float
    floor_angle: float
    light_direction: np.ndarray  # (3,) unit, towards the light
    ambient: float
    camera_positions: np.ndarray  # [V, 3]
    camera_target: np.ndarray  # (3,)
    fov_y: float
    caption: str


def _rotation_y(angle: np.ndarray) -> np.ndarray:
    """Rotations [T, 3, 3] about the vertical axis."""
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, zero, s, zero, one, zero, -s, zero, c], -1).reshape(-1, 3, 3)


def _triangle_wave(phase: np.ndarray) -> np.ndarray:
    """Period 1, from 1 at 0 to -1 at 0.5 and back: travel at constant speed."""
    return 4 * np.abs(phase % 1 - 0.5) - 1


def _draw_thing(rng: np.random.Generator, color: str, motion: str, seconds: np.ndarray) -> Thing:
    shapes = ("box", "cylinder", "ellipsoid") if motion == "spin" else tuple(SHAPES)
    shape = str(rng.choice(shapes))
    size = rng.uniform(0.25, 0.38)
    stretch = {
        "sphere": (1.0, 1.0, 1.0),
        "box": tuple(rng.uniform(0.75, 1.15, 3)),
        "cylinder": (0.75, rng.uniform(0.9, 1.3), 0.75),
        "ellipsoid": (1.25, 0.8, 0.8),
    }[shape]
    half = size * np.asarray(stretch)
    rest = -half[1]  # the centre's height when it stands on the floor
    place = np.array([rng.uniform(-0.65, 0.65), rest, rng.uniform(-0.45, 0.65)])
    heading, turn, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), rng.uniform()
    period = rng.uniform(3.6, 5.6)
    cycle = seconds / period + phase
    positions = np.repeat(place[None], len(seconds), 0)
    angle = np.full_like(seconds, turn)
    if motion == "bounce":
        height, hop = rng.uniform(0.45, 0.9), rng.uniform(1.9, 2.8)
        u = (seconds / hop + phase) % 1
        positions[:, 1] = rest - height * 4 * u * (1 - u)
        drift = rng.uniform(0.0, 0.45) * _triangle_wave(seconds / 8.0 + phase)
        positions[:, 0] += np.cos(heading) * drift
        positions[:, 2] += np.sin(heading) * drift
    elif motion == "orbit":
        radius, sense = rng.uniform(0.4, 0.75), rng.choice([-1.0, 1.0])
        around = sense * 2 * np.pi * cycle
        positions[:, 0] = radius * np.cos(around)
        positions[:, 2] = 0.1 + radius * np.sin(around)
        angle = -around
    elif motion == "slide":
        travel = rng.uniform(0.4, 0.8) * _triangle_wave(cycle)
        positions[:, 0] += np.cos(heading) * travel
        positions[:, 2] += np.sin(heading) * travel * 0.6
    elif motion == "spin":
        angle = turn + rng.choice([-1.0, 1.0]) * 2 * np.pi * cycle
    elif motion == "swing":
        length = rng.uniform(0.9, 1.3)
        tilt = rng.uniform(0.4, 0.7) * np.cos(2 * np.pi * cycle)
        lift = rng.uniform(0.1, 0.4)
        positions[:, 0] += np.cos(heading) * length * np.sin(tilt)
        positions[:, 2] += np.sin(heading) * length * np.sin(tilt) * 0.6
        positions[:, 1] = rest - lift - length * (1 - np.cos(tilt))
    return Thing(shape, color, motion, half, positions, _rotation_y(angle))


def _collides(a: Thing, b: Thing) -> bool:
    reach = np.linalg.norm(a.half_extents[[0, 2]]) + np.linalg.norm(b.half_extents[[0, 2]])
    apart = np.linalg.norm((a.positions - b.positions)[:, [0, 2]], axis=1)
    return bool((apart < 0.85 * reach).any())


def _inside(thing: Thing) -> bool:
    x, z = np.abs(thing.positions[:, 0]).max(), thing.positions[:, 2]
    return bool(x < 1.1 and z.min() > -0.9 and z.max() < 1.1)


def _caption(
    rng: np.random.Generator, things: list[Thing], floor: str, wall: str, room: bool
) -> str:
    names = []
    for thing in things:
        size = thing.half_extents.max()
        word = "small " if size < 0.3 else "big " if size > 0.4 else ""
        word = word if rng.random() < 0.5 else ""
        name = f"a {word}{thing.color} {rng.choice(SHAPES[thing.shape])}"
        names.append(f"{name} {rng.choice(MOTIONS[thing.motion])}".strip())
    joined = names[0]
    if len(names) == 2:
        joined += str(rng.choice([" and ", " past ", " next to ", " near ", ", "])) + names[1]
    elif len(names) > 2:
        joined = ", ".join(names[:-1]) + " and " + names[-1]
    if rng.random() < 0.4:
        place = f"in a {wall} room" if room else "outdoors"
        joined += " " + str(rng.choice([place, f"on a {FLOORS[floor]} floor"]))
    return joined


def describe(seed: int, num_views: int, num_frames: int) -> SceneDescription:
    """The scene of a seed, with num_views cameras on an arc and poses for num_frames at FPS.

    The scene itself does not depend on num_views or num_frames; only their sampling does (the
    arc's ends stay where they are, a longer video shows more of the same motion).
    """
    rng = np.random.default_rng(seed)
    checked = np.arange(64) / FPS  # collisions are checked over a fixed time: see the docstring
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.50, 0.15]))
    colors = rng.permutation(list(COLORS))[:count]
    moving = ["bounce", "orbit", "slide", "spin", "swing"]
    things: list[Thing] = []
    seeds: list[int] = []
    for i in range(count):
        motion = str(rng.choice(moving)) if i == 0 else str(rng.choice([*moving, "still", "still"]))
        for _ in range(40):
            own = int(rng.integers(2**62))
            thing = _draw_thing(np.random.default_rng(own), str(colors[i]), motion, checked)
            if _inside(thing) and not any(_collides(thing, other) for other in things):
                things.append(thing)
                seeds.append(own)
                break
    seconds = np.arange(num_frames) / FPS
    things = [
        _draw_thing(np.random.default_rng(own), thing.color, thing.motion, seconds)
        for own, thing in zip(seeds, things)
    ]
    room = bool(rng.random() < 0.8)
    floor_texture = str(rng.choice(list(FLOORS), p=[0.35, 0.2, 0.2, 0.25]))
    floor_color, wall_color = rng.choice(list(SET_COLORS), 2, replace=False)
    light = np.array([rng.uniform(-0.6, -0.4), -1.0, rng.uniform(-0.5, -0.3)])
    span = rng.uniform(0.78, 0.82)  # 45 to 47 degrees in all, the first view leftmost
    azimuth = rng.uniform(-0.03, 0.03) + span * np.linspace(-0.5, 0.5, num_views)
    radius, height = rng.uniform(2.66, 2.74), rng.uniform(1.1, 1.2)
    cameras = np.stack(
        [radius * np.sin(azimuth), np.full(num_views, -height), -radius * np.cos(azimuth)], -1
    )
    return SceneDescription(
        seed=seed,
        things=things,
        room=room,
        floor_texture=floor_texture,
        floor_color=str(floor_color),
        wall_color=str(wall_color),
        floor_scale=float(rng.uniform(0.75, 1.2)),
        floor_angle=float(rng.uniform(-0.1, 0.1)),
        light_direction=light / np.linalg.norm(light),
        ambient=float(rng.uniform(0.45, 0.6)),
        camera_positions=cameras,
        camera_target=np.array([0.0, -0.42, 0.05]),
        fov_y=float(rng.uniform(0.70, 0.72)),
        caption=_caption(rng, things, floor_texture, str(wall_color), room),
    )
