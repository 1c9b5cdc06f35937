"""The model card's tables, made of the score files: `python -m tests.evaluation.card_tables`.

A table stands in the card between `<!-- table: NAME -->` and `<!-- table end -->`; NAME is a key of
TABLES. What is between is made anew.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from fourreal import weights
from fourreal.evaluation.evaluate_warp import GEOMETRIES
from fourreal.evaluation.report import differences, mean_and_interval

CARD = weights.folder() / "README.md"
PLACE = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- table end -->", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """Rows (words, name in the file) and columns (words, name of the score, decimals) of a score
    file; of a percentage the decimals are negative, from -1 for none.

    Of a file that compares variants a row is a variant, and with `changes` its difference from the
    first row stands in brackets.
    """

    file: str
    first: str
    rows: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str, int], ...]
    changes: bool = False


DB = 2
PSNR = (("PSNR", "psnr", DB), ("SSIM", "ssim", 3))
BLURRED = tuple(
    (f"exact, blurred by {sigma} {unit}", f"exact_blurred_{sigma}")
    for sigma, unit in ((1, "pixel"), (2, "pixels"))
)
GIVEN = (
    ("both references", "both"),
    ("the fixed view", "fixed_view"),
    ("freeze time", "freeze_time"),
)
ABLATED = (
    ("both: PSNR", "both/generated_full", DB),
    ("both: moving region", "both/generated_moving", DB),
)
SAMPLED = tuple((f"{steps}", f"{steps} steps") for steps in (1, 4, 8, 16, 40))
FILLED = (
    ("generated from the fixed view, without geometry", "fixed view"),
    ("the same, known pixels pasted", "fixed view, pasted"),
    ("warped, holes in the mean colour", "mean colour"),
    ("warped, VACE at view strength 0", "strength 0"),
    ("warped, VACE at view strength 1", "strength 1"),
    *BLURRED,
)
WARPED = (
    ("PSNR of known pixels", "psnr_known", DB),
    ("of missing ones", "psnr_missing", DB),
    ("whole frame", "psnr", DB),
    ("moving region", "psnr_moving", DB),
    ("parallax right", "parallax_right", -1),
    ("gradient energy", "gradient_energy", 2),
)
HELD_OUT = (
    ("from Gaussians, all cameras predicted together", "together"),
    ("from Gaussians, the inputs' cameras from them alone", "inputs_alone"),
    ("best of both neighbours and their mean, without a model", "best_copy"),
    ("a copy of the first input", "still_copy"),
    *BLURRED,
)
HELD_OUT_SCORES = (
    *PSNR,
    ("sharpness", "sharpness", 2),
    ("relative depth error", "depth_relative_error", 3),
    ("rotation error, degrees", "rotation_error_degrees", DB),
)
VIDEO = (
    *PSNR,
    ("PSNR of the moving region", "psnr_moving", DB),
    ("over the better copy there", "gain_on_moving", DB),
    ("parallax right", "parallax_right", -1),
    ("sharpness", "sharpness", 2),
)
FULL = ("full", "full")
WITHOUT_TIME = ("without temporal attention",) * 2
PAIRS = (
    ("held-out PSNR", "held_out_psnr", DB),
    ("moving region", "held_out_psnr_moving", DB),
    ("SSIM", "held_out_ssim", 3),
)
TABLES: dict[str, Table] = {
    "video": Table(
        "video",
        "given",
        (
            *((words, f"{name}/generated") for words, name in GIVEN),
            ("copies: one view in all views", "one_view"),
            ("the first time at all times", "first_time"),
            ("the mean image", "mean_image"),
            ("one cell in all cells", "still_copy"),
            *BLURRED,
        ),
        VIDEO,
    ),
    "video_128": Table(
        "video_128",
        "given, at 128 pixels",
        (
            *(
                (f"{words}{more}", f"{name}/{row}")
                for words, name in GIVEN[:2]
                for more, row in ((", carried", "carried"), (", enlarged alone", "generated"))
            ),
            ("copies: one view in all views", "one_view"),
            ("the first time at all times", "first_time"),
            *BLURRED,
            ("exact, blurred by 2.5 pixels", "exact_blurred_2.5"),
        ),
        VIDEO,
    ),
    **{
        f"warp_{geometry}": Table(f"warp_{geometry}", "", FILLED, WARPED, changes=True)
        for geometry in GEOMETRIES
    },
    "text": Table(
        "text",
        "",
        (
            ("generated", "generated"),
            ("exact", "exact"),
            *BLURRED,
            ("exact grid of the training scene with the nearest caption", "nearest_training_scene"),
            ("one view in all views", "one_view"),
            ("one cell in all cells", "still_copy"),
            ("squares of the colours on grey", "colored_squares"),
        ),
        (
            ("prompt right", "prompt", -1),
            ("new prompts right", "new_prompt", -1),
            ("objects found", "found", -1),
            ("their shape", "shape", -1),
            ("their motion", "motion", -1),
            ("sharpness", "sharpness", 2),
        ),
    ),
    "reconstruction": Table("reconstruction", "held-out views", HELD_OUT, HELD_OUT_SCORES),
    "pipeline": Table(
        "pipeline",
        "Gaussians from",
        (
            ("the generated grid, with what the references show", "carried"),
            ("the generated grid alone", "generated"),
            ("the references alone", "references"),
            ("the exact grid (bound)", "exact"),
            ("none: the mean of both neighbours' photos", "mean_of_neighbours"),
            ("none: a copy of the first photo", "still_copy"),
            *BLURRED,
        ),
        (
            ("held-out PSNR", "psnr", DB),
            ("SSIM", "ssim", 3),
            ("PSNR of the moving region", "psnr_moving", DB),
        ),
    ),
    "ablation_video": Table(
        "ablation_video",
        "",
        (
            ("fused, positions v T_max + f (ours, the paper's)", "fused"),
            ("fused, positions v + f", "fused-sum"),
            ("sequential", "sequential"),
            ("parallel, hard synchronisation", "parallel-hard"),
            ("parallel, soft synchronisation", "parallel-soft"),
        ),
        (
            ("both: PSNR", "both/generated/psnr", DB),
            ("both: moving region", "both/generated/psnr_moving", DB),
            ("both: parallax right", "both/generated/parallax_right", -2),
            ("fixed view: PSNR", "fixed_view/generated/psnr", DB),
            ("fixed view: moving region", "fixed_view/generated/psnr_moving", DB),
        ),
        changes=True,
    ),
    "ablation_reconstruction": Table(
        "ablation_reconstruction",
        "one pair of views",
        (FULL, ("without camera token replacement",) * 2, WITHOUT_TIME),
        (*PAIRS, ("flicker of still pixels", "flicker", 2)),
        changes=True,
    ),
    "ablation_reconstruction_pairs": Table(
        "ablation_reconstruction_pairs",
        "another pair at each time",
        (FULL, WITHOUT_TIME),
        PAIRS,
        changes=True,
    ),
    "ablation_sampling": Table("ablation_sampling", "steps", SAMPLED, ABLATED, changes=True),
}


def score_file(name: str) -> dict[str, Any]:
    """The content of scores/NAME.json."""
    return json.loads((weights.folder() / "scores" / f"{name}.json").read_text("utf-8"))


def score(file: str, key: str) -> dict:
    """{"mean", "interval"} of a key of scores/{file}.json, or of "key - other key", scene by scene,
    or of variant>key or variant>key>change, the difference from the first variant."""
    content = score_file(file)
    if " - " in key:
        return mean_and_interval(differences(*(content["values"][k] for k in key.split(" - "))))
    variant, _, rest = key.partition(">")
    if not rest:
        return content["scores"][key]
    name, _, change = rest.partition(">")
    return content["variants"][variant]["difference" if change else "scores"][name]


def number(score: dict[str, Any], decimals: int, sign: str = "") -> str:
    """A score as "mean ± interval", of a share in percent."""
    factor, places, unit = (100, -1 - decimals, "%") if decimals < 0 else (1, decimals, "")
    mean = f"{factor * score['mean']:{sign}.{places}f}"
    half = score.get("interval")
    return mean + unit if half is None else f"{mean} ± {factor * half:.{places}f}{unit}"


def cell(content: dict[str, Any], table: Table, row: str, key: str, decimals: int) -> str:
    """What stands in a cell: nothing where a row has no such score."""
    if "variants" not in content:
        found = content["scores"].get(f"{row}/{key}")
        return "" if found is None or found["mean"] is None else number(found, decimals)
    variant = content["variants"][row]
    found, text = variant["scores"][key], number(variant["scores"][key], decimals)
    if not table.changes or row == table.rows[0][1] or found["mean"] is None:
        return text
    return f"{text} ({number(variant['difference'][key], decimals, '+')})"


def markdown(name: str) -> str:
    """A table of the card."""
    table, content = TABLES[name], score_file(TABLES[name].file)
    lines = [[table.first, *(words for words, _, _ in table.columns)]]
    for words, row in table.rows:
        lines.append([words, *(cell(content, table, row, *c[1:]) for c in table.columns)])
    text = [f"|{'|'.join(f' {words} ' if words else ' ' for words in line)}|" for line in lines]
    return "\n".join([text[0], "|---" * len(lines[0]) + "|", *text[1:]]) + "\n"


def with_tables(card: str) -> str:
    """The card with its tables made anew."""
    return PLACE.sub(lambda m: f"<!-- table: {m[1]} -->\n{markdown(m[1])}<!-- table end -->", card)


if __name__ == "__main__":
    CARD.write_text(with_tables(CARD.read_text("utf-8")), "utf-8")
