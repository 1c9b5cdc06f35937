"""The autoencoder's trainer."""

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

from fourreal import weights
from fourreal.data.cache import SceneCache
from fourreal.embedded.autoencoder import load_autoencoder
from fourreal.files.media import read_image
from fourreal.training.train_autoencoder import (
    AutoencoderConfig,
    ClipDraws,
    guess,
    train_autoencoder,
)
from fourreal.video import load_embedded_pipeline
from fourreal.video.transformer import apply_view_time

from .short_runs import loop_config


@pytest.mark.slow
def test_an_autoencoder_without_decoder_is_the_linear_transform_alone(tmp_path, scenes, capsys):
    config = AutoencoderConfig(loop_config(tmp_path), None, scenes, 1, 32, decoder_width=0)
    train_autoencoder(config)
    path = tmp_path / "autoencoder.safetensors"
    vae = load_autoencoder(path)
    assert vae.neighbours is None and not list(vae.parameters())
    basis, mean = vae.first_basis, vae.first_mean
    torch.testing.assert_close(basis.T @ basis, torch.eye(16), atol=1e-3, rtol=0)
    picture = read_image(tmp_path / "samples.png") * 2 - 1
    sides = "c (n h i) (t side w j) -> side t n h w (c i j)"
    exact, shown = rearrange(picture, sides, n=8, t=3, side=2, i=8, j=8)[:, 0]  # of time 0
    projected = (exact - mean) @ basis @ basis.T + mean
    torch.testing.assert_close(shown, projected.clamp(-1, 1), atol=0.02, rtol=0)
    assert "validation_psnr" in capsys.readouterr().out


@pytest.mark.parametrize("decoder_width", [0, 8])
def test_only_the_main_process_writes_an_autoencoder(
    tmp_path, scenes, monkeypatch, capsys, decoder_width
):
    monkeypatch.setattr("accelerate.Accelerator.is_main_process", property(lambda _: False))
    loop = loop_config(tmp_path, steps=1)
    train_autoencoder(AutoencoderConfig(loop, None, scenes, 1, 32, decoder_width=decoder_width))
    assert not list(tmp_path.glob("*.*")) and not capsys.readouterr().out


def test_guesses_of_a_video_model_train_the_decoder_alone(tmp_path, scenes):
    start = weights.folder() / "autoencoder.safetensors"
    loop = loop_config(tmp_path, steps=4, batch_size=2)
    train_autoencoder(AutoencoderConfig(loop, start, scenes, 1, 32, model=weights.folder()))
    before, after = load_file(start), load_file(tmp_path / "autoencoder.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("neighbours.") for name in changed)


def test_a_deeper_decoder_is_kept_and_a_step_may_see_half_of_the_size(tmp_path, scenes):
    loop = loop_config(tmp_path, steps=2)
    start = weights.folder() / "autoencoder.safetensors"
    options = {"decoder_width": 8, "decoder_depth": 3, "half_size": 1.0}
    train_autoencoder(AutoencoderConfig(loop, start, scenes, 1, 32, **options))
    vae = load_autoencoder(tmp_path / "autoencoder.safetensors")
    assert vae.config["decoder_depth"] == len(vae.neighbours.layers) == 3
    draws = ClipDraws(SceneCache(scenes, "train", 8, 29, 32), 1, 3, False, half_size=1.0)
    clips = draws.draw(torch.Generator().manual_seed(0), 0.0).clips
    assert clips.shape == (12, 3, 29, 16, 16)


def test_guesses_of_a_video_model_are_near_the_latents(scenes):
    pipe = load_embedded_pipeline()
    cache = SceneCache(scenes, "validation", 8, 29, 64)
    exact = pipe.encode_views(cache.frames(0))
    apply_view_time(pipe.transformer, 8, 8, max_frames=8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        made = guess(pipe, exact, cache.caption(0), generator)
        assert made.shape == exact.shape
        assert (made - exact).square().mean() < 0.5 * exact.var() and not torch.equal(made, exact)
