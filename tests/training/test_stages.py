"""The reconstructor's three stages, one after the other."""

import pytest

from fourreal.reconstruction import Reconstructor
from fourreal.training.train_reconstructor import ReconstructorConfig, train_reconstructor

from .short_runs import loop_config


@pytest.mark.slow
def test_three_stages_give_a_reconstructor_with_trained_temporal_layers(tmp_path):
    previous = None
    for stage in ("geometry", "static", "dynamic"):
        folder = tmp_path / stage
        train_reconstructor(
            ReconstructorConfig(loop_config(folder), stage, previous, size=(32,), num_times=2)
        )
        previous = folder / "reconstructor.safetensors"
    reconstructor = Reconstructor.from_file(previous)
    assert reconstructor.model.aggregator.temporal_is_trained()
    with pytest.raises(ValueError, match="holds a finished run"):
        train_reconstructor(ReconstructorConfig(loop_config(tmp_path / "geometry"), size=(32,)))
