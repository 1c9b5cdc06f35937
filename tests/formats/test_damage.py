"""Damaged files: each gives Gaussians or one sentence, and a large one no more memory than its own.

The honest size of a file is that of the undamaged one it was made from: its bytes, or those of its
Gaussians in float32 where these are more.
"""

import gzip
import json
import os
import struct
from pathlib import Path

import pytest

from fourreal.formats import load_gaussians, load_scene

from ..fuzz import measure, run_kind
from .damage import KINDS, damaged

MUTATIONS = 200  # of each kind; `python -m tests.fuzz --count 3000` makes more
SLOW = 5  # of those that are read in a process of their own, where there are no forks
# So large that the kernel's count of pages, in batches of some 100 KB, tells a tenth of them.
LARGE = {"binary.ply": (80_000, 1), "ascii.ply": (40_000, 1), "big.ply": (80_000, 1)}
LARGE |= {"compressed.ply": (100_000, 1), "3.spz": (48_000, 3), "4.spz": (48_000, 3)}
LARGE |= {"g.splat": (240_000, 0), "s.safetensors": (96_000, 1)}


def require(name):
    if name == "4.spz":
        pytest.importorskip("zstandard", reason="zstandard is not installed (the extra `spz`)")
    if name.startswith("s.usd"):
        pytest.importorskip("pxr.Usd", reason="usd-core is not installed (the extra `usd`)")


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=pytest.mark.slow) if "usd" in k else k for k in KINDS]
)
def test_small_damaged_files_end_in_a_result_or_one_sentence(tmp_path, name):
    """In less than 10 s and 64 MB each; see tests/fuzz.py."""
    require(name)
    count = SLOW if name.startswith("s.usd") and not hasattr(os, "fork") else MUTATIONS
    ends, faults = run_kind(KINDS[name], count, 0, tmp_path)
    assert not faults
    assert ends["refused"] > count / 10


def inflated(name: str, content: bytes, count: int) -> list[bytes]:
    """The file with counts that its bytes do not bear: by one, by half, and beyond all bounds."""
    results = []
    for more in (count + 1, count + count // 2, 2**31 - 1):
        if name.endswith(".ply"):
            results.append(content.replace(b"vertex %d\n" % count, b"vertex %d\n" % more))
        elif name == "3.spz":
            raw = gzip.decompress(content)
            results.append(gzip.compress(raw[:8] + struct.pack("<I", more) + raw[12:], 1))
        elif name == "4.spz":
            results.append(content[:8] + struct.pack("<I", more) + content[12:])
        elif name == "s.safetensors":
            old, new = (b"[%d,4]" % (n - n // 2) for n in (count, more))
            results.append(content.replace(old, new.ljust(len(old))))
    assert content not in results
    return results


def float32_bytes(count: int, degree: int) -> int:
    return 4 * count * (11 + 3 * (degree + 1) ** 2)


@pytest.mark.parametrize("name", LARGE)
def test_a_file_takes_at_most_twice_its_honest_size(tmp_path, name):
    """Files of some MB: whole, damaged, cut, and with counts that promise more than there is."""
    require(name)
    count, degree = LARGE[name]
    KINDS[name].write(tmp_path / name, count, degree)
    whole = (tmp_path / name).read_bytes()
    honest = max(len(whole), float32_bytes(count, degree))
    contents = [whole, whole[: len(whole) // 2], whole[:-1], whole + whole]
    contents += inflated(name, whole, count)
    contents += [damaged(KINDS[name], whole, seed) for seed in range(6)]
    paths = [tmp_path / f"{i}_{name}" for i in range(len(contents))]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    KINDS[name].write(tmp_path / f"small_{name}", 6, 1)
    _, *results = measure([tmp_path / f"small_{name}", *paths])  # a first one brings the code in
    assert results[0]["count"] == count
    if results[0]["grown"] is None:
        pytest.skip("the peak of a process's memory can be set back on Linux only")
    if name != "s.safetensors":  # of which nothing is read yet
        assert results[0]["grown"] > 0.9 * float32_bytes(count, degree)  # the measure sees it
    for path, content, result in zip(paths, contents, results, strict=True):
        if "error" in result:
            assert result["error"] == "ValueError" and path.name in result["text"]
        else:
            assert result["float32"] and result["count"] <= 2 * count
        most = 2 * max(honest, honest * len(content) // len(whole))
        assert result["grown"] <= most, (path.name, result)


def test_a_scene_of_deep_metadata_is_refused(tmp_path):
    KINDS["s.safetensors"].write(tmp_path / "good.safetensors", 6, 0)
    content = (tmp_path / "good.safetensors").read_bytes()
    length = struct.unpack_from("<Q", content)[0]
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["metadata"] = "[" * 100_000
    text = json.dumps(header).encode()
    path = tmp_path / "deep.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(ValueError, match=r"deep\.safetensors"):
        load_scene(path)


def loader(name: str):
    return load_scene if Path(name).suffix == ".safetensors" else load_gaussians


@pytest.mark.parametrize("name", LARGE)
def test_every_truncation_is_noticed(tmp_path, name):
    require(name)
    KINDS[name].write(tmp_path / name, 12, LARGE[name][1])
    content = (tmp_path / name).read_bytes()
    path = tmp_path / f"cut_{name}"
    for length in range(0, len(content) - 20, max(1, len(content) // 150)):
        if name == "g.splat" and length % 32 == 0:
            continue  # a shorter file of the same format
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
            loader(name)(path)


@pytest.mark.parametrize("name", LARGE)
def test_a_missing_file_is_named_in_one_sentence(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} does not exist; give"):
        loader(name)(tmp_path / name)
