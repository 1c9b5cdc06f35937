"""Text encoders: Wan's UMT5-XXL of ComfyUI's file, or the embedded small UMT5.

Both give embeddings [B, L, D] with zeros after the end token.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fourreal.embedded.text import load_small_text_encoder, words_warning
from fourreal.files.models import assign_weights
from fourreal.video.sentencepiece import load_sentencepiece
from fourreal.video.wan_files import PIECES, read_checkpoint, sizes_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

logger = logging.getLogger(__name__)

WAN_TOKENS = 512
PIECES_FILE = "spiece.model"
BESIDE = ("tokenizer", "google/umt5-xxl", PIECES_FILE)  # the last only in the same folder


def text_length(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Tokens that every text is filled or cut to: the tokenizer's limit, but at most Wan's 512,
    because tokenizers of public folders name no limit."""
    return min(tokenizer.model_max_length, WAN_TOKENS)


def encode_text(
    tokenizer: "PreTrainedTokenizerBase",
    text_encoder: "UMT5EncoderModel",
    texts: list[str],
    device: torch.device | None = None,
) -> Tensor:
    """Embeddings [B, text_length, D] of texts; zeros where a text has ended.

    device is where the encoder runs, when that is not where its weights are (offloading). Words
    that an embedded encoder does not know are told in a warning.
    """
    return embed_tokens(text_encoder, *tokenize(tokenizer, texts), device)


def tokenize(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [B, text_length] of texts. Words that an embedded encoder does
    not know are told in a warning."""
    for text in texts:
        warning = words_warning(tokenizer.backend_tokenizer, text) if tokenizer.is_fast else None
        if warning:
            logger.warning("%s", warning)
    tokens = tokenizer(
        texts,
        padding="max_length",
        max_length=text_length(tokenizer),
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return tokens.input_ids, tokens.attention_mask


def embed_tokens(
    text_encoder: "UMT5EncoderModel", ids: Tensor, mask: Tensor, device: torch.device | None = None
) -> Tensor:
    """Embeddings [B, text_length, D] of tokens; zeros where a text has ended."""
    ids, mask = (x.to(device or text_encoder.device) for x in (ids, mask))
    embeddings = text_encoder(ids, mask).last_hidden_state
    return embeddings * mask[..., None].to(embeddings.dtype)


def load_text_encoder(
    path: Path, tokenizer: str | Path | None = None, dtype: torch.dtype | None = torch.float32
) -> tuple["PreTrainedTokenizerBase", "UMT5EncoderModel"]:
    """Tokenizer and text encoder of a UMT5-XXL file (ComfyUI's, Wan's own, or transformers'), or of
    the embedded one's.

    ComfyUI's file holds its tokenizer (spiece_model); for one that does not, tokenizer is a
    spiece.model or a folder of a transformers tokenizer, or lies where Wan's releases have it: in
    google/umt5-xxl beside the file, or in tokenizer beside the file or its folder. dtype None keeps
    the file's, bfloat16 for fp8. Raises ValueError, naming what was found, for any other file.
    """
    from accelerate import init_empty_weights
    from transformers import UMT5Config, UMT5EncoderModel

    tensors, metadata = read_checkpoint(path, "text encoder", "the UMT5-XXL text encoder", dtype)
    if "tokenizer" in metadata:
        return load_small_text_encoder(path, dtype)
    pieces, config = tensors.pop(PIECES, None), umt5_config(tensors, path)
    tokens = load_tokenizer(path, pieces, tokenizer)
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
    with sizes_of(path), init_empty_weights():
        text_encoder = UMT5EncoderModel(UMT5Config.from_dict(config))
    assign_weights(text_encoder, tensors, path, dtype)
    text_encoder.tie_weights()
    return tokens, text_encoder


def umt5_config(tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """The sizes of a UMT5 encoder, from its shapes. Raises ValueError when it is not one."""
    start = "encoder.block.{}.layer.0.SelfAttention.{}.weight"
    layers = sum(key.endswith(".SelfAttention.q.weight") for key in tensors)
    bias = tensors.get(start.format(layers - 1, "relative_attention_bias"))
    if bias is None or "shared.weight" not in tensors:
        raise ValueError(
            f"{path} holds a T5 text encoder, but Wan needs UMT5-XXL, which has a relative "
            "attention bias in every layer; use umt5_xxl_fp16 or umt5_xxl_fp8_e4m3fn_scaled."
        )
    with sizes_of(path):
        return _umt5_sizes(tensors, layers, bias)


def _umt5_sizes(tensors: dict[str, Tensor], layers: int, bias: Tensor) -> dict[str, Any]:
    """transformers' config of a UMT5 encoder with this relative attention bias in each layer."""
    vocabulary, width = tensors["shared.weight"].shape
    query = tensors["encoder.block.0.layer.0.SelfAttention.q.weight"]
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": query.shape[0] // bias.shape[1],
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


def load_tokenizer(
    path: Path, pieces: Tensor | None, tokenizer: str | Path | None
) -> "PreTrainedTokenizerBase":
    """The tokenizer given (a spiece.model or a folder), or of a file's spiece_model bytes."""
    if tokenizer is None and pieces is not None:
        return load_sentencepiece(pieces.numpy().tobytes(), WAN_TOKENS)
    if tokenizer is None:
        tokenizer = _tokenizer_beside(path)
        logger.info("%s: the tokenizer is that of %s.", path, tokenizer)
    place = Path(tokenizer)
    if place.name == "tokenizer.json":
        place = place.parent
    if not place.exists():
        raise ValueError(f"{tokenizer} does not exist; give a spiece.model or its folder.")
    if place.is_dir() and not (place / "tokenizer.json").is_file():
        if not (place / PIECES_FILE).is_file():
            raise ValueError(
                f"{place} holds no tokenizer (tokenizer.json or {PIECES_FILE}); give the folder "
                "`tokenizer` of a Wan model."
            )
        place /= PIECES_FILE
    if place.is_dir():
        return _load_folder(place)
    try:
        return load_sentencepiece(place.read_bytes(), WAN_TOKENS)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _tokenizer_beside(path: Path) -> Path:
    """Where Wan's releases have the tokenizer of a text encoder's file or folder."""
    folder = path if path.is_dir() else path.parent
    places = (*(folder / p for p in BESIDE), *(folder.parent / p for p in BESIDE[:-1]))
    for place in places:
        if place.is_dir() or (place.is_file() and place.name == PIECES_FILE):
            return place
    raise ValueError(
        f"{path} holds no tokenizer (spiece_model), and none is beside it; use ComfyUI's UMT5 "
        "file, or give as tokenizer the spiece.model of google/umt5-xxl or the tokenizer folder "
        "of Wan."
    )


def _load_folder(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder of transformers. Raises ValueError when it is damaged."""
    from transformers import AutoTokenizer

    try:
        tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        tokens(["a"], padding="max_length", max_length=2)
    except Exception as error:  # of many kinds, some with several lines
        raise ValueError(
            f"{folder} holds a tokenizer that cannot be read ({type(error).__name__}); download "
            "it again."
        ) from error
    return tokens
