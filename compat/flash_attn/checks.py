"""Arguments of flash-attn's functions: what is refused, by name, before anything is read or written.

Shapes and options are checked at every call. Values of tensors (lengths, block tables) are checked at every call on
the CPU; on a GPU looking at them stops the queue, so there it is done once per tensor and version (see `values_of`).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ir.errors import DeviceError, DTypeError, ShapeError, UnsupportedSpec
from ...kernels.dtypes import COMPUTE_DTYPES, to_torch
from ...kernels.plan import refuse_grad
from .forms import UNLIMITED, Options

__all__ = ["Sequences", "check_integers", "check_tensors", "options_of", "refuse_training", "values_of"]

TYPES = tuple(to_torch(dtype) for dtype in COMPUTE_DTYPES)
INTEGERS = (torch.int32, torch.int64)


@dataclass(frozen=True, slots=True)
class Sequences:
    """What slopes are checked against, and the name of the function that was called."""

    caller: str
    batch: int
    heads: int
    head_dim: int
    device: torch.device


def refuse_training(caller: str, dropout_p: float, return_attn_probs: bool) -> None:
    """Raise UnsupportedSpec for options that only training or debugging uses."""
    if dropout_p:
        raise UnsupportedSpec(
            f"{caller}: dropout_p={dropout_p} is not supported; pass dropout_p=0.0",
            hint="dropout of the weights can be written into a function for tilewright.compile: "
            "tilewright.dropout(weights, p, seed)",
        )
    if return_attn_probs:
        raise UnsupportedSpec(
            f"{caller}: return_attn_probs=True is not supported: the weights are never in memory; pass False",
            hint="for the log-sum-exp use tilewright.attention(..., return_lse=True), or flash_attn_with_kvcache("
            "..., return_softmax_lse=True)",
        )


def options_of(
    of: Sequences, softmax_scale: float | None, causal: bool, window_size: Any, softcap: float, alibi_slopes: Any
) -> Options:
    """The options with defaults resolved. Raises TypeError, ShapeError, DTypeError or DeviceError by name."""
    if softmax_scale is not None and not _is_number(softmax_scale):
        raise TypeError(f"{of.caller}: softmax_scale is a {_kind(softmax_scale)}; wanted a number or None")
    if not _is_number(softcap) or softcap < 0:
        raise TypeError(f"{of.caller}: softcap={softcap!r}; wanted a number that is at least 0 (0.0 for none)")
    left, right = _window(of.caller, window_size)
    if causal:
        right = 0
    is_default = softmax_scale is None or softmax_scale == of.head_dim**-0.5
    scale = None if is_default or softmax_scale is None else float(softmax_scale)
    if alibi_slopes is not None:
        _check_slopes(of, alibi_slopes)
    return Options(scale, float(softcap), (left, right), alibi_slopes)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(value: object) -> str:
    return type(value).__name__


def _window(caller: str, window_size: Any) -> tuple[int, int]:
    """Both sides; negative means without a limit, as in flash-attn."""
    is_pair = isinstance(window_size, (tuple, list)) and len(window_size) == 2
    if not is_pair or not all(isinstance(side, int) for side in window_size):
        raise TypeError(f"{caller}: window_size={window_size!r}; wanted (left, right), two integers, -1 for no limit")
    left, right = (UNLIMITED if side < 0 else min(side, UNLIMITED) for side in window_size)
    return left, right


def _check_slopes(of: Sequences, slopes: Any) -> None:
    name = f"{of.caller}: alibi_slopes"
    if not isinstance(slopes, Tensor):
        raise TypeError(f"{name} is a {_kind(slopes)}; wanted a float32 tensor of shape [H] or [B, H]")
    if slopes.dtype is not torch.float32:
        raise DTypeError(f"{name}: got {slopes.dtype}, wanted torch.float32; convert with .float()")
    if tuple(slopes.shape) not in ((of.heads,), (of.batch, of.heads)):
        raise ShapeError(f"{name}: shape {tuple(slopes.shape)}; wanted ({of.heads},) or ({of.batch}, {of.heads})")
    if slopes.device != of.device:
        raise DeviceError(f"{name}: on {slopes.device}, but q is on {of.device}; move it with .to(q.device)")


def check_tensors(
    caller: str, rows: Sequence[tuple[str, Any, str]], *, has_backward: bool = False
) -> dict[str, int]:
    """Refuse tensors that do not fit their dims, one row (name, tensor, "B M H D") each; the sizes by name.

    The first tensor is q: the others must have its element type and device. Gradients are refused where there is no
    backward.
    """
    sizes: dict[str, int] = {}
    q = rows[0][1]
    if isinstance(q, Tensor) and q.dtype not in TYPES:
        raise DTypeError(f"{caller}: q: got {q.dtype}, wanted one of {', '.join(map(str, TYPES))}")
    for name, tensor, dims in rows:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{caller}: {name} is a {_kind(tensor)}; wanted a tensor [{dims.replace(' ', ', ')}]")
        _check_shape(f"{caller}: {name}", tuple(tensor.shape), dims.split(), sizes)
        if tensor.dtype != q.dtype:
            raise DTypeError(f"{caller}: {name}: got {tensor.dtype}, wanted {q.dtype} as q has")
        if tensor.device != q.device:
            raise DeviceError(f"{caller}: {name}: on {tensor.device}, but q is on {q.device}; move it to q's device")
        if tensor.requires_grad and torch.is_grad_enabled() and not has_backward:
            refuse_grad()
    hq, hkv = sizes["Hq"], sizes["Hkv"]
    if hkv == 0 or hq % hkv:
        raise ShapeError(f"{caller}: q has {hq} heads and k has {hkv}; wanted a multiple (each key head serves Hq/Hkv)")
    return sizes


def _check_shape(name: str, shape: tuple[int, ...], dims: Sequence[str], sizes: dict[str, int]) -> None:
    layout = "[" + ", ".join(dims) + "]"
    if len(shape) != len(dims):
        raise ShapeError(f"{name}: shape {shape}; wanted {len(dims)} dimensions, {layout}")
    for dim, size in zip(dims, shape, strict=True):
        wanted = int(dim) if dim.isdigit() else sizes.setdefault(dim, size)
        if size != wanted:
            raise ShapeError(f"{name}: size {size} for {dim} in {shape} {layout}; wanted {wanted}")


def check_integers(name: str, tensor: Any, shape: tuple[int | None, ...], device: torch.device) -> None:
    """Refuse anything but an integer tensor of this shape (None: any size) on the device."""
    wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {_kind(tensor)}; wanted an int32 tensor of shape {wanted}")
    if tensor.dtype not in INTEGERS:
        raise DTypeError(f"{name}: got {tensor.dtype}, wanted torch.int32; convert with .to(torch.int32)")
    fits = tensor.dim() == len(shape) and all(w is None or s == w for s, w in zip(tensor.shape, shape, strict=True))
    if not fits:
        raise ShapeError(f"{name}: shape {tuple(tensor.shape)}; wanted {wanted}")
    if tensor.device != device:
        raise DeviceError(f"{name}: on {tensor.device}, but q is on {device}; move it with .to(q.device)")


_read: dict[int, tuple[weakref.ref[Tensor], int, Any]] = {}
MAX_READ = 256


def values_of(tensor: Tensor) -> Any:
    """A small tensor's values as (nested) lists.

    On a GPU they are kept per tensor and version, so that the layers of a model which share one stop the queue
    once; a change that bypasses torch (another library writing to the memory) is not seen.
    """
    if tensor.device.type == "cpu" or tensor.is_inference():
        return tensor.tolist()
    known = _read.get(id(tensor))
    if known is not None and known[0]() is tensor and known[1] == tensor._version:
        return known[2]
    if len(_read) >= MAX_READ:
        _read.clear()
    values = tensor.tolist()
    _read[id(tensor)] = weakref.ref(tensor), tensor._version, values
    return values
