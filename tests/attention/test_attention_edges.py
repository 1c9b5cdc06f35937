"""Attention at its edges: nothing to attend to, sharp scores in half precision, odd strengths."""

import math

import pytest
import torch

from fourreal.attention import BACKENDS, time_attention, view_attention, view_time_attention

EXACT = ("dense", "merge", "gather", "matmul", "auto")  # that run on any CPU without a compiler


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(1, 0, 2, 16), (1, 48, 0, 16), (0, 48, 2, 16), (1, 48, 2, 0)])
def test_nothing_to_attend_to_is_refused(backend, shape):
    """Before any kernel: an empty dimension ends the process in one of them."""
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match="one or more of each"):
        view_time_attention(x, x, x, 3, 4, backend=backend)


@pytest.mark.parametrize("attend", [time_attention, view_attention])
def test_nothing_to_attend_to_is_refused_along_an_axis(attend):
    for shape in ((1, 0, 2, 16), (1, 48, 0, 16)):
        with pytest.raises(ValueError, match="one or more of each"):
            attend(*(torch.zeros(shape) for _ in range(3)), 3, 4)
    with pytest.raises(ValueError, match="do not fill a grid"):
        attend(*(torch.zeros(1, 47, 2, 16) for _ in range(3)), 3, 4)


@pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf, -0.1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_strengths_without_a_meaning_are_refused(backend, strength):
    x = torch.zeros(1, 48, 2, 16)
    with pytest.raises(ValueError, match="view_strength"):
        view_time_attention(x, x, x, 3, 4, view_strength=strength, backend=backend)


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("deviation", [1, 8, 16])
def test_sharp_scores_in_half_precision_stay_near_float64(backend, dtype, deviation):
    """Values are of deviation 1, so an error of 0.05 is a few steps of bfloat16 (2^-8) of what is
    summed; scores rounded to half precision had 0.41 at a deviation of 16."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 4 * 6 * 40, 2, 128)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    half = [x.to(dtype) for x in (q * deviation, k, v)]
    exact = view_time_attention(*(x.double() for x in half), 4, 6, backend="dense")
    result = view_time_attention(*half, 4, 6, backend=backend)
    assert result.dtype == dtype
    assert float((result.double() - exact).abs().max()) < 0.05


@pytest.mark.parametrize("backend", EXACT)
def test_scores_beyond_float16_stay_finite(backend):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 96, 2, 16, generator=generator) for _ in range(3))
    given = [(1e4 * q).half(), k.half(), v.half()]
    assert view_time_attention(*given, 3, 4, backend=backend).isfinite().all()
