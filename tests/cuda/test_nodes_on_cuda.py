"""The nodes whose work is the pack's own, on the pretend device: Reconstruct 4D, Track Points
and Render 4D Splats. What ComfyUI's own code moves (MODEL, CLIP, VAE) is ComfyUI's."""

import pytest
import torch

from fourreal.reconstruction import Reconstructor
from fourreal.scenes import make_scene, scene_seed

from ..comfyui import COMFYUI
from ..pretend_cuda import PretendCuda
from ..tiny import TRACKER, tiny_model
from .conftest import share_on_device

pytestmark = pytest.mark.skipif(
    bool(COMFYUI), reason="a real ComfyUI asks the driver, where the stand-in is told"
)
VIEWS, TIMES, SIZE = 2, 2, 32


@pytest.fixture
def images():
    frames = make_scene(scene_seed("validation", 1), VIEWS, TIMES, SIZE, SIZE).frames
    return frames.flatten(0, 1).movedim(1, -1)


@pytest.fixture
def comfy_device(pack, monkeypatch):
    """comfy.model_management works on cuda:0 and keeps weights on the CPU, as on a machine with
    a GPU; what was loaded goes back when the test is over."""
    import comfy.model_management as management

    loaded = []

    def load(patchers, memory_required=0):
        for patcher in patchers:
            loaded.append(patcher.model.to("cuda"))

    monkeypatch.setattr(management, "get_torch_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(management, "load_models_gpu", load)
    return loaded


def loaded_reconstructor():
    """As Load Reconstructor gives it; tracks take small steps, which keeps rounding small."""
    from fourreal_pack.nodes.offloading import ComfyReconstructor

    model = tiny_model(**TRACKER, point_head=False)
    model.track_head.tracker.updateformer.flow_head.weight.data *= 1e-3
    return ComfyReconstructor(Reconstructor(model, dtype=torch.float32))


def run_nodes(reconstructor, images) -> dict:
    """What the nodes give, in the order of a workflow."""
    from fourreal_pack import nodes

    scene, depth, *cameras = nodes.Reconstruct.execute(reconstructor, images, VIEWS, 8.0).args
    path = nodes.CameraPathNode.execute(scene, "orbit", 2, 0, "auto").args[0]
    color, alpha, *_ = nodes.RenderSplats.execute(scene, path, 0, 0, "#000000").args
    tracks, picture = nodes.TrackPoints.execute(
        reconstructor, images, VIEWS, "", 2, 0, 0, 0.5, 0
    ).args
    own = {"depth": depth, "extrinsics": cameras[0], "intrinsics": cameras[1], "color": color}
    return own | {"alpha": alpha, "tracks": tracks[1]["track_path"], "picture": picture}


@pytest.mark.usefixtures("unadjusted")
@torch.inference_mode(False)
@torch.no_grad()
def test_the_packs_own_nodes_work_on_comfyuis_device_and_give_the_cpus_numbers(
    nodes_on_cpu, images, comfy_device
):
    with PretendCuda() as device:
        reconstructor = loaded_reconstructor()
        run_nodes(reconstructor, images)  # makes tables that are kept, on the host
        device.operations.clear()
        found = run_nodes(reconstructor, images)
        operations = device.operations
    assert comfy_device
    assert share_on_device(operations) > 0.9, operations
    for name, expected in nodes_on_cpu.items():
        ours = found[name]
        assert ours.device.type == "cpu", name
        apart = (ours - expected).abs() > 1e-3 * expected.abs().max()
        assert float(apart.float().mean()) < 0.01, name


@pytest.fixture
def nodes_on_cpu(pack, images):
    """Before the device is there."""
    with torch.no_grad():
        return run_nodes(loaded_reconstructor(), images)
