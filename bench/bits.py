"""Whether results have the same bits: real comparisons, counted, and what differs first where they do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Bits", "compare_bits", "difference"]

AS_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element
Results = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Bits:
    """How many results were compared and how many had the expected bits; `first` says what differed first."""

    tried: int
    equal: int
    first: str | None = None

    @property
    def is_same(self) -> bool:
        """Whether there was something to compare, and all of it was equal."""
        return self.tried > 0 and self.equal == self.tried


def compare_bits(expected: Results, found: Iterable[tuple[str, Results]]) -> Bits:
    """Compare results, each with a name that says where it came from, one after the other."""
    tried = equal = 0
    first = None
    for name, results in found:
        what = difference(expected, results)
        tried, equal = tried + 1, equal + (what is None)
        if what is not None and first is None:
            first = f"{name}: {what}"
    return Bits(tried, equal, first)


def difference(expected: Results, got: Results) -> str | None:
    """What differs first, or None. Zeros of unlike sign differ, and NaNs of like bits do not."""
    if expected.keys() != got.keys():
        return f"got {', '.join(got) or 'nothing'}, wanted {', '.join(expected)}"
    for name, wanted in expected.items():
        found = got[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            return f"{name} is {found.dtype} {tuple(found.shape)}, wanted {wanted.dtype} {tuple(wanted.shape)}"
        a, b = _bits(wanted), _bits(found)
        if not torch.equal(a, b):
            return _told(name, wanted, found, a != b)
    return None


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(AS_INTEGERS[tensor.element_size()])


def _told(name: str, wanted: Tensor, found: Tensor, differs: Tensor) -> str:
    places = differs.nonzero()
    place = tuple(places[0].tolist())
    values = f"{float(found[place]):.9g} against {float(wanted[place]):.9g}"
    return f"{name}: {len(places)} of {wanted.numel()} elements differ, first at {place}: {values}"
