"""VGGT's track head against reference numbers and the public file's keys."""

import json

import pytest
import torch

from fourreal.reconstruction import VGGTConfig
from fourreal.reconstruction.track_head import (
    NUM_ITERATIONS,
    STRIDE,
    CorrelationPyramid,
    TrackHead,
    TrackSizes,
    place_features,
    sample,
)

from ..tiny import assert_close, fixture, key_list


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
    )
    sizes = TrackSizes(c["features"], c["hidden_size"], c["corr_levels"], c["corr_radius"])
    head = TrackHead(vggt, sizes).eval()
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
def forced():
    """Last positions, visibility and confidence in float64, from the reference's own positions
    after the first iteration.

    Movements are embedded with frequencies up to 1000 (1 - 2 / C), so that a rounding error grows
    some 140 times per iteration with these random weights: two float32 runs on different
    instruction sets end a pixel apart. The reference's positions after the first iteration are
    known to the bit; from there on rounding costs 0.05 of the 6 pixels that the tracks move.
    """
    _, inputs, outputs, _ = fixture("vggt_track_tiny")
    tracker = reference_head().tracker.double()
    with torch.no_grad():
        maps = outputs["feature_maps"].double()
        state, pyramid, fixed = tracker.start(inputs["query_points"].double(), maps)
        _, features = tracker.step(pyramid, fixed, *state)
        positions = (outputs["track_first_iteration"] / STRIDE).double()
        for _ in range(NUM_ITERATIONS - 1):
            positions, features = tracker.step(pyramid, fixed, positions, features)
            positions = positions.float().double()  # as the reference rounds them
        return positions * STRIDE, *tracker.judge(features)


def test_feature_maps_equal_the_reference(tracked):
    assert_close(tracked[0], fixture("vggt_track_tiny")[2]["feature_maps"])


def test_tracks_of_the_first_iteration_equal_the_reference(tracked):
    assert_close(tracked[1][0], fixture("vggt_track_tiny")[2]["track_first_iteration"], 1e-6)


def test_tracks_of_the_last_iteration_equal_the_reference(forced):
    expected = fixture("vggt_track_tiny")[2]["track"]
    assert (expected - expected[:, :1]).abs().max() > 6  # pixels: a wrong step would be seen
    assert_close(forced[0], expected, 6e-4)


def test_visibility_and_confidence_equal_the_reference(forced):
    outputs = fixture("vggt_track_tiny")[2]
    assert_close(forced[1], outputs["visibility"], 4e-3)
    assert_close(forced[2], outputs["confidence"], 4e-3)


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


def test_the_full_size_head_has_the_public_files_keys_and_shapes():
    with torch.device("meta"):
        head = TrackHead(VGGTConfig())
    ours = {f"track_head.{key}": list(value.shape) for key, value in head.state_dict().items()}
    public = {k: s for k, s in key_list("vggt_1b").items() if k.startswith("track_head.")}
    assert ours == public
    assert len(public) == 394


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


def test_places_are_embedded_along_x_then_along_y():
    table = place_features(4, 6, 8, torch.device("cpu"))
    assert table.shape == (1, 8, 4, 6)
    assert (table[0, :4, 0] == table[0, :4, 3]).all()  # x: the same in every row
    assert (table[0, 4:, :, 0] == table[0, 4:, :, 5]).all()
    torch.testing.assert_close(table[0, 0, 0], torch.arange(6.0).sin())
    torch.testing.assert_close(table[0, 6, :, 0], torch.arange(4.0).cos())
