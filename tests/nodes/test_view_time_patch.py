"""The patch of a Wan MODEL beside what else is done to one in a real ComfyUI."""

import torch

from ..comfyui import CHANNELS, needs_comfyui, one_conditioning

pytestmark = needs_comfyui


@torch.inference_mode()
def test_without_view_strength_the_views_are_what_stock_sampling_gives(nodes, embedded):
    """And the patch leaves the MODEL that it was made from as it was."""
    import comfy.sample
    import comfy.samplers

    model, vae = embedded.model, embedded.vae
    positive, negative = embedded.text()
    noise = torch.randn(3, CHANNELS, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def sample(model, noise):
        return comfy.sample.sample_custom(
            model,
            noise,
            4.0,
            comfy.samplers.sampler_object("euler"),
            torch.tensor([1.0, 0.7, 0.0]),
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
        )

    stock = torch.cat([sample(model, view) for view in noise.split(1)])
    one, three = (nodes.GridLatent.execute(v, 9, 32, 32, vae).args[0] for v in (1, 3))
    patched = nodes.ApplyViewTimeAttention.execute(model, one, 1.0).args[0]
    torch.testing.assert_close(sample(patched, noise[:1]), stock[:1], atol=1e-4, rtol=0)
    # Patched again, for another grid: the last one counts.
    patched = nodes.ApplyViewTimeAttention.execute(patched, three, 0.0).args[0]
    torch.testing.assert_close(sample(patched, noise), stock, atol=1e-4, rtol=0)
    coupled = nodes.ApplyViewTimeAttention.execute(patched, three, 1.0).args[0]
    assert (sample(coupled, noise) - stock).abs().max() > 1e-3
    assert torch.equal(sample(model, noise[:1]), stock[:1])


@torch.inference_mode()
@one_conditioning
def test_known_cells_stay_the_references_and_other_overrides_keep_their_calls(nodes, embedded):
    """With stock sampling, a latent format that is not the identity, and another pack's patch."""
    import comfy.latent_formats
    import comfy.sample

    model, vae = embedded.model, embedded.vae
    model.model.latent_format = comfy.latent_formats.Wan21()
    positive, negative = embedded.text()
    images = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    latent = nodes.GridLatent.execute(3, 9, 32, 32, vae, freeze_time=images).args[0]
    lengths = []

    def spy(function, q, k, v, *args, **options):
        lengths.append((q.shape[1], k.shape[1]))
        return function(q, k, v, *args, **options)

    other = model.clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = spy
    patched = nodes.ApplyViewTimeAttention.execute(other, latent, 1.0).args[0]
    noise = comfy.sample.prepare_noise(latent["samples"], 0)
    out = comfy.sample.sample(
        patched,
        noise,
        2,
        1.0,
        "euler",
        "simple",
        positive,
        negative,
        latent["samples"],
        noise_mask=latent["noise_mask"],
        disable_pbar=True,
    )
    torch.testing.assert_close(out[:, :, 0], latent["samples"][:, :, 0], atol=1e-4, rtol=0)
    assert (out[:, :, 1:] - latent["samples"][:, :, 1:]).abs().mean() > 0.1
    # Two steps of two blocks, cross-attention only: 3 x 3 frames of 2 x 2 tokens, 32 words.
    assert lengths == [(36, 32)] * 4


@torch.inference_mode()
@one_conditioning
def test_a_lora_of_the_stock_loader_changes_the_grid_and_leaves_the_model(nodes, embedded):
    import comfy.sample
    import comfy.sd

    model = embedded.model
    positive, negative = embedded.text()
    latent = nodes.GridLatent.execute(2, 5, 32, 32).args[0]  # no VAE: fitted by the sampler
    key = "diffusion_model.blocks.0.self_attn.q"
    generator = torch.Generator().manual_seed(0)
    lora = {
        f"{key}.lora_down.weight": torch.randn(4, 256, generator=generator) / 16,
        f"{key}.lora_up.weight": torch.randn(256, 4, generator=generator),
    }
    changed, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)

    def sample(model):
        return nodes.ViewTimeSampler.execute(
            model, positive, negative, latent, 7, 2, 2.0, "euler", "simple", 1.0
        ).args[0]["samples"]

    before, with_lora = sample(model), sample(changed)
    assert before.shape == (2, CHANNELS, 2, 4, 4)
    assert (with_lora - before).abs().max() > 1e-3
    assert torch.equal(sample(model), before)


@torch.inference_mode()
@one_conditioning
def test_easycache_and_fp8_weights_work_under_the_patch(nodes, embedded, monkeypatch):
    import comfy.sample
    import comfy.samplers
    from comfy_extras.nodes_easycache import EasyCacheHolder, EasyCacheNode

    model = embedded.model
    positive, negative = embedded.text()
    latent = nodes.GridLatent.execute(2, 5, 32, 32).args[0]
    # It writes into its input, which in half precision is a copy and here is the sampler's own.
    stock = EasyCacheHolder.apply_cache_diff
    monkeypatch.setattr(
        EasyCacheHolder,
        "apply_cache_diff",
        lambda self, x, *rest, **options: stock(self, x.clone(), *rest, **options),
    )
    runs, cell = [], model.model.diffusion_model.patch_embedding
    cell.register_forward_hook(lambda *_: runs.append(1))

    def sample(model):
        runs.clear()
        noise = torch.randn(2, CHANNELS, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        return comfy.sample.sample_custom(
            model,
            noise,
            2.0,
            comfy.samplers.sampler_object("euler"),
            torch.linspace(1, 0, 9),
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
        )

    def patch(model, strength=0.0):
        return nodes.ApplyViewTimeAttention.execute(model, latent, strength).args[0]

    def cache(model):
        return EasyCacheNode.execute(model, 0.5, 0.15, 0.95, False).args[0]

    sample(patch(model))
    assert len(runs) == 8
    # Independent views are a batch of stock videos, and so is what EasyCache makes of them.
    expected = sample(cache(model))
    skipped_to = len(runs)
    for both in (patch(cache(model)), cache(patch(model))):
        torch.testing.assert_close(sample(both), expected, atol=1e-4, rtol=0)
        assert len(runs) == skipped_to < 8

    whole = sample(patch(model, 1.0))
    network = model.model.diffusion_model
    for layer in network.blocks[0].modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
            layer.comfy_cast_weights = True
    small = sample(patch(model, 1.0))
    assert network.blocks[0].self_attn.q.weight.dtype == torch.float8_e4m3fn
    assert 1e-4 < (small - whole).abs().mean() < 0.1 * whole.abs().mean()
