"""Results are switched in one step, and nothing of a dead process stays beside them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fourreal.files import atomic, temporary
from fourreal.files.atomic import REPORT, atomic_path, results_folder
from fourreal.files.temporary import BEFORE

fcntl = pytest.importorskip("fcntl", reason="Windows has no flock")
NAMES = ("grid.mp4", "scene/frame_0001.ply", "scene/frame_0002.ply", REPORT)


def write(folder, text):
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def texts(out):
    """What the files of the results hold: one text when they are of one run."""
    return [(out / name).read_text() for name in NAMES]


@pytest.fixture(params=["exchanged", "renamed", "moved"])
def out(request, tmp_path, monkeypatch):
    """Earlier results with a file and a folder of the user's: on a system that can exchange two
    folders, on one that cannot, and at a place that must not be renamed."""
    if request.param == "renamed":
        monkeypatch.setattr(temporary, "_exchange", lambda one, other: False)
    (tmp_path / "out").mkdir()
    if request.param == "moved":
        monkeypatch.chdir(tmp_path / "out")
    write(tmp_path / "out", "old")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "out" / "photos").mkdir()
    (tmp_path / "out" / "photos" / "a.txt").write_text("mine too")
    return tmp_path / "out"


def whole(out, text):
    assert texts(out) == [text] * len(NAMES)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "photos" / "a.txt").read_text() == "mine too"
    assert sorted(p.name for p in out.iterdir()) == [
        *("grid.mp4", "notes.txt", "photos", REPORT, "scene")
    ]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_new_results_take_the_place_of_old_ones_and_what_is_the_users_stays(out):
    out.chmod(0o750)
    for text in ("new", "newer"):
        with results_folder(out) as folder:
            write(folder, text)
            (folder / "scene" / "frame_0002.ply").unlink()
            (folder / "scene" / "frame_0002.ply").write_text(text)
        whole(out, text)
    assert out.stat().st_mode & 0o777 == 0o750


@pytest.fixture
def ctrl_c_is_heard():
    """A shell that starts tests in the background lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_waits_for_the_switch(out, monkeypatch):
    for name in ("put_in_place", "_exchange_entries"):
        real = getattr(atomic, name)

        def interrupted(*given, real=real):
            os.kill(os.getpid(), signal.SIGINT)
            real(*given)

        monkeypatch.setattr(atomic, name, interrupted)
    with pytest.raises(KeyboardInterrupt), results_folder(out) as folder:
        write(folder, "new")
    whole(out, "new")


@pytest.mark.parametrize("number", range(9))
def test_an_error_in_the_switch_leaves_the_old_results(out, monkeypatch, number):
    """Of each of its steps; a step that does not exist ends in the new results."""
    rename, chmod, steps = os.rename, os.chmod, []

    def failing(*given, **options):
        steps.append(given)
        if len(steps) == number + 1:
            raise OSError(28, "No space left on device")
        rename(*given, **options)

    monkeypatch.setattr(os, "rename", failing)
    monkeypatch.setattr(Path, "rename", lambda one, other: failing(one, other))
    monkeypatch.setattr(os, "chmod", lambda *a, **k: chmod(*a, **k) if number else failing("chmod"))
    try:
        with results_folder(out) as folder:
            write(folder, "new")
    except (OSError, TypeError):
        whole(out, "old")
    else:
        whole(out, "new")


def test_results_go_where_a_link_points_and_the_link_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with results_folder(tmp_path / "link") as folder:
        write(folder, "new")
    assert (tmp_path / "link").is_symlink() and texts(tmp_path / "real") == ["new"] * 4


def read_at(folder, name):
    handle = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return os.read(handle, 9).decode()
    finally:
        os.close(handle)


def commit(out, name, count):
    for _ in range(count):
        with results_folder(out) as folder:
            write(folder, name)


def test_two_processes_with_one_folder_leave_whole_results_of_one_of_them(tmp_path):
    out, context = tmp_path / "out", multiprocessing.get_context("spawn")
    workers = [context.Process(target=commit, args=(out, name, 50)) for name in ("a", "b")]
    for worker in workers:
        worker.start()
    seen = []
    while any(worker.is_alive() for worker in workers):
        # Held by an open folder: its name may stand for other results a moment later.
        try:
            handle = os.open(out, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            seen.append({read_at(handle, name) for name in NAMES})
        except FileNotFoundError:  # it was replaced and is being removed
            pass
        finally:
            os.close(handle)
    assert seen and all(found in ({"a"}, {"b"}) for found in seen)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(set(texts(out))) == 1
    assert os.listdir(tmp_path) == ["out"]


HOLD = """
import sys, time
from fourreal.files.atomic import atomic_path, results_folder
with {name}(sys.argv[1]) as place:
    print(place, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["results_folder", "atomic_path"])
def test_what_a_killed_process_left_goes_and_what_a_live_one_writes_stays(tmp_path, name):
    out = tmp_path / "out.d"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD.format(name=name), str(out)], stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in processes:
        process.stdout.readline()
    assert len(os.listdir(tmp_path)) == 2
    try:
        processes[0].kill()
        processes[0].wait()
        (tmp_path / ".out.notes.d").mkdir()  # like ours, but not
        with getattr(atomic, name)(out) as place:
            if name == "results_folder":
                write(place, "new")
            else:
                place.write_text("new")
        assert len(os.listdir(tmp_path)) == 3  # the results, the live one's, the user's
    finally:
        processes[1].kill()
        processes[1].wait()
    with atomic_path(out.with_name("other.d")) as place:
        place.write_text("of another name")
    assert len(os.listdir(tmp_path)) == 4
    with results_folder(out) if name == "results_folder" else atomic_path(out) as place:
        if name == "atomic_path":
            place.write_text("newer")
    assert sorted(os.listdir(tmp_path)) == [".out.notes.d", "other.d", "out.d"]


def test_results_that_a_dead_process_put_aside_come_back(tmp_path):
    aside = tmp_path / f".out.0123abcd{BEFORE}"
    aside.mkdir()
    write(aside, "old")
    with pytest.raises(RuntimeError), results_folder(tmp_path / "out"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["out"] and texts(tmp_path / "out") == ["old"] * 4


def test_files_can_be_written_into_a_temporary_folder_at_once(tmp_path):
    start = time.monotonic()
    with results_folder(tmp_path / "out") as folder, atomic_path(folder / "file") as place:
        place.write_text("inner")
    assert time.monotonic() - start < temporary.PATIENCE / 2
    assert (tmp_path / "out" / "file").read_text() == "inner"


def test_a_lock_that_another_holds_is_waited_for(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    code = HOLD.format(name="atomic_path")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "file")], stdout=subprocess.PIPE
    )
    time.sleep(0.5)
    assert os.listdir(tmp_path) == []
    os.close(handle)
    assert process.stdout.readline()
    process.kill()
    process.wait()
