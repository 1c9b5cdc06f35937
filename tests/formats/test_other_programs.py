"""Files that other programs write and read: gsply, PlayCanvas' splat-transform and usd-core."""

import csv
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fourreal.formats import (
    load_ply,
    load_splat,
    load_spz,
    save_ply,
    save_ply_sequence,
    save_scene,
    save_splat,
    save_spz,
)
from fourreal.formats.splat import RECORD
from fourreal.formats.usd import load_usd, save_usd
from fourreal.gaussians import Gaussians, GaussianScene, harmonics_to_rgb, turn_about_x

from .. import tiny


def cloud(count=40, degree=3, seed=0) -> Gaussians:
    """Gaussians whose opacities stay off 0 and 1, where their logits end."""
    plain = tiny.cloud(count, degree, seed)
    return replace(plain, opacities=plain.opacities * 0.98 + 0.01)


def compare(result, expected, means=1e-6, scales=1e-5, opacities=1e-5, base=1e-6, rest=1e-6, q=0):
    """Positions, log scales, opacities, colours, and rotations up to sign."""
    near = torch.testing.assert_close
    near(result.means, expected.means, atol=means, rtol=1e-6)
    near(result.scales.log(), expected.scales.log(), atol=scales, rtol=0)
    near(result.opacities, expected.opacities, atol=opacities, rtol=0)
    near(result.harmonics[:, :1], expected.harmonics[:, :1], atol=base, rtol=0)
    near(result.harmonics[:, 1:], expected.harmonics[:, 1:], atol=rest, rtol=0)
    agreement = (result.quaternions * expected.quaternions).sum(-1).abs()
    assert agreement.min() > 1 - q - 1e-6


SPZ = {
    **{"means": 0.6 / 4096, "scales": 1 / 32 + 1e-3, "opacities": 0.6 / 255},
    **{"base": 0.6 / 255 / 0.15, "rest": 1 / 15, "q": 1e-5},
}  # others keep 4 or 5 bits of the harmonics


# --- gsply ------------------------------------------------------------------------------------


def from_gsply(data) -> Gaussians:
    data = data.unpack() if hasattr(data.means, "mean_x") else data
    rest = data.shN if data.shN is not None else np.zeros((len(data.means), 0, 3))
    harmonics = np.concatenate([np.asarray(data.sh0)[:, None], np.asarray(rest)], axis=1)
    tensor = [np.array(a, np.float32) for a in (data.means, data.quats, data.scales)]
    means, quaternions, scales = (torch.from_numpy(a) for a in tensor)
    opacities = torch.from_numpy(np.array(data.opacities, np.float32)).view(-1).sigmoid()
    harmonics = torch.from_numpy(harmonics.astype(np.float32))
    return Gaussians(means, quaternions, scales.exp(), opacities, harmonics)


def to_gsply(gsply, g):
    return gsply.GSData.from_arrays(
        g.means.numpy(),
        g.scales.log().numpy(),
        g.quaternions.numpy(),
        g.opacities.logit().numpy(),
        g.harmonics[:, 0].numpy(),
        g.harmonics[:, 1:].numpy(),
    )


@pytest.fixture
def gsply():
    module = pytest.importorskip("gsply", reason="gsply is not installed (the extra `test`)")
    module.use_backend("auto")  # its Python backend compiles for most of a minute
    return module


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_gsply_and_we_read_each_others_ply(tmp_path, gsply, degree):
    g = cloud(degree=degree)
    save_ply(g, tmp_path / "ours.ply")
    compare(from_gsply(gsply.plyread(tmp_path / "ours.ply")), g)
    gsply.plywrite(tmp_path / "theirs.ply", to_gsply(gsply, g))
    compare(load_ply(tmp_path / "theirs.ply"), g)


@pytest.mark.parametrize("degree", [0, 3])
def test_gsply_and_we_read_each_others_spz(tmp_path, gsply, degree):
    """gsply does not turn the axes of the specification, so its Gaussians are ours turned."""
    g = cloud(degree=degree)
    save_spz(g, tmp_path / "ours.spz")
    compare(turn_about_x(from_gsply(gsply.read_spz(tmp_path / "ours.spz"))), g, **SPZ)
    gsply.write_spz(tmp_path / "theirs.spz", to_gsply(gsply, turn_about_x(g)))
    compare(load_spz(tmp_path / "theirs.spz"), g, **SPZ)


@pytest.mark.parametrize("time", range(3))
def test_gsply_reads_every_frame_of_our_sequence(tmp_path, gsply, time):
    paths = save_ply_sequence(usd_scene(), tmp_path)
    compare(from_gsply(gsply.plyread(paths[time])), usd_scene().at(time))


# --- splat-transform --------------------------------------------------------------------------


@pytest.fixture
def splat_transform():
    """A function that converts a file with PlayCanvas' tool."""
    local = Path(__file__).parents[1] / "node_modules" / ".bin" / "splat-transform"
    tool = str(local) if local.exists() else shutil.which("splat-transform")
    if tool is None:
        pytest.skip("splat-transform is not installed: npm ci --prefix tests")

    def convert(source, target, *options):
        command = [tool, str(source), str(target), *options]
        subprocess.run(command, check=True, capture_output=True)
        return target

    return convert


def read_csv(path) -> Gaussians:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))

    def columns(*names):
        return torch.tensor([[float(row[name]) for name in names] for row in rows])

    rest = sum(name.startswith("f_rest_") for name in rows[0])
    other = columns(*(f"f_rest_{i}" for i in range(rest))).view(len(rows), 3, rest // 3)
    base = columns("f_dc_0", "f_dc_1", "f_dc_2")
    return Gaussians(
        columns("x", "y", "z"),
        columns("rot_0", "rot_1", "rot_2", "rot_3"),
        columns("scale_0", "scale_1", "scale_2").exp(),
        columns("opacity")[:, 0].sigmoid(),
        torch.cat([base[:, None], other.transpose(1, 2)], dim=1),
    )


def in_order(result, expected):
    """The result's Gaussians in the order of the expected ones: tools may sort."""
    return result[torch.cdist(expected.means, result.means).argmin(1)]


def test_splat_transform_and_we_read_each_others_ply(tmp_path, splat_transform):
    g = cloud()
    save_ply(g, tmp_path / "ours.ply")
    read = read_csv(splat_transform(tmp_path / "ours.ply", tmp_path / "read.csv"))
    compare(in_order(read, g), g, means=1e-5)
    theirs = load_ply(splat_transform(tmp_path / "ours.ply", tmp_path / "theirs.ply"))
    compare(in_order(theirs, g), g, means=1e-5)


def test_splat_transform_and_we_read_each_others_spz(tmp_path, splat_transform):
    g = cloud()
    save_ply(g, tmp_path / "ours.ply")
    save_spz(g, tmp_path / "ours.spz")
    read = read_csv(splat_transform(tmp_path / "ours.spz", tmp_path / "read.csv"))
    compare(in_order(read, g), g, **SPZ)
    theirs = load_spz(
        splat_transform(tmp_path / "ours.ply", tmp_path / "theirs.spz", "--spz-version", "3")
    )
    compare(in_order(theirs, g), g, **SPZ)


def test_splat_transform_reads_our_splat(tmp_path, splat_transform):
    g = cloud(degree=0)
    save_splat(g, tmp_path / "ours.splat")
    read = in_order(read_csv(splat_transform(tmp_path / "ours.splat", tmp_path / "read.csv")), g)
    torch.testing.assert_close(
        harmonics_to_rgb(read.harmonics), harmonics_to_rgb(g.harmonics), atol=0.6 / 255, rtol=0
    )
    compare(read, g, means=1e-5, opacities=0.6 / 255, base=0.01, q=2e-4)


def test_splat_transform_and_we_read_the_same_from_any_splat(tmp_path, splat_transform):
    """Nobody else writes .splat here, so both read the same bytes, whole range and all.

    A byte b of a rotation is b / 127.5 - 1 there; here b / 128 - 1, as in antimatter15's viewer.
    """
    r = np.random.default_rng(0)
    records = np.zeros(60, RECORD)
    records["position"] = r.normal(size=(60, 3))
    records["scale"] = r.uniform(0.001, 0.2, (60, 3))
    records["color"] = r.integers(1, 255, (60, 4))  # an opacity of 0 or 1 has no logit
    records["rotation"] = r.integers(0, 256, (60, 4))
    (tmp_path / "any.splat").write_bytes(records.tobytes())
    ours = load_splat(tmp_path / "any.splat")
    theirs = read_csv(splat_transform(tmp_path / "any.splat", tmp_path / "read.csv"))
    compare(in_order(theirs, ours), ours, means=1e-5, base=1e-5, q=2e-4)


# --- the scene file ---------------------------------------------------------------------------


def test_safetensors_reads_the_numbers_of_our_scene_file(tmp_path):
    scene = usd_scene()
    save_scene(scene, tmp_path / "scene.safetensors")
    arrays = load_file(tmp_path / "scene.safetensors")
    assert arrays["dynamic.counts"].tolist() == [7, 0, 3]
    for name, values in vars(scene.static).items():
        np.testing.assert_array_equal(arrays[f"static.{name}"], values.numpy())
    for name, values in vars(scene.dynamic[2]).items():
        stored = arrays[f"dynamic.{name}"][7:]
        np.testing.assert_array_equal(stored[:, :1] if name == "harmonics" else stored, values)
    np.testing.assert_array_equal(arrays["extrinsics"], scene.extrinsics)
    np.testing.assert_array_equal(arrays["intrinsics"], scene.intrinsics)


# --- OpenUSD ----------------------------------------------------------------------------------


def usd_scene():
    views = torch.eye(3, 4).expand(2, 3, 4)
    moving = [cloud(7, 1, 1), Gaussians.empty(1), cloud(3, 0, 2)]
    return GaussianScene(cloud(9, 2), moving, views, torch.eye(3).expand(2, 3, 3), 8, 8, 12.5)


@pytest.mark.parametrize("suffix", [".usdc", ".usda"])
def test_a_scene_goes_through_usd_with_its_times(tmp_path, suffix):
    Usd = pytest.importorskip("pxr.Usd", reason="usd-core is not installed (the extra `usd`)")
    from pxr import UsdGeom

    scene = usd_scene()
    save_usd(scene, tmp_path / f"scene{suffix}")
    result = load_usd(tmp_path / f"scene{suffix}")
    assert len(result) == 3
    for time, g in enumerate(result):
        for name, values in vars(Gaussians.concatenate([scene.at(time), cloud(0, 2)])).items():
            torch.testing.assert_close(getattr(g, name), values, atol=1e-6, rtol=1e-6)
    stage = Usd.Stage.Open(str(tmp_path / f"scene{suffix}"))
    prim = stage.GetPrimAtPath("/Scene/Dynamic")
    assert prim.GetTypeName() == "ParticleField3DGaussianSplat"
    assert prim.GetAttribute("positions").GetTimeSamples() == [0, 1, 2]
    assert stage.GetTimeCodesPerSecond() == 12.5
    moving = scene.dynamic[2]
    near = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    near(prim.GetAttribute("positions").Get(2), moving.means)
    near(prim.GetAttribute("scales").Get(2), moving.scales)
    near(prim.GetAttribute("opacities").Get(2), moving.opacities)
    near(
        [[q.GetReal(), *q.GetImaginary()] for q in prim.GetAttribute("orientations").Get(2)],
        moving.quaternions,
    )
    name = "radiance:sphericalHarmonicsCoefficients"
    near(np.array(prim.GetAttribute(name).Get(2)).reshape(3, 9, 3)[:, :1], moving.harmonics)
    # World axes of the stage: y up, so what is at y, z of OpenCV's axes is at -y, -z.
    world = UsdGeom.Imageable(prim).ComputeLocalToWorldTransform(0)
    x, y, z = moving.means[0].tolist()
    near(world.Transform(tuple(moving.means[0].double().tolist())), [x, -y, -z])


def test_usd_that_pxr_wrote_is_read(tmp_path):
    """Made attribute by attribute as its schema says, Y up and untransformed: our axes turned."""
    Usd = pytest.importorskip("pxr.Usd", reason="usd-core is not installed (the extra `usd`)")
    from pxr import Gf, UsdVol

    g = cloud(5, 1)
    stage = Usd.Stage.CreateNew(str(tmp_path / "theirs.usda"))
    prim = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/Splats")
    turned = turn_about_x(g)
    for time in (0, 4):
        prim.CreatePositionsAttr().Set([Gf.Vec3f(*m) for m in (turned.means + time).tolist()], time)
    prim.CreateScalesAttr().Set([Gf.Vec3f(*s) for s in g.scales.tolist()])
    prim.CreateOrientationsAttr().Set([Gf.Quatf(*q) for q in turned.quaternions.tolist()])
    prim.CreateOpacitiesAttr().Set(g.opacities.tolist())
    prim.CreateRadianceSphericalHarmonicsDegreeAttr(1)
    prim.CreateRadianceSphericalHarmonicsCoefficientsAttr().Set(
        [Gf.Vec3f(*h) for h in turned.harmonics.view(-1, 3).tolist()]
    )
    stage.GetRootLayer().Save()
    first, second = load_usd(tmp_path / "theirs.usda")
    compare(first, g)
    torch.testing.assert_close(second.means, g.means + torch.tensor([4.0, -4, -4]))


def test_foreign_usd_is_refused_by_name(tmp_path):
    Usd = pytest.importorskip("pxr.Usd", reason="usd-core is not installed (the extra `usd`)")
    (tmp_path / "text.usda").write_text("hello")
    stage = Usd.Stage.CreateNew(str(tmp_path / "none.usda"))
    stage.GetRootLayer().Save()
    save_usd(usd_scene(), tmp_path / "turned.usda")
    text = (tmp_path / "turned.usda").read_text()
    stretched = text.replace("double xformOp:rotateX = 180", "float3 xformOp:scale = (1, 2, 1)")
    stretched = stretched.replace("float xformOp:rotateX = 180", "float3 xformOp:scale = (1, 2, 1)")
    (tmp_path / "turned.usda").write_text(stretched.replace("xformOp:rotateX", "xformOp:scale"))
    for name in ("text", "none", "turned"):
        with pytest.raises(ValueError, match=name) as error:
            load_usd(tmp_path / f"{name}.usda")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"\.usdc"):
        save_usd(usd_scene(), tmp_path / "scene.obj")
