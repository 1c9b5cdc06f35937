"""UMT5-XXL's file and its tokenizer."""

import pytest
import torch
from safetensors.torch import save_file

from fourreal.video.sentencepiece import load_sentencepiece
from fourreal.video.umt5 import load_text_encoder, text_length

from ..tiny import PROMPT, key_list

TEXTS = (PROMPT, "two cats, outdoors", "  two   spaces ", "Ünknown ② letters 猫", "")


def test_the_public_text_encoder_is_recognised_and_no_key_is_left(as_file, pieces):
    public = key_list("umt5_xxl")
    tensors = {k: torch.empty(s, device="meta", dtype=torch.float16) for k, s in public.items()}
    tensors["spiece_model"] = torch.frombuffer(bytearray(pieces), dtype=torch.uint8)
    as_file(tensors)
    tokenizer, encoder = load_text_encoder("file.safetensors", dtype=None)
    assert len(encoder.state_dict()) == len(public) + 1  # the embedding has two names
    assert encoder.config.d_model == 4096 and encoder.config.num_heads == 64
    assert encoder.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    assert tokenizer("a red ball").input_ids[-1] == 1 and text_length(tokenizer) == 512


def test_a_file_without_a_tokenizer_needs_one_beside_it(as_file, pieces, tmp_path):
    public = key_list("umt5_xxl")
    as_file({k: torch.empty(s, device="meta") for k, s in public.items()})
    file = tmp_path / "text/file"
    with pytest.raises(ValueError, match=r"file holds no tokenizer \(spiece_model\), and none"):
        load_text_encoder(file, dtype=None)
    with pytest.raises(ValueError, match=r"none\.model does not exist"):
        load_text_encoder(file, tmp_path / "none.model", None)
    (tmp_path / "spiece.model").write_bytes(pieces)
    load_sentencepiece(pieces, 512).save_pretrained(tmp_path / "folder")
    expected = load_sentencepiece(pieces, 512)(PROMPT).input_ids
    for place in ("spiece.model", "folder", "folder/tokenizer.json"):
        tokenizer, _ = load_text_encoder(file, tmp_path / place, None)
        assert tokenizer(PROMPT).input_ids == expected
    (tmp_path / "text").mkdir()
    with pytest.raises(ValueError, match="text holds no tokenizer"):
        load_text_encoder(file, tmp_path / "text", None)
    (tmp_path / "text/tokenizer.json").write_text("[]")
    with pytest.raises(ValueError, match="cannot be read") as error:
        load_text_encoder(file, tmp_path / "text", None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("w/models_t5_umt5-xxl-enc-bf16.pth", "w/google/umt5-xxl"),  # Wan's own release
        ("w/text_encoder/model.safetensors", "w/tokenizer"),  # diffusers' folder
        ("w/umt5.safetensors", "w/spiece.model"),
    ],
)
def test_the_tokenizer_is_found_where_releases_have_it(as_file, pieces, tmp_path, file, place):
    as_file({k: torch.empty(s, device="meta") for k, s in key_list("umt5_xxl").items()})
    if place.endswith(".model"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(pieces)
    else:
        load_sentencepiece(pieces, 512).save_pretrained(tmp_path / place)
    tokenizer, _ = load_text_encoder(tmp_path / file, dtype=None)
    assert tokenizer(PROMPT).input_ids == load_sentencepiece(pieces, 512)(PROMPT).input_ids


def test_a_t5_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "text.safetensors"
    save_file({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(4, 4)}, file)
    with pytest.raises(ValueError, match="but Wan needs UMT5-XXL"):
        load_text_encoder(file)


def test_texts_have_at_most_512_tokens_where_a_tokenizer_names_no_limit(pieces):
    """The tokenizer of a public Wan folder says 10^30."""
    assert text_length(load_sentencepiece(pieces, 10**30)) == 512
    assert text_length(load_sentencepiece(pieces, 16)) == 16


def test_the_tokenizer_equals_sentencepiece(pieces):
    """Second source: the sentencepiece library on the same model, which adds no </s> itself."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    tokenizer = load_sentencepiece(pieces, 512)
    for text in TEXTS:
        assert tokenizer(text).input_ids == [*processor.encode(text), 1], text


def test_bytes_that_are_no_sentencepiece_model_are_refused():
    for model in (b"no model at all", b"", b"\x0a\x03"):
        with pytest.raises(ValueError, match="not a SentencePiece model"):
            load_sentencepiece(model, 512)
