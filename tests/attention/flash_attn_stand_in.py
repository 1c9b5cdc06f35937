"""Stand-ins for the packages flash-attn 2 and 3: their documented signatures, in plain torch.

Signatures as in the packages' sources, by name and by place: flash_attn/flash_attn_interface.py of
2.8.3 (the same since 2.7.0) and hopper/flash_attn_interface.py of August 2025 and later. Layout is
[batch, tokens, heads, dim]; the log-sum-exp is natural, float32, [batch, heads, tokens].
"""

import sys
from types import ModuleType

import torch
from torch import Tensor

from ..pretend_cuda import attention, attention_backward

HALF = (torch.float16, torch.bfloat16)


def check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """What the kernels refuse."""
    if q.dtype not in HALF or not q.dtype == k.dtype == v.dtype:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    if not all(x.stride(-1) == 1 for x in (q, k, v)):
        raise RuntimeError("Input tensor must have contiguous last dimension")
    if q.shape[-1] > 256 or q.shape[-1] % 8:
        raise RuntimeError("FlashAttention only supports head dimension at most 256")


def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    check(q, k, v)
    out, lse = attention(*(x.transpose(1, 2) for x in (q, k, v)))
    return out.transpose(1, 2).contiguous(), lse


def backward(dout, q, k, v, out, softmax_lse, dq, dk, dv) -> None:
    check(q, k, v)
    batch, tokens, heads, _ = q.shape
    if softmax_lse.dtype != torch.float32 or softmax_lse.shape != (batch, heads, tokens):
        raise RuntimeError("softmax_lse must be float32 of [batch, heads, tokens]")
    if not softmax_lse.is_contiguous():
        raise RuntimeError("softmax_lse must be contiguous")
    turned = (x.transpose(1, 2) for x in (dout, q, k, v, out))
    grads = attention_backward(*turned, softmax_lse)
    for place, grad in zip((dq, dk, dv), grads):
        place.copy_(grad.transpose(1, 2))


# --- flash-attn 2 -------------------------------------------------------------------------------


def flash_attn_func(
    q,
    k,
    v,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
):
    out, lse = forward(q, k, v)
    return (out, lse, None) if return_attn_probs else out


def _flash_attn_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,
    rng_state: Tensor | None = None,
) -> Tensor:
    plain = (dropout_p, causal, window_size_left, window_size_right, softcap, alibi_slopes)
    assert plain == (0.0, False, -1, -1, 0.0, None)
    assert softmax_scale == q.shape[-1] ** -0.5 and isinstance(deterministic, bool)
    backward(dout, q, k, v, out, softmax_lse, dq, dk, dv)
    return softmax_lse


# --- flash-attn 3 -------------------------------------------------------------------------------


def flash_attn_3_func(
    q,
    k,
    v,
    softmax_scale=None,
    causal=False,
    qv=None,
    q_descale=None,
    k_descale=None,
    v_descale=None,
    window_size=(-1, -1),
    attention_chunk=0,
    softcap=0.0,
    num_splits=1,
    pack_gqa=None,
    deterministic=False,
    sm_margin=0,
    return_attn_probs=False,
):
    out, lse = forward(q, k, v)
    return (out, lse) if return_attn_probs else out


def _flash_attn_3_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    sequed_q: Tensor | None = None,
    sequed_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    dq: Tensor | None = None,
    dk: Tensor | None = None,
    dv: Tensor | None = None,
    softmax_scale: float | None = None,
    is_causal: bool = False,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    deterministic: bool = False,
    sm_margin: int = 0,
) -> Tensor:
    lengths = (cu_seqlens_q, cu_seqlens_k, sequed_q, sequed_k, max_seqlen_q, max_seqlen_k)
    assert lengths == (None,) * 6 and softmax_scale == q.shape[-1] ** -0.5
    assert (is_causal, window_size_left, window_size_right, softcap) == (False, -1, -1, 0.0)
    backward(dout, q, k, v, out, softmax_lse, dq, dk, dv)
    return softmax_lse


def install(monkeypatch, version: int) -> None:
    """Put the package of flash-attn 2 or 3 where `import` finds it."""
    if version == 2:
        package, interface = ModuleType("flash_attn"), ModuleType("flash_attn.flash_attn_interface")
        package.flash_attn_func = interface.flash_attn_func = flash_attn_func
        interface._flash_attn_backward = _flash_attn_backward
        monkeypatch.setitem(sys.modules, "flash_attn", package)
    else:
        interface = ModuleType("flash_attn_interface")
        interface.flash_attn_func = flash_attn_3_func
        interface._flash_attn_backward = _flash_attn_3_backward
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
