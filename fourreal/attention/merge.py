"""View-time attention as three dense attentions merged by their log-sum-exp.

The kernels' log-sum-exp carries no gradient, so the backward is written out: the softmax over the
union is exp(score - L) with the merged L, and a flash backward kernel recomputes just that when it
is given the merged output and the merged L. The gradients are row + a (column - self).
"""

from typing import Any

import torch
from torch import Tensor

from fourreal.attention.kernels import KERNELS
from fourreal.attention.layouts import COLUMN, FRAME, ROW, apart, together


def _weighted_layouts(num_views: int, view_strength: float) -> list[tuple[str, float]]:
    """(layout, weight) of the attentions to add up; the row, of weight 1, comes first."""
    if view_strength == 0 or num_views == 1:
        return [(ROW, 1.0)]
    return [(ROW, 1.0), (COLUMN, view_strength), (FRAME, -view_strength)]


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        num_views: int,
        num_frames: int,
        view_strength: float,
        name: str,
    ) -> Tensor:
        kernel, grid = KERNELS[name], (num_views, num_frames)
        layouts = _weighted_layouts(num_views, view_strength)
        outs, lses, extras = [], [], []
        for layout, _ in layouts:
            out, lse, extra = kernel.forward(
                *(apart(x, layout, *grid) for x in (query, key, value))
            )
            outs.append(together(out, layout, *grid))
            lses.append(together(lse[..., None], layout, *grid))
            extras.append(extra)
        if len(layouts) == 1:
            merged, lse = outs[0].contiguous(), lses[0]
        else:
            # e^L of the union is at least e^Lr, so nothing overflows and nothing cancels badly.
            top = torch.maximum(lses[0], lses[1])
            shares = [weight * (lse - top).exp() for (_, weight), lse in zip(layouts, lses)]
            total = shares[0] + shares[1] + shares[2]
            merged = outs[0] * (shares[0] / total)  # in the type of the log-sum-exp
            for share, out in zip(shares[1:], outs[1:]):
                merged.addcmul_(out.to(merged.dtype), share / total)
            merged, lse = merged.to(query.dtype), top + total.log()
        ctx.save_for_backward(query, key, value, merged, lse)
        ctx.settings = (grid, layouts, extras, name)
        return merged

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, merged, lse = ctx.saved_tensors
        grid, layouts, extras, name = ctx.settings
        totals: list[Tensor] = []
        for (layout, weight), extra in zip(layouts, extras):
            g, q, k, v, out = (apart(x, layout, *grid) for x in (grad, query, key, value, merged))
            own_lse = apart(lse, layout, *grid)[..., 0].contiguous()
            parts = [
                together(part, layout, *grid)
                for part in KERNELS[name].backward(g, q, k, v, out, own_lse, extra)
            ]
            if not totals:  # the row
                totals = [part.to(lse.dtype) for part in parts]
            else:
                for total, part in zip(totals, parts):
                    total.add_(part, alpha=weight)
        grads = (total.to(x.dtype) for total, x in zip(totals, (query, key, value)))
        return *grads, None, None, None, None


def merge_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_views: int,
    num_frames: int,
    view_strength: float,
    kernel: str,
) -> Tensor:
    """view_time_attention by the kernel of that name (of kernels.KERNELS); shapes as there.

    Half precision is summed in float32.
    """
    return _Merge.apply(query, key, value, num_views, num_frames, view_strength, kernel)
