"""Means, intervals and how many values they are of; tables and JSON."""

import json
import math

import pytest
import torch

from fourreal.evaluation.examples import Evaluation
from fourreal.evaluation.report import (
    STUDENT,
    Report,
    compare,
    mean_and_interval,
    mean_over_runs,
)


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
        results[name] = [report.finish(Evaluation())]
    capsys.readouterr()
    compare(Evaluation(out=tmp_path / "ablation.json"), results, ("psnr", "depth"), "_steps")
    kept = json.loads((tmp_path / "ablation_steps.json").read_text())["variants"]
    assert kept["fused"]["scores"] == {"psnr": {"mean": 22.0, "interval": 3.92, "n": 2}}
    assert kept["fused"]["values"] == {"psnr": [20.0, 24.0]}
    assert kept["other"]["difference"] == {"psnr": {"mean": -1.5, "interval": 0.98, "n": 2}}
    table = (tmp_path / "ablation_steps.md").read_text()
    assert "| other | 20.5 ± 2.94 (-1.5 ± 0.98) |" in table and table == capsys.readouterr().out


def test_runs_are_averaged_scene_by_scene_and_their_own_spread_widens_the_interval(capsys):
    runs = [[20.0, 24.0, None], [21.0, 25.0, 30.0], [22.0, 26.0, 30.0]]
    found = mean_over_runs(runs)
    assert found["mean"] == 23 and found["n"] == 2  # of the third scene one run is missing
    assert found["runs"] == [22.0, 25.333, 26.0]
    assert mean_over_runs(runs[:1]) == mean_and_interval(runs[0])
    # Scenes of 21 and 25; runs of 22, 25.333 and 26, of which t with 2 degrees of freedom is 4.303.
    spread = math.sqrt(sum((m - 73.333 / 3) ** 2 for m in found["runs"]) / 2)
    expected = math.hypot(1.96 * 8**0.5 / 2**0.5, 4.303 * spread / 3**0.5)
    assert found["interval"] == pytest.approx(expected, abs=2e-3)
    # A difference is one of equal runs: what a seed does to both goes out.
    others = [[19.0, 23.0], [18.0, 22.0], [17.5, 21.5]]
    results = {
        name: [{"values": {"psnr": run}} for run in own]
        for name, own in (("full", others), ("more", [[a + 1, b + 2] for a, b in others]))
    }
    change = compare(Evaluation(), results, ("psnr",))["more"]["difference"]["psnr"]
    assert change == {"mean": 1.5, "interval": 0.98, "n": 2, "runs": [1.5, 1.5, 1.5]}
    assert "(+1.5 ± 0.98; +1.5, +1.5, +1.5)" in capsys.readouterr().out


@pytest.mark.parametrize(("freedom", "t"), list(enumerate(STUDENT, start=1)))
def test_95_percent_of_students_distribution_lie_within(freedom, t):
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64) * t
    density = (1 + x.square() / freedom) ** (-(freedom + 1) / 2)
    norm = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    assert 2 * norm * float(torch.trapezoid(density, x)) == pytest.approx(0.95, abs=1e-4)


def test_a_comparison_without_results_is_no_table(tmp_path, capsys):
    assert compare(Evaluation(out=tmp_path / "none.json"), {}, ("psnr",)) == {}
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out
