"""What maps hold around each pixel, against plain formulas."""

import pytest
import torch
import torch.nn.functional as F

from fourreal.moving_objects.following import composited
from fourreal.neighborhoods import blurred


@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0, 5.0])
@pytest.mark.parametrize("shape", [(12, 17), (2, 3, 9, 30), (1, 4, 4, 1, 8)])
def test_blurring_is_a_convolution_whose_borders_go_on(sigma, shape):
    torch.manual_seed(0)
    frames = torch.rand(shape, dtype=torch.float64)
    reach = int(3 * sigma + 0.5)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).double() / sigma) ** 2)
    kernel = line[:, None] * line / line.sum() ** 2
    padded = F.pad(frames.reshape(-1, 1, *shape[-2:]), [reach] * 4, mode="replicate")
    expected = F.conv2d(padded, kernel[None, None]).view(shape)
    torch.testing.assert_close(blurred(frames, sigma), expected, rtol=1e-9, atol=1e-9)


def test_one_layer_is_composited_as_among_others_that_do_not_show():
    torch.manual_seed(0)
    back, color, alpha = (
        torch.rand(8, 3, 5, 6),
        torch.rand(2, 8, 3, 5, 6),
        torch.rand(2, 8, 1, 5, 6),
    )
    layer = color, alpha, torch.rand(2, 8, 1, 5, 6)
    for depth in (0.0, 2.0):  # behind and before it
        clear = color, torch.zeros_like(alpha), torch.full_like(alpha, depth)
        torch.testing.assert_close(composited(back, [layer]), composited(back, [layer, clear]))
