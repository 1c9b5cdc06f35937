"""CUDA's attention kernels, proven without a GPU: signatures, shapes, types, and plain numbers.

PyTorch's own kernels are checked against the signatures of the oldest and newest PyTorch
(fixtures/torch_attention_schemas.json, from each wheel's native_functions.yaml), run under
FakeTensorMode on cuda:0, and computed on the pretend device; flash-attn 2 and 3 against stand-ins
with the packages' signatures.
"""

import json
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fourreal.attention import kernels, view_time_attention
from fourreal.attention.merge import merge_attention

from ..pretend_cuda import CUDA_ONLY, PretendCuda
from ..tiny import FIXTURES
from . import flash_attn_stand_in

SCHEMAS = json.loads((FIXTURES / "torch_attention_schemas.json").read_text())
HALF = (torch.float16, torch.bfloat16)
TYPES = {  # what each kernel accepts
    kernels.FlashCUDA: HALF,
    kernels.CuDNN: HALF,
    kernels.Efficient: (*HALF, torch.float32),
}
CASES = [(kernel, dtype) for kernel, dtypes in TYPES.items() for dtype in dtypes]
named = pytest.mark.parametrize(
    "kernel, dtype", CASES, ids=lambda value: str(getattr(value, "__name__", value))
)
GRIDS = ((3, 4), (1, 4), (3, 1), (1, 1))
grids = pytest.mark.parametrize("views, frames", GRIDS)


class Recorder:
    """Stands where torch.ops.aten stands in `kernels`, and keeps the arguments of each call."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        operation = getattr(torch.ops.aten, name)

        def call(*args, **kwargs):
            result = operation(*args, **kwargs)
            self.calls.append((name, args, kwargs, result))
            return result

        return call


def fake_inputs(dtype):
    """q, k, v and a gradient in the layout of the row attention: tokens before heads in memory."""
    return [
        torch.empty(2, 100, 4, 64, device="cuda:0", dtype=dtype).transpose(1, 2) for _ in range(4)
    ]


@named
@pytest.mark.parametrize("version", SCHEMAS)
def test_kernels_are_called_as_the_oldest_and_newest_pytorch_declare_them(
    kernel, dtype, version, monkeypatch
):
    recorder = Recorder()
    monkeypatch.setattr(kernels, "aten", recorder)
    with FakeTensorMode():
        q, k, v, grad = fake_inputs(dtype)
        out, lse, rest = kernel.forward(q, k, v)
        kernel.backward(grad, q, k, v, out, lse, rest)
    assert [name.endswith("_backward") for name, *_ in recorder.calls] == [False, True]
    for name, args, kwargs, result in recorder.calls:
        schema = torch._C.parse_schema(SCHEMAS[version][name])
        places = [a for a in schema.arguments if not a.kwarg_only]
        given = {a.name for a in places[: len(args)]} | set(kwargs)
        assert len(args) <= len(places) and set(kwargs) <= {a.name for a in schema.arguments}
        assert all(a.name in given or a.has_default_value() for a in schema.arguments)
        kinds = {"Tensor": torch.Tensor, "float": float, "bool": bool}
        for argument, value in zip(places, args):
            kind = kinds.get(str(argument.type).removeprefix("Optional[").removesuffix("]"))
            # Autograd gives undefined tensors for what only padded or biased attention has; None
            # becomes one.
            absent = argument.name in ("cum_seq_q", "cum_seq_k", "attn_bias")
            optional = value is None and ("Optional" in str(argument.type) or absent)
            assert kind is None or optional or isinstance(value, kind), (argument.name, value)
        assert len(result) == len(schema.returns)


@named
def test_kernels_give_pytorchs_shapes_and_types_on_cuda(kernel, dtype):
    with FakeTensorMode():
        q, k, v, grad = fake_inputs(dtype)
        out, lse, rest = kernel.forward(q, k, v)
        grads = kernel.backward(grad, q, k, v, out, lse.clone(), rest)
        assert out.shape == q.shape and out.dtype == dtype
        assert lse.shape == (2, 4, 100) and lse.dtype == torch.float32
        assert [g.shape for g in grads] == [q.shape] * 3
        assert {x.device for x in (out, lse, *grads)} == {torch.device("cuda:0")}


def inputs(views, frames, dtype, head_dim=16):
    generator = torch.Generator().manual_seed(views * 10 + frames)
    shape = 2, views * frames * 6, 2, head_dim
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(4)]


def dense(q, k, v, grad, views, frames, strength=0.7):
    """Output and gradients of the masked dense reference in float64."""
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    options = {"view_strength": strength, "backend": "dense"}
    out = view_time_attention(*exact, views, frames, **options)
    out.backward(grad.double())
    return [out.detach(), *(x.grad for x in exact)]


def assert_near(found, expected, dtype):
    limit = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for a, b in zip(found, expected):
        assert (a.double() - b).norm() <= limit * b.norm() + 1e-12


@named
@grids
def test_merging_by_each_cuda_kernel_equals_the_dense_reference(kernel, dtype, views, frames):
    q, k, v, grad = inputs(views, frames, dtype)
    with PretendCuda() as device:
        on_device = [x.to("cuda").requires_grad_() for x in (q, k, v)]
        out = merge_attention(*on_device, views, frames, 0.7, kernel.name)
        out.backward(grad.to("cuda"))
        assert not device.transfers
        found = [out.detach().cpu(), *(x.grad.cpu() for x in on_device)]
    assert_near(found, dense(q, k, v, grad, views, frames), dtype)


def test_every_kernel_that_cuda_alone_has_is_computed_on_the_pretend_device():
    called = {str(operation).split(".")[1] for operation in CUDA_ONLY}
    assert called == {name for name in SCHEMAS["2.6.0"] if "for_cpu" not in name}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", HALF, ids=str)
@grids
def test_flash_attn_is_called_by_its_signature_and_equals_the_dense_reference(
    version, dtype, views, frames, monkeypatch
):
    flash_attn_stand_in.install(monkeypatch, version)
    q, k, v, grad = inputs(views, frames, dtype)
    own = [x.clone().requires_grad_() for x in (q, k, v)]
    out = merge_attention(*own, views, frames, 0.7, f"flash-attn {version}")
    out.backward(grad)
    assert_near([out.detach(), *(x.grad for x in own)], dense(q, k, v, grad, views, frames), dtype)


@pytest.mark.parametrize("version", [2, 3])
def test_flash_attn_is_found_tried_and_named_on_cuda(version, monkeypatch):
    flash_attn_stand_in.install(monkeypatch, version)
    monkeypatch.setattr(kernels, "find_spec", lambda name: name in sys.modules)
    kernels.failure.cache_clear()
    with PretendCuda():
        device = torch.device("cuda:0")
        name, why = kernels.flash_attn_kernel(device, torch.bfloat16, 64)
        refused = kernels.flash_attn_kernel(device, torch.float32, 64)
    kernels.failure.cache_clear()
    assert (name, why) == (f"flash-attn {version}", "")
    assert refused[0] is None and "fp16 and bf16" in refused[1]


def test_a_package_with_another_signature_is_refused(monkeypatch):
    flash_attn_stand_in.install(monkeypatch, 2)
    interface = sys.modules["flash_attn.flash_attn_interface"]
    monkeypatch.setattr(interface, "_flash_attn_backward", lambda dout, q, k, v: None)
    kernels.failure.cache_clear()
    cpu = torch.device("cpu")
    reason = kernels.failure(kernels.FlashAttention2, cpu, torch.bfloat16, 16)
    kernels.failure.cache_clear()
    assert "argument" in reason
