"""A SentencePiece unigram model, as it lies in ComfyUI's UMT5 file, as a transformers tokenizer.

Read by hand on purpose: transformers reads such a model only with the packages sentencepiece and
protobuf, two dependencies for three fields of one protocol buffer (google/sentencepiece,
sentencepiece_model.proto): the pieces, the normalisation table and the byte fallback. The tests
compare the tokens with the sentencepiece package's.
"""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNKNOWN = 2  # of SentencePiece.Type; 1, normal, when it is not stored
WHITESPACE = "▁"


def message_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protocol buffer message: an int, or the bytes of anything else.

    Raises IndexError or KeyError where the bytes are no such message.
    """
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


def load_sentencepiece(model: bytes, max_tokens: int) -> "PreTrainedTokenizerFast":
    """The fast tokenizer of a serialised SentencePiece unigram model that ends texts with </s>.

    max_tokens is its model_max_length. Raises ValueError when the bytes are no such model.
    """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    pieces, kinds, charsmap, byte_fallback = [], [], b"", False
    try:
        for number, value in message_fields(model):
            if number == 1:
                piece = dict(message_fields(value))
                pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0]))
                kinds.append(piece.get(3, 1))
            elif number == 2:
                byte_fallback = bool(dict(message_fields(value)).get(35, False))
            elif number == 3:
                charsmap = dict(message_fields(value)).get(2, b"")
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
