"""`fourreal evaluate autoencoder` with the embedded one."""

import pytest

from fourreal.evaluation.evaluate_autoencoder import AutoencoderEvaluation, evaluate_autoencoder


def test_the_embedded_autoencoder_gives_back_what_the_card_says():
    """Two validation scenes of the size that it was trained on; the card has 30.7 dB and 0.924 for
    64 whole test scenes."""
    config = AutoencoderEvaluation(scenes=2, split="validation", num_views=2, num_frames=5)
    values = evaluate_autoencoder(config)["values"]
    assert values["psnr"] == pytest.approx([32.6, 31.8], abs=0.3)
    assert values["ssim"] == pytest.approx([0.933, 0.920], abs=0.005)
