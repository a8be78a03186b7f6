"""Where the gradient of a captured tensor comes from, and where in the tensor each part of it goes.

A tensor that is loaded at several places has several terms; its gradient is their sum. What a term's indices are
decides how a kernel adds it up: `bias[b, h, i, j]` has one writer per element, `slopes[h]` is a sum over a head,
`table[i - j + n, h]` scatters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from ..expr import Expr, free_vars, loads
from ..spec import BATCH, COLUMN, HEAD, ROW
from .derivative import ZERO, derivative

POSITIONS = (BATCH, HEAD, ROW, COLUMN)


class Source(StrEnum):
    """What a load takes part in, and so what its factor is multiplied by."""

    VALUE = "value"  # dvalue[b, h, i, j]
    AFTER = "after"  # p[b, h, i, j] * (dO[b, h, i] . v[b, h // group, j])
    SINK = "sink"  # dsink[b, h, i]


class IndexKind(Enum):
    """What one index of a load is."""

    BARE = "bare"  # exactly b, h, i or j
    CONSTANT = "constant"  # without b, h, i, j: a literal, a size, a load at such indices
    HEAD = "head"  # computed from b and h alone: one place for all pairs of a head, as h // 4
    SCATTER = "scatter"  # computed from i or j: i - j + 5, position[i, j]


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a captured tensor's gradient: d T[indices] += source * factor, summed over b, h, i (and j).

    indices: INT expressions over b, h, i, j, one per dim. factor: FLOAT, over s, b, h, i, j.
    """

    source: Source
    indices: tuple[Expr, ...]
    factor: Expr

    @property
    def kinds(self) -> tuple[IndexKind, ...]:
        """What each index is."""
        return tuple(kind_of(index) for index in self.indices)

    @property
    def bare(self) -> tuple[str | None, ...]:
        """For each index, the name of the variable that it is; None for one that is computed or constant."""
        return tuple(str(index.attr) if index in POSITIONS else None for index in self.indices)

    @property
    def rows(self) -> bool:
        """Whether an index is exactly i."""
        return ROW in self.indices

    @property
    def columns(self) -> bool:
        """Whether an index is exactly j."""
        return COLUMN in self.indices

    @property
    def is_scatter(self) -> bool:
        """Whether an index is computed from i or j, so that pairs of one tile may meet anywhere in the tensor."""
        return IndexKind.SCATTER in self.kinds

    @property
    def summed(self) -> tuple[str, ...]:
        """The variables that no index reads: the term is a sum over them. Those of a sink's term are b, h, i."""
        used = frozenset[str]().union(*(free_vars(index) for index in self.indices))
        names = [str(position.attr) for position in POSITIONS]
        return tuple(n for n in names if n not in used and not (n == "j" and self.source is Source.SINK))


def kind_of(index: Expr) -> IndexKind:
    """What one index is."""
    if index in POSITIONS:
        return IndexKind.BARE
    used = free_vars(index)
    if used & {"i", "j"}:
        return IndexKind.SCATTER
    return IndexKind.HEAD if used & {"b", "h"} else IndexKind.CONSTANT


def terms_of(tensor: str, source: Source, expr: Expr) -> tuple[Term, ...]:
    """One term for each place at which a simplified expression loads a tensor and depends on what it loads."""
    found = [(node, derivative(expr, node)) for node in loads(expr) if node.attr == tensor]
    return tuple(Term(source, node.args, factor) for node, factor in found if factor is not ZERO)
