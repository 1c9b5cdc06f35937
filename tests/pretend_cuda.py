"""A pretend CUDA device: real numbers, computed on the CPU, on tensors that say they are on cuda:0.

    with PretendCuda() as device:
        model.to("cuda")                          # parameters now say cuda:0
        model(torch.rand(2, 3, device="cuda"))
    device.operations["cuda"], device.transfers   # what ran where, and what came to the host

Inside it torch.cuda.is_available() is True, and an operation that mixes CUDA and CPU tensors raises
as on a real GPU. So a test on any machine shows that a whole job runs on the device, gives the
CPU's numbers, and where it waits for the host. It says nothing about CUDA kernels or their speed:
kernels that exist on CUDA alone are computed by plain formulas here.

How it works: a tensor subclass made on the meta device (no CUDA library is needed) that holds a CPU
tensor and reports cuda:0; a dispatch mode that unwraps, runs and wraps; a function mode for what
PyTorch decides before dispatch (devices without an index, numbers that become tensors, autocast).
"""

from collections import Counter
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda:0")
GIBIBYTE = 2**30
aten = torch.ops.aten

# CPU tensors may take part in these beside CUDA ones, as on a real device.
MIXING = {
    aten._foreach_copy_.default,
    aten.copy_.default,
    aten._to_copy.default,
    aten._local_scalar_dense.default,
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
}
# What moves or names numbers and computes none: not counted as operations.
MOVING = {
    *("slice", "select", "view", "_unsafe_view", "reshape", "expand", "unsqueeze", "squeeze"),
    *("permute", "transpose", "t", "unbind", "split", "split_with_sizes", "chunk", "narrow"),
    *("cat", "stack", "clone", "detach", "alias", "copy_", "_to_copy", "as_strided", "unfold"),
    *(
        "lift_fresh",
        "empty_like",
        "zeros_like",
        "ones_like",
        "new_zeros",
        "new_empty",
        "is_same_size",
    ),
}
# Half numbers are multiplied as GPUs do it: exact products, sums in float32. Many CPUs have no
# instructions for them, and PyTorch's plain loops take minutes for what a GPU does at once.
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")
# What autocast runs in the lower precision, and in float32 (PyTorch's lists, the part met here).
LOWER = {
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose2d,
    F.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    torch.mm,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
}
FLOAT32 = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, torch.Tensor.softmax}


class CudaTensor(torch.Tensor):
    """Says cuda:0, holds a CPU tensor in `inner`."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device="meta",
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner):
        assert inner.device.type == "cpu", inner.device
        self.inner = inner

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def __repr__(self):
        return f"CudaTensor({self.inner})"

    def __getitem__(self, index):
        return super().__getitem__(on_device(index))

    def __setitem__(self, index, value):
        if not isinstance(value, torch.Tensor):
            value = CudaTensor(torch.tensor(value, dtype=self.dtype))
        super().__setitem__(on_device(index), value)

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first.")

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def on_device(index):
    """An index with lists of numbers, or of none, as CUDA tensors; PyTorch would put them on the
    meta device."""
    parts = index if isinstance(index, tuple) else (index,)
    moved = tuple(
        CudaTensor(torch.tensor(p, dtype=None if p else torch.long)) if isinstance(p, list) else p
        for p in parts
    )
    return moved if isinstance(index, tuple) else moved[0]


def is_cuda(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def wrap(tree):
    """All plain tensors of a tree as CUDA ones."""
    return tree_map(
        lambda t: (
            CudaTensor(t) if isinstance(t, torch.Tensor) and not isinstance(t, CudaTensor) else t
        ),
        tree,
    )


def compute(func, args, kwargs):
    """An operation on the CPU, products of half numbers in float32."""
    types = [t.dtype for t in tree_leaves(args) if isinstance(t, torch.Tensor) and t.dim()]
    halves, name = (torch.bfloat16, torch.float16), func._schema.name.split("::")[1]
    if name not in PRODUCTS or types[0] not in halves:
        return func(*args, **kwargs)
    full = tree_map(lambda t: t.float() if isinstance(t, torch.Tensor) else t, args)
    return tree_map(lambda t: t if t is None else t.to(types[0]), func(*full, **kwargs))


def run(func, args, kwargs):
    """One operation: unwrap, compute on the CPU, wrap, and note where it belongs."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    on_cuda = any(isinstance(t, CudaTensor) for t in tensors)
    strays = any(not isinstance(t, CudaTensor) and t.dim() > 0 for t in tensors)
    if on_cuda and strays and func not in MIXING:
        raise RuntimeError(f"{func} mixes cuda and cpu tensors")
    device = kwargs.get("device")
    in_backward = torch._C._current_graph_task_id() >= 0
    in_core = on_cuda or in_backward or func is aten.scalar_tensor.default
    if in_core and device is not None and torch.device(device).type == "meta":
        device = CUDA  # what C++ code, such as autograd's, takes for the tensor's own device
    args_in, kwargs_in = tree_map(
        lambda t: t.inner if isinstance(t, CudaTensor) else t, (args, kwargs)
    )
    if is_cuda(device):
        kwargs_in = kwargs_in | {"device": torch.device("cpu")}
    if func is aten.lift_fresh.default:
        return args[0]
    log = PretendCuda.entered
    if log is not None and tensors and func._schema.name.split("::")[1] not in MOVING:
        log.operations["cuda" if on_cuda else "cpu"] += 1
    if func is aten._local_scalar_dense.default and on_cuda:
        log.transfers["item"] += 1
    if on_cuda and func in CUDA_ONLY:
        return wrap(CUDA_ONLY[func](*args_in, **kwargs_in))
    out = compute(func, args_in, kwargs_in) if on_cuda else func(*args_in, **kwargs_in)
    if func is aten.copy_.default:
        if isinstance(args[1], CudaTensor) and not isinstance(args[0], CudaTensor):
            log.transfers["copy"] += 1
        return args[0]
    if func is aten._to_copy.default:
        stays = is_cuda(device) if device is not None else on_cuda
        if on_cuda and not stays:
            log.transfers["copy"] += 1
        return wrap(out) if stays else out
    name = func._schema.name.split("::")[1]
    if name.endswith("_") and not name.startswith("_") and isinstance(args[0], torch.Tensor):
        return args[0]
    return wrap(out) if on_cuda or is_cuda(device) else out


# --- kernels that only CUDA has, by plain formulas ---------------------------------------------


def attention(q, k, v):
    """Output and natural log-sum-exp [.., tokens] of plain softmax attention, in float32."""
    scores = q.float() @ k.float().mT * q.shape[-1] ** -0.5
    lse = scores.logsumexp(-1)
    return ((scores - lse[..., None]).exp() @ v.float()).to(q.dtype), lse


def attention_backward(grad, q, k, v, out, lse):
    """Gradients with weights exp(score - lse), as every flash backward recomputes them."""
    scale = q.shape[-1] ** -0.5
    q32, k32, v32, grad32 = (x.float() for x in (q, k, v, grad))
    weights = (q32 @ k32.mT * scale - lse[..., None]).exp()
    inner = (grad32 * out.float()).sum(-1, keepdim=True)
    change = weights * (grad32 @ v32.mT - inner) * scale
    grads = change @ k32, change.mT @ q32, weights.mT @ grad32
    return tuple(g.to(q.dtype) for g in grads)


def seed() -> torch.Tensor:
    return torch.zeros((), dtype=torch.int64)


def flash(q, k, v, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None):
    out, lse = attention(q, k, v)
    return out, lse, None, None, q.shape[2], k.shape[2], seed(), seed(), seed()


def flash_backward(grad, q, k, v, out, lse, *_, scale=None):
    return attention_backward(grad, q, k, v, out, lse)


def cudnn(
    q, k, v, attn_bias, compute_lse, dropout_p=0.0, is_causal=False, mask=False, *, scale=None
):
    out, lse = attention(q, k, v)
    return out, lse[..., None], None, None, q.shape[2], k.shape[2], seed(), seed(), seed()


def cudnn_backward(grad, q, k, v, out, lse, *_, scale=None):
    return attention_backward(grad, q, k, v, out, lse[..., 0])


def efficient(q, k, v, attn_bias, compute_lse, dropout_p=0.0, is_causal=False, *, scale=None):
    """The kernel writes whole tiles of 32 queries; what stands past the end is undefined."""
    out, lse = attention(q, k, v)
    return out, F.pad(lse, (0, -lse.shape[-1] % 32), value=float("nan")), seed(), seed()


def efficient_backward(grad, q, k, v, bias, out, lse, *_, scale=None):
    assert lse[..., q.shape[2] :].isinf().all(), "queries past the end must have no weight"
    return *attention_backward(grad, q, k, v, out, lse[..., : q.shape[2]]), None


CUDA_ONLY = {
    aten._scaled_dot_product_flash_attention.default: flash,
    aten._scaled_dot_product_flash_attention_backward.default: flash_backward,
    aten._scaled_dot_product_cudnn_attention.default: cudnn,
    aten._scaled_dot_product_cudnn_attention_backward.default: cudnn_backward,
    aten._scaled_dot_product_efficient_attention.default: efficient,
    aten._scaled_dot_product_efficient_attention_backward.default: efficient_backward,
}


# --- what PyTorch decides before it dispatches --------------------------------------------------


def autocasted(func, args, kwargs):
    """Arguments in the precision that autocast gives them on CUDA."""
    if not torch.is_autocast_enabled("cuda") or func not in LOWER | FLOAT32:
        return args, kwargs
    dtype = torch.get_autocast_dtype("cuda") if func in LOWER else torch.float32

    def cast(x):
        floating = isinstance(x, CudaTensor) and x.dtype.is_floating_point
        return x.to(dtype) if floating and x.dtype != torch.float64 else x

    return tree_map(cast, (args, kwargs))


SET_DATA = torch.Tensor.data.__set__  # tensor.data = value


def is_pretended(tensor) -> bool:
    return isinstance(tensor, CudaTensor)


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})

        def indexed(x):
            return CUDA if isinstance(x, (str, torch.device)) and str(x).startswith("cuda") else x

        if func is torch.Tensor.cuda:
            return args[0].to(CUDA)
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], torch.Tensor):
            return args[0].to(device=args[1].device, dtype=args[1].dtype)
        if func is torch.Tensor.type_as:
            return args[0].to(device=args[1].device, dtype=args[1].dtype)
        if func is torch.Tensor.to:
            args = tuple(indexed(a) for a in args)
        if kwargs.get("device") is not None:
            kwargs["device"] = indexed(kwargs["device"])
        if func in (torch.tensor, torch.as_tensor) and is_cuda(kwargs.get("device")):
            return func(*args, **(kwargs | {"device": "cpu"})).to(CUDA)
        if func is torch.Tensor.new_tensor and isinstance(args[0], CudaTensor):
            return torch.tensor(args[1], dtype=kwargs.get("dtype") or args[0].dtype).to(CUDA)
        if func == SET_DATA and is_pretended(args[0]) != is_pretended(args[1]):
            return self.exchange(*args)
        if func is torch.where and len(args) == 3:
            args = args[0], *self.as_tensors(args[1:])
        args, kwargs = autocasted(func, args, kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def exchange(tensor, value):
        """tensor.data = value of the other device: the same Python object, another kind."""
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        fresh = torch.nn.Parameter(value, tensor.requires_grad) if is_parameter else value.detach()
        torch.utils.swap_tensors(tensor, fresh)

    @staticmethod
    def as_tensors(values):
        """Numbers beside a CUDA tensor as CUDA tensors of its type."""
        like = next((v for v in values if isinstance(v, CudaTensor)), None)
        if like is None:
            return values
        return [
            v if isinstance(v, torch.Tensor) else CudaTensor(torch.tensor(v, dtype=like.dtype))
            for v in values
        ]


PROPERTIES = SimpleNamespace(
    name="pretend", major=9, minor=0, total_memory=80 * GIBIBYTE, multi_processor_count=132
)


class PretendCuda(TorchDispatchMode):
    """While it is entered there is a CUDA device, cuda:0.

    operations: how many computed on tensors of "cuda" and of "cpu" (MOVING ones are not counted);
    transfers: how many copies ("copy") and single numbers ("item") came to the host.
    """

    entered = None
    PATCHES = {  # noqa: RUF012
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda *_: None,
        "get_device_name": lambda *_: PROPERTIES.name,
        "get_device_capability": lambda *_: (PROPERTIES.major, PROPERTIES.minor),
        "get_device_properties": lambda *_: PROPERTIES,
        "mem_get_info": lambda *_: (PROPERTIES.total_memory, PROPERTIES.total_memory),
        "memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "ipc_collect": lambda: None,
    }

    def __init__(self):
        super().__init__()
        self.operations: Counter = Counter()
        self.transfers: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def __enter__(self):
        self.former = {name: getattr(torch.cuda, name) for name in self.PATCHES}
        for name, patch in self.PATCHES.items():
            setattr(torch.cuda, name, patch)
        self.swap = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        PretendCuda.entered = self
        self.functions = _Functions()
        self.functions.__enter__()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self.functions.__exit__(*exception)
        PretendCuda.entered = None
        torch.__future__.set_swap_module_params_on_conversion(self.swap)
        for name, former in self.former.items():
            setattr(torch.cuda, name, former)
