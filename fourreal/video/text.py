"""The embedded models' text encoder: a small UMT5 with a word-level tokenizer.

Same interface as the UMT5-XXL of Wan: embeddings [B, L, D] with zeros after the end token.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

MAX_TOKENS = 32
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def build_tokenizer(words: list[str]):
    """A fast tokenizer that splits at white space and punctuation, lower case, unknown words
    becoming one token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate([PAD, END, UNKNOWN, *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=MAX_TOKENS,
    )


def caption_words() -> list[str]:
    """Every word that captions of procedural scenes can hold."""
    from fourreal.scenes.describe import COLORS, FLOORS, MOTIONS, SET_COLORS, SHAPES

    sentence = "a an in on outdoors room floor and past next to near small big , ."
    words = sentence.split()
    for group in (SHAPES, MOTIONS):
        words += [w for phrases in group.values() for p in phrases for w in p.split()]
    return words + list(COLORS) + list(SET_COLORS) + list(FLOORS.values())


def build_text_encoder(vocabulary_size: int, dim: int = 128):
    """An untrained UMT5 encoder of two layers."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=vocabulary_size,
        d_model=dim,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        is_encoder_decoder=False,
        use_cache=False,
        tie_word_embeddings=False,
    )
    return UMT5EncoderModel(config)


def encode_text(tokenizer, text_encoder, texts: list[str], max_tokens: int = MAX_TOKENS) -> Tensor:
    """Embeddings [B, max_tokens, D]; zeros where a text has ended."""
    tokens = tokenizer(
        texts,
        padding="max_length",
        max_length=max_tokens,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    ).to(text_encoder.device)
    embeddings = text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return embeddings * tokens.attention_mask[..., None].to(embeddings.dtype)


def save_text_encoder(text_encoder, tokenizer, path: Path) -> None:
    """One safetensors file: weights under transformers' names, config and tokenizer as metadata."""
    from safetensors.torch import save_file

    from fourreal.formats.atomic import atomic_path

    tensors = {
        k: v.detach().half().contiguous()
        for k, v in text_encoder.state_dict().items()
        if k != "encoder.embed_tokens.weight"  # the same tensor as shared.weight
    }
    metadata = {
        "config": json.dumps(text_encoder.config.to_diff_dict()),
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_text_encoder(path: Path):
    """(tokenizer, text encoder) from save_text_encoder's file."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    from fourreal.video.files import read_safetensors

    tensors, metadata = read_safetensors(path)
    if "tokenizer" not in metadata:
        raise ValueError(f"{path} is not a text encoder of this project: it holds no tokenizer.")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(metadata["tokenizer"]),
        pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=MAX_TOKENS,
    )  # fmt: skip
    text_encoder = UMT5EncoderModel(UMT5Config.from_dict(json.loads(metadata["config"])))
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
    text_encoder.load_state_dict({k: v.float() for k, v in tensors.items()})
    return tokenizer, text_encoder.eval().to(torch.float32)
