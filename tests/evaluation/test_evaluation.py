"""Metrics against what is known of exact scenes, and every protocol run on a small case."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fourreal import weights
from fourreal.cli import main
from fourreal.data.clips import find_clips, read_window
from fourreal.evaluation import ablations
from fourreal.evaluation import evaluate_video as video
from fourreal.evaluation.evaluate_video import moving_region, score_colors, score_video
from fourreal.evaluation.report import Evaluation, Report, compare, examples, mean_and_interval
from fourreal.files.media import read_image, write_image, write_video
from fourreal.metrics.pixels import color_shares, psnr, smoothness, ssim, view_consistency
from fourreal.scenes import make_scene, scene_seed

SIZE = 48


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("validation", 2), 4, 5, SIZE, SIZE)


def geometry(scene):
    return scene.depth, scene.extrinsics, scene.intrinsics


def test_exact_views_agree_and_shifted_ones_do_not(scene):
    exact = view_consistency(scene.frames, *geometry(scene))
    assert exact > 27  # pixels are interpolated
    shifted = scene.frames.clone()
    shifted[1] = shifted[1].roll(3, -1)
    assert view_consistency(shifted, *geometry(scene)) < exact - 3
    flat = torch.full_like(scene.frames, 0.5)
    flat[::2] += 0.1
    assert view_consistency(flat, *geometry(scene)) == pytest.approx(20, abs=1e-3)


def test_smoothness_is_of_the_axis_asked_for():
    frames = torch.zeros(3, 4, 3, 16, 16)
    frames[1] = 0.2
    assert smoothness(frames, 1) == pytest.approx(100)
    assert smoothness(frames, 0) == pytest.approx(80)


def test_colours_are_those_of_the_caption():
    """On exact scenes every named colour is found, and hardly any other."""
    named, others = [], []
    for index in range(8):
        scene = make_scene(scene_seed("validation", index), 2, 2, 64, 64)
        for color, share in color_shares(scene.frames).items():
            (named if color in scene.caption.split() else others).append(float(share.min()))
        assert score_colors(scene.frames, scene.caption).get("prompts", 1.0) == 1.0
    assert len(named) > 5 and min(named) > 0.004 > max(others)


def test_a_missing_object_is_noticed(scene):
    grey = scene.frames.mean(2, keepdim=True).expand_as(scene.frames)
    assert score_colors(grey, "a red ball and a blue box")["colors"] == 0
    red = grey.clone()
    red[..., 10:20, 10:20] = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    found = score_colors(red, "a red ball and a blue box")
    assert (found["colors"], found["prompts"]) == (0.5, 0.0)
    assert score_colors(red, "a ball") == {}


def test_scores_of_a_video_compare_with_both_copies(scene):
    exact = scene.frames
    scores = score_video(exact, exact)
    assert scores["generated_full"] == 60 and scores["generated_ssim"] == pytest.approx(1, abs=1e-4)
    copy = score_video(exact[:1].expand_as(exact), exact)
    assert copy["generated_full"] == copy["fixed_view_copy_full"] < 30
    assert copy["gain_on_moving"] <= 0
    region = moving_region(exact)
    assert not region[:, 0].any() and region[:, 1:].any()
    assert region[scene.moving & (exact - exact[:, :1]).abs().amax(2).gt(0.06)].all()


def test_intervals_are_those_of_the_mean():
    values = [1.0, 2.0, 3.0, 6.0, float("inf"), float("nan")]
    found = mean_and_interval(values)
    assert found["mean"] == 3 and found["interval"] == pytest.approx(1.96 * 4.6667**0.5 / 2, 1e-3)


def test_a_report_is_written_as_json_and_as_a_table(tmp_path, capsys):
    out = Report()
    out.add({"psnr": 20.0}, "both/")
    out.add({"psnr": 22.0}, "both/")
    out.finish(Evaluation(out=tmp_path / "new" / "scores.json"))
    kept = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert kept["scores"] == {"both/psnr": {"mean": 21.0, "interval": 1.96}}
    assert kept["settings"]["split"] == "test"
    line = "| both/psnr | 21 ± 1.96 |"
    assert line in (tmp_path / "new" / "scores.md").read_text() and line in capsys.readouterr().out


def test_variants_are_compared_scene_by_scene(tmp_path, capsys):
    results = {}
    for name, values in (("fused", [20.0, 24.0]), ("other", [19.0, 22.0])):
        report = Report()
        for value in values:
            report.add({"psnr": value, "ssim": 0.5})
        results[name] = report.finish(Evaluation())
    capsys.readouterr()
    compare(Evaluation(out=tmp_path / "ablation.json"), results, ("psnr",), "_steps")
    kept = json.loads((tmp_path / "ablation_steps.json").read_text())["variants"]
    assert kept["fused"] == {"scores": {"psnr": {"mean": 22.0, "interval": 3.92}}}
    assert kept["other"]["difference"] == {"psnr": {"mean": -1.5, "interval": 0.98}}
    table = (tmp_path / "ablation_steps.md").read_text()
    assert "| other | 20.5 ± 2.94 (-1.5 ± 0.98) |" in table and table == capsys.readouterr().out


# --- the protocols, with models that know the answer ---------------------------------------------


def small(**options):
    return {"scenes": 2, "split": "validation", "height": SIZE, "width": SIZE, **options}


def test_a_perfect_video_model_scores_perfectly(monkeypatch, tmp_path):
    exact = [make_scene(scene_seed("validation", i), 3, 5, SIZE, SIZE).frames for i in range(2)]
    asked = []

    def pipeline(caption, fixed_view=None, freeze_time=None, generator=None, **_):
        asked.append((fixed_view is not None, freeze_time is not None))
        return SimpleNamespace(frames=exact[generator.initial_seed()])

    monkeypatch.setattr(video, "video_model", lambda folder: pipeline)
    montage = tmp_path / "references.png"
    config = video.VideoEvaluation(**small(num_views=3, num_frames=5, montage=montage))
    scores = video.evaluate_video(config)["scores"]
    halves = read_image(montage).split([5 * (SIZE + 2) - 2, 6, 5 * (SIZE + 2) - 2], -1)
    assert torch.equal(halves[0], halves[2]) and (halves[1] == 1).all() and len(halves[0][0]) > SIZE
    assert asked == [(True, True), (True, False), (False, True)] * 2
    for given in video.REFERENCES:
        assert scores[f"{given}/generated_full"] == {"mean": 60, "interval": 0}
        assert (
            scores[f"{given}/generated_view_consistency"]
            == scores[f"{given}/exact_view_consistency"]
        )
    with pytest.raises(ValueError, match="'rows' was given"):
        video.evaluate_video(video.VideoEvaluation(references=("rows",)))


def test_the_autoencoder_is_scored():
    config = video.AutoencoderEvaluation(**small(scenes=1, num_views=2, num_frames=5))
    scores = video.evaluate_autoencoder(config)["scores"]
    assert 24 < scores["psnr"]["mean"] < 50 and 0.8 < scores["ssim"]["mean"] < 1


def test_text_is_scored_beside_the_exact_scene(monkeypatch, tmp_path):
    def pipeline(prompt, num_views, num_frames, **_):
        return SimpleNamespace(frames=torch.full((num_views, num_frames, 3, SIZE, SIZE), 0.5))

    monkeypatch.setattr(video, "video_model", lambda folder: pipeline)
    config = video.TextEvaluation(**small(scenes=1, num_views=2, num_frames=5, times=2))
    scores = video.evaluate_text(config)["scores"]
    assert scores["exact/shown_prompts"]["mean"] == 1
    assert scores["generated/shown_prompts"]["mean"] == 0
    assert scores["exact/reconstructed_psnr"]["mean"] > 15
    config.prompts, config.montage = ("a red ball", "a blue box"), tmp_path / "montage.png"
    assert "exact/shown_prompts" not in video.evaluate_text(config)["scores"]
    montage = read_image(config.montage)
    cell = montage[:, : 2 * (SIZE + 2) + 6, : 4 * (SIZE + 2) + 6]
    assert montage.shape == (3, cell.shape[1], 4 * cell.shape[2])
    # Grey cells with white between them; two prompts are given, and two places are left white.
    assert (cell == 1).all(0).any() and cell[:, 5, 5].mean().sub(0.5).abs() < 0.01
    assert torch.equal(montage[..., cell.shape[2] : 2 * cell.shape[2]], cell)
    assert (montage[..., 2 * cell.shape[2] :] == 1).all()


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

    monkeypatch.setattr(ablations, "train_video", train)
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
    assert all(d == base.data for d in data[:-1]) and data[-1].video == (tmp_path / "videos",)
    assert not find_clips("video", tmp_path / "videos", 1, 13, None)[1]
    assert [c.video.name for c in scored] == list(ablations.VARIANTS)
    assert all(replace(c, video=None) == replace(scored[0], video=None) for c in scored)
    ablations.ablate_video(config)
    assert len(trained) == 1 + len(ablations.VARIANTS)
    with pytest.raises(ValueError, match="'spare' was given"):
        ablations.ablate_video(replace(config, variants=("spare",)))


def test_sampling_is_compared_on_one_model(monkeypatch, tmp_path):
    def score(config):
        report = Report()
        names = (*ablations.SAMPLING_SCORES, *ablations.TEXT_SCORES)
        report.add(dict.fromkeys(names, float(config.steps)))
        return report.finish(config)

    monkeypatch.setattr(ablations, "evaluate_video", score)
    monkeypatch.setattr(ablations, "evaluate_text", score)
    config = ablations.SamplingAblation(step_counts=(1, 4), guidances=(2.5,), video=tmp_path)
    found = ablations.ablate_sampling(config)
    assert list(found) == ["1 steps", "4 steps", "guidance 2.5"]
    assert found["4 steps"]["difference"]["both/generated_full"]["mean"] == 3
    assert list(ablations.ablate_sampling(replace(config, guidances=()))) == ["1 steps", "4 steps"]
    assert list(ablations.ablate_sampling(replace(config, step_counts=()))) == ["guidance 2.5"]


# --- clips instead of procedural scenes -----------------------------------------------------------


def test_nvidia_dynamic_lays_its_frames_out_by_time(tmp_path):
    frames = torch.rand(3, 4, 3, 20, 24)
    for view in range(3):
        for time in range(4):
            path = tmp_path / "Balloon1-2" / "mv_images" / f"{time:05d}" / f"cam{view + 1:02d}.png"
            write_image(path, frames[view, time])
    clips, problems = find_clips("multiview", tmp_path, 3, 4, "a balloon")
    assert not problems and len(clips) == 1 and len(clips[0].views) == 3
    found = torch.stack([read_window(view, 1, 3) for view in clips[0].views])
    torch.testing.assert_close(found, frames[:, 1:], atol=1 / 254, rtol=0)


def test_clips_take_the_place_of_scenes(tmp_path):
    for view in range(3):
        write_video(tmp_path / "scene" / f"cam{view}.mp4", torch.rand(5, 3, 32, 48), 8.0)
    config = Evaluation(num_views=3, num_frames=5, data=tmp_path, height=32, width=32)
    (example,) = examples(config)
    assert example.frames.shape == (3, 5, 3, 32, 32) and example.scene is None
    with pytest.raises(ValueError, match="has 3 views, but 12 are needed"):
        next(examples(replace(config, num_views=12)))
    with pytest.raises(ValueError, match="scenes is 0"):
        next(examples(Evaluation(scenes=0)))


def test_bad_evaluations_end_in_one_sentence(tmp_path, capsys):
    assert main(["evaluate", "video", "--data", str(tmp_path)]) == 2
    assert "holds no videos" in capsys.readouterr().err
    assert main(["evaluate", "split", "--data", str(tmp_path)]) == 2
    assert "needs exact depth" in capsys.readouterr().err
    assert main(["evaluate", "text", "--reconstructor", str(tmp_path / "x.safetensors")]) == 2
    assert "x.safetensors" in capsys.readouterr().err
    assert main(["evaluate"]) == 0
    assert "text | reconstruction | pipeline | split" in capsys.readouterr().out


def test_ssim_and_psnr_of_equal_images():
    images = torch.rand(2, 2, 3, 16, 16)
    assert ssim(images, images) == pytest.approx(1, abs=1e-4)
    assert psnr(images, images + 0.1) == pytest.approx(20, abs=1e-3)


def test_the_numbers_in_the_readme_and_the_card_are_those_of_the_scores():
    """Every "mean ± interval" is in a file that an evaluation wrote, as rounded there."""
    scores = []

    def collect(value):
        if isinstance(value, dict) and set(value) == {"mean", "interval"}:
            scores.append((value["mean"], value["interval"]))
        elif isinstance(value, dict):
            for part in value.values():
                collect(part)

    for path in (weights.folder() / "scores").glob("*.json"):
        collect(json.loads(path.read_text()))
    root = Path(__file__).parents[2]
    found = []
    for page in (root / "README.md", weights.folder() / "README.md"):
        found += re.findall(r"(-?\+?\d+(?:\.\d+)?) ± (\d+(?:\.\d+)?)(%?)", page.read_text())
    assert len(found) > 30
    for mean, half, percent in found:
        unit, places = 100 if percent else 1, len(mean.partition(".")[2])
        # A rounded score rounds again: 2.5045 is 2.504 in the file, 2.50 in the text.
        within = 0.5 * 10**-places + 0.001 * unit
        assert any(
            abs(unit * m - float(mean)) <= within and abs(unit * i - float(half)) <= within
            for m, i in scores
        ), f"{mean} ± {half}{percent} is in no scores"


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
    monkeypatch.setattr(ablations, "reconstruction_model", lambda file: file)
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
