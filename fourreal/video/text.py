"""Text encoders: UMT5-XXL of Wan, and the embedded small UMT5 with a word-level tokenizer.

Both give embeddings [B, L, D] with zeros after the end token.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

MAX_TOKENS = 32  # of the embedded text encoder
WAN_TOKENS = 512
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


def encode_text(
    tokenizer, text_encoder, texts: list[str], max_tokens: int = MAX_TOKENS, device=None
) -> Tensor:
    """Embeddings [B, max_tokens, D]; zeros where a text has ended.

    device is where the encoder runs, when that is not where its weights are (offloading).
    """
    tokens = tokenizer(
        texts,
        padding="max_length",
        max_length=max_tokens,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    ).to(device or text_encoder.device)
    embeddings = text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return embeddings * tokens.attention_mask[..., None].to(embeddings.dtype)


def save_text_encoder(text_encoder, tokenizer, path: Path) -> None:
    """One safetensors file: weights under transformers' names, config and tokenizer as metadata."""
    from safetensors.torch import save_file

    from fourreal.files.atomic import atomic_path

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


def load_text_encoder(
    path: Path, tokenizer: str | Path | None = None, dtype: torch.dtype | None = torch.float32
):
    """(tokenizer, UMT5EncoderModel) of save_text_encoder's file or of ComfyUI's UMT5-XXL file.

    ComfyUI's file holds its tokenizer (spiece_model); for one that does not, tokenizer is a
    spiece.model or a folder of a transformers tokenizer. dtype None keeps the file's, bfloat16 for
    fp8. Raises ValueError, naming what was found, for any other file.
    """
    from accelerate import init_empty_weights
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    from fourreal.video.wan_files import read_checkpoint
    from fourreal.video.wan_keys import fill_model

    tensors, metadata = read_checkpoint(path, "text encoder", "the UMT5-XXL text encoder", dtype)
    pieces = tensors.pop("spiece_model", None)
    if "tokenizer" in metadata:
        config = json.loads(metadata["config"])
        tokens = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(metadata["tokenizer"]),
            pad_token=PAD,
            eos_token=END,
            unk_token=UNKNOWN,
            model_max_length=MAX_TOKENS,
        )
    else:
        config = umt5_config(tensors, path)
        tokens = load_tokenizer(path, pieces, tokenizer)
    if "shared.weight" in tensors:
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
    with init_empty_weights():
        text_encoder = UMT5EncoderModel(UMT5Config.from_dict(config))
    fill_model(text_encoder, tensors, path, dtype)
    text_encoder.tie_weights()
    return tokens, text_encoder


def umt5_config(tensors: dict[str, Tensor], path: Path) -> dict:
    """The sizes of a UMT5 encoder, from its shapes. Raises ValueError when it is not one."""
    start = "encoder.block.{}.layer.0.SelfAttention.{}.weight"
    layers = sum(key.endswith(".SelfAttention.q.weight") for key in tensors)
    bias = tensors.get(start.format(layers - 1, "relative_attention_bias"))
    if bias is None or "shared.weight" not in tensors:
        raise ValueError(
            f"{path} holds a T5 text encoder, but Wan needs UMT5-XXL, which has a relative "
            "attention bias in every layer; use umt5_xxl_fp16 or umt5_xxl_fp8_e4m3fn_scaled."
        )
    vocabulary, width = tensors["shared.weight"].shape
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": tensors[start.format(0, "q")].shape[0] // bias.shape[1],
        "d_ff": tensors["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        "num_layers": layers,
        "num_heads": bias.shape[1],
        "relative_attention_num_buckets": bias.shape[0],
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": 0,
        "eos_token_id": 1,
        "is_encoder_decoder": False,
        "use_cache": False,
    }


def load_tokenizer(path: Path, pieces: Tensor | None, tokenizer: str | Path | None):
    """The tokenizer given (a spiece.model or a folder), or of a file's spiece_model bytes."""
    from transformers import AutoTokenizer

    from fourreal.video.sentencepiece import load_sentencepiece

    if tokenizer is None:
        if pieces is None:
            raise ValueError(
                f"{path} holds no tokenizer (spiece_model); use ComfyUI's UMT5 file, or give as "
                "tokenizer the spiece.model of google/umt5-xxl or the tokenizer folder of Wan."
            )
        return load_sentencepiece(pieces.numpy().tobytes(), WAN_TOKENS)
    if Path(tokenizer).is_dir():
        return AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    if not Path(tokenizer).is_file():
        raise ValueError(f"{tokenizer} does not exist; give a spiece.model or its folder.")
    return load_sentencepiece(Path(tokenizer).read_bytes(), WAN_TOKENS)
