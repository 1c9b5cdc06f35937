"""Safetensors files read whole, or refused in one sentence."""

import os

import pytest
import torch
from safetensors.torch import save_file

from fourreal.files.tensors import MAX_HEADER, read_safetensors, save_tensors


def test_tensors_and_metadata_come_back_in_their_types(tmp_path):
    tensors = {"a": torch.randn(2, 3), "b": torch.arange(4), "c": torch.ones(2).bfloat16()}
    save_file(tensors, tmp_path / "m.safetensors", {"config": "{}"})
    result, metadata = read_safetensors(tmp_path / "m.safetensors")
    assert set(result) == set(tensors) and metadata == {"config": "{}"}
    for name, tensor in tensors.items():
        assert result[name].dtype == tensor.dtype and torch.equal(result[name], tensor)
    save_file(tensors, tmp_path / "plain.safetensors")
    assert read_safetensors(tmp_path / "plain.safetensors")[1] == {}


def test_missing_and_damaged_files_are_named_in_one_sentence(tmp_path):
    save_file({"a": torch.randn(50)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-8])
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "folder.safetensors").mkdir()
    messages = {
        "none": "does not exist; give the path of a file",
        "folder": "is a folder; give the path of a file",
        "cut": "is not a complete .safetensors file",
        "text": "is not a complete .safetensors file",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=rf"{name}\.safetensors {message}") as error:
            read_safetensors(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(error.value)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_written_file_has_the_mode_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_tensors({"a": torch.zeros(2)}, tmp_path / "new" / "a.safetensors", {"b": "c"})
    finally:
        os.umask(before)
    path = tmp_path / "new" / "a.safetensors"
    assert path.stat().st_mode & 0o777 == mode
    tensors, metadata = read_safetensors(path)
    assert tensors["a"].tolist() == [0, 0] and metadata == {"b": "c"}


def test_a_header_beyond_all_bounds_is_refused(tmp_path):
    path = tmp_path / "many.safetensors"
    header = (b'{"__metadata__":{"a":"' + b"x" * MAX_HEADER + b'"}}').ljust(MAX_HEADER + 1000)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"many\.safetensors has a header"):
        read_safetensors(path)
