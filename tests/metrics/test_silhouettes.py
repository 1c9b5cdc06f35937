"""Shapes told by silhouettes."""

import math

import pytest
import torch

from fourreal.metrics.silhouettes import Classes, silhouette, silhouettes

SIZE = 48
GREY = torch.full((3, SIZE, SIZE), 0.5)
Y, X = torch.meshgrid(torch.arange(SIZE) - 23.5, torch.arange(SIZE) - 23.5, indexing="ij")
DISC = X**2 + Y**2 < 12**2
OVAL = (X / 15) ** 2 + (Y / 9) ** 2 < 1
BLOCK = (X.abs() < 10) & (Y.abs() < 14)


def test_a_silhouette_is_described_by_its_form_whatever_its_size():
    """Ratios of the formulas: log height over width, the ellipse's own area, kurtosis."""
    disc, oval, block = (silhouette(mask, GREY) for mask in (DISC, OVAL, BLOCK))
    assert disc[0] == pytest.approx(0, abs=0.01) and disc[2] < 0.01
    assert oval[0] == pytest.approx(math.log(9 / 15), abs=0.05) and oval[2] < 0.02
    assert block[0] == pytest.approx(math.log(14 / 10), abs=0.03) and block[2] > 0.05
    assert disc[3] == pytest.approx(2, abs=0.05)  # of a disc's rows
    assert block[3] == pytest.approx(1.8, abs=0.05)  # of an even spread
    small = X**2 + Y**2 < 6**2
    assert (silhouette(small, GREY) - disc).abs().max() < 0.15


def test_what_is_cut_off_or_too_small_is_not_described():
    assert silhouette(DISC.roll(15, 0), GREY) is None
    assert silhouette(X**2 + Y**2 < 4, GREY) is None


def test_a_view_is_described_by_the_medians_over_its_times():
    masks = torch.stack([DISC, DISC, DISC & (X > 0), DISC & False])[None]
    frames = GREY.expand(1, 4, -1, -1, -1)
    masks, frames = torch.cat([masks, masks & False]), frames.expand(2, -1, -1, -1, -1)
    (found,) = silhouettes(masks, frames, masks & False)
    assert torch.equal(found, silhouette(DISC, GREY))


def test_times_at_which_something_may_hide_a_part_are_left_out():
    """A disc is half behind something at most of the times, in one view always."""
    behind = X > 0
    others = behind.expand(2, 4, -1, -1).clone()
    others[0, 0] = False
    masks, frames = DISC & ~others, GREY.expand(2, 4, -1, -1, -1)
    (found,) = silhouettes(masks, frames, others)
    assert torch.equal(found, silhouette(DISC, GREY))
    assert len(silhouettes(masks[1:], frames[1:], others[1:])) == 1  # better than nothing


def test_classes_are_told_and_outliers_of_calibration_left_out():
    torch.manual_seed(0)
    near, far = torch.randn(60, 3), torch.randn(60, 3) + torch.tensor([6.0, 0, 0])
    near[:6] += 30  # behind something else
    classes = Classes.fit({"near": near, "far": far})
    assert classes.means["near"].abs().max() < 0.6
    told = [classes.tell(row[None]) for row in torch.cat([near[6:], far])]
    assert told.count("near") == 54 and told[:54].count("near") == 54


def test_views_tell_a_shape_together_and_a_few_odd_ones_do_not_decide():
    torch.manual_seed(0)
    tight, wide = 0.1 * torch.randn(200, 3), torch.randn(200, 3)
    classes = Classes.fit({"tight": tight, "wide": wide})
    assert classes.tell(torch.zeros(4, 3)) == "tight"
    spread = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [0, -1.6, 0], [0, 0, 1.7]])
    assert classes.tell(spread[:1]) == "tight" and classes.tell(spread) == "wide"
    assert classes.tell(torch.cat([torch.zeros(7, 3), torch.full((1, 3), 9.0)])) == "tight"
