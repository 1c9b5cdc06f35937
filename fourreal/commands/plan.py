"""Memory and arithmetic before work, computed, not measured: `--plan`, and the check of each run.

The models are made without their weights (`without_data`), and each stage runs once on tensors that
have shapes and no numbers (PyTorch's fake tensors), while the bytes that live at one time and the
floating-point operations are counted. What a kernel needs for itself inside one operation is not in
it.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fourreal import weights
from fourreal.commands.jobs import GenerateConfig, is_carried, list_jobs
from fourreal.commands.pipelines import check_files, read_pipeline
from fourreal.devices import free_bytes, is_small, matrix_dtype
from fourreal.files.tensors import without_data
from fourreal.grid import num_latent_frames
from fourreal.reconstruction import Reconstructor
from fourreal.reconstruction.checkpoint import load_model
from fourreal.reconstruction.options import ReconstructionOptions
from fourreal.reconstruction.reconstructor import FRAMES_PER_HEAD_PASS
from fourreal.video import ViewTimePipeline
from fourreal.video.conditioning import GUIDANCE_BOTH
from fourreal.video.denoising import Sampler, sample_window
from fourreal.video.latents import decode_view, encode_views, reference_latents
from fourreal.video.request import GridRequest
from fourreal.video.vace import control_scales, sample_vace_window
from fourreal.video.windows import plan_windows

FLOAT = 4  # bytes
GAUSSIAN_FLOATS = 14  # mean, quaternion, scale, opacity, one colour
STEPS = 2  # of the loop that is run here: schedulers remember the step before
CPU = torch.device("cpu")
MIB, GIB = 2**20, 2**30

_aten = torch.ops.aten
FORMULAS = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _aten._scaled_dot_product_flash_attention
    ],
}


@dataclass(frozen=True)
class StagePlan:
    """What a stage needs.

    weights: bytes of its models. least_weights: those that --offload group keeps on the device at
    one time. activations: the most bytes that it holds there beside them. outputs: bytes that it
    leaves on the host. flop: its floating-point operations in all.
    """

    name: str
    weights: int
    least_weights: int
    activations: int
    outputs: int
    flop: int


class LiveBytes(TorchDispatchMode):
    """Counts, while it is entered, the bytes of living tensors that were made inside, now and at
    most (peak), and floating-point operations (flop)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flop = 0
        self.known: set[int] = set()

    def _freed(self, storage: int, size: int) -> None:
        self.known.discard(storage)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x.untyped_storage() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        out = func(*args, **kwargs)
        if formula := FORMULAS.get(func.overloadpacket):
            self.flop += formula(*args, **kwargs, out_val=out)
        for x in tree_leaves(out):
            if not isinstance(x, Tensor):
                continue
            storage = x.untyped_storage()
            if id(storage) in self.known or any(storage is own for own in given):
                continue  # a view, or a result in place
            self.known.add(id(storage))
            self.now += storage.nbytes()
            weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out


def weight_bytes(model: nn.Module) -> int:
    """Of all parameters and buffers."""
    return sum(x.numel() * x.element_size() for x in [*model.parameters(), *model.buffers()])


def one_block_bytes(model: nn.Module) -> int:
    """Of the weights with only the largest block of each list of blocks."""
    most, inside = weight_bytes(model), ""
    for name, part in model.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) and (not inside or inside not in name):
            sizes, inside = [weight_bytes(block) for block in part], f"{name}."
            most -= sum(sizes) - max(sizes)
    return most


class Bare:
    """Models without numbers. run(function) counts what a function of them does; tensors(*shape)
    makes an input for it."""

    def __init__(self, *models: nn.Module):
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self.mode:
            for model in models:
                model.to_empty(device="cpu")

    def tensor(self, *shape: int) -> Tensor:
        with self.mode:
            return torch.empty(shape)

    def run(self, function: Callable[[], object]) -> LiveBytes:
        """Small tensors that are no input (timesteps, masks) keep their numbers, for code that asks
        for them."""
        with torch.no_grad(), LiveBytes() as live:
            function()
        return live


def plan_video(
    pipeline: ViewTimePipeline,
    request: GridRequest,
    num_steps: int,
    guidance_scale: float | None = None,
    staged: bool | None = None,
    prompt: str = "",
) -> list[StagePlan]:
    """The stages text, denoising and decoding of a request, the pipeline's parts being on the meta
    device. Without tiles of the VAE. prompt: every text takes as long, but of this one it is told
    which words an embedded text encoder does not know."""
    transformer, vae, encoder = pipeline.transformer, pipeline.vae, pipeline.text_encoder
    # Before the weights go: parameters that are tied are counted once.
    held = {m: (weight_bytes(m), one_block_bytes(m)) for m in (transformer, vae, encoder)}
    bare, config = Bare(transformer, vae, encoder), pipeline.config
    pipeline.set_progress_bar_config(disable=True)
    stride, channels = pipeline.spatial_stride, vae.config["z_dim"]
    frames = num_latent_frames(request.num_frames)
    cells = request.height // stride, request.width // stride
    vace = config.conditioning == "mask"
    if guidance_scale is None:
        both = request.has_both_references and not vace
        guidance_scale = GUIDANCE_BOTH if both else config.guidance_scale
    names = ("cond",) if guidance_scale == 1 else ("cond", "uncond")

    read = {"cond": prompt, "uncond": ""}
    text = bare.run(lambda: [pipeline.encode_prompt(read[name]) for name in names])
    tokens = pipeline.max_tokens, transformer.config["text_dim"]
    texts = {name: bare.tensor(1, *tokens) for name in names}
    hints = control_scales(transformer, 1.0)
    sampler = Sampler(STEPS, guidance_scale, 1.0, "auto", texts, control_scales=hints)
    windows = plan_windows(request, config.max_frames, config.staged if staged is None else staged)

    def sample(window: Any) -> object:
        noise = bare.tensor(request.num_views, channels, frames, *cells)
        noise = noise.to(CPU, copy=True)[:, :, window.start : window.stop]  # made inside: counted
        shown, columns = (request.num_views, request.window_overlap), None
        if window.start:
            columns = bare.tensor(*shown, 3, request.height, request.width)
        elif request.freeze_time is not None:
            columns = request.freeze_time[:, None]
        if vace:
            return sample_vace_window(pipeline, sampler, request, window, columns, noise, 0)
        encode = partial(encode_views, vae, device=CPU)
        references = reference_latents(encode, request, window, columns, noise)
        return sample_window(pipeline, sampler, window, noise, references, 0)

    longest = max(window.stop - window.start for window in windows)
    alike = {(str(window.known), window.start > 0): window for window in windows}
    runs = {key: bare.run(partial(sample, window)) for key, window in alike.items()}
    denoised = [runs[str(window.known), window.start > 0] for window in windows]
    decoded = bare.run(lambda: decode_view(vae, bare.tensor(channels, longest, *cells)))
    grid = request.num_views * request.num_frames * 3 * request.height * request.width
    latents = request.num_views * frames * channels * cells[0] * cells[1]
    flop = sum(live.flop for live in denoised) * num_steps // STEPS
    decoding = decoded.flop * request.num_views * len(windows)
    peak = max(live.peak for live in denoised)
    rows = (
        ("text", encoder, text.peak, len(names) * tokens[0] * tokens[1], text.flop),
        ("denoising", transformer, peak, latents, flop),
        ("decoding", vae, decoded.peak, grid, decoding),
    )
    return [
        StagePlan(name, *held[model], most, numbers * FLOAT, operations)
        for name, model, most, numbers, operations in rows
    ]


def plan_reconstruction(
    file: Path | None,
    size: tuple[int, int, int, int],
    dtype: torch.dtype = torch.float32,
    window: int | None = None,
    resolution: int | None = None,
    detail: int | None = None,
) -> StagePlan:
    """The stage "reconstruct" of a grid of size (views, frames, height, width) by the model of a
    file (default: the embedded one), whose matrices are `dtype`. Outputs: a Gaussian for every
    pixel, more than are kept."""
    num_views, num_frames, height, width = size
    with without_data():
        model, _ = load_model(file or weights.folder() / "reconstructor.safetensors")
    model.to("meta")
    for part in model.aggregator.modules():
        if isinstance(part, nn.Linear):
            part.to(dtype)
    held = weight_bytes(model), one_block_bytes(model)
    temporal, bare = model.config.temporal != "none", Bare(model)
    fit = Reconstructor(model).fit(torch.empty(1, 3, height, width, device="meta"), resolution)
    options = ReconstructionOptions(window=window, detail=detail)
    times = options.window_of(num_frames, temporal)

    def predict() -> object:
        images = bare.tensor(times, num_views, 3, fit.height, fit.width)
        chunk, mixed = FRAMES_PER_HEAD_PASS["cpu"], dtype != torch.float32
        with torch.autocast("cpu", dtype if mixed else None, enabled=mixed):
            return model(images, times, temporal=temporal, points=False, chunk=chunk, store="cpu")

    live = bare.run(predict)
    finer = fit.enlarged(options.detail_of(fit, model.config.img_size))
    pixels = num_views * num_frames * finer.height * finer.width
    outputs, flop = pixels * GAUSSIAN_FLOATS * FLOAT, live.flop * num_frames // times
    return StagePlan("reconstruct", *held, live.peak, outputs, flop)


def plan_generate(config: GenerateConfig, dtype: torch.dtype) -> list[StagePlan]:
    """All stages of `fourreal generate`, the weights in `dtype`. Raises ValueError for a folder of
    models, whose weights cannot be left out."""
    job = list_jobs(config)[0]
    check_files(job)
    if job.model:
        raise ValueError(
            f"--plan reads the sizes of single files, not of the folder {job.model}; give "
            "--transformer, --vae and --text-encoder."
        )
    assert job.height is not None and job.width is not None  # list_jobs fills them in
    assert job.num_inference_steps is not None
    with without_data():
        pipeline = read_pipeline(job, dtype)
    vace, grid = pipeline.config.conditioning == "mask", (job.num_views, job.num_frames)
    bare, frame = Bare(), (3, job.height // job.fill_scale, job.width // job.fill_scale)
    request = GridRequest(
        job.num_views,
        job.num_frames,
        *frame[1:],
        bare.tensor(job.num_frames, *frame) if job.fixed_view else None,
        bare.tensor(job.num_views, *frame) if job.freeze_time else None,
        bare.tensor(*frame) if job.image else None,
        job.window,
        job.window_overlap,
        bare.tensor(*grid, *frame) if vace else None,
        bare.tensor(*grid, 1, *frame[1:]) if vace else None,
    )
    prompt = str(job.prompt) if job.plan else ""  # a run itself tells of its words
    sampling = job.num_inference_steps, job.guidance_scale, job.staged, prompt
    stages = plan_video(pipeline, request, *sampling)
    size = (job.num_views, job.num_frames, job.height, job.width)
    if not vace and is_carried(job):
        depth = plan_reconstruction(job.reconstructor, size, dtype, detail=1)
        # Its weights are those of "reconstruct".
        stages.append(replace(depth, name="carry", weights=0, least_weights=0))
    return [*stages, plan_reconstruction(job.reconstructor, size, dtype)]


def check_job_fits(config: GenerateConfig, device: torch.device) -> None:
    """Raise ValueError for a job of `fourreal generate` that the device cannot hold. A folder of
    models is not looked at."""
    assert config.height is not None and config.width is not None  # list_jobs fills them in
    size = (config.num_views, config.num_frames, config.height, config.width)
    given = (config.transformer, config.vae, config.text_encoder, config.reconstructor)
    files = [path for path in given if path and path.is_file()]
    if not config.model and not is_small(size, files, device):
        check_fits(plan_generate(config, matrix_dtype(device)), device, config.offload)


def device_bytes(stages: Sequence[StagePlan], offload: str) -> int:
    """The most bytes on the device at one time, with an --offload of generate."""
    if offload == "none":
        return sum(s.weights for s in stages) + max(s.activations for s in stages)
    kept = [s.least_weights if offload == "group" else s.weights for s in stages]
    return max(held + s.activations for held, s in zip(kept, stages))


def check_fits(stages: Sequence[StagePlan], device: torch.device, offload: str = "none") -> None:
    """Raise ValueError, before any work, for a run that the device cannot hold; it names the
    --offload with which it fits, if one does."""
    needed, free = device_bytes(stages, offload), free_bytes(device)
    if device.type == "cpu":
        needed += sum(s.outputs for s in stages)
    if needed <= free:
        return
    advice = "take fewer views, a smaller size, or shorter windows"
    if device.type == "cuda" and len(stages) > 1:
        for other in ("model", "group"):
            if device_bytes(stages, other) <= free:
                advice = f"use --offload {other} ({device_bytes(stages, other) / GIB:.1f} GiB)"
                break
    raise ValueError(
        f"this needs about {needed / GIB:.1f} GiB on {device}, which has {free / GIB:.1f} GiB; "
        f"{advice}."
    )


def plan_table(stages: Sequence[StagePlan], device: torch.device, offload: str = "none") -> str:
    """A Markdown table of the stages, which says that it is computed, and what the device needs and
    has."""
    lines = [
        "computed from the models' shapes, not measured; MiB",
        "| stage | weights | activations, at most at one time | outputs | TFLOP |",
        "|---|---|---|---|---|",
    ]
    for stage in stages:
        cells = (stage.weights, stage.activations, stage.outputs)
        numbers = [*(f"{c / MIB:.1f}" for c in cells), f"{stage.flop / 1e12:.3g}"]
        lines.append(f"| {stage.name} | {' | '.join(numbers)} |")
    needed, free = (n / GIB for n in (device_bytes(stages, offload), free_bytes(device)))
    lines.append(f"\nat one time on {device}: {needed:.2f} GiB of {free:.1f} GiB")
    return "\n".join(lines)
