"""Attention kernels that also return the log-sum-exp of each query's scores.

`forward(q, k, v)` gives `out, lse, rest`, and `backward(grad, q, k, v, out, lse, rest)` gives the
gradients of q, k and v. All are [batch, heads, tokens, dim]; lse is [batch, heads, tokens], with
the natural logarithm, in float32 or better; rest is whatever else the kernel's backward needs. If
`out` and `lse` belong to a softmax over a superset of the keys, backward returns these keys'
contribution to its gradient, because every kernel recomputes its weights as exp(score - lse).
"""

from functools import lru_cache
from importlib.util import find_spec
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

aten = torch.ops.aten


class Kernel:
    """A kernel: its name in words, its forward and its backward."""

    name: ClassVar[str]

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, tuple]:
        """(out, lse, rest)."""
        raise NotImplementedError

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rest: tuple
    ) -> tuple[Tensor, ...]:
        """Gradients of q, k and v."""
        raise NotImplementedError


class FlashCPU(Kernel):
    name = "PyTorch's flash kernel for CPUs"

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, tuple]:
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False)
        return out, lse, ()

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rest: tuple
    ) -> tuple[Tensor, ...]:
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, False
        )


class FlashCUDA(Kernel):
    name = "PyTorch's flash kernel"

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, tuple]:
        out, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = (
            aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False)
        )
        return out, lse, (cum_q, cum_k, max_q, max_k, seed, offset)

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rest: tuple
    ) -> tuple[Tensor, ...]:
        cum_q, cum_k, max_q, max_k, seed, offset = rest
        return aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse, cum_q, cum_k, max_q, max_k, 0.0, False, seed, offset
        )


class CuDNN(Kernel):
    name = "cuDNN"

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, tuple]:
        out, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = (
            aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, False, False)
        )
        rest = (cum_q, cum_k, max_q, max_k, seed, offset, lse.shape)
        return out, lse.view(out.shape[:3]), rest  # newer PyTorch: [batch, heads, tokens, 1]

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rest: tuple
    ) -> tuple[Tensor, ...]:
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


class Efficient(Kernel):
    name = "PyTorch's memory-efficient kernel"

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, tuple]:
        out, lse, seed, offset = aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
        return out, lse.narrow(-1, 0, q.shape[2]), (seed, offset, lse.shape[-1])

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rest: tuple
    ) -> tuple[Tensor, ...]:
        seed, offset, length = rest
        # The kernel reads whole tiles of queries; infinity gives those past the end no weight.
        lse = F.pad(lse, (0, length - lse.shape[-1]), value=float("inf"))
        return aten._scaled_dot_product_efficient_attention_backward(
            grad, q, k, v, None, out, lse, seed, offset, 0.0, [True, True, True, False]
        )[:3]


def swapped(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Views with tokens and heads swapped: flash-attn's layout is [batch, tokens, heads, dim]."""
    return tuple(x.transpose(1, 2) for x in tensors)


class FlashAttention2(Kernel):
    """The package flash-attn, 2.7 or newer."""

    name = "flash-attn 2"

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, tuple]:
        from flash_attn import flash_attn_func

        out, lse, _ = flash_attn_func(*swapped(q, k, v), return_attn_probs=True)
        return *swapped(out), lse, ()

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rest: tuple
    ) -> tuple[Tensor, ...]:
        from flash_attn.flash_attn_interface import _flash_attn_backward

        given = swapped(grad, q, k, v, out)
        grads = [torch.empty_like(x) for x in given[1:4]]
        # dropout, scale, causal, window to the left and right, softcap, alibi slopes, deterministic
        options = (0.0, q.shape[-1] ** -0.5, False, -1, -1, 0.0, None, False)
        _flash_attn_backward(*given, lse, *grads, *options)
        return swapped(*grads)


class FlashAttention3(Kernel):
    """flash-attn's kernels for Hopper, a package of their own (flash_attn_interface)."""

    name = "flash-attn 3"

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, tuple]:
        from flash_attn_interface import flash_attn_func

        out, lse = flash_attn_func(*swapped(q, k, v), return_attn_probs=True)
        return *swapped(out), lse, ()

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rest: tuple
    ) -> tuple[Tensor, ...]:
        from flash_attn_interface import _flash_attn_backward

        given = swapped(grad, q, k, v, out)
        grads = [torch.empty_like(x) for x in given[1:4]]
        lengths = [None] * 6  # cu_seqlens_q to max_seqlen_k: the sequences are not packed
        _flash_attn_backward(*given, lse, *lengths, *grads, q.shape[-1] ** -0.5, False)
        return swapped(*grads)


CUDA_KERNELS: dict[SDPBackend, Kernel] = {
    SDPBackend.FLASH_ATTENTION: FlashCUDA(),
    SDPBackend.CUDNN_ATTENTION: CuDNN(),
    SDPBackend.EFFICIENT_ATTENTION: Efficient(),
}
KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (FlashCPU(), *CUDA_KERNELS.values(), FlashAttention2(), FlashAttention3())
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
    names = [FlashAttention3.name] if hopper and find_spec("flash_attn_interface") else []
    names += [FlashAttention2.name] if find_spec("flash_attn") else []
    if not names:
        return None, "the package flash-attn is not installed"
    reasons = {name: failure(KERNELS[name], device, dtype, head_dim) for name in names}
    for name, reason in reasons.items():
        if reason is None:
            return name, ""
    return None, "; ".join(f"{name} does not work ({why})" for name, why in reasons.items())


@lru_cache
def failure(kernel: Kernel, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why `kernel` cannot be used here, or None: one small case is run against plain float64.

    A trial, because what a kernel accepts depends on the device, on its build and on its version.
    """
    shape = (1, 2, 72, head_dim)
    steps = torch.arange(2 * 72 * head_dim, dtype=torch.float64)
    given = [(steps * step).sin().view(shape).to(dtype) for step in (0.37, 0.61, 0.83, 1.07)]
    q, k, v, grad = (x.double() for x in given)
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
        with torch.autocast(device.type, enabled=False):
            q, k, v, grad = (x.to(device) for x in given)
            own_out, own_lse, rest = kernel.forward(q, k, v)
            wide = wide_out.to(device, dtype), wide_lse.to(device, torch.float32)
            own = [own_out, own_lse, *kernel.backward(grad, q, k, v, *wide, rest)]
            own = [x.double().cpu() for x in own]
    except (RuntimeError, ImportError, OSError, AttributeError, TypeError, ValueError) as error:
        return str(error).strip().split("\n")[0]
    names = ("output", "log-sum-exp", "gradient of q", "gradient of k", "gradient of v")
    errors = {n: float((a - b).norm() / b.norm()) for n, a, b in zip(names, own, expected)}
    wrong = [f"{name} is off by {error:.0%}" for name, error in errors.items() if not error < 0.05]
    return f"its {', its '.join(wrong)}" if wrong else None
