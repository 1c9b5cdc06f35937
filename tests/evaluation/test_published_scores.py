"""Every score in README, docs and model card is what its evaluation wrote, as rounded there.

A sentence is a claim: a text with {} for each number, and where each number stands in the score
files. Numbers of a table belong to the keys of its row. A number with a unit that belongs to no
claim fails the test, so a new sentence needs a claim.
"""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from fourreal import weights
from fourreal.evaluation.evaluate_warp import GEOMETRIES

from .card_tables import CARD, PLACE, TABLES, score, score_file, with_tables

ROOT = Path(__file__).parents[2]
README, LIMITS = ROOT / "README.md", ROOT / "docs" / "limits.md"
SECTIONS = {  # where the scores are
    README: ("What you get with which weights",),
    LIMITS: ("The embedded models, honestly",),
    CARD: ("Scores", "Ablations", "What they cannot do"),
}
NUMBER = r"([-+]?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?"
NO_SCORES = (  # settings, constants, and what the paper has
    *("95% interval", "count as 60 dB", "an arc of about 46 degrees"),
    *("The paper has 0.8 dB", "The paper has 0.9 dB"),
)


def check(number: tuple[str, str], percent: bool, file: str, key: str, change=None) -> None:
    """Whether a number ("27.34", "0.65" or "") is that of a key, which `change` is applied to."""
    found = score(file, key)
    mean, half = number
    unit, places = 100 if percent else 1, len(mean.partition(".")[2])
    # A rounded score rounds again: 2.5045 is 2.504 in the file, 2.50 in the text.
    within = 0.5 * 10**-places + 0.001 * unit
    expected = unit * (change(found["mean"]) if change else found["mean"])
    assert float(mean) == pytest.approx(expected, abs=within), (mean, file, key)
    if half:
        assert float(half) == pytest.approx(unit * found["interval"], abs=within), (half, file, key)


Number = tuple[str, str] | tuple[str, str, Callable[[float], float]]
FULL = "generated_full"  # of the ablation of sampling steps
WITHOUT_TIME, WITHOUT_TOKENS = "without temporal attention", "without camera token replacement"
MOVING = "held_out_psnr_moving"
PASTED = "fixed view, pasted"
METHOD: dict[str, tuple[Number, ...]] = {
    "held-out views reach {} dB; from the references alone, without the generated grid, {}": (
        ("pipeline", "carried/psnr"),
        ("pipeline", "references/psnr"),
    ),
}
CLAIMS: dict[Path, dict[str, tuple[Number, ...]]] = {
    README: {
        **METHOD,
        "From text alone {}% of unseen prompts": (("text", "generated/prompt"),),
        "of exact scenes that score calls {}% right": (("text", "exact/prompt"),),
    },
    LIMITS: {
        **METHOD,
        "the unseen cells reach {} dB on the whole frame": (("video", "both/generated/psnr"),),
        "exact frames blurred by two of their 64 pixels reach {} dB": (
            ("video", "exact_blurred_2/psnr"),
        ),
        "the better of two plain copies by {} dB": (("video", "both/generated/gain_on_moving"),),
        "fixed view alone they reach {} dB, with the freeze time alone {} dB": (
            ("video", "fixed_view/generated/psnr"),
            ("video", "freeze_time/generated/psnr"),
        ),
        "unseen cells reach {} dB with both references and {} dB with the fixed view alone": (
            ("video_128", "both/carried/psnr"),
            ("video_128", "fixed_view/carried/psnr"),
        ),
        "blurred by 2.5 of the 128 pixels reach {} dB": (("video_128", "exact_blurred_2.5/psnr"),),
        "with exact depth the whole frame gains {} dB": (("warp_exact", f"{PASTED}>psnr>change"),),
        "the way of *carry*, they are {} dB better": (
            ("warp_grid", f"{PASTED}>psnr_known>change"),
        ),
        "the whole frame is as it was, {} dB": (("warp_grid", f"{PASTED}>psnr>change"),),
        "VACE as the fill: {} dB against the generated grid with exact depth; it loses {} dB": (
            ("warp_exact", "strength 1>psnr>change"),
            ("warp_predicted", "strength 1>psnr>change", abs),
        ),
        "four views of 128 pixels come back at {} dB, with cameras predicted to {} degrees": (
            ("reconstruction", "inputs_alone/psnr"),
            ("reconstruction", "inputs_alone/rotation_error_degrees"),
        ),
        "or of their mean, reaches {} dB": (("reconstruction", "best_copy/psnr"),),
        "The mean of the neighbouring photos, which costs no model, reaches {} dB": (
            ("pipeline", "mean_of_neighbours/psnr"),
        ),
        "From text alone, {}% of the prompts": (("text", "generated/prompt"),),
        "nearest caption the score says {}%, for exact grids {}%": (
            ("text", "nearest_training_scene/prompt"),
            ("text", "exact/prompt"),
        ),
        "stores {}% fewer Gaussians for {} dB": (
            ("split", "fewer_gaussians"),
            ("split", "psnr_change", abs),
        ),
        "temporal attention is worth {} dB where things move, and camera": (
            ("ablation_reconstruction", f"{WITHOUT_TIME}>{MOVING}>change", abs),
        ),
        "Fused attention is {} dB better than parallel streams": (
            ("ablation_video", "parallel-soft>both/generated/psnr>change", abs),
        ),
        "references are given, and {} dB worse from the fixed view alone": (
            ("ablation_video", "parallel-soft>fixed_view/generated/psnr>change"),
        ),
    },
    CARD: {
        "{}% of their pixels are known with exact depth, {}% with predicted": (
            ("warp_exact", "fixed view>known_share"),
            ("warp_predicted", "fixed view>known_share"),
        ),
        "and {}% with predicted depth of all views": (("warp_grid", "fixed view>known_share"),),
        "strength 1 fills {} dB better than 0 with exact depth, with predicted depth of one view "
        "{} dB and of all views {} dB": tuple(
            (f"warp_{name}_strengths", "strength 1>psnr_missing>change") for name in GEOMETRIES
        ),
        "parallax is wrong by {}, {} and {} pixels less": tuple(
            (f"warp_{name}_strengths", "strength 1>parallax_error>change", abs)
            for name in GEOMETRIES
        ),
        "for longer than the VACE, gain {} dB on the whole frame with exact depth": (
            ("warp_exact", f"{PASTED}>psnr>change"),
        ),
        "they are {} dB better where they are known, {} dB as against {} dB with exact": (
            ("warp_grid", f"{PASTED}>psnr_known>change"),
            ("warp_grid", f"{PASTED}>psnr_known"),
            ("warp_exact", f"{PASTED}>psnr_known"),
        ),
        "the grid is {} times as sharp as the exact one instead of {} times": (
            ("warp_grid", f"{PASTED}>gradient_energy"),
            ("warp_grid", "fixed view>gradient_energy"),
        ),
        "which leaves it as it was, {} dB": (("warp_grid", f"{PASTED}>psnr>change"),),
        "of one view known pixels reach {} dB, and the whole frame is as it was, too, {} dB": (
            ("warp_predicted", f"{PASTED}>psnr_known"),
            ("warp_predicted", f"{PASTED}>psnr>change"),
        ),
        "parallax is right in {}% of the places, in one view copied into all in {}%": (
            ("video", "fixed_view/generated/parallax_right"),
            ("video", "one_view/parallax_right"),
        ),
        "{}% of the prompts are right, of the new ones {}%": (
            ("text", "generated/prompt"),
            ("text", "generated/new_prompt"),
        ),
        "would be right for {}% of them": (("text", "nearest_training_scene/prompt"),),
        "{}% of the objects are found, {}% have their shape, and {}% move as said": (
            ("text", "generated/found"),
            ("text", "generated/shape"),
            ("text", "generated/motion"),
        ),
        "a bounce is {} as high": (("text", "generated/size_of_bounce_to_exact"),),
        "a slide {} as long, a swing {} and an orbit {} as wide": (
            ("text", "generated/size_of_slide_to_exact"),
            ("text", "generated/size_of_swing_to_exact"),
            ("text", "generated/size_of_orbit_to_exact"),
        ),
        "and enlarged, {}% of the 128-pixel grids are right, of exact ones {}%": (
            ("text_128", "generated/prompt"),
            ("text_128", "exact/prompt"),
        ),
        "there bounces are {} as high, slides {} as long, swings {} and orbits {} as wide": (
            ("text_128", "generated/size_of_bounce_to_exact"),
            ("text_128", "generated/size_of_slide_to_exact"),
            ("text_128", "generated/size_of_swing_to_exact"),
            ("text_128", "generated/size_of_orbit_to_exact"),
        ),
        "what is carried is worth {} dB, most": (
            ("video_128", "both/carried/psnr - both/generated/psnr"),
        ),
        "The mean is {} dB above these": (
            ("video_128", "both/carried/psnr - exact_blurred_2.5/psnr"),
        ),
        "the moving region stays {} dB below": (
            ("video_128", "both/carried/psnr_moving - exact_blurred_2.5/psnr_moving", abs),
        ),
        "With the fixed view alone {} dB are gained": (
            ("video_128", "fixed_view/carried/psnr - fixed_view/generated/psnr"),
        ),
        "of exact grids {}% are told right": (("text", "exact/prompt"),),
        "Inputs alone are enough for {} dB more than the best of both": (
            ("reconstruction", "inputs_alone/psnr - best_copy/psnr"),
        ),
        "all its 29 times, depth is wrong by {}%": (
            ("reconstruction", "one_view/depth_relative_error"),
        ),
        "of it (*carry*), which is worth {} dB:": (("pipeline", "carried/psnr - generated/psnr"),),
        "the views reach {} dB. As the network says": (
            ("reconstruction", "inputs_alone/psnr_enlarged"),
        ),
        "which jitter by {} hundredths": (("reconstruction", "camera_jitter_without"),),
        "both times together then reach {} dB instead of {} dB": (
            ("reconstruction", "held_out_psnr_all_times_without"),
            ("reconstruction", "held_out_psnr_all_times"),
        ),
        "still pixels flicker by {} instead of {} of": (
            ("reconstruction", "flicker_without"),
            ("reconstruction", "flicker"),
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
        "flicker, which is {} of 255 without it and {} with it, and for {} dB at": (
            ("ablation_reconstruction", f"{WITHOUT_TOKENS}>flicker"),
            ("ablation_reconstruction", "full>flicker"),
            ("ablation_reconstruction", f"{WITHOUT_TOKENS}>held_out_psnr>change", abs),
        ),
        "Where things move its {} dB are open": (
            ("ablation_reconstruction", f"{WITHOUT_TOKENS}>{MOVING}>change", abs),
        ),
        "decided where things move, {} dB, and {} dB when each time shows another pair": (
            ("ablation_reconstruction", f"{WITHOUT_TIME}>{MOVING}>change", abs),
            ("ablation_reconstruction_pairs", f"{WITHOUT_TIME}>{MOVING}>change", abs),
        ),
        "PSNR of the whole frame is open, {} dB and {} dB": (
            ("ablation_reconstruction", f"{WITHOUT_TIME}>held_out_psnr>change", abs),
            ("ablation_reconstruction_pairs", f"{WITHOUT_TIME}>held_out_psnr>change", abs),
        ),
        "with the fixed view alone fused is {} dB better, and": (
            ("ablation_video", "sequential>fixed_view/generated/psnr>change", abs),
        ),
        "with both references parallax is right in {}% more places, both decided; there the moving "
        "region is {} dB worse": (
            ("ablation_video", "sequential>both/generated/parallax_right>change", abs),
            ("ablation_video", "sequential>both/generated/psnr_moving>change"),
        ),
        "with both references fused is {} dB better than hard and {} dB better than soft": (
            ("ablation_video", "parallel-hard>both/generated/psnr>change", abs),
            ("ablation_video", "parallel-soft>both/generated/psnr>change", abs),
        ),
        "hard is {} dB better than fused, and from the fixed view alone soft is by {} dB": (
            ("ablation_video", "parallel-hard>both/generated/psnr_moving>change"),
            ("ablation_video", "parallel-soft>fixed_view/generated/psnr>change"),
        ),
        "against v + f: parallax is right in {}% more places, and the moving region is {} dB "
        "worse": (
            ("ablation_video", "fused-sum>both/generated/parallax_right>change", abs),
            ("ablation_video", "fused-sum>both/generated/psnr_moving>change"),
        ),
        "the freeze time is worth {} dB, and right parallax in {}% more places": (
            ("video", "both/generated/psnr - fixed_view/generated/psnr"),
            ("video", "both/generated/parallax_right - fixed_view/generated/parallax_right"),
        ),
        "beside the freeze time, the fixed view is worth {} dB": (
            ("video", "both/generated/psnr - freeze_time/generated/psnr"),
        ),
        "four cost {} dB and 40 cost {} dB": (
            ("ablation_sampling", f"4 steps>both/{FULL}>change", abs),
            ("ablation_sampling", f"40 steps>both/{FULL}>change", abs),
        ),
        "the autoencoder gives back at {} dB": (("autoencoder", "psnr"),),
    },
}


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


def test_the_cards_tables_are_made_of_the_score_files():
    card = CARD.read_text(encoding="utf-8")
    assert with_tables(card) == card, "run python -m tests.evaluation.card_tables"
    assert sorted(name for name, _ in PLACE.findall(card)) == sorted(TABLES)
    # No table of scores is written by hand.
    assert not re.findall(r"^\|.*\n", PLACE.sub("", sections(CARD)), flags=re.MULTILINE)


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


STILL = ("still_copy", "one_view", "mean_image")
PLEASED = ("exact", "exact_blurred_1", "exact_blurred_2")  # from best to worst
# Of each file the scores that must put these rows in order, and what must come after all of them.
ORDERS = {
    "video": {
        "psnr": (PLEASED, STILL),
        "ssim": (PLEASED, STILL),
        "psnr_moving": (PLEASED, STILL),
        "parallax_right": (PLEASED, STILL),
        "sharpness": (PLEASED, ()),  # a still picture is sharp, too
    },
    "video_128": dict.fromkeys(
        ("psnr", "ssim", "psnr_moving", "parallax_right"),
        ((*PLEASED, "exact_blurred_2.5"), STILL),
    ),
    "text": {
        "prompt": (
            ("exact", "nearest_training_scene"),
            ("still_copy", "one_view", "colored_squares"),
        ),
        "sharpness": (PLEASED, ()),
    },
    "text_128": {
        "prompt": (
            (*PLEASED, "nearest_training_scene"),
            ("still_copy", "one_view", "colored_squares"),
        ),
        "sharpness": (PLEASED, ()),
    },
    "reconstruction": {
        "psnr": (PLEASED, ("still_copy",)),
        "ssim": (PLEASED, ("still_copy",)),
        "sharpness": (PLEASED, ()),
    },
    "pipeline": dict.fromkeys(
        ("psnr", "ssim", "psnr_moving"),
        (("exact_views", *PLEASED[1:]), ("still_copy", "mean_of_neighbours")),
    ),
}


@pytest.mark.parametrize(("file", "name"), [(f, n) for f, own in ORDERS.items() for n in own])
def test_a_score_is_published_only_where_it_tells_the_real_thing(file, name):
    rows, others = ORDERS[file][name]
    scores = score_file(file)["scores"]
    means = [scores[f"{row}/{name}"]["mean"] for row in rows]
    assert all(a > b for a, b in pairwise(means)), means
    assert all(scores[f"{row}/{name}"]["mean"] < means[-1] for row in others)
