"""Dropout of attention weights whose mask is a function of a seed and a position, so that every kernel draws the same.

The generator is pcg3d (Jarzynski and Olano, "Hash Functions for GPU Rendering", Journal of Computer Graphics
Techniques 9(3), 2020): three 32-bit words in, well mixed words out, by sums, products and shifts. (b, h, seed) give a
head's key, and (i, j, key) the word of an element. No state is kept, so tiles, batches and devices do not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ir.errors import DTypeError, ShapeError, UnsupportedSpec

__all__ = ["dropout"]

MULTIPLIER, INCREMENT = 1664525, 1013904223
STEPS = 1 << 24  # p counts in these; the high bits of a word decide


def dropout(weights: Tensor, p: float, seed: int | Tensor) -> Tensor:
    """Attention weights [B, H, M, N] with each dropped with probability p, and the others divided by 1 - p.

    seed: an integer, or an integer tensor of one element, of which the low 32 bits count; a tensor that the function
    takes as an argument may change from call to call without compiling anew. The mask depends on seed, b, h, i and j
    alone. Raises UnsupportedSpec for p outside 0 <= p < 1, ShapeError for weights that are not [B, H, M, N] or for a
    seed of several elements, DTypeError for a seed that is not an integer.
    """
    if not 0.0 <= p < 1.0:
        raise UnsupportedSpec(f"dropout: p is {p}; wanted 0 <= p < 1")
    if weights.dim() != 4:
        raise ShapeError(f"dropout: weights have shape {tuple(weights.shape)}; wanted [B, H, M, N]")
    shape, device = weights.shape, weights.device
    b, h, i, j = (torch.arange(size, device=device).view([-1 if n == k else 1 for k in range(4)])
                  for n, size in enumerate(shape))  # fmt: skip
    word = _hash(i, j, _hash(b, h, _seed(seed, device)))
    is_kept = ((word >> 8) & (STEPS - 1)) >= round(p * STEPS)
    return torch.where(is_kept, weights * (1.0 / (1.0 - p)), 0.0)


def _seed(seed: int | Tensor, device: torch.device) -> Tensor:
    """The seed as one word."""
    if not isinstance(seed, Tensor):
        return _word(torch.full((), seed, dtype=torch.int64, device=device))
    if seed.dtype.is_floating_point or seed.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise DTypeError(f"dropout: seed is {seed.dtype}; wanted an integer")
    if seed.numel() != 1:
        raise ShapeError(f"dropout: seed has shape {tuple(seed.shape)}; wanted one element")
    return _word(seed.to(torch.int64).reshape(()))


def _hash(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The first word of pcg3d of three words."""
    x, y, z = (_word(word * MULTIPLIER + INCREMENT) for word in (x, y, z))
    x = _word(x + y * z)
    y = _word(y + z * x)
    z = _word(z + x * y)
    x, y, z = (word ^ ((word >> 16) & 0xFFFF) for word in (x, y, z))
    return _word(x + y * z)


def _word(x: Tensor) -> Tensor:
    """The low 32 bits, as a signed number in int64: products of two of them are exact."""
    return x.to(torch.int32).to(torch.int64)
