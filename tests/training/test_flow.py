"""What is known of a grid in training, its noise levels, and the loss."""

import pytest
import torch

from fourreal.grid import reference_mask
from fourreal.training.draws import step_generator
from fourreal.training.flow import draw_masks, draw_noise, draw_noise_levels, flow_loss

NONE, FIXED_VIEW, FREEZE_TIME, BOTH = range(4)


def test_flow_loss_counts_unknown_cells_only():
    latents, noise = torch.randn(2, 2, 4, 3, 2, 2)
    unknown = torch.tensor([[True, False, True], [True, True, False]])[:, None, :, None, None]
    predicted = torch.where(unknown, noise - latents + 2, torch.full_like(latents, 100.0))
    assert float(flow_loss(predicted, noise, latents, unknown)) == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize("on_device", [False, True])
def test_noise_follows_from_the_generator_of_the_step(on_device):
    like = torch.zeros(2, 3, 40, 50, dtype=torch.float32)
    first, again = (draw_noise(like, step_generator(1, 7), on_device) for _ in range(2))
    other = draw_noise(like, step_generator(1, 8), on_device)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == like.shape and abs(float(first.mean())) < 0.05
    assert float(first.std()) == pytest.approx(1, abs=0.05)


def test_static_scenes_get_no_fixed_view():
    kinds = torch.tensor([NONE, FIXED_VIEW, FREEZE_TIME, BOTH, FIXED_VIEW, BOTH, FREEZE_TIME])
    columns = torch.tensor([1, 1, 1, 1, 2, 2, 2])
    masks = draw_masks(kinds, columns, [False] * 4 + [True] * 2 + [False], 3, 4)
    expected = [(False, 0), (True, 0), (False, 1), (True, 1)]
    expected += [(False, 0), (False, 2)]  # static: the same without the row
    expected += [(False, 2)]
    for mask, references in zip(masks, expected):
        assert torch.equal(mask.view(3, 4), reference_mask(3, 4, *references))


@pytest.mark.parametrize(
    ("views", "frames", "given"),
    [
        # For fixed view, freeze time and both: is the first cell given?
        (1, 4, (False, True, True)),  # the fixed view would be the whole grid
        (4, 1, (True, False, True)),  # the frozen time would be
        (1, 1, (False, False, False)),
    ],
)
def test_a_reference_that_would_be_the_whole_grid_is_not_given(views, frames, given):
    kinds = torch.tensor([FIXED_VIEW, FREEZE_TIME, BOTH])
    masks = draw_masks(kinds, torch.ones(3, dtype=torch.long), [False] * 3, views, frames)
    assert masks[:, 0].tolist() == list(given)
    assert not masks[:, 1:].any()


def test_nothing_is_known_where_nothing_would_be_left_to_learn():
    masks = draw_masks(torch.tensor([FREEZE_TIME, BOTH]), torch.tensor([2, 2]), [False] * 2, 3, 2)
    assert not masks.any()


def test_noise_levels_are_logit_normal_and_shifted():
    levels = draw_noise_levels(torch.full((20000,), 3.0), step_generator(0, 0)).double()
    assert levels.min() > 0 and levels.max() < 1
    # Shifting adds log 3 to the logit of a normal variable's logistic function.
    logits = torch.logit(levels)
    assert logits.mean().item() == pytest.approx(torch.tensor(3.0).log().item(), abs=0.03)
    assert logits.std().item() == pytest.approx(1, abs=0.02)


def test_uniform_noise_levels_are_as_often_at_each_step_of_the_sampler():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=8.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0.05, 20).tolist())
    shifts = torch.full((20000,), 8.0)
    levels = draw_noise_levels(shifts, step_generator(0, 0), "uniform")
    between = torch.histogram(levels, scheduler.sigmas.flip(0).float()).hist
    assert between.sum() == 20000
    assert between.min() > 900 and between.max() < 1100  # 1000 between any two steps
    # Where the first steps are, there is next to nothing of the logit-normal ones.
    usual = draw_noise_levels(shifts, step_generator(0, 0))
    assert (usual > scheduler.sigmas[1]).float().mean() < 0.01
