"""A warped grid filled at a smaller size: what is known keeps its full size."""

from types import SimpleNamespace

import pytest
import torch

from fourreal.fill import enlarged, fill_holes, generate_smaller
from fourreal.grid import shrunk
from fourreal.warp import WarpedGrid


def half_missing():
    """Two views of one time, 16 x 16 in slow waves; the right half of the second is missing."""
    steps = torch.arange(16.0) / 8
    waves = 0.5 + 0.4 * torch.sin(steps[:, None] + steps + torch.arange(3.0).view(3, 1, 1))
    frames = torch.stack([waves, waves.flip(0)])[:, None]
    missing = torch.zeros(2, 1, 1, 16, 16)
    missing[1, ..., 8:] = 1
    return frames, WarpedGrid(torch.where(missing > 0.5, 0.5, frames), missing)


def test_a_model_is_shown_the_small_grid_and_known_pixels_keep_their_size():
    frames, warped = half_missing()

    def model(prompt, video, mask, **options):
        means = frames.unflatten(-1, (8, 2)).unflatten(-3, (8, 2)).mean(dim=(-3, -1))
        assert torch.allclose(video[0], means[0], atol=1e-6) and (video[1, ..., 4:] == 0.5).all()
        assert torch.equal(mask, warped.missing[..., ::2, ::2])
        assert options == {"num_views": 2, "num_frames": 1, "height": 8, "width": 8}
        return SimpleNamespace(frames=torch.where(mask > 0.5, 0.25, video))

    filled = fill_holes(model, warped, scale=2, feather=0, prompt="")
    known = (warped.missing < 0.5).expand_as(frames)
    assert torch.equal(filled[known], frames[known])
    # The colours of the fill are matched to the known ones, which are the same here.
    assert (filled[1, ..., 10:] - 0.25).abs().max() < 0.12


@pytest.mark.parametrize("given", ["fixed_view", "freeze_time", "both", "image", "none"])
def test_a_grid_is_generated_smaller_from_smaller_references_and_enlarged(given):
    """What is asked of a model at half of the size, and its frames at the whole size."""
    row, column, image = torch.rand(5, 3, 16, 32), torch.rand(2, 3, 16, 32), torch.rand(3, 16, 32)
    references = {
        "fixed_view": row if given in ("fixed_view", "both") else None,
        "freeze_time": column if given in ("freeze_time", "both") else None,
        "image": image if given == "image" else None,
    }
    made = torch.rand(2, 5, 3, 8, 16)

    def model(**options):
        assert (options["height"], options["width"], options["prompt"]) == (8, 16, "a ball")
        for name, frames in references.items():
            if frames is None:
                assert options[name] is None
            else:
                means = frames.unflatten(-1, (16, 2)).unflatten(-3, (8, 2)).mean(dim=(-3, -1))
                torch.testing.assert_close(options[name], means)
        return made

    options = {"prompt": "a ball", "height": 16, "width": 32, **references}
    frames = generate_smaller(model, 2, **options)
    assert torch.equal(frames, enlarged(made, 2)) and frames.shape == (2, 5, 3, 16, 32)
    assert (shrunk(frames, 2) - made).abs().mean() < 0.1  # in place: noise is off by a third
    assert options["fixed_view"] is references["fixed_view"]  # the caller's stay as they are


def test_a_pixel_is_known_where_half_of_it_is_and_has_the_mean_of_that():
    frames = torch.arange(16.0).view(1, 1, 1, 4, 4).expand(1, 1, 3, 4, 4) / 16
    missing = torch.zeros(1, 1, 1, 4, 4)
    missing[..., 0, :2] = 1  # half of the first pixel
    missing[..., :2, 2:] = 1
    missing[..., 0, 2] = 0  # a quarter of the second is known
    small = WarpedGrid(torch.where(missing > 0.5, 0.5, frames), missing).shrunk(2)
    assert small.missing.flatten().tolist() == [0, 1, 0, 0]
    assert small.frames[0, 0, 0].flatten().tolist() == pytest.approx(
        [4.5 / 16, 0.5, 10.5 / 16, 12.5 / 16]
    )


@pytest.mark.parametrize("factor", [0, 3])
def test_a_factor_that_does_not_divide_is_refused(factor):
    with pytest.raises(ValueError, match="cannot be divided"):
        half_missing()[1].shrunk(factor)
