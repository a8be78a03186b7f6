"""Block masks: symbolic, sliced, made of blocks, PyTorch's own; and that one kernel serves all lengths."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention as peer

import tilewright as tw
from tilewright.compat import flex_attention as ours
from tilewright.kernels import specialisers

from .flex_gallery import GALLERY, causal

HEADS, WIDTH = 2, 16
BLOCKS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices",
          "full_q_num_blocks", "full_q_indices")  # fmt: skip


def qkv(rows: int, columns: int, batch: int = 1, heads: int = HEADS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    shapes = ((batch, heads, rows, WIDTH), (batch, heads, columns, WIDTH), (batch, heads, columns, WIDTH))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def expected(tensors: list[torch.Tensor], keep: torch.Tensor) -> torch.Tensor:
    """Attention in fp64 under a dense mask; zero where a row keeps nothing."""
    q, k, v = (x.double() for x in tensors)
    scores = (q @ k.transpose(-1, -2) / WIDTH**0.5).masked_fill(~keep, -torch.inf)
    return torch.nan_to_num(torch.softmax(scores, -1)) @ v


def assert_close(o: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(o.double(), wanted, rtol=1e-5, atol=1e-5)


def blocks(grid: tuple[int, ...], density: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A dense table of blocks, and it as PyTorch's pair of counts and indices."""
    table = torch.rand(grid, generator=torch.Generator().manual_seed(seed)) < density
    order = torch.argsort(table.int(), dim=-1, descending=True, stable=True)
    return table, table.sum(-1).int(), order.int()


def spread(table: torch.Tensor, size: int, rows: int, columns: int) -> torch.Tensor:
    return table.repeat_interleave(size, -2).repeat_interleave(size, -1)[..., :rows, :columns]


def test_a_mask_is_not_computed() -> None:
    """Lengths for which a mask would not fit in memory; the callable sees one index."""
    seen: list[int] = []

    def mask_mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        seen.append(q_idx.numel() * kv_idx.numel())
        return q_idx >= kv_idx

    mask = ours.create_block_mask(mask_mod, None, None, 1 << 30, 1 << 30, device="cpu")
    assert mask.shape == (1, 1, 1 << 30, 1 << 30)
    assert seen == [1]
    assert mask.mask_mod is mask_mod
    assert mask.is_symbolic


@pytest.mark.parametrize("name", [n for n in GALLERY if GALLERY[n](40, 50)[1] is not None])
@pytest.mark.parametrize("size", [16, (8, 32)])
def test_blocks_are_those_of_pytorch(name: str, size: Any) -> None:
    mask_mod = GALLERY[name](40, 50)[1]
    assert mask_mod is not None
    ours_, theirs = (
        package.create_block_mask(mask_mod, 2, 4, 40, 50, device="cpu", BLOCK_SIZE=size) for package in (ours, peer)
    )
    for attribute in BLOCKS:
        assert torch.equal(getattr(ours_, attribute), getattr(theirs, attribute)), attribute
    assert ours_.sparsity() == theirs.sparsity()
    assert torch.equal(ours_.to_dense(), theirs.to_dense())
    assert str(ours_) == str(theirs)
    assert ours_.shape == theirs.shape


def test_all_blocks_are_partial_when_full_ones_are_not_separate() -> None:
    masks = [
        package.create_block_mask(causal, 1, 1, 40, 40, device="cpu", BLOCK_SIZE=8, separate_full_blocks=False)
        for package in (ours, peer)
    ]
    assert masks[0].full_kv_num_blocks is None
    assert torch.equal(masks[0].kv_num_blocks, masks[1].kv_num_blocks)


def test_slices_and_other_lengths() -> None:
    whole = ours.create_block_mask(causal, 2, 2, 64, 64, device="cpu", BLOCK_SIZE=16)
    theirs = peer.create_block_mask(causal, 2, 2, 64, 64, device="cpu", BLOCK_SIZE=16)
    part = whole[0:1, :, torch.tensor([2])]
    assert part.shape == (1, 2, 64, 64)
    assert torch.equal(part.kv_num_blocks, theirs[0:1, :, torch.tensor([2])].kv_num_blocks)
    q, k, v = qkv(1, 64, batch=2)
    with pytest.raises(tw.UnsupportedSpec, match="a slice of a BlockMask has no mask_mod"):
        ours.flex_attention(q, k, v, block_mask=part)
    with pytest.raises(tw.UnsupportedSpec, match="a slice of a BlockMask has no mask_mod"):
        ours.flex_attention(q, k, v, block_mask=theirs[:, :, 2])

    row = whole[:, :, 2]
    row.mask_mod = lambda b, h, q_idx, kv_idx: causal(b, h, q_idx + 40, kv_idx)
    row.seq_lengths = (1, 64)
    assert_close(ours.flex_attention(q, k, v, block_mask=row), expected([q, k, v], torch.arange(64) <= 40))

    corner = whole._adjust(20, 33)
    assert corner.shape == (2, 2, 20, 33)
    tensors = qkv(20, 33, batch=2)
    keep = torch.arange(33)[None, :] <= torch.arange(20)[:, None]
    assert_close(ours.flex_attention(*tensors, block_mask=corner), expected(tensors, keep))
    assert corner.to("cpu").kv_indices.shape == (2, 2, 2, 3)


@pytest.mark.parametrize("package", [ours, peer], ids=["ours", "torch"])
@pytest.mark.parametrize("size", [16, 24, 128])
def test_user_made_blocks(package: Any, size: int) -> None:
    rows, columns = 5 * size - 3, 4 * size
    table, counts, indices = blocks((2, 1, 5, 4), 0.4)
    full, full_counts, full_indices = blocks((2, 1, 5, 4), 0.2, seed=1)
    lengths = (rows, columns)
    tensors = qkv(rows, columns, batch=2)
    mask = package.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=size, seq_lengths=lengths)
    keep = spread(table, size, *lengths)
    assert_close(ours.flex_attention(*tensors, block_mask=mask), expected(tensors, keep))
    mask = package.BlockMask.from_kv_blocks(
        counts, indices, full_counts, full_indices, BLOCK_SIZE=size, mask_mod=causal, seq_lengths=lengths
    )
    keep = keep & (torch.arange(columns)[None, :] <= torch.arange(rows)[:, None]) | spread(full, size, *lengths)
    assert_close(ours.flex_attention(*tensors, block_mask=mask), expected(tensors, keep))


def test_blocks_that_change_are_read_anew() -> None:
    tensors = qkv(32, 32)
    _, counts, indices = blocks((1, 1, 2, 2), 2.0)
    mask = ours.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=16)
    everything = ours.flex_attention(*tensors, block_mask=mask)
    counts[0, 0, 0] = 1
    keep = spread(torch.tensor([[True, False], [True, True]]), 16, 32, 32)
    changed = ours.flex_attention(*tensors, block_mask=mask)
    assert not torch.equal(changed, everything)
    assert_close(changed, expected(tensors, keep))


def test_blocks_outside_the_lengths() -> None:
    tensors = qkv(32, 32)
    _, counts, indices = blocks((1, 1, 2, 2), 2.0)
    mask = ours.BlockMask.from_kv_blocks(counts, indices + 1, BLOCK_SIZE=16, compute_q_blocks=False)
    with pytest.raises(tw.ShapeError, match=r"kv_indices: names blocks 1\.\.2, and there are 2 along the keys"):
        ours.flex_attention(*tensors, block_mask=mask)
    mask = ours.BlockMask.from_kv_blocks(counts[:, :, :1], indices[:, :, :1], BLOCK_SIZE=16, seq_lengths=(32, 32))
    with pytest.raises(tw.ShapeError, match=r"kv_num_blocks has shape \(1, 1, 1\) .* wanted \[B, H, 2\]"):
        ours.flex_attention(*tensors, block_mask=mask)


def test_one_kernel_for_all_lengths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fifty calls with other B, H, M, N and other values; one trace, one build."""
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path))
    traces: list[object] = []
    original = specialisers.trace

    def counting(*args: Any) -> Any:
        traces.append(args)
        return original(*args)

    monkeypatch.setattr(specialisers, "trace", counting)
    numbers = random.Random(0)
    for _ in range(50):
        batch, heads, rows, columns = (numbers.randint(1, most) for most in (3, 4, 300, 300))
        rows = max(rows, 65)
        ids = torch.arange(batch * max(rows, columns)).reshape(batch, -1) // numbers.randint(7, 90)
        slopes = torch.rand(heads)
        mask = ours.create_block_mask(
            lambda b, h, i, j, ids=ids: ids[b, i] == ids[b, j], batch, heads, rows, columns, device="cpu"
        )
        tensors = qkv(rows, columns, batch, heads)
        o = ours.flex_attention(*tensors, lambda s, b, h, i, j, t=slopes: s * t[h], mask)
        keep = (ids[:, :rows, None] == ids[:, None, :columns])[:, None]
        q, k, v = tensors
        assert_close(o, expected([q * slopes[:, None, None], k, v], keep))
    assert len(traces) == 1
    assert len(list(tmp_path.rglob("*.so"))) == 1


def test_empty_blocks_cost_nothing() -> None:
    """Tiles of empty blocks are not visited: NaN keys and values there do not show."""
    table, counts, indices = blocks((1, 1, 4, 4), 0.0)
    table[..., 1], counts[:], indices[..., 0] = True, 1, 1
    q, k, v = qkv(512, 512)
    k[:, :, :128], v[:, :, 256:] = float("nan"), float("nan")
    mask = ours.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=128)
    wanted = expected([q, k[:, :, 128:256], v[:, :, 128:256]], torch.tensor(True))
    assert_close(ours.flex_attention(q, k, v, block_mask=mask), wanted)
