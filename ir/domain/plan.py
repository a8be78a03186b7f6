"""Loop plans: which column tiles a row tile visits, as scalar expressions computed once per row tile."""

from __future__ import annotations

from dataclasses import dataclass

from ..expr import Expr, Op, apply, const, rebuild, var
from .analysis import Decision, decide
from .fold import TRUE, maximum, minimum
from .linear import Linear, divide
from .ranges import Columns, Range, column_range
from .summaries import Summary


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """The loop over column tiles of one row tile, for row variable `i` and column variable `j`.

    `lo`, `hi`, `full_lo`, `full_hi` are INT expressions over i_lo, i_hi (first and last row, inclusive),
    i_tile, sizes, b, h and summaries of rows: computed once per row tile. 0 <= lo <= full_lo <= full_hi <=
    hi <= tiles always holds. `may_rest` and `must_rest` are conditions on a single tile, over j_lo, j_hi
    (inclusive), j_tile as well; True when nothing is left to ask. The parts of a tile loop visit, in
    ascending order of n,

        full     n in [full_lo, full_hi) with must_rest
        partial  n in [lo, full_lo) and [full_hi, hi) with may_rest,
                 n in [full_lo, full_hi) with may_rest and not must_rest
        any      n in [lo, hi) with may_rest

    Tiles of [full_lo, full_hi) are whole: the ragged last tile of the columns is never full. In the full part
    j_hi = j_lo + column_tile - 1; elsewhere j_hi = min(j_lo + column_tile, columns) - 1.
    """

    lo: Expr
    hi: Expr
    full_lo: Expr
    full_hi: Expr
    may_rest: Expr
    must_rest: Expr
    summaries: tuple[Summary, ...]

    @property
    def assignments(self) -> tuple[tuple[str, Expr], ...]:
        """The four bounds in an order of computation; later ones name earlier ones (VAR "hi", "lo", …)."""
        named: dict[Expr, Expr] = {}
        found = []
        for name in ("hi", "lo", "full_lo", "full_hi"):
            value = _renamed(getattr(self, name), named)
            found.append((name, value))
            named.setdefault(getattr(self, name), var(name))
        return tuple(found)


def _renamed(e: Expr, named: dict[Expr, Expr]) -> Expr:
    """The expression with whole subexpressions replaced by their names; leaves stay as they are."""
    if not e.args:
        return e
    return named.get(e) or rebuild(e, tuple(_renamed(arg, named) for arg in e.args))


def plan(
    predicate: Expr,
    row_tile: int,
    column_tile: int,
    *,
    row: str = "i",
    column: str = "j",
    extent: Expr | None = None,
) -> LoopPlan:
    """The loop over column tiles for any row tile.

    `predicate` is BOOL over `row`, `column` and scalars. `extent` is the number of columns, by default size
    N. Exchange names and tiles, with the number of rows as extent, for the loop over row tiles of a column
    tile: the bounds are then over j_lo, j_hi and the rests over i_lo, i_hi, i_tile.
    """
    decision = decide(predicate, row_tile, column_tile, row, column)
    return plan_of(decision, column_tile, column, var("N") if extent is None else extent)


def plan_of(decision: Decision, tile: int, column: str, extent: Expr) -> LoopPlan:
    """The plan that carries out a decision."""
    tiles, whole = divide(Linear.of(extent) + (tile - 1), tile), divide(Linear.of(extent), tile)
    may = column_range(decision.may, Columns(tile, tiles, column))
    must = column_range(decision.must, Columns(tile, whole, column))
    lo, hi = may.lo, may.hi
    lo = _least(lo, hi)
    if decision.must is const(False):
        return LoopPlan(lo, hi, hi, hi, may.rest, const(False), decision.summaries)
    full_lo, full_hi = _inside(must, lo, hi)
    return LoopPlan(lo, hi, full_lo, full_hi, may.rest, must.rest, decision.summaries)


def _inside(full: Range, lo: Expr, hi: Expr) -> tuple[Expr, Expr]:
    """The full range clamped to [lo, hi), empty at a place in it when there is none.

    A range that is exactly the full tiles lies within [lo, hi) or is empty, so from 0 it needs no clamp.
    """
    zero = const(0)
    if lo is zero and full.lo is zero:
        return zero, full.hi if full.rest is TRUE else _least(full.hi, hi)
    full_lo = _least(maximum(full.lo, lo), hi)
    return full_lo, apply(Op.MAX, _least(full.hi, hi), full_lo)


def _least(value: Expr, limit: Expr) -> Expr:
    """min(value, limit), with `limit` kept whole so that it can be named."""
    return value if minimum(value, limit) is value else apply(Op.MIN, value, limit)
