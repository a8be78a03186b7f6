"""Tree attention by intervals: a node sees its ancestors, whose intervals of a walk around the tree enclose its own.

Two numbers a node, however large the tree; parents come before their children.
"""

import torch
from torch import Tensor


def euler_tree(q: Tensor, k: Tensor, v: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """q, k and v [B, H, M, D], first and last [M] (when the walk enters and leaves a node) -> o [B, H, M, D]."""
    position = torch.arange(q.shape[2], device=q.device)
    is_above = (first[None, :] <= first[:, None]) & (last[:, None] <= last[None, :])
    keep = is_above & (position[None, :] <= position[:, None])  # which follows, and bounds the loops
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~keep, float("-inf")).softmax(-1) @ v


def walk(parents: list[int]) -> tuple[Tensor, Tensor]:
    """When a depth-first walk enters and leaves each node of a tree, from the parent of each node."""
    size = [1] * len(parents)
    for node in range(len(parents) - 1, 0, -1):
        size[parents[node]] += size[node]
    first, taken = [0] * len(parents), [1] * len(parents)
    for node in range(1, len(parents)):
        parent = parents[node]
        first[node] = first[parent] + taken[parent]
        taken[parent] += size[node]
    return torch.tensor(first), torch.tensor([start + length - 1 for start, length in zip(first, size, strict=True)])


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; a tree in which every node has two children."""
    parents = [max(0, (node - 1) // 2) for node in range(64)]
    return torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64), *walk(parents)
