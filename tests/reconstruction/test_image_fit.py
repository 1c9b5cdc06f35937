"""Images fitted to the network, and what comes back."""

import pytest
import torch

from fourreal.reconstruction.image_fit import ImageFit


@pytest.mark.parametrize("height,width", [(32, 32), (30, 50), (97, 41), (288, 512)])
def test_images_of_any_size_are_mapped_there_and_back(height, width):
    fit = ImageFit.to(height, width, 64, 8)
    assert fit.height % 8 == 0 and fit.width % 8 == 0 and max(fit.height, fit.width) == 64
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ramp = torch.stack([x / width, y / height, x * 0])
    small = fit.images(ramp)
    assert small.shape == (3, fit.height, fit.width)
    # What a pixel of the small image shows is what its camera ray says.
    intrinsics = torch.tensor([[70.0, 0, width / 2], [0, 80, height / 2], [0, 0, 1]])
    fitted = fit.intrinsics(intrinsics)
    assert torch.allclose(fit.intrinsics_back(fitted), intrinsics, atol=1e-4)
    row, column = fit.height // 3, fit.width // 4
    ray = torch.linalg.inv(fitted) @ torch.tensor([column + 0.5, row + 0.5, 1.0])
    seen = (intrinsics @ ray)[:2] / torch.tensor([width, height])
    assert torch.allclose(small[:2, row, column], seen, atol=2e-3)
    # The centre stays the centre, and maps come back to where they were.
    assert torch.allclose(fitted[:2, 2], torch.tensor([fit.width / 2, fit.height / 2]))
    back = fit.maps_back(small[None])[0]
    edge = max(2, max(height, width) // 8)
    inner = (slice(edge, -edge), slice(edge, -edge))
    assert back.shape == ramp.shape
    assert (back[(slice(2), *inner)] - ramp[(slice(2), *inner)]).abs().max() < 0.01
