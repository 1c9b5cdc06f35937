"""The .splat format, and the suffix that chooses a format."""

import struct

import pytest
import torch

from fourreal.formats import FORMATS, load_gaussians, load_splat, save_gaussians, save_splat
from fourreal.gaussians import SH_C0

from ..tiny import cloud
from .comparing import same_rotation


def test_splat_comes_back_within_its_quantisation(tmp_path):
    g = cloud(degree=0)
    save_splat(g, tmp_path / "g.splat")
    assert (tmp_path / "g.splat").stat().st_size == 32 * len(g)
    result = load_splat(tmp_path / "g.splat")
    assert torch.equal(result.means, g.means)
    assert torch.equal(result.scales, g.scales)
    torch.testing.assert_close(result.opacities, g.opacities, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(result.harmonics, g.harmonics, atol=0.5 / 255 / SH_C0 + 1e-5, rtol=0)
    assert same_rotation(result.quaternions, g.quaternions).min() > 1 - 1e-4


def test_splat_has_the_published_layout(tmp_path):
    g = cloud(2, degree=2)
    save_splat(g, tmp_path / "g.splat")
    record = struct.unpack_from("<6f8B", (tmp_path / "g.splat").read_bytes(), 32)
    assert list(record[:6]) == [*g.means[1].tolist(), *g.scales[1].tolist()]
    color = (0.5 + SH_C0 * g.harmonics[1, 0]).tolist()
    assert list(record[6:9]) == [round(255 * c) for c in color]
    assert record[9] == round(255 * float(g.opacities[1]))
    assert list(record[10:]) == [round(128 + 128 * q) for q in g.quaternions[1].tolist()]


def test_foreign_splat_is_refused_by_name(tmp_path):
    bad = struct.pack("<6f8B", *[float("inf")] * 6, *[0] * 8)
    for name, content in {"cut.splat": bytes(33), "inf.splat": bad}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_splat(tmp_path / name)


def test_the_suffix_chooses_the_format(tmp_path):
    g = cloud(5, 0)
    for suffix in (*FORMATS, ".SPZ"):
        save_gaussians(g, tmp_path / f"g{suffix}")
        assert len(load_gaussians(tmp_path / f"g{suffix}")) == 5
    starts = {s: (tmp_path / f"g{s}").read_bytes()[:2] for s in (".ply", ".spz", ".SPZ")}
    assert starts == {".ply": b"pl", ".spz": b"\x1f\x8b", ".SPZ": b"\x1f\x8b"}
    with pytest.raises(ValueError, match=r"\.obj.*\.ply, \.spz, \.splat"):
        save_gaussians(g, tmp_path / "g.obj")
