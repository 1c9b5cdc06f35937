"""Tracking on the pretend device: where its head lies, the CPU's numbers, bounded transfers."""

import pytest
import torch

from fourreal.cli import main
from fourreal.reconstruction import Reconstructor, grid_of_points, save_model, tracking
from fourreal.scenes import make_scene, scene_seed

from ..pretend_cuda import PretendCuda
from ..tiny import TRACKER, tiny_model
from .conftest import share_on_device


@pytest.fixture
def file(tmp_path):
    model = tiny_model(**TRACKER)
    # Small steps: random large ones make rounding errors grow by the factor of a hundred.
    model.track_head.tracker.updateformer.flow_head.weight.data *= 1e-3
    save_model(model, tmp_path / "vggt.safetensors")
    return tmp_path / "vggt.safetensors"


def devices(module) -> set[str]:
    return {str(parameter.device) for parameter in module.parameters()}


def test_tracks_are_the_cpus_and_the_head_is_on_the_device_only_meanwhile(file, monkeypatch):
    frames = make_scene(scene_seed("validation", 1), 3, 3, 32, 32).frames
    points = grid_of_points(3, 32, 32)
    plain, seen = tracking.lent_to, []

    def lent_to(head, device):
        seen.append(devices(head))
        return plain(head, device)

    monkeypatch.setattr(tracking, "lent_to", lent_to)
    monkeypatch.setattr(tracking, "SEQUENCE", 3)
    expected = Reconstructor.from_file(file).track(frames, points, 1, 1)
    with PretendCuda() as device:
        reconstructor = Reconstructor.from_file(file, device="cuda", dtype=torch.float32)
        assert devices(reconstructor.model.aggregator) == {"cuda:0"}
        reconstructor.track(frames, points, 1, 1)  # makes tables that are kept, on the host
        device.operations.clear()
        device.transfers.clear()
        found = reconstructor.track(
            frames,
            points,
            1,
            1,
            progress=lambda done, total: seen.append(devices(reconstructor.track_head)),
        )
        weights = len(list(reconstructor.track_head.parameters()))
        counts = device.operations, device.transfers
        assert devices(reconstructor.track_head) == {"cpu"}
    assert seen == [{"cpu"}, {"cpu"}, {"cpu"}, {"cuda:0"}, {"cuda:0"}, {"cuda:0"}]
    for ours, cpus in zip(found, expected, strict=True):
        assert ours.device.type == "cpu"
        torch.testing.assert_close(ours, cpus, atol=1e-3, rtol=1e-3)
    assert share_on_device(counts[0]) > 0.99, counts[0]
    # Three results of each of three sequences, and the head's weights on their way back.
    assert counts[1]["item"] == 0 and counts[1]["copy"] <= 3 * 3 + weights


def test_the_command_runs_on_the_device(file, tmp_path):
    from fourreal.files.media import write_video

    frames = make_scene(scene_seed("validation", 2), 2, 3, 48, 48).frames
    for view, film in enumerate(frames):
        write_video(tmp_path / "in" / f"{view}.mp4", film, 8)
    line = ["track", str(tmp_path / "in"), "--reconstructor", str(file), "--rows", "2"]
    with PretendCuda():
        assert main([*line, "--out", str(tmp_path / "out"), "--device", "cuda"]) == 0
    assert (tmp_path / "out" / "tracks.npz").is_file()
