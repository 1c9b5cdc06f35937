"""`fourreal generate --plan` and `reconstruct --plan`: memory before work, computed, not measured.

The models are made without their weights (`without_data`), and each stage's network runs once on
tensors that have shapes and no numbers (PyTorch's FakeTensorMode), while the bytes that live at one
time are counted. What a kernel needs for itself inside one operation is not in it.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fourreal import weights
from fourreal.attention import choose_backend
from fourreal.commands.jobs import GenerateConfig, list_jobs
from fourreal.commands.pipelines import read_pipeline
from fourreal.files.tensors import without_data
from fourreal.grid import num_latent_frames
from fourreal.reconstruction import Reconstructor
from fourreal.reconstruction.checkpoint import load_model
from fourreal.reconstruction.options import WINDOW
from fourreal.reconstruction.reconstructor import FRAMES_PER_HEAD_PASS
from fourreal.video import ViewTimePipeline
from fourreal.video.latents import decode_view
from fourreal.video.transformer import apply_view_time

FLOAT = 4  # bytes
GAUSSIAN_FLOATS = 14  # mean, quaternion, scale, opacity, one colour
CPU = torch.device("cpu")


@dataclass(frozen=True)
class StageMemory:
    """Bytes of a stage: its weights, the most that its network holds beside them at one time, and
    what it leaves (on the host)."""

    name: str
    weights: int
    activations: int
    outputs: int


class LiveBytes(TorchDispatchMode):
    """Counts, while it is entered, the bytes of living tensors that were made inside: now, peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def _freed(self, storage: int, size: int) -> None:
        self.known.discard(storage)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x.untyped_storage() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        out = func(*args, **(kwargs or {}))
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


def without_numbers(model: nn.Module, function: Callable[[], object]) -> int:
    """LiveBytes' peak of a function of `model`, whose tensors get shapes alone."""
    choose_backend(CPU, torch.float32, 64, 10**6)  # asks the kernels, which needs real numbers
    choose_backend(CPU, torch.bfloat16, 64, 10**6)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), LiveBytes() as live:
        model.to_empty(device="cpu")
        live.now = live.peak = 0
        function()
    return live.peak


def plan_video(
    pipeline: ViewTimePipeline,
    size: tuple[int, int, int, int],
    window: int | None = None,
    referenced: bool = True,
) -> list[StageMemory]:
    """The stages text, denoising and decoding of a grid of size (views, frames, height, width), the
    pipeline's parts being on the meta device; window: frames of a window, by default as many as the
    model was made for. referenced: some cells are known, so that with the conditioning "replace"
    each token has a noise level of its own. Without tiles of the VAE."""
    num_views, num_frames, height, width = size
    transformer, vae, encoder = pipeline.transformer, pipeline.vae, pipeline.text_encoder
    config: Any = transformer.config
    limit: int = num_latent_frames(window) if window else pipeline.config.max_frames
    latent = min(num_latent_frames(num_frames), limit)
    rows, columns = height // pipeline.spatial_stride, width // pipeline.spatial_stride
    tokens, patch = pipeline.max_tokens, config.patch_size[-1]
    sizes = [weight_bytes(part) for part in (encoder, transformer, vae)]

    apply_view_time(transformer, num_views, latent, max_frames=pipeline.config.max_frames)

    def encode() -> object:
        return encoder(torch.zeros(1, tokens, dtype=torch.long))

    def step() -> object:
        cells = num_views * latent
        noised = torch.zeros(1, config.in_channels, cells, rows, columns)
        # As model_inputs gives them where references are known: one for each token, or one.
        each = referenced and pipeline.config.conditioning == "replace"
        tokens_in_all = cells * (rows // patch) * (columns // patch)
        timesteps = torch.zeros(1, tokens_in_all) if each else torch.zeros(1)
        text = torch.zeros(1, tokens, config.text_dim, dtype=transformer.dtype)
        shown = {}
        if pipeline.config.conditioning == "mask":
            control = torch.zeros(1, config.vace_in_channels, cells, rows, columns)
            shown["control_hidden_states"] = control.to(transformer.dtype)
        return transformer(noised.to(transformer.dtype), timesteps, text, **shown).sample.float()

    def decode() -> object:
        return decode_view(vae, torch.zeros(config.in_channels, latent, rows, columns))

    frames = num_latent_frames(num_frames)
    outputs = (
        tokens * config.text_dim * FLOAT,
        num_views * frames * config.in_channels * rows * columns * FLOAT,
        num_views * num_frames * 3 * height * width * FLOAT,
    )
    work = (encoder, encode), (transformer, step), (vae, decode)
    peaks = [without_numbers(*pair) for pair in work]
    names = ("text", "denoising", "decoding")
    return [StageMemory(*row) for row in zip(names, sizes, peaks, outputs)]


def plan_reconstruction(
    file: Path | None, size: tuple[int, int, int, int], window: int | None, resolution: int | None
) -> StageMemory:
    """The stage "reconstruct" of a grid of size (views, frames, height, width) by the model of a
    file (default: the embedded one). Outputs: a Gaussian for every pixel, more than are kept."""
    num_views, num_frames, height, width = size
    with without_data():
        model, _ = load_model(file or weights.folder() / "reconstructor.safetensors")
    model.to("meta")
    temporal = model.config.temporal != "none"
    times = min(window or (WINDOW if temporal else 1), num_frames)
    held = weight_bytes(model)

    def predict() -> object:
        fit = Reconstructor(model).fit(torch.zeros(num_views, 1, 3, height, width), resolution)
        shape = fit.images(torch.zeros(num_views, 3, height, width)).shape
        images = torch.zeros(times, *shape)
        return model(
            images, times, temporal=temporal, points=False, chunk=FRAMES_PER_HEAD_PASS["cpu"]
        )

    pixels = num_views * num_frames * height * width
    peak = without_numbers(model, predict)
    return StageMemory("reconstruct", held, peak, pixels * GAUSSIAN_FLOATS * FLOAT)


def plan_generate(config: GenerateConfig, dtype: torch.dtype) -> list[StageMemory]:
    """All stages of `fourreal generate`, the weights in `dtype`. Raises ValueError for a folder of
    models, whose weights cannot be left out."""
    job = list_jobs(config)[0]
    if job.model:
        raise ValueError(
            f"--plan reads the sizes of single files, not of the folder {job.model}; give "
            "--transformer, --vae and --text-encoder."
        )
    assert job.height is not None and job.width is not None  # list_jobs fills them in
    with without_data():
        pipeline = read_pipeline(job, dtype)
    size = (job.num_views, job.num_frames, job.height, job.width)
    staged = pipeline.config.staged if job.staged is None else job.staged
    given = job.image or job.fixed_view or job.freeze_time
    windows = num_latent_frames(job.num_frames) > pipeline.config.max_frames or job.window
    stages = plan_video(pipeline, size, job.window, bool(staged or given or windows))
    return [*stages, plan_reconstruction(job.reconstructor, size, None, None)]


def plan_table(stages: Sequence[StageMemory]) -> str:
    """A Markdown table of the stages, in MB, which says that it is computed."""
    lines = [
        "computed from the models' shapes, not measured; MB",
        "| stage | weights | activations, at most at one time | outputs |",
        "|---|---|---|---|",
    ]
    for stage in stages:
        cells = (stage.weights, stage.activations, stage.outputs)
        lines.append(f"| {stage.name} | {' | '.join(f'{c / 2**20:.1f}' for c in cells)} |")
    return "\n".join(lines)
