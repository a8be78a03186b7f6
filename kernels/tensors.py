"""Tensors of a verification case: drawn from a seed, laid out in memory as the case says.

Captured tensors are drawn, element by element with replacement, from the example's own values: additive
masks keep their -inf, tables their magnitude, indices their range. Memory around a view is poisoned with
NaN.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import torch

from ..ir.dtypes import DType, Kind
from ..ir.spec import AttentionSpec, TensorSpec
from .cases import Case
from .dtypes import to_torch

__all__ = ["CaseTensors", "case_tensors", "laid_out"]

CaseTensors = list[torch.Tensor]
Example = Sequence[torch.Tensor] | None
LARGE_LOGIT = 1e4


def case_tensors(spec: AttentionSpec, case: Case, example: Example, own_sizes: Mapping[str, int]) -> CaseTensors:
    """q, k, v and the captured tensors of a case, on the CPU; the same case gives the same values.

    own_sizes: sizes that only captured tensors have (a table's length), from the example.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    sizes = {**own_sizes, "B": case.batch, "Hkv": case.kv_heads, "Hq": case.kv_heads * spec.group}
    sizes |= {"M": case.rows, "N": case.columns, "D": spec.head_dim, "Dv": spec.value_dim}
    tensors = []
    for position, tensor in enumerate(spec.tensors):
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in tensor.dims]
        values = None if example is None or position < 3 else example[position]
        tensors.append(_draw(tensor, shape, values, generator))
    CONTENTS[case.content](tensors, spec)
    return tensors


def laid_out(tensors: CaseTensors, case: Case, device: torch.device) -> CaseTensors:
    """The tensors on a device, q, k and v in memory as the case says."""
    moved = [tensor.to(device) for tensor in tensors]
    return [*(LAYOUTS[case.layout](tensor) for tensor in moved[:3]), *moved[3:]]


def _draw(
    tensor: TensorSpec, shape: list[int], values: torch.Tensor | None, generator: torch.Generator
) -> torch.Tensor:
    dtype = to_torch(tensor.dtype)
    if values is not None and values.numel():
        pool = values.detach().cpu().reshape(-1)
        return pool[torch.randint(pool.numel(), shape, generator=generator)].to(dtype)
    if tensor.dtype.kind is Kind.FLOAT:
        return torch.randn(shape, generator=generator).to(dtype)
    if tensor.dtype is DType.BOOL:
        return torch.rand(shape, generator=generator) < 0.7
    return torch.randint(4, shape, generator=generator).to(dtype)


# Contents: change freshly drawn tensors in place.


def _normal(tensors: CaseTensors, spec: AttentionSpec) -> None:
    """As drawn."""


def _large(tensors: CaseTensors, spec: AttentionSpec) -> None:
    """Products q · k of about ±1e4 times the usual scale's inverse."""
    tensors[0].mul_(LARGE_LOGIT)


def _masked_rows(tensors: CaseTensors, spec: AttentionSpec) -> None:
    """Rows that keep nothing, wherever a captured tensor can mask: False, or the least value it holds."""
    for tensor in tensors[3:]:
        if tensor.dim() < 2 or not tensor.numel():
            continue
        if tensor.dtype is torch.bool:
            tensor[..., ::3, :] = False
        elif tensor.is_floating_point() and tensor.min() < -1e30:
            tensor[..., ::3, :] = tensor.min()


def _nan_row(tensors: CaseTensors, spec: AttentionSpec) -> None:
    """A NaN in one query row: that row is NaN, the others do not notice."""
    rows = tensors[0].shape[2]
    tensors[0][:, :, min(5, rows - 1), 0] = float("nan")


def _rising(tensors: CaseTensors, spec: AttentionSpec) -> None:
    """Scores that grow along the keys, from tile to tile, so that every running maximum is soon out of date."""
    q, k = tensors[:2]
    steps = torch.linspace(-1.0, 1.0, max(k.shape[2], 1), dtype=torch.float32)
    q.copy_(q.abs().clamp(min=0.5))
    k.copy_(k.float() * 0.1 + 8.0 * steps[: k.shape[2], None])


def _sunken(tensors: CaseTensors, spec: AttentionSpec) -> None:
    """Products that are all negative, beyond what a float32 exponential can tell from zero."""
    q, k = tensors[:2]
    q.copy_(q.abs().clamp(min=0.5))
    k.copy_(-k.abs() - 128.0 / q.shape[3] ** 0.5)


def _indicator(tensors: CaseTensors, spec: AttentionSpec) -> None:
    """Equal products, and values that say which key they are of: the output shows which keys are kept."""
    q, _, v = tensors[:3]
    q.zero_()
    keys, width = v.shape[2:]
    v.copy_((torch.arange(keys)[:, None] % width == torch.arange(width)).to(v.dtype))


CONTENTS: dict[str, Callable[[CaseTensors, AttentionSpec], None]] = {
    "normal": _normal, "large": _large, "masked_rows": _masked_rows, "nan_row": _nan_row, "rising": _rising,
    "sunken": _sunken, "indicator": _indicator,
}  # fmt: skip


# Layouts: the same values elsewhere in memory.


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    """Stored as [B, M, H, D]."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def _sliced(tensor: torch.Tensor) -> torch.Tensor:
    """A window of a larger tensor."""
    batch, heads, rows, width = tensor.shape
    outer = tensor.new_full((batch, heads + 1, rows + 3, width + 5), float("nan"))
    view = outer[:, 1:, 1:-2, 2:-3]
    view.copy_(tensor)
    return view


def _strided(tensor: torch.Tensor) -> torch.Tensor:
    """Every second element along the last dimension."""
    outer = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan"))
    view = outer[..., ::2]
    view.copy_(tensor)
    return view


def _expanded(tensor: torch.Tensor) -> torch.Tensor:
    """One batch entry seen by all (stride 0)."""
    return tensor[:1].expand(tensor.shape)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda tensor: tensor, "transposed": _transposed, "sliced": _sliced, "strided": _strided,
    "expanded": _expanded,
}  # fmt: skip
