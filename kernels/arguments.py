"""Arguments of an attention call: what must hold before any kernel runs, and the sizes that follow.

Every refusal says which tensor, what it has and what was wanted. Checks happen once per signature (shapes,
types, devices); see kernel.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..ir.dtypes import DType
from ..ir.errors import DeviceError, DTypeError, ShapeError
from ..ir.spec import TensorSpec
from .dtypes import COMPUTE_DTYPES, from_torch, to_torch

__all__ = ["DEVICES", "Signature", "bind_sizes", "check_attention", "check_device", "signature_of"]

DEVICES = {"cpu": "cpu", "triton": "cuda"}  # where a target's kernels compute
LAYOUTS = (("q", "B Hq M D"), ("k", "B Hkv N D"), ("v", "B Hkv N Dv"))


@dataclass(frozen=True, slots=True)
class Signature:
    """What a kernel is specialised on: everything else may differ from call to call.

    captured holds, per captured tensor, its element type and which of its dims are 1 (broadcast).
    """

    dtype: DType
    head_dim: int
    value_dim: int
    group: int
    captured: tuple[tuple[DType, tuple[bool, ...]], ...] = ()


def check_attention(tensors: Sequence[object]) -> None:
    """Refuse arguments that no attention kernel takes: q [B, Hq, M, D], k [B, Hkv, N, D], v [B, Hkv, N,
    Dv], captured.

    Raises ShapeError, DTypeError or DeviceError.
    """
    names = names_of(len(tensors))
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, torch.Tensor):
            raise DTypeError(
                f"{name}: got {type(tensor).__name__}, wanted a torch.Tensor; "
                "fix Python values into the function with functools.partial or a closure"
            )
        if tensor.layout is not torch.strided:
            raise DTypeError(f"{name}: got a tensor of layout {tensor.layout}, wanted torch.strided; use .to_dense()")
    given = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
    sizes: dict[str, int] = {}
    for (name, layout), tensor in zip(LAYOUTS, given, strict=False):
        _bind(name, tensor, tuple(layout.split()), sizes)
    _check_heads(sizes)
    _check_types(names, given)


def names_of(count: int) -> list[str]:
    """Names of positional arguments for messages: q, k, v, captured[0], …"""
    if count < 3:
        raise ShapeError(f"attention takes q, k, v and the captured tensors; got {count} tensors")
    return ["q", "k", "v", *(f"captured[{n}]" for n in range(count - 3))]


def _check_heads(sizes: dict[str, int]) -> None:
    hq, hkv = sizes["Hq"], sizes["Hkv"]
    if hkv == 0 or hq % hkv:
        raise ShapeError(
            f"q has Hq={hq} heads and k has Hkv={hkv}; wanted Hq a multiple of Hkv "
            "(each key head serves Hq/Hkv query heads)"
        )
    for size in ("D", "Dv"):
        if sizes[size] == 0:
            raise ShapeError(f"{'q' if size == 'D' else 'v'} has {size}=0; wanted at least 1")


def _check_types(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> None:
    q = tensors[0]
    if from_torch("q", q.dtype) not in COMPUTE_DTYPES:
        wanted = ", ".join(str(to_torch(dtype)) for dtype in COMPUTE_DTYPES)
        raise DTypeError(f"q: got {q.dtype}, wanted one of {wanted}; convert with .to(torch.float32)")
    for name, tensor in zip(names[1:3], tensors[1:3], strict=True):
        if tensor.dtype != q.dtype:
            raise DTypeError(f"{name}: got {tensor.dtype}, wanted {q.dtype} as q has; convert with .to(q.dtype)")
    for name, tensor in zip(names[1:], tensors[1:], strict=True):
        from_torch(name, tensor.dtype)
        if tensor.device != q.device:
            raise DeviceError(f"{name}: on {tensor.device}, but q is on {q.device}; move it with .to(q.device)")


def _bind(name: str, tensor: torch.Tensor, dims: Sequence[str | int], sizes: dict[str, int]) -> None:
    """Check one tensor against its dims, learning the sizes that are new."""
    layout = "[" + ", ".join(map(str, dims)) + "]"
    shape = tuple(tensor.shape)
    if len(shape) != len(dims):
        raise ShapeError(f"{name}: rank {len(shape)}, shape {shape}; wanted rank {len(dims)}, {layout}")
    for dim, size in zip(dims, shape, strict=True):
        wanted = dim if isinstance(dim, int) else sizes.setdefault(dim, size)
        if size != wanted:
            known = f"{dim}={wanted}" if isinstance(dim, str) else str(wanted)
            raise ShapeError(f"{name}: size {size} for {dim} in {shape} {layout}; wanted {known}")


def bind_sizes(specs: Sequence[TensorSpec], tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """Every size by name. Raises ShapeError or DTypeError where a tensor does not fit its spec."""
    if len(specs) != len(tensors):
        wanted = ", ".join(spec.name for spec in specs)
        raise ShapeError(f"got {len(tensors)} tensors; this kernel takes {len(specs)}: {wanted}")
    sizes: dict[str, int] = {}
    for spec, tensor in zip(specs, tensors, strict=True):
        got = from_torch(spec.name, tensor.dtype)
        if got is not spec.dtype:
            raise DTypeError(f"{spec.name}: got {tensor.dtype}; this kernel was made for {to_torch(spec.dtype)}")
        _bind(spec.name, tensor, spec.dims, sizes)
    return sizes


def check_device(target: str, tensors: Sequence[torch.Tensor]) -> None:
    """Refuse tensors on a device that the target's kernels cannot reach."""
    device, wanted = tensors[0].device, DEVICES[target]
    if device.type != wanted:
        raise DeviceError(
            f"q: on {device}; target {target!r} computes on {wanted}: move the tensors, or compile with target='auto'"
        )


def signature_of(tensors: Sequence[torch.Tensor]) -> Signature:
    """What a kernel for these (checked) tensors is specialised on."""
    q, k, v = tensors[:3]
    captured = tuple(
        (from_torch(f"captured[{n}]", tensor.dtype), tuple(size == 1 for size in tensor.shape))
        for n, tensor in enumerate(tensors[3:])
    )
    return Signature(from_torch("q", q.dtype), q.shape[3], v.shape[3], q.shape[1] // k.shape[1], captured)
