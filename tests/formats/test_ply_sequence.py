"""A dynamic scene as a folder of numbered PLY files."""

import os

import pytest

from fourreal.formats import load_ply_sequence, save_ply, save_ply_sequence, sequence

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

    def interrupt(gaussians, path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save_ply(gaussians, path)

    monkeypatch.setattr(sequence, "save_ply", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_ply_sequence(scene(), tmp_path / "sequence")
    assert {p.name: p.read_bytes() for p in (tmp_path / "sequence").iterdir()} == before
    assert os.listdir(tmp_path) == ["sequence"]
