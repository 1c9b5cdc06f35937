"""`fourreal train video`: the 4D video model (paper, section 3 and supplement).

Rectified flow on grids of latents; the references (none, row, column, both) are drawn at random,
the text is dropped for guidance, the views are reversed at random, and the grid grows during
training. With conditioning `replace` the known cells are clean, have timestep 0 and are not counted
in the loss; with `add` the references are added to the noised latents. What is trained is all of
the model (the embedded one, from nothing), its self-attention, or a LoRA on that.
"""

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from fourreal.data.cache import fingerprint
from fourreal.data.device_scenes import DeviceScenes
from fourreal.data.grids import GridData, SceneWindow
from fourreal.files.media import write_image
from fourreal.grid import contact_sheet, num_latent_frames
from fourreal.metrics.pixels import psnr
from fourreal.training.flow import draw_masks, draw_noise, draw_noise_levels, flow_loss
from fourreal.training.train_vace import train_vace
from fourreal.training.video_config import REFERENCES, VideoConfig, check_tuning, grids_of
from fourreal.training.video_examples import VideoBatch, VideoDraws, VideoExample
from fourreal.training.video_run import VideoRun
from fourreal.video.conditioning import model_inputs

__all__ = ["VideoConfig", "train_video"]

VALIDATION_GRIDS = 4
ENCODED_AT_ONCE = 256  # videos of scenes on the device
BOTH = REFERENCES.index("both")


def train_video(config: VideoConfig) -> None:
    """Train, and write lora.safetensors, vace.safetensors or transformer.safetensors (and
    text_encoder.safetensors) to the run's folder. Raises ValueError for what cannot work."""
    check_tuning(config)
    if config.vace:
        train_vace(config)
        return
    grids = grids_of(config)
    data = GridData(config.data, max(v for v, _ in grids), max(t for _, t in grids))
    if config.check_data:
        write_image(config.loop.out / "data.png", data.sheet(*grids[-1]))
        print(f"{data.report()}\nsheet: {config.loop.out / 'data.png'}")
        return
    training = VideoTraining(config, data)
    training.loop.run(training.loss, training.sample, training.draws.draw)
    training.save()


class VideoTraining(VideoRun):
    """A training run on whole grids: its loss and its samples."""

    def __init__(self, config: VideoConfig, data: GridData):
        validation = [data.caption(pick) for pick in data.validation(VALIDATION_GRIDS)]
        super().__init__(config, [*data.captions(), *validation])
        self.data = data
        data.fill(self.device, config.compile)
        self.on_device = self._scenes_on_device() if config.data.on_device else None
        vae_name = fingerprint(self.pipe.vae) if config.data.draws else ""
        self.draws = VideoDraws(config, data, vae_name)
        odds = torch.tensor(config.reference_odds).view(-1, len(REFERENCES))
        self.reference_odds = odds.expand(len(self.grids), -1)  # [grids, 4]

    def loss(self, batch: VideoBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The flow loss of a batch, with random references, noise levels and noise."""
        views, frames = self.grids[batch.grid]
        latents = rearrange(self._latents(batch), "b v c f h w -> b c (v f) h w")
        known, shifts = self.draw_references(batch, generator)
        sigma = draw_noise_levels(shifts, generator, self.config.noise_levels).to(self.device)
        on_gpu = self.on_device is not None and self.device.type == "cuda"
        noise = draw_noise(latents, generator, on_gpu)
        amount = sigma.view(-1, 1, 1, 1, 1)
        noised = (1 - amount) * latents + amount * noise
        patch = self.transformer.config["patch_size"][-1]
        rows, columns = (n // patch for n in latents.shape[-2:])
        conditioning = self.pipe.config.conditioning
        inputs, timesteps = model_inputs(
            noised, latents, known, sigma * 1000, conditioning, rows, columns
        )
        self.attend_over(views, num_latent_frames(frames))
        predicted = self.predict(inputs, timesteps, [e.caption for e in batch.examples])
        unknown = ~known if conditioning == "replace" else torch.ones_like(known)
        return {"loss": flow_loss(predicted, noise, latents, unknown[:, None, :, None, None])}

    def _scenes_on_device(self) -> DeviceScenes:
        scenes, data = self.data.scenes[False], self.config.data
        size = scenes.num_views, scenes.num_frames, data.height, data.width
        # Compiling takes a quarter of a minute on a GPU, and then it draws hundreds a second.
        compiled = self.device.type == "cuda"
        return DeviceScenes(scenes.split, data.scene_numbers, size, self.device, compiled)

    def _latents(self, batch: VideoBatch) -> Tensor:
        """[B, V, C, F, h, w] of a batch, encoded unless they were in the cache."""
        if self.on_device is not None:
            windows = [e.values for e in batch.examples if isinstance(e.values, SceneWindow)]
            frames = self.on_device.read(windows)
            encoded = self._encode(frames.flatten(0, 1), ENCODED_AT_ONCE)
            grids = list(encoded.unflatten(0, frames.shape[:2]))
        else:
            grids = [self._latents_of(example) for example in batch.examples]
        pairs = zip(grids, batch.examples)
        return torch.stack([g.flip(0) if example.reverse else g for g, example in pairs])

    def _latents_of(self, example: VideoExample) -> Tensor:
        """[V, C, F, h, w] of one example that is not on the device."""
        values: Any = example.values

        def encode() -> Tensor:
            return self._encode(values.to(self.device).float() / 255)

        if example.encoded:
            latents = values
        else:
            latents = self.draws.cache.get(example.key, encode) if example.key else encode()
        return latents.to(self.device, torch.float32)

    @torch.no_grad()
    def _encode(self, videos: Tensor, at_once: int = 1) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return self.pipe.encode_views(videos, at_once)

    def draw_references(
        self, batch: VideoBatch, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """(known cells [B, V*F], timestep shifts [B]) of a batch."""
        views, frames = self.grids[batch.grid]
        count, odds = len(batch.examples), self.reference_odds[batch.grid]
        kinds = torch.multinomial(odds, count, True, generator=generator)
        columns = 1 + (torch.rand(count, generator=generator) < self.config.continuation).long()
        static = [example.static for example in batch.examples]
        known = draw_masks(kinds, columns, static, views, num_latent_frames(frames))
        shift = self.pipe.scheduler.config.shift
        both = (kinds == BOTH) & (min(views, frames) > 1)
        return known.to(self.device), torch.where(both, self.config.both_shift or shift, shift)

    @torch.compiler.set_stance("force_eager")
    def sample(self, out: Path) -> dict[str, float]:
        """Draw samples.png: exact grids above those made from both references, then two from text;
        the mean PSNR of the cells that were not given."""
        by_odds = bool(self.config.grid_odds)
        grid = -1 if by_odds else self.draws.grid_at(self.loop.progress)
        views, frames = self.grids[grid]
        self.model.eval()
        self.pipe.set_progress_bar_config(disable=True)
        scores, sheets = [], []
        picks = self.data.validation(VALIDATION_GRIDS)
        for seed, pick in enumerate(picks):
            exact = self.data.draw(pick, views, frames).frames
            fixed_view = None if pick.kind == "static" else exact[0]
            references = {"fixed_view": fixed_view, "freeze_time": exact[:, 0]}
            made = self.generate(self.data.caption(pick), grid, seed, 8, **references)
            if views > 1 and frames > 1:
                scores.append(psnr(made[1:, 1:], exact[1:, 1:]))
            sheets.append(torch.cat([contact_sheet(exact[::2], 7), contact_sheet(made[::2], 7)], 2))
        for pick in picks[:2]:
            made = self.generate(self.data.caption(pick), grid, 0, 16)
            sheets.append(contact_sheet(made[::2], 7))
        self.model.train()
        widest = max(s.shape[2] for s in sheets)
        sheets = [nn.functional.pad(s, (0, widest - s.shape[2], 0, 6)) for s in sheets]
        if self.loop.accelerator.is_main_process:
            write_image(out / "samples.png", torch.cat(sheets, 1))
        return {"validation_psnr": round(sum(scores) / len(scores), 3)} if scores else {}
