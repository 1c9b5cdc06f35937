"""Tuning a model: LoRA, self-attention, other architectures, one interrupted run."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fourreal import weights
from fourreal.files.media import read_image
from fourreal.training.draws import step_generator
from fourreal.training.run_state import Checkpoints
from fourreal.training.train_video import VideoConfig, train_video
from fourreal.video.architectures import ARCHITECTURES
from fourreal.video.pipeline import ViewTimePipeline
from fourreal.video.wan_files import load_transformer
from fourreal.video.wan_keys import comfy_key

from .short_runs import loop_config, tune_embedded


@pytest.mark.slow
def test_a_stopped_tuning_run_resumes_to_the_same_losses(tmp_path, scenes):
    whole = tune_embedded(tmp_path / "whole", scenes)
    with pytest.MonkeyPatch.context() as patch:
        saved = Checkpoints.save

        def stop(self, state):
            saved(self, state)
            raise KeyboardInterrupt

        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            tune_embedded(tmp_path / "broken", scenes)
    assert tune_embedded(tmp_path / "broken", scenes) == whole[2:]
    first, second = (
        load_file(tmp_path / name / "lora.safetensors") for name in ("whole", "broken")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    # A checkpoint holds what is trained, and nothing of the model below it.
    (checkpoint,) = (tmp_path / "whole" / "checkpoints").iterdir()
    assert not (checkpoint / "model.safetensors").exists()
    assert all("lora" in key for key in load_file(checkpoint / "trained.safetensors"))


@pytest.mark.slow
def test_a_lora_loads_through_diffusers_and_gives_the_tuned_model(tmp_path, scenes):
    from diffusers import WanPipeline

    tune_embedded(tmp_path, scenes)
    path = tmp_path / "lora.safetensors"
    tensors = load_file(path)
    down, up = (
        f"diffusion_model.blocks.0.self_attn.q.lora_{part}.weight" for part in ("down", "up")
    )
    assert tensors[down].shape[0] == tensors[up].shape[1] == 4
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["fourreal"])
    assert metadata["conditioning"] == "replace" and metadata["grid"] == [2, 5]

    model, _ = load_transformer(weights.folder() / "transformer.safetensors", torch.float32)
    inputs = (
        torch.randn(1, model.config.in_channels, 2, 4, 4, generator=step_generator(0, 0)),
        torch.tensor([500.0]),
        torch.zeros(1, 8, model.config.text_dim),
    )
    # The second way to the same weights: W + alpha / r * up @ down, by ComfyUI's keys.
    merged = copy.deepcopy(model)
    state = {comfy_key(k): v for k, v in merged.state_dict().items()}
    for key in {k.rsplit(".", 2)[0] for k in tensors if "lora" in k}:
        pair = [tensors[f"{key}.lora_{part}.weight"].float() for part in ("up", "down")]
        scale = float(tensors[f"{key}.alpha"]) / len(pair[1])
        state[f"{key.removeprefix('diffusion_model.')}.weight"] += scale * pair[0] @ pair[1]
    with torch.no_grad():
        plain, expected = (m(*inputs).sample for m in (model, merged))
        WanPipeline.load_lora_into_transformer(WanPipeline.lora_state_dict(path), model)
        loaded = model(*inputs).sample
    assert float((loaded - plain).abs().max()) > 1e-3
    assert torch.allclose(loaded, expected, atol=1e-4)


def test_tuning_attention_changes_nothing_else(tmp_path, scenes):
    tune_embedded(tmp_path, scenes, "attention", 2)
    before = load_file(weights.folder() / "transformer.safetensors")
    after = load_file(tmp_path / "transformer.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all(".self_attn." in key for key in changed)
    assert {key.split(".")[3] for key in changed} == {"q", "k", "v", "o", "norm_q", "norm_k"}


@pytest.mark.slow
def test_samples_of_a_model_with_frozen_text_follow_their_captions(tmp_path, scenes, monkeypatch):
    """Those of validation scenes too, which training itself does not meet."""
    asked = []
    call = ViewTimePipeline.__call__

    def recorded(pipe, *args, **options):
        asked.append((pipe.text_encoder, options["prompt_embeds"]))
        return call(pipe, *args, **options)

    monkeypatch.setattr(ViewTimePipeline, "__call__", recorded)
    tune_embedded(tmp_path, scenes, "lora", 2, sample=True)
    assert read_image(tmp_path / "samples.png").shape[0] == 3
    assert asked and all(encoder is None and text.any() for encoder, text in asked)


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_other_architectures_train_by_one_flag_and_load_as_such(tmp_path, scenes, architecture):
    tune_embedded(tmp_path, scenes, "attention", 2, architecture)
    trained = load_file(tmp_path / "transformer.safetensors")
    base = load_file(weights.folder() / "transformer.safetensors")
    added = {key.split(".")[2] for key in set(trained) - set(base)}
    assert added == ({"view_time_sync"} if "parallel" in architecture else set())
    pipe = ViewTimePipeline.from_single_files(
        tmp_path / "transformer.safetensors",
        weights.folder() / "autoencoder.safetensors",
        weights.folder() / "text_encoder.safetensors",
    )
    assert pipe.config.architecture == architecture
    assert len(pipe.transformer.state_dict()) == len(trained)


@pytest.mark.slow
def test_a_share_of_the_weights_before_is_averaged_into_the_result(tmp_path, scenes):
    options = {"tune": "all", "steps": 2, "precision": "no"}
    for share in (0.0, 0.25):
        tune_embedded(tmp_path / str(share), scenes, start_share=share, **options)
    for name in ("transformer.safetensors", "text_encoder.safetensors"):
        before = load_file(weights.folder() / name)
        after, mixed = (load_file(tmp_path / str(share) / name) for share in (0.0, 0.25))
        moved = max(float((after[k].float() - before[k].float()).abs().max()) for k in before)
        assert moved > 1e-3
        for key, start in before.items():
            expected = 0.75 * after[key].float() + 0.25 * start.float()
            torch.testing.assert_close(mixed[key].float(), expected, rtol=2e-3, atol=1e-3 * moved)


def test_a_share_needs_weights_before(tmp_path, scenes):
    with pytest.raises(ValueError, match="leave out --start-share"):  # a LoRA has none
        tune_embedded(tmp_path / "run", scenes, start_share=0.5)
    with pytest.raises(ValueError, match="--start-share needs --start-from"):
        train_video(VideoConfig(loop_config(tmp_path / "run"), start_share=0.5))
