"""What a kernel tells torch about a call that is recorded or transformed: shapes, casts, folding, what to export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from ..ir.errors import UnsupportedSpec
from ..ir.expr import Expr, Op, var, walk
from ..ir.spec import AttentionSpec
from .arguments import check_attention
from .torch_ops import is_watched

__all__ = [
    "autocast", "describe", "elsewhere", "example_of", "fold", "is_only_differentiated", "is_plain", "needs_op",
    "unwrapped",
]  # fmt: skip

T = TypeVar("T")
Tensors = tuple[torch.Tensor, ...]
PLAIN = {torch.Tensor, torch.nn.Parameter}
UNKNOWN_SIZE = 8  # for sizes that a trace knows nothing about
B, BATCH_SIZE = var("b"), var("B")


def autocast(tensors: Tensors) -> Tensors:
    """q, k, v in the type that autocast wants of scaled_dot_product_attention; captured tensors as they are."""
    device = getattr(tensors[0], "device", None)
    if device is None or not torch.is_autocast_enabled(device.type):
        return tensors
    dtype = torch.get_autocast_dtype(device.type)
    return (*[_cast(tensor, dtype) for tensor in tensors[:3]], *tensors[3:])


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    eligible = tensor.is_floating_point() and tensor.dtype is not torch.float64
    return tensor.to(dtype) if eligible else tensor


def needs_op(tensors: Sequence[Any]) -> bool:
    """Whether a tensor has no memory of its own to compute on: fake, meta, or of another library's class."""
    found = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
    return any(type(tensor) not in PLAIN or tensor.is_meta for tensor in found)


def describe(tensors: Sequence[torch.Tensor], return_lse: bool) -> list[tuple[Sequence[int], torch.dtype]]:
    """Shape and type of o, and of lse where it is wanted. Raises ShapeError, DTypeError or DeviceError."""
    check_attention(tensors)
    q, v = tensors[0], tensors[2]
    batch, heads, rows, _ = q.shape
    outputs: list[tuple[Sequence[int], torch.dtype]] = [((batch, heads, rows, v.shape[3]), q.dtype)]
    if return_lse:
        outputs.append(((batch, heads, rows), torch.float32))
    return outputs


def example_of(tensor: torch.Tensor, without: int | None = None) -> Callable[[], torch.Tensor]:
    """Makes a real tensor like a fake one, less one dimension; to be called `elsewhere`."""
    shape = [_known(size) for axis, size in enumerate(tensor.shape) if axis != without]
    dtype, device = tensor.dtype, tensor.device
    if tensor.is_floating_point():
        return lambda: torch.rand(shape, dtype=dtype, device=device)
    return lambda: torch.full(shape, dtype is torch.bool, dtype=dtype, device=device)


def _known(size: int | torch.SymInt) -> int:
    """A size without a guard on it."""
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return UNKNOWN_SIZE if hint is None else int(hint)


def is_only_differentiated() -> bool:
    """Whether a call is under torch.func.grad and its like, and under nothing else that records or transforms."""
    if torch.compiler.is_dynamo_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
        return False
    stack = torch._C._functorch.get_interpreter_stack()
    is_grad = [level.key() == torch._C._functorch.TransformType.Grad for level in stack or ()]
    return bool(is_grad) and all(is_grad)


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor under the wrappers of torch.func."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def is_plain() -> bool:
    """Whether functions can be traced here as they are: no autocast, inference mode, transform or recording, and not
    inside of an operator, where the layers of torch above it are turned off and other operators would be seen."""
    inside = torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.AutogradFunctionality)
    return not (inside or is_watched() or torch.is_inference_mode_enabled())


def elsewhere(work: Callable[[], T]) -> T:
    """The result of work done in a new thread, which has none of the modes and transforms of this one."""
    from torch.utils._python_dispatch import _disable_current_modes

    def done() -> T:
        with _disable_current_modes():  # export keeps some for all threads
            return work()

    with ThreadPoolExecutor(1, "tilewright") as pool:
        return pool.submit(done).result()


# vmap


def fold(
    spec: AttentionSpec | None, count: int, tensors: Sequence[torch.Tensor], dims: Sequence[int | None]
) -> list[torch.Tensor]:
    """Every tensor with the mapped dimension inside its B. UnsupportedSpec where the calls then would differ."""
    if spec is None:
        raise _not_foldable("this kernel was made from program text, so what it does with b is not known")
    if not all(_uses_batch_as_index(root, spec) for root in _roots(spec)):
        raise _not_foldable(f"{spec.name} computes with the batch index b, which would count all calls' batches")
    folded = []
    for given, tensor, dim in zip(spec.tensors, tensors, dims, strict=True):
        if "B" not in given.dims:
            if dim is not None:
                raise _not_foldable(f"{given.name} is mapped over, but it has no batch dimension")
            folded.append(tensor)
            continue
        axis = given.dims.index("B")
        every = tensor.unsqueeze(axis).expand(*_with(tensor.shape, axis, count)) if dim is None else tensor
        folded.append((every if dim is None else every.movedim(dim, axis)).flatten(axis, axis + 1))
    return folded


def _with(shape: Sequence[int], axis: int, size: int) -> list[int]:
    return [*shape[:axis], size, *shape[axis:]]


def _not_foldable(reason: str) -> UnsupportedSpec:
    return UnsupportedSpec(
        f"torch.vmap: {reason}", hint="map over q, k, v and captured tensors that have a batch dimension, or use a loop"
    )


def _roots(spec: AttentionSpec) -> list[Expr]:
    rule = spec.normaliser
    return [root for root in (spec.score, spec.keep, rule.sink, rule.weight, rule.after) if root is not None]


def _uses_batch_as_index(root: Expr, spec: AttentionSpec) -> bool:
    """Whether b only ever picks its own part of tensors that have a batch dimension."""
    dims = {tensor.name: tensor.dims for tensor in spec.captured}
    if root is B:
        return False
    for node in walk(root):
        if node is BATCH_SIZE:
            return False
        if node.op is not Op.LOAD:
            if B in node.args:
                return False
            continue
        if any((arg is B) != (dim == "B") for arg, dim in zip(node.args, dims[str(node.attr)], strict=True)):
            return False
    return True
