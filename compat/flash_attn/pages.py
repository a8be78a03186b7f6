"""Keys and values in pages: which page of the pool holds which part of a sequence, checked, read and written.

Position t of sequence b is row t % page_size of page block_table[b, t // page_size].
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ir.errors import ShapeError
from .checks import check_integers, values_of

__all__ = ["check_pages", "packed_pages", "places"]


def check_pages(name: str, block_table: Any, lengths: Sequence[int], pool: Tensor) -> None:
    """Refuse a block table [batch, pages] whose used entries lie outside the pool [pages, page_size, Hkv, D].

    lengths: of the sequences, as they will be. Entries beyond a sequence's end may hold anything.
    """
    check_integers(name, block_table, (len(lengths), None), pool.device)
    page_size, columns = pool.shape[1], block_table.shape[1]
    for row, (pages, length) in enumerate(zip(values_of(block_table), lengths, strict=True)):
        used = -(-length // page_size) if length else 0
        if used > columns:
            raise ShapeError(
                f"{name}: sequence {row} has {length} tokens, {used} pages of {page_size}; the table has {columns}"
            )
        outside = [page for page in pages[:used] if not 0 <= page < pool.shape[0]]
        if outside:
            raise ShapeError(
                f"{name}: page {outside[0]} of sequence {row} is outside the cache of {pool.shape[0]} pages"
            )


def places(block_table: Tensor, rows: Tensor, positions: Tensor, page_size: int) -> tuple[Tensor, Tensor]:
    """Page and row in the page of each position of sequences `rows` (broadcasting against positions)."""
    return block_table[rows, positions // page_size].long(), positions % page_size


def packed_pages(caller: str, k: Tensor, v: Tensor, starts: Sequence[int], block_table: Any) -> tuple[Tensor, Tensor]:
    """Keys and values of sequences that start at `starts`, copied out of the pool end to end: [tokens, Hkv, D]."""
    lengths = [after - before for before, after in itertools.pairwise(starts)]
    check_pages(f"{caller}: block_table", block_table, lengths, k)
    counts = torch.tensor(lengths)
    rows = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    positions = torch.arange(len(rows)) - torch.tensor(starts[:-1], dtype=torch.int64)[rows]
    place = places(block_table, rows.to(k.device), positions.to(k.device), k.shape[1])
    return k[place], v[place]
