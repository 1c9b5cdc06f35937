"""Means, intervals and how many values they are of; tables and JSON."""

import json

import pytest

from fourreal.evaluation.examples import Evaluation
from fourreal.evaluation.report import Report, compare, mean_and_interval


def test_intervals_are_those_of_the_mean_of_the_values_that_exist():
    found = mean_and_interval([1.0, 2.0, 3.0, 6.0, float("inf"), float("nan")])
    assert found["mean"] == 3 and found["n"] == 4
    assert found["interval"] == pytest.approx(1.96 * 4.6667**0.5 / 2, 1e-3)
    assert mean_and_interval([5.0]) == {"mean": 5.0, "interval": 0.0, "n": 1}
    assert mean_and_interval([None, float("nan")]) == {"mean": None, "interval": None, "n": 0}


def test_a_report_is_written_as_json_and_as_a_table(tmp_path, capsys):
    out = Report()
    out.add({"psnr": 20.0}, "both/")
    out.add({"psnr": 22.0}, "both/")
    out.of_all = {"both/fvd": 12.34567}
    out.finish(Evaluation(out=tmp_path / "new" / "scores.json"))
    kept = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert kept["scores"] == {
        "both/psnr": {"mean": 21.0, "interval": 1.96, "n": 2},
        "both/fvd": {"mean": 12.346, "interval": None, "n": None},
    }
    assert kept["values"] == {"both/psnr": [20.0, 22.0]}  # for others to pair
    assert kept["settings"]["split"] == "test"
    table = (tmp_path / "new" / "scores.md").read_text()
    assert "| both/psnr | 21 ± 1.96 |\n| both/fvd | 12.346 |\n" in table
    assert table == capsys.readouterr().out


def test_a_table_says_where_a_score_is_not_of_all_scenes(capsys):
    out = Report()
    for psnr, shown in ((20.0, float("nan")), (22.0, 1.0), (float("inf"), float("nan"))):
        out.add({"psnr": psnr, "shown": shown, "never": float("nan"), "ssim": 0.5})
    scores = out.finish(Evaluation())["scores"]
    assert [score["n"] for score in scores.values()] == [2, 1, 0, 3]
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| psnr | 21 ± 1.96 (2 of 3) |",
        "| shown | 1 ± 0 (1 of 3) |",
        "| never | none (0 of 3) |",
        "| ssim | 0.5 ± 0 |",
    ]


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
    assert kept["fused"]["scores"] == {"psnr": {"mean": 22.0, "interval": 3.92, "n": 2}}
    assert kept["fused"]["values"] == {"psnr": [20.0, 24.0]}
    assert kept["other"]["difference"] == {"psnr": {"mean": -1.5, "interval": 0.98, "n": 2}}
    table = (tmp_path / "ablation_steps.md").read_text()
    assert "| other | 20.5 ± 2.94 (-1.5 ± 0.98) |" in table and table == capsys.readouterr().out


def test_a_comparison_without_results_is_no_table(tmp_path, capsys):
    assert compare(Evaluation(out=tmp_path / "none.json"), {}, ("psnr",)) == {}
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out
