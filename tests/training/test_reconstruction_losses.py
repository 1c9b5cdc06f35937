"""What the reconstructor is trained for."""

import pytest
import torch

from fourreal.data.posed import Sample, draw_sample
from fourreal.reconstruction import Maps, network
from fourreal.scenes import make_scene, scene_seed
from fourreal.training.reconstruction_losses import (
    fitted_unit,
    geometry_loss,
    image_loss,
    render_targets,
)

from ..tiny import open_temporal_gates, tiny_model

SIZE = 32


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("test", 0), num_views=6, num_frames=3, height=SIZE, width=SIZE)


def test_what_no_input_saw_costs_nothing():
    torch.manual_seed(0)
    wanted, rendered = torch.rand(2, 2, 3, 16, 16)
    visible = torch.zeros(2, 16, 16, dtype=torch.bool)
    visible[:, 4:12, 4:12] = True
    loss = image_loss(rendered, wanted, visible, 0.0, None)["loss"]
    part = (slice(None), slice(None), slice(4, 12), slice(4, 12))
    assert torch.allclose(loss, (rendered - wanted)[part].square().mean())
    other = torch.where(visible[:, None], rendered, torch.rand_like(rendered))
    for share in (0.0, 1.0):
        a, b = (image_loss(x, wanted, visible, share, None)["loss"] for x in (rendered, other))
        assert torch.equal(a, b)
    # The second term is 0.02 (1 - SSIM): for equal images 0, and larger than the MSE alone.
    assert image_loss(wanted, wanted, visible, 1.0, None)["loss"] < 1e-6
    assert image_loss(rendered, wanted, visible, 1.0, None)["loss"] > loss + 0.002


def test_the_unit_of_length_is_fitted_from_depth_or_else_from_cameras(scene):
    inputs = [0, 2, 5]
    depth = scene.depth.transpose(0, 1)[None]
    sample = Sample(
        scene.frames.transpose(0, 1)[None], depth, scene.extrinsics[None], scene.intrinsics[None]
    )
    maps = Maps.known(depth[0, :, inputs], scene.extrinsics[inputs], scene.intrinsics[inputs])
    maps.depth = maps.depth / 2.5
    maps.pose_iterations = maps.pose_iterations / torch.tensor([2.5] * 3 + [1.0] * 6)
    assert fitted_unit(maps, sample, inputs).item() == pytest.approx(2.5, rel=1e-4)
    sample.depth = None
    assert fitted_unit(maps, sample, inputs).item() == pytest.approx(2.5, rel=1e-4)


def test_targets_can_be_larger_than_what_the_network_sees():
    large = draw_sample([5], [0, 1, 2], [4], 8, 32)
    small = large.resized(16)
    drawn = draw_sample([5], [0, 1, 2], [4], 8, 16)
    assert (small.frames - drawn.frames).square().mean() < 1e-3
    torch.testing.assert_close(small.intrinsics, drawn.intrinsics)
    assert ((small.depth / drawn.depth - 1).abs() < 0.02).float().mean() > 0.9

    model = tiny_model()
    images = small.frames[:, :, :2].flatten(0, 1)
    prediction = model(images, 1, points=False)
    rendered, wanted = render_targets(prediction, large, small, [0, 1])
    assert rendered.shape == wanted.shape == (3, 3, 32, 32)
    assert torch.equal(wanted, large.frames[0, 0])


def test_exact_maps_have_no_error_and_wrong_ones_lose_by_their_relative_depth(scene):
    depth = scene.depth.transpose(0, 1)
    frames, cameras = scene.frames.transpose(0, 1), (scene.extrinsics, scene.intrinsics)
    sample = Sample(frames[None], depth[None], *(part[None] for part in cameras))
    maps = Maps.known(depth, *cameras)
    exact = geometry_loss(maps, sample)
    assert exact["depth_error"] < 1e-6 and exact["camera_error"] < 1e-6
    maps.depth, maps.depth_confidence = depth * 1.1, torch.full_like(depth, 3.0)
    wrong = geometry_loss(maps, sample)
    # Confidence times the log of the ratio, less 0.05 log confidence; equal slopes cost nothing.
    log = torch.tensor([1.1, 3.0]).log()
    assert wrong["depth_error"] == pytest.approx(log[0].item(), rel=1e-4)
    assert wrong["loss"] == pytest.approx(float(3 * log[0] - 0.05 * log[1]), rel=1e-3)


def test_training_depends_on_camera_token_replacement(monkeypatch):
    model = open_temporal_gates(tiny_model())
    sample = draw_sample([5], [0, 2, 4], [3, 9], 8, 32)
    images = sample.frames.flatten(0, 1)

    def losses():
        found = geometry_loss(model(images, 2), sample)
        return float(found["camera_error"]), float(found["depth_error"])

    with_it = losses()
    # Its body is deleted: tokens stay as they are.
    monkeypatch.setattr(network, "replace_camera_tokens", lambda tokens, first=None: tokens)
    without = losses()
    assert abs(with_it[0] - without[0]) > 1e-4 and with_it[1] == without[1]
