"""What is accepted of each option of each command, in one table, and of options together.

A name stands for the options of this name of all commands; Class.name for those of one config and
of what derives from it. Ranges are those of the method or of a format; where there is none, the
option is free, but numbers are always finite and text is always UTF-8.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fourreal.commands.option_checks import (
    Number,
    PathToRead,
    Rule,
    check_option,
    file_to_read,
    folder_to_read,
    one_of,
    options_of,
    place_by_suffix,
    place_of_file,
    place_of_folder,
    prompt,
    rule_of,
    text,
)
from fourreal.devices import choose_device

COUNT, FROM_ZERO, FREE = Number(1), Number(0), Number()
SHARE, POSITIVE = Number(0, 1), Number(0, above=True)
FRAMES = Number(1, multiple=4, plus=1, reason="the video autoencoder's groups of frames")
LARGEST = 2**14  # pixels of a side of an H.264 video
PIXELS = Number(1, LARGEST, reason="pixels")
CELLS = Number(16, LARGEST, multiple=16, reason="the model's cells")
BLOCKS = Number(8, LARGEST, multiple=8, reason="the autoencoder's blocks")
SEED = Number(-(2**63), 2**64 - 1, reason="PyTorch's range of seeds")
RATE = Number(1e-3, 1e3, reason="frames per second of a video file")
TWO_VIEWS = Number(2, reason="one view has no other to be compared with")

SCENE = PathToRead("a scene file, or the folder that holds a file of each time")
MODEL = PathToRead("a file of weights, or the folder of a model")
DATA = PathToRead("a file of data, or the folder that holds it")


def device(name: str) -> str | None:
    """Accepts the name of a device that is here."""
    choose_device(name)
    return None


def arc(degrees: float) -> str | None:
    """Accepts a part of a turn, to either side."""
    turns = math.isfinite(degrees) and 0 < abs(degrees) < 360
    return None if turns else "more than 0 and less than 360 degrees, negative to the left"


def reconstructor_file(path: Path) -> None:
    """Accepts a checkpoint of a reconstructor, told by its names of tensors; a pickled one, which
    would have to be read whole, by its ending."""
    from fourreal.reconstruction.checkpoint import read_tensors, recognise_reconstructor

    file_to_read(path)
    if path.suffix not in (".pt", ".pth", ".bin", ".ckpt"):
        recognise_reconstructor(*read_tensors(path), str(path))


RULES: dict[str, Rule] = {
    # The grid and its sampling
    "prompt": prompt,
    "prompts": file_to_read,
    "TextEvaluation.prompts": prompt,
    "num_views": COUNT,
    "num_frames": FRAMES,
    "height": CELLS,
    "width": CELLS,
    "window": FRAMES,
    "window_overlap": FRAMES,
    "num_inference_steps": COUNT,
    "guidance_scale": FREE,
    "view_strength": FROM_ZERO,
    "first_block_cache": FROM_ZERO,
    "seed": SEED,
    "seeds": SEED,
    "fps": RATE,
    "offsets": FREE,
    "orbit_size": PIXELS,
    "device": device,
    # Files and folders
    "model": MODEL,
    "transformer": file_to_read,
    "vae": file_to_read,
    "text_encoder": file_to_read,
    "tokenizer": PathToRead("a spiece.model, or the folder of a tokenizer"),
    "lora": PathToRead("a file of a LoRA, or the folder that holds it"),
    "reconstructor": reconstructor_file,
    "fixed_view": PathToRead("a video, or the folder that holds its frames"),
    "freeze_time": PathToRead("a video, or the folder that holds an image of each view"),
    "image": file_to_read,
    "inputs": PathToRead("videos, or the folder that holds them"),
    "known_cameras": file_to_read,
    "scene": SCENE,
    "keyframes": file_to_read,
    "input_frames": PathToRead("a video, or the folder that holds one of each view"),
    "out": place_of_folder,
    "depth": place_by_suffix,
    "html": place_of_file,
    # The arc of a warp
    "source": PathToRead("a scene file, a video or a photo, or the folder that holds photos"),
    "arc": arc,
    "elevation": Number(-89, 89, reason="degrees"),
    "distance": POSITIVE,
    "rounds": COUNT,
    "fill_scale": COUNT,
    "WarpConfig.num_views": TWO_VIEWS,
    "WarpConfig.height": PIXELS,
    "WarpConfig.width": PIXELS,
    # Tracking
    "points": file_to_read,
    "rows": Number(1, 256),
    "view": FROM_ZERO,
    "TrackConfig.time": FROM_ZERO,
    # Reconstruction
    "max_frames": COUNT,
    "resolution": Number(1, LARGEST, reason="pixels"),
    "sh_degree": FROM_ZERO,
    "detail": Number(1, 8, reason="Gaussians"),
    "refine": FROM_ZERO,
    "ReconstructConfig.window": COUNT,
    "Filters.sharpen": FROM_ZERO,
    "Filters.unmix": FROM_ZERO,
    "Filters.confidence_percentile": FROM_ZERO,
    "Filters.depth_edge": FROM_ZERO,
    "Filters.border": FROM_ZERO,
    "Filters.consistency": FROM_ZERO,
    "Filters.min_opacity": FROM_ZERO,
    "Filters.voxel_size": FROM_ZERO,
    # Rendering and viewing
    "RenderConfig.num_frames": COUNT,
    "RenderConfig.height": PIXELS,
    "RenderConfig.out": place_by_suffix,
    "freeze_at": FROM_ZERO,
    "ConvertConfig.out": place_by_suffix,
    "ConvertConfig.cameras": place_by_suffix,
    "ConvertConfig.time": FROM_ZERO,
    "port": Number(0, 65535),
    # Training: the loop
    "steps": COUNT,
    "minutes": POSITIVE,
    "batch_size": COUNT,
    "accumulate": COUNT,
    "learning_rate": FROM_ZERO,
    "warmup_steps": FROM_ZERO,
    "weight_decay": FROM_ZERO,
    "ema_decay": SHARE,
    "save_every": COUNT,
    "workers": FROM_ZERO,
    # Training: the models
    "start_from": MODEL,
    "start_share": SHARE,
    "cache": place_of_folder,
    "autoencoder": file_to_read,
    "num_scenes": COUNT,
    "AutoencoderConfig.size": BLOCKS,
    "z_dim": Number(1, 192, reason="the numbers of a block of 8 x 8 pixels"),
    "decoder_width": FROM_ZERO,
    "decoder_depth": COUNT,
    "stage": one_of("geometry", "static", "dynamic", "joint"),
    "ReconstructorConfig.temporal": one_of("token", "view", "none"),
    "size": PIXELS,
    "render_size": PIXELS,
    "fewest_views": COUNT,
    "most_views": Number(1, 6, reason="the number of views that are drawn of a scene"),
    "changing_views": SHARE,
    "geometry_share": SHARE,
    "geometry_scenes": COUNT,
    "ReconstructorConfig.num_views": Number(7, reason="its validation reads views 1 to 7"),
    "num_times": Number(1, 11, reason="its validation takes every second of a scene's times"),
    "posed": DATA,
    "posed_share": SHARE,
    "lpips_backbone": file_to_read,
    "perceptual_from": FROM_ZERO,
    "lora_rank": COUNT,
    "quick_scenes": FROM_ZERO,
    "VideoConfig.width": Number(128, multiple=128, reason="Wan's head size"),
    "layers": COUNT,
    "ffn_width": COUNT,
    "text_width": COUNT,
    "grids": text,
    "grid_starts": FROM_ZERO,
    "grid_odds": FROM_ZERO,
    "shift": POSITIVE,
    "both_shift": POSITIVE,
    "text_dropout": SHARE,
    "half_size": SHARE,
    "reverse_views": SHARE,
    "reference_odds": FROM_ZERO,
    "continuation": SHARE,
    # Training: data
    "multiview": DATA,
    "static": DATA,
    "videos": DATA,
    "shares": FROM_ZERO,
    "DataConfig.scenes": FROM_ZERO,
    "first_scene": FROM_ZERO,
    "draws": FROM_ZERO,
    # Evaluation
    "scenes": COUNT,
    "Evaluation.out": place_of_file,
    "data": folder_to_read,
    "montage": place_of_file,
    "lpips": file_to_read,
    "clip": folder_to_read,
    "fvd": file_to_read,
    "videoscore": folder_to_read,
    "times": COUNT,
    "VideoEvaluation.num_views": TWO_VIEWS,
    "VideoEvaluation.num_frames": Number(
        5, multiple=4, plus=1, reason="the video autoencoder's groups of frames"
    ),
    "TextEvaluation.num_views": TWO_VIEWS,
    "WarpEvaluation.num_views": TWO_VIEWS,
    "WarpEvaluation.vace": file_to_read,
    "strengths": FROM_ZERO,
    "vace_steps": COUNT,
    "WarpEvaluation.grow": FROM_ZERO,
    "feather": FROM_ZERO,
    "ReconstructionEvaluation.num_views": TWO_VIEWS,
    "ReconstructionEvaluation.num_frames": COUNT,
    "SplitEvaluation.num_frames": COUNT,
    "SplitEvaluation.height": PIXELS,
    "SplitEvaluation.width": PIXELS,
    "PipelineEvaluation.num_views": TWO_VIEWS,
    "VideoAblation.num_views": TWO_VIEWS,
    "ReconstructionAblation.num_views": Number(4, reason="two are seen, and one between them"),
    "ReconstructionAblation.times": Number(1, 11, reason="as the reconstructor's --num-times"),
    "ReconstructionAblation.num_frames": COUNT,
    "folder": place_of_folder,
    "base_steps": COUNT,
    "train_steps": COUNT,
    "training_scenes": COUNT,
    "step_counts": COUNT,
    "guidance_scales": FREE,
    "text_steps": COUNT,
    # Benchmarks
    "AttentionBenchmark.num_frames": COUNT,
    "AttentionBenchmark.out": place_of_file,
    "ReconstructionBenchmark.num_frames": COUNT,
    "ReconstructionBenchmark.height": PIXELS,
    "ReconstructionBenchmark.width": PIXELS,
    "ReconstructionBenchmark.window": COUNT,
    "ReconstructionBenchmark.out": place_of_file,
    "tokens": COUNT,
    "heads": COUNT,
    "head_dim": COUNT,
    "repeats": COUNT,
    "gaussians": COUNT,
    "embed_dim": Number(64, multiple=64, reason="the head size"),
}


def check_generate(config: Any) -> None:
    """One source of prompts, and an overlap that is shorter than its window."""
    if (config.prompt is None) == (config.prompts is None):
        raise ValueError("give one prompt, or a file of prompts with --prompts.")
    if config.window and config.window_overlap >= config.window:
        raise ValueError(
            f"--window-overlap is {config.window_overlap}, but must be shorter than the window of "
            f"{config.window} frames."
        )
    if config.image and (config.fixed_view or config.freeze_time):
        raise ValueError(
            "--image is the grid's first cell, which --fixed-view and --freeze-time hold already; "
            "give either the image or those."
        )
    check_scaled(config)
    check_option("--seed", config.seed, SEED)


def check_scaled(config: Any) -> None:
    """Sizes of which a smaller grid can be generated. A scale below 1 has its own rule."""
    for name, size in (("height", config.height), ("width", config.width)):
        if size and config.fill_scale > 0 and size % config.fill_scale:
            raise ValueError(
                f"--{name} is {size}, but must be a multiple of --fill-scale ({config.fill_scale})."
            )


def check_warp(config: Any) -> None:
    """A whole size or none."""
    if (config.height is None) != (config.width is None):
        raise ValueError("--height and --width are needed together; give both or neither.")


def check_reconstructor(config: Any) -> None:
    """Sizes of a network from nothing, which has tokens of 8 x 8 pixels."""
    if not config.size:
        raise ValueError("--size needs one number of pixels or several, such as 64 128.")
    for size in config.size if config.start_from is None else ():
        check_option("--size", size, Number(8, multiple=8, reason="its tokens"))
    if config.start_from is None and config.stage != "geometry":
        raise ValueError(
            f"the {config.stage} stage needs --start-from, the file of the stage before."
        )
    if config.start_from is None and config.start_share:
        raise ValueError("--start-share needs --start-from, the file that it is a share of.")
    most = max(config.size)
    if config.render_size and config.render_size < most:
        raise ValueError(
            f"--render-size is {config.render_size}, but must be at least --size ({most})."
        )
    if config.stage != "geometry":
        check_scored(config)
    if config.fewest_views > config.num_views:
        raise ValueError(
            f"--fewest-views is {config.fewest_views}, but --num-views is {config.num_views}; give "
            "as many or fewer."
        )


def check_half(share: float, **sizes: int) -> None:
    """Half of a size is whole blocks, too, where it is used."""
    for name, size in sizes.items() if share else ():
        if size % 16:
            raise ValueError(
                f"--{name} is {size}, but with --half-size it must be a multiple of 16."
            )


def check_autoencoder(config: Any) -> None:
    """Half of the size, where it is used."""
    check_half(config.half_size, size=config.size)


def check_video(config: Any) -> None:
    """Odds and shares of which something is left, and a model for a LoRA."""
    from fourreal.training.video_config import check_tuning

    check_tuning(config)
    data = config.data
    if data.on_device and (config.vace or config.half_size or not data.scenes):
        raise ValueError(
            "--data.on-device is for procedural scenes of one size and not for --vace; leave out "
            "one of them."
        )
    if data.on_device and (data.multiview or data.static or data.videos or data.draws):
        raise ValueError(
            "--data.on-device is for procedural scenes alone; leave out --data.multiview, "
            "--data.static, --data.videos and --data.draws."
        )
    sizes = {"data.height": config.data.height, "data.width": config.data.width}
    check_half(config.half_size, **sizes)
    odds = config.reference_odds
    for four in (odds[i : i + 4] for i in range(0, len(odds), 4)):
        if not math.fsum(four):
            raise ValueError(f"--reference-odds are {four}, but one of the four must be above 0.")
    if config.grid_odds and not math.fsum(config.grid_odds):
        raise ValueError("--grid-odds are all 0, but one of them must be above 0.")
    if not config.grid_odds and config.grid_starts and min(config.grid_starts) > 0:
        raise ValueError("--grid-starts must begin with 0, so that there is a grid to start with.")


def check_scored(config: Any) -> None:
    """The package that scores need, before a model has worked for them."""
    from fourreal.metrics.pixels import import_torchmetrics

    import_torchmetrics()


TOGETHER: dict[str, Callable[[Any], None]] = {
    "AutoencoderConfig": check_autoencoder,
    "Evaluation": check_scored,
    "GenerateConfig": check_generate,
    "ReconstructorConfig": check_reconstructor,
    "Sampling": check_scaled,
    "VideoConfig": check_video,
    "WarpConfig": check_warp,
}


def check_options(config: Any) -> None:
    """Raise ValueError, in one sentence that names the option, for what no command can use."""
    for kind in type(config).__mro__:
        if together := TOGETHER.get(kind.__name__):
            together(config)
    for name, keys, value in options_of(config):
        rule = rule_of(keys, RULES)
        if isinstance(value, str):
            rule = rule or text
        if rule:
            check_option(name, value, rule)
