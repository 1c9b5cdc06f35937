"""Untrained models in place of the embedded ones."""

import pytest

from ..comfyui import write_random_weights


@pytest.fixture(scope="session")
def model_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder)
    return folder


@pytest.fixture(autouse=True)
def use_untrained_models(model_files, monkeypatch):
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(model_files))
