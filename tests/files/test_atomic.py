"""Files and folders that appear whole or not at all."""

import os
import stat
import sys

import pytest

from fourreal.files.atomic import atomic_frames, atomic_path, frame_names, results_folder


def contents(folder):
    """Every file below a folder, and what is in it."""
    paths = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_text() for p in paths}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
def test_what_appears_can_be_read_by_those_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        with atomic_path(tmp_path / "new" / "file.txt") as temporary:
            temporary.write_text("hello")
        with results_folder(tmp_path / "out") as temporary:
            (temporary / "inner").mkdir()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "new/file.txt", tmp_path / "out")]
    assert modes == [0o644, 0o755]


def test_frames_are_numbered_with_as_many_digits_as_they_need():
    assert frame_names(2, ".png") == ["frame_0001.png", "frame_0002.png"]
    assert frame_names(10_000, ".ply")[::9_999] == ["frame_00001.ply", "frame_10000.ply"]


def test_frames_replace_a_longer_sequence_of_their_kind_and_nothing_else(tmp_path):
    folder = tmp_path / "frames"
    for count, text in ((3, "old"), (2, "new")):
        names = frame_names(count, ".png")
        with atomic_frames(folder, names) as temporary:
            for name in names:
                (temporary / name).write_text(text)
        (folder / "frame_0003.ply").write_text("other kind")
        (folder / "notes.txt").write_text("mine")
    assert contents(tmp_path) == {
        "frames/frame_0001.png": "new",
        "frames/frame_0002.png": "new",
        "frames/frame_0003.ply": "other kind",
        "frames/notes.txt": "mine",
    }


def frames_folder(out):
    return atomic_frames(out, frame_names(1, ".png"))


@pytest.mark.parametrize("folder", [results_folder, frames_folder])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_interrupted_folder_keeps_the_old_one(tmp_path, folder, error):
    with folder(tmp_path / "out") as temporary:
        (temporary / "frame_0001.png").write_text("old")
    with pytest.raises(error), folder(tmp_path / "out") as temporary:
        (temporary / "frame_0001.png").write_text("half")
        raise error
    assert contents(tmp_path) == {"out/frame_0001.png": "old"}
    assert os.listdir(tmp_path) == ["out"]


def test_results_that_cannot_be_written_are_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out, message in ((tmp_path / "file", "is a file"), (tmp_path / "file/out", "cannot write")):
        with pytest.raises(ValueError, match=message), results_folder(out):
            raise AssertionError("nothing may be computed for it")
    assert contents(tmp_path) == {"file": "mine"}


@pytest.mark.parametrize("out", [".", "..", "here"])
def test_results_may_go_where_one_stands(tmp_path, monkeypatch, out):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with results_folder(out) as temporary:
        (temporary / "a.txt").write_text("a")
    where = {".": "below/a.txt", "..": "a.txt", "here": "below/here/a.txt"}[out]
    assert contents(tmp_path) == {where: "a"}
