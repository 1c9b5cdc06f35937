"""`fourreal train video --vace`: a video model that fills the holes of a warped grid.

Wan VACE (arXiv 2503.07598) with views: its control shows what is known of all views, and both its
own blocks and the base model's attend over the grid. Rectified flow of all cells at one noise
level. The loss counts the cells with holes, and the others a little: what they show is known, and
is pasted over what is generated.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from fourreal import weights
from fourreal.devices import choose_device
from fourreal.files.media import write_image
from fourreal.grid import TEMPORAL_STRIDE, contact_sheet
from fourreal.metrics.pixels import psnr
from fourreal.reconstruction import Reconstructor
from fourreal.training.flow import draw_noise_levels, flow_loss
from fourreal.training.video_config import VideoConfig, grids_of
from fourreal.training.video_run import VideoRun
from fourreal.training.warped_scenes import WarpData, WarpedExample
from fourreal.video.vace import vace_control

VALIDATION_SCENES = 4
SAMPLED_STEPS = 1  # where most is known, more are no better
KNOWN_WEIGHT = 0.1  # of a cell without holes, in the loss


@dataclass
class WarpBatch:
    """Warped examples of one step, and their captions, "" where left out."""

    examples: list[WarpedExample]
    captions: list[str]


def train_vace(config: VideoConfig) -> None:
    """Train, and write vace.safetensors to the run's folder. Raises ValueError for what cannot
    work."""
    training = VaceTraining(config)
    training.loop.run(training.loss, training.sample, training.draw)
    training.save()


class VaceTraining(VideoRun):
    """A training run on warped grids of the last size of the config: its loss and its samples."""

    def __init__(self, config: VideoConfig):
        config = replace(config, grids=config.grids[-1:], grid_starts=(0.0,), grid_odds=())
        file = config.reconstructor or weights.folder() / "reconstructor.safetensors"
        reconstructor = Reconstructor.from_file(file, device=choose_device(None))
        grid = grids_of(config)[0]
        self.data = WarpData(config.data, *grid, config.quick_scenes, reconstructor)
        validation = [self.data.validation.caption(i) for i in range(VALIDATION_SCENES)]
        super().__init__(config, [*self.data.captions(), *validation])
        self.data.fill()

    def draw(self, generator: torch.Generator, progress: float) -> WarpBatch:
        """Choose and read a batch; all that is random comes from the generator."""
        examples = [self.data.draw(generator) for _ in range(self.config.loop.batch_size)]
        dropped = torch.rand(len(examples), generator=generator) < self.config.text_dropout
        captions = ["" if out else e.caption for e, out in zip(examples, dropped.tolist())]
        return WarpBatch(examples, captions)

    def loss(self, batch: WarpBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The flow loss of a batch, with random noise levels and noise."""
        frames, warped, missing = (
            torch.cat(parts)
            for parts in zip(*(e.floats(self.device).tensors() for e in batch.examples))
        )
        count = len(batch.examples)

        def folded(values: Tensor) -> Tensor:
            return rearrange(values, "(b v) c f h w -> b c (v f) h w", b=count)

        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            latents = folded(self.pipe.encode_views(frames))
            control = folded(vace_control(self.pipe.vae, warped, missing))
        shifts = torch.full((count,), float(self.pipe.scheduler.config.shift))
        sigma = draw_noise_levels(shifts, generator, self.config.noise_levels).to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        amount = sigma.view(-1, 1, 1, 1, 1)
        noised = (1 - amount) * latents + amount * noise
        self.attend_over(self.data.num_views, self.data.num_latent_frames)
        shown = {"control_hidden_states": control}
        predicted = self.predict(noised, sigma * 1000, batch.captions, **shown)
        holes = folded(cells_with_holes(missing, self.pipe.spatial_stride))
        weight = KNOWN_WEIGHT + (1 - KNOWN_WEIGHT) * holes
        return {"loss": flow_loss(predicted, noise, latents, weight)}

    @torch.compiler.set_stance("force_eager")
    def sample(self, out: Path) -> dict[str, float]:
        """Draw samples.png: exact grids, what is known of them, and the filled ones; the mean PSNR
        of what was missing."""
        self.model.eval()
        self.pipe.set_progress_bar_config(disable=True)
        scores, sheets = [], []
        for index in range(VALIDATION_SCENES):
            example = self.data.validation.get(index).floats()
            given = {"video": example.warped.frames, "mask": example.warped.missing}
            options = {"guidance_scale": 1.0, "staged": False} | given
            made = self.generate(example.caption, 0, index, SAMPLED_STEPS, **options)
            holes = example.warped.missing[:, :, 0] > 0.5
            scores.append(psnr(made, example.frames, holes))
            filled = torch.where(holes[:, :, None], made, example.warped.frames)
            grids = example.frames, example.warped.frames, filled
            sheets.append(torch.cat([contact_sheet(grid[::2], 5) for grid in grids], dim=2))
        self.model.train()
        if self.loop.accelerator.is_main_process:
            write_image(out / "samples.png", torch.cat(sheets, dim=1))
        return {"validation_psnr": round(sum(scores) / len(scores), 3)}


def cells_with_holes(missing: Tensor, stride: int) -> Tensor:
    """Which latent cells [N, 1, F, h, w] have a missing pixel, as 0 or 1, of missing
    [N, T, 1, H, W]; stride is that of the autoencoder in pixels."""
    there = torch.nn.functional.max_pool2d(missing.flatten(0, 1), stride)
    there = there.unflatten(0, missing.shape[:2])[:, :, 0]  # [N, T, h, w]
    rest = there[:, 1:].unflatten(1, (-1, TEMPORAL_STRIDE)).amax(dim=2)
    return torch.cat([there[:, :1], rest], dim=1)[:, None]
