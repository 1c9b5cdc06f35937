"""What stands still is told from what moves."""

import torch

from fourreal.reconstruction import StaticSplit
from fourreal.reconstruction.split import split_view


def test_a_view_whose_object_rests_and_then_leaves_has_no_ghost():
    torch.manual_seed(0)
    background = torch.rand(3, 16, 16) * 0.5
    frames = background.expand(10, -1, -1, -1).clone()
    depth = torch.full((10, 16, 16), 4.0)
    red = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    for t in range(8):  # rests at one place for most of the time
        frames[t, :, 4:9, 4:9], depth[t, 4:9, 4:9] = red, 2.0
    keep = torch.ones(10, 16, 16, dtype=torch.bool)
    masks = split_view(frames, depth, keep, StaticSplit())
    # The background is static everywhere, also where only the last two times show it ...
    assert masks.static.all()
    assert torch.allclose(masks.color, background)
    assert torch.allclose(masks.depth, torch.full((16, 16), 4.0))
    assert (masks.time[4:9, 4:9] >= 8).all()
    # ... and the object is stored at its own times only.
    assert masks.dynamic[:8, 4:9, 4:9].all()
    assert masks.dynamic.sum() == 8 * 25
    # Where the background never shows long enough, everything there is stored per time.
    masks = split_view(frames, depth, keep, StaticSplit(min_share=0.5))
    assert not masks.static[4:9, 4:9].any() and masks.dynamic[:, 4:9, 4:9].all()


def test_a_shadow_makes_its_pixels_dynamic_and_noise_does_not():
    torch.manual_seed(0)
    frames = torch.full((8, 3, 16, 16), 0.6) + 0.01 * torch.randn(8, 3, 16, 16).clamp(-2, 2)
    frames[3:5, :, 2:8, 2:8] *= 0.5  # darker, at the same depth
    frames[6, :, 12, 12] = 0.9  # one pixel at one time: noise
    depth = 3 * (1 + 0.01 * torch.randn(8, 16, 16).clamp(-2, 2))
    keep = torch.ones(8, 16, 16, dtype=torch.bool)
    masks = split_view(frames, depth, keep, StaticSplit())
    shadow = torch.zeros(16, 16, dtype=torch.bool)
    shadow[2:8, 2:8] = True
    assert torch.equal(~masks.static, shadow)
    assert torch.equal(masks.dynamic, shadow.expand(8, -1, -1))
