"""Fused view-time attention in ComfyUI's own Wan MODEL: a patch, no fork and no new weights.

A diffusion-model wrapper folds the V views of a grid latent into one sequence, the rotary
positions become v * max_frames + f, and self-attention runs over the grid (paper, section 3.1).
"""

import comfy.model_base
import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from einops import rearrange
from torch import Tensor

KEY = "fourreal"  # of the attachment on a MODEL, of the wrapper, and before the LATENT's keys
KNOWN = "fourreal_known"  # LATENT key: boolean [V, F], the cells that are references


def conventions(model: ModelPatcher) -> tuple[str, int]:
    """(conditioning, max_frames) of a Wan MODEL: what its loader noted, else its family's.

    Raises ValueError for a MODEL that is not Wan, or needs more than text.
    """
    network = model.get_model_object("diffusion_model")
    channels = model.get_model_object("latent_format").latent_channels
    if getattr(network, "in_dim", channels) != channels:
        raise ValueError(
            f"this MODEL takes {network.in_dim} channels, {channels} of them latents, so it needs "
            "an image or other control; load a Wan text-to-video model."
        )
    noted = model.get_attachment(KEY)
    if noted is not None:
        return noted["conditioning"], noted["max_frames"]
    if isinstance(model.model, comfy.model_base.WAN22):
        return "replace", 31
    if isinstance(model.model, comfy.model_base.WAN21):
        return "add", 21
    raise ValueError(
        f"this MODEL is {type(model.model).__name__}, but view-time attention works on Wan 2.1 and "
        "2.2 text-to-video models; load one of these or the embedded models."
    )


def grid_of(latent: dict) -> tuple[int, int, Tensor]:
    """(V, F, known [V, F]) of a grid LATENT. Raises ValueError for a LATENT that is no grid."""
    samples = latent["samples"]
    if samples.is_nested or samples.ndim != 5:
        raise ValueError(
            "this LATENT is not a grid of views and times [V, C, F, h, w]; make it with Grid "
            "Latent."
        )
    num_views, _, num_frames = samples.shape[:3]
    known = latent.get(KNOWN)
    if known is None:
        known = torch.zeros(num_views, num_frames, dtype=torch.bool)
    if known.shape != (num_views, num_frames):
        raise ValueError(
            f"this LATENT holds {num_views} views of {num_frames} latent frames, but was made with "
            f"{known.shape[0]} x {known.shape[1]}; connect the output of Grid Latent unchanged."
        )
    return num_views, num_frames, known


def noise_mask_of(known: Tensor, samples: Tensor) -> Tensor:
    """A LATENT's noise_mask [V, 1, F, h, w], 1 where to generate, of known cells [V, F]."""
    unknown = (~known).float()[:, None, :, None, None]
    return unknown.expand(-1, 1, -1, *samples.shape[-2:]).clone()


def apply_view_time(model: ModelPatcher, latent: dict, view_strength: float = 1.0) -> ModelPatcher:
    """A clone of a Wan MODEL that samples grids of the LATENT's size, with its references.

    latent["samples"] is [V, C, F, h, w]. The clone works with any sampler; the given MODEL is not
    changed. Raises ValueError when the model or the latent cannot be used.
    """
    from fourreal.attention import view_time_attention, view_time_positions
    from fourreal.grid import grid_to_sequence, sequence_to_grid
    from fourreal.video.conditioning import model_inputs

    conditioning, max_frames = conventions(model)
    num_views, num_frames, known = grid_of(latent)
    view_time_positions(num_views, num_frames, max_frames)  # refuses grids that are too long
    channels = model.get_model_object("latent_format").latent_channels
    references = None
    if known.any():
        if latent["samples"].shape[1] != channels:
            raise ValueError(
                f"the references have {latent['samples'].shape[1]} latent channels, but this MODEL "
                f"has {channels}; connect the VAE that belongs to it to Grid Latent."
            )
        references = grid_to_sequence(model.model.process_latent_in(latent["samples"]))
    known_cells = known.flatten()[None]

    patched = model.clone()
    network = patched.get_model_object("diffusion_model")
    # The class's method: on a MODEL that is patched twice, the grid's positions are set once.
    stock_rope_encode = type(network).rope_encode.__get__(network)

    def rope_encode(t, h, w, **options) -> Tensor:
        """Wan's rotary table for V*F frames, the views max_frames apart."""
        options["dtype"] = torch.float32  # positions above 256 are not exact in bfloat16
        views = [
            stock_rope_encode(num_frames, h, w, **(options | {"t_start": v * max_frames}))
            for v in range(num_views)
        ]
        return torch.cat(views, dim=1)

    def run_network(
        executor,
        x,
        timestep,
        context,
        clip_fea=None,
        time_dim_concat=None,
        transformer_options=None,
        **kwargs,
    ) -> Tensor:
        count, remainder = divmod(len(x), num_views)  # conditional and unconditional, or one
        if remainder or x.shape[2] != num_frames:
            raise ValueError(
                f"this MODEL was set up for a grid of {num_views} views x {num_frames} latent "
                f"frames, but is given a batch of {len(x)} x {x.shape[2]}; connect the same LATENT "
                "to Apply View-Time Attention and to the sampler."
            )
        sequence = rearrange(x, "(n v) c f h w -> n c (v f) h w", v=num_views)
        # One noise level per grid; ComfyUI may already have spread it over frames by a mask.
        level = timestep.reshape(count, -1).amax(dim=1)
        if references is not None:
            sequence, level = model_inputs(
                sequence,
                references.to(sequence),
                known_cells.to(x.device),
                level,
                conditioning,
                1,
                1,
            )
        previous = (transformer_options or {}).get("optimized_attention_override")
        block_seen = None

        def attend(function, q, k, v, heads, *args, **options):
            """Grid attention for self-attention, the first of each block; the rest as before."""
            nonlocal block_seen
            block = options["transformer_options"]["block_index"]
            if block == block_seen:
                if previous is not None:
                    return previous(function, q, k, v, heads, *args, **options)
                return function(q, k, v, heads, *args, **options)
            block_seen = block
            q, k, v = (part.unflatten(-1, (heads, -1)) for part in (q, k, v))
            out = view_time_attention(q, k, v, num_views, num_frames, view_strength=view_strength)
            return out.flatten(2)

        def first_of_each(tensor):
            return None if tensor is None else tensor.unflatten(0, (count, num_views))[:, 0]

        options = (transformer_options or {}) | {"optimized_attention_override": attend}
        out = executor(
            sequence,
            level,
            first_of_each(context),
            first_of_each(clip_fea),
            time_dim_concat,
            options,
            **kwargs,
        )
        return sequence_to_grid(out, num_views)

    patched.add_object_patch("diffusion_model.rope_encode", rope_encode)
    wrapper = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    patched.remove_wrappers_with_key(wrapper, KEY)
    patched.add_wrapper_with_key(wrapper, KEY, run_network)
    if conditioning == "add" and references is not None:
        # The model generates the known cells itself, so the sampler must not hold them.
        patched.set_model_denoise_mask_function(lambda _, mask, **__: torch.ones_like(mask))
    return patched
