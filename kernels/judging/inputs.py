"""Inputs that candidates are tried on: tensors with named sizes, and smaller ones cut from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ...ir.errors import ShapeError
from ...ir.spec import TensorSpec

__all__ = ["Inputs", "sizes_of"]

LARGE = ("large", "sunken")
MAIN = ("B", "Hq", "Hkv", "M", "N")


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """q, k, v and the captured tensors of one case; `specs` name their dims. content: see kernels/tensors.py."""

    name: str
    specs: tuple[TensorSpec, ...]
    tensors: tuple[torch.Tensor, ...]
    content: str = "normal"

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by name."""
        return sizes_of(self.specs, self.tensors)

    @property
    def main_sizes(self) -> dict[str, int]:
        """B, Hq, Hkv, M and N."""
        sizes = self.sizes
        return {name: sizes[name] for name in MAIN if name in sizes}

    @property
    def has_large_scores(self) -> bool:
        """Whether rounding of the scores decides rows."""
        return self.content in LARGE

    def holding(self, tensors: Sequence[torch.Tensor], name: str | None = None) -> Inputs:
        """The same case with other tensors."""
        return replace(self, tensors=tuple(tensors), name=name or self.name)

    def cut(self, sizes: Mapping[str, int]) -> Inputs:
        """The first elements along the dimensions whose sizes are given; the others stay whole."""
        cut = []
        for spec, tensor in zip(self.specs, self.tensors, strict=True):
            wanted = [sizes.get(dim, full) if isinstance(dim, str) else full
                      for dim, full in zip(spec.dims, tensor.shape, strict=True)]  # fmt: skip
            cut.append(tensor[tuple(slice(size) for size in wanted)].clone())
        return self.holding(cut)


def sizes_of(specs: Sequence[TensorSpec], tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """Sizes by name. Raises ShapeError where two tensors disagree."""
    sizes: dict[str, int] = {}
    for spec, tensor in zip(specs, tensors, strict=True):
        for dim, size in zip(spec.dims, tensor.shape, strict=True):
            wanted = dim if isinstance(dim, int) else sizes.setdefault(dim, size)
            if wanted != size:
                raise ShapeError(f"{spec.name}: {dim} is {size} in {tuple(tensor.shape)}, wanted {wanted}")
    return sizes
