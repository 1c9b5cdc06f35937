"""Every score in README, docs and model card is what its evaluation wrote, as rounded there.

A sentence is a claim: a text with {} for each number, and where each number stands in the score
files. Numbers of a table belong to the keys of its row. A number with a unit that belongs to no
claim fails the test, so a new sentence needs a claim.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fourreal import weights

ROOT = Path(__file__).parents[2]
README, LIMITS = ROOT / "README.md", ROOT / "docs" / "limits.md"
CARD = weights.folder() / "README.md"
SECTIONS = {  # where the scores are
    README: ("What you get with which weights",),
    LIMITS: ("The embedded models, honestly",),
    CARD: ("Scores", "Ablations", "What they cannot do"),
}
NUMBER = r"([-+]?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?"
NO_SCORES = (  # settings, constants, and what the paper has
    *("95% interval", "count as 60 dB", "30% pseudo-4D data"),
    *("The paper has it 0.8 dB ahead", "an arc of about 46 degrees"),
)


def score(file: str, key: str) -> dict:
    """{"mean", "interval"} of a key of scores/{file}.json, or of variant>key or variant>key>change,
    the difference from the first variant."""
    content = json.loads((weights.folder() / "scores" / f"{file}.json").read_text())
    variant, _, rest = key.partition(">")
    if not rest:
        return content["scores"][key]
    name, _, change = rest.partition(">")
    return content["variants"][variant]["difference" if change else "scores"][name]


def check(number: tuple[str, str], percent: bool, file: str, key: str, change=None) -> None:
    """Whether a number ("27.34", "0.65" or "") is that of a key, which `change` is applied to."""
    found = score(file, key)
    mean, half = number
    unit, places = 100 if percent else 1, len(mean.partition(".")[2])
    # A rounded score rounds again: 2.5045 is 2.504 in the file, 2.50 in the text.
    within = 0.5 * 10**-places + 0.001 * unit
    expected = change(found["mean"]) if change else unit * found["mean"]
    assert float(mean) == pytest.approx(expected, abs=within), (mean, file, key)
    if half:
        assert float(half) == pytest.approx(unit * found["interval"], abs=within), (half, file, key)


def of_hundred(mean: float) -> float:
    """The change from frame to frame, in percent, of a smoothness."""
    return 100 - mean


Number = tuple[str, str] | tuple[str, str, Callable[[float], float]]
FULL = "generated_full"
METHOD: dict[str, tuple[Number, ...]] = {
    "held-out views reach {} dB; from the references alone, without the generated grid, {}": (
        ("pipeline", "generated/psnr"),
        ("pipeline", "references/psnr"),
    ),
}
CLAIMS: dict[Path, dict[str, tuple[Number, ...]]] = {
    README: METHOD,
    LIMITS: {
        **METHOD,
        "the unseen cells reach {} dB on the whole frame": (("video", f"both/{FULL}"),),
        "better of two plain copies by {} dB": (("video", "both/gain_on_moving"),),
        "fixed view alone they reach {} dB, with the freeze time alone {} dB": (
            ("video", f"fixed_view/{FULL}"),
            ("video", f"freeze_time/{FULL}"),
        ),
        "embedded VACE reaches {} dB on the whole frame, {} dB more than generated": (
            ("warp_exact", "strength 1>psnr"),
            ("warp_exact", "strength 1>psnr>change"),
        ),
        "with predicted depth it loses {} dB": (("warp_predicted", "strength 1>psnr>change", abs),),
        "pasted over what is generated without geometry, gain {} dB": (
            ("warp_exact", "fixed view, pasted>psnr>change"),
        ),
        "come back at {} dB ({} dB at 128 pixels), with cameras predicted to {} degrees": (
            ("reconstruction", "held_out_psnr"),
            ("reconstruction", "held_out_psnr_enlarged"),
            ("reconstruction", "rotation_error_degrees"),
        ),
        "or of their mean, reaches {} dB": (("reconstruction_rivals", "best_copy/psnr"),),
        "stores {}% fewer Gaussians for {} dB": (
            ("split", "fewer_gaussians"),
            ("split", "psnr_change", abs),
        ),
        "v T_max + f beat v + f by {} dB": (
            ("ablation_video", f"fused-sum>both/{FULL}>change", abs),
        ),
        "which cost more, are equal to {} dB better": (
            ("ablation_video", f"parallel-soft>fixed_view/{FULL}>change", abs),
        ),
        "is worth {} dB at held-out views; what temporal attention": (
            (
                "ablation_reconstruction",
                "without camera token replacement>held_out_psnr>change",
                abs,
            ),
        ),
    },
    CARD: {
        "{}% of their pixels are known with exact depth and {}% with predicted": (
            ("warp_exact", "fixed view>known_share"),
            ("warp_predicted", "fixed view>known_share"),
        ),
        "strength 1 fills {} dB better than 0 with exact depth, with predicted depth {} dB": (
            ("warp_exact_strengths", "strength 1>psnr_missing>change"),
            ("warp_predicted_strengths", "strength 1>psnr_missing>change"),
        ),
        "blurred by one pixel are at {} dB, blurred by two at {} dB": (
            ("reconstruction_rivals", "exact_blurred_1/psnr"),
            ("reconstruction_rivals", "exact_blurred_2/psnr"),
        ),
        "a copy of the first input is at {} dB": (("reconstruction_rivals", "still_copy/psnr"),),
        "which costs no model, is at {} dB, SSIM {}.": (
            ("reconstruction_rivals", "best_copy/psnr"),
            ("reconstruction_rivals", "best_copy/ssim"),
        ),
        "cameras of its own, which jitter by {} hundredths": (
            ("reconstruction", "camera_jitter_without"),
        ),
        "is {}% along time ({}% in exact grids) and {}% along views ({}%)": (
            ("video", "both/generated_smooth_times", of_hundred),
            ("video", "both/exact_smooth_times", of_hundred),
            ("video", "both/generated_smooth_views", of_hundred),
            ("video", "both/exact_smooth_views", of_hundred),
        ),
        "`fourreal evaluate autoencoder`: {} dB, SSIM {}.": (
            ("autoencoder", "psnr"),
            ("autoencoder", "ssim"),
        ),
        "{}% fewer Gaussians, PSNR at the inputs {} dB, of moving pixels {} dB": (
            ("split", "fewer_gaussians"),
            ("split", "psnr_change"),
            ("split", "moving_psnr_change"),
        ),
        "PSNR is equal to {} dB better for the others": (
            ("ablation_video", f"parallel-soft>fixed_view/{FULL}>change"),
        ),
        "**Pseudo-4D data** cost {} to {} dB": (
            ("ablation_video", f"pseudo-4d>both/{FULL}>change", abs),
            ("ablation_video", f"pseudo-4d>fixed_view/{FULL}>change", abs),
        ),
        "is worth {} dB at held-out views, {} dB where things move": (
            (
                "ablation_reconstruction",
                "without camera token replacement>held_out_psnr>change",
                abs,
            ),
            (
                "ablation_reconstruction",
                "without camera token replacement>held_out_psnr_moving>change",
                abs,
            ),
        ),
        "four cost {} dB and 40 cost {} dB": (
            ("ablation_sampling", f"4 steps>both/{FULL}>change", abs),
            ("ablation_sampling", f"40 steps>both/{FULL}>change", abs),
        ),
        "**Temporal attention** is worth {} dB where": (
            (
                "ablation_reconstruction",
                "without temporal attention>held_out_psnr_moving>change",
                abs,
            ),
        ),
        "the autoencoder gives back at {} dB": (("autoencoder", "psnr"),),
    },
}


def with_changes(variant: str, *keys: str) -> list[str]:
    """The keys of a row of an ablation: each score, and how it differs from the first row's."""
    return [f"{variant}>{key}{change}" for key in keys for change in ("", ">change")]


def first_row(variant: str, *keys: str) -> list[str]:
    return [f"{variant}>{key}" for key in keys]


COPIES = ("full", "ssim", "moving")
GENERATED = (FULL, "generated_ssim", "generated_moving", "gain_on_moving")
ABLATED = ("both/generated_full", "both/generated_moving")
VIDEO_ABLATED = (*ABLATED, f"fixed_view/{FULL}")
RECONSTRUCTION = ("held_out_psnr", "held_out_psnr_moving", "held_out_ssim", "flicker")
WARPED = (
    "psnr_known",
    "psnr_missing",
    "psnr",
    "psnr_moving",
    "gradient_energy",
)
FILLS = ("fixed view, pasted", "mean colour", *(f"strength {s}" for s in ("0", "0.25", "0.5", "1")))
# The card's tables in their order: the score file, and the keys of each row's numbers.
TABLES = (
    (
        "video",
        *(
            [f"{given}/{key}" for key in GENERATED]
            for given in ("both", "fixed_view", "freeze_time")
        ),
        *([f"both/{name}_copy_{key}" for key in COPIES] for name in ("fixed_view", "freeze_time")),
    ),
    *(
        (
            f"warp_{geometry}",
            first_row("fixed view", *WARPED),
            *(with_changes(fill, *WARPED) for fill in FILLS),
        )
        for geometry in ("exact", "predicted")
    ),
    (
        "reconstruction",
        ["held_out_psnr", "held_out_ssim"],
        ["held_out_psnr_enlarged"],
        ["depth_relative_error"],
        ["rotation_error_degrees"],
        ["held_out_psnr_all_times"],
        ["held_out_psnr_all_times_without"],
        ["flicker"],
        ["flicker_without"],
    ),
    (
        "pipeline",
        *(
            [f"{name}/{key}" for key in ("psnr", "ssim", "psnr_moving")]
            for name in ("generated", "references", "exact")
        ),
    ),
    (
        "ablation_video",
        first_row("fused", *VIDEO_ABLATED),
        *(
            with_changes(variant, *VIDEO_ABLATED)
            for variant in (
                "fused-sum",
                "sequential",
                "parallel-hard",
                "parallel-soft",
                "pseudo-4d",
            )
        ),
    ),
    (
        "ablation_reconstruction",
        first_row("full", *RECONSTRUCTION),
        with_changes("without camera token replacement", *RECONSTRUCTION),
        with_changes("without temporal attention", *RECONSTRUCTION),
    ),
    (
        "ablation_sampling",
        first_row("1 steps", *ABLATED),
        *(with_changes(f"{steps} steps", *ABLATED) for steps in (4, 8, 16, 40)),
    ),
)


def sections(page: Path) -> str:
    """The parts of a page that hold scores."""
    parts = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = [part for part in parts if part.startswith(SECTIONS[page])]
    assert len(found) == len(SECTIONS[page])
    return "\n".join(found)


def prose(page: Path) -> str:
    """Those parts without tables and code, each run of white space one blank."""
    text = re.sub(r"```.*?```", "", sections(page), flags=re.DOTALL)
    return " ".join(re.sub(r"^\|.*$", "", text, flags=re.MULTILINE).split())


def tables(page: Path) -> list[list[list[str]]]:
    """Of each table of those parts, the cells of each row but the header."""
    found = re.findall(r"(?:^\|.*\n)+", sections(page), flags=re.MULTILINE)
    return [[row.split("|")[1:-1] for row in table.splitlines()[2:]] for table in found]


@pytest.mark.parametrize(
    ("page", "claim"), [(page, claim) for page, claims in CLAIMS.items() for claim in claims]
)
def test_a_sentence_says_what_was_measured(page, claim):
    pattern = re.escape(claim).replace(r"\{\}", NUMBER)
    found = re.findall(pattern, prose(page))
    assert len(found) == 1, f"{page.name} has {len(found)} sentences like {claim!r}"
    texts = found[0]
    for index, where in enumerate(CLAIMS[page][claim]):
        percent = claim.split("{}")[index + 1].startswith("%")
        check(texts[2 * index : 2 * index + 2], percent, *where)


def test_a_table_holds_what_was_measured():
    found = tables(CARD)
    assert len(found) == len(TABLES)
    for (file, *rows), table in zip(TABLES, found):
        assert len(rows) == len(table), file
        for keys, (_, *cells) in zip(rows, table):
            numbers = [match for cell in cells for match in re.finditer(NUMBER, cell)]
            assert len(numbers) == len(keys), (file, cells)
            for key, number in zip(keys, numbers):
                rest = number.string[number.end() :]
                check((number[1], number[2] or ""), rest.startswith("%"), file, key)


@pytest.mark.parametrize("page", CLAIMS)
def test_no_number_is_left_without_a_claim(page):
    text = prose(page)
    for claim in CLAIMS[page]:
        text = re.sub(re.escape(claim).replace(r"\{\}", NUMBER), "(claimed)", text)
    for constant in NO_SCORES:
        text = text.replace(constant, "")
    measured = rf"{NUMBER}(?:%| dB| degrees)|\d ± \d"
    assert not [text[max(0, m.start() - 40) : m.end() + 20] for m in re.finditer(measured, text)]


@pytest.mark.parametrize(
    ("title", "model", "name"),
    [
        ("video model: PSNR", "video", "validation_psnr"),
        ("reconstructor, geometry stages", "reconstructor", "validation_depth_error"),
    ],
)
def test_a_curve_shows_what_was_logged(title, model, name):
    text = (ROOT / "docs" / "training-diary.md").read_text(encoding="utf-8")
    drawn = re.search(rf'title "{title}.*?line \[(.*?)\]', text, flags=re.DOTALL)[1].split(", ")
    runs = json.loads((weights.folder() / "scores" / "training.json").read_text())[model]
    logged = iter([point[name] for run in runs for point in run["log"] if name in point])
    for value in drawn:  # in the order of the log
        places = len(value.partition(".")[2])
        assert any(float(value) == round(point, places) for point in logged), value
