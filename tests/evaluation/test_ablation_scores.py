"""What the card says of the ablations is what their intervals, over scenes and seeds, decide."""

from math import hypot
from statistics import fmean, stdev

import pytest

from .card_tables import CARD, score, score_file
from .test_published_scores import MOVING, WITHOUT_TIME, WITHOUT_TOKENS

FILLED, RECONSTRUCTED = "ablation_video", "ablation_reconstruction"
PAIRED = "ablation_reconstruction_pairs"


@pytest.mark.parametrize("file", (FILLED, RECONSTRUCTED, PAIRED))
def test_intervals_of_ablations_hold_the_chance_of_scenes_and_of_three_seeds(file):
    content = score_file(file)
    assert content["settings"]["seeds"] == [0, 1, 2] and content["settings"]["split"] == "test"
    first, *others = content["variants"].values()
    for name, told in [(name, other) for other in others for name in other["difference"]]:
        found, pairs = told["difference"][name], zip(told["values"][name], first["values"][name])
        changes = [a - b for a, b in pairs if a is not None and b is not None]
        of_scenes = 1.96 * stdev(changes) / len(changes) ** 0.5
        of_seeds = 4.303 * stdev(found["runs"]) / 3**0.5
        assert found["mean"] == pytest.approx(fmean(changes), abs=2e-3)
        assert found["interval"] == pytest.approx(hypot(of_scenes, of_seeds), abs=5e-3)


# Words of the card, and the differences that they call decided, or open.
DECIDED: dict[str, tuple[tuple[str, str], ...]] = {
    "decided for flicker": (
        (RECONSTRUCTED, f"{WITHOUT_TOKENS}>flicker"),
        (RECONSTRUCTED, f"{WITHOUT_TOKENS}>held_out_psnr"),
    ),
    "decided where things move": (
        (RECONSTRUCTED, f"{WITHOUT_TIME}>{MOVING}"),
        (PAIRED, f"{WITHOUT_TIME}>{MOVING}"),
    ),
    "SSIM is decided, too": (
        (RECONSTRUCTED, f"{WITHOUT_TIME}>held_out_ssim"),
        (PAIRED, f"{WITHOUT_TIME}>held_out_ssim"),
    ),
    "more places, both decided; there": (
        (FILLED, "sequential>fixed_view/generated/psnr"),
        (FILLED, "sequential>both/generated/parallax_right"),
    ),
    "worse, decided as well, and the whole frame is open": (
        (FILLED, "sequential>both/generated/psnr_moving"),
    ),
    "soft synchronisation, decided": (
        (FILLED, "parallel-hard>both/generated/psnr"),
        (FILLED, "parallel-soft>both/generated/psnr"),
    ),
    "dB, decided as well; there hard": (
        (FILLED, "parallel-hard>both/generated/psnr_moving"),
        (FILLED, "parallel-soft>fixed_view/generated/psnr"),
    ),
    "both decided and with both references": (
        (FILLED, "fused-sum>both/generated/parallax_right"),
        (FILLED, "fused-sum>both/generated/psnr_moving"),
    ),
}
OPEN: dict[str, tuple[tuple[str, str], ...]] = {
    "dB are open": ((RECONSTRUCTED, f"{WITHOUT_TOKENS}>{MOVING}"),),
    "PSNR of the whole frame is open": (
        (RECONSTRUCTED, f"{WITHOUT_TIME}>held_out_psnr"),
        (PAIRED, f"{WITHOUT_TIME}>held_out_psnr"),
    ),
    "as well, and the whole frame is open": ((FILLED, "sequential>both/generated/psnr"),),
    "there hard is open": ((FILLED, "parallel-hard>fixed_view/generated/psnr"),),
    "the whole frame is open, and so is all with the fixed view alone": (
        (FILLED, "fused-sum>both/generated/psnr"),
        (FILLED, "fused-sum>fixed_view/generated/psnr"),
        (FILLED, "fused-sum>fixed_view/generated/psnr_moving"),
        (FILLED, "fused-sum>fixed_view/generated/parallax_right"),
    ),
}


@pytest.mark.parametrize(
    ("words", "decided"), [(w, kind is DECIDED) for kind in (DECIDED, OPEN) for w in kind]
)
def test_the_card_calls_decided_what_an_interval_decides(words, decided):
    assert " ".join(CARD.read_text("utf-8").split()).count(words) == 1
    for file, key in (DECIDED | OPEN)[words]:
        found = score(file, f"{key}>change")
        assert (abs(found["mean"]) > found["interval"]) == decided, (key, found)
