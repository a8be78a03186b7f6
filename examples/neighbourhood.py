"""Neighbourhood attention (Hassani et al., 2023) in two dimensions: a pixel sees those within 3 rows and columns."""

import torch
from torch import Tensor

WIDTH, REACH = 16, 3  # pixels of an image's row; the images may have any height


def neighbourhood(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k and v [B, H, pixels, D], row by row of the image -> o [B, H, pixels, D]."""
    pixel = torch.arange(q.shape[2], device=q.device)
    y, x = pixel // WIDTH, pixel % WIDTH
    rows, columns = (y[:, None] - y[None, :]).abs(), (x[:, None] - x[None, :]).abs()
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill((rows > REACH) | (columns > REACH), float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors: images of 8 x 16."""
    return torch.randn(1, 4, 128, 32), torch.randn(1, 4, 128, 32), torch.randn(1, 4, 128, 32)
