"""A .zip of PLYs: read from any archive, and nothing of an archive is trusted."""

import zipfile

import pytest

from fourreal.formats import load_zip, open_scene, save_ply, save_zip

from ..tiny import cloud
from .comparing import scene


def archive(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def ply(tmp_path, count):
    save_ply(cloud(count, 0), tmp_path / "one.ply")
    return (tmp_path / "one.ply").read_bytes()


def test_the_archive_is_a_sequence_in_natural_order(tmp_path):
    save_zip(scene(), tmp_path / "s.zip")
    with zipfile.ZipFile(tmp_path / "s.zip") as file:
        assert file.namelist() == ["frame_0001.ply", "frame_0002.ply", "frame_0003.ply"]
        assert file.testzip() is None
    assert [len(g) for g in open_scene(tmp_path / "s.zip").dynamic] == [27, 20, 23]
    entries = {f"a/f{i}.ply": ply(tmp_path, i) for i in (10, 2, 1)}
    entries |= {"__MACOSX/a/._f1.ply": b"x", "readme.txt": b"x", "a/": b"", ".hidden.ply": b"x"}
    assert [len(g) for g in load_zip(archive(tmp_path / "t.zip", entries))] == [1, 2, 10]


def test_names_cannot_leave_the_archive(tmp_path):
    entries = {"../../out.ply": ply(tmp_path, 3), "/abs.ply": ply(tmp_path, 4)}
    before = sorted(p.name for p in tmp_path.parent.iterdir())
    assert sorted(len(g) for g in load_zip(archive(tmp_path / "t.zip", entries))) == [3, 4]
    assert sorted(p.name for p in tmp_path.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a.ply": b"ply\n" + bytes(80 * 2**20)}, "32 times its size"),
        ({"a.txt": b"x"}, "no .ply"),
        ({"a.ply": b"ply\nformat nonsense\n"}, "a.ply"),
    ],
)
def test_archives_that_are_no_sequence_are_refused_by_name(tmp_path, entries, message):
    with pytest.raises(ValueError, match=message) as error:
        load_zip(archive(tmp_path / "t.zip", entries))
    assert f"{tmp_path / 't.zip'}" in str(error.value)


def test_damaged_archives_are_refused_by_name(tmp_path):
    whole = archive(tmp_path / "w.zip", {"a.ply": ply(tmp_path, 9)}).read_bytes()
    for name, content in {
        "cut": whole[:-30],
        "text": b"hello",
        "flip": whole[:60] + whole[64:],
    }.items():
        (tmp_path / f"{name}.zip").write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.zip"):
            load_zip(tmp_path / f"{name}.zip")
