"""CUDA graphs of a transformer: recorded once for each shape, and only where they answer alike."""

import gc
import weakref

import pytest
import torch

from fourreal import weights
from fourreal.cli import main
from fourreal.training.cuda_graphs import TrainingGraphs
from fourreal.video.transformer import apply_view_time

from ..tiny import tiny_transformer


def inputs(frames: int, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(frames)
    latents = torch.randn(2, 16, frames, 4, 4, generator=generator)
    timesteps = 1000 * torch.rand(2, frames * 4, generator=generator)
    text = torch.randn(2, 5, 32, generator=generator)
    return tuple(x.to(device).requires_grad_(x is text) for x in (latents, timesteps, text))


def gradients(transformer, answer, text):
    sources = [text, *(p for p in transformer.parameters() if p.requires_grad)]
    pulled = torch.autograd.grad(answer.float().square().mean(), sources, allow_unused=True)
    return [g for g in pulled if g is not None]


@pytest.fixture
def recorded(monkeypatch):
    """The shapes of the inputs of which graphs were recorded, by a stand-in that records none."""
    shapes = []

    def make(module, given, **_):
        shapes.append(given[0].shape[2])
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    return shapes


def test_a_graph_is_recorded_for_each_shape_and_answers_as_the_transformer(recorded):
    transformer = tiny_transformer()
    graphs = TrainingGraphs(transformer)
    for frames in (2, 3, 2):
        given = inputs(frames)
        answer = graphs((1, frames), *given)
        expected = transformer(*given, return_dict=False)[0]
        torch.testing.assert_close(answer, expected)
        found = gradients(transformer, answer, given[2])
        torch.testing.assert_close(found, gradients(transformer, expected, given[2]))
    assert recorded == [2, 3]


@pytest.mark.parametrize("wrong", ["answer", "gradients"])
def test_a_graph_that_answers_otherwise_is_refused(wrong, monkeypatch):
    def make(module, given, **_):
        if wrong == "answer":
            return lambda *inputs: 1.1 * module(*inputs)
        return lambda *inputs: (answer := module(*inputs)).detach() * 2 - answer

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    with pytest.raises(RuntimeError, match=r"a CUDA graph is off by \d+% here; leave out"):
        TrainingGraphs(tiny_transformer())((1, 2), *inputs(2))


def test_what_a_graph_reads_is_there_when_its_grid_comes_again(recorded):
    transformer, positions = tiny_transformer(), []
    graphs = TrainingGraphs(transformer)
    for grid in ((1, 2), (2, 1), (1, 2)):
        apply_view_time(transformer, *grid, max_frames=8)
        positions.append(weakref.ref(transformer.rope.positions))
        graphs(grid, *inputs(2))
    assert recorded == [2, 2]
    gc.collect()
    assert [p().tolist() for p in positions[:2]] == [[0, 1], [0, 8]]


def test_a_graph_is_compared_again_once_another_was_recorded(monkeypatch):
    recorded = []

    def make(module, given, **_):
        number = len(recorded)
        recorded.append(number)
        # The second one writes over what the first one reads.
        return lambda *given: module(*given) * (1.1 if len(recorded) > number + 1 else 1)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    graphs = TrainingGraphs(tiny_transformer())
    for frames in (2, 2, 3, 3):
        graphs((1, frames), *inputs(frames))
    with pytest.raises(RuntimeError, match=r"a CUDA graph is off by \d+% here; leave out"):
        graphs((1, 2), *inputs(2))


def test_runs_without_a_gpu_cannot_have_them(tmp_path, capsys):
    arguments = ["train", "video", "--start-from", str(weights.folder()), "--cuda-graphs"]
    assert main([*arguments, "--data.scenes", "1", "--loop.out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "--cuda-graphs cannot be used: they are for CUDA; leave it out." in said
    assert "Traceback" not in said


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_graphs_answer_as_the_transformer():
    transformer = tiny_transformer().to("cuda")
    graphs = TrainingGraphs(transformer)
    for grid in ((1, 2), (2, 1), (1, 2), (2, 1)):
        apply_view_time(transformer, *grid, max_frames=8)
        given = inputs(2, "cuda")
        answer = graphs(grid, *given)
        expected = transformer(*given, return_dict=False)[0]
        torch.testing.assert_close(answer, expected, rtol=1e-3, atol=1e-4)
