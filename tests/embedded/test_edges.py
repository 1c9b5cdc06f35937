"""Smoothing of the edges between blocks."""

import torch

from fourreal.embedded.edges import smooth_edges


def test_edges_are_smoothed_and_motion_is_kept():
    steady = torch.arange(12.0)[:, None] * torch.tensor([2.0, -1.0, 0.0])
    assert torch.allclose(smooth_edges(steady, 0, range(1, 12, 4)), steady)
    jump = steady.clone()
    jump[5:] += 10
    smooth = smooth_edges(jump, 0, [5]) - steady
    wanted = torch.tensor([0, 0, 0, 1, 2.5, 7.5, 9, 10, 10, 10, 10, 10])
    assert torch.allclose(smooth, wanted[:, None].expand(-1, 3), atol=1e-5)
    other = smooth_edges(jump.T[None], 2, [5])[0].T
    assert torch.equal(other, smooth_edges(jump, 0, [5]))
    # At edge 1 nothing is before; at the ends there is no edge.
    first = torch.tensor([0.0, 10, 10, 10])[:, None]
    assert smooth_edges(first, 0, [0, 1, 3])[:, 0].tolist() == [2.5, 7.5, 9, 10]
    assert torch.equal(smooth_edges(first[:1], 0, [1]), first[:1])
