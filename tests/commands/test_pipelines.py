"""Files of models that `fourreal generate` refuses before the first model is loaded."""

import pytest
import torch
from safetensors.torch import save_file

from fourreal.commands import pipelines
from fourreal.commands.pipelines import PipelineOptions, load_pipeline
from fourreal.devices import choose_device

NAMES = ("transformer", "vae", "text_encoder", "lora", "tokenizer")


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(pipelines, "read_pipeline", lambda *_: pytest.fail("a model was loaded"))


def parts_with(folder, name, path):
    """Options with three single files of weights, but for the one of `name`."""
    file = folder / "whole.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    files = dict.fromkeys(NAMES[:3], file) if name in NAMES[:3] else {}
    return PipelineOptions(**(files | {name: path}))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_not_there_is_named_by_its_option(tmp_path, name):
    options = parts_with(tmp_path, name, tmp_path / "none.safetensors")
    option = name.replace("_", "-")
    with pytest.raises(ValueError, match=rf"--{option}: .*none\.safetensors does not exist"):
        load_pipeline(options, choose_device("cpu"))


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (b"<!doctype html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a git-LFS pointer"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, name, content, sentence):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"m\.safetensors (is )?{sentence}"):
        load_pipeline(parts_with(tmp_path, name, tmp_path / "m.safetensors"), choose_device("cpu"))
