"""Points followed through a grid: sequences, pixels, where the head lies, and bad input."""

import pytest
import torch
from torch import nn

from fourreal.reconstruction import Reconstructor, Tracks, grid_of_points, save_model, tracking

from ..tiny import TRACKER, tiny_model

POINTS = torch.tensor([[4.5, 8.0], [20.0, 31.5], [0.0, 32.0]])


@pytest.fixture(scope="module")
def reconstructor():
    return Reconstructor(tiny_model(**TRACKER))


@pytest.fixture(scope="module")
def frames():
    torch.manual_seed(1)
    return torch.rand(2, 3, 3, 32, 32)


class StillHead(nn.Module):
    """A head whose points rest where they were asked for."""

    smallest_side = 8

    def __init__(self):
        super().__init__()
        self.tracker = nn.Module()
        self.tracker.query_ref_token = nn.Parameter(torch.zeros(1))
        self.asked = None

    def forward(self, tokens, images, points, *, chunk):
        self.asked = points[0]
        still = points[:, None].expand(-1, images.shape[1], -1, -1)
        return [still], still[..., 0] * 0, still[..., 0] * 0 + 1


def test_a_grid_is_one_sequence_that_begins_with_the_frame_of_the_points(reconstructor, frames):
    found = reconstructor.track(frames, POINTS, view=1, time=1)
    assert isinstance(found, Tracks)
    assert found.positions.shape == (2, 3, 3, 2)
    assert found.visibility.shape == found.confidence.shape == (2, 3, 3)
    order = [4, 0, 1, 2, 3, 5]  # cells of 2 views x 3 times
    images = frames.flatten(0, 1)[order][None]
    model = reconstructor.model
    with torch.no_grad():
        tokens = model.aggregator(images, temporal=False)
        estimates, visible, certain = model.track_head(tokens, images, POINTS[None] - 0.5)
    where = torch.tensor(order).argsort()
    for ours, expected in (
        (found.positions, estimates[-1][0] + 0.5),
        (found.visibility, visible[0]),
        (found.confidence, certain[0]),
    ):
        torch.testing.assert_close(ours.flatten(0, 1), expected[where], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.positions[1, 1], POINTS, rtol=0, atol=0)
    assert (found.positions - POINTS).abs().max() > 0.1  # they do move


def test_a_long_grid_goes_through_in_sequences_that_all_begin_alike(
    reconstructor, frames, monkeypatch
):
    monkeypatch.setattr(tracking, "SEQUENCE", 2)
    told = []
    found = reconstructor.track(frames, POINTS, progress=lambda *args: told.append(args))
    assert told == [(1, 3), (2, 3), (3, 3)]
    cells = frames.flatten(0, 1)
    for pair in ((1, 2), (3, 4), (5,)):
        alone = reconstructor.track(cells[None, [0, *pair]], POINTS)
        for ours, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(ours.flatten(0, 1)[list(pair)], expected[0, 1:])


def test_one_frame_is_a_grid_too(reconstructor, frames):
    found = reconstructor.track(frames[:1, :1], POINTS)
    assert torch.equal(found.positions[0, 0], POINTS)
    assert found.visibility.min() > 0 and found.visibility.max() < 1


@pytest.mark.parametrize("height,width", [(64, 64), (50, 90), (33, 47)])
def test_positions_come_back_in_the_pixels_of_the_frames(height, width):
    found = Reconstructor(tiny_model(**TRACKER))
    found.track_head = StillHead()
    points = torch.rand(20, 2) * torch.tensor([width, height])
    frames = torch.rand(1, 3, 3, height, width)
    positions = found.track(frames, points).positions
    torch.testing.assert_close(positions, points.expand(1, 3, -1, -1), atol=1e-4, rtol=1e-5)
    if (height, width) == (64, 64):
        # Four of its pixels are one of the network's, whose centre VGGT calls (0, 0).
        found.track(frames, torch.tensor([[1.0, 1.0], [63.0, 1.0]]))
        expected = torch.tensor([[0.0, 0.0], [31.0, 0.0]])
        torch.testing.assert_close(found.track_head.asked, expected, atol=1e-5, rtol=0)


def test_a_head_stays_where_it_is_when_the_network_is_loaded_or_moved(tmp_path):
    save_model(tiny_model(**TRACKER), tmp_path / "vggt.safetensors")
    found = Reconstructor.from_file(tmp_path / "vggt.safetensors", device="meta")
    assert {p.device.type for p in found.track_head.parameters()} == {"cpu"}
    others = [p for n, p in found.model.named_parameters() if not n.startswith("track_head.")]
    assert {p.device.type for p in others} == {"meta"}


def test_a_grid_of_points_has_equal_spaces_and_no_point_on_the_border():
    points = grid_of_points(3, 30, 60)
    assert len(points) == 3 * 6
    assert points[0].tolist() == [5, 5] and points[-1].tolist() == [55, 25]
    assert points[1].tolist() == [15, 5]
    assert grid_of_points(1, 90, 10).tolist() == [[5.0, 45.0]]


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"points": torch.zeros(3)}, r"shape \(3,\), but \[N, 2\] is needed"),
        ({"points": torch.zeros(0, 2)}, r"shape \(0, 2\)"),
        (
            {"points": torch.tensor([[1.0, 2.0], [33.0, 5.0]])},
            r"\(33, 5\) is not inside .* 32 x 32",
        ),
        ({"points": torch.tensor([[-0.5, 2.0]])}, r"\(-0.5, 2\) is not inside"),
        ({"points": torch.tensor([[float("nan"), 2.0]])}, "is not inside"),
        ({"view": 2}, "view is 2, but the grid has 2 views; give one from 0 to 1"),
        ({"time": -1}, "time is -1, but the grid has 3 times"),
        ({"frames": torch.rand(3, 3, 32, 32)}, r"\[V, T, 3, H, W\] is needed"),
        ({"frames": torch.full((2, 3, 3, 32, 32), float("nan"))}, "NaN"),
    ],
)
def test_bad_input_is_one_sentence(reconstructor, frames, changes, words):
    given = {"frames": frames, "points": POINTS} | changes
    with pytest.raises(ValueError, match=words) as error:
        reconstructor.track(**given)
    assert "\n" not in str(error.value)


def test_frames_too_small_for_the_pyramid_are_refused(frames):
    deep = Reconstructor(tiny_model(**(TRACKER | {"track_levels": 6})))  # 2 * 2^5 = 64 pixels
    with pytest.raises(ValueError, match="frames of 32 x 32 pixels, but tracking needs 64"):
        deep.track(frames, POINTS)
    assert deep.track(frames, POINTS, resolution=64).positions.shape == (2, 3, 3, 2)


def test_a_reconstructor_without_the_head_says_so(frames):
    with pytest.raises(ValueError, match="its file has no track head; use VGGT-1B"):
        Reconstructor(tiny_model()).track(frames, POINTS)
