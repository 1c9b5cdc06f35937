"""What the tests of training share."""

import pytest


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps the precision of the first trainer for the whole process."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def one_validation_grid(monkeypatch):
    monkeypatch.setattr("fourreal.training.train_video.VALIDATION_GRIDS", 1)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Where scenes, latents and texts are kept, once for all tests."""
    return tmp_path_factory.mktemp("scenes")
