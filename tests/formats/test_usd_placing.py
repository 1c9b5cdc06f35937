"""OpenUSD's axes and transformations: what is drawn there is drawn here."""

import pytest
import torch

from fourreal.formats import load_usd
from fourreal.formats.similarity import turned_harmonics
from fourreal.gaussians import turn_about_x
from fourreal.rendering.harmonics import harmonic_basis

from ..tiny import cloud

pytest.importorskip("pxr.Usd", reason="usd-core is not installed (the extra `usd`)")

TURN = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])  # from Y up to our axes


def stage(path, g, up="Y", ops=()):
    """The Gaussians g, in the prim's own axes, under these transform operations."""
    from pxr import Gf, Usd, UsdGeom, UsdVol

    made = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(made, up)
    root = UsdGeom.Xform.Define(made, "/Root")
    for name, value in ops:
        getattr(root, f"Add{name}Op")().Set(value)
    prim = UsdVol.ParticleField3DGaussianSplat.Define(made, "/Root/Splats")
    degree = round(g.harmonics.shape[1] ** 0.5) - 1
    prim.CreateRadianceSphericalHarmonicsDegreeAttr(degree)
    prim.CreatePositionsAttr().Set([Gf.Vec3f(*m) for m in g.means.tolist()])
    prim.CreateScalesAttr().Set([Gf.Vec3f(*s) for s in g.scales.tolist()])
    prim.CreateOrientationsAttr().Set([Gf.Quatf(*q) for q in g.quaternions.tolist()])
    prim.CreateOpacitiesAttr().Set(g.opacities.tolist())
    prim.CreateRadianceSphericalHarmonicsCoefficientsAttr().Set(
        [Gf.Vec3f(*h) for h in g.harmonics.reshape(-1, 3).tolist()]
    )
    made.GetRootLayer().Save()
    return path, UsdGeom.Imageable(prim).ComputeLocalToWorldTransform(0)


def covariances(g):
    from fourreal.cameras.pinhole import quaternion_to_matrix

    root = quaternion_to_matrix(g.quaternions.double()) * g.scales.double()[:, None]
    return root @ root.mT


OPS = {
    "none": [],
    "moved": [("Translate", (1.0, 2.0, -3.0))],
    "turned": [("RotateXYZ", (20.0, -50.0, 110.0))],
    "scaled": [("Scale", (2.5, 2.5, 2.5))],
    "all": [("Translate", (0, 4.0, 1)), ("RotateZ", 70.0), ("Scale", (0.1, 0.1, 0.1))],
}


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("up", ["Y", "Z"])
def test_transforms_and_the_up_axis_are_applied(tmp_path, up, ops):
    """Against pxr's own matrices: positions, covariances, and colours seen along a direction."""
    g = cloud(30, 3)
    path, matrix = stage(tmp_path / "s.usda", g, up, OPS[ops])
    world = torch.tensor([list(row) for row in matrix], dtype=torch.float64)
    axes = TURN if up == "Y" else torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    linear = axes.double() @ world[:3, :3].mT
    (result,) = load_usd(path)
    expected = g.means.double() @ linear.mT + axes.double() @ world[3, :3]
    torch.testing.assert_close(result.means.double(), expected, atol=1e-5, rtol=1e-5)
    spread = linear @ covariances(g) @ linear.mT
    torch.testing.assert_close(covariances(result), spread, atol=1e-7, rtol=1e-4)
    scale = float(torch.linalg.det(linear)) ** (1 / 3)
    direction = torch.tensor([[0.36], [0.48], [0.8]], dtype=torch.float64)
    seen = harmonic_basis((linear.mT / scale) @ direction, 3)[:, 0].float()
    here = harmonic_basis(direction, 3)[:, 0].float()
    torch.testing.assert_close(
        torch.einsum("k,nkc->nc", here, result.harmonics),
        torch.einsum("k,nkc->nc", seen, g.harmonics),
        atol=1e-4,
        rtol=1e-4,
    )


def test_up_is_the_same_for_both_axes(tmp_path):
    g = cloud(1, 0)
    for up, point in (("Y", (0, 1.0, 0)), ("Z", (0, 0, 1.0))):
        g.means[0] = torch.tensor(point)
        (result,) = load_usd(stage(tmp_path / f"{up}.usda", g, up)[0])
        torch.testing.assert_close(result.means[0], torch.tensor([0, -1.0, 0]))


def test_uneven_scales_and_mirrors_are_refused_by_name(tmp_path):
    for name, scale in (("uneven", (1.0, 2.0, 1.0)), ("mirror", (-1.0, 1.0, 1.0))):
        path, _ = stage(tmp_path / f"{name}.usda", cloud(3, 0), ops=[("Scale", scale)])
        with pytest.raises(ValueError, match=rf"{name}\.usda shears, mirrors or stretches"):
            load_usd(path)


def test_turning_harmonics_agrees_with_the_exact_half_turn():
    g = cloud(20, 4)
    torch.testing.assert_close(
        turned_harmonics(g.harmonics, TURN), turn_about_x(g).harmonics, atol=1e-5, rtol=1e-5
    )


def test_rows_that_are_not_finite_are_left_out(tmp_path, caplog):
    g = cloud(10, 0)
    g.means[4, 2] = float("nan")
    (result,) = load_usd(stage(tmp_path / "s.usda", g)[0])
    assert len(result) == 9 and "1 of 10" in caplog.text
