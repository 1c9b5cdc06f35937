"""Every variant of PLY that other programs write gives the Gaussians that were put into it."""

import logging
import struct

import numpy as np
import pytest
import torch

from fourreal.formats import load_ply, save_ply, save_splat, save_spz
from fourreal.formats.ply import FLAT

from ..tiny import cloud
from .comparing import assert_same
from .ply_variants import columns, write_variant


def gaussians(count=9, degree=1):
    g = cloud(count, degree)
    g.opacities = g.opacities * 0.98 + 0.01
    return g


def check(path, expected, tolerance=1e-5):
    assert_same(load_ply(path), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("order", ["<", ">", ""])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_byte_orders_line_ends_and_types(tmp_path, order, newline, kind):
    g = gaussians()
    notes = ("comment end_header is not here", "obj_info made elsewhere", "comment ä")
    path = tmp_path / "g.ply"
    check(write_variant(path, columns(g), order, kind, newline, notes=notes), g)


def test_names_of_any_case_and_order_and_unknown_properties(tmp_path, caplog):
    g = gaussians(degree=2)
    table = {name.upper(): values for name, values in reversed(columns(g).items())}
    with caplog.at_level(logging.WARNING, "fourreal"):
        check(write_variant(tmp_path / "g.ply", {**table, "RED": np.ones(9)}), g)
        assert not caplog.messages
        for name in ("a.ply", "b.ply"):  # Mip-Splatting's filter, 4DGS's times: one warning
            more = {"filter_3D": np.ones(9), "t": np.ones(9)}
            check(write_variant(tmp_path / name, {**columns(g), **more}), g)
    assert len(caplog.messages) == 1
    assert f"PLY of {tmp_path}: filter_3d, t of its vertices are left out" in caplog.text


@pytest.mark.parametrize("order", ["<", ">", ""])
def test_other_elements_before_and_behind_are_passed_over(tmp_path, order):
    """Faces with lists of different lengths and cameras, as meshes and viewers store them."""
    g = gaussians()
    before = ["element camera 2", "property double focal", "element face 3"]
    before += ["property list uchar int vertex_indices"]
    faces = ([0, 1, 2], [], [4, 5, 6, 7])
    if order:
        rows = struct.pack(order + "2d", 1.5, 2.5)
        rows += b"".join(struct.pack(f"{order}B{len(f)}i", len(f), *f) for f in faces)
    else:
        rows = (
            b"1.5\n2.5\n" + "".join(f"{len(f)} {' '.join(map(str, f))}\n" for f in faces).encode()
        )
    after = ["element extra 1", "property uchar a"]
    path = write_variant(
        tmp_path / "g.ply",
        columns(g),
        order,
        before=before,
        rows_before=rows,
        after=after,
        rows_after=b"7",
    )
    check(path, g)


@pytest.mark.parametrize("order", ["<", ">", ""])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_single_rows_that_are_not_finite_are_left_out(tmp_path, caplog, order, value):
    g = gaussians(1000, 0)
    table = columns(g)
    for row, name in ((3, "x"), (500, "f_dc_1"), (999, "rot_2")):
        table[name][row] = value
    path = write_variant(tmp_path / "g.ply", table, order)
    with caplog.at_level(logging.WARNING):
        result = load_ply(path)
    good = torch.ones(1000, dtype=torch.bool)
    good[[3, 500, 999]] = False
    assert_same(result, g[good], atol=1e-5, rtol=1e-5)
    (record,) = caplog.records
    assert "g.ply: 3 of 1000 Gaussians are left out" in record.getMessage()


def test_a_file_of_mostly_bad_rows_is_refused(tmp_path):
    table = columns(gaussians())
    table["y"][2:] = np.nan
    with pytest.raises(ValueError, match=r"g\.ply is damaged.*7 of its 9"):
        load_ply(write_variant(tmp_path / "g.ply", table))


@pytest.mark.parametrize("save", [save_ply, save_spz, save_splat])
def test_what_is_not_finite_is_never_written(tmp_path, caplog, save):
    from fourreal.formats import load_gaussians

    g = gaussians(20, 0)
    g.means[4, 1], g.scales[7, 0], g.opacities[9] = np.nan, np.inf, -np.inf
    path = tmp_path / f"g.{save.__name__.removeprefix('save_')}"
    save(g, path)
    assert "3 of 20 Gaussians are left out" in caplog.text
    caplog.clear()
    assert len(load_gaussians(path)) == 17
    assert not caplog.records


def test_flat_gaussians_without_a_third_scale(tmp_path):
    g = gaussians()
    table = columns(g)
    del table["scale_2"]
    g.scales[:, 2] = FLAT
    check(write_variant(tmp_path / "g.ply", table), g)


def test_damage_in_ascii_is_named(tmp_path):
    path = write_variant(tmp_path / "g.ply", columns(gaussians()), "")
    text = path.read_bytes()
    for damage in (
        text[:-60],
        text.replace(b"0.", b"0,", 1),
        text.replace(b"vertex 9", b"vertex 99"),
    ):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"g\.ply"):
            load_ply(path)


@pytest.mark.parametrize("word", ["nan", "-nan(ind)", "1.#QNAN", "-1.#IND", "1.#INF", "-inf"])
def test_what_is_not_finite_in_ascii_however_it_is_written(tmp_path, word):
    g = gaussians()
    path = write_variant(tmp_path / "g.ply", columns(g), "")
    header, body = path.read_bytes().split(b"end_header\n")
    rest = body.split(b" ", 1)[1]
    path.write_bytes(header + b"end_header\n" + word.encode() + b" " + rest)
    check(path, g[torch.arange(9) > 0])


@pytest.mark.parametrize("padding", [b"\n", b"\r\n", bytes(7)])
def test_padding_behind_the_rows_and_long_comments_do_no_harm(tmp_path, padding):
    g = gaussians()
    notes = ["comment " + "x" * 200_000]
    check(write_variant(tmp_path / "g.ply", columns(g), notes=notes, rows_after=padding), g)
    path = write_variant(tmp_path / "more.ply", columns(g), rows_after=b"more")
    with pytest.raises(ValueError, match=r"more\.ply"):
        load_ply(path)
