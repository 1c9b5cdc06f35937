"""Attention kernels that also return the log-sum-exp of each query's scores.

forward(q, k, v) -> (out, lse, rest) and backward(grad, q, k, v, out, lse, rest) -> three gradients,
all [batch, heads, tokens, dim], lse [batch, heads, tokens], natural, in float32 or better. Given
the output and log-sum-exp of a softmax over MORE keys, backward gives these keys' part of its
gradient: every kernel recomputes its weights as exp(score - lse).
"""

from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

aten = torch.ops.aten


class FlashCPU:
    name = "PyTorch's flash kernel for CPUs"

    @staticmethod
    def forward(q, k, v):
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False)
        return out, lse, ()

    @staticmethod
    def backward(grad, q, k, v, out, lse, _):
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, False
        )


class FlashCUDA:
    name = "PyTorch's flash kernel"

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


class CuDNN:
    name = "cuDNN"

    @staticmethod
    def forward(q, k, v):
        out, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = (
            aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, False, False)
        )
        rest = (cum_q, cum_k, max_q, max_k, seed, offset, lse.shape)
        return out, lse.view(out.shape[:3]), rest  # newer PyTorch: [batch, heads, tokens, 1]

    @staticmethod
    def backward(grad, q, k, v, out, lse, rest):
        cum_q, cum_k, max_q, max_k, seed, offset, shape = rest
        return aten._scaled_dot_product_cudnn_attention_backward(
            grad,
            q,
            k,
            v,
            out,
            lse.view(shape),
            seed,
            offset,
            None,
            cum_q,
            cum_k,
            max_q,
            max_k,
            0.0,
            False,
        )


class Efficient:
    name = "PyTorch's memory-efficient kernel"

    @staticmethod
    def forward(q, k, v):
        out, lse, seed, offset = aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
        return out, lse.narrow(-1, 0, q.shape[2]), (seed, offset, lse.shape[-1])

    @staticmethod
    def backward(grad, q, k, v, out, lse, rest):
        seed, offset, length = rest
        # The kernel reads whole tiles of queries; infinity gives those past the end no weight.
        lse = F.pad(lse, (0, length - lse.shape[-1]), value=float("inf"))
        return aten._scaled_dot_product_efficient_attention_backward(
            grad, q, k, v, None, out, lse, seed, offset, 0.0, [True, True, True, False]
        )[:3]


class FlashAttention2:
    """The package flash-attn, 2.7 or newer, whose layout is [batch, tokens, heads, dim]."""

    name = "flash-attn 2"

    @staticmethod
    def forward(q, k, v):
        from flash_attn import flash_attn_func

        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out, lse, _ = flash_attn_func(q, k, v, return_attn_probs=True)
        return out.transpose(1, 2), lse, ()

    @staticmethod
    def backward(grad, q, k, v, out, lse, _):
        from flash_attn.flash_attn_interface import _flash_attn_backward

        grad, q, k, v, out = (x.transpose(1, 2) for x in (grad, q, k, v, out))
        grads = [torch.empty_like(x) for x in (q, k, v)]
        _flash_attn_backward(
            grad,
            q,
            k,
            v,
            out,
            lse,
            *grads,
            0.0,
            q.shape[-1] ** -0.5,
            False,
            -1,
            -1,
            0.0,
            None,
            False,
        )
        return tuple(x.transpose(1, 2) for x in grads)


class FlashAttention3:
    """flash-attn's kernels for Hopper, a package of their own (flash_attn_interface)."""

    name = "flash-attn 3"

    @staticmethod
    def forward(q, k, v):
        from flash_attn_interface import flash_attn_func

        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out, lse = flash_attn_func(q, k, v, return_attn_probs=True)
        return out.transpose(1, 2), lse, ()

    @staticmethod
    def backward(grad, q, k, v, out, lse, _):
        from flash_attn_interface import _flash_attn_backward

        grad, q, k, v, out = (x.transpose(1, 2) for x in (grad, q, k, v, out))
        grads = [torch.empty_like(x) for x in (q, k, v)]
        _flash_attn_backward(
            grad, q, k, v, out, lse, *[None] * 6, *grads, q.shape[-1] ** -0.5, False
        )
        return tuple(x.transpose(1, 2) for x in grads)


CUDA_KERNELS = {
    SDPBackend.FLASH_ATTENTION: FlashCUDA,
    SDPBackend.CUDNN_ATTENTION: CuDNN,
    SDPBackend.EFFICIENT_ATTENTION: Efficient,
}
KERNELS = {
    kernel.name: kernel
    for kernel in (FlashCPU, *CUDA_KERNELS.values(), FlashAttention2, FlashAttention3)
}


@torch.compiler.assume_constant_result
def fused_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Name of PyTorch's kernel that `merge` uses; None where the device has none for this type.

    On CUDA it is the one that scaled_dot_product_attention would take (so torch.nn.attention's
    sdpa_kernel chooses here too), or else the first that works.
    """
    if device.type == "cpu":
        return FlashCPU.name
    if device.type != "cuda":
        return None
    x = torch.empty(1, 1, 128, head_dim, device=device, dtype=dtype, requires_grad=True)
    favourite = CUDA_KERNELS.get(SDPBackend(torch._fused_sdp_choice(x, x, x)))
    candidates = [favourite] if favourite else []
    candidates += [kernel for kernel in CUDA_KERNELS.values() if kernel is not favourite]
    return next((k.name for k in candidates if failure(k, device, dtype, head_dim) is None), None)


@torch.compiler.assume_constant_result
def flash_attn_kernel(
    device: torch.device, dtype: torch.dtype, head_dim: int
) -> tuple[str | None, str]:
    """(name of the installed flash-attn package's kernel, "") or (None, why there is none)."""
    if device.type != "cuda":
        return None, f"it runs on CUDA, not on {device.type}"
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    kernels = [FlashAttention3] if hopper and find_spec("flash_attn_interface") else []
    kernels += [FlashAttention2] if find_spec("flash_attn") else []
    if not kernels:
        return None, "the package flash-attn is not installed"
    reasons = {kernel: failure(kernel, device, dtype, head_dim) for kernel in kernels}
    for kernel, reason in reasons.items():
        if reason is None:
            return kernel.name, ""
    return None, "; ".join(
        f"{kernel.name} does not work ({why})" for kernel, why in reasons.items()
    )


@lru_cache
def failure(kernel, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why `kernel` cannot be used here, or None: one small case is run against plain float64.

    A trial, because what a kernel accepts depends on the device, on its build and on its version.
    """
    shape = (1, 2, 72, head_dim)
    steps = torch.arange(2 * 72 * head_dim, dtype=torch.float64)
    exact = [(steps * step).sin().view(shape) for step in (0.37, 0.61, 0.83, 1.07)]
    rounded = [x.to(device, dtype) for x in exact]
    q, k, v, grad = exact
    scores = q @ k.mT * head_dim**-0.5
    lse = scores.logsumexp(-1)
    out = (scores - lse[..., None]).exp() @ v
    # The backward is asked for its part of a softmax over twice the weight.
    wide_lse, wide_out = lse + 0.6931471805599453, out / 2
    weights = (scores - wide_lse[..., None]).exp()
    change = weights * (grad @ v.mT - (grad * wide_out).sum(-1, keepdim=True))
    change = change * head_dim**-0.5
    expected = [
        out,
        lse,
        change @ k,
        change.transpose(-1, -2) @ q,
        weights.transpose(-1, -2) @ grad,
    ]
    try:
        *qkv, grad = rounded
        own_out, own_lse, rest = kernel.forward(*qkv)
        own = [own_out, own_lse]
        own += kernel.backward(
            grad, *qkv, wide_out.to(device, dtype), wide_lse.to(device, torch.float32), rest
        )
        own = [x.double().cpu() for x in own]
    except (RuntimeError, ImportError, OSError, AttributeError, TypeError, ValueError) as error:
        return str(error).strip().split("\n")[0]
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(own, expected)]
    return None if max(errors) < 0.05 else f"its results are off by {max(errors):.0%}"
