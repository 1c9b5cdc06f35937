"""`fourreal train video`: the 4D video model (paper, section 3 and supplement).

Rectified flow on grids of latents; the references (none, row, column, both) are drawn at random,
the text is dropped for guidance, the views are reversed at random, and the grid grows during
training. With conditioning `replace` the known cells are clean, have timestep 0 and are not counted
in the loss; with `add` the references are added to the noised latents. What is trained is all of
the model (the embedded one, from nothing), its self-attention, or a LoRA on that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from fourreal.data.cache import TensorCache, fingerprint
from fourreal.data.grids import DataConfig, GridData, Pick
from fourreal.embedded.autoencoder import load_autoencoder
from fourreal.embedded.text import (
    build_text_encoder,
    build_tokenizer,
    caption_words,
    save_text_encoder,
)
from fourreal.files.media import write_image
from fourreal.grid import contact_sheet, num_latent_frames, reference_mask
from fourreal.metrics.pixels import psnr
from fourreal.training.loop import Loop, LoopConfig, whole
from fourreal.training.lora import SELF_ATTENTION, add_lora, save_lora
from fourreal.video.conditioning import model_inputs
from fourreal.video.pipeline import ViewTimePipeline
from fourreal.video.transformer import apply_view_time
from fourreal.video.umt5 import encode_text
from fourreal.video.wan_files import save_transformer

TUNES = ("all", "attention", "lora")
TUNED_WITH_ATTENTION = SELF_ATTENTION + r"|blocks\.\d+\.(attn1\.norm_[qk]|view_time_sync)"
VALIDATION_GRIDS = 4
REFERENCES = ("none", "fixed view", "freeze time", "both")
BOTH = REFERENCES.index("both")
SCRATCH_AUTOENCODER = Path("out/train/autoencoder/autoencoder.safetensors")


@dataclass
class VideoConfig:
    """Train a 4D video model: the embedded one from nothing, or any supported one further."""

    loop: LoopConfig = field(default_factory=lambda: LoopConfig(Path("out/train/video")))
    data: DataConfig = field(default_factory=DataConfig)
    check_data: bool = False
    """Only report what would be read and write a sheet of it, data.png, to the run's folder."""
    start_from: Path | None = None
    """The model to go on from: a folder of embedded models, a diffusers folder, or a transformer
    file (then give --autoencoder and --text-encoder too). Without it: from nothing."""
    autoencoder: Path | None = None
    """Autoencoder file; by default the one of start_from, or what `train autoencoder` wrote."""
    text_encoder: Path | None = None
    """Text encoder file, when start_from is a transformer file."""
    tokenizer: Path | None = None
    """spiece.model or tokenizer folder, when the text encoder file holds none."""
    tune: str = "all"
    """all (of an embedded model also the text encoder), attention (self-attention) or lora."""
    lora_rank: int = 32
    architecture: str | None = None
    """fused (the paper's), or fused-sum, sequential, parallel-hard, parallel-soft to compare; by
    default as start_from, and fused from nothing."""
    conditioning: str | None = None
    """replace or add; by default as start_from, and replace from nothing."""
    width: int = 256
    """Width of a model from nothing, a multiple of 128 (Wan's head size)."""
    layers: int = 6
    ffn_width: int = 768
    text_width: int = 128
    grids: tuple[str, ...] = ("1x1", "2x5", "4x13", "8x29")
    """Views x frames, one after the other during training; batches of smaller grids hold more."""
    grid_starts: tuple[float, ...] = (0.0, 0.06, 0.16, 0.6)
    """The part of the run after which each grid is used."""
    grid_odds: tuple[float, ...] = ()
    """How often each grid is drawn, instead of one after the other."""
    shift: float | None = None
    """Timestep shift of training and sampling; by default as start_from, and 3 from nothing."""
    both_shift: float | None = None
    """Timestep shift of training with both references, which leave little to decide below the
    highest noise; by default the same."""
    guidance_scale: float | None = None
    """Default guidance of the trained model without both references; by default as start_from, and
    2.5 from nothing."""
    text_dropout: float = 0.1
    reverse_views: float = 0.5
    """How often the order of the views is reversed; 0 keeps a small model to one direction."""
    reference_odds: tuple[float, ...] = (0.35, 0.1, 0.1, 0.45)
    """How often: none, fixed view, freeze time, both; or these four for each of the grids, one
    after the other. Static scenes get no fixed view. Of grids of one view or one frame, a reference
    is the first cell."""
    continuation: float = 0.1
    """How often freeze time shows two columns of latents instead of one, as a window of a longer
    video with an overlap of five frames has them."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the transformer's blocks: some minutes first, then faster steps."""


class TextToGrid(nn.Module):
    """Transformer and text encoder, where both are trained, as one module."""

    def __init__(self, transformer: nn.Module, text_encoder: nn.Module, tokenizer):
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder
        self.tokenizer = tokenizer

    def forward(self, inputs: Tensor, timesteps: Tensor, captions: list[str]) -> Tensor:
        """The velocity of the inputs."""
        text = encode_text(self.tokenizer, self.text_encoder, captions)
        return self.transformer(inputs, timesteps, text).sample


def flow_loss(predicted: Tensor, noise: Tensor, latents: Tensor, unknown: Tensor) -> Tensor:
    """Mean squared error of the velocity noise - latents over the unknown cells (mask
    broadcastable to the latents)."""
    error = (predicted.float() - (noise - latents)).square() * unknown
    return error.sum() / (unknown.expand_as(error).sum().clamp_min(1))


def build_transformer(config: VideoConfig, z_dim: int):
    """An untrained WanTransformer3DModel of the config's size."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        num_attention_heads=config.width // 128,
        attention_head_dim=128,
        in_channels=z_dim,
        out_channels=z_dim,
        text_dim=config.text_width,
        freq_dim=256,
        ffn_dim=config.ffn_width,
        num_layers=config.layers,
    )


def load_base(config: VideoConfig) -> tuple[ViewTimePipeline, bool]:
    """(the pipeline to be trained, whether its text encoder is small enough to be trained too)."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    start = config.start_from
    if start is None:
        vae = load_autoencoder(config.autoencoder or SCRATCH_AUTOENCODER)
        tokenizer = build_tokenizer(caption_words())
        transformer = build_transformer(config, vae.config.z_dim)
        # Nothing is said before anything is learned, and blocks start as small corrections.
        nn.init.zeros_(transformer.proj_out.weight)
        nn.init.zeros_(transformer.proj_out.bias)
        return ViewTimePipeline(
            transformer,
            vae,
            build_text_encoder(len(tokenizer), config.text_width),
            tokenizer,
            FlowMatchEulerDiscreteScheduler(shift=3.0),
            conditioning="replace",
            max_frames=max(num_latent_frames(frames) for _, frames in grids_of(config)),
            guidance_scale=2.5,
        ), True
    if not start.exists():
        raise ValueError(f"{start} does not exist; --start-from is a folder or a file.")
    if (start / "model_index.json").is_file():
        return ViewTimePipeline.from_pretrained(start, torch_dtype=torch.bfloat16), False
    if start.is_file():
        if config.autoencoder is None or config.text_encoder is None:
            raise ValueError(
                f"{start} is a transformer alone; give --autoencoder and --text-encoder as well."
            )
        return ViewTimePipeline.from_single_files(
            start, config.autoencoder, config.text_encoder, config.tokenizer
        ), False
    beside = start / "autoencoder.safetensors"
    return ViewTimePipeline.from_single_files(
        start / "transformer.safetensors",
        config.autoencoder or (beside if beside.is_file() else SCRATCH_AUTOENCODER),
        start / "text_encoder.safetensors",
        torch_dtype=torch.float32,
    ), True


def grids_of(config: VideoConfig) -> list[tuple[int, int]]:
    """(views, frames) of the config's grids, checked."""
    for name in ("grid_odds",) if config.grid_odds else ("grid_starts",):
        given = getattr(config, name)
        if len(given) != len(config.grids):
            raise ValueError(
                f"there are {len(config.grids)} grids and {len(given)} {name.replace('_', ' ')}; "
                "give one for each grid."
            )
    if len(config.reference_odds) not in (len(REFERENCES), len(REFERENCES) * len(config.grids)):
        raise ValueError(
            f"there are {len(config.reference_odds)} reference odds; give four, or four for each "
            f"of the {len(config.grids)} grids."
        )
    try:
        grids = [tuple(int(n) for n in grid.split("x")) for grid in config.grids]
        for views, frames in grids:
            if views < 1:
                raise ValueError
            num_latent_frames(frames)
    except ValueError as error:
        reason = f": {error}" if "num_frames" in str(error) else ", such as 8x29."
        raise ValueError(f"grids are {config.grids}, but must be VIEWSxFRAMES{reason}") from error
    return grids


def choose_trained(transformer: nn.Module, tune: str, rank: int) -> None:
    """Leave only what is tuned trainable, in float32; the rest stays in the type it came in."""
    import re

    transformer.requires_grad_(tune == "all")
    if tune == "lora":
        add_lora(transformer, rank)
    elif tune == "attention":
        for name, module in transformer.named_modules():
            if re.fullmatch(TUNED_WITH_ATTENTION, name):
                module.requires_grad_(True)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def draw_masks(
    kinds: Tensor, columns: Tensor, static: list[bool], num_views: int, num_frames: int
) -> Tensor:
    """Known cells [B, V*F] for reference kinds 0 to 3 (none, fixed view, freeze time, both), which
    show so many columns [B].

    Static scenes get no fixed view: from it the model would learn to copy (paper, supplement).
    Nor is a reference given that is the whole grid. Where nothing would be left to learn, nothing
    is known.
    """
    masks = torch.stack(
        [
            reference_mask(
                num_views,
                num_frames,
                k in (1, 3) and num_views > 1 and not still,
                n * (k in (2, 3) and num_frames > 1),
            )
            for k, n, still in zip(kinds.tolist(), columns.tolist(), static)
        ]
    ).flatten(1)
    return masks & ~masks.all(1, keepdim=True)


def train_video(config: VideoConfig) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    if config.tune not in TUNES:
        raise ValueError(f"tune is {config.tune!r}, but must be one of {', '.join(TUNES)}.")
    if config.tune == "lora" and config.start_from is None:
        raise ValueError("a LoRA needs a model; give one with --start-from.")
    grids = grids_of(config)
    data = GridData(config.data, max(v for v, _ in grids), max(t for _, t in grids))
    if config.check_data:
        write_image(config.loop.out / "data.png", data.sheet(*grids[-1]))
        print(f"{data.report()}\nsheet: {config.loop.out / 'data.png'}")
        return
    torch.manual_seed(config.loop.seed)
    pipe, trains_text = load_base(config)
    trains_text &= config.tune == "all"
    transformer, vae = pipe.transformer, pipe.vae.requires_grad_(False)
    schedule = pipe.scheduler.config
    shift = config.shift or schedule.get("flow_shift", schedule.get("shift"))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    conditioning = config.conditioning or pipe.config.conditioning
    guidance_scale = config.guidance_scale or pipe.config.guidance_scale
    architecture = config.architecture or pipe.config.architecture
    if config.tune == "lora" and architecture.startswith("parallel"):
        raise ValueError(
            f"a LoRA cannot hold the layers that {architecture} adds; use --tune attention or all."
        )
    pipe.register_to_config(
        conditioning=conditioning, guidance_scale=guidance_scale, architecture=architecture
    )
    max_frames = pipe.config.max_frames
    if config.loop.mixed_precision == "no":
        transformer.float()
    apply_view_time(transformer, 1, 1, architecture=architecture)  # adds the layers it needs
    choose_trained(transformer, config.tune, config.lora_rank)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    model = transformer
    if trains_text:
        model = TextToGrid(transformer, pipe.text_encoder, pipe.tokenizer)
    data.fill()
    loop = Loop(config.loop, model.train(), {"tune": config.tune, "conditioning": conditioning})
    device = loop.accelerator.device
    vae.to(device)
    text_of = None if trains_text else cached_text(pipe, data, device)
    latent_cache = TensorCache(config.data.cache / "latents")
    vae_name = fingerprint(vae) if config.data.draws else ""

    if config.compile:
        for block in transformer.blocks:
            block.compile()

    reference_odds = torch.tensor(config.reference_odds).view(-1, len(REFERENCES))
    reference_odds = reference_odds.expand(len(grids), -1)

    def current_grid(generator: torch.Generator | None = None) -> int:
        """Index of the grid to train on."""
        if config.grid_odds:
            odds = torch.tensor(config.grid_odds)
            return int(torch.multinomial(odds, 1, generator=generator))
        return [i for i, s in enumerate(config.grid_starts) if loop.progress >= s][-1]

    def encode(pick: Pick, views: int, frames: int) -> Tensor:
        """Latents [V, C, F, h, w] of an example."""

        def compute() -> Tensor:
            return pipe.encode_views(data.draw(pick, views, frames).frames)

        if not config.data.draws:
            return compute()
        size = f"{config.data.height}x{config.data.width}"
        key = f"{vae_name} {data.source(pick)} {pick.seed} {views}x{frames} {size}"
        return latent_cache.get(key, compute).to(device, torch.float32)

    applied: list[int] = []  # the grid that the transformer is set up for

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        current = current_grid(generator)
        views, frames = grids[current]
        largest = grids[-1][0] * num_latent_frames(grids[-1][1])
        batch = config.loop.batch_size * largest // (views * num_latent_frames(frames))
        examples, captions, static = [], [], []
        for _ in range(batch):
            pick = data.pick(generator)
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                latents = encode(pick, views, frames)
            reverse, dropped = torch.rand(2, generator=generator)
            examples.append(latents.flip(0) if reverse < config.reverse_views else latents)
            captions.append("" if dropped < config.text_dropout else data.caption(pick))
            static.append(pick.kind == "static")
        latents = rearrange(torch.stack(examples), "b v c f h w -> b c (v f) h w")
        kinds = torch.multinomial(reference_odds[current], batch, True, generator=generator)
        shown = 1 + (torch.rand(batch, generator=generator) < config.continuation).long()
        masks = draw_masks(kinds, shown, static, views, num_latent_frames(frames)).to(device)
        both = (kinds == BOTH) & (min(views, frames) > 1)
        shifts = torch.where(both, config.both_shift or shift, shift)
        normal = torch.randn(batch, generator=generator).sigmoid()
        sigma = (shifts * normal / (1 + (shifts - 1) * normal)).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        amount = sigma.view(-1, 1, 1, 1, 1)
        noised = (1 - amount) * latents + amount * noise
        patch = transformer.config.patch_size[-1]
        rows, columns = (n // patch for n in latents.shape[-2:])
        inputs, timesteps = model_inputs(
            noised, latents, masks, sigma * 1000, conditioning, rows, columns
        )
        if applied != [views, frames]:  # a new processor would be compiled anew
            applied[:] = views, frames
            apply_view_time(
                transformer,
                views,
                num_latent_frames(frames),
                max_frames=max_frames,
                architecture=architecture,
            )
        if text_of is None:
            predicted = loop.model(inputs, timesteps, captions)
        else:
            text = torch.cat([text_of(caption) for caption in captions])
            predicted = loop.model(inputs, timesteps, text, return_dict=False)[0]
        unknown = ~masks if conditioning == "replace" else torch.ones_like(masks)
        return {"loss": flow_loss(predicted, noise, latents, unknown[:, None, :, None, None])}

    @torch.compiler.set_stance("force_eager")
    def sample(out: Path) -> dict:
        applied.clear()
        views, frames = grids[-1 if config.grid_odds else current_grid()]
        model.eval()
        pipe.set_progress_bar_config(disable=True)
        scores, sheets = [], []

        def generate(prompt: str, seed: int, steps: int, **references) -> Tensor:
            return pipe(
                prompt,
                num_views=views,
                num_frames=frames,
                height=config.data.height,
                width=config.data.width,
                num_inference_steps=steps,
                generator=torch.Generator().manual_seed(seed),
                **references,
            ).frames

        picks = data.validation(VALIDATION_GRIDS)
        for seed, pick in enumerate(picks):
            exact = data.draw(pick, views, frames).frames
            fixed_view = None if pick.kind == "static" else exact[0]
            grid = generate(
                data.caption(pick), seed, 8, fixed_view=fixed_view, freeze_time=exact[:, 0]
            )
            if views > 1 and frames > 1:
                scores.append(psnr(grid[1:, 1:], exact[1:, 1:]))
            sheets.append(torch.cat([contact_sheet(exact[::2], 7), contact_sheet(grid[::2], 7)], 2))
        for pick in picks[:2]:
            sheets.append(contact_sheet(generate(data.caption(pick), 0, 16)[::2], 7))
        model.train()
        widest = max(s.shape[2] for s in sheets)
        sheets = [nn.functional.pad(s, (0, widest - s.shape[2], 0, 6)) for s in sheets]
        if loop.accelerator.is_main_process:
            write_image(out / "samples.png", torch.cat(sheets, 1))
        return {"validation_psnr": round(sum(scores) / len(scores), 3)} if scores else {}

    loop.run(loss, sample)
    metadata = {
        "base": str(config.start_from or "none"),
        "tune": config.tune,
        "architecture": architecture,
        "conditioning": conditioning,
        "max_frames": max_frames,
        "max_tokens": pipe.max_tokens,
        "shift": shift,
        "guidance_scale": guidance_scale,
        "grid": grids[-1],
        "staged": {(grids[-1][0], 1), (1, grids[-1][1])} <= set(grids) and bool(config.grid_odds),
    }
    with loop.averaged():
        apply_view_time(transformer, None)
        save_trained(pipe, config, metadata, trains_text, loop.accelerator.is_main_process)


def cached_text(pipe: ViewTimePipeline, data: GridData, device) -> Callable[[str], Tensor]:
    """The text embeddings [1, max_tokens, D] of a caption, from disk.

    All captions of the data are encoded first; then the pipeline lets go of its text encoder and
    uses the same embeddings.
    """
    cache = TensorCache(data.config.cache / "text")
    name, count = fingerprint(pipe.text_encoder), pipe.max_tokens
    pipe.text_encoder.to(device)
    encode = pipe.encode_prompt

    @torch.no_grad()
    def compute(caption: str) -> Tensor:
        text = encode(caption)
        return text[:, : int(text[0].any(-1).nonzero().max()) + 1]  # the rest is zeros

    def text_of(caption: str) -> Tensor:
        text = cache.get(f"{name} {count} {caption}", lambda: compute(caption))
        return nn.functional.pad(text, (0, 0, 0, count - text.shape[1])).to(device, torch.float32)

    for caption in {"", *data.captions()}:
        text_of(caption)
    pipe.text_encoder = None
    pipe.encode_prompt = text_of
    return text_of


def save_trained(
    pipe: ViewTimePipeline, config: VideoConfig, metadata: dict, with_text: bool, is_main: bool
) -> None:
    """Write lora.safetensors, or transformer.safetensors (and text_encoder.safetensors)."""
    out, transformer = config.loop.out, pipe.transformer
    if config.tune == "lora":
        weights = {n: whole(p) for n, p in transformer.named_parameters() if p.requires_grad}
        if is_main:
            save_lora(weights, out / "lora.safetensors", metadata)
        return
    tensors = {k: whole(v.detach()).half().cpu() for k, v in transformer.state_dict().items()}
    if not is_main:
        return
    save_transformer(out / "transformer.safetensors", tensors, transformer.config, metadata)
    if with_text:
        save_text_encoder(pipe.text_encoder, pipe.tokenizer, out / "text_encoder.safetensors")
