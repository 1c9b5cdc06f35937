"""Fused view-time attention in ComfyUI's own Wan MODEL: a patch, no fork and no new weights.

A grid LATENT reaches the network as a batch of V views. A wrapper around the network folds the
batch into one sequence of V*F frames, an object patch puts the rotary positions of view v at
v * max_frames, and an attention override lets each token attend over the grid (paper, section
3.1), in the blocks of VACE too. What comes out of the network is unfolded into views again.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import comfy.model_base
import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from einops import rearrange
from torch import Tensor

from fourreal.grid import grid_to_sequence, sequence_to_grid
from fourreal.video.conditioning import WAN_CONVENTIONS, model_inputs

from . import types

KEY = "fourreal"  # of the attachment on a MODEL, which holds its conventions, and of the wrapper
NOT_VACE = (
    "shows a video to a VACE model, which this MODEL is not; load a Wan VACE model, or connect "
    "Grid Latent."
)


def wan_conventions(channels: int, vace: bool) -> dict:
    """Wan's own: conditioning, max_frames and shift by the number of latent channels, and of VACE
    models."""
    return asdict(WAN_CONVENTIONS[channels]) | ({"conditioning": "mask"} if vace else {})


def conventions_of(model: ModelPatcher) -> dict:
    """How a Wan MODEL takes references (conditioning; mask: VACE) and spaces views (max_frames).

    They are what the MODEL's loader noted, with whatever else its file says about itself, else
    Wan's own. Raises ValueError for a MODEL that is not Wan, or needs more than text.
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
        return noted
    if isinstance(model.model, comfy.model_base.WAN21):  # also the base of Wan 2.2
        return wan_conventions(channels, hasattr(network, "vace_blocks"))
    raise ValueError(
        f"this MODEL is {type(model.model).__name__}, but view-time attention works on Wan 2.1 and "
        "2.2 text-to-video models; load one of these or the embedded models."
    )


def check_model_of(latent: dict, model: ModelPatcher) -> None:
    """Raise ValueError where the LATENT of Grid VACE goes to a MODEL that is not VACE."""
    if latent.get(types.CONTROLLED) and conventions_of(model)["conditioning"] != "mask":
        raise ValueError(f"this LATENT {NOT_VACE}")


def patch_for_grid(
    model: ModelPatcher, known: Tensor, references: Tensor, view_strength: float = 1.0
) -> ModelPatcher:
    """A clone of a Wan MODEL that samples grids of known's size [V, F], with their references.

    known is boolean, references are latents [V, C, F, h, w] of which the known cells count. The
    clone works with any sampler; the given MODEL is not changed. Raises ValueError when the model,
    the grid or the references cannot be used.
    """
    from fourreal.attention import view_time_positions  # slow to import

    conventions = conventions_of(model)
    num_views, num_frames = known.shape
    view_time_positions(num_views, num_frames, conventions["max_frames"])  # refuses long grids
    sequence = None
    if known.any():
        if conventions["conditioning"] == "mask":
            raise ValueError(
                "this MODEL is a VACE model, which takes what is known as a video with a mask; "
                "connect Grid VACE in the place of Grid Latent."
            )
        channels = model.get_model_object("latent_format").latent_channels
        if references.shape[1] != channels:
            raise ValueError(
                f"the references have {references.shape[1]} latent channels, but this MODEL "
                f"has {channels}; connect the VAE that belongs to it to Grid Latent."
            )
        sequence = grid_to_sequence(model.model.process_latent_in(references))
    patch = GridPatch(
        known,
        sequence,
        conventions["conditioning"],
        conventions["max_frames"],
        view_strength,
        model.get_model_object("diffusion_model").text_dim,
    )
    patched = model.clone()
    network = patched.get_model_object("diffusion_model")
    # The classes' methods: on a MODEL that is patched twice, the last grid counts.
    stock_rope_encode = type(network).rope_encode.__get__(network)
    patched.add_object_patch(
        "diffusion_model.rope_encode", partial(patch.rope_encode, stock_rope_encode)
    )
    stock_extra_conds = type(model.model).extra_conds.__get__(model.model)
    patched.add_object_patch("extra_conds", partial(patch.extra_conds, stock_extra_conds))
    wrapper = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    patched.remove_wrappers_with_key(wrapper, KEY)
    patched.add_wrapper_with_key(wrapper, KEY, patch.run_network)
    if patch.conditioning == "add" and sequence is not None:
        # The model generates the known cells itself, so the sampler must not hold them.
        patched.set_model_denoise_mask_function(lambda _, mask, **__: torch.ones_like(mask))
    return patched


def size_of(latents: Tensor) -> str:
    """The size of latents [V, C, F, h, w] in words."""
    views, _, frames, height, width = latents.shape
    return f"{views} views of {frames} latent frames of {width} x {height}"


@dataclass
class GridPatch:
    """What a patched MODEL does for one grid.

    known [V, F]; references [1, C, V*F, h, w] as the network sees latents, None where nothing is
    known; text_dim: the width of the text that the network reads; the rest as in patch_for_grid.
    """

    known: Tensor
    references: Tensor | None
    conditioning: str
    max_frames: int
    view_strength: float
    text_dim: int

    @property
    def num_views(self) -> int:
        return len(self.known)

    @property
    def num_frames(self) -> int:
        return self.known.shape[1]

    def rope_encode(self, stock: Callable[..., Tensor], t: int, h: int, w: int, **given) -> Tensor:
        """Wan's rotary table for V*F frames, the views max_frames apart."""
        given["dtype"] = torch.float32  # positions above 256 are not exact in bfloat16
        views = [
            stock(self.num_frames, h, w, **(given | {"t_start": view * self.max_frames}))
            for view in range(self.num_views)
        ]
        return torch.cat(views, dim=1)

    def extra_conds(self, stock: Callable[..., dict], **given) -> dict:
        """Core's inputs of the network from a CONDITIONING, for a LATENT like noise. Raises
        ValueError for a LATENT of another grid, for a text of another encoder, and for a video that
        is shown to a MODEL that is not VACE or is of another grid, which core would repeat or cut.
        """
        shown, noise, text = given.get("vace_frames", ()), given["noise"], given.get("cross_attn")
        self.check_grid(len(noise), noise.shape[2])
        if shown and self.conditioning != "mask":
            raise ValueError(f"this CONDITIONING {NOT_VACE}")
        for part in shown:
            if len(part) not in (1, self.num_views) or part.shape[2:] != noise.shape[2:]:
                raise ValueError(
                    f"this CONDITIONING shows {size_of(part)}, but the LATENT has "
                    f"{size_of(noise)}; connect the LATENT of Grid VACE."
                )
        if text is not None and text.shape[-1] != self.text_dim:
            raise ValueError(
                f"this CONDITIONING has {text.shape[-1]} numbers per word, but this MODEL reads "
                f"{self.text_dim}; encode the text with the CLIP that belongs to the MODEL."
            )
        return stock(**given)

    def check_grid(self, num_views: int, num_frames: int) -> None:
        """Raise ValueError unless the sampler's LATENT has the size of the patch."""
        if (num_views, num_frames) != tuple(self.known.shape):
            raise ValueError(
                f"this MODEL was set up for a grid of {self.num_views} views x {self.num_frames} "
                f"latent frames, but is given one of {num_views} x {num_frames}; connect the same "
                "LATENT to Apply View-Time Attention and to the sampler."
            )

    def run_network(
        self,
        executor: Callable[..., Tensor],
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        clip_fea: Tensor | None = None,
        time_dim_concat: Tensor | None = None,
        transformer_options: dict | None = None,
        vace_context: Tensor | None = None,
        **others,
    ) -> Tensor:
        """The network on a batch of grids [n*V, C, F, h, w]: with text, without, or one of them.

        vace_context [n*V, k, 96, F, h, w]: what a VACE network is shown, k times.
        """
        count = len(x) // self.num_views

        def first_view_of_each(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.unflatten(0, (count, self.num_views))[:, 0]

        options = transformer_options or {}
        if vace_context is not None:
            views = {"v": self.num_views}
            others["vace_context"] = rearrange(
                vace_context, "(n v) k c f h w -> n k c (v f) h w", **views
            )
        attend = self.attention_override(
            options.get("optimized_attention_override"), context.shape[1]
        )
        out = executor(
            *self.sequence_inputs(x, timestep, count),
            first_view_of_each(context),
            first_view_of_each(clip_fea),
            time_dim_concat,
            options | {"optimized_attention_override": attend},
            **others,
        )
        return sequence_to_grid(out, self.num_views)

    def sequence_inputs(self, x: Tensor, timestep: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Sequences [n, C, V*F, h, w] of n grids, with the references in, and their timesteps."""
        sequence = rearrange(x, "(n v) c f h w -> n c (v f) h w", v=self.num_views)
        # One noise level per grid; ComfyUI may already have spread it over frames by a mask.
        level = timestep.reshape(count, -1).amax(dim=1)
        if self.references is None:
            return sequence, level
        known = self.known.flatten()[None]
        # ComfyUI's Wan takes a timestep per frame, not per token: frames of one row, one column.
        return model_inputs(
            sequence, self.references.to(sequence), known, level, self.conditioning, 1, 1
        )

    def attention_override(
        self, previous: Callable[..., Tensor] | None, text_tokens: int
    ) -> Callable[..., Tensor]:
        """ComfyUI's attention override for one run of the network: grid attention for
        self-attention, which has as many keys as queries; `previous`, another pack's override, or
        ComfyUI's own function for the rest. Should the text have text_tokens as many, the two
        are told apart by their order: they alternate in each block."""
        from fourreal.attention import view_time_attention

        after_self_attention = False

        def attend(function, q, k, v, heads, *args, **options) -> Tensor:
            nonlocal after_self_attention
            as_many = q.shape[1] == k.shape[1]
            told_by_order = as_many and k.shape[1] == text_tokens
            after_self_attention = as_many and not (told_by_order and after_self_attention)
            if not after_self_attention:
                if previous is not None:
                    return previous(function, q, k, v, heads, *args, **options)
                return function(q, k, v, heads, *args, **options)
            q, k, v = (part.unflatten(-1, (heads, -1)) for part in (q, k, v))
            out = view_time_attention(
                q, k, v, self.num_views, self.num_frames, view_strength=self.view_strength
            )
            return out.flatten(2)

        return attend
