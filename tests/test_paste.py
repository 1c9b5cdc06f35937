"""Pasting back: what is known is kept, a fill is recoloured, and nothing jumps between."""

import pytest
import torch

from fourreal.metrics.pixels import gradient_energy, psnr
from fourreal.paste import feathered, matched_colors, matched_sharpness, paste_known, sharpened
from fourreal.warp import WarpedGrid

GAIN = torch.tensor([[0.8, 0.1, 0.0], [0.05, 0.7, 0.1], [0.0, 0.1, 0.9]])
SHIFT = torch.tensor([0.05, -0.02, 0.04])


def half_known(size=48, views=2, times=3):
    """A smooth grid whose right half is missing; and the truth everywhere."""
    coarse = torch.rand(views * times, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    truth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    truth = truth.clamp(0.1, 0.9).unflatten(0, (views, times))
    missing = torch.zeros(views, times, 1, size, size)
    missing[..., size // 2 :] = 1
    return truth, WarpedGrid(torch.where(missing > 0, 0.5, truth), missing)


def drifted(frames):
    """Frames as a model gives them back: other colours, and no pixel quite as it was."""
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    colors = frames.movedim(2, -1) @ GAIN.T + SHIFT
    return (colors.movedim(-1, 2) + 0.01 * noise).clamp(0, 1)


def distance_to_holes(holes):
    """Of every pixel of [H, W], the greater of the rows and columns to the nearest hole."""
    at = torch.nonzero(holes)
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in holes.shape), indexing="ij")
    here = torch.stack([rows, columns], -1).flatten(0, 1)
    away = (here[:, None] - at[None]).abs().amax(-1).amin(-1)
    return away.view(holes.shape)


@pytest.mark.parametrize("feather", [0, 1, 7, 14, 15])
def test_known_pixels_are_kept_and_holes_are_not_touched(feather):
    truth, warped = half_known()
    generated = drifted(truth)
    unmatched = {"match_colors": False, "match_sharpness": False}
    pasted = paste_known(generated, warped, feather=feather, **unmatched)
    away = distance_to_holes(warped.missing[0, 0, 0] > 0)
    kept = away >= max(feather, 1)
    assert kept.sum() > 100
    assert psnr(pasted[..., kept], truth[..., kept]) >= 40
    assert torch.equal(pasted[..., away == 0], generated[..., away == 0])


def test_weights_ramp_from_a_straight_border_and_never_leave_the_known():
    holes = torch.zeros(1, 1, 9, 40, dtype=torch.bool)
    holes[..., 20:] = True
    row = feathered(holes, 7)[0, 0, 4]
    wanted = ((20 - torch.arange(20.0)) / 7).clamp(max=1)
    torch.testing.assert_close(row[:20], wanted)
    assert not row[20:].any()


def test_colours_that_drifted_by_a_matrix_come_back():
    """A symmetric positive matrix is what the map of least change undoes exactly."""
    gain = (GAIN + GAIN.T) / 2
    truth = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 0.5 + 0.2
    colors = truth.movedim(1, -1)
    moved = colors @ gain + SHIFT
    back = matched_colors(moved.movedim(-1, 1), moved.flatten(0, 2), colors.flatten(0, 2))
    assert (back - truth).abs().max() < 2e-3  # all but the noise that the covariances get


def test_a_fill_gets_the_colours_of_its_own_view():
    truth, warped = half_known()
    generated = drifted(truth)
    generated[1] = (generated[1] * 0.7).clamp(0, 1)
    pasted = paste_known(generated, warped)
    holes = warped.missing.expand_as(truth) > 0
    for view in range(2):
        before, after = (
            (frames[view] - truth[view])[holes[view]].abs().mean() for frames in (generated, pasted)
        )
        assert after < 0.5 * before


def test_grey_known_pixels_move_colours_and_do_not_stretch_them():
    frames = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 0.4 + 0.3
    grey = torch.full((50, 3), 0.5)
    recolored = matched_colors(frames, grey + 0.05, grey)
    torch.testing.assert_close(recolored, frames - 0.05)


def checkerboard(size=48):
    """Squares of 8 pixels in two colours [1, 3, size, size], and the same out of focus."""
    rows, columns = torch.meshgrid(torch.arange(size) // 8, torch.arange(size) // 8, indexing="ij")
    light = ((rows + columns) % 2).float()[None, None]
    sharp = 0.2 + 0.6 * light * torch.tensor([1.0, 0.5, 0.2]).view(1, 3, 1, 1)
    soft = sharp
    for _ in range(3):
        soft = torch.nn.functional.avg_pool2d(soft, 3, 1, 1, count_include_pad=False)
    return sharp, soft


def test_a_soft_fill_gets_the_sharpness_that_is_asked_for():
    """On the right half; the left one is pasted."""
    sharp, soft = checkerboard()
    weight = torch.zeros(1, 1, 48, 48)
    weight[..., :24] = 1
    plain = torch.lerp(soft, sharp, weight)
    before, exact = gradient_energy(plain), gradient_energy(sharp)
    assert before < 0.8 * exact
    for aim in (0.3 * before + 0.7 * exact, before):
        matched = matched_sharpness(soft, sharp, weight, aim)
        assert gradient_energy(matched) == pytest.approx(aim, rel=1e-3)
        assert torch.equal(matched[..., :24], sharp[..., :24])
        assert (matched - sharp).abs().mean() <= (plain - sharp).abs().mean()
        assert ((matched > 0.2 - 1e-5) & (matched < 0.8 + 1e-5)).all()  # no halos
    assert torch.equal(matched_sharpness(soft, sharp, weight, 0.5 * before), plain)  # not softened
    most = matched_sharpness(soft, sharp, weight, 99.0)  # as far as it goes
    assert before < gradient_energy(most) < 99


def test_a_grid_is_sharpened_as_far_as_the_frames_that_are_known_whole():
    """The second view is soft where it was made; without a whole frame there is no aim."""
    sharp, soft = checkerboard()
    missing = torch.zeros(2, 1, 1, 48, 48)
    missing[1, ..., 24:] = 1
    warped = WarpedGrid(torch.where(missing > 0, 0.5, sharp.expand(2, 1, -1, -1, -1)), missing)
    made = soft.expand(2, 1, -1, -1, -1)
    options = {"feather": 0, "match_colors": False}
    first, second = paste_known(made, warped, **options)
    assert torch.equal(first, sharp)
    assert gradient_energy(second) == pytest.approx(gradient_energy(sharp), rel=0.1)
    assert (second - sharp).abs().mean() < 0.6 * (soft - sharp)[..., 24:].abs().mean() / 2
    warped.missing[0, ..., :1] = 1
    soft_again = paste_known(made, warped, **options)[1]
    assert torch.equal(soft_again[..., 24:], soft[..., 24:])
    asked_not = paste_known(made, warped, match_sharpness=False, **options)
    assert torch.equal(asked_not[1, ..., 24:], soft[..., 24:])


def test_sharpening_agrees_with_a_plain_loop():
    frame = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(4))
    found = sharpened(frame)
    for channel, y, x in ((0, 0, 0), (1, 4, 5), (2, 8, 3), (0, 3, 10), (1, 7, 7)):
        rows, columns = range(max(y - 1, 0), min(y + 2, 9)), range(max(x - 1, 0), min(x + 2, 11))
        near = [frame[0, channel, row, column].item() for row in rows for column in columns]
        own = frame[0, channel, y, x].item()
        wanted = min(near) if own - min(near) < max(near) - own else max(near)
        assert found[0, channel, y, x].item() == wanted


def test_a_grid_of_which_nothing_is_known_stays_as_it_was():
    truth, warped = half_known()
    warped.missing.fill_(1)
    assert torch.equal(paste_known(drifted(truth), warped), drifted(truth))


@pytest.mark.parametrize(
    ("options", "change", "sentence"),
    [
        ({"feather": -1}, {}, "feather is -1 pixels, but must be 0 or more"),
        ({}, {"frames": torch.zeros(2, 3, 3, 24, 24)}, "all must be of one grid"),
        ({}, {"missing": torch.zeros(2, 2, 1, 48, 48)}, "all must be of one grid"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(options, change, sentence):
    truth, warped = half_known()
    with pytest.raises(ValueError, match=sentence) as caught:
        paste_known(truth, WarpedGrid(**(vars(warped) | change)), **options)
    assert "\n" not in str(caught.value)
