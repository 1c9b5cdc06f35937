"""The training loop and the trainers, in a few steps."""

import json

import pytest
import torch
from torch import nn

from fourreal.training.autoencoder import AutoencoderConfig, train_autoencoder
from fourreal.training.data import SceneCache
from fourreal.training.loop import Loop, LoopConfig
from fourreal.training.reconstructor import ReconstructorConfig, train_reconstructor
from fourreal.training.video import VideoConfig, flow_loss, train_video


def fit(out, stop_at=None, **options):
    """Train a line on noise; the losses of all steps that ran."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    config = LoopConfig(out, steps=8, save_every=2, warmup_steps=2, mixed_precision="no", **options)
    loop, losses = Loop(config, model), []

    def loss(step, generator):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 3, generator=generator)
        value = (model(x) - x.sum(1, keepdim=True)).square().mean()
        losses.append(value.item())
        return {"loss": value}

    loop.run(loss, lambda folder: {"weight": float(model.weight.detach().sum())})
    return losses, model.weight.detach().clone()


def test_a_stopped_run_resumes_to_the_same_losses(tmp_path):
    whole, weight = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "broken", stop_at=5)
    rest, resumed = fit(tmp_path / "broken")
    assert rest == whole[4:]  # the checkpoint of step 4 is the last one
    assert torch.equal(weight, resumed)
    log = json.loads((tmp_path / "broken" / "log.json").read_text())
    assert [entry["step"] for entry in log["log"]] == [2, 4, 6, 8]
    assert log["settings"]["seed"] == 0


def test_a_diverging_run_says_so(tmp_path):
    model = nn.Linear(1, 1)
    loop = Loop(LoopConfig(tmp_path, steps=2, mixed_precision="no"), model)
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        loop.run(lambda *_: {"loss": model.weight.sum() * torch.nan}, lambda _: {})


def test_flow_loss_counts_unknown_cells_only():
    latents, noise = torch.randn(2, 2, 4, 3, 2, 2)
    unknown = torch.tensor([[True, False, True], [True, True, False]])[:, None, :, None, None]
    predicted = torch.where(unknown, noise - latents + 2, torch.full_like(latents, 100.0))
    assert float(flow_loss(predicted, noise, latents, unknown)) == pytest.approx(4, rel=1e-5)


def test_cached_scenes_are_drawn_once(tmp_path):
    cache = SceneCache(tmp_path, "train", 2, 5, 16)
    first = cache.frames(3)
    assert first.shape == (2, 5, 3, 16, 16) and cache.available() == [3]
    assert torch.equal(first, cache.frames(3))


def test_all_trainers_run_and_their_files_load(tmp_path):
    from fourreal.reconstruction import Reconstructor
    from fourreal.video import load_embedded_pipeline

    out, cache = tmp_path / "weights", tmp_path / "scenes"
    train_autoencoder(AutoencoderConfig(out, cache, num_scenes=1, size=32))
    loop = {"steps": 2, "batch_size": 1, "save_every": 10, "mixed_precision": "no"}
    train_video(
        VideoConfig(
            LoopConfig(out, **loop),
            out / "autoencoder.safetensors",
            cache,
            num_scenes=1,
            size=32,
            width=128,
            layers=1,
            ffn_width=64,
            text_width=32,
            grids=("2x5",),
            grid_starts=(0.0,),
        )
    )
    pipe = load_embedded_pipeline(out)
    assert pipe.config.conditioning == "replace" and pipe.config.max_frames == 2
    previous = None
    for stage in ("geometry", "static", "dynamic"):
        folder = tmp_path / stage
        train_reconstructor(
            ReconstructorConfig(LoopConfig(folder, **loop), stage, previous, size=32, num_times=2)
        )
        previous = folder / "reconstructor.safetensors"
    reconstructor = Reconstructor.from_file(previous)
    assert reconstructor.model.aggregator.temporal_is_trained()
    with pytest.raises(ValueError, match="needs --start-from"):
        train_reconstructor(ReconstructorConfig(LoopConfig(tmp_path / "x"), "static"))
