"""Every head of the reconstructor on the pretend device, and what happens without a move to it."""

import inspect
import sys
from collections import Counter
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import FunctionType, ModuleType

import pytest
import torch

from fourreal.reconstruction import Reconstructor, alignment, finished_depth, pixels_to_gaussians
from fourreal.reconstruction.bundle_adjustment import adjust_cameras, adjust_depth
from fourreal.scenes import make_scene, scene_seed

from ..pretend_cuda import PretendCuda
from ..tiny import open_temporal_gates, tiny_model
from .conftest import share_on_device

TIMES = 3


@pytest.fixture(scope="module")
def frames():
    return make_scene(scene_seed("validation", 1), 3, TIMES, 32, 32).frames


def on_device(model, frames, **options):
    """(reconstruction, operations, transfers) of the second run: the first makes tables that are
    kept, on the host. Without the adjustment, whose operations would outnumber all others."""
    options["adjust"] = False
    with PretendCuda() as device:
        network = Reconstructor(model.to("cuda"), dtype=torch.float32)
        network(frames[:, :1], **options)
        device.operations.clear()
        device.transfers.clear()
        found = network(frames, **options)
        counts = Counter(device.operations), Counter(device.transfers)
        model.to("cpu")
    return found, *counts


@pytest.mark.parametrize("head", ["none", "paper", "anysplat"])
@pytest.mark.parametrize("joined", [False, True], ids=["times apart", "times joined"])
def test_every_head_runs_on_the_device_and_gives_the_cpus_numbers(head, joined, frames):
    def model():
        degree = {"sh_degree": 4} if head == "anysplat" else {}
        made = tiny_model(gaussian_head=head, temporal="token" if joined else "none", **degree)
        return open_temporal_gates(made) if joined else made

    options = {"sh_degree": 2} if head == "anysplat" else {}
    expected = Reconstructor(model())(frames, adjust=False, **options)
    found, operations, transfers = on_device(model(), frames, **options)
    assert share_on_device(operations) > 0.99, operations
    print(head, joined, dict(transfers))
    assert sum(transfers.values()) <= 22 * TIMES + 20
    size = float(expected.depth.abs().max())
    for a, b in ((found.depth, expected.depth), (found.extrinsics, expected.extrinsics)):
        assert a.device.type == "cpu" and (a - b).abs().max() < 1e-4 * size
    parts = zip([found.scene.static, *found.scene.dynamic], expected_parts(expected))
    for a, b in parts:
        assert abs(len(a) - len(b)) <= 0.01 * len(b) + 1 and a.means.device.type == "cpu"
        assert a.harmonics.shape[1:] == b.harmonics.shape[1:]


def expected_parts(expected):
    return [expected.scene.static, *expected.scene.dynamic]


def test_given_cameras_are_used_on_the_device(frames):
    scene = make_scene(scene_seed("validation", 1), 3, TIMES, 32, 32)
    options = {"cameras": (scene.extrinsics, scene.intrinsics)}
    expected = Reconstructor(tiny_model())(frames, adjust=False, **options)
    found, operations, _ = on_device(tiny_model(), frames, **options)
    assert share_on_device(operations) > 0.99
    assert (found.depth - expected.depth).abs().max() < 1e-3 * expected.depth.max()


def test_cameras_and_depth_are_adjusted_on_the_device(frames):
    scene = make_scene(scene_seed("validation", 1), 3, TIMES, 32, 32)
    images, depth = scene.frames.transpose(0, 1), 1.02 * scene.depth.transpose(0, 1)
    cameras = scene.extrinsics, scene.intrinsics

    def adjusted(device):
        there = cameras[0].to(device), cameras[1].to(device)
        (extrinsics, intrinsics), units = adjust_cameras(images, depth, there, steps=5)
        first = adjust_depth(images[0].to(device), depth[0].to(device), there, steps=5)
        return [part.to("cpu") for part in (extrinsics, intrinsics, units, first)]

    expected = adjusted("cpu")
    with PretendCuda() as device:
        found = adjusted("cuda")
        # Adam counts its steps on the host.
        assert share_on_device(Counter(device.operations)) > 0.96
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, expected))


MOVES = [
    (finished_depth, "depth[time].to(device)", "depth[time]"),
    (pixels_to_gaussians, "now = now.to(device)", "now = now"),
    (pixels_to_gaussians, "maps.depth[:, view].to(device)", "maps.depth[:, view]"),
    (
        pixels_to_gaussians,
        "depth, sure = maps.depth[time].to(device), ",
        "depth, sure = maps.depth[time], ",
    ),
    (alignment, "parts[0].to(device), parts[1].to(device), parts[2].to(device)", "parts"),
]


class Rewritten(SourceFileLoader):
    """Loads another text than that of the file."""

    text: str

    def get_code(self, fullname):
        return self.source_to_code(self.text.encode(), self.path)


def rewritten(module: ModuleType, text: str, instead: str, monkeypatch) -> None:
    """Run a module's source with one text replaced, and put its functions and methods in place."""
    source = inspect.getsource(module)
    assert source.count(text) == 1, text
    loader = Rewritten(module.__name__, module.__file__)
    loader.text = source.replace(text, instead)
    other = module_from_spec(spec_from_loader(module.__name__, loader))
    monkeypatch.setitem(sys.modules, module.__name__, other)
    loader.exec_module(other)
    monkeypatch.undo()
    for name, value in vars(other).items():
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            own = getattr(module, name)
            monkeypatch.setattr(own, "__code__", value.__code__)
        elif inspect.isclass(value) and value.__module__ == module.__name__:
            for method, function in vars(value).items():
                if isinstance(function, FunctionType) and not method.startswith("__"):
                    monkeypatch.setattr(getattr(module, name), method, function)


@pytest.mark.parametrize("module, text, instead", MOVES, ids=lambda value: str(value)[:40])
def test_a_move_to_the_device_that_is_left_out_is_noticed(
    module, text, instead, frames, monkeypatch
):
    rewritten(module, text, instead, monkeypatch)
    try:
        _, operations, _ = on_device(tiny_model(gaussian_head="paper"), frames)
    except RuntimeError as error:
        assert "mixes cuda and cpu" in str(error)
    else:
        assert share_on_device(operations) < 0.99, operations
