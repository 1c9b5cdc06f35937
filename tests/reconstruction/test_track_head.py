"""VGGT's track head against reference numbers and the public file's keys."""

import json
import math

import pytest
import torch

from fourreal.reconstruction import VGGTConfig
from fourreal.reconstruction.track_head import (
    STRIDE,
    CorrelationPyramid,
    TrackHead,
    place_features,
    sample,
)

from ..tiny import assert_close, fixture


def reference_head() -> TrackHead:
    weights, _, _, config = fixture("vggt_track_tiny")
    c = json.loads(config)
    vggt = VGGTConfig(
        patch_size=c["patch_size"],
        embed_dim=c["dim_in"] // 2,
        depth=4,
        num_heads=2,
        dino_num_heads=2,
        intermediate_layers=c["intermediate_layers"],
        dpt_out_channels=c["dpt_out_channels"],
        num_register_tokens=c["patch_start"] - 1,
        track_features=c["features"],
        track_hidden=c["hidden_size"],
        track_levels=c["corr_levels"],
        track_radius=c["corr_radius"],
    )
    head = TrackHead(vggt).eval()
    head.load_state_dict({k.removeprefix("track_head."): v for k, v in weights.items()})
    return head


@pytest.fixture(scope="module")
def tracked():
    """Feature maps, and what `forward` returns."""
    _, inputs, _, _ = fixture("vggt_track_tiny")
    tokens = [inputs[f"tokens.{level}"] for level in range(4)]
    head = reference_head()
    with torch.no_grad():
        maps = head.feature_extractor.raw_maps(tokens, inputs["images"], chunk=3)
        return maps, *head(tokens, inputs["images"], inputs["query_points"], chunk=3)


@pytest.fixture(scope="module")
def exact():
    """What the tracker says in float64 about the reference's feature maps."""
    _, inputs, outputs, _ = fixture("vggt_track_tiny")
    tracker = reference_head().tracker.double()
    with torch.no_grad():
        return tracker(inputs["query_points"].double(), outputs["feature_maps"].double())


def test_feature_maps_equal_the_reference(tracked):
    assert_close(tracked[0], fixture("vggt_track_tiny")[2]["feature_maps"])


def test_tracks_of_the_first_iteration_equal_the_reference(tracked):
    assert_close(tracked[1][0], fixture("vggt_track_tiny")[2]["track_first_iteration"], 1e-6)


def test_in_float64_all_outputs_equal_the_reference_in_float64(exact):
    expected = fixture("vggt_track_tiny_float64")[2]
    moved = expected["track"] - expected["track"][:, :1]
    assert moved.abs().max() > 6  # pixels: a wrong step would be seen
    estimates, visibility, confidence = exact
    assert_close(estimates[0], expected["track_first_iteration"], 1e-12)
    assert_close(estimates[-1], expected["track"], 1e-8)
    assert_close(visibility, expected["visibility"], 1e-8)
    assert_close(confidence, expected["confidence"], 1e-8)


def test_in_float32_the_last_outputs_are_as_near_as_the_reference_comes_to_itself(tracked):
    """Its own code, run again in float32, ends 0.6 to 0.9 pixels away: see fixtures/README.md."""
    outputs = fixture("vggt_track_tiny")[2]
    assert (tracked[1][-1] - outputs["track"]).abs().max() < 2.0  # of 94 pixels
    assert_close(tracked[2], outputs["visibility"], 0.2)
    assert_close(tracked[3], outputs["confidence"], 0.2)


def test_forward_takes_all_steps_one_after_the_other(tracked):
    _, inputs, _, _ = fixture("vggt_track_tiny")
    tracker = reference_head().tracker
    with torch.no_grad():
        (positions, features), pyramid, fixed = tracker.start(inputs["query_points"], tracked[0])
        for estimate in tracked[1]:
            positions, features = tracker.step(pyramid, fixed, positions, features)
            torch.testing.assert_close(positions * STRIDE, estimate, rtol=0, atol=0)
        for ours, judged in zip(tracked[2:], tracker.judge(features), strict=True):
            torch.testing.assert_close(judged, ours, rtol=0, atol=0)
    assert len(tracked[1]) == 4


def test_points_stay_in_the_frame_that_they_were_given_in(tracked):
    points = fixture("vggt_track_tiny")[1]["query_points"]
    for estimate in tracked[1]:
        torch.testing.assert_close(estimate[:, 0], points)


def test_correlations_are_the_scalar_products_of_whole_maps_read_at_the_window():
    torch.manual_seed(0)
    maps, features = torch.randn(2, 9, 5, 12, 16), torch.randn(2, 9, 3, 5)
    positions = torch.rand(2, 9, 3, 2) * torch.tensor([18.0, 14.0]) - 1  # some beyond the border
    ours = CorrelationPyramid(maps, levels=2, radius=1).compare(features, positions)
    assert ours.shape == (2, 9, 3, 2 * 9)
    half = torch.nn.functional.avg_pool2d(maps.flatten(0, 1), 2).unflatten(0, (2, 9))
    steps = (-1.0, 0.0, 1.0)
    for level, whole in enumerate((maps, half)):
        products = torch.einsum("bsnc,bschw->bsnhw", features, whole).flatten(0, 2)[:, None]
        at = positions.flatten(0, 2) / 2**level
        window = torch.tensor([[x, y] for x in steps for y in steps])
        read = sample(products, (at[:, None] + window)[:, None], "zeros")[:, 0, 0] / 5**0.5
        torch.testing.assert_close(
            ours[..., 9 * level : 9 * (level + 1)], read.view(2, 9, 3, 9), atol=1e-5, rtol=1e-5
        )


def test_places_are_embedded_along_x_then_along_y_and_linearly_between_pixels():
    points = torch.tensor([[[5.0, 3.0], [2.0, 0.0], [2.25, 1.5], [9.0, -1.0]]])
    table = place_features(points, 4, 6, 8)
    assert table.shape == (1, 4, 8)
    # Channels: sines and cosines of x, then of y; frequencies 1 and 1 / 100.
    rows = [
        [f(p / 100**k) for p in (5, 3) for f in (math.sin, math.cos) for k in (0, 1)],
        [f(p / 100**k) for p in (2, 0) for f in (math.sin, math.cos) for k in (0, 1)],
    ]
    torch.testing.assert_close(table[0, :2], torch.tensor(rows))
    assert table[0, 2, 0].item() == pytest.approx(0.75 * math.sin(2) + 0.25 * math.sin(3))
    assert table[0, 2, 6].item() == pytest.approx(0.5 * math.cos(1) + 0.5 * math.cos(2))
    torch.testing.assert_close(table[0, 3, :4], table[0, 0, :4])  # the last column, 5
    torch.testing.assert_close(table[0, 3, 4:], table[0, 1, 4:])  # the first row, 0
