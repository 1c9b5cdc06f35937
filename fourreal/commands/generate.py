"""`fourreal generate`: the main job, from a prompt to a grid, Gaussians and videos on disk."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourreal.carry import carry_first_time, carry_references
from fourreal.commands.arc_options import Cameras
from fourreal.commands.filling import fill_grid, filling_stages, needs_geometry, write_warped
from fourreal.commands.jobs import GenerateConfig, is_carried, is_finished, list_jobs
from fourreal.commands.pipelines import Models, is_embedded, load_pipeline
from fourreal.commands.reconstruct import read_reconstructor, reconstruct_grid
from fourreal.commands.results import (
    WRITING,
    kept_grid,
    progress_bar,
    write_report,
    write_results,
)
from fourreal.devices import choose_device, matrix_dtype
from fourreal.files.atomic import results_folder
from fourreal.files.media import read_image, read_images, read_video
from fourreal.fill import generate_smaller
from fourreal.grid import check_shared_cell
from fourreal.profiling import StageProfiler, StepTimer
from fourreal.reconstruction import Reconstructor
from fourreal.warp import reference_cells

logger = logging.getLogger(__name__)


def read_reference(path: Path, count: int | None, config: GenerateConfig, name: str) -> Tensor:
    """Frames [count, 3, H, W] of a video, a folder of images or (name image) an image, of the
    grid's size; count None takes as many as there are.

    Raises ValueError naming the file when it has too few frames or another size (without fit).
    """
    assert config.height is not None and config.width is not None  # list_jobs fills them in
    fit = (config.height, config.width) if config.fit else None
    wanted = count
    if count is not None and not config.fit:
        wanted = count + 1  # one more shows that there are too many
    if name == "image":
        frames = read_image(path, fit)[None]
    elif path.is_dir():
        frames = read_images(path, wanted, fit=fit)
    else:
        frames = read_video(path, wanted, fit=fit)[0]
    count = count or len(frames)
    if frames.shape != (count, 3, config.height, config.width):
        found = f"more than {count}" if len(frames) > count else f"{len(frames)}"
        raise ValueError(
            f"the {name} reference {path} has {found} frames of {frames.shape[-2]} x "
            f"{frames.shape[-1]}, but this grid needs {count} of {config.height} x {config.width}; "
            + ("give a longer one." if config.fit else "give one of that size or add --fit.")
        )
    return frames


def sampling_options(config: GenerateConfig) -> dict[str, Any]:
    """What all prompts of a list have in common, as options of the pipeline's call. Reads the
    references, of which photos may be of any number where the views are on an arc."""
    photos = None if config.arc is not None else config.num_views
    image = config.image and read_reference(config.image, 1, config, "image")[0]
    row, column = (
        None if path is None else read_reference(path, count, config, name)
        for name, path, count in (
            ("fixed_view", config.fixed_view, config.num_frames),
            ("freeze_time", config.freeze_time, photos),
        )
    )
    if row is not None and column is not None:
        check_shared_cell(row, column)  # before models are loaded
    return {
        "negative_prompt": config.negative_prompt,
        "num_views": config.num_views,
        "num_frames": config.num_frames,
        "height": config.height,
        "width": config.width,
        "fixed_view": row,
        "freeze_time": column,
        "image": image,
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
        "staged": config.staged,
        "view_strength": config.view_strength,
        "window_frames": config.window,
        "window_overlap": config.window_overlap,
    }


def carry_grid(
    reconstructor: Reconstructor, frames: Tensor, options: dict[str, Any], profiler: StageProfiler
) -> tuple[Tensor, Cameras]:
    """carry_references as the stage "carry", with a bar; options: those of the pipeline's call,
    of which the video and the photos are the references. Without them carry_first_time."""
    (num_views, num_frames), (height, width) = frames.shape[:2], frames.shape[-2:]
    given = {name: options[name] for name in ("fixed_view", "freeze_time")}
    references = reference_cells((num_views, num_frames, height, width), **given)
    bar = progress_bar("carrying references", num_frames)
    with profiler.stage("carry"), bar as progress, torch.no_grad():
        shown: dict[str, Any] = {"device": profiler.device, "progress": progress}
        if references is None:
            return carry_first_time(reconstructor, frames, **shown)
        return carry_references(reconstructor, frames, references, **shown)


def options_to_go_on(job: GenerateConfig, **known: str) -> list[str]:
    """The options with which `fourreal reconstruct` makes of a finished grid what the job does."""
    same = ("reconstructor", "device", "orbit_size")
    given = known | {
        n: getattr(job, n) for n in same if getattr(job, n) != getattr(GenerateConfig, n)
    }
    return [part for n, v in given.items() for part in (f"--{n.replace('_', '-')}", str(v))]


def load_models(config: GenerateConfig, device: torch.device) -> Models:
    """The pipeline and the reconstructor that a config asks for."""
    pipeline, keep = load_pipeline(config, device), config.offload == "none"
    if keep:
        return Models(pipeline, read_reconstructor(config.reconstructor, device), keep)
    host = torch.device("cpu")
    return Models(pipeline, read_reconstructor(config.reconstructor, host, torch.bfloat16), keep)


def device_of_process(name: str | None, index: int) -> torch.device:
    """Where a process of several on one machine works: each on a GPU of its own, unless one is
    named ("cuda:3")."""
    device = choose_device(name)
    return torch.device("cuda", index) if device == torch.device("cuda") else device


def generate(config: GenerateConfig) -> Path:
    """Run the whole job and return the results' folder. Raises ValueError for wrong input before
    any long work; a stopped or failed run leaves `out`, or of a list the folder it was working on,
    as it was. With plan it prints a table and does nothing."""
    from accelerate import PartialState

    if config.plan:
        from fourreal.commands.plan import plan_generate, plan_table  # diffusers takes seconds

        device = choose_device(config.device)
        print(plan_table(plan_generate(config, matrix_dtype(device)), device, config.offload))
        return config.out
    jobs, state = list_jobs(config), PartialState()
    if config.prompts:
        waiting = [job for job in jobs if not is_finished(job)]
        logger.info("%d of %d prompts are finished.", len(jobs) - len(waiting), len(jobs))
        jobs = waiting
    state.wait_for_everyone()  # all see the same list before anyone finishes a part of it
    with state.split_between_processes(jobs) as share:
        jobs = list(share)
    if jobs:
        from fourreal.commands.plan import check_job_fits  # diffusers takes seconds

        device = device_of_process(config.device, state.local_process_index)
        check_job_fits(jobs[0], device)
        options, loading = sampling_options(jobs[0]), StageProfiler(device)
        with loading.stage("load"):
            models = load_models(config, device)
        for number, job in enumerate(jobs, 1):
            if config.prompts:
                logger.info("Prompt %d of %d, %s: %s", number, len(jobs), job.out, job.prompt)
            generate_one(job, models, options, StageProfiler(device, dict(loading.stages)))
    print(f"results: {config.out}")
    return config.out


def generate_one(
    job: GenerateConfig, models: Models, options: dict[str, Any], profiler: StageProfiler
) -> None:
    """Sample with options (of the pipeline's call), reconstruct, render, and write job.out."""
    timer, filled = StepTimer(), None
    known: dict[str, Any] = {}
    asked = {
        **options,
        "prompt": job.prompt,
        "generator": torch.Generator().manual_seed(job.seed),
        "callback_on_step_end": timer,
        "callback_on_step_end_tensor_inputs": (),
    }
    by_geometry = needs_geometry(job, models.pipeline)
    making = filling_stages(job) if by_geometry else ["video"]
    carrying = ["carry"] * (not by_geometry and is_carried(job))
    if not by_geometry and not (job.fixed_view or job.freeze_time) and is_embedded(job):
        known = {"cameras": "even"}  # it has learnt views of an even movement
    profiler.plan = [*making, *carrying, "reconstruct", *WRITING]
    go_on = options_to_go_on(job, **known)
    with kept_grid(job.out, go_on) as keep, results_folder(job.out) as folder:
        if by_geometry:
            filled = fill_grid(job, models, asked, profiler)
            frames, known = filled.frames, filled.for_reconstruction()
        else:
            with profiler.stage("video"):
                frames = generate_smaller(
                    lambda **options: models.pipeline(**options).frames, job.fill_scale, **asked
                )
        if seconds := timer.seconds_per_step():
            profiler.stages["video"]["seconds_per_step"] = round(seconds, 4)
        assert job.fps is not None  # list_jobs fills it in
        keep(frames, job.fps)
        with models.reconstructor_on(profiler.device) as reconstructor:
            if carrying:
                frames, cameras = carry_grid(reconstructor, frames, options, profiler)
                keep(frames, job.fps)
                known = {"cameras": cameras}
            scene = reconstruct_grid(reconstructor, frames, profiler, fps=job.fps, **known)
        scene.metadata["prompt"] = str(job.prompt)
        figures: dict[str, Any] = write_results(folder, frames, scene, job.orbit_size, profiler)
        figures |= {} if filled is None else write_warped(folder, filled.warped)
        write_report(folder, profiler, scene, asdict(job), **figures)


COMMAND = (GenerateConfig, generate)
