"""View-time attention as three dense attentions merged by their log-sum-exp.

The kernels' log-sum-exp carries no gradient, so the backward is written out: the softmax over the
union is exp(score - L) with the merged L, and a flash backward kernel recomputes just that when it
is given the merged output and the merged L. The gradients are row + a (column - self).
"""

import torch
from einops import rearrange
from torch import Tensor

aten = torch.ops.aten

# Layouts of the three attentions, from [B, V*F*S, heads, dim] to [batch, heads, tokens, dim].
ROW = "b (v f s) h d -> (b v) h (f s) d"
COLUMN = "b (v f s) h d -> (b f) h (v s) d"
FRAME = "b (v f s) h d -> (b v f) h s d"


class _MathKernel:
    """Softmax attention written out, for devices whose fused kernels keep the log-sum-exp."""

    @staticmethod
    def forward(q, k, v):
        scores = (q.float() @ k.float().transpose(-1, -2)) * q.shape[-1] ** -0.5
        lse = scores.logsumexp(-1)
        return ((scores - lse[..., None]).exp() @ v.float()).to(q.dtype), lse, ()

    @staticmethod
    def backward(grad, q, k, v, out, lse, _):
        scale = q.shape[-1] ** -0.5
        grad, q, k, v = (x.float() for x in (grad, q, k, v))
        weights = ((q @ k.transpose(-1, -2)) * scale - lse[..., None]).exp()
        delta = (grad * out.float()).sum(-1, keepdim=True)
        scores = weights * (grad @ v.transpose(-1, -2) - delta) * scale
        return scores @ k, scores.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ grad


class _FlashCPU:
    @staticmethod
    def forward(q, k, v):
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False)
        return out, lse, ()

    @staticmethod
    def backward(grad, q, k, v, out, lse, _):
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, False
        )


class _FlashCUDA:
    """Half precision on CUDA."""

    @staticmethod
    def forward(q, k, v):
        out, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = (
            aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False)
        )
        return out, lse, (cum_q, cum_k, max_q, max_k, seed, offset)

    @staticmethod
    def backward(grad, q, k, v, out, lse, rest):
        cum_q, cum_k, max_q, max_k, seed, offset = rest
        return aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse, cum_q, cum_k, max_q, max_k, 0.0, False, seed, offset
        )


def _kernel(query: Tensor):
    if query.device.type == "cpu":
        return _FlashCPU
    half = query.dtype in (torch.float16, torch.bfloat16)
    if query.device.type == "cuda" and half and query.shape[-1] <= 256:
        return _FlashCUDA
    return _MathKernel


def _layouts(num_views: int, num_frames: int, view_strength: float):
    """(pattern, weight) of the attentions to add up."""
    if view_strength == 0 or num_views == 1:
        return [(ROW, 1.0)]
    return [(ROW, 1.0), (COLUMN, view_strength), (FRAME, -view_strength)]


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, num_views, num_frames, view_strength):
        sizes = {"v": num_views, "f": num_frames}
        kernel = _kernel(query)
        layouts = _layouts(num_views, num_frames, view_strength)
        parts, extras = [], []
        for pattern, weight in layouts:
            q, k, v = (rearrange(x, pattern, **sizes).contiguous() for x in (query, key, value))
            out, lse, extra = kernel.forward(q, k, v)
            back = " -> ".join(reversed(pattern.split(" -> ")))
            full = sizes | {"s": query.shape[1] // (num_views * num_frames)}
            full |= {"b": query.shape[0]}
            parts.append(
                (
                    weight,
                    rearrange(out, back, **full),
                    rearrange(lse.float()[..., None], back, **full),
                )
            )
            extras.append(extra)
        if len(parts) == 1:
            merged, lse = parts[0][1].contiguous(), parts[0][2]
        else:
            # e^L of the union is at least e^Lr, so nothing overflows and nothing cancels badly.
            top = torch.maximum(parts[0][2], parts[1][2])
            weights = [weight * (lse - top).exp() for weight, _, lse in parts]
            total = sum(weights)
            merged = sum(w / total * out.float() for w, (_, out, _) in zip(weights, parts))
            merged, lse = merged.to(query.dtype), top + total.log()
        ctx.save_for_backward(query, key, value, merged, lse)
        ctx.settings = (sizes, layouts, extras, kernel)
        return merged

    @staticmethod
    def backward(ctx, grad):
        query, key, value, merged, lse = ctx.saved_tensors
        sizes, layouts, extras, kernel = ctx.settings
        full = sizes | {
            "s": query.shape[1] // (sizes["v"] * sizes["f"]),
            "b": query.shape[0],
        }
        total = [0.0, 0.0, 0.0]
        for (pattern, weight), extra in zip(layouts, extras):
            g, q, k, v, o = (
                rearrange(x, pattern, **sizes).contiguous()
                for x in (grad, query, key, value, merged)
            )
            own_lse = rearrange(lse, pattern, **sizes)[..., 0].contiguous()
            back = " -> ".join(reversed(pattern.split(" -> ")))
            for i, part in enumerate(kernel.backward(g, q, k, v, o, own_lse, extra)):
                total[i] = total[i] + weight * rearrange(part, back, **full).float()
        grads = (t.to(x.dtype) for t, x in zip(total, (query, key, value)))
        return *grads, None, None, None


def merge_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_views: int,
    num_frames: int,
    view_strength: float = 1.0,
) -> Tensor:
    """view_time_attention's default backend; shapes as there."""
    return _Merge.apply(query, key, value, num_views, num_frames, view_strength)
