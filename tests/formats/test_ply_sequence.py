"""A dynamic scene as a folder of numbered PLY files."""

import os

import pytest

from fourreal.formats import (
    load_ply_sequence,
    load_sequence,
    save_gaussians,
    save_ply,
    save_ply_sequence,
    sequence,
)

from ..tiny import cloud
from .comparing import assert_same, scene


def test_a_ply_sequence_comes_back_and_replaces_a_longer_one(tmp_path):
    folder = tmp_path / "sequence"
    longer = scene()
    longer.dynamic = longer.dynamic * 4
    save_ply_sequence(longer, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "frame_0002.ply").write_bytes(b"old")
    paths = save_ply_sequence(scene(), folder)
    assert [p.name for p in paths] == ["frame_0001.ply", "frame_0002.ply", "frame_0003.ply"]
    assert sorted(os.listdir(folder)) == [*(p.name for p in paths), "notes.txt"]
    assert os.listdir(tmp_path) == ["sequence"]
    for time_, g in enumerate(load_ply_sequence(folder)):
        assert_same(g, scene().at(time_), atol=1e-6, rtol=1e-5)


def test_a_sequence_is_read_in_natural_order(tmp_path):
    for i in (10, 9, 1):
        save_ply(cloud(i, 0), tmp_path / f"f{i}.ply")
    assert [len(g) for g in load_ply_sequence(tmp_path)] == [1, 9, 10]


def test_a_folder_without_ply_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no \.ply"):
        load_ply_sequence(tmp_path)


def test_an_interrupted_sequence_keeps_the_old_one(tmp_path, monkeypatch):

    save_ply_sequence(scene(), tmp_path / "sequence")
    before = {p.name: p.read_bytes() for p in (tmp_path / "sequence").iterdir()}
    calls = []

    def interrupt(gaussians, path, _):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save_ply(gaussians, path)

    monkeypatch.setattr(sequence, "save_gaussians", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_ply_sequence(scene(), tmp_path / "sequence")
    assert {p.name: p.read_bytes() for p in (tmp_path / "sequence").iterdir()} == before
    assert os.listdir(tmp_path) == ["sequence"]


def numbered(folder, numbers, suffix=".ply"):
    for i in numbers:
        save_gaussians(cloud(i + 1, 0), folder / f"frame_{i:03d}{suffix}")


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [((1, 2, 4, 5), "3"), ((0, 1, 5), "2, 3, 4"), ((0, 2, 4), ""), ((7,), "")],
)
def test_numbers_that_a_sequence_lacks_are_named(tmp_path, caplog, numbers, missing):
    numbered(tmp_path, numbers)
    assert [len(g) for g in load_ply_sequence(tmp_path)] == [i + 1 for i in numbers]
    if missing:
        assert f"lacks the numbers {missing} between frame_" in caplog.text
    else:
        assert not caplog.records


def test_hidden_files_are_no_part_of_a_sequence(tmp_path):
    numbered(tmp_path, (1, 2))
    (tmp_path / "._frame_001.ply").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert [len(g) for g in load_ply_sequence(tmp_path)] == [2, 3]


def test_lower_degrees_are_padded_to_the_highest(tmp_path):
    for i, degree in enumerate((0, 2, 1)):
        save_ply(cloud(4, degree), tmp_path / f"{i}.ply")
    for degree, g in zip((0, 2, 1), load_ply_sequence(tmp_path)):
        assert g.harmonics.shape == (4, 9, 3)
        assert not g.harmonics[:, (degree + 1) ** 2 :].any()


@pytest.mark.parametrize("suffix", [".spz", ".splat"])
def test_sequences_of_other_formats_are_read_and_mixed_ones_refused(tmp_path, suffix):
    numbered(tmp_path, (0, 1), suffix)
    assert [len(g) for g in load_sequence(tmp_path)] == [1, 2]
    numbered(tmp_path, (2,))
    with pytest.raises(ValueError, match=f".ply and {suffix}"):
        load_sequence(tmp_path)
