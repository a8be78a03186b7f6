"""Masks that are measured, each a predicate on positions that both a plain PyTorch function and FlexAttention use.

Constants fit the suite's sequences of 2048 positions; captured tensors have no batch dim, as a case has one sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .variants import Captured, MaskMod, Variant

__all__ = ["MASKS"]

WINDOW, STEP, FIRST, BLOCK, PREFIX = 512, 4, 64, 128, 512
WIDTH, REACH = 64, 7  # an image's row, and how far a pixel sees
SEED = 7

Mask = Callable[..., Tensor]  # (i, j, *captured) -> bool, on tensors that broadcast


def _captures_nothing(heads: int, length: int, device: torch.device) -> Captured:
    del heads, length, device
    return ()


def _dilated(i: Tensor, j: Tensor) -> Tensor:
    return (j <= i) & (i - j < WINDOW) & ((i - j) % STEP == 0)


def _neighbourhood(i: Tensor, j: Tensor) -> Tensor:
    rows, columns = i // WIDTH - j // WIDTH, i % WIDTH - j % WIDTH
    return (rows.abs() <= REACH) & (columns.abs() <= REACH)


def _block_causal(i: Tensor, j: Tensor) -> Tensor:
    return j // BLOCK <= i // BLOCK


def _global_window(i: Tensor, j: Tensor) -> Tensor:
    return (j <= i) & ((i - j < WINDOW) | (j < FIRST))


def _prefix(i: Tensor, j: Tensor, prefix: Tensor) -> Tensor:
    return (j <= i) | (j < prefix)


def _prefix_length(heads: int, length: int, device: torch.device) -> Captured:
    return (torch.tensor(min(PREFIX, length // 2), device=device),)


def _share_question(i: Tensor, j: Tensor, part: Tensor) -> Tensor:
    return (j <= i) & ((part[j] == 0) | (part[i] == part[j]))


def _question_and_answers(heads: int, length: int, device: torch.device) -> Captured:
    """A question of a quarter of the sequence, and three answers."""
    return (torch.arange(length, device=device) * 4 // length,)


def _tree(i: Tensor, j: Tensor, first: Tensor, last: Tensor) -> Tensor:
    return (j <= i) & (first[j] <= first[i]) & (last[i] <= last[j])


def _binary_tree(heads: int, length: int, device: torch.device) -> Captured:
    """When a walk enters and leaves the nodes of a tree in which every node has two children."""
    parents = [max(0, (node - 1) // 2) for node in range(length)]
    size = [1] * length
    for node in range(length - 1, 0, -1):
        size[parents[node]] += size[node]
    first, taken = [0] * length, [1] * length
    for node in range(1, length):
        parent = parents[node]
        first[node] = first[parent] + taken[parent]
        taken[parent] += size[node]
    last = [start + count - 1 for start, count in zip(first, size, strict=True)]
    return torch.tensor(first, device=device), torch.tensor(last, device=device)


def _packed(i: Tensor, j: Tensor, words: Tensor) -> Tensor:
    return (words[i, j // 32] >> (j % 32)) & 1 == 1


def _random_words(heads: int, length: int, device: torch.device) -> Captured:
    """Three pairs of four at random, the lower triangle only; 32 to a word."""
    generator = torch.Generator().manual_seed(SEED)
    keep = (torch.rand(length, length, generator=generator) < 0.75).tril_()
    keep.fill_diagonal_(True)
    words = (keep.view(length, -1, 32).long() << torch.arange(32)).sum(-1).to(torch.int32)
    return (words.to(device),)


def _block_sparse(i: Tensor, j: Tensor, blocks: Tensor) -> Tensor:
    return blocks[i // BLOCK, j // BLOCK]


def _random_blocks(heads: int, length: int, device: torch.device) -> Captured:
    """The diagonal blocks and a quarter of the others."""
    generator = torch.Generator().manual_seed(SEED)
    count = -(-length // BLOCK)
    blocks = (torch.rand(count, count, generator=generator) < 0.25) | torch.eye(count, dtype=torch.bool)
    return (blocks.to(device),)


def _masked(mask: Mask) -> Callable[..., Tensor]:
    """The plain function: softmax over what the mask keeps."""

    def spec(q: Tensor, k: Tensor, v: Tensor, *captured: Tensor) -> Tensor:
        i = torch.arange(q.shape[2], device=q.device)[:, None]
        j = torch.arange(k.shape[2], device=q.device)
        scores: Tensor = q @ k.mT * q.shape[-1] ** -0.5
        return scores.masked_fill(~mask(i, j, *captured), float("-inf")).softmax(-1) @ v

    return spec


def _mask_mod(mask: Mask) -> Callable[..., MaskMod]:
    return lambda *captured: lambda b, h, i, j: mask(i, j, *captured)


def _variant(name: str, mask: Mask, captured: Callable[..., Captured] = _captures_nothing) -> Variant:
    @functools.cache
    def pairs(m: int, n: int) -> int:
        i, j = torch.arange(m)[:, None], torch.arange(n)
        return int(mask(i, j, *captured(1, n, torch.device("cpu"))).sum())

    return Variant(name, _masked(mask), pairs, captured=captured, mask_mod=_mask_mod(mask))


MASKS = (
    _variant("dilated", _dilated),
    _variant("neighbourhood", _neighbourhood),
    _variant("block-causal", _block_causal),
    _variant("global-window", _global_window),
    _variant("prefix", _prefix, _prefix_length),
    _variant("share-question", _share_question, _question_and_answers),
    _variant("tree", _tree, _binary_tree),
    _variant("packed-mask", _packed, _random_words),
    _variant("block-sparse", _block_sparse, _random_blocks),
)
