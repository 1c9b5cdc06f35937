"""Every format of scenes to every other: what each keeps, within the precision it states."""

from dataclasses import dataclass
from itertools import product

import pytest
import torch

from fourreal.formats import open_scene, write_scene
from fourreal.gaussians import Gaussians, GaussianScene, harmonics_to_rgb

from ..tiny import cloud


@dataclass
class Precision:
    """Largest errors of one writing: of positions, log scales, opacities, base colours (0 to 1),
    harmonics above degree 0 (None: not kept), 1 - |cos| of half a rotation's angle, and whether it
    holds all times."""

    means: float = 1e-6
    scales: float = 1e-6
    opacities: float = 1e-6
    colors: float = 1e-6
    rest: float | None = 1e-6
    rotation: float = 1e-6
    times: bool = True


PRECISION = {
    ".safetensors": Precision(),
    ".usdc": Precision(),
    ".zip": Precision(opacities=1e-5),
    "folder": Precision(opacities=1e-5),
    ".4dgs": Precision(0.02 * 0.3, 0.005, 0.5 / 255, 0.5 / 255, 4 / 255, 1e-5),
    ".ply": Precision(opacities=1e-5, times=False),
    ".spz": Precision(0.5 / 4096, 1 / 32, 0.5 / 255, 0.94 / 255, 1 / 15, 1e-4, False),
    ".splat": Precision(1e-6, 1e-6, 0.5 / 255, 0.5 / 255, None, 2e-4, False),
    ".glb": Precision(times=False),
}
NEEDED = {".usdc": ("pxr.Usd", "usd"), ".4dgs": ("fourdgs", "fourdgs")}


def the_scene() -> GaussianScene:
    """Something that stands, something that moves, and a time with nothing that does; colours and
    harmonics are such as every format can hold."""

    def part(count: int, seed: int) -> Gaussians:
        g = cloud(count, 1, seed)
        rest = g.harmonics[:, 1:].clamp(-0.5, 0.5)
        base = torch.rand(count, 1, 3, generator=torch.Generator().manual_seed(seed)) - 0.5
        turns = torch.nn.functional.normalize(g.quaternions, dim=-1)
        opacities = g.opacities * 0.9 + 0.05
        return Gaussians(g.means, turns, g.scales, opacities, torch.cat([base * 2, rest], 1))

    views = torch.eye(3, 4).expand(2, 3, 4), torch.eye(3).expand(2, 3, 3)
    moving = [part(8, 1), Gaussians.empty(4), part(5, 2)]
    return GaussianScene(part(12, 0), moving, *views, 64, 48, 12.5)


def written(scene: GaussianScene, kind: str, folder) -> GaussianScene:
    """The scene after a format: what it has of it."""
    if kind in NEEDED:
        module, extra = NEEDED[kind]
        pytest.importorskip(module, reason=f"{module} is not installed (the extra `{extra}`)")
    folder.mkdir()
    target = folder / ("frames" if kind == "folder" else f"scene{kind}")
    single = not PRECISION[kind].times and scene.num_frames > 1
    write_scene(scene, target, time=2 if single else None)
    return open_scene(target)


def in_order(g: Gaussians, near: Gaussians) -> Gaussians:
    """The Gaussians in the order of those that they come from: .4dgs sorts its own."""
    return g[torch.cdist(near.means, g.means).argmin(1)]


@pytest.mark.parametrize(("first", "second"), [*product(PRECISION, PRECISION)])
def test_a_scene_goes_from_every_format_to_every_other(tmp_path, first, second):
    scene = the_scene()
    result = written(written(scene, first, tmp_path / "1"), second, tmp_path / "2")
    a, b = PRECISION[first], PRECISION[second]
    times = (0, 1, 2) if a.times and b.times else (2,)
    assert result.num_frames == len(times)
    for time, expected in enumerate(scene.at(t) for t in times):
        g = in_order(result.at(time), expected)
        assert len(result.at(time)) == len(expected)

        def near(result, expected, one, other):
            torch.testing.assert_close(result, expected, atol=one + other + 1e-6, rtol=0)

        near(g.means, expected.means, a.means, b.means)
        near(g.scales.log(), expected.scales.log(), a.scales, b.scales)
        near(g.opacities, expected.opacities, a.opacities, b.opacities)
        colors = harmonics_to_rgb(g.harmonics), harmonics_to_rgb(expected.harmonics)
        near(*colors, a.colors, b.colors)
        if a.rest is None or b.rest is None:
            assert not g.harmonics[:, 1:].any()
        else:
            near(g.harmonics[:, 1:4], expected.harmonics[:, 1:4], a.rest, b.rest)
        agreement = (g.quaternions * expected.quaternions).sum(-1).abs()
        assert agreement.min() > 1 - 2 * (a.rotation + b.rotation)


@pytest.mark.parametrize("kind", [".safetensors", ".usdc", ".4dgs"])
def test_formats_of_whole_scenes_keep_rate_and_what_stands_still(tmp_path, kind):
    result = written(the_scene(), kind, tmp_path / "1")
    assert result.fps == 12.5
    assert (len(result.static), [len(g) for g in result.dynamic]) == (12, [8, 0, 5])


@pytest.mark.parametrize("suffix", ["ply", "spz", "splat", "glb"])
def test_a_folder_has_one_file_of_any_kind_per_time(tmp_path, suffix):
    paths = write_scene(the_scene(), tmp_path / "frames", sequence=f".{suffix}")
    assert [p.name for p in paths] == [f"frame_000{i}.{suffix}" for i in (1, 2, 3)]
    assert [len(g) for g in open_scene(tmp_path / "frames").dynamic] == [20, 12, 17]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("s.ply", {}, "holds one; choose a time"),
        ("s.ply", {"time": 3}, "times 0 to 2"),
        ("s.zip", {"time": 1}, "holds all times"),
        ("s.obj", {}, "suffix '.obj'"),
        ("s.spz", {"time": 0, "spz_version": 2}, "SPZ version 2"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        write_scene(the_scene(), tmp_path / name, **options)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_other_programs_4dgs_is_read_frame_by_frame(tmp_path):
    """Motion and fading are what fourdgs itself says they are in the middle of each frame."""
    fourdgs = pytest.importorskip("fourdgs", reason="fourdgs is not installed (the extra)")
    import numpy as np

    count = 20
    r = np.random.default_rng(0)
    turns = r.normal(size=(count, 4))
    splats = fourdgs.GaussianSet(
        **{"positions": r.normal(size=(count, 3)), "scales": r.uniform(0.1, 0.3, (count, 3))},
        **{"rotations": turns / np.linalg.norm(turns, axis=1, keepdims=True)},
        **{"colors": r.uniform(0.1, 0.9, (count, 4)), "motions": r.normal(size=(count, 3))},
        **{"mu_t": np.full(count, 0.5), "sigma_t": r.uniform(0.2, 0.6, count)},
        **{"win_lo": np.zeros(count), "win_hi": np.r_[np.ones(10), np.full(10, 0.4)]},
    )
    options = fourdgs.WriteOptions(profile="fine", metadata={"fps": "10"})
    fourdgs.write(str(tmp_path / "theirs.4dgs"), splats, 1.0, options=options)
    scene = open_scene(tmp_path / "theirs.4dgs")
    assert (scene.num_frames, scene.fps, len(scene.static)) == (10, 10.0, 0)
    stored = fourdgs.read(str(tmp_path / "theirs.4dgs"))
    for time in (0, 3, 4, 9):
        state = stored.state_at((time + 0.5) / 10)
        g = scene.dynamic[time]
        torch.testing.assert_close(g.means, torch.from_numpy(state["centers"]).float())
        torch.testing.assert_close(g.opacities, torch.from_numpy(state["opacity"]).float())
    assert len(scene.dynamic[3]) > len(scene.dynamic[4])  # ten end at 0.4 s


def test_our_4dgs_is_whole_for_its_own_validator(tmp_path):
    pytest.importorskip("fourdgs", reason="fourdgs is not installed (the extra)")
    from fourdgs.validate import validate

    write_scene(the_scene(), tmp_path / "s.4dgs")
    assert validate((tmp_path / "s.4dgs").read_bytes()).ok
