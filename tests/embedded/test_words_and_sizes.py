"""What the embedded models do not know is told, with what they do know."""

import pytest

from fourreal.embedded.autoencoder import BlockAutoencoder
from fourreal.embedded.limits import size_warning
from fourreal.embedded.text import build_tokenizer, caption_words, unknown_words, words_warning

from ..tiny import tiny_pipeline


@pytest.fixture
def tokenizer():
    return build_tokenizer(caption_words()).backend_tokenizer


def test_words_that_are_not_known_are_named_once_in_order(tokenizer):
    text = "A red dragon orbiting, and a Dragon eating a blue ball."
    assert unknown_words(tokenizer, text) == ["dragon", "eating"]
    assert "dragon, eating" in words_warning(tokenizer, text)
    assert " red " in words_warning(tokenizer, text)
    assert words_warning(tokenizer, "a red ball orbiting on a marbled floor") is None


def test_other_tokenizers_know_every_word():
    from tokenizers import Tokenizer, models

    pieces = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0)], unk_id=0))
    assert unknown_words(pieces, "dragon") == []


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((8, 29, 64, 64), False),
        ((3, 5, 64, 64), False),
        ((9, 29, 64, 64), True),
        ((8, 33, 64, 64), True),
        ((8, 29, 64, 128), True),
    ],
)
def test_sizes_that_it_was_not_made_for_are_told(size, told):
    assert bool(size_warning(*size)) == told


def test_the_pipeline_tells_both(caplog):
    pipeline = tiny_pipeline(vae=BlockAutoencoder(16))
    size = {"num_views": 2, "num_frames": 5, "height": 32, "width": 32}
    pipeline("a red dragon", **size, num_inference_steps=1, output_type="latent")
    assert "does not know dragon" in caplog.text
    assert "not for 2 x 5 of 32 x 32" in caplog.text
