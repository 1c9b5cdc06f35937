"""OpenUSD files that unfold, crash or never end: one sentence, in the memory and time stated."""

import time
from pathlib import Path

import pytest
import torch

from fourreal.formats import load_usd, save_usd, usd_reader
from fourreal.formats.blocks import largest_result
from fourreal.gaussians import Gaussians, GaussianScene

from ..tiny import cloud

pytest.importorskip("pxr.Usd", reason="usd-core is not installed (the extra `usd`)")


def scene_of(static, dynamic):
    cameras = torch.eye(3, 4)[None], torch.eye(3)[None]
    return GaussianScene(static, dynamic, *cameras, 8, 8)


def test_one_array_at_many_times_is_refused_where_it_unfolds(tmp_path):
    """The binary format stores an array once, however often it is used."""
    path = tmp_path / "many.usdc"
    save_usd(scene_of(Gaussians.empty(), [cloud(10_000, 0)] * 150), path)
    assert path.stat().st_size < 1e6 and largest_result(path) == 2**26
    with pytest.raises(ValueError, match=r"many\.usdc .* unfolds to more than 67108864 bytes"):
        load_usd(path)


def test_what_stands_still_is_not_repeated_beyond_bounds(tmp_path):
    path = tmp_path / "still.usdc"
    save_usd(scene_of(cloud(20_000, 0), [cloud(1, 0, t) for t in range(100)]), path)
    with pytest.raises(ValueError, match=r"still\.usdc .*open_scene"):
        load_usd(path)


DEATHS = {
    "memory": "bytearray(2**31)",
    "native": "import os; os.abort()",
    "spin": "while True: pass",
    "silent": "import os; os._exit(0)",
}


@pytest.mark.parametrize("name", DEATHS)
def test_a_child_that_dies_is_one_sentence_about_the_file(tmp_path, monkeypatch, name):
    path = tmp_path / "bad.usdc"
    path.write_bytes(b"PXR-USDC")
    reader = Path(usd_reader.__file__).read_text()
    begin = reader[: reader.index('if __name__ == "__main__"')]
    (tmp_path / "child.py").write_text(f"{begin}\nlimit_process(2**27, 2)\n{DEATHS[name]}\n")
    monkeypatch.setattr(usd_reader, "__file__", str(tmp_path / "child.py"))
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"bad\.usdc") as error:
        load_usd(path)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 60  # two seconds of its own, on a machine as busy as it is
