"""10,000 damaged files: each gives Gaussians or one ValueError, and no more memory than its own.

The honest size of a file is that of the undamaged one it was made from: its bytes, or those of its
Gaussians in float32 where these are more.
"""

import gzip
import json
import os
import random
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fourreal.formats import load_gaussians, load_scene, save_ply, save_scene, save_splat, save_spz
from fourreal.gaussians import GaussianScene

from ..tiny import cloud

MEASURE = Path(__file__).with_name("measure_loading.py")
MUTATIONS = 2500  # of each format
PAGES = 2**20  # of the interpreter and the allocator, which small files cannot be told from
# So large that the kernel's count of pages, in batches of some 100 KB, tells a tenth of them.
LARGE = {"g.ply": (80_000, 1), "g.spz": (48_000, 3), "g.splat": (240_000, 0)}
LARGE["s.safetensors"] = (96_000, 1)
FORMATS = tuple(LARGE)


def write(path: Path, count: int, degree: int) -> None:
    """`count` Gaussians in the format of the path; in a scene a half stands and a half moves."""
    if path.suffix == ".safetensors":
        half, cameras = count // 2, (torch.eye(3, 4)[None], torch.eye(3)[None])
        counts = (count - half, half - half // 3, half // 3)
        static, *moving = (cloud(n, degree, seed=n) for n in counts)
        save_scene(GaussianScene(static, moving, *cameras, 64, 48), path)
    else:
        savers = {".ply": save_ply, ".spz": save_spz, ".splat": save_splat}
        savers[path.suffix](cloud(count, degree, seed=count), path)


def mutate(data: bytearray, r: random.Random) -> None:
    """One of: other bytes, bits, cuts, insertions, full bytes, more digits, an end too early."""
    where = r.randrange(len(data) if r.random() < 0.5 else min(len(data), 600))
    kind = r.randrange(7)
    if kind == 0:
        data[where] = r.randrange(256)
    elif kind == 1:
        data[where] ^= 1 << r.randrange(8)
    elif kind == 2:
        del data[where : where + r.randrange(1, 9)]
    elif kind == 3:
        data[where:where] = bytes(r.randrange(256) for _ in range(r.randrange(1, 9)))
    elif kind == 4:  # counts and lengths in binary
        data[where : where + 4] = r.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"))
    elif kind == 5:  # counts and shapes in text
        digits = [i for i, byte in enumerate(data[:1500]) if chr(byte).isdigit()] or [where]
        i = r.choice(digits)
        data[i : i + 1] = b"9" * r.randrange(1, 12)
    else:
        del data[where:]


def damaged(content: bytes, packed: bool, seed: int) -> bytes:
    """The content after 1, 2 or 8 mutations, of what is inside its gzip where `packed`."""
    r = random.Random(seed)
    data = bytearray(gzip.decompress(content) if packed else content)
    for _ in range(r.choice((1, 1, 2, 8))):
        if data:
            mutate(data, r)
    return gzip.compress(bytes(data), 1) if packed else bytes(data)


def inflated(name: str, content: bytes, count: int) -> list[bytes]:
    """The file with counts that its bytes do not bear: by one, by half, and beyond all bounds."""
    results = []
    for more in (count + 1, count + count // 2, 2**31 - 1):
        if name == "g.ply":
            results.append(content.replace(b"vertex %d\n" % count, b"vertex %d\n" % more))
        elif name == "g.spz":
            raw = gzip.decompress(content)
            results.append(gzip.compress(raw[:8] + struct.pack("<I", more) + raw[12:], 1))
        elif name == "s.safetensors":
            old, new = (b"[%d,4]" % (n - n // 2) for n in (count, more))
            results.append(content.replace(old, new.ljust(len(old))))
    assert content not in results
    return results


@dataclass
class Case:
    """A damaged file, the honest size of the whole one, and what measure_loading.py says of it."""

    path: Path
    honest: int
    result: dict | None = None


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, tuple[list[Case], list[Case]]]:
    """For each format MUTATIONS small files, and some large ones of which the first is whole."""
    folder = tmp_path_factory.mktemp("damaged")
    whole, all_cases = [], {}
    for name in FORMATS:
        whole.append(folder / name)
        write(folder / name, 6, 1)
        content = (folder / name).read_bytes()
        # Half of the edits hit the header, where lengths and names are; SPZ also inside its gzip.
        packed = [name == "g.spz" and i % 2 == 1 for i in range(MUTATIONS)]
        small = [damaged(content, inside, i) for i, inside in enumerate(packed)]
        count, degree = LARGE[name]
        write(folder / f"large_{name}", count, degree)
        large = (folder / f"large_{name}").read_bytes()
        honest = max(len(large), float32_bytes(count, degree))
        contents = [large, large[: len(large) // 2], large[:-1], large + large]
        contents += inflated(name, large, count)
        contents += [damaged(large, inside, i) for i, inside in enumerate(packed[:6])]
        all_cases[name] = (
            [case(folder / f"{i}_{name}", c, len(content)) for i, c in enumerate(small)],
            [
                case(folder / f"large_{i}_{name}", c, max(honest, honest * len(c) // len(large)))
                for i, c in enumerate(contents)
            ],
        )
    # Whole ones first, which bring the code in.
    measured = [c for pair in all_cases.values() for part in pair for c in part]
    lines = "".join(f"{p}\n" for p in [*whole, *(c.path for c in measured)])
    # Blocks of 64 KB and more are given back when they are freed: none is reused unseen.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, str(MEASURE)],
        input=lines,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert answer.returncode == 0, answer.stderr
    results = answer.stdout.splitlines()[len(whole) :]
    for c, line in zip(measured, results, strict=True):
        c.result = json.loads(line)
    return all_cases


def case(path: Path, content: bytes, honest: int) -> Case:
    path.write_bytes(content)
    return Case(path, honest)


def float32_bytes(count: int, degree: int) -> int:
    return 4 * count * (11 + 3 * (degree + 1) ** 2)


def check(case: Case, allowance: int, most: int) -> None:
    """A result that can be drawn or one sentence that names the file; quick; in its memory."""
    result = case.result
    if "error" in result:
        assert result["error"] == "ValueError", result
        assert case.path.name in result["text"]
        assert "\n" not in result["text"]
    else:
        assert result["float32"]
        assert result["count"] <= most
        assert result["finite"] or case.path.suffix == ".safetensors"  # mapped, and not read
    assert result["seconds"] < 20  # a hang, on the slowest machine
    if result["grown"] is not None:
        assert result["grown"] <= 2 * case.honest + allowance, case


@pytest.mark.parametrize("name", FORMATS)
def test_damage_ends_in_an_error_or_in_gaussians(cases, name):
    small, _ = cases[name]
    assert len(small) == MUTATIONS
    for case in small:
        check(case, PAGES, most=100)
    assert sum("error" in case.result for case in small) > MUTATIONS / 10


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_takes_at_most_twice_its_honest_size(cases, name):
    """Files of some MB: whole, damaged, cut, and with counts that promise more than there is."""
    _, large = cases[name]
    count, degree = LARGE[name]
    whole = large[0].result
    assert whole["count"] == count
    if whole["grown"] is None:
        pytest.skip("the peak of a process's memory can be set back on Linux only")
    if name != "s.safetensors":  # of which nothing is read yet
        assert whole["grown"] > 0.9 * float32_bytes(count, degree)  # the measure sees it
    for case in large:
        assert case.honest > 2e6
        check(case, 0, most=2 * count)


def test_a_scene_of_deep_metadata_is_refused(tmp_path):
    write(tmp_path / "good.safetensors", 6, 0)
    content = (tmp_path / "good.safetensors").read_bytes()
    length = struct.unpack_from("<Q", content)[0]
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["metadata"] = "[" * 100_000
    text = json.dumps(header).encode()
    path = tmp_path / "deep.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(ValueError, match=r"deep\.safetensors"):
        load_scene(path)


@pytest.mark.parametrize("name", FORMATS)
def test_every_truncation_is_noticed(tmp_path, name):
    write(tmp_path / name, 12, LARGE[name][1])
    content = (tmp_path / name).read_bytes()
    load = load_scene if name == "s.safetensors" else load_gaussians
    path = tmp_path / f"cut_{name}"
    for length in range(0, len(content), max(1, len(content) // 150)):
        if name == "g.splat" and length % 32 == 0:
            continue  # a shorter file of the same format
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
            load(path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_file_is_named_in_one_sentence(tmp_path, name):
    load = load_scene if name == "s.safetensors" else load_gaussians
    with pytest.raises(ValueError, match=f"{name} does not exist; give"):
        load(tmp_path / name)
