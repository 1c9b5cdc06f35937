"""The examples of one step of the video trainer, chosen and read in a worker process."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fourreal.data.cache import TensorCache
from fourreal.data.grids import GridData, Pick, SceneWindow
from fourreal.grid import num_latent_frames, shrunk
from fourreal.training.draws import draw_shrink
from fourreal.training.video_config import VideoConfig, grids_of


@dataclass
class VideoExample:
    """One example: its frames [V, T, 3, H, W] in 0 to 255 (bytes travel faster between processes
    than floats), or where encoded its latents [V, C, F, h, w] from the cache, whose key is "" for
    an example that is not to be kept there, or of scenes on the device where it lies in them."""

    values: Tensor | SceneWindow
    encoded: bool
    key: str
    reverse: bool  # the order of the views
    caption: str  # "" where it is left out
    static: bool


@dataclass
class VideoBatch:
    """Examples of one grid, which is the config's of this index."""

    grid: int
    examples: list[VideoExample]


class VideoDraws:
    """Draws batches from GridData: a grid, then as many examples as have its share of cells.

    vae_name tells the latents in the cache of one autoencoder from those of another.
    """

    def __init__(self, config: VideoConfig, data: GridData, vae_name: str):
        self.config, self.data, self.vae_name = config, data, vae_name
        self.grids = grids_of(config)
        self.cache = TensorCache(config.data.cache / "latents")

    def batch_size(self, grid: int) -> int:
        """Examples of a grid that have at most the cells of a batch of the last grid."""
        cells = [views * num_latent_frames(frames) for views, frames in self.grids]
        return self.config.loop.batch_size * cells[-1] // cells[grid]

    def grid_at(self, progress: float) -> int:
        """The grid of a part of the run, where they come one after the other."""
        return [i for i, start in enumerate(self.config.grid_starts) if progress >= start][-1]

    def draw(self, generator: torch.Generator, progress: float) -> VideoBatch:
        """Choose and read a batch; all that is random comes from the generator."""
        if self.config.grid_odds:
            odds = torch.tensor(self.config.grid_odds)
            grid = int(torch.multinomial(odds, 1, generator=generator))
        else:
            grid = self.grid_at(progress)
        shrink = draw_shrink(self.config.half_size, generator)
        examples = []
        for _ in range(self.batch_size(grid) * shrink**2):
            pick = self.data.pick(generator)
            reverse, dropped = torch.rand(2, generator=generator)
            values, encoded, key = self._read(pick, *self.grids[grid], shrink)
            caption = "" if dropped < self.config.text_dropout else self.data.caption(pick)
            reversed_views = bool(reverse < self.config.reverse_views)
            static = pick.kind == "static"
            examples.append(VideoExample(values, encoded, key, reversed_views, caption, static))
        return VideoBatch(grid, examples)

    def _read(
        self, pick: Pick, num_views: int, num_frames: int, shrink: int
    ) -> tuple[Tensor | SceneWindow, bool, str]:
        """(values, encoded, key) of an example, as VideoExample has them."""
        key = ""
        if self.config.data.on_device:
            return self.data.window(pick, num_views, num_frames), False, key
        if self.config.data.draws:
            size = f"{self.config.data.height // shrink}x{self.config.data.width // shrink}"
            source = f"{self.vae_name} {self.data.source(pick)} {pick.seed}"
            key = f"{source} {num_views}x{num_frames} {size}"
            latents = self.cache.read(key)
            if latents is not None:
                return latents, True, key
        frames = shrunk(self.data.draw(pick, num_views, num_frames).frames, shrink)
        return (frames * 255).round().byte(), False, key
