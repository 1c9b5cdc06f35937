"""CLIP with a small UMT5, VAE, and the layers that ComfyUI can offload."""

from functools import cache
from types import SimpleNamespace

import torch
from torch import nn

from .models import CPU


class VAE:
    def __init__(self, sd=None, device=None, config=None, dtype=None, metadata=None):
        """Of a VAE without weights: images in [0, 1] are latents in [-1, 1]."""
        assert sd.keys() == {"pixel_space_vae"}
        self.device, self.upscale_ratio, self.latent_channels = CPU, 1, 3
        self.process_input = lambda image: image * 2 - 1
        self.process_output = lambda image: ((image + 1) / 2).clamp(0, 1)

    def encode(self, pixel_samples):
        return self.first_stage_model.encode(self.process_input(pixel_samples).movedim(-1, 0)[None])

    def decode(self, samples_in):
        return self.process_output(self.first_stage_model.decode(samples_in)).movedim(1, -1)

    def spacial_compression_encode(self):
        return self.upscale_ratio[1]


@cache
def text_network():
    """UMT5 of transformers, which has the tensors and attributes of ComfyUI's."""
    from transformers import UMT5Config, UMT5EncoderModel

    class T5(UMT5EncoderModel):
        def __init__(self, config_dict, dtype, device, operations):
            super().__init__(UMT5Config(**config_dict))

        def state_dict(self, *args, **options):
            tensors = super().state_dict(*args, **options)
            return {k: v for k, v in tensors.items() if k != "encoder.embed_tokens.weight"}

        def load_state_dict(self, state_dict):
            return super().load_state_dict(state_dict, strict=False)

    return T5


class SDClipModel(nn.Module):
    def __init__(
        self,
        device="cpu",
        dtype=None,
        textmodel_json_config=None,
        model_class=None,
        special_tokens=None,
        enable_attention_masks=False,
        zero_out_masked=False,
        model_options=None,
    ):
        super().__init__()
        operations = SimpleNamespace(Embedding=nn.Embedding)
        self.transformer = model_class(textmodel_json_config, dtype, device, operations).eval()
        self.end = special_tokens["end"]

    def _encode(self, tokens):
        ids = torch.tensor([[token for token, _ in row] for row in tokens])
        ends = (ids == self.end).int()
        mask = (ends.cumsum(1) - ends == 0).long()  # up to the first end token
        return self.transformer(ids, mask).last_hidden_state * mask[..., None]


class SD1ClipModel(nn.Module):
    def __init__(
        self,
        device="cpu",
        dtype=None,
        model_options=None,
        clip_name="l",
        clip_model=None,
        name=None,
    ):
        super().__init__()
        setattr(self, name, clip_model(device=device, dtype=dtype, model_options=model_options))


class ClipTarget:
    def __init__(self, tokenizer, clip):
        self.tokenizer, self.clip = tokenizer, clip


class CLIP:
    def __init__(self, target, parameters=0):
        self.cond_stage_model, self.tokenizer = target.clip(), target.tokenizer()

    def tokenize(self, text):
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens_scheduled(self, tokens):
        ((name, rows),) = tokens.items()
        return [[getattr(self.cond_stage_model, name)._encode(rows), {}]]


class Layer:
    comfy_cast_weights = False


KINDS = ("Linear", "Conv2d", "ConvTranspose2d", "LayerNorm")
disable_weight_init = type(
    "disable_weight_init", (), {k: type(k, (getattr(nn, k), Layer), {}) for k in KINDS}
)
