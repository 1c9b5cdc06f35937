"""The report of an evaluation: means with 95% intervals, as JSON and as a table."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fourreal.evaluation.examples import Evaluation
from fourreal.files.json_files import as_json, write_json, write_text

DECIMALS = 4  # of the values that are kept
# Student's t: half of a 95% interval in standard errors, of the mean of 2, 3, ... 10 runs.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


Values = list[float | None]


def mean_and_interval(values: Sequence[float | None]) -> dict[str, float | None]:
    """{"mean", "interval", "n"}: mean and 95% half-interval (1.96 standard errors) of the n finite
    values; mean and interval are None where there are none.

    A value that is None or not finite is one that does not exist, such as the PSNR of no pixels.
    """
    kept = torch.tensor([v for v in values if v is not None and math.isfinite(v)])
    if not len(kept):
        return {"mean": None, "interval": None, "n": 0}
    half = 1.96 * kept.std() / len(kept) ** 0.5 if len(kept) > 1 else torch.tensor(0.0)
    return {
        "mean": round(float(kept.mean()), 3),
        "interval": round(float(half), 3),
        "n": len(kept),
    }


def mean_over_runs(runs: list[Values]) -> dict[str, Any]:
    """mean_and_interval of a score of several training runs, runs[i] being that of each scene.

    Of one run it is that of its scenes. Of several, the mean of each scene over the runs counts,
    and the interval is of scenes and of runs: both half-intervals, the second by Student's t of the
    runs' means, are added as squares. "runs": the mean of each run.
    """
    found: dict[str, Any] = mean_and_interval(scene_means(runs))
    if len(runs) > 1 and found["n"]:
        means = torch.tensor([mean_and_interval(run)["mean"] for run in runs])
        half = STUDENT[min(len(runs), 10) - 2] * float(means.std()) / len(runs) ** 0.5
        found["interval"] = round(math.hypot(found["interval"], half), 3)
        found["runs"] = [round(mean, 3) for mean in means.tolist()]
    return found


def scene_means(runs: list[Values]) -> Values:
    """The mean of each scene over the runs, None where a run has none."""
    means: Values = []
    for values in zip(*runs, strict=True):
        kept = [v for v in values if v is not None]
        whole = len(kept) == len(values)
        means.append(round(sum(kept) / len(kept), DECIMALS) if whole else None)
    return means


class Report:
    """Scores by name, with one value for each scene (so that intervals are of scenes), NaN where a
    scene has none; `of_all`: scores that are one number for all scenes; `notes`: what else the file
    is to hold."""

    def __init__(self) -> None:
        self.scores: dict[str, list[float]] = {}
        self.of_all: dict[str, float] = {}
        self.notes: dict[str, Any] = {}

    def add(self, found: dict[str, float], prefix: str = "") -> None:
        """Append what was found to the lists of the same names."""
        for name, value in found.items():
            self.scores.setdefault(prefix + name, []).append(value)

    def result(self, config: Evaluation) -> dict[str, Any]:
        """{"settings", "scores", "values"}; values are those of each scene, for others to pair."""
        scores = {name: mean_and_interval(values) for name, values in self.scores.items()}
        for name, value in self.of_all.items():
            scores[name] = {"mean": round(value, 3), "interval": None, "n": None}
        return {
            "settings": as_json(asdict(config)),
            "scores": scores,
            "values": self.values(),
        } | self.notes

    def values(self) -> dict[str, Values]:
        """The scores of each scene, None where a scene has none."""
        return {
            name: [round(value, DECIMALS) if math.isfinite(value) else None for value in found]
            for name, found in self.scores.items()
        }

    def finish(self, config: Evaluation) -> dict[str, Any]:
        """The result, whose scores are printed as a table, and written where the config says."""
        result = self.result(config)
        scores, values = result["scores"], result["values"]
        rows = [f"| {name} | {cell(scores[name], len(found))} |" for name, found in values.items()]
        rows += [f"| {name} | {scores[name]['mean']:g} |" for name in self.of_all]
        print_and_write(
            config.out, result, ["| score | mean and 95% interval |", "|---|---|", *rows]
        )
        return result


def differences(values: Values, others: Values) -> Values:
    """The values less the others, None where one is missing."""
    pairs = zip(values, others, strict=True)
    return [None if a is None or b is None else a - b for a, b in pairs]


def cell(score: dict[str, Any], count: int, sign: str = "") -> str:
    """A score (of mean_and_interval or mean_over_runs, of `count` values) as "mean ± interval",
    followed by "(n of count)" where some values do not exist, and by the mean of each run where
    there are several. sign: "+" to show that of a positive mean, too."""
    existing = "" if score["n"] == count else f" ({score['n']} of {count})"
    if score["mean"] is None:
        return f"none{existing}"
    runs = ", ".join(f"{mean:{sign}g}" for mean in score.get("runs", ()))
    of_runs = f"; {runs}" if runs else ""
    return f"{score['mean']:{sign}g} ± {score['interval']:g}{existing}{of_runs}"


def print_and_write(out: Path | None, result: dict[str, Any], table: list[str]) -> None:
    """Print the lines of a table; write the result as JSON, and the table beside it (.md)."""
    text = "\n".join(table)
    print(text)
    if out is not None:
        write_json(out, result)
        write_text(out.with_suffix(".md"), text)


def compare(
    config: Evaluation, results: dict[str, list[dict]], columns: tuple[str, ...], suffix: str = ""
) -> dict[str, dict]:
    """A table with one row for each of the variants, and one column for each of the scores
    `columns` that they have; printed, and written where the config says, `suffix` added to the
    file's name.

    results: of Report.finish, by the variants' names, one for each training run of a variant (see
    mean_over_runs); the runs of all variants correspond. The rows after the first also tell by how
    much they differ from it, scene by scene and run by run. Without results there is no table.
    """
    if not results:
        return {}
    first = next(iter(results.values()))
    columns = tuple(c for c in columns if c in first[0]["values"])
    rows, variants = [], {}
    for name, own in results.items():
        runs = {c: [result["values"][c] for result in own] for c in columns}
        scores = {c: mean_over_runs(found) for c, found in runs.items()}
        values = {c: scene_means(found) for c, found in runs.items()}
        variants[name] = {"scores": scores, "values": values}
        cells = [cell(scores[c], len(values[c])) for c in columns]
        if own is not first:
            change = {}
            for c, found in runs.items():
                pairs = zip(found, (result["values"][c] for result in first), strict=True)
                change[c] = mean_over_runs([differences(*pair) for pair in pairs])
            variants[name]["difference"] = change
            cells = [
                f"{text} ({cell(change[c], len(values[c]), '+')})"
                for text, c in zip(cells, columns)
            ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    header = [f"| variant | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    out = config.out and config.out.with_stem(config.out.stem + suffix)
    result = {"settings": as_json(asdict(config)), "variants": variants}
    print_and_write(out, result, header + rows)
    return variants
