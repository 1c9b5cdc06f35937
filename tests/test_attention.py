"""View-time attention against one masked attention in float64."""

import pytest
import torch

from fourreal.attention import view_time_attention, view_time_mask, view_time_positions

GRIDS = [(3, 4, 5), (2, 2, 16), (8, 8, 4), (1, 5, 6), (5, 1, 6), (1, 1, 9)]


def reference(q, k, v, views, frames, strength):
    """softmax(QK^T / sqrt(d) + log weight) V, written out: weight 1 in the own view, `strength`
    for other views of the same time, 0 elsewhere."""
    tokens = q.shape[1] // (views * frames)
    weight = torch.zeros(q.shape[1], q.shape[1], dtype=q.dtype)
    for i in range(q.shape[1]):
        view, time = divmod(i // tokens, frames)
        for j in range(q.shape[1]):
            other_view, other_time = divmod(j // tokens, frames)
            weight[i, j] = 1.0 if other_view == view else strength if other_time == time else 0.0
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
    scores = scores.exp() * weight
    return torch.einsum("bhnm,bmhd->bnhd", scores / scores.sum(-1, keepdim=True), v)


def inputs(views, frames, tokens, dtype=torch.float32):
    generator = torch.Generator().manual_seed(views * 100 + frames * 10 + tokens)
    shape = (2, views * frames * tokens, 2, 16)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for _ in range(3)
    ]


def relative(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("strength", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("backend", ["merge", "dense"])
def test_backends_equal_the_formula_forward_and_backward(grid, strength, backend):
    views, frames, _ = grid
    single = inputs(*grid)
    double = [x.detach().double().requires_grad_() for x in single]
    out = view_time_attention(*single, views, frames, view_strength=strength, backend=backend)
    exact = reference(*double, views, frames, strength)
    assert relative(out, exact) <= 1e-5
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    for own, true in zip(
        torch.autograd.grad(out, single, direction),
        torch.autograd.grad(exact, double, direction.double()),
    ):
        # With one token in sight a gradient is exactly zero, so relative to nothing.
        error = (own.double() - true).abs().max()
        assert error <= 1e-4 * max(float(true.abs().max()), 1e-2)


def test_large_scores_do_not_overflow():
    q, k, v = (x.detach() * 30 for x in inputs(3, 3, 4))
    out = view_time_attention(q, k, v, 3, 3, backend="merge")
    exact = view_time_attention(q.double(), k.double(), v.double(), 3, 3, backend="dense")
    assert torch.isfinite(out).all() and relative(out, exact) < 1e-5


def test_strength_zero_gives_independent_views():
    q, k, v = inputs(4, 3, 5)
    whole = view_time_attention(q, k, v, 4, 3, view_strength=0, backend="merge")
    parts = [
        view_time_attention(*(x.unflatten(1, (4, -1))[:, i] for x in (q, k, v)), 1, 3)
        for i in range(4)
    ]
    assert torch.allclose(whole, torch.cat(parts, 1), atol=1e-6)


def test_bfloat16_is_merged_in_float32():
    q, k, v = (x.detach() for x in inputs(4, 4, 8))
    exact = view_time_attention(q.double(), k.double(), v.double(), 4, 4, backend="dense")
    half = [x.bfloat16() for x in (q, k, v)]
    merged = relative(view_time_attention(*half, 4, 4, backend="merge"), exact)
    dense = relative(view_time_attention(*half, 4, 4, backend="dense"), exact)
    assert merged <= 2 * dense


def test_mask_keeps_the_fraction_of_the_formula():
    views, frames = 5, 3
    kept = view_time_mask(views, frames, 4).float().mean()
    assert float(kept) == pytest.approx((views + frames - 1) / (views * frames))


def test_positions_are_those_of_the_paper():
    assert view_time_positions(2, 3, 21).tolist() == [0, 1, 2, 21, 22, 23]
    with pytest.raises(ValueError, match="only up to"):
        view_time_positions(2, 9, 8)


def test_tokens_that_do_not_fill_the_grid_are_refused():
    q = torch.zeros(1, 10, 1, 8)
    with pytest.raises(ValueError, match="10 tokens do not fill a grid of 3 views x 2 frames"):
        view_time_attention(q, q, q, 3, 2)
