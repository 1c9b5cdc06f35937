"""`fourreal ablate`: variants are trained alike, for each seed, and compared on the same scenes."""

from dataclasses import replace

import pytest
import torch

from fourreal import weights
from fourreal.evaluation import ablations
from fourreal.evaluation.report import Report
from fourreal.reconstruction import load_model
from fourreal.training.train_reconstructor import start_model

from .small import small


def test_attention_is_tuned_alike_from_one_base_and_only_once_for_each_seed(monkeypatch, tmp_path):
    trained = []

    def train(config):
        trained.append(config)
        (config.loop.out / "transformer.safetensors").touch()
        if config.tune == "all":
            (config.loop.out / "text_encoder.safetensors").write_text("text")

    monkeypatch.setattr("fourreal.training.train_video.train_video", train)
    config = ablations.VideoAblation(seeds=(3, 5), folder=tmp_path, cache=tmp_path)
    folders = ablations.train_variants(config)
    base, *variants = trained
    assert base.start_from is None and base.grids == ("1x13",) and base.tune == "all"
    assert [v.loop.seed for v in variants] == [3] * 5 + [5] * 5
    assert [v.architecture for v in variants] == [*ablations.VARIANTS] * 2
    alike = [
        replace(v, architecture=None, loop=replace(v.loop, out=None, seed=0)) for v in variants
    ]
    assert all(v == alike[0] for v in alike)
    assert alike[0].tune == "attention" and alike[0].start_from == tmp_path / "base"
    assert alike[0].data == base.data and alike[0].grids == ("4x13",)
    outs = [v.loop.out for v in variants]
    assert [folders[name] for name in ablations.VARIANTS] == [
        list(o) for o in zip(outs[:5], outs[5:])
    ]
    assert all((out / "text_encoder.safetensors").read_text() == "text" for out in outs)
    assert ablations.train_variants(config) == folders and len(trained) == 11


def test_all_models_fill_the_same_scenes_from_the_same_noise(monkeypatch, tmp_path):
    calls = []

    def generate(model, sampling, index, caption, fixed_view, freeze_time):
        calls.append((model, index, caption, freeze_time is None))
        return torch.full((4, 5, 3, 16, 16), {"a": 0.5, "b": 0.6, "c": 0.5}[model])

    monkeypatch.setattr(ablations, "generate_grid", generate)
    monkeypatch.setattr(ablations, "video_model", lambda folder, device: folder.name)
    config = ablations.VideoAblation(**small(height=16, width=16, num_frames=5))
    folders = {"fused": [tmp_path / "a", tmp_path / "b"], "sequential": [tmp_path / "c"] * 2}
    results = ablations.score_variants(config, folders)
    assert [len(runs) for runs in results.values()] == [2, 2]
    for own in ("a", "b", "c"):
        told = [call[1:] for call in calls if call[0] == own]
        assert told == [call[1:] for call in calls if call[0] == "a"]
        assert [(index, alone) for index, _, alone in told] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    found = ablations.compare(config, results, ablations.VIDEO_SCORES)
    change = found["sequential"]["difference"]["both/generated/psnr"]
    first, second = (run["scores"]["both/generated/psnr"]["mean"] for run in results["fused"])
    assert change["runs"] == pytest.approx([0, first - second], abs=2e-3)


def test_sampling_is_compared_on_one_model(monkeypatch, tmp_path):
    def score(config):
        report = Report()
        names = (*ablations.SAMPLING_SCORES, *ablations.TEXT_SCORES)
        report.add(dict.fromkeys(names, float(config.num_inference_steps)))
        return report.finish(config)

    monkeypatch.setattr(ablations, "evaluate_video", score)
    monkeypatch.setattr(ablations, "evaluate_text", score)
    config = ablations.SamplingAblation(step_counts=(1, 4), guidance_scales=(2.5,), model=tmp_path)
    found = ablations.ablate_sampling(config)
    assert list(found) == ["1 steps", "4 steps", "guidance 2.5"]
    assert found["4 steps"]["difference"]["both/generated/psnr"]["mean"] == 3
    assert list(ablations.ablate_sampling(replace(config, guidance_scales=()))) == [
        "1 steps",
        "4 steps",
    ]
    assert list(ablations.ablate_sampling(replace(config, step_counts=()))) == ["guidance 2.5"]


def test_reconstructors_forget_time_and_are_trained_alike_for_each_seed(monkeypatch, tmp_path):
    trained = []

    def train(config):
        trained.append(config)
        config.loop.out.mkdir(parents=True)
        (config.loop.out / "reconstructor.safetensors").touch()

    monkeypatch.setattr(ablations, "train_reconstructor", train)
    config = ablations.ReconstructionAblation(folder=tmp_path, times=3, seeds=(1, 2))
    files = ablations.train_reconstructors(config)
    assert [(c.loop.seed, c.temporal) for c in trained] == [
        (seed, temporal) for seed in (1, 2) for temporal in ("token", "none")
    ]
    alike = [replace(c, temporal=None, loop=replace(c.loop, out=None, seed=0)) for c in trained]
    assert all(c == alike[0] for c in alike)
    assert (alike[0].fewest_views, alike[0].most_views, alike[0].num_times) == (2, 2, 3)
    assert files["none"] == [c.loop.out / "reconstructor.safetensors" for c in trained[1::2]]
    # The start is the embedded file but for its temporal layers, which begin anew.
    embedded, _ = load_model(weights.folder() / "reconstructor.safetensors")
    start = start_model(trained[0])
    assert embedded.aggregator.temporal_is_trained()
    assert not start.aggregator.temporal_is_trained()
    for name, value in start.state_dict().items():
        if not name.startswith("aggregator.temporal_blocks."):
            assert torch.equal(value, embedded.state_dict()[name]), name
    for source, copy in zip(start.aggregator.global_blocks, start.aggregator.temporal_blocks):
        assert torch.equal(source.attn.qkv.weight, copy.attn.qkv.weight)
    assert ablations.train_reconstructors(config) == files and len(trained) == 4


def test_reconstructions_are_scored_from_one_pair_and_from_another_at_each_time(
    monkeypatch, tmp_path
):
    scored = []

    def score(reconstructor, frames, pairs, replaced):
        assert frames.shape[:2] == (8, 3)
        scored.append((reconstructor.parent.name, tuple(pairs), replaced))
        return dict.fromkeys(ablations.RECONSTRUCTION_SCORES, 20.0)

    monkeypatch.setattr(ablations, "reconstruction_model", lambda file, device: file)
    monkeypatch.setattr(ablations, "score_pairs", score)
    config = ablations.ReconstructionAblation(
        **small(height=16, width=16, scenes=1), times=3, out=tmp_path / "a.json"
    )
    files = {t: [tmp_path / f"{t}-{n}" / "file" for n in (0, 1)] for t in ("token", "none")}
    monkeypatch.setattr(ablations, "train_reconstructors", lambda _: files)
    ablations.ablate_reconstruction(config)
    one, others = ((2, 6),) * 3, ((0, 4), (1, 5), (2, 6))
    assert scored == [
        *[(f"token-{n}", one, True) for n in (0, 1)],
        *[(f"token-{n}", one, False) for n in (0, 1)],
        *[(f"none-{n}", one, True) for n in (0, 1)],
        *[(f"token-{n}", others, False) for n in (0, 1)],
        *[(f"none-{n}", others, False) for n in (0, 1)],
    ]
    table = (tmp_path / "a.md").read_text()
    assert all(f"| {name} |" in table for name in ablations.RECONSTRUCTIONS)
    table = (tmp_path / "a_pairs.md").read_text()
    assert "| without temporal attention |" in table and "camera" not in table
