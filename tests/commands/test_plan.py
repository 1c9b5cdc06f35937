"""`--plan`: what it computes without weights, against what the same models hold when they run."""

import pytest
import torch

from fourreal import devices
from fourreal.benchmarks.measuring import peak_memory
from fourreal.cli import main
from fourreal.commands import plan
from fourreal.commands.jobs import GenerateConfig
from fourreal.commands.plan import GIB, LiveBytes, StagePlan, plan_generate, weight_bytes
from fourreal.commands.reconstruct import read_reconstructor
from fourreal.files.media import write_video
from fourreal.files.tensors import read_safetensors, without_data
from fourreal.video import load_embedded_pipeline

from ..comfyui import write_random_weights
from .small_job import SMALL

CPU = torch.device("cpu")
# (views, frames, height, width), and options; the second one goes in windows with references
CASES = [
    ((8, 29, 64, 64), {}),
    ((2, 33, 64, 64), {"window": 17, "window_overlap": 5, "staged": False}),
]


def profiled(size, options) -> tuple[dict[str, int], int]:
    """Peak bytes of the stages as PyTorch's profiler counts them on the CPU, and the weights'."""
    num_views, num_frames, height, width = size
    pipeline, reconstructor = load_embedded_pipeline(), read_reconstructor(None, CPU)
    pipeline.set_progress_bar_config(disable=True)
    texts = {}
    given = {"window_frames" if name == "window" else name: v for name, v in options.items()}
    given |= {"num_views": num_views, "num_frames": num_frames, "height": height, "width": width}

    def encode() -> None:
        texts["prompt_embeds"] = pipeline.encode_prompt("a red ball")
        texts["negative_prompt_embeds"] = pipeline.encode_prompt("")

    def sample() -> None:
        pipeline(**texts, **given, num_inference_steps=2)

    with torch.no_grad():
        encode()
        sample()  # the first call tries the kernels on small cases, and fills caches
        images = torch.rand(min(8, num_frames), num_views, 3, height, width)
        fit = reconstructor.fit(images)
        fitted = torch.stack([fit.images(own) for own in images])
        reconstructor.predict(fitted[:1])
        peaks = {
            "text": peak_memory(encode, CPU),
            "denoising and decoding": peak_memory(sample, CPU),
            "reconstruct": peak_memory(lambda: reconstructor.predict(fitted.clone()), CPU),
        }
    models = pipeline.text_encoder, pipeline.transformer, pipeline.vae, reconstructor.model
    return peaks, sum(weight_bytes(model) for model in models)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "options"), CASES, ids=str)
def test_the_plan_is_within_a_fifth_of_what_the_profiler_counts(size, options):
    config = GenerateConfig(prompt="a red ball", num_views=size[0], num_frames=size[1], **options)
    config.height, config.width = size[2:]
    peaks, weights = profiled(size, options)
    stages = plan_generate(config, torch.float32)
    assert sum(stage.weights for stage in stages) == weights
    text, denoising, decoding, *carry, reconstruct = stages
    assert len(carry) == (config.staged is not False)
    planned = {
        "text": text.activations,
        # On a CPU the frames, which decoding leaves on the host, are in the same memory.
        "denoising and decoding": max(denoising.activations, decoding.activations)
        + decoding.outputs,
        "reconstruct": reconstruct.activations,
    }
    for name, counted in peaks.items():
        assert planned[name] == pytest.approx(counted, rel=0.2, abs=0.2e6), name


def test_a_run_that_does_not_fit_is_refused_with_what_to_change(monkeypatch):
    stages = [StagePlan("text", 10 * GIB, 2 * GIB, GIB, 0, 0)]
    stages += [StagePlan("denoising", 5 * GIB, GIB, 3 * GIB, 0, 0)]
    device = torch.device("cuda", 0)

    def refusal(free: float, offload: str = "none") -> str | None:
        for place in (plan, devices):
            monkeypatch.setattr(place, "free_bytes", lambda _: free * GIB)
        try:
            return plan.check_fits(stages, device, offload)
        except ValueError as error:
            return str(error)

    # All weights and the larger activations; the larger stage; its largest block.
    assert refusal(18) is None and refusal(11, "model") is None and refusal(4, "group") is None
    assert refusal(17).startswith("this needs about 18.0 GiB on cuda:0, which has 17.0 GiB; use ")
    assert refusal(17).endswith("use --offload model (11.0 GiB).")
    assert refusal(10.9).endswith("use --offload group (4.0 GiB).")
    assert refusal(10.9, "model").endswith("use --offload group (4.0 GiB).")
    assert refusal(3.9, "group").endswith("take fewer views, a smaller size, or shorter windows.")


def test_generate_and_reconstruct_refuse_before_any_work(tmp_path, monkeypatch, capsys):
    for place in (plan, devices):
        monkeypatch.setattr(place, "free_bytes", lambda _: 5_000_000)
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["generate", "a red ball", *SMALL, *out]) == 2
    assert "GiB on cpu, which has 0.0 GiB; take fewer views" in capsys.readouterr().err
    for view in range(2):
        write_video(tmp_path / f"{view}.mp4", torch.rand(2, 3, 32, 32), 8)
    videos = [str(tmp_path / f"{view}.mp4") for view in range(2)]
    assert main(["reconstruct", *videos, *out]) == 2
    assert "GiB on cpu, which has 0.0 GiB; take fewer views" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_living_bytes_are_those_of_tensors_that_are_still_held():
    with LiveBytes() as live:
        a = torch.zeros(1000)
        b = a.view(10, 100)[2:]  # no bytes of its own
        c = a + 1
        assert (live.now, live.peak) == (8000, 8000)
        del a
        assert live.now == 8000  # the view holds it
        del b
        assert live.now == 4000
        c.add_(1)
        d = torch.zeros(500, dtype=torch.float64)
    assert (live.now, live.peak) == (4000 + d.nbytes, 8000)
    assert c.nbytes == 4000


def test_outputs_and_operations_are_those_of_the_formulas_and_no_weights_are_read(monkeypatch):
    """Of one stage without guidance: two operations for each weight of a linear layer and token,
    four for each channel and pair of tokens."""
    seen, plain = [], plan.Bare.__init__

    def look(self, *models):
        seen.extend(x.device.type for model in models for x in model.parameters())
        plain(self, *models)

    monkeypatch.setattr(plan.Bare, "__init__", look)
    config = GenerateConfig(prompt="x", num_views=2, num_frames=5, height=32, width=32)
    config.guidance_scale, config.staged, config.num_inference_steps = 1.0, False, 7
    # Not staged, so that nothing is carried.
    text, denoising, decoding, reconstruct = plan_generate(config, torch.float32)
    assert set(seen) == {"meta"}

    pipeline = load_embedded_pipeline()
    sizes, words = pipeline.transformer.config, pipeline.max_tokens
    width, tokens = sizes.num_attention_heads * sizes.attention_head_dim, 2 * 2 * 2 * 2
    linear = tokens * (6 * width**2 + 2 * width * sizes.ffn_dim) + words * 2 * width**2
    # So few tokens are one masked attention of all by all, which is the fastest there.
    attention = 4 * tokens * (tokens + words) * width
    blocks = 7 * sizes.num_layers * (2 * linear + attention)
    assert blocks < denoising.flop < 1.15 * blocks

    fit = read_reconstructor(None, CPU).fit(torch.zeros(1, 3, 32, 32))
    assert text.outputs == words * sizes.text_dim * 4
    assert denoising.outputs == 2 * 2 * sizes.in_channels * 4 * 4 * 4
    assert decoding.outputs == 2 * 5 * 3 * 32 * 32 * 4
    assert reconstruct.outputs == 2 * 5 * fit.height * fit.width * 14 * 4


def test_files_without_data_have_shapes_and_types_and_no_numbers(model_files):
    path = model_files / "transformer.safetensors"
    plain, metadata = read_safetensors(path)
    with without_data():
        bare, same = read_safetensors(path)
    assert same == metadata and bare.keys() == plain.keys()
    for key, value in plain.items():
        assert (bare[key].shape, bare[key].dtype) == (value.shape, value.dtype)
        assert bare[key].device.type == "meta"
    assert read_safetensors(path)[0][key].device.type == "cpu"


def test_the_command_prints_a_table_that_says_it_is_computed_and_writes_nothing(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["generate", "a red ball", "--plan", *SMALL, *out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "computed from the models' shapes, not measured" in lines[0]
    assert [line.split(" | ")[0] for line in lines[3:8]] == [
        "| text",
        "| denoising",
        "| decoding",
        "| carry",
        "| reconstruct",
    ]
    assert not (tmp_path / "out").exists()


def test_a_folder_of_models_is_refused_in_one_sentence(tmp_path, capsys):
    assert main(["generate", "x", "--plan", "--device", "cpu", "--model", str(tmp_path)]) == 2
    assert "reads the sizes of single files" in capsys.readouterr().err


def test_a_smaller_grid_that_is_enlarged_is_planned_smaller():
    small = {"num_views": 2, "num_frames": 5, "height": 64, "width": 64}
    whole, half = (
        {
            s.name: s
            for s in plan_generate(GenerateConfig("a ball", fill_scale=n, **small), torch.float32)
        }
        for n in (1, 2)
    )
    assert half["decoding"].outputs == whole["decoding"].outputs / 4
    assert half["reconstruct"].outputs == whole["reconstruct"].outputs


def test_a_vace_is_planned_with_what_it_is_shown(tmp_path, monkeypatch):
    """Its blocks beside the others: more weights and more held than the model that it stands on."""
    write_random_weights(tmp_path)
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(tmp_path))
    small = {"num_views": 2, "num_frames": 5, "height": 32, "width": 32}
    plain, vace = (
        plan_generate(GenerateConfig(prompt="a ball", arc=arc, **small), torch.float32)
        for arc in (None, 40.0)
    )
    names = [stage.name for stage in plain]
    assert names[-2:] == ["carry", "reconstruct"]
    assert [stage.name for stage in vace] == [*names[:-2], "reconstruct"]
    assert vace[1].weights > plain[1].weights and vace[1].activations > plain[1].activations


@pytest.mark.parametrize(
    ("prompt", "told"), [("a dog near a small beach", ["dog, beach"]), ("a red ball", [])]
)
def test_planning_tells_of_the_unknown_words_of_the_prompt_once(prompt, told, caplog):
    """The embedded models guide by an empty text, which is planned beside the prompt."""
    assert main(["generate", prompt, "--plan", "--device", "cpu", *SMALL]) == 0
    warnings = [m for m in caplog.messages if "does not know" in m]
    assert [m.split("does not know ")[1].split(", and leaves")[0] for m in warnings] == told


def test_the_check_before_a_run_tells_of_no_words(caplog):
    """The run does."""
    config = GenerateConfig(prompt="a dog", num_views=2, num_frames=5, height=32, width=32)
    plan_generate(config, torch.float32)
    assert "does not know" not in caplog.text
