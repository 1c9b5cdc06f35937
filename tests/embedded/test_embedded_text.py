"""The embedded text encoder: its vocabulary, its tokenizer and its file."""

import pytest
import torch
from safetensors.torch import save_file

from fourreal.embedded.text import (
    build_text_encoder,
    build_tokenizer,
    caption_words,
    load_small_text_encoder,
    save_text_encoder,
)
from fourreal.scenes import make_scene, scene_seed
from fourreal.video.umt5 import encode_text, load_text_encoder, text_length


def test_every_word_of_a_caption_is_in_the_vocabulary():
    tokenizer = build_tokenizer(caption_words())
    for index in range(20):
        caption = make_scene(scene_seed("test", index), 1, 1, 8, 8).caption
        assert tokenizer.unk_token_id not in tokenizer(caption).input_ids, caption
    assert tokenizer("an unheardof word").input_ids.count(tokenizer.unk_token_id) == 2
    assert text_length(tokenizer) == 32


@pytest.mark.parametrize("load", [load_small_text_encoder, load_text_encoder])
def test_a_saved_text_encoder_comes_back_with_its_tokenizer(load, tmp_path):
    tokenizer = build_tokenizer(caption_words())
    encoder = build_text_encoder(len(tokenizer), 32).half().float().eval()
    save_text_encoder(encoder, tokenizer, tmp_path / "text.safetensors")
    again = load(tmp_path / "text.safetensors")
    texts = ["A red ball, bouncing", "an unheardof word"]
    with torch.no_grad():
        expected = encode_text(tokenizer, encoder, texts)
        assert torch.allclose(encode_text(*again, texts), expected, atol=1e-3)
    assert (expected[0, 6:] == 0).all() and (expected[0, :6] != 0).any()


def test_a_file_without_a_tokenizer_is_no_embedded_text_encoder(tmp_path):
    save_file({"shared.weight": torch.zeros(4, 4)}, tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="holds no tokenizer in its metadata"):
        load_small_text_encoder(tmp_path / "text.safetensors")
