"""View-time attention against one masked attention in float64."""

import sys
import types
from functools import lru_cache

import pytest
import torch
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention import sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from fourreal.attention import (
    BACKENDS,
    choose_backend,
    flex,
    kernels,
    time_attention,
    unavailable,
    view_attention,
    view_time_attention,
    view_time_mask,
    view_time_positions,
)

GRIDS = [(3, 4, 5), (2, 2, 16), (8, 8, 4), (1, 5, 6), (5, 1, 6), (1, 1, 9)]


@lru_cache
def weights(views, frames, tokens, strength):
    """Weight 1 in the own view, `strength` for other views of the same time, 0 elsewhere."""
    weight = torch.zeros(views * frames * tokens, views * frames * tokens, dtype=torch.float64)
    for i in range(len(weight)):
        view, time = divmod(i // tokens, frames)
        for j in range(len(weight)):
            other_view, other_time = divmod(j // tokens, frames)
            weight[i, j] = 1.0 if other_view == view else strength if other_time == time else 0.0
    return weight


def reference(q, k, v, views, frames, strength):
    """softmax(QK^T / sqrt(d) + log weight) V, written out."""
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
    scores = scores.exp() * weights(views, frames, q.shape[1] // (views * frames), strength)
    return torch.einsum("bhnm,bmhd->bnhd", scores / scores.sum(-1, keepdim=True), v)


def inputs(views, frames, tokens, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(views * 100 + frames * 10 + tokens)
    shape = (2, views * frames * tokens, 2, 16)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        .to(device, dtype)
        .requires_grad_()
        for _ in range(3)
    ]


def relative(a, b):
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).norm() / b.norm())


@pytest.fixture(
    params=[
        pytest.param((d, b), id=f"{d}-{b}", marks=[pytest.mark.cuda] if d == "cuda" else [])
        for d in ("cpu", "cuda")
        for b in BACKENDS
    ]
)
def place(request, monkeypatch):
    """(device, backend) of all that this machine has; on a CPU flex runs uncompiled, for a
    compilation takes longer than all tests, and forward only, as it does there."""
    device, backend = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if device == "cpu" and backend == "flex":
        monkeypatch.setattr(flex, "_compiled", lambda: flex_module.flex_attention)
        monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    return device, backend


def require(place, dtype):
    device, backend = place
    reason = unavailable(backend, torch.device(device), dtype, 16)
    if reason:
        pytest.skip(reason)
    return unavailable(backend, torch.device(device), dtype, 16, training=True) is None


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("strength", [1.0, 0.3, 0.0])
def test_backends_equal_the_formula_forward_and_backward(grid, strength, place):
    device, backend = place
    gradients = require(place, torch.float32)
    views, frames, _ = grid
    single = [x.requires_grad_(gradients) for x in inputs(*grid, device=device)]
    double = [x.detach().double().cpu().requires_grad_() for x in single]
    out = view_time_attention(*single, views, frames, view_strength=strength, backend=backend)
    exact = reference(*double, views, frames, strength)
    assert relative(out, exact) <= 1e-5
    if not gradients:
        return
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    for own, true in zip(
        torch.autograd.grad(out, single, direction.to(device)),
        torch.autograd.grad(exact, double, direction.double()),
    ):
        # With one token in sight a gradient is exactly zero, so relative to nothing.
        error = (own.double().cpu() - true).abs().max()
        assert error <= 1e-4 * max(float(true.abs().max()), 1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_merged_in_float32(dtype, place):
    device, backend = place
    gradients = require(place, dtype)
    exact_inputs = inputs(4, 4, 8, torch.float64)
    half = [x.detach().to(device, dtype).requires_grad_(gradients) for x in exact_inputs]
    direction = torch.randn(exact_inputs[0].shape, generator=torch.Generator().manual_seed(0))

    def outcome(tensors, backend):
        out = view_time_attention(*tensors, 4, 4, backend=backend)
        return [out, *(torch.autograd.grad(out, tensors, direction.to(out)) if gradients else [])]

    exact = outcome(exact_inputs, "dense")
    for own, dense, true in zip(outcome(half, backend), outcome(half, "dense"), exact):
        assert own.dtype == dtype
        assert relative(own, true) <= 2 * relative(dense, true)


@pytest.mark.cuda
@pytest.mark.parametrize("kernel", kernels.CUDA_KERNELS)
def test_each_cuda_kernel_merges(kernel):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    q, k, v = (x.detach() for x in inputs(3, 4, 5, torch.float64))
    half = [x.half().cuda().requires_grad_() for x in (q, k, v)]
    with sdpa_kernel(kernel):
        own = kernels.CUDA_KERNELS[kernel]
        why = kernels.failure(own, half[0].device, torch.float16, 16)
        if why:
            pytest.skip(why)
        assert kernels.fused_kernel(half[0].device, torch.float16, 16) == own.name
        out = view_time_attention(*half, 3, 4, backend="merge")
    assert relative(out, reference(q, k, v, 3, 4, 1.0)) < 5e-3


@pytest.mark.parametrize("kernel", kernels.CUDA_KERNELS.values(), ids=lambda k: k.name)
def test_cuda_kernels_fit_the_signatures_of_this_pytorch(kernel):
    """On the meta device, where PyTorch knows the shapes without running anything."""
    q, k, v, grad = (torch.empty(2, 4, 100, 64, device="meta", dtype=torch.half) for _ in range(4))
    out, lse, rest = kernel.forward(q, k, v)
    assert out.shape == q.shape and lse.shape == (2, 4, 100) and lse.dtype == torch.float32
    grads = kernel.backward(grad, q, k, v, out, lse.clone(), rest)
    assert [g.shape for g in grads] == [q.shape] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_right_kernel_passes_its_trial_at_every_size_and_type(dtype, head_dim, autocast):
    """What rounding the inputs does to the gradients, 6% at 128 channels, is not the kernel's."""
    kernels.failure.cache_clear()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        reason = kernels.failure(kernels.FlashCPU(), torch.device("cpu"), dtype, head_dim)
    kernels.failure.cache_clear()
    assert reason is None


def test_a_kernel_that_does_not_keep_the_contract_is_refused():
    cpu = torch.device("cpu")
    assert kernels.failure(kernels.FlashCPU(), cpu, torch.float32, 16) is None

    class BaseTwo(kernels.FlashCPU):
        @staticmethod
        def forward(q, k, v):
            out, lse, rest = kernels.FlashCPU.forward(q, k, v)
            return out, lse / 0.6931471805599453, rest

    class OwnSum(kernels.FlashCPU):
        @staticmethod
        def backward(grad, q, k, v, out, lse, rest):
            out, lse, rest = kernels.FlashCPU.forward(q, k, v)
            return kernels.FlashCPU.backward(grad, q, k, v, out, lse, rest)

    class Absent(kernels.FlashCPU):
        @staticmethod
        def forward(q, k, v):
            raise RuntimeError("no such kernel\nand much more")

    wrong = kernels.failure(BaseTwo(), cpu, torch.float32, 16)
    assert wrong == "its log-sum-exp is off by 44%"  # 1 / log(2) - 1
    wrong = kernels.failure(OwnSum(), cpu, torch.float32, 16)
    assert [f"gradient of {x} is off" in wrong for x in "qkv"] == [True] * 3
    assert "output" not in wrong and "log-sum-exp" not in wrong
    assert kernels.failure(Absent(), cpu, torch.float32, 16) == "no such kernel"


def packages(seen):
    """Stand-ins of flash-attn 2.7 and of its Hopper package: their layout [batch, tokens, heads,
    dim] and the order of their arguments, with PyTorch's flash kernel for CPUs inside."""

    def forward(q, k, v, return_attn_probs):
        assert return_attn_probs
        out, lse, _ = kernels.FlashCPU.forward(*(x.transpose(1, 2) for x in (q, k, v)))
        return out.transpose(1, 2), lse

    def backward(dout, q, k, v, out, softmax_lse, dq, dk, dv, **options):
        seen.append(options)
        given = [x.transpose(1, 2) for x in (dout, q, k, v, out)]
        grads = kernels.FlashCPU.backward(*given, softmax_lse, ())
        for own, grad in zip((dq, dk, dv), grads):
            own.copy_(grad.transpose(1, 2))

    def named(names):
        names = names.split()
        return lambda *given: backward(**dict(zip(names, given, strict=True)))

    two, hopper = types.ModuleType("flash_attn"), types.ModuleType("flash_attn_interface")
    two.flash_attn_func = lambda *qkv, **options: (*forward(*qkv, **options), None)
    two.flash_attn_interface = types.ModuleType("flash_attn.flash_attn_interface")
    two.flash_attn_interface._flash_attn_backward = named(
        "dout q k v out softmax_lse dq dk dv dropout_p softmax_scale causal window_size_left "
        "window_size_right softcap alibi_slopes deterministic"
    )
    hopper.flash_attn_func = forward
    hopper._flash_attn_backward = named(
        "dout q k v out softmax_lse cu_seqlens_q cu_seqlens_k sequed_q sequed_k max_seqlen_q "
        "max_seqlen_k dq dk dv softmax_scale is_causal"
    )
    return {x.__name__: x for x in (two, two.flash_attn_interface, hopper)}


@pytest.mark.parametrize("kernel", [kernels.FlashAttention2(), kernels.FlashAttention3()])
def test_the_packages_are_called_in_their_own_layout(kernel, monkeypatch):
    seen = []
    for name, module in packages(seen).items():
        monkeypatch.setitem(sys.modules, name, module)
    assert kernels.failure.__wrapped__(kernel, torch.device("cpu"), torch.float32, 16) is None
    given = {k: v for k, v in seen[0].items() if v is not None}
    assert given.pop("softmax_scale") == 0.25
    assert not given.get("causal") and not given.get("is_causal")
    neutral = {"dropout_p": 0, "softcap": 0, "window_size_left": -1, "window_size_right": -1}
    assert {k: v for k, v in given.items() if v is not False} in (neutral, {})


class _Largest(TorchDispatchMode):
    """Remembers the most elements that a tensor had."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return out


@pytest.mark.parametrize("backend", ["merge", "gather"])
def test_no_tensor_of_all_pairs_of_tokens_exists(backend):
    q, k, v = inputs(6, 6, 32)  # 1152 tokens
    with _Largest() as seen:
        out = view_time_attention(q, k, v, 6, 6, backend=backend)
        out.sum().backward()
    assert seen.elements == q.numel() < 1152**2 / 10


def test_block_mask_of_flex_is_the_one_made_from_all_pairs():
    for grid in [(3, 4, 40), (2, 2, 128), (5, 2, 7), (2, 3, 130)]:
        for across in (True, False):
            own = flex.block_mask(*grid, across, torch.device("cpu"))
            tokens = grid[0] * grid[1] * grid[2]
            made = flex_module.create_block_mask(
                own.mask_mod, None, None, tokens, tokens, device="cpu"
            )
            assert torch.equal(own.to_dense(), made.to_dense())
            assert torch.equal(own.full_kv_num_blocks, made.full_kv_num_blocks)
            index = torch.arange(tokens)
            if across:
                mask = own.mask_mod(0, 0, index[:, None], index)
                assert torch.equal(mask, view_time_mask(*grid))


def test_block_mask_made_in_inference_mode_serves_training_too():
    with torch.inference_mode():  # as inside ComfyUI
        mask = flex.block_mask(2, 3, 11, True, torch.device("cpu"))
    tables = [x for x in mask.as_tuple() if isinstance(x, torch.Tensor)]
    assert len(tables) >= 4 and not any(table.is_inference() for table in tables)


def test_absent_backends_say_what_is_missing():
    q, k, v = inputs(2, 2, 4)
    with pytest.raises(ValueError, match=r"'flash-attn' cannot be used: .*CUDA, not on cpu"):
        view_time_attention(q, k, v, 2, 2, backend="flash-attn")
    with pytest.raises(ValueError, match=r"'flex' cannot be used: .*no backward on CPUs"):
        view_time_attention(q, k, v, 2, 2, backend="flex")
    with pytest.raises(ValueError, match="must be one of auto"):
        view_time_attention(q, k, v, 2, 2, backend="flash")


def test_auto_says_what_it_takes_and_why():
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert choose_backend(cpu, torch.float32, 64, 512)[0] == "dense"
    name, why = choose_backend(cpu, torch.float32, 64, 513)
    assert name == "merge" and "flash kernel for CPUs" in why
    assert choose_backend(meta, torch.float32, 64, 2048)[0] == "dense"
    assert choose_backend(meta, torch.float32, 64, 2049)[0] == "gather"


def test_merge_is_compiled_as_one_graph():
    tensors = inputs(3, 3, 4)
    direction = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(0))

    def attend(q, k, v):
        return view_time_attention(q, k, v, 3, 3, backend="merge")

    compiled = torch.compile(attend, backend="eager", fullgraph=True)
    for own, plain in zip(
        torch.autograd.grad(compiled(*tensors), tensors, direction),
        torch.autograd.grad(attend(*tensors), tensors, direction),
    ):
        assert torch.allclose(own, plain, atol=1e-6)


def test_attention_along_one_axis_is_that_of_each_row_and_column():
    q, k, v = (x.detach() for x in inputs(3, 4, 5))
    for attend, axis in ((time_attention, 1), (view_attention, 2)):
        parts = []
        for index in range((3, 4)[axis - 1]):
            part = [x.unflatten(1, (3, 4, 5)).select(axis, index).flatten(1, 2) for x in (q, k, v)]
            parts.append(view_time_attention(*part, 1, part[0].shape[1]).unflatten(1, (-1, 5)))
        expected = torch.stack(parts, axis).flatten(1, 3)
        assert torch.allclose(attend(q, k, v, 3, 4), expected, atol=1e-6)


def test_double_precision_stays_double():
    tensors = inputs(3, 4, 5, torch.float64)
    direction = torch.randn(tensors[0].shape, dtype=torch.float64)
    out = view_time_attention(*tensors, 3, 4, view_strength=0.3, backend="merge")
    exact = reference(*tensors, 3, 4, 0.3)
    assert relative(out, exact) < 1e-13
    for own, true in zip(
        torch.autograd.grad(out, tensors, direction), torch.autograd.grad(exact, tensors, direction)
    ):
        assert relative(own, true) < 1e-12


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


def test_flex_attention_is_compiled_for_any_number_of_grids(monkeypatch):
    plain = torch.compile(
        flex_module.flex_attention, fullgraph=True, dynamic=False, backend="eager"
    )
    monkeypatch.setattr(flex, "_compiled", lambda: plain)
    monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    for frames in range(1, 11):  # PyTorch gives up after 8
        grid = (2, frames, 4)
        q, k, v = (x.detach() for x in inputs(*grid))
        with torch.no_grad():
            out = view_time_attention(q, k, v, 2, frames, backend="flex")
        assert relative(out, reference(q.double(), k.double(), v.double(), 2, frames, 1.0)) < 1e-5
