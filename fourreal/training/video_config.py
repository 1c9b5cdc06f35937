"""The options of `fourreal train video`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fourreal.data.grids import DataConfig
from fourreal.grid import num_latent_frames
from fourreal.training.flow import NoiseLevels
from fourreal.training.loop import LoopConfig

REFERENCES = ("none", "fixed view", "freeze time", "both")

Tune = Literal["all", "attention", "lora", "vace"]
Architecture = Literal["fused", "fused-sum", "sequential", "parallel-hard", "parallel-soft"]
Conditioning = Literal["replace", "add"]


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
    start_share: float = 0.0
    """Share of that model's weights in the result: each number is averaged with the trained one,
    which can be better than both (WiSE-FT, arXiv 2109.01903)."""
    autoencoder: Path | None = None
    """Autoencoder file; by default the one of start_from, or what `train autoencoder` wrote."""
    text_encoder: Path | None = None
    """Text encoder file, when start_from is a transformer file."""
    tokenizer: Path | None = None
    """spiece.model or tokenizer folder, when the text encoder file holds none."""
    vace: bool = False
    """Train a VACE, which fills the holes of warped grids: start_from, with blocks beside its own
    that see what is known. On procedural scenes, of the last of the grids."""
    quick_scenes: int = 0
    """Scenes of --vace besides --data.scenes whose holes are told from exact depth alone, which is
    six times faster than to warp them."""
    reconstructor: Path | None = None
    """A reconstructor file, whose depth of first views every second scene of --vace is warped by
    (default: the package's)."""
    tune: Tune = "all"
    """all (of an embedded model also the text encoder, but not with --vace), attention
    (self-attention), lora, or vace (the blocks that --vace adds)."""
    lora_rank: int = 32
    """Rank of the LoRA: more can learn more, and takes more memory."""
    architecture: Architecture | None = None
    """fused is the paper's, the others are to compare with; by default as start_from, and fused
    from nothing."""
    conditioning: Conditioning | None = None
    """How references enter the model; by default as start_from, and replace from nothing."""
    width: int = 256
    """Width of a model from nothing, a multiple of 128 (Wan's head size)."""
    layers: int | None = None
    """Transformer blocks: 6 from nothing, else as start_from. Where start_from has fewer, more are
    put between its own, which say nothing until they are trained."""
    ffn_width: int = 768
    """Width of its feed-forward layers."""
    text_width: int = 128
    """Width of its text encoder."""
    grids: tuple[str, ...] = ("1x1", "2x5", "4x13", "8x29")
    """Views x frames, one after the other during training; batches of smaller grids hold more."""
    grid_starts: tuple[float, ...] = (0.0, 0.06, 0.16, 0.6)
    """The part of the run after which each grid is used."""
    grid_odds: tuple[float, ...] = ()
    """How often each grid is drawn, instead of one after the other."""
    half_size: float = 0.0
    """How often frames have half of the height and width, four times as many, so that one model
    serves both sizes."""
    shift: float | None = None
    """Timestep shift of training and sampling; by default as start_from, and 3 from nothing."""
    both_shift: float | None = None
    """Timestep shift of training with both references, which leave little to decide below the
    highest noise; by default the same."""
    noise_levels: NoiseLevels = "logit-normal"
    """How noise levels are drawn before the shift: logit-normal, which leaves the highest and
    lowest out nearly, or uniform, as the steps of sampling are spread."""
    guidance_scale: float | None = None
    """Default guidance of the trained model without both references; by default as start_from, and
    2.5 from nothing."""
    text_dropout: float = 0.1
    """How often the caption is left out, for guidance."""
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
    cuda_graphs: bool = False
    """Give a GPU each step of the transformer whole, as CUDA graphs: several times faster for the
    embedded models, whose operations are short. With the text encoder trained too, on one GPU."""


def check_tuning(config: VideoConfig) -> None:
    """Raise ValueError, in one sentence, for what is to be tuned of a model without it."""
    if config.start_from is None and (config.tune == "lora" or config.vace):
        what = "a VACE" if config.vace else "a LoRA"
        raise ValueError(f"{what} needs a model; give one with --start-from.")
    if config.vace and (config.tune not in ("all", "vace") or config.conditioning):
        raise ValueError(
            "a VACE is tuned whole or in the blocks that it adds, and sees what is known by its "
            "control; leave out --tune or give --tune vace, and leave out --conditioning."
        )
    if config.start_share and config.start_from is None:
        raise ValueError("--start-share needs --start-from, the model that it is a share of.")
    if config.start_share and config.tune == "lora":
        raise ValueError(
            "a LoRA has no weights of the model to start from; leave out --start-share."
        )
    if config.tune == "vace" and not config.vace:
        raise ValueError("--tune vace is for a VACE; add --vace, or choose another --tune.")


def grids_of(config: VideoConfig) -> list[tuple[int, int]]:
    """(views, frames) of the config's grids. Raises ValueError when they, or what is given for each
    of them, are wrong."""
    name, given = "grid starts", config.grid_starts
    if config.grid_odds:
        name, given = "grid odds", config.grid_odds
    if len(given) != len(config.grids):
        raise ValueError(
            f"there are {len(config.grids)} grids and {len(given)} {name}; give one for each grid."
        )
    if len(config.reference_odds) not in (len(REFERENCES), len(REFERENCES) * len(config.grids)):
        raise ValueError(
            f"there are {len(config.reference_odds)} reference odds; give four, or four for each "
            f"of the {len(config.grids)} grids."
        )
    grids = []
    try:
        for grid in config.grids:
            views, frames = (int(n) for n in grid.split("x"))
            if views < 1:
                raise ValueError
            num_latent_frames(frames)
            grids.append((views, frames))
    except ValueError as error:
        reason = f": {error}" if "num_frames" in str(error) else ", such as 8x29."
        raise ValueError(f"grids are {config.grids}, but must be VIEWSxFRAMES{reason}") from error
    return grids
