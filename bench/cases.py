"""A case: one variant at one shape and element type, its inputs and the work it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .variants import Variant

__all__ = ["DTYPES", "Case", "Inputs", "Shape"]

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
SEED = 20


class Shape(NamedTuple):
    """Sizes of an attention problem, in the order of the command line's --shape."""

    B: int
    Hq: int
    Hkv: int
    M: int
    N: int
    D: int
    Dv: int


@dataclass(frozen=True, slots=True)
class Inputs:
    """q [B, Hq, M, D], k [B, Hkv, N, D], v [B, Hkv, N, Dv] and the variant's captured tensors."""

    q: Tensor
    k: Tensor
    v: Tensor
    captured: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The arguments of the variant's spec, in order."""
        return (self.q, self.k, self.v, *self.captured)


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured in one interleaved comparison; dtype is a key of DTYPES."""

    variant: Variant
    dtype: str
    shape: Shape

    def __str__(self) -> str:
        """B1-H8-N2048-D64-f32-causal; N is M x N where they differ, D is D x Dv."""
        s = self.shape
        heads = f"H{s.Hq}" if s.Hq == s.Hkv else f"H{s.Hq}:{s.Hkv}"
        length = f"N{s.N}" if s.M == s.N else f"N{s.M}x{s.N}"
        width = f"D{s.D}" if s.Dv == s.D else f"D{s.D}x{s.Dv}"
        return f"B{s.B}-{heads}-{length}-{width}-{self.dtype}-{self.variant.name}"

    @property
    def flops(self) -> int:
        """Operations of the two products on the pairs that no mask removes: 2 pairs (D + Dv) a head."""
        s = self.shape
        return 2 * s.B * s.Hq * self.variant.pairs(s.M, s.N) * (s.D + s.Dv)

    def inputs(self, device: torch.device) -> Inputs:
        """Standard-normal q, k and v, the same at every call, and the captured tensors."""
        s = self.shape
        generator = torch.Generator(device).manual_seed(SEED)
        sizes = ((s.B, s.Hq, s.M, s.D), (s.B, s.Hkv, s.N, s.D), (s.B, s.Hkv, s.N, s.Dv))
        q, k, v = (torch.randn(size, generator=generator, device=device).to(DTYPES[self.dtype]) for size in sizes)
        return Inputs(q, k, v, self.variant.captured(s.Hq, s.N, device))
