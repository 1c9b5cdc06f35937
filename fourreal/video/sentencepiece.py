"""A SentencePiece unigram model, as it lies in ComfyUI's UMT5 file, as a transformers tokenizer.

Of the protocol buffer (google/sentencepiece, sentencepiece_model.proto) only the pieces, the
normalisation table and the byte fallback are read, so neither sentencepiece nor protobuf is needed.
"""

import struct
from collections.abc import Iterator

UNKNOWN = 2  # of SentencePiece.Type; 1, normal, when it is not stored
WHITESPACE = "▁"


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protocol buffer message; integers, or bytes of anything else."""
    place = 0

    def varint() -> int:
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}[kind] if kind != 2 else varint()
        yield number, message[place : place + size]
        place += size


def load_sentencepiece(model: bytes, max_tokens: int):
    """The fast tokenizer of a serialised SentencePiece unigram model that ends texts with </s>.

    Raises ValueError when the bytes are no such model.
    """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    pieces, kinds, charsmap, byte_fallback = [], [], b"", False
    try:
        for number, value in fields(model):
            if number == 1:
                piece = dict(fields(value))
                pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0]))
                kinds.append(piece.get(3, 1))
            elif number == 2:
                byte_fallback = bool(dict(fields(value)).get(35, False))
            elif number == 3:
                charsmap = dict(fields(value)).get(2, b"")
        unknown = kinds.index(UNKNOWN)
        end, pad = ([piece for piece, _ in pieces].index(name) for name in ("</s>", "<pad>"))
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(
            "the tokenizer is not a SentencePiece model with </s>, <pad> and an unknown piece; use "
            "the spiece.model of google/umt5-xxl."
        ) from error
    tokenizer = Tokenizer(Unigram(pieces, unknown, byte_fallback))
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(WHITESPACE, prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(WHITESPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pieces[pad][0],
        eos_token=pieces[end][0],
        unk_token=pieces[unknown][0],
        model_max_length=max_tokens,
    )
