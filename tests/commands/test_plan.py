"""`--plan`: what it computes without weights, against what the same models hold when they run."""

from functools import partial

import pytest
import torch

from fourreal.cli import main
from fourreal.commands import plan
from fourreal.commands.jobs import GenerateConfig
from fourreal.commands.plan import LiveBytes, StageMemory, plan_generate, weight_bytes
from fourreal.commands.reconstruct import read_reconstructor
from fourreal.files.tensors import read_safetensors, without_data
from fourreal.video import load_embedded_pipeline
from fourreal.video.latents import decode_view

from ..comfyui import write_random_weights

CPU = torch.device("cpu")
SIZES = [(8, 29, 64, 64), (2, 5, 32, 64), (4, 61, 64, 64)]


def measured(size) -> list[StageMemory]:
    """The stages of generate as the models themselves run on the CPU, allocations counted."""
    num_views, num_frames, height, width = size
    pipeline, reconstructor = load_embedded_pipeline(), read_reconstructor(None, CPU)
    pipeline.set_progress_bar_config(disable=True)
    latent = min((num_frames - 1) // 4 + 1, pipeline.config.max_frames)
    with torch.no_grad():
        with LiveBytes() as text:
            embeds = pipeline.encode_prompt("a red ball")
        sample = partial(
            pipeline,
            prompt_embeds=embeds,
            num_views=num_views,
            num_frames=4 * (latent - 1) + 1,
            height=height,
            width=width,
            num_inference_steps=1,
            guidance_scale=1.0,
            # As the second window, or not: whether cells are known.
            freeze_time=torch.rand(num_views, 3, height, width) if num_frames > 29 else None,
            output_type="latent",
        )
        sample()  # the first call tries the kernels on small cases
        plain, denoising = pipeline.transformer.forward, LiveBytes()

        def forward(*given, **options):
            with denoising:
                return plain(*given, **options)

        pipeline.transformer.forward = forward  # of the loop, the network alone
        latents = sample().frames
        with LiveBytes() as decoding:
            decode_view(pipeline.vae, latents[0])
        images = torch.rand(min(8, num_frames), num_views, 3, height, width)
        fit = reconstructor.fit(images)
        with LiveBytes() as reconstruct:
            reconstructor.predict(torch.stack([fit.images(own) for own in images]))
    counted = {
        "text": (pipeline.text_encoder, text),
        "denoising": (pipeline.transformer, denoising),
        "decoding": (pipeline.vae, decoding),
        "reconstruct": (reconstructor.model, reconstruct),
    }
    return [StageMemory(n, weight_bytes(m), live.peak, 0) for n, (m, live) in counted.items()]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_plan_is_within_a_fifth_of_what_is_measured(size):
    config = GenerateConfig(prompt="a red ball", num_views=size[0], num_frames=size[1])
    config.height, config.width = size[2:]
    for planned, real in zip(plan_generate(config, torch.float32), measured(size)):
        assert (planned.name, planned.weights) == (real.name, real.weights)
        assert planned.activations == pytest.approx(real.activations, rel=0.2), planned.name


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


def test_outputs_are_latents_frames_and_a_gaussian_per_pixel():
    config = GenerateConfig(prompt="a red ball", num_views=2, num_frames=5, height=32, width=64)
    text, denoising, decoding, reconstruct = plan_generate(config, torch.float32)
    assert text.outputs > 0
    channels = load_embedded_pipeline().transformer.config["in_channels"]
    assert denoising.outputs == 2 * 2 * channels * 4 * 8 * 4
    assert decoding.outputs == 2 * 5 * 3 * 32 * 64 * 4
    assert reconstruct.outputs == 2 * 5 * 32 * 64 * 14 * 4


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
    assert main(["generate", "a red ball", "--plan", *out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "computed from the models' shapes, not measured" in lines[0]
    assert [line.split(" | ")[0] for line in lines[3:]] == [
        "| text",
        "| denoising",
        "| decoding",
        "| reconstruct",
    ]
    assert not (tmp_path / "out").exists()


def test_a_folder_of_models_is_refused_in_one_sentence(tmp_path, capsys):
    assert main(["generate", "x", "--plan", "--device", "cpu", "--model", str(tmp_path)]) == 2
    assert "reads the sizes of single files" in capsys.readouterr().err


def test_no_weights_are_read(monkeypatch):
    """All tensors of the planned models are on the meta device."""
    seen = []
    plain = plan.without_numbers

    def look(model, function):
        seen.append({x.device.type for x in model.parameters()})
        return plain(model, function)

    monkeypatch.setattr(plan, "without_numbers", look)
    plan_generate(GenerateConfig(prompt="a red ball"), torch.float32)
    assert seen[1:] and all(devices <= {"meta"} for devices in seen)


def test_a_vace_is_planned_with_what_it_is_shown(tmp_path, monkeypatch):
    """Its blocks beside the others: more weights and more held than the model that it stands on."""
    write_random_weights(tmp_path)
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(tmp_path))
    plain, vace = (
        plan_generate(GenerateConfig(prompt="a ball", num_views=2, arc=arc), torch.float32)
        for arc in (None, 40.0)
    )
    assert [stage.name for stage in vace] == [stage.name for stage in plain]
    assert vace[1].weights > plain[1].weights and vace[1].activations > plain[1].activations
