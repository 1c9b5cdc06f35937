"""Our .glb in Khronos' validator, three.js' loader and PlayCanvas' splat-transform."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fourreal.cameras import quaternion_to_matrix
from fourreal.formats import load_glb, save_glb, save_ply
from fourreal.formats.similarity import moved
from fourreal.gaussians import harmonics_to_rgb, turn_about_x

from ..tiny import cloud
from .test_other_programs import splat_transform  # noqa: F401 (a fixture)

NODE_MODULES = Path(__file__).parents[1] / "node_modules"


def as_others_read(path):
    """What read_glb.mjs says of a file."""
    if not (NODE_MODULES / "three").is_dir() or not shutil.which("node"):
        pytest.skip("three.js and gltf-validator are not installed: npm ci --prefix tests")
    script = Path(__file__).with_name("read_glb.mjs")
    answer = subprocess.run(["node", script, path], check=True, capture_output=True, text=True)
    return json.loads(answer.stdout)


def covariances(g):
    """[N, 6]: xx, xy, xz, yy, yz, zz."""
    axes = quaternion_to_matrix(g.quaternions) * g.scales[:, None]
    return (axes @ axes.mT)[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]


@pytest.mark.parametrize("degree", [0, 3])
def test_the_validator_finds_no_error_and_three_has_our_splats(tmp_path, degree):
    """The validator's newest release is older than the extension, whose names of attributes it
    takes for wrong ones; there must be no other error."""
    g = cloud(30, degree)
    save_glb(g, tmp_path / "g.glb")
    found = as_others_read(tmp_path / "g.glb")
    for error in found["errors"]:
        assert error["code"] == "MESH_PRIMITIVE_INVALID_ATTRIBUTE", error
        assert "/attributes/KHR_gaussian_splatting:" in error["pointer"], error
    assert found["count"] == 1
    turned = turn_about_x(g)
    near = torch.testing.assert_close
    near(torch.tensor(found["attributes"]["position"]).view(-1, 3), turned.means)
    near(torch.tensor(found["attributes"]["covariance"]).view(-1, 6), covariances(turned))
    colors = torch.cat([harmonics_to_rgb(g.harmonics), g.opacities[:, None]], 1).clamp(0, 1)
    bytes_ = torch.tensor(found["attributes"]["color"]).view(-1, 4)
    near(bytes_.float(), (255 * colors).round(), atol=1, rtol=0)


def test_splat_transform_s_glb_is_read(tmp_path, splat_transform):  # noqa: F811
    """It takes PLY for upside down by half a turn about z; ours is one about x. Both stand upright,
    half a turn about the vertical apart."""
    g = cloud(40, 2)
    g.opacities = g.opacities * 0.98 + 0.01
    save_ply(g, tmp_path / "g.ply")
    theirs = load_glb(splat_transform(tmp_path / "g.ply", tmp_path / "theirs.glb"))
    half_turn = torch.diag(torch.tensor([-1.0, 1, -1], dtype=torch.float64))
    ours = moved(g, 1.0, half_turn, torch.zeros(3))
    theirs = theirs[torch.cdist(ours.means, theirs.means).argmin(1)]
    torch.testing.assert_close(theirs.means, ours.means, atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs.scales, ours.scales, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(theirs.opacities, ours.opacities, atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs.harmonics, ours.harmonics, atol=1e-5, rtol=0)
    # A half turn about an axis of its own leaves an ellipsoid as it is, so its shape is compared.
    torch.testing.assert_close(covariances(theirs), covariances(ours), atol=1e-6, rtol=1e-4)
