"""The embedded text encoder: a UMT5 of two layers with a word-level tokenizer.

Its vocabulary is the words that captions of procedural scenes are made of. The file is one
safetensors file with the tokenizer and the config in its metadata; `video/umt5.py` turns texts
into embeddings, with this encoder as with Wan's UMT5-XXL.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fourreal.files.models import assign_weights, write_weights
from fourreal.files.tensors import read_safetensors

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

MAX_TOKENS = 32
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
TIED = "encoder.embed_tokens.weight"  # the same tensor as shared.weight, in no file


def caption_words() -> list[str]:
    """Every word that captions of procedural scenes can hold."""
    from fourreal.scenes.describe import COLORS, FLOORS, MOTIONS, SET_COLORS, SHAPES

    sentence = "a an in on outdoors room floor and past next to near small big , ."
    words = sentence.split()
    for group in (SHAPES, MOTIONS):
        words += [w for phrases in group.values() for p in phrases for w in p.split()]
    return words + list(COLORS) + list(SET_COLORS) + list(FLOORS.values())


def build_tokenizer(words: list[str]) -> "PreTrainedTokenizerFast":
    """A fast tokenizer for a vocabulary of words: lower case, split at white space and punctuation.
    Words outside of the vocabulary all become the same token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {w: i for i, w in enumerate([PAD, END, UNKNOWN, *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
    )
    return _wrapped(tokenizer)


def _wrapped(tokenizer: "Tokenizer") -> "PreTrainedTokenizerFast":
    """The tokenizer as transformers has it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=MAX_TOKENS,
    )


def unknown_words(tokenizer: "Tokenizer", text: str) -> list[str]:
    """The words of a text that a tokenizer of build_tokenizer does not know, each once, in order;
    none of any other tokenizer."""
    vocabulary = tokenizer.get_vocab()
    if not {PAD, END, UNKNOWN} <= vocabulary.keys() or len(vocabulary) > 1000:
        return []
    normal = tokenizer.normalizer.normalize_str(text)
    words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
    return list(dict.fromkeys(word for word in words if word not in vocabulary))


def words_warning(tokenizer: "Tokenizer", text: str) -> str | None:
    """What to tell of a text whose words an embedded text encoder does not know, or None."""
    words = unknown_words(tokenizer, text)
    if not words:
        return None
    known = [w for w in sorted(tokenizer.get_vocab()) if w[0].isalpha()]
    return (
        f"the embedded text encoder does not know {', '.join(words)}, and leaves it out; it knows: "
        f"{' '.join(known)}."
    )


def build_text_encoder(vocabulary_size: int, width: int = 128) -> "UMT5EncoderModel":
    """An untrained UMT5 encoder of two layers, whose embeddings have `width` numbers."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = {
        "vocab_size": vocabulary_size,
        "d_model": width,
        "d_kv": 32,
        "d_ff": 256,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 16,
        "relative_attention_max_distance": 32,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": 0,
        "eos_token_id": 1,
        "is_encoder_decoder": False,
        "use_cache": False,
        "tie_word_embeddings": False,
    }
    return UMT5EncoderModel(UMT5Config.from_dict(config))


def save_text_encoder(
    text_encoder: "UMT5EncoderModel", tokenizer: "PreTrainedTokenizerFast", path: Path
) -> None:
    """Write both as one safetensors file: float16 weights under transformers' names, `config` and
    `tokenizer` in the metadata."""
    tensors = {k: v for k, v in text_encoder.state_dict().items() if k != TIED}
    metadata = {
        "config": json.dumps(text_encoder.config.to_diff_dict()),
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
    }
    write_weights(path, tensors, metadata)


def load_small_text_encoder(
    path: Path, dtype: torch.dtype | None = torch.float32
) -> tuple["PreTrainedTokenizerFast", "UMT5EncoderModel"]:
    """Tokenizer and text encoder of save_text_encoder's file; dtype None keeps float16.

    Raises ValueError when the file is another, or damaged.
    """
    from accelerate import init_empty_weights
    from tokenizers import Tokenizer
    from transformers import UMT5Config, UMT5EncoderModel

    tensors, metadata = read_safetensors(path)
    if "tokenizer" not in metadata:
        raise ValueError(
            f"{path} holds no tokenizer in its metadata, so it is no embedded text encoder."
        )
    if "shared.weight" in tensors:
        tensors[TIED] = tensors["shared.weight"]
    with init_empty_weights():
        text_encoder = UMT5EncoderModel(UMT5Config.from_dict(json.loads(metadata["config"])))
    assign_weights(text_encoder, tensors, path, dtype)
    text_encoder.tie_weights()
    return _wrapped(Tokenizer.from_str(metadata["tokenizer"])), text_encoder
