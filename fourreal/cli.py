"""The command line: fourreal generate, reconstruct, render, train, evaluate, ablate,
benchmark, info."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fourreal.commands.generate import GenerateConfig, ReconstructConfig


@dataclass
class RenderConfig:
    """Render a scene file along a camera path to a video or images."""

    scene: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("render.mp4")
    """A video file, or a folder (a name without suffix) for numbered PNG images."""
    kind: str = "orbit"
    """orbit, inputs, replay, spiral, push_in, dolly_zoom, freeze_time or fixed_view."""
    time: str | None = None
    """play, freeze (bullet time), ramp (slow to a stop and on) or ping_pong."""
    frames: int | None = None
    """Frames of the video; as many as the scene has by default."""
    freeze_at: int = 0
    """The time where freeze stands still and ramp stops."""
    keyframes: Path | None = None
    """JSON list of cameras to go through: {"view": 2} or {"position": [..], "target": [..]},
    each with optional "up", "fov" (degrees) and "time"."""
    beyond: bool = False
    """Let the camera leave the part of the sphere that the input views cover."""
    height: int = 256
    depth: Path | None = None
    """Also write depth: *.npz, or a folder for 16-bit PNG images."""


@dataclass
class ViewConfig:
    """Explore a scene file in the browser."""

    scene: Annotated[Path, tyro.conf.Positional]
    html: Path | None = None
    """Write one self-contained HTML file instead of serving the scene on this machine."""
    frames: Path | None = None
    """The input frames, to fade over the scene: a folder with a video of each view, or one video of
    all of them as tiles (default: the grid.mp4 that `generate` wrote beside the scene)."""
    port: int = 0
    """Port on localhost; a free one by default."""
    browser: bool = True
    """Open the browser."""


@dataclass
class InfoConfig:
    """Print versions, devices, and the attention and rasterizer that would be used."""


def render(config: RenderConfig) -> None:
    from fourreal.cameras import load_keyframes
    from fourreal.files.media import write_depth, write_images, write_video
    from fourreal.formats import load_scene
    from fourreal.rendering import render_path, scene_path

    scene = load_scene(config.scene)
    keyframes = config.keyframes and load_keyframes(
        config.keyframes, scene.extrinsics, scene.num_frames
    )
    path = scene_path(
        scene,
        config.height,
        kind=config.kind,
        num_frames=config.frames,
        freeze_at=config.freeze_at,
        time=config.time,
        keyframes=keyframes,
        beyond=config.beyond,
    )
    color, _, depth = render_path(scene, path)
    if config.out.suffix:
        write_video(config.out, color.movedim(-1, 1), scene.fps)
    else:
        write_images(config.out, color.movedim(-1, 1))
    if config.depth:
        write_depth(config.depth, depth[..., 0])
    print(config.out)


def view(config: ViewConfig) -> None:
    from fourreal.formats import load_scene
    from fourreal.viewer import export_html, read_frames, serve

    scene = load_scene(config.scene)
    grid = config.scene.with_name("grid.mp4")
    path = config.frames or (grid if grid.is_file() else None)
    frames = path and read_frames(path, scene.num_views, scene.num_frames)
    if config.html:
        export_html(scene, config.html, frames)
        print(config.html)
    else:
        serve(scene, frames, config.port, config.browser)


def info(_: InfoConfig) -> None:
    import platform

    import torch

    from fourreal import __version__
    from fourreal.attention import BACKENDS, choose_backend, unavailable
    from fourreal.rendering import available_backends

    print(f"fourreal {__version__}, python {platform.python_version()}, torch {torch.__version__}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    print(f"CUDA device: {device}; CPU threads: {torch.get_num_threads()}")
    print(f"rasterizers: {', '.join(available_backends())}")
    # What a Wan model of full size would use.
    cuda = torch.cuda.is_available()
    place = torch.device("cuda:0" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    backend, why = choose_backend(*place, head_dim=128, tokens=2**15)
    print(f"view-time attention: {backend} ({why})")
    for other in BACKENDS[1:]:
        absent = unavailable(other, *place, head_dim=128)
        limited = unavailable(other, *place, head_dim=128, training=True)
        state = absent or (f"available; {limited}" if limited else "available")
        print(f"  {other}: {state}")


def _train(kind: str):
    def run(config) -> None:
        import importlib

        module = importlib.import_module(f"fourreal.training.{kind}")
        getattr(module, f"train_{kind}")(config)

    return run


def _generate(config: GenerateConfig) -> None:
    from fourreal.commands.generate import generate

    print(f"results: {generate(config)}")


def _reconstruct(config: ReconstructConfig) -> None:
    from fourreal.commands.generate import reconstruct

    print(f"results: {reconstruct(config)}")


def _commands(arguments: list[str]) -> dict:
    """Command to (config class, function). Trainers and evaluation are imported when asked for."""
    commands = {
        "generate": (GenerateConfig, _generate),
        "reconstruct": (ReconstructConfig, _reconstruct),
        "render": (RenderConfig, render),
        "view": (ViewConfig, view),
        "info": (InfoConfig, info),
    }
    if arguments[:1] == ["train"]:
        from fourreal.training.train_autoencoder import AutoencoderConfig
        from fourreal.training.train_reconstructor import ReconstructorConfig
        from fourreal.training.train_video import VideoConfig

        return {
            "autoencoder": (AutoencoderConfig, _train("autoencoder")),
            "video": (VideoConfig, _train("video")),
            "reconstructor": (ReconstructorConfig, _train("reconstructor")),
        }
    if arguments[:1] == ["benchmark"]:
        from fourreal.benchmarks import benchmark_attention as attention
        from fourreal.benchmarks import benchmark_reconstruction as reconstruction
        from fourreal.benchmarks import benchmark_renderer as renderer

        return {
            "attention": (attention.AttentionBenchmark, attention.benchmark_attention),
            "renderer": (renderer.RendererBenchmark, renderer.benchmark_renderer),
            "reconstruction": (
                reconstruction.ReconstructionBenchmark,
                reconstruction.benchmark_reconstruction,
            ),
        }
    if arguments[:1] == ["evaluate"]:
        from fourreal.evaluation import evaluate_reconstruction as reconstruction
        from fourreal.evaluation import evaluate_video as video

        return {
            "autoencoder": (video.AutoencoderEvaluation, video.evaluate_autoencoder),
            "video": (video.VideoEvaluation, video.evaluate_video),
            "text": (video.TextEvaluation, video.evaluate_text),
            "reconstruction": (
                reconstruction.ReconstructionEvaluation,
                reconstruction.evaluate_reconstruction,
            ),
            "pipeline": (reconstruction.PipelineEvaluation, reconstruction.evaluate_pipeline),
            "split": (reconstruction.SplitEvaluation, reconstruction.evaluate_split),
        }
    if arguments[:1] == ["ablate"]:
        from fourreal.evaluation import ablations

        return {
            "video": (ablations.VideoAblation, ablations.ablate_video),
            "sampling": (ablations.SamplingAblation, ablations.ablate_sampling),
            "reconstruction": (ablations.ReconstructionAblation, ablations.ablate_reconstruction),
        }
    return commands


POSITIONAL = {"reconstruct": "inputs"}
GROUPS = {
    "train": "autoencoder | video | reconstructor",
    "evaluate": "autoencoder | video | text | reconstruction | pipeline | split",
    "ablate": "video | sampling | reconstruction",
    "benchmark": "attention | renderer | reconstruction",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it worked, 2 for wrong input (one sentence), 130 when stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    grouped = arguments[:1] and arguments[0] in GROUPS
    commands = _commands(arguments)
    name, rest = arguments[:1], arguments[1:]
    if grouped:
        name, rest = arguments[1:2], arguments[2:]
    if not name or name[0] not in commands:
        names = GROUPS[arguments[0]] if grouped else " | ".join([*commands, *GROUPS])
        print(f"usage: fourreal {arguments[0] + ' ' if grouped else ''}[{names}] --help")
        return 0 if name[:1] in ([], ["--help"], ["-h"]) else 2
    config_class, function = commands[name[0]]
    marked = config_class
    if name[0] in POSITIONAL and not grouped:
        marked = tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(config_class)
    program = f"fourreal {arguments[0] + ' ' if grouped else ''}{name[0]}"
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fourreal").setLevel(logging.INFO)
    try:
        function(tyro.cli(marked, args=rest, prog=program))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"fourreal: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fourreal: stopped; nothing was left half-written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
