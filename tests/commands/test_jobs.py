"""One job for each prompt: defaults, lists that resume, and models that are loaded once."""

import json
from pathlib import Path

import pytest
import torch

from fourreal.cli import main
from fourreal.commands import generate as job
from fourreal.commands.jobs import GenerateConfig, is_finished, list_jobs
from fourreal.reconstruction import Reconstructor
from fourreal.video import ViewTimePipeline

from .small_job import SMALL


@pytest.fixture
def three(tmp_path):
    """Arguments of a list of three prompts."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball\n\n  a blue box \na green cone\n")
    return ["generate", "--prompts", str(prompts), "--out", str(tmp_path / "out"), *SMALL]


@pytest.mark.parametrize(
    ("given", "steps", "fps"),
    [
        ({}, 20, 8),
        ({"fixed_view": Path("row.mp4")}, 20, 8),
        ({"freeze_time": Path("photos")}, 20, 8),
        ({"fixed_view": Path("row.mp4"), "freeze_time": Path("photos")}, 4, 8),
        ({"num_inference_steps": 7, "fps": 24}, 7, 24),
        ({"model": Path("wan")}, 40, 16),
        ({"transformer": Path("wan"), "vae": Path("v"), "text_encoder": Path("t")}, 40, 16),
    ],
)
def test_steps_and_rate_depend_on_the_model_and_the_references(given, steps, fps):
    (config,) = list_jobs(GenerateConfig("a ball", **given))
    assert (config.num_inference_steps, config.fps) == (steps, fps)


def test_a_list_of_prompts_resumes_where_it_stopped(three, tmp_path, monkeypatch):
    one, done, out = job.reconstruct_grid, [], tmp_path / "out"
    arguments = [*three, "--seed", "5"]

    def stop_at_the_second(*given, **options):
        done.append(given)
        if len(done) == 2:
            raise KeyboardInterrupt
        return one(*given, **options)

    monkeypatch.setattr(job, "reconstruct_grid", stop_at_the_second)
    assert main(arguments) == 130
    assert [p.name for p in out.iterdir()] == ["0001"]  # whole, and nothing of the second
    assert main(arguments) == 0
    assert sorted(p.name for p in out.iterdir()) == ["0001", "0002", "0003"] and len(done) == 4
    reports = [json.loads((out / f"000{i}/report.json").read_text()) for i in (1, 2, 3)]
    settings = [(r["settings"]["prompt"], r["settings"]["seed"]) for r in reports]
    assert settings == [("a red ball", 5), ("a blue box", 6), ("a green cone", 7)]
    assert all(r["stages"]["video"]["seconds_per_step"] > 0 for r in reports)
    assert main(arguments) == 0 and len(done) == 4  # all are finished
    (tmp_path / "prompts.txt").write_text("a red ball\na blue torus\na green cone\n")
    assert main(arguments) == 0 and len(done) == 5  # the changed one is made anew


def test_a_list_loads_each_model_once(three, monkeypatch):
    loaded = []

    def counted(cls, name):
        original = getattr(cls, name)

        def load(*given, **options):
            loaded.append(name)
            return original(*given, **options)

        return load

    monkeypatch.setattr(Reconstructor, "from_file", counted(Reconstructor, "from_file"))
    files = counted(ViewTimePipeline, "from_single_files")
    monkeypatch.setattr(ViewTimePipeline, "from_single_files", files)
    assert main(three) == 0
    assert sorted(loaded) == ["from_file", "from_single_files"]


def test_processes_share_a_list_of_prompts(three, monkeypatch):
    """accelerate's own split of a list, told that there are two processes."""
    from accelerate import PartialState

    PartialState()
    made = []
    monkeypatch.setattr(job, "generate_one", lambda config, *_: made.append(config.out.name))
    for index, share in enumerate((["0001", "0002"], ["0003"])):
        monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
        monkeypatch.setitem(PartialState._shared_state, "process_index", index)
        made.clear()
        assert main(three) == 0 and made == share


def test_a_job_is_finished_wherever_it_was_done(tmp_path):
    config = GenerateConfig("a ball", out=tmp_path)
    settings = {name: value for name, value in vars(config).items() if value != tmp_path}
    settings |= {"out": "elsewhere", "device": "cuda:1"}
    (tmp_path / "report.json").write_text(json.dumps({"settings": settings}))
    assert is_finished(config)
    assert not is_finished(GenerateConfig("a ball", out=tmp_path, seed=1))
    assert not is_finished(GenerateConfig("a ball", out=tmp_path / "none"))


@pytest.mark.parametrize(
    ("name", "device"), [(None, "cuda:1"), ("cuda", "cuda:1"), ("cuda:3", "cuda:3"), ("cpu", "cpu")]
)
def test_each_process_takes_its_own_gpu_unless_one_is_named(name, device, monkeypatch):
    monkeypatch.setattr(job, "choose_device", lambda name: torch.device(name or "cuda"))
    assert job.device_of_process(name, 1) == torch.device(device)
