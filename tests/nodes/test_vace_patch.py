"""View-time attention on ComfyUI's own VACE network, and what else is done to one.

On the stand-in, and beside a real ComfyUI where COMFYUI_PATH is set to a checkout of one.
"""

import pytest
import torch

from ..comfyui import needs_comfyui
from ..tiny import tiny_vace
from .vace_models import NOISE, comfy_vace, controlled, sample


@torch.inference_mode()
@pytest.mark.parametrize("contexts", [1, 2])
@pytest.mark.parametrize("frames", [2, 3], ids=["no reference", "a reference"])
def test_without_view_strength_the_views_are_what_stock_sampling_gives(nodes, contexts, frames):
    """A reference image is one latent frame more, for the patch as for the network."""
    model = comfy_vace(tiny_vace())
    noise = torch.randn(3, 16, frames, 4, 4, generator=torch.Generator().manual_seed(0))
    stock = torch.cat(
        [
            sample(model, noise[v : v + 1], controlled(contexts, frames, slice(v, v + 1)))
            for v in range(3)
        ]
    )

    def patched(views, strength):
        latent = {"samples": torch.zeros(views, 16, frames, 4, 4), nodes.types.CONTROLLED: True}
        return nodes.ApplyViewTimeAttention.execute(model, latent, strength).args[0]

    one = sample(patched(1, 1.0), noise[:1], controlled(contexts, frames, slice(1)))
    torch.testing.assert_close(one, stock[:1], atol=1e-4, rtol=0)
    texts = controlled(contexts, frames)
    torch.testing.assert_close(sample(patched(3, 0.0), noise, texts), stock, atol=1e-4, rtol=0)
    coupled = sample(patched(3, 1.0), noise, texts)
    assert (coupled - stock).abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("words", [9, 24], ids=["fewer words", "as many words as tokens"])
def test_other_overrides_keep_the_calls_of_cross_attention(nodes, words):
    """Of main and VACE blocks, even where the text has as many tokens as the grid."""
    model = comfy_vace(tiny_vace())
    lengths = []

    def spy(function, q, k, v, *args, **options):
        lengths.append((q.shape[1], k.shape[1]))
        return function(q, k, v, *args, **options)

    text = torch.randn(1, words, 32, generator=torch.Generator().manual_seed(4))
    texts = [[[text, values]] for ((_, values),) in controlled(2, 2)]
    results = []
    for strength, override in ((1.0, None), (1.0, spy), (0.0, spy)):
        other = model.clone()
        if override is not None:
            other.model_options["transformer_options"]["optimized_attention_override"] = override
        latent = {"samples": torch.zeros_like(NOISE)}
        patched = nodes.ApplyViewTimeAttention.execute(other, latent, strength).args[0]
        results.append(sample(patched, NOISE, texts, cfg=1.0))
    # Two runs of two steps: four main blocks, and two VACE blocks for each of two contexts.
    assert lengths == [(24, words)] * 2 * 2 * (4 + 2 * 2)
    assert torch.equal(results[0], results[1])
    assert (results[0] - results[2]).abs().max() > 1e-4


@torch.inference_mode()
def test_a_model_that_is_shown_nothing_is_refused_references_of_grid_latent(nodes):
    model = comfy_vace(tiny_vace())
    conventions = nodes.view_time.conventions_of(model)
    assert (conventions["conditioning"], conventions["max_frames"]) == ("mask", 21)
    known = torch.tensor([[True, False]] * 3)
    with pytest.raises(ValueError, match="connect Grid VACE in the place of Grid Latent"):
        nodes.ApplyViewTimeAttention.execute(
            model, {"samples": torch.zeros_like(NOISE), nodes.types.KNOWN: known}, 1.0
        )


@needs_comfyui
@torch.inference_mode()
def test_lora_of_the_stock_loader_and_fp8_weights_work_under_the_patch(nodes):
    """In main blocks and in VACE blocks."""
    import comfy.sd

    model, texts = comfy_vace(tiny_vace()), controlled(1, 2)
    latent = {"samples": torch.zeros_like(NOISE), nodes.types.CONTROLLED: True}

    def sampled(model):
        patched = nodes.ApplyViewTimeAttention.execute(model, latent, 1.0).args[0]
        return sample(patched, NOISE, texts)

    whole = sampled(model)
    for block in ("blocks.0", "vace_blocks.1"):
        generator = torch.Generator().manual_seed(0)
        lora = {
            f"diffusion_model.{block}.self_attn.q.lora_{part}.weight": torch.randn(
                shape, generator=generator
            )
            for part, shape in (("down", (4, 48)), ("up", (48, 4)))
        }
        changed, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
        assert (sampled(changed) - whole).abs().max() > 1e-3
    assert torch.equal(sampled(model), whole)
    network = model.model.diffusion_model
    for block in (network.blocks[0], network.vace_blocks[1]):
        for layer in block.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
                layer.comfy_cast_weights = True
    small = sampled(model)
    assert 1e-5 < (small - whole).abs().mean() < 0.1 * whole.abs().mean()


@needs_comfyui
@torch.inference_mode()
def test_two_vace_models_take_turns_in_two_stages(nodes):
    """As with the two of Wan 2.2 VACE-Fun A14B: each is patched, and strength 0 stays stock."""
    import comfy.sample
    import comfy.samplers

    high, low = comfy_vace(tiny_vace()), comfy_vace(tiny_vace(head_size=48))
    sigmas = torch.tensor([1.0, 0.9, 0.5, 0.0])

    def in_two_stages(models, noise, texts):
        latents = torch.zeros_like(noise)
        for model, part in zip(models, (sigmas[:3], sigmas[2:])):
            latents = comfy.sample.sample_custom(
                model,
                noise if model is models[0] else torch.zeros_like(noise),
                3.0,
                comfy.samplers.sampler_object("euler"),
                part,
                *texts,
                latents,
                disable_pbar=True,
            )
        return latents

    latent = {"samples": torch.zeros_like(NOISE), nodes.types.CONTROLLED: True}
    patched = [nodes.ApplyViewTimeAttention.execute(m, latent, 0.0).args[0] for m in (high, low)]
    stock = [
        in_two_stages((high, low), NOISE[v : v + 1], controlled(1, 2, slice(v, v + 1)))
        for v in range(3)
    ]
    together = in_two_stages(patched, NOISE, controlled(1, 2))
    torch.testing.assert_close(together, torch.cat(stock), atol=1e-4, rtol=0)
