"""Text embeddings that are encoded once."""

import pytest
import torch

from fourreal.training.captions import CaptionEmbeddings
from fourreal.video import load_embedded_pipeline


def test_embeddings_are_those_of_the_encoder_and_are_computed_once(tmp_path):
    pipe, caption = load_embedded_pipeline(), "a red ball bouncing"
    found = CaptionEmbeddings(pipe, [caption], tmp_path)
    with torch.no_grad():
        for text in (caption, ""):
            exact = pipe.encode_prompt(text)
            assert found(text).shape == exact.shape and exact.any()
            torch.testing.assert_close(found(text), exact, atol=1e-3, rtol=1e-3)  # float16
    with pytest.raises(KeyError, match="a blue box"):
        found("a blue box")
    pipe.encode_prompt = None  # not called again
    again = CaptionEmbeddings(pipe, [caption], tmp_path)
    assert torch.equal(again(caption), found(caption))
