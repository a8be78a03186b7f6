"""No sequence reads outside a captured tensor: indices are checked against the lengths of a call."""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.spec import AttentionSpec
from .bounds import accesses, check_accesses, index_sources
from .layout_arguments import Given

__all__ = ["Reads"]


class Reads:
    """The indices that a spec computes, and the lengths for which they were found inside."""

    def __init__(self, spec: AttentionSpec) -> None:
        rule = spec.normaliser
        roots = [spec.score, spec.keep, *(root for root in (rule.weight, rule.after, rule.sink) if root is not None)]
        self._names = [tensor.name for tensor in spec.captured]
        self._found = accesses(roots)
        self._by_value = bool(index_sources(self._found))
        self._known: set[object] = set()

    def check(self, given: Given, sizes: Mapping[str, int]) -> None:
        """Raise ShapeError for a sequence that reads outside a captured tensor."""
        if not self._found:
            return
        tensors = dict(zip(self._names, given.captured, strict=True))
        shapes = tuple(tensor.shape for tensor in given.captured)
        for rows, columns in given.lengths.pairs:
            key = rows, columns, given.lengths.count, shapes
            if not self._by_value and key in self._known:
                continue
            check_accesses(self._found, tensors, {**sizes, "M": rows, "N": columns})
            self._known.add(key)
