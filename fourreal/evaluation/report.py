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


def differences(pairs: list[tuple[float | None, float | None]]) -> list[float]:
    """The first less the second of pairs that are both there."""
    return [a - b for a, b in pairs if a is not None and b is not None]


def cell(score: dict[str, Any], count: int, sign: str = "") -> str:
    """A score (of mean_and_interval, of `count` values) as "mean ± interval", followed by "(n of
    count)" where some values do not exist. sign: "+" to show that of a positive mean, too."""
    existing = "" if score["n"] == count else f" ({score['n']} of {count})"
    if score["mean"] is None:
        return f"none{existing}"
    return f"{score['mean']:{sign}g} ± {score['interval']:g}{existing}"


def print_and_write(out: Path | None, result: dict[str, Any], table: list[str]) -> None:
    """Print the lines of a table; write the result as JSON, and the table beside it (.md)."""
    text = "\n".join(table)
    print(text)
    if out is not None:
        write_json(out, result)
        write_text(out.with_suffix(".md"), text)


def compare(
    config: Evaluation, results: dict[str, dict], columns: tuple[str, ...], suffix: str = ""
) -> dict[str, dict]:
    """A table with one row for each of the variants' results (of Report.finish, by name), and one
    column for each of the scores `columns`; printed, and written where the config says, `suffix`
    added to the file's name.

    The rows after the first also tell by how much they differ from it, scene by scene. Without
    results there is no table.
    """
    if not results:
        return {}
    first = next(iter(results.values()))
    rows, variants = [], {}
    for name, result in results.items():
        kept = {key: {c: result[key][c] for c in columns} for key in ("scores", "values")}
        variants[name] = kept
        cells = [cell(result["scores"][c], len(result["values"][c])) for c in columns]
        if result is not first:
            pairs = {c: list(zip(result["values"][c], first["values"][c])) for c in columns}
            change = {c: mean_and_interval(differences(both)) for c, both in pairs.items()}
            variants[name]["difference"] = change
            cells = [
                f"{own} ({cell(change[c], len(pairs[c]), '+')})" for own, c in zip(cells, columns)
            ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    header = [f"| variant | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    out = config.out and config.out.with_stem(config.out.stem + suffix)
    result = {"settings": as_json(asdict(config)), "variants": variants}
    print_and_write(out, result, header + rows)
    return variants
