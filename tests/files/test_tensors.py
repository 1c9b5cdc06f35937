"""Safetensors files read whole, or refused in one sentence."""

import pytest
import torch
from safetensors.torch import save_file

from fourreal.files.tensors import read_safetensors


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
