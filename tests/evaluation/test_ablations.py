"""`fourreal ablate`: variants are trained alike, once, and compared on one model."""

from dataclasses import replace

from fourreal.data.clips import find_clips
from fourreal.evaluation import ablations
from fourreal.evaluation.report import Report

from .small import small


def test_variants_are_trained_alike_from_one_base_and_only_once(monkeypatch, tmp_path):
    trained, scored = [], []

    def train(config):
        trained.append(config)
        (config.loop.out / "transformer.safetensors").touch()

    def score(config):
        scored.append(config)
        report = Report()
        report.add(dict.fromkeys(ablations.VIDEO_SCORES, 20.0))
        return report.finish(config)

    monkeypatch.setattr("fourreal.training.train_video.train_video", train)
    monkeypatch.setattr(ablations, "evaluate_video", score)
    monkeypatch.setattr(ablations, "PSEUDO_4D_VIDEOS", 1)
    config = ablations.VideoAblation(
        **small(height=16, width=16),
        folder=tmp_path,
        cache=tmp_path,
        training_scenes=3,
        out=tmp_path / "video.json",
    )
    ablations.ablate_video(config)
    base, *variants = trained
    assert base.start_from is None and base.grids == ("1x13",)
    assert [v.architecture for v in variants] == [*ablations.VARIANTS[:-1], "fused"]
    alike = [
        replace(v, architecture=None, data=None, loop=replace(v.loop, out=None)) for v in variants
    ]
    assert all(v == alike[0] and v.start_from == tmp_path / "base" for v in alike)
    data = [v.data for v in variants]
    assert all(d == base.data for d in data[:-1]) and data[-1].videos == (tmp_path / "videos",)
    assert not find_clips("video", tmp_path / "videos", 1, 13, None)[1]
    assert [c.model.name for c in scored] == list(ablations.VARIANTS)
    assert all(replace(c, model=None) == replace(scored[0], model=None) for c in scored)
    ablations.ablate_video(config)
    assert len(trained) == 1 + len(ablations.VARIANTS)


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


def test_reconstructions_are_trained_alike_and_scored_with_and_without_replacement(
    monkeypatch, tmp_path
):
    trained, scored = [], []

    def train(config):
        trained.append(config)
        config.loop.out.mkdir(parents=True)
        (config.loop.out / "reconstructor.safetensors").touch()

    def score(reconstructor, frames, replaced):
        assert frames.shape[:2] == (8, 3)
        scored.append((reconstructor.parent.name, replaced))
        return dict.fromkeys(ablations.RECONSTRUCTION_SCORES, 20.0)

    monkeypatch.setattr(ablations, "train_reconstructor", train)
    monkeypatch.setattr(ablations, "reconstruction_model", lambda file, device: file)
    monkeypatch.setattr(ablations, "score_times", score)
    config = ablations.ReconstructionAblation(
        **small(height=16, width=16, scenes=1), folder=tmp_path, times=3, out=tmp_path / "a.json"
    )
    ablations.ablate_reconstruction(config)
    with_layers, without = trained
    assert (with_layers.temporal, without.temporal) == ("token", "none")
    assert replace(with_layers, temporal=None, loop=None) == replace(
        without, temporal=None, loop=None
    )
    token, none = "reconstructor-token", "reconstructor-none"
    assert scored == [(token, True), (token, False), (none, True)]
    table = (tmp_path / "a.md").read_text()
    assert all(f"| {name} |" in table for name in ablations.RECONSTRUCTIONS)
