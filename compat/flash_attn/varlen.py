"""Sequences that lie end to end: cu_seqlens checked, and turned into what each row of tokens may see.

Row i of sequence s, with Mq queries and Nk keys, lies on the diagonal at key start_k + (i - start_q) + Nk - Mq of the
row of all keys. Its window around that, cut to the sequence's own keys, is the range first <= j < last. No token is
copied, nothing is padded, and the kernel's loops skip what no row of a tile sees.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ir.errors import ShapeError
from .checks import check_integers, values_of
from .forms import Options

__all__ = ["Packed", "check_packed", "tables_of"]

MAX_REMEMBERED = 16  # batches whose tables are kept: the layers of a model share one


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


def tables_of(packed: Packed, total: int, options: Options, device: torch.device) -> dict[str, Tensor]:
    """The captured tables of form `rows`: first and last, with slopes two more; an entry a row, and one.

    total: rows of q; those after the last sequence see nothing.
    """
    first, last, diagonal, sequence = _ranges(packed, total, options.window, device)
    tables = {"first": first, "last": last}
    if options.slopes is None:
        return tables
    slopes = options.slopes
    by_row = slopes.expand(total + 1, -1) if slopes.dim() == 1 else slopes.index_select(0, sequence)
    return tables | {"diagonal": diagonal, "slopes": by_row}


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def _ranges(
    packed: Packed, total: int, window: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per row: first and last key (the latter excluded), key on the diagonal, number of the sequence."""
    with torch.inference_mode(False):
        queries, keys = (torch.tensor(starts, dtype=torch.int64) for starts in (packed.queries, packed.keys))
        lengths = queries.diff()
        sequence = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        row = torch.arange(len(sequence))
        start, end = keys[:-1][sequence], keys[1:][sequence]
        diagonal = row - queries[1:][sequence] + end
        first = torch.maximum(start, diagonal - window[0])
        last = torch.minimum(end, diagonal + window[1] + 1)
        rest = total + 1 - len(sequence)
        padded = (torch.nn.functional.pad(table, (0, rest)) for table in (first, last, diagonal))
        of_rows = [table.to(device, torch.int32) for table in padded]
        number = torch.nn.functional.pad(sequence, (0, rest)).to(device)
        return of_rows[0], of_rows[1], of_rows[2], number
