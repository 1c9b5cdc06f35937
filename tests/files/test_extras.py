"""Packages of extras that are not installed: one sentence, with the commands that install them."""

import sys
from pathlib import Path

import pytest

from fourreal.formats import open_scene
from fourreal.formats.spz import save_spz

from ..tiny import cloud

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("module", "extra", "name"),
    [("fourdgs", "fourdgs", "s.4dgs"), ("pxr", "usd", "s.usda"), ("zstandard", "spz", "s.spz")],
)
def test_a_missing_package_is_told_with_both_ways_to_install_it(
    tmp_path, monkeypatch, module, extra, name
):
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / name
    path.write_bytes(b"anything")
    with pytest.raises(ValueError) as error:
        if extra == "spz":
            save_spz(cloud(3), path, version=4)
        else:
            open_scene(path)
    sentence = str(error.value)
    assert f"pip install 'fourreal[{extra}]'" in sentence
    assert f"pip install -e '.[{extra}]'" in sentence
    assert sentence.endswith(".") and "\n" not in sentence
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
