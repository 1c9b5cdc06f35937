"""View-time attention as three dense attentions merged by their log-sum-exp.

The kernels' log-sum-exp carries no gradient, so the backward is written out: the softmax over the
union is exp(score - L) with the merged L, and a flash backward kernel recomputes just that when it
is given the merged output and the merged L. The gradients are row + a (column - self).
"""

import torch
from einops import rearrange
from torch import Tensor

from fourreal.attention.kernels import KERNELS

# Layouts of the three attentions, from [B, V*F*S, heads, dim] to [batch, heads, tokens, dim].
# Row and self are views of the tensors; the column is copied.
ROW = "b (v f s) h d -> (b v) h (f s) d"
COLUMN = "b (v f s) h d -> (b f) h (v s) d"
FRAME = "b (v f s) h d -> (b v f) h s d"


def _layouts(num_views: int, view_strength: float) -> list[tuple[str, float]]:
    """(pattern, weight) of the attentions to add up."""
    if view_strength == 0 or num_views == 1:
        return [(ROW, 1.0)]
    return [(ROW, 1.0), (COLUMN, view_strength), (FRAME, -view_strength)]


def _apart(x: Tensor, pattern: str, sizes: dict[str, int]) -> Tensor:
    """x in the layout of one of the attentions; kernels need the last dimension dense."""
    x = rearrange(x, pattern, v=sizes["v"], f=sizes["f"])
    return x if x.stride(-1) == 1 else x.contiguous()


def _together(x: Tensor, pattern: str, sizes: dict[str, int]) -> Tensor:
    """The way back, [B, V*F*S, heads, dim]."""
    return rearrange(x, " -> ".join(reversed(pattern.split(" -> "))), **sizes)


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, num_views, num_frames, view_strength, name):
        kernel = KERNELS[name]
        batch, tokens = query.shape[:2]
        sizes = {"b": batch, "v": num_views, "f": num_frames}
        sizes["s"] = tokens // (num_views * num_frames)
        layouts = _layouts(num_views, view_strength)
        outs, lses, extras = [], [], []
        for pattern, _ in layouts:
            out, lse, extra = kernel.forward(
                *(_apart(x, pattern, sizes) for x in (query, key, value))
            )
            outs.append(_together(out, pattern, sizes))
            lses.append(_together(lse[..., None], pattern, sizes))
            extras.append(extra)
        if len(layouts) == 1:
            merged, lse = outs[0].contiguous(), lses[0]
        else:
            # e^L of the union is at least e^Lr, so nothing overflows and nothing cancels badly.
            top = torch.maximum(lses[0], lses[1])
            shares = [weight * (lse - top).exp() for (_, weight), lse in zip(layouts, lses)]
            total = sum(shares)
            merged = outs[0] * (shares[0] / total)  # in the type of the log-sum-exp
            for share, out in zip(shares[1:], outs[1:]):
                merged.addcmul_(out.to(merged.dtype), share / total)
            merged, lse = merged.to(query.dtype), top + total.log()
        ctx.save_for_backward(query, key, value, merged, lse)
        ctx.settings = (sizes, layouts, extras, name)
        return merged

    @staticmethod
    def backward(ctx, grad):
        query, key, value, merged, lse = ctx.saved_tensors
        sizes, layouts, extras, name = ctx.settings
        totals = []
        for (pattern, weight), extra in zip(layouts, extras):
            g, q, k, v, out = (_apart(x, pattern, sizes) for x in (grad, query, key, value, merged))
            own_lse = _apart(lse, pattern, sizes)[..., 0].contiguous()
            parts = [
                _together(part, pattern, sizes)
                for part in KERNELS[name].backward(g, q, k, v, out, own_lse, extra)
            ]
            if not totals:  # the row, of weight 1
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
    """view_time_attention by the kernel of that name; shapes as there.

    Half precision is summed in float32.
    """
    return _Merge.apply(query, key, value, num_views, num_frames, view_strength, kernel)
