"""Text embeddings of captions, encoded once by a text encoder that is not trained."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from fourreal.data.cache import TensorCache, fingerprint
from fourreal.video.pipeline import ViewTimePipeline


class CaptionEmbeddings:
    """Embeddings of all captions of a training run, kept on disk under the encoder's fingerprint.

    Afterwards neither training nor sampling (which takes prompt_embeds) needs the encoder.
    """

    def __init__(self, pipe: ViewTimePipeline, captions: Iterable[str], folder: Path):
        """Encode the captions that the folder does not hold yet, on the pipeline's device."""
        self.cache = TensorCache(folder)
        self.name, self.max_tokens = fingerprint(pipe.text_encoder), pipe.max_tokens
        for caption in {"", *captions}:
            self.cache.get(self._key(caption), partial(encode_caption, pipe, caption))

    def _key(self, caption: str) -> str:
        return f"{self.name} {self.max_tokens} {caption}"

    def __call__(self, caption: str) -> Tensor:
        """[1, max_tokens, D] of a caption, zeros after its end. Raises KeyError for another one."""
        text = self.cache.read(self._key(caption))
        if text is None:
            raise KeyError(caption)
        return pad(text, (0, 0, 0, self.max_tokens - text.shape[1])).float()


@torch.no_grad()
def encode_caption(pipe: ViewTimePipeline, caption: str) -> Tensor:
    """The embeddings [1, L, D] of a caption as far as it goes; the rest is zeros."""
    text = pipe.encode_prompt(caption)
    return text[:, : int(text[0].any(-1).nonzero().max()) + 1]
