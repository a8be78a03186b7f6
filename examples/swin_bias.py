"""Swin's window attention: a learned bias looked up by a table of relative positions in an 8 x 8 window."""

import torch
from torch import Tensor

SIDE = 8


def swin_bias(q: Tensor, k: Tensor, v: Tensor, table: Tensor, position: Tensor) -> Tensor:
    """q, k, v [windows, H, 64, D], table [225, H], position [64, 64] (rows of the table) -> o [windows, H, 64, D]."""
    bias = table[position.view(-1)].view(position.shape[0], position.shape[1], -1).permute(2, 0, 1)
    return torch.softmax(q * q.shape[-1] ** -0.5 @ k.mT + bias.unsqueeze(0), dim=-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors and the window's relative positions."""
    y, x = torch.arange(SIDE * SIDE) // SIDE, torch.arange(SIDE * SIDE) % SIDE
    width = 2 * SIDE - 1
    position = (y[:, None] - y[None, :] + SIDE - 1) * width + x[:, None] - x[None, :] + SIDE - 1
    table = torch.randn(width * width, 4)
    return torch.randn(6, 4, 64, 32), torch.randn(6, 4, 64, 32), torch.randn(6, 4, 64, 32), table, position
