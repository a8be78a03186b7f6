"""Arguments of ragged and paged calls: what must hold before memory is touched, and the lengths that follow."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..ir.errors import DeviceError, DTypeError, OutOfBounds, ShapeError
from ..ir.spec import AttentionSpec
from .dtypes import COMPUTE_DTYPES, from_torch

__all__ = ["LAYOUTS", "Given", "Layout", "Lengths"]

EXAMPLE_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Lengths:
    """Rows (queries) and columns (keys) of every sequence."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    longest_rows: int
    longest_columns: int

    @property
    def count(self) -> int:
        """How many sequences there are."""
        return len(self.rows)

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """The different lengths, as (rows, columns), of sequences that have rows."""
        return {pair for pair in zip(self.rows, self.columns, strict=True) if pair[0]}

    def allowed_by(self, spec: AttentionSpec, heads: Mapping[str, int]) -> bool:
        """Whether a spec holds for every sequence."""
        if not spec.requires.args:  # the literal True
            return True
        return all(spec.allows({**heads, "B": self.count, "M": m, "N": n}) for m, n in self.pairs)


@dataclass(frozen=True, slots=True)
class Given:
    """Checked arguments. `attended`: q, k, v. `tables`: the layout's integers, int32."""

    attended: tuple[Tensor, Tensor, Tensor]
    captured: tuple[Tensor, ...]
    tables: tuple[Tensor, ...]
    lengths: Lengths

    @property
    def heads(self) -> dict[str, int]:
        """Sizes of heads by name."""
        q, k, v = self.attended
        return {"Hq": q.shape[-2], "Hkv": k.shape[-2], "D": q.shape[-1], "Dv": v.shape[-1]}

    def example(self) -> tuple[Tensor, ...]:
        """Dense tensors of the same types, heads and widths, which hold no memory, and the captured ones."""
        (q, k, v), sizes = self.attended, self.heads
        m, n = self.lengths.longest_rows, self.lengths.longest_columns
        if not self.captured:
            n = min(max(n, 1), EXAMPLE_LENGTH) if m != n else min(max(m, 1), EXAMPLE_LENGTH)
            m = min(max(m, 1), EXAMPLE_LENGTH)
        batch = max(self.lengths.count, 1)
        return (
            q.new_zeros(()).expand(batch, sizes["Hq"], m, sizes["D"]),
            k.new_zeros(()).expand(batch, sizes["Hkv"], n, sizes["D"]),
            v.new_zeros(()).expand(batch, sizes["Hkv"], n, sizes["Dv"]),
            *self.captured,
        )

    def fits(self, spec: AttentionSpec) -> None:
        """Refuse heads, widths and lengths that a spec was not made for."""
        sizes = self.heads
        for name, dim, wanted in (("q", "D", spec.head_dim), ("v", "Dv", spec.value_dim)):
            if sizes[dim] != wanted:
                raise ShapeError(f"{name}: {dim}={sizes[dim]}; this kernel was made for {dim}={wanted}")
        if sizes["Hq"] != spec.group * sizes["Hkv"]:
            raise ShapeError(f"q: Hq={sizes['Hq']}, k: Hkv={sizes['Hkv']}; this kernel is for Hq = {spec.group} x Hkv")
        if not self.lengths.allowed_by(spec, sizes):
            found = sorted(self.lengths.pairs)
            raise ShapeError(f"this kernel was made for lengths with {spec.requires!r}, got (M, N) of {found}")


@dataclass(frozen=True, slots=True)
class Layout:
    """How sequences lie; `form` is the expert program for it."""

    name: str
    form: str
    tables: tuple[str, str]
    dims: tuple[str, str, str]

    @property
    def is_paged(self) -> bool:
        """Whether keys and values are in pages."""
        return self.name == "paged"

    def check(self, attended: tuple[Any, Any, Any], captured: tuple[Any, ...], where: Mapping[str, Any]) -> Given:
        """Refuse what the layout does not take; nothing but the tables has been read when this returns."""
        known = {*self.tables, "max_q", "max_k"}
        for name in where:
            if name not in known:
                wanted = ", ".join(sorted(known))
                raise TypeError(f"{self.name} attention takes no argument {name!r}; it takes {wanted}")
        for name in self.tables:
            if where.get(name) is None:
                raise TypeError(f"{self.name} attention needs {name}=")
        names = ("q", "k", "v", *(f"captured[{n}]" for n in range(len(captured))))
        _check_tensors(names, (*attended, *captured))
        _check_shapes(attended, self.dims)
        tables = tuple(_integers(name, where[name], attended[0]) for name in self.tables)
        lengths = (_pages if self.is_paged else _sequences)(attended, tables)
        return Given(attended, captured, tables, _limited(lengths, where))

    def finish(self, lengths: Lengths, outputs: Sequence[Tensor]) -> None:
        """Rows that belong to no sequence give 0 and -inf."""
        total = sum(lengths.rows)
        if self.is_paged or outputs[0].shape[0] == total:
            return
        outputs[0][total:] = 0
        for lse in outputs[1:]:
            lse[:, total:] = float("-inf")


def _check_tensors(names: Sequence[str], tensors: Sequence[Any]) -> None:
    first = tensors[0]
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, Tensor):
            raise DTypeError(f"{name}: got {type(tensor).__name__}, wanted a torch.Tensor")
        from_torch(name, tensor.dtype)
        if tensor.device != first.device:
            raise DeviceError(f"{name}: on {tensor.device}, but q is on {first.device}; move it with .to(q.device)")
    if from_torch("q", first.dtype) not in COMPUTE_DTYPES:
        raise DTypeError(f"q: got {first.dtype}, wanted float32, bfloat16 or float16")
    for name, tensor in zip(names[1:3], tensors[1:3], strict=True):
        if tensor.dtype != first.dtype:
            raise DTypeError(f"{name}: got {tensor.dtype}, wanted {first.dtype} as q has; convert with .to(q.dtype)")


def _check_shapes(attended: Sequence[Tensor], layouts: Sequence[str]) -> None:
    sizes: dict[str, int] = {}
    for name, tensor, layout in zip("qkv", attended, layouts, strict=True):
        dims = layout.split()
        if tensor.dim() != len(dims):
            raise ShapeError(f"{name}: rank {tensor.dim()}, shape {tuple(tensor.shape)}; wanted [{', '.join(dims)}]")
        for dim, size in zip(dims, tensor.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise ShapeError(f"{name}: size {size} for {dim} in {tuple(tensor.shape)}; wanted {dim}={sizes[dim]}")
    if sizes["Hkv"] == 0 or sizes["Hq"] % sizes["Hkv"]:
        raise ShapeError(f"q has Hq={sizes['Hq']} heads and k has Hkv={sizes['Hkv']}; wanted Hq a multiple of Hkv")
    if sizes["D"] == 0 or sizes["Dv"] == 0:
        raise ShapeError("D=0 or Dv=0; wanted at least 1")


def _integers(name: str, table: Any, q: Tensor) -> Tensor:
    if not isinstance(table, Tensor) or table.dtype not in (torch.int32, torch.int64):
        found = table.dtype if isinstance(table, Tensor) else type(table).__name__
        raise DTypeError(f"{name}: got {found}, wanted a tensor of int32 or int64")
    if table.device != q.device:
        raise DeviceError(f"{name}: on {table.device}, but q is on {q.device}; move it with .to(q.device)")
    return table if table.dtype is torch.int32 else table.to(torch.int32)


def _sequences(attended: Sequence[Tensor], tables: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Lengths of sequences that lie end to end."""
    found = []
    for name, table, tensor in zip(("cu_q", "cu_k"), tables, "qk", strict=True):
        total = attended["qk".index(tensor)].shape[0]
        if table.dim() != 1 or table.shape[0] == 0:
            raise ShapeError(f"{name}: shape {tuple(table.shape)}; wanted [B + 1]")
        ends = _values(table)
        lengths = [after - before for before, after in pairwise(ends)]
        if ends[0] != 0:
            raise OutOfBounds(f"{name} starts at {ends[0]}; wanted 0")
        if min(lengths, default=0) < 0:
            at = next(n for n, length in enumerate(lengths) if length < 0)
            raise OutOfBounds(f"{name} falls from {ends[at]} to {ends[at + 1]} at sequence {at}; it must ascend")
        if ends[-1] > total:
            raise OutOfBounds(f"{name} ends at {ends[-1]}, but {tensor} has {total} rows")
        found.append(lengths)
    if len(found[0]) != len(found[1]):
        raise ShapeError(f"cu_q is for {len(found[0])} sequences, cu_k for {len(found[1])}")
    return found[0], found[1]


def _pages(attended: Sequence[Tensor], tables: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Lengths of sequences whose keys are in pages."""
    (q, k, _), (table, lengths) = attended, tables
    batch, (slots, page) = q.shape[0], k.shape[:2]
    if table.dim() != 2 or table.shape[0] != batch:
        raise ShapeError(f"block_table: shape {tuple(table.shape)}; wanted [B, pages] with B={batch}")
    if lengths.shape != (batch,):
        raise ShapeError(f"lengths: shape {tuple(lengths.shape)}; wanted [B] with B={batch}")
    columns, room = _values(lengths), page * table.shape[1]
    for b, length in enumerate(columns):
        if not 0 <= length <= room:
            pages = f"{table.shape[1]} pages of {page}"
            raise OutOfBounds(f"lengths[{b}] is {length}; block_table has {pages}, so wanted 0..{room}")
    for b, (length, places) in enumerate(zip(columns, _values(table), strict=True)):
        used = places[: -(-length // page)] if page else []
        if used and not (min(used) >= 0 and max(used) < slots):
            at = next(n for n, place in enumerate(used) if not 0 <= place < slots)
            raise OutOfBounds(f"block_table[{b}, {at}] is {used[at]}; the cache has pages 0..{slots - 1}")
    return [q.shape[1]] * batch, columns


def _limited(lengths: tuple[list[int], list[int]], where: Mapping[str, Any]) -> Lengths:
    longest = []
    for name, found in zip(("max_q", "max_k"), lengths, strict=True):
        most, given = max(found, default=0), where.get(name)
        if given is not None and given < most:
            raise ShapeError(f"{name}={given}, but the longest sequence has {most}")
        longest.append(most)
    return Lengths(tuple(lengths[0]), tuple(lengths[1]), longest[0], longest[1])


_read: MutableMapping[Tensor, tuple[int, Any]] = WeakIdKeyDictionary()


def _values(table: Tensor) -> Any:
    """The table as Python numbers; from a GPU once per tensor and version, since it stops the queue."""
    if table.device.type == "cpu":
        return table.tolist()
    known = _read.get(table)
    if known is None or known[0] != table._version:
        _read[table] = known = (table._version, table.tolist())
    return known[1]


LAYOUTS = {
    "ragged": Layout("ragged", "flash_ragged", ("cu_q", "cu_k"), ("Tq Hq D", "Tk Hkv D", "Tk Hkv Dv")),
    "paged": Layout(
        "paged", "flash_paged", ("block_table", "lengths"), ("B M Hq D", "slots page Hkv D", "slots page Hkv Dv")
    ),
}
