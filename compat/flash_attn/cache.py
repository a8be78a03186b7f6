"""`flash_attn_with_kvcache`: append new keys and values to a cache in place, then attend to it.

Everything is checked before the cache is written. Sequences of one length run on the dense kernel over a view of the
cache, others with the cache as pages; what it has room for beyond its sequences costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ir.errors import ShapeError, UnsupportedSpec
from ...kernels.torch_ops import is_recorded
from .checks import Sequences, check_integers, check_tensors, options_of, values_of
from .forms import Options, attend
from .pages import check_pages, places
from .rotary import Rotary, rotary_of

__all__ = ["flash_attn_with_kvcache"]

CALLER = "flash_attn_with_kvcache"


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache whose lengths and tables have been checked.

    k, v [batch, length, Hkv, D], or [pages, page_size, Hkv, D] with block_table. lengths: of the sequences
    before anything is appended; length_table: the same on k's device, [batch]. first: where each starts. rows:
    which of the cache's rows they are.
    """

    k: Tensor
    v: Tensor
    lengths: tuple[int, ...]
    length_table: Tensor
    first: Tensor | None
    rows: Tensor | None
    block_table: Tensor | None

    def append(self, k: Tensor, v: Tensor) -> None:
        """Write new keys and values [batch, new, Hkv, D] behind each sequence, in place."""
        new = k.shape[1]
        positions = self.length_table[:, None] + torch.arange(new, device=k.device)[None, :]
        batch = torch.arange(k.shape[0], device=k.device)[:, None]
        if self.block_table is not None:
            place = places(self.block_table, batch, positions, self.k.shape[1])
        else:
            place = (batch if self.rows is None else self.rows.long()[:, None]), positions
        self.k[place] = k.detach()
        self.v[place] = v.detach()

    def pages(self) -> Tensor:
        """Which page holds which part of each sequence: a cache without pages is one page a row."""
        if self.block_table is not None:
            return self.block_table
        rows = torch.arange(len(self.lengths), device=self.k.device) if self.rows is None else self.rows
        return rows[:, None]


@torch.compiler.disable(reason=f"{CALLER} changes its cache in place")  # type: ignore[no-untyped-call, untyped-decorator]
def flash_attn_with_kvcache(  # noqa: PLR0913 - flash-attn's signature
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """q [B, M, Hq, D] on caches [B, S, Hkv, D] -> o [B, M, Hq, Dv] (and lse [B, Hq, M], natural logarithm).

    k, v [B, new, Hkv, D]: written into the cache at cache_seqlens, in place, and attended to. cache_seqlens: an
    integer or [B]; all of the cache when None. cache_batch_idx [B]: which rows of the cache. cache_leftpad [B]:
    where sequences start. block_table [B, pages]: the caches are pages [pages, page_size, Hkv, D], of any page
    size. rotary_cos, rotary_sin [positions, rotated / 2] turn q and k first. num_splits is taken and ignored: how
    work is split depends on the shapes alone, so that bits never depend on the batch. Errors as in
    flash_attn_func; where one is raised, nothing has been written.
    """
    if is_recorded():
        raise UnsupportedSpec(
            f"{CALLER} changes its cache in place, so it cannot be part of a recorded graph",
            hint="call it from a function under torch.compiler.disable",
        )
    named = (("k_cache", k_cache), ("v_cache", v_cache), ("k", k), ("v", v))
    sizes = _check_shapes(q, named, cache_batch_idx is not None, block_table is not None)
    of = Sequences(CALLER, sizes["B"], sizes["Hq"], sizes["D"], q.device)
    options = options_of(of, softmax_scale, causal, window_size, softcap, alibi_slopes)
    lengths, length_table = _lengths(cache_seqlens, q, k is not None, _room(k_cache, block_table))
    cache = Cache(k_cache, v_cache, lengths, length_table, cache_leftpad, cache_batch_idx, block_table)
    new = 0 if k is None else k.shape[1]
    _check_values(cache, new)
    rotary = rotary_of(CALLER, q, rotary_cos, rotary_sin, rotary_interleaved)
    if rotary is not None:
        q, k = _rotated(rotary, (q, k), cache, options.is_banded)
    if k is not None and v is not None:
        cache.append(k, v)
    found, lse = _attend(cache, q, new, options, return_softmax_lse)
    return (found, lse) if lse is not None and return_softmax_lse else found


def _check_shapes(
    q: Tensor, named: Sequence[tuple[str, Tensor | None]], is_indexed: bool, is_paged: bool
) -> dict[str, int]:
    """Refuse tensors that do not fit each other; the sizes by name."""
    given = dict(named)
    if (given["k"] is None) != (given["v"] is None):
        raise TypeError(f"{CALLER}: k and v are appended together; got {'v' if given['k'] is None else 'k'} alone")
    if is_indexed and is_paged:
        raise UnsupportedSpec(
            f"{CALLER}: cache_batch_idx with block_table; wanted block_table[cache_batch_idx] instead"
        )
    cached = "pages page_size" if is_paged else "rows S" if is_indexed else "B S"
    dims = {"k_cache": f"{cached} Hkv D", "v_cache": f"{cached} Hkv Dv", "k": "B new Hkv D", "v": "B new Hkv Dv"}
    rows = [(name, tensor, dims[name]) for name, tensor in named if tensor is not None]
    return check_tensors(CALLER, (("q", q, "B M Hq D"), *rows))


def _room(k_cache: Tensor, block_table: Any) -> int:
    """Positions that a sequence can have."""
    if block_table is None:
        return k_cache.shape[1]
    check_integers(f"{CALLER}: block_table", block_table, (None, None), k_cache.device)
    return int(k_cache.shape[1] * block_table.shape[1])


def _lengths(cache_seqlens: Any, q: Tensor, is_appending: bool, room: int) -> tuple[tuple[int, ...], Tensor]:
    """The sequences' lengths before anything is appended, as numbers and on q's device."""
    batch, name = q.shape[0], f"{CALLER}: cache_seqlens"
    if cache_seqlens is None:
        if is_appending:
            raise TypeError(f"{name} is None, but k is given; wanted where to append: an integer or a tensor [B]")
        cache_seqlens = room
    if isinstance(cache_seqlens, int) and not isinstance(cache_seqlens, bool):
        table = torch.full((batch,), cache_seqlens, dtype=torch.int64, device=q.device)
        return (cache_seqlens,) * batch, table
    check_integers(name, cache_seqlens, (batch,), q.device)
    return tuple(values_of(cache_seqlens)), cache_seqlens


def _check_values(cache: Cache, new: int) -> None:
    """Refuse lengths, starts, rows and pages outside the cache."""
    batch, device, room = len(cache.lengths), cache.k.device, _room(cache.k, cache.block_table)
    totals = [length + new for length in cache.lengths]
    for row, total in enumerate(totals):
        if not new <= total <= room:
            raise ShapeError(
                f"{CALLER}: cache_seqlens: sequence {row} has length {total - new} and {new} new tokens; the cache has "
                f"room for {room}"
            )
    if cache.block_table is not None:
        check_pages(f"{CALLER}: block_table", cache.block_table, totals, cache.k)
    limits = {"cache_batch_idx": (cache.rows, [cache.k.shape[0] - 1] * batch), "cache_leftpad": (cache.first, totals)}
    for name, (table, most) in limits.items():
        if table is None:
            continue
        check_integers(f"{CALLER}: {name}", table, (batch,), device)
        for row, (value, limit) in enumerate(zip(values_of(table), most, strict=True)):
            if not 0 <= value <= limit:
                raise ShapeError(f"{CALLER}: {name}: {value} for sequence {row}; wanted 0 to {limit}")


def _rotated(
    rotary: Rotary, tensors: tuple[Tensor, Tensor | None], cache: Cache, is_banded: bool
) -> tuple[Tensor, Tensor]:
    """q and k turned by their positions; without a window every query stands at the cache's end, as in flash-attn."""
    q, k = tensors
    if k is None:
        raise UnsupportedSpec(f"{CALLER}: rotary_cos without k; wanted k and v too, or q rotated beforehand")
    needed = max(cache.lengths, default=0) + max(k.shape[1], q.shape[1] if is_banded else 1)
    if needed > rotary.cos.shape[0]:
        raise ShapeError(f"{CALLER}: rotary_cos: {rotary.cos.shape[0]} positions; the longest sequence needs {needed}")
    start = cache.length_table.long()[:, None]
    steps = torch.arange(max(q.shape[1], k.shape[1]), device=q.device)[None, :]
    of_q = start + (steps[:, : q.shape[1]] if is_banded else steps.new_zeros(1, q.shape[1]))
    return rotary.rotate(q, of_q), rotary.rotate(k, start + steps[:, : k.shape[1]])


def _attend(cache: Cache, q: Tensor, new: int, options: Options, return_lse: bool) -> tuple[Tensor, Tensor | None]:
    """Attend to the cache, `new` tokens longer than its lengths say."""
    tables = options.tables(len(cache.lengths), q.device)
    if cache.first is None and cache.rows is None and cache.block_table is None and len(set(cache.lengths)) == 1:
        o = q.new_empty((*q.shape[:3], cache.v.shape[3]))
        k, v = (cached[:, : cache.lengths[0] + new] for cached in (cache.k, cache.v))
        moved = tuple(tensor.transpose(1, 2) for tensor in (q, k, v))
        return o, attend("dense", moved, tables, options, return_lse=return_lse, out=o.transpose(1, 2))[1]
    if cache.first is not None:
        tables["first"] = torch.cat((cache.first, cache.first[:1])).to(torch.int32)
    lengths = cache.length_table + new
    return attend("paged", (q, cache.k, cache.v), tables, options, block_table=cache.pages(), lengths=lengths)
