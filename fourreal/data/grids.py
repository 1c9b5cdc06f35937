"""What a video model is trained on: grids from folders of clips and from procedural scenes.

Every example follows from the random generator that picks it, so a resumed run sees the same ones.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.data.cache import SceneCache
from fourreal.data.clips import KINDS, Clip, find_clips, path_of_view, read_window
from fourreal.data.pseudo4d import random_quads, warp_views
from fourreal.files.media import read_image
from fourreal.grid import contact_sheet
from fourreal.scenes import describe_scenes

PROCEDURAL_GRID = (8, 29)  # views x frames of a scene; more where the model needs more
SOURCES = (*KINDS, "procedural")


@dataclass
class DataConfig:
    """What a video model is trained on. Without any folder: procedural scenes alone."""

    multiview: tuple[Path, ...] = ()
    """Folders of synchronised clips of still cameras (plain, SynCamVideo's, Kubric-4D's)."""
    static: tuple[Path, ...] = ()
    """Folders of photos of things that stand still, one folder per scene."""
    videos: tuple[Path, ...] = ()
    """Folders of ordinary videos, or single ones, to be warped to several views (pseudo-4D)."""
    shares: tuple[float, float, float, float] = (40.0, 20.0, 20.0, 20.0)
    """Shares of multiview, static, videos and procedural; a kind without data has none."""
    caption: str | None = None
    """Caption for clips without one; if unset, such clips are rejected."""
    skip_bad: bool = False
    """Leave out clips that cannot be used instead of stopping."""
    height: int = 64
    width: int = 64
    scenes: int = 1000
    """Number of procedural scenes."""
    first_scene: int = 0
    """Which of all training scenes is the first, so that another run sees others."""
    on_device: bool = False
    """Keep the frames of procedural scenes in the device's memory, 2.9 MB for each at 64 x 64
    pixels, instead of on disk: a GPU then waits for no examples."""
    draws: int = 0
    """Number of random crops, windows and warps per clip, encoded once and kept in `cache`; 0
    encodes a new one each step. Use 8 or more with a real video autoencoder."""
    cache: Path = Path("out/train/scenes")
    """Where drawn scenes, latents and text embeddings are kept."""

    @property
    def scene_numbers(self) -> range:
        """Which of all training scenes the procedural ones are."""
        return range(self.first_scene, self.first_scene + self.scenes)


@dataclass
class Grid:
    """One training example: frames [V, T, 3, H, W] in [0, 1]; static when nothing moves."""

    frames: Tensor
    caption: str
    static: bool


@dataclass(frozen=True)
class Pick:
    """An example before it is read: which clip or scene, and the seed of all that is random."""

    kind: str
    index: int
    seed: int
    validation: bool = False


@dataclass(frozen=True)
class SceneWindow:
    """Which part of a procedural scene an example is: some of its views, and following times."""

    scene: int
    views: list[int]
    times: list[int]  # backwards where they fall

    @property
    def backwards(self) -> bool:
        return self.times[0] > self.times[-1]


def pick_views(generator: torch.Generator, available: int, count: int) -> list[int]:
    """`count` evenly spaced views out of those available, at a random spacing and start."""
    stride = 1 + _below(generator, max(available // count, 1))
    first = _below(generator, available - stride * (count - 1))
    return list(range(first, first + stride * (count - 1) + 1, stride))


def _below(generator: torch.Generator, count: int) -> int:
    """A random number from 0 to count - 1."""
    return int(torch.randint(count, (1,), generator=generator))


class GridData:
    """Grids drawn from all sources of a DataConfig, by their shares.

    Everything is checked on construction: raises ValueError that names each bad file (unless
    skip_bad), or when nothing is left. num_views x num_frames is the largest grid to be drawn. Of
    each kind with two clips or more, the last is kept for validation.
    """

    def __init__(self, config: DataConfig, num_views: int, num_frames: int):
        if len(config.shares) != len(SOURCES) or min(config.shares) < 0:
            raise ValueError(f"shares are {config.shares}, but must be four numbers from 0 up.")
        self.config = config
        self.problems: list[str] = []
        self.clips: dict[str, list[Clip]] = {}
        for kind, roots in zip(KINDS, (config.multiview, config.static, config.videos)):
            found: list[Clip] = []
            for root in roots:
                clips, problems = find_clips(kind, root, num_views, num_frames, config.caption)
                found += clips
                self.problems += problems
            if found:
                self.clips[kind] = found
        if self.problems and not config.skip_bad:
            shown = "; ".join(self.problems[:20])
            more = f"; and {len(self.problems) - 20} more" if len(self.problems) > 20 else ""
            raise ValueError(
                f"some training data cannot be used: {shown}{more}. Mend or remove it "
                "(--data.caption is for clips without a caption), or add --data.skip-bad."
            )
        self.shares = {k: w for k, w in zip(SOURCES, config.shares) if k in self.clips and w > 0}
        if config.shares[-1] and config.scenes:
            self.shares["procedural"] = config.shares[-1]
            views, frames = (max(a, b) for a, b in zip(PROCEDURAL_GRID, (num_views, num_frames)))
            self.scenes = {
                validation: SceneCache(
                    config.cache, split, views, frames, config.height, config.width
                )
                for validation, split in ((False, "train"), (True, "validation"))
            }
        self.told: list[str] = []  # the captions of procedural scenes, once they are asked for
        if not self.shares:
            raise ValueError(
                "there is nothing to train on; give folders with --data.multiview, --data.static "
                "or --data.videos, or a share and a number of procedural scenes."
            )

    def fill(self, device: torch.device, compiled: bool) -> None:
        """Draw all procedural scenes if there is nothing else, so that they cost no training
        time."""
        if list(self.shares) == ["procedural"] and not self.config.on_device:
            self.scenes[False].fill(self.config.scene_numbers, device, compiled)

    def size(self, kind: str) -> int:
        """Training clips (or scenes) of a kind."""
        if kind == "procedural":
            return self.config.scenes
        return max(len(self.clips[kind]) - 1, 1)

    def pick(self, generator: torch.Generator) -> Pick:
        """The next example: a kind by its share, then a clip, then one of its draws."""
        kinds = list(self.shares)
        kind = kinds[0]
        if len(kinds) > 1:
            shares = torch.tensor([self.shares[k] for k in kinds])
            kind = kinds[int(torch.multinomial(shares, 1, generator=generator))]
        index = _below(generator, self.size(kind))
        if kind == "procedural":
            index = self.config.scene_numbers[index]
        return Pick(kind, index, _below(generator, self.config.draws or 2**31))

    def validation(self, count: int) -> list[Pick]:
        """Fixed examples that are not trained on (with one clip of a kind: other draws of it)."""
        kinds = list(self.shares)
        picks = []
        for n in range(count):
            kind = kinds[n % len(kinds)]
            index = n if kind == "procedural" else len(self.clips[kind]) - 1
            picks.append(Pick(kind, index, 2**31 + n, True))
        return picks

    def source(self, pick: Pick) -> str:
        """What identifies the pixels of a pick on disk."""
        if pick.kind == "procedural":
            return f"procedural {self.scenes[pick.validation].folder.name} {pick.index}"
        clip = self.clips[pick.kind][pick.index]
        changed = [path_of_view(view).stat().st_mtime_ns for view in clip.views]
        return f"{pick.kind} {[str(view.absolute()) for view in clip.views]} {changed}"

    def caption(self, pick: Pick) -> str:
        if pick.kind == "procedural":
            if self.told and not pick.validation:
                return self.told[self.config.scene_numbers.index(pick.index)]
            return self.scenes[pick.validation].caption(pick.index)
        return self.clips[pick.kind][pick.index].caption

    def captions(self) -> list[str]:
        """Every caption that training can meet."""
        captions = [clip.caption for clips in self.clips.values() for clip in clips]
        if "procedural" in self.shares:
            if not self.told:
                scenes = self.scenes[False]
                size = scenes.num_views, scenes.num_frames
                found = describe_scenes(scenes.split, self.config.scene_numbers, *size)
                self.told = [scene.caption for scene in found]
            captions += self.told
        return captions

    def window(self, pick: Pick, num_views: int, num_frames: int) -> SceneWindow:
        """Where the example of a procedural pick lies in its scene, all from its seed."""
        generator = torch.Generator().manual_seed(pick.seed)
        scenes = self.scenes[pick.validation]
        views = pick_views(generator, scenes.num_views, num_views)
        start = _below(generator, scenes.num_frames - num_frames + 1)
        times = list(range(start, start + num_frames))
        if not pick.validation and _below(generator, 2):
            times.reverse()  # their motions are as likely backwards
        return SceneWindow(pick.index, views, times)

    def draw(self, pick: Pick, num_views: int, num_frames: int) -> Grid:
        """Read the example of a pick: random views, window and warp, all from its seed."""
        if pick.kind == "procedural":
            part = self.window(pick, num_views, num_frames)
            times = slice(min(part.times), max(part.times) + 1)
            frames = self.scenes[pick.validation].frames(pick.index, part.views, times)
            return Grid(frames.flip(1) if part.backwards else frames, self.caption(pick), False)
        generator = torch.Generator().manual_seed(pick.seed)
        size = self.config.height, self.config.width
        clip = self.clips[pick.kind][pick.index]
        if pick.kind == "static":
            views = [clip.views[v] for v in pick_views(generator, len(clip.views), num_views)]
            photos = torch.stack([read_image(v, size) for v in views])
            return Grid(photos[:, None].expand(-1, num_frames, -1, -1, -1), clip.caption, True)
        start = _below(generator, clip.num_frames - num_frames + 1)
        if pick.kind == "video":
            window = read_window(clip.views[0], start, num_frames)
            aspect = window.shape[-1] / window.shape[-2] * size[0] / size[1]
            frames = warp_views(window, random_quads(num_views, aspect, generator), *size)
            return Grid(frames, clip.caption, False)
        views = [clip.views[v] for v in pick_views(generator, len(clip.views), num_views)]
        windows = [read_window(v, start, num_frames, size) for v in views]
        return Grid(torch.stack(windows), clip.caption, False)

    def report(self) -> str:
        """What would be read, one line per kind, and what would be left out."""
        total = sum(self.shares.values())
        lines = []
        for kind, share in self.shares.items():
            kept = len(self.clips[kind]) - self.size(kind) if kind in self.clips else 0
            lines.append(
                f"{kind}: {self.size(kind)} {'scenes' if kind == 'procedural' else 'clips'}, "
                f"{100 * share / total:.0f}% of the examples"
                + (f", {kept} more for validation" if kept else "")
            )
        return "\n".join(lines + [f"left out: {problem}" for problem in self.problems])

    def sheet(self, num_views: int, num_frames: int) -> Tensor:
        """One image [3, h, w]: for each kind an example, views down and times across."""
        sheets = []
        for kind in self.shares:
            first = self.config.first_scene if kind == "procedural" else 0
            frames = self.draw(Pick(kind, first, 0), num_views, num_frames).frames
            sheets.append(F.pad(contact_sheet(frames), (0, 0, 0, 8), value=1.0))
        return torch.cat(sheets, 1)
