"""A stand-in for the part of ComfyUI that the nodes use, for where there is no checkout of it.

Names and parameters are ComfyUI's (a test compares them with the real ones), but for what begins
with an underscore. Behind them is the plainest code that gives the same numbers on the CPU: no
memory management, one sampler, one scheduler. `install()` puts it into sys.modules; `execute()`
runs a prompt as the server would.
"""

import contextlib
import math
import sys
import types
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

CPU = torch.device("cpu")
SAMPLERS = ["euler", "lcm"]

# ----- comfy_api.latest -----


class Input:
    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        extra_dict=None,
        raw_link=None,
        advanced=None,
    ):
        self.id, self.optional, self.tooltip = id, optional, tooltip
        self._options = dict(extra_dict or {})


class Output:
    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False):
        self.id, self.display_name, self.tooltip = id, display_name, tooltip


def comfy_type(name: str, input_class=Input):
    """A type of sockets with its Input and Output."""
    bases = {"Input": input_class, "Output": Output}
    parts = {k: type(k, (base,), {"io_type": name}) for k, base in bases.items()}
    return type(name, (), parts | {"io_type": name})


def Custom(io_type):
    return comfy_type(io_type)


def widget(*names: str):
    """An Input class with a default and the options of these names."""

    class WidgetInput(Input):
        def __init__(self, id, **given):
            common = {k: v for k, v in given.items() if k in ("optional", "tooltip", "advanced")}
            super().__init__(id, **common)
            options = {k: v for k, v in given.items() if k not in common}
            assert options.keys() <= {"default", *names}, options.keys()
            self._options = options
            vars(self).update(options)

        _accepts = ("id", "optional", "tooltip", "advanced", "default", *names)

    return WidgetInput


class MultiTypeInput(Input):
    def __init__(self, id, types, optional=False, tooltip=None):
        super().__init__(id, optional=optional, tooltip=tooltip)
        self.io_type = ",".join(t.io_type for t in types)


class AutogrowInput(Input):
    io_type = "COMFY_AUTOGROW_V3"

    def __init__(self, id, template, optional=False, tooltip=None):
        super().__init__(id, optional=optional, tooltip=tooltip)


class TemplatePrefix:
    def __init__(self, input, prefix, min=1, max=10):
        self.input, self.prefix = input, prefix


@dataclass
class Schema:
    node_id: str
    display_name: str = None
    category: str = None
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    hidden: list = field(default_factory=list)
    description: str = ""
    search_aliases: list = field(default_factory=list)
    is_output_node: bool = False


class NodeOutput:
    def __init__(self, *args, ui=None):
        self.args, self.ui = args, ui


class ComfyNode:
    hidden = SimpleNamespace(unique_id=None)

    @classmethod
    def GET_SCHEMA(cls):
        return cls.define_schema()


class ComfyExtension:
    async def on_load(self):
        pass


class SPLAT:
    def __init__(self, positions, scales, rotations, opacities, sh, counts=None):
        self.positions, self.scales, self.rotations = positions, scales, rotations
        self.opacities, self.sh, self.counts = opacities, sh, counts


@dataclass
class VideoComponents:
    images: torch.Tensor
    frame_rate: float


class VideoFromComponents:
    def __init__(self, components):
        self.components = components

    def get_components(self):
        return self.components


SOCKETS = {
    "Image": "IMAGE",
    "Mask": "MASK",
    "Latent": "LATENT",
    "Model": "MODEL",
    "Clip": "CLIP",
    "Vae": "VAE",
    "Conditioning": "CONDITIONING",
    "Video": "VIDEO",
    "Splat": "SPLAT",
    "Load3DCamera": "LOAD3D_CAMERA",
}
io = SimpleNamespace(
    **{name: comfy_type(kind) for name, kind in SOCKETS.items()},
    Int=comfy_type("INT", widget("min", "max", "step", "control_after_generate")),
    Float=comfy_type("FLOAT", widget("min", "max", "step", "round")),
    String=comfy_type("STRING", widget("multiline", "dynamic_prompts")),
    Boolean=comfy_type("BOOLEAN", widget()),
    Color=comfy_type("COLOR", widget()),
    Combo=comfy_type("COMBO", widget("options")),
    MultiType=SimpleNamespace(Input=MultiTypeInput),
    Autogrow=SimpleNamespace(Input=AutogrowInput, TemplatePrefix=TemplatePrefix),
    Hidden=SimpleNamespace(unique_id="UNIQUE_ID"),
    Custom=Custom,
    Schema=Schema,
    NodeOutput=NodeOutput,
    ComfyNode=ComfyNode,
)

# ----- comfy: models and their memory -----


class InterruptProcessingException(BaseException):
    pass


interrupted = False


def interrupt_current_processing(value=True):
    global interrupted
    interrupted = value


def throw_exception_if_processing_interrupted():
    if interrupted:
        interrupt_current_processing(False)
        raise InterruptProcessingException


def load_models_gpu(models, memory_required=0):
    pass


def free_memory(memory_required, device):
    return []


class ProgressBar:
    def __init__(self, total):
        self.total = total

    def update_absolute(self, value, total=None, preview=None):
        self.value = value


class LatentFormat:
    latent_rgb_factors = None
    latent_rgb_factors_bias = None

    def process_in(self, latent):
        return latent

    def process_out(self, latent):
        return latent


class ModelPatcher:
    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.object_patches, self.attachments, self.wrappers = {}, {}, {}
        self.model_options = {"transformer_options": {}}

    def clone(self):
        other = type(self)(self.model, self.load_device, self.offload_device)
        other.object_patches = dict(self.object_patches)
        other.attachments = dict(self.attachments)
        other.wrappers = {kind: dict(found) for kind, found in self.wrappers.items()}
        other.model_options = dict(self.model_options)
        other.model_options["transformer_options"] = dict(self.model_options["transformer_options"])
        return other

    def get_model_object(self, name):
        if name in self.object_patches:
            return self.object_patches[name]
        found = self.model
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def add_object_patch(self, name, obj):
        self.object_patches[name] = obj

    def set_attachments(self, key, attachment):
        self.attachments[key] = attachment

    def get_attachment(self, key):
        return self.attachments.get(key)

    def add_wrapper_with_key(self, wrapper_type, key, wrapper):
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, wrapper_type, key):
        self.wrappers.get(wrapper_type, {}).pop(key, None)

    def set_model_denoise_mask_function(self, denoise_mask_function):
        self.model_options["denoise_mask_function"] = denoise_mask_function

    @contextlib.contextmanager
    def _patched(self):
        """The model with the object patches in place."""
        places = [(*name.rpartition(".")[::2], new) for name, new in self.object_patches.items()]
        for owner, name, new in places:
            setattr(self.get_model_object(owner), name, new)
        try:
            yield
        finally:
            for owner, name, _ in places:
                delattr(self.get_model_object(owner), name)


# ----- comfy: Wan -----


def attention(q, k, v, heads, transformer_options=None):
    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    out = nn.functional.scaled_dot_product_attention(split(q), split(k), split(v))
    return out.transpose(1, 2).flatten(2)


def optimized_attention(q, k, v, heads, transformer_options):
    override = transformer_options.get("optimized_attention_override")
    if override is None:
        return attention(q, k, v, heads)
    return override(attention, q, k, v, heads, transformer_options=transformer_options)


class Attention(nn.Module):
    def __init__(self, dim, heads, eps):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps), nn.RMSNorm(dim, eps)

    def forward(self, x, context, turns, options):
        q, k = self.norm_q(self.q(x)), self.norm_k(self.k(context))
        if turns is not None:
            q, k = (
                (turns * p.unflatten(-1, (self.heads, -1, 1, 2))).sum(-1).flatten(2) for p in (q, k)
            )
        return self.o(optimized_attention(q, k, self.v(context), self.heads, options))


class Block(nn.Module):
    def __init__(self, dim, ffn_dim, heads, eps):
        super().__init__()
        self.self_attn, self.cross_attn = Attention(dim, heads, eps), Attention(dim, heads, eps)
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.norm3 = nn.LayerNorm(dim, eps)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, dim))

    def forward(self, x, level, context, turns, options):
        e = (self.modulation + level).unbind(2)  # [B, L, C] each
        y = self.norm1(x) * (1 + e[1]) + e[0]
        x = x + self.self_attn(y, y, turns, options) * e[2]
        x = x + self.cross_attn(self.norm3(x), context, None, options)
        return x + self.ffn(self.norm2(x) * (1 + e[4]) + e[3]) * e[5]


class Head(nn.Module):
    def __init__(self, dim, out_dim, eps):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.head = nn.Linear(dim, out_dim)
        self.modulation = nn.Parameter(torch.empty(1, 2, dim))

    def forward(self, x, level):
        shift, scale = (self.modulation + level[:, :, None]).unbind(2)
        return self.head(self.norm(x) * (1 + scale) + shift)


class WanModel(nn.Module):
    """Wan's transformer under ComfyUI's keys, with the two hooks that the nodes use."""

    def __init__(
        self,
        patch_size,
        in_dim,
        dim,
        ffn_dim,
        freq_dim,
        text_dim,
        out_dim,
        num_heads,
        num_layers,
        eps,
        image_model=None,
        model_type="t2v",
    ):
        super().__init__()
        self.patch_size, self.in_dim, self.freq_dim = patch_size, in_dim, freq_dim
        self.head_dim = dim // num_heads
        self.patch_embedding = nn.Conv3d(in_dim, dim, patch_size, patch_size)
        self.text_embedding = nn.Sequential(
            nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim * 6))
        self.blocks = nn.ModuleList(Block(dim, ffn_dim, num_heads, eps) for _ in range(num_layers))
        self.head = Head(dim, out_dim * math.prod(patch_size), eps)

    def rope_encode(self, t, h, w, t_start=0, device=None, dtype=None, transformer_options=None):
        """Rotations [1, L, 1, head_dim / 2, 2, 2] of tokens at (time, row, column)."""
        sizes = [n // p for n, p in zip((t, h, w), self.patch_size)]
        starts = (t_start, 0, 0)
        axes = [torch.arange(n, dtype=torch.float64) + s for n, s in zip(sizes, starts)]
        third = 2 * (self.head_dim // 6)
        angles = [
            place[:, None] / 10000 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            for place, dim in zip(
                torch.cartesian_prod(*axes).T, (self.head_dim - 2 * third, third, third)
            )
        ]
        angle = torch.cat(angles, dim=1)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1)
        return turn.unflatten(-1, (2, 2)).float()[None, :, None]

    def forward(
        self,
        x,
        timestep,
        context,
        clip_fea=None,
        time_dim_concat=None,
        transformer_options=None,
        **kwargs,
    ):
        run = self._run
        found = transformer_options.get("wrappers", {}).get("diffusion_model", {}).values()
        for wrapper in (w for group in found for w in group):
            run = partial(wrapper, run)
        return run(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)

    def _run(self, x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs):
        frames, height, width = x.shape[2:]
        turns = self.rope_encode(frames, height, width, dtype=x.dtype)
        x = self.patch_embedding(x)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        half = self.freq_dim // 2
        scales = 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = timestep.double()[..., None] * scales  # [B] or [B, F]
        level = self.time_embedding(torch.cat([angles.cos(), angles.sin()], dim=-1).float())
        level = level.reshape(len(x), -1, level.shape[-1])
        level = level.repeat_interleave(x.shape[1] // level.shape[1], dim=1)  # to all tokens
        context = self.text_embedding(context)
        modulation = self.time_projection(level).unflatten(-1, (6, -1))
        for index, block in enumerate(self.blocks):
            x = block(x, modulation, context, turns, transformer_options | {"block_index": index})
        x = self.head(x, level).unflatten(1, grid).unflatten(-1, (*self.patch_size, -1))
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(len(x), -1, frames, height, width)


class WAN21(nn.Module):
    """The network, its noise levels and its latents: flow matching."""

    def __init__(self, model_config, device=None):
        super().__init__()
        self.diffusion_model = WanModel(**model_config.unet_config)
        self.latent_format = model_config.latent_format
        self.model_sampling = SimpleNamespace(shift=model_config.sampling_settings["shift"])

    def process_latent_in(self, latent):
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent):
        return self.latent_format.process_out(latent)

    def _known(self, sigma, noise, latent):
        """What is known, at a noise level."""
        return sigma * noise + (1 - sigma) * latent


class WAN22(WAN21):
    def _known(self, sigma, noise, latent):
        return latent


class WAN21_T2V:
    _base = WAN21

    def __init__(self, unet_config):
        self.unet_config = unet_config
        self.latent_format = LatentFormat()
        self.sampling_settings = {"shift": 8.0}

    def set_inference_dtype(self, dtype, manual_cast_dtype):
        assert dtype == torch.float32

    def get_model(self, state_dict, prefix="", device=None):
        return self._base(self, device)


class WAN22_T2V(WAN21_T2V):
    _base = WAN22


# ----- comfy: sampling -----


def prepare_noise(latent_image, seed, noise_inds=None):
    return torch.randn(latent_image.size(), generator=torch.manual_seed(seed))


def fix_empty_latent_channels(model, latent_image, downscale_ratio_spacial=None):
    channels = model.get_model_object("latent_format").latent_channels
    if latent_image.shape[1] == channels or latent_image.count_nonzero():
        return latent_image
    return latent_image[:, :1].repeat(1, channels, 1, 1, 1)


def calculate_sigmas(model_sampling, scheduler_name, steps):
    assert scheduler_name == "simple", scheduler_name
    level = torch.tensor([(1000 - int(i * 1000 / steps)) / 1000 for i in range(steps)])
    shift = model_sampling.shift
    return torch.cat([shift * level / (1 + (shift - 1) * level), torch.zeros(1)])


def sample(
    model,
    noise,
    steps,
    cfg,
    sampler_name,
    scheduler,
    positive,
    negative,
    latent_image,
    noise_mask=None,
    callback=None,
    disable_pbar=False,
    seed=None,
):
    """Euler's rule, or fresh noise at each step (lcm), with classifier-free guidance and a mask (1
    where to generate)."""
    assert sampler_name in SAMPLERS, sampler_name
    base, options = model.model, model.model_options["transformer_options"]
    options = options | {"wrappers": model.wrappers}
    latent = base.process_latent_in(latent_image)
    fresh = torch.Generator().manual_seed((seed or 0) + 1)
    sigmas = calculate_sigmas(base.model_sampling, scheduler, steps)
    mask = torch.ones(1) if noise_mask is None else noise_mask
    change_mask = model.model_options.get("denoise_mask_function")
    if change_mask is not None and noise_mask is not None:
        mask = change_mask(sigmas[0], mask)
    texts = [positive] if cfg == 1.0 else [positive, negative]
    context = torch.cat([text[0][0].repeat(len(noise), 1, 1) for text in texts])
    x = sigmas[0] * noise + (1 - sigmas[0]) * latent
    with model._patched():
        for step, (sigma, following) in enumerate(pairwise(sigmas)):
            throw_exception_if_processing_interrupted()
            seen = x * mask + base._known(sigma, noise, latent) * (1 - mask)
            batch = seen.repeat(len(texts), 1, 1, 1, 1)
            level = (1000 * sigma).expand(len(batch))
            out = base.diffusion_model(batch, level, context, transformer_options=options)
            parts = (batch - sigma * out).chunk(len(texts))
            denoised = parts[-1] + cfg * (parts[0] - parts[-1]) if len(parts) > 1 else parts[0]
            denoised = denoised * mask + latent * (1 - mask)
            if callback is not None:
                callback(step, denoised, x, steps)
            direction = (x - denoised) / sigma
            if sampler_name == "lcm":
                direction = torch.randn(x.shape, generator=fresh) - denoised
            x = denoised + following * direction
    return base.process_latent_out(x)


# ----- comfy: text and pixels -----


class VAE:
    def encode(self, pixel_samples):
        return self.first_stage_model.encode(self.process_input(pixel_samples).movedim(-1, 0)[None])

    def decode(self, samples_in):
        return self.process_output(self.first_stage_model.decode(samples_in)).movedim(1, -1)

    def spacial_compression_encode(self):
        return self.upscale_ratio[1]


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

# ----- folders, stock nodes -----


class Folders:
    """folder_paths, under a folder of its own."""

    supported_pt_extensions = frozenset([".safetensors"])

    def __init__(self, base: Path):
        self.models_dir, self.folder_names_and_paths = str(base / "models"), {}
        for name in ("input", "output", "temp"):
            (base / name).mkdir(parents=True, exist_ok=True)
            setattr(self, f"get_{name}_directory", partial(str, base / name))

    def get_filename_list(self, folder_name):
        (folder,), suffixes = self.folder_names_and_paths.get(folder_name, ([self.models_dir], ()))
        return sorted(p.name for p in Path(folder).glob("*") if p.suffix in suffixes)

    def get_full_path(self, folder_name, filename):
        path = Path(self.folder_names_and_paths[folder_name][0][0]) / filename
        return str(path) if path.is_file() else None

    def get_full_path_or_raise(self, folder_name, filename):
        return self.get_full_path(folder_name, filename)

    def get_annotated_filepath(self, name):
        output = name.endswith(" [output]")
        folder = self.get_output_directory() if output else self.get_input_directory()
        return str(Path(folder) / name.removesuffix(" [output]"))

    def get_save_image_path(self, filename_prefix, output_dir):
        target = Path(output_dir) / filename_prefix
        target.parent.mkdir(parents=True, exist_ok=True)
        count = len(list(target.parent.glob(f"{target.name}_*"))) + 1
        return str(target.parent), target.name, count, "", filename_prefix


class KSampler:
    def sample(
        self,
        model,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        latent_image,
        denoise=1.0,
    ):
        samples = fix_empty_latent_channels(model, latent_image["samples"])
        noise = prepare_noise(samples, seed)
        samples = sample(
            model,
            noise,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            samples,
            noise_mask=latent_image.get("noise_mask"),
        )
        return (latent_image | {"samples": samples},)


class SaveVideo:
    """The video as a file in the output folder."""

    def run(self, video, filename_prefix, format, codec):
        import folder_paths

        from fourreal.files.media import write_video

        folder, name, count, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path, parts = Path(folder) / f"{name}_{count:05}_.mp4", video.get_components()
        write_video(path, parts.images.movedim(-1, 1), float(parts.frame_rate))
        return (path,)


# name: inputs, function, whether it is an end of the graph
STOCK = {
    "VAEDecode": (
        {"samples": "LATENT", "vae": "VAE"},
        lambda samples, vae: (vae.decode(samples["samples"]).flatten(0, 1),),
        False,
    ),
    "ImageBatch": (
        {"image1": "IMAGE", "image2": "IMAGE"},
        lambda image1, image2: (torch.cat([image1, image2]),),
        False,
    ),
    "CreateVideo": (
        {"images": "IMAGE", "fps": "FLOAT", "bit_depth": "INT"},
        lambda images, fps, bit_depth: (VideoFromComponents(VideoComponents(images, fps)),),
        False,
    ),
    "PreviewImage": ({"images": "IMAGE"}, lambda images: (images,), True),
    "SaveVideo": (
        {"video": "VIDEO", "filename_prefix": "STRING", "format": "COMBO", "codec": "COMBO"},
        SaveVideo().run,
        True,
    ),
}


def object_info(nodes: list) -> dict:
    """What the server's /object_info says about these nodes and the stock ones, in brief."""
    info = {
        name: {
            "input": {"required": {k: (kind, {}) for k, kind in inputs.items()}},
            "output_node": end,
        }
        for name, (inputs, _, end) in STOCK.items()
    }
    for node in nodes:
        schema = node.GET_SCHEMA()
        inputs = {"required": {}, "optional": {}}
        for i in schema.inputs:
            inputs["optional" if i.optional else "required"][i.id] = (i.io_type, i._options)
        info[schema.node_id] = {"input": inputs, "output_node": schema.is_output_node}
    return info


def execute(prompt: dict, nodes: list) -> dict:
    """Run a prompt in the order of its links; the outputs of every node by id."""
    known = {node.GET_SCHEMA().node_id: node for node in nodes}
    outputs = {}

    def value(given):
        if isinstance(given, list):
            run(given[0])
            return outputs[given[0]][given[1]]
        return given

    def run(key: str):
        if key in outputs:
            return
        name, inputs = prompt[key]["class_type"], {}
        for place, given in prompt[key]["inputs"].items():
            group, _, member = place.partition(".")
            if member:
                inputs.setdefault(group, {})[member] = value(given)
            else:
                inputs[group] = value(given)
        if name in STOCK:
            outputs[key] = STOCK[name][1](**inputs)
        else:
            outputs[key] = known[name].execute(**inputs).args

    for key in prompt:
        run(key)
    return outputs


def stand_ins(base: Path) -> dict:
    """The modules by name, with folders under `base`."""
    management = {
        "load_models_gpu": load_models_gpu,
        "free_memory": free_memory,
        "should_use_bf16": lambda device=None: False,
        "InterruptProcessingException": InterruptProcessingException,
        "interrupt_current_processing": interrupt_current_processing,
        "throw_exception_if_processing_interrupted": throw_exception_if_processing_interrupted,
    }
    for name in (
        "get_torch_device",
        "unet_offload_device",
        "intermediate_device",
        "vae_device",
        "vae_offload_device",
    ):
        management[name] = lambda: CPU
    choices = SimpleNamespace(SAMPLERS=SAMPLERS, SCHEDULERS=["simple"])
    modules = {
        "comfy": {},
        "comfy.model_management": management,
        "comfy.utils": {"ProgressBar": ProgressBar, "PROGRESS_BAR_ENABLED": False},
        "comfy.latent_formats": {"LatentFormat": LatentFormat},
        "comfy.model_patcher": {"ModelPatcher": ModelPatcher, "CoreModelPatcher": ModelPatcher},
        "comfy.patcher_extension": {
            "WrappersMP": SimpleNamespace(DIFFUSION_MODEL="diffusion_model")
        },
        "comfy.model_base": {"WAN21": WAN21, "WAN22": WAN22},
        "comfy.supported_models": {"WAN21_T2V": WAN21_T2V, "WAN22_T2V": WAN22_T2V},
        "comfy.supported_models_base": {"ClipTarget": ClipTarget},
        "comfy.ops": {"disable_weight_init": disable_weight_init},
        "comfy.sd": {"VAE": VAE, "CLIP": CLIP},
        "comfy.sd1_clip": {"SDClipModel": SDClipModel, "SD1ClipModel": SD1ClipModel},
        "comfy.text_encoders": {},
        "comfy.text_encoders.t5": {"T5": text_network()},
        "comfy.sample": {
            "sample": sample,
            "prepare_noise": prepare_noise,
            "fix_empty_latent_channels": fix_empty_latent_channels,
        },
        "comfy.samplers": {"KSampler": choices, "calculate_sigmas": calculate_sigmas},
        "comfy_api": {},
        "comfy_api.latest": {
            "io": io,
            "ComfyExtension": ComfyExtension,
            "Types": SimpleNamespace(SPLAT=SPLAT, VideoComponents=VideoComponents),
            "InputImpl": SimpleNamespace(VideoFromComponents=VideoFromComponents),
        },
        "nodes": {"KSampler": KSampler},
        "server": {"PromptServer": SimpleNamespace()},
    }
    made = {name: types.ModuleType(name) for name in modules}
    for name, members in modules.items():
        vars(made[name]).update(members)
    return made | {"folder_paths": Folders(base)}


def install(base: Path) -> None:
    """Put the stand-in into sys.modules, with its folders under `base`."""
    made = stand_ins(base)
    sys.modules.update(made)
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
