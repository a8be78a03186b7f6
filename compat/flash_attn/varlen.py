"""Sequences that lie end to end: what cu_seqlens must be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...ir.errors import ShapeError
from .checks import check_integers, values_of

__all__ = ["Packed", "check_packed"]


@dataclass(frozen=True, slots=True)
class Packed:
    """Where sequences start and end among the queries and among the keys: cu_seqlens as numbers."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]


def check_packed(
    caller: str, tensors: Sequence[Tensor], cu_seqlens: Sequence[Any], longest: Sequence[Any], is_paged: bool
) -> Packed:
    """Refuse cu_seqlens_q and cu_seqlens_k that do not describe the tokens of q and k (is_paged: k is a pool of pages).

    longest: max_seqlen_q and max_seqlen_k, at least the longest sequence's length. Raises TypeError, DTypeError,
    DeviceError or ShapeError.
    """
    found = []
    for side, tensor, cu in zip("qk", tensors, cu_seqlens, strict=True):
        name = f"{caller}: cu_seqlens_{side}"
        check_integers(name, cu, (None,), tensor.device)
        found.append(_starts(name, values_of(cu), None if is_paged and side == "k" else tensor.shape[0]))
    if len(found[0]) != len(found[1]):
        raise ShapeError(
            f"{caller}: cu_seqlens_q has {len(found[0])} entries and cu_seqlens_k {len(found[1])}; wanted one more "
            "than the batch has sequences in both"
        )
    for side, starts, most in zip("qk", found, longest, strict=True):
        _check_longest(f"{caller}: max_seqlen_{side}", starts, most)
    return Packed(*found)


def _starts(name: str, values: list[int], total: int | None) -> tuple[int, ...]:
    if not values or values[0] != 0:
        raise ShapeError(
            f"{name}: starts at {values[0] if values else 'nothing'}; wanted 0 first, then where each ends"
        )
    for position, (before, after) in enumerate(itertools.pairwise(values), 1):
        if after < before:
            raise ShapeError(f"{name}: does not ascend: {before}, then {after} at position {position}")
    if total is not None and values[-1] > total:
        raise ShapeError(f"{name}: ends at {values[-1]}, beyond the {total} tokens of the tensor")
    return tuple(values)


def _check_longest(name: str, starts: tuple[int, ...], most: Any) -> None:
    if isinstance(most, bool) or not isinstance(most, (int, Tensor)):
        raise TypeError(f"{name} is a {type(most).__name__}; wanted an integer")
    longest = max((after - before for before, after in itertools.pairwise(starts)), default=0)
    if int(most) < longest:
        raise ShapeError(f"{name}={int(most)}: the longest sequence has {longest} tokens; wanted at least that")
