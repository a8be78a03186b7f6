"""Blocks of a mask: counting those that a mask_mod keeps, and a mask_mod of those that are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention as peer

from ...ir.errors import ShapeError
from ...kernels.modifiers import Modifier, mapped

__all__ = ["BLOCK_TENSORS", "Layout", "count_blocks", "kept_by_blocks"]

BLOCK_TENSORS = (
    "kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices",
    "full_q_num_blocks", "full_q_indices", "dq_write_order", "dq_write_order_full", "dq_kv_order",
)  # fmt: skip
CHUNK = 1 << 22  # elements of a mask that are looked at together


@dataclass(frozen=True, slots=True)
class Layout:
    """Lengths of queries and keys, and how they are cut into blocks."""

    lengths: tuple[int, int]
    block: tuple[int, int]
    separate_full: bool = True

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks along queries and along keys."""
        (rows, columns), (tall, wide) = self.lengths, self.block
        return -(-rows // tall), -(-columns // wide)


def count_blocks(mask_mod: Modifier, batch: tuple[int, ...], layout: Layout, device: torch.device) -> dict[str, Any]:
    """The tensors of PyTorch's BlockMask, a few rows of blocks at a time; memory stays below a few CHUNKs."""
    tall, wide = layout.block
    rows, columns = layout.lengths
    step = max(1, CHUNK // max(1, batch[0] * batch[1] * tall * columns))
    kept = []
    for first in range(0, layout.grid[0], step):
        queries = torch.arange(first * tall, min((first + step) * tall, rows), device=device)
        index = [torch.arange(size, device=device) for size in batch]
        mask = mapped(mask_mod, [*index, queries, torch.arange(columns, device=device)])
        mask = F.pad(mask, (0, -columns % wide, 0, -len(queries) % tall))
        kept.append(mask.reshape(*batch, -1, tall, layout.grid[1], wide).sum((-3, -1)))
    counts = torch.cat(kept, dim=2) if kept else torch.zeros(*batch, *layout.grid, dtype=torch.int64, device=device)
    full = (counts == tall * wide) & layout.separate_full
    partial = _ordered((counts > 0) & ~full)
    whole = _ordered(full) if layout.separate_full else (None, None)
    made = peer.BlockMask.from_kv_blocks(
        partial[0], partial[1], whole[0], whole[1],
        BLOCK_SIZE=layout.block, mask_mod=mask_mod, seq_lengths=layout.lengths,
    )  # fmt: skip
    return {name: getattr(made, name) for name in BLOCK_TENSORS}


def _ordered(dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of blocks per row, and their columns in ascending order before the others."""
    order = torch.argsort(dense.to(torch.int8), dim=-1, descending=True, stable=True)
    return dense.sum(-1, dtype=torch.int32), order.to(torch.int32)


def kept_by_blocks(mask: peer.BlockMask) -> Modifier:
    """A mask_mod of what the mask's blocks and its own mask_mod keep; full blocks are kept whatever the latter says.

    Raises ShapeError for blocks outside the lengths.
    """
    tall, wide = mask.BLOCK_SIZE
    grid = Layout(mask.seq_lengths, (tall, wide)).grid
    partial = _dense("kv", mask.kv_num_blocks, mask.kv_indices, grid)
    batch, heads = (min(size - 1, 1) for size in partial.shape[:2])  # 0 where one serves all
    mask_mod: Modifier = mask.mask_mod

    def keep(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return partial[b * batch, h * heads, q_idx // tall, kv_idx // wide] & mask_mod(b, h, q_idx, kv_idx)

    if mask.full_kv_num_blocks is None or mask.full_kv_indices is None:
        return keep
    full = _dense("full_kv", mask.full_kv_num_blocks, mask.full_kv_indices, grid)

    def keep_or_full(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return full[b * batch, h * heads, q_idx // tall, kv_idx // wide] | keep(b, h, q_idx, kv_idx)

    return keep_or_full


def _dense(name: str, counts: torch.Tensor, columns: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """[B, H, rows, columns] of blocks: True where one is listed."""
    counts, columns = (x[(None,) * (n - x.dim())] for n, x in ((3, counts), (4, columns)))
    listed = torch.arange(columns.shape[-1], device=columns.device) < counts[..., None]
    used = columns[listed]
    if columns.shape[:3] != counts.shape or columns.shape[2] != grid[0]:
        raise ShapeError(
            f"{name}_num_blocks has shape {tuple(counts.shape)} and {name}_indices {tuple(columns.shape)}; "
            f"wanted [B, H, {grid[0]}] and [B, H, {grid[0]}, blocks] for these lengths"
        )
    if used.numel() and not (int(used.min()) >= 0 and int(used.max()) < grid[1]):
        raise ShapeError(
            f"{name}_indices: names blocks {int(used.min())}..{int(used.max())}, and there are {grid[1]} along the keys"
        )
    dense = torch.zeros(*columns.shape[:3], grid[1] + 1, dtype=torch.bool, device=columns.device)
    dense.scatter_(-1, torch.where(listed, columns, grid[1]).long(), True)
    return dense[..., : grid[1]].contiguous()
