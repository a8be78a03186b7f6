"""Column ranges: the tile numbers for which a condition can hold, solved from its linear conjuncts.

Tile n of tiles of T columns is j_lo = n * T, j_hi = n * T + T - 1. A conjunct such as `j_lo <= i_hi` then
says n < (i_hi + T) // T. Divisions are of numbers that are at least 0, so targets may truncate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..dtypes import Kind
from ..expr import Expr, Op, apply, const, free_vars, var
from .fold import TRUE, all_of, choose, conjuncts, disjuncts, flat, maximum, minimum
from .linear import Linear, at_least_zero, divide, is_nonnegative, literal

_COMPARISONS = {Op.LT: 1, Op.LE: 0}  # what to add to left - right so that it is at most 0


@dataclass(frozen=True, slots=True)
class Range:
    """Tile numbers n in [lo, hi) for which `rest`, a condition on the single tile, has still to be asked."""

    lo: Expr
    hi: Expr
    rest: Expr


@dataclass(frozen=True, slots=True)
class Columns:
    """The tiled dimension: how many tiles of which size, and the variable whose bounds are meant."""

    tile: int
    count: Expr
    name: str = "j"

    @property
    def low(self) -> Expr:
        """First column of a tile."""
        return var(f"{self.name}_lo")

    @property
    def high(self) -> Expr:
        """Last column of a tile."""
        return var(f"{self.name}_hi")

    def vary_in(self, e: Expr) -> bool:
        """Whether `e` differs from tile to tile."""
        return not free_vars(e).isdisjoint({f"{self.name}_lo", f"{self.name}_hi", f"{self.name}_tile"})


@dataclass(slots=True)
class _Limits:
    """What has been solved so far: bounds, conditions on the row tile alone, and the rest."""

    lows: list[Expr] = field(default_factory=list)
    highs: list[Expr] = field(default_factory=list)
    when: list[Expr] = field(default_factory=list)
    rest: list[Expr] = field(default_factory=list)

    def range(self, columns: Columns) -> Range:
        low = maximum(const(0), *self.lows)
        high = choose(all_of(*self.when), minimum(columns.count, *self.highs), const(0))
        return Range(low, high, all_of(*self.rest))


def column_range(condition: Expr, columns: Columns) -> Range:
    """The range of tiles outside which `condition` (`may` or `must` of a Decision) is False.

    0 <= lo and hi <= columns.count always hold; lo <= hi need not: such a range is empty.
    """
    limits = _Limits()
    for part in conjuncts(condition):
        _solve(part, columns, limits)
    return limits.range(columns)


def _solve(part: Expr, columns: Columns, limits: _Limits) -> None:
    if not columns.vary_in(part):
        limits.when.append(part)
    elif part.op is Op.OR:
        _solve_union(part, columns, limits)
    elif not _solve_comparison(part, columns, limits):
        limits.rest.append(part)


def _solve_comparison(part: Expr, columns: Columns, limits: _Limits) -> bool:
    """Whether `part` was an integer comparison that bounds the tile number."""
    if part.op not in _COMPARISONS or any(arg.kind is not Kind.INT for arg in part.args):
        return False
    left, right = (Linear.of(arg) for arg in part.args)
    return _solve_linear(left - right + _COMPARISONS[part.op], columns, limits)


def _solve_union(part: Expr, columns: Columns, limits: _Limits) -> None:
    """The hull of the alternatives; exact when they all begin, or all end, at the same tile."""
    ranges = [column_range(item, columns) for item in disjuncts(part)]
    lows, highs = {r.lo for r in ranges}, {r.hi for r in ranges}
    if const(0) not in lows:
        limits.lows.append(minimum(*(r.lo for r in ranges)))
    if columns.count not in highs:
        limits.highs.append(maximum(*(_without(columns.count, r.hi) for r in ranges)))
    is_exact = len(lows) == 1 or len(highs) == 1
    if not is_exact or any(r.rest is not TRUE for r in ranges):
        limits.rest.append(part)


def _without(count: Expr, high: Expr) -> Expr:
    """min(count, x) as x: the minimum is taken once, over the union."""
    parts = [part for part in flat(Op.MIN, (high,)) if part is not count]
    return minimum(*parts) if parts else count


def _solve_linear(form: Linear, columns: Columns, limits: _Limits) -> bool:
    """form <= 0 as a bound on the tile number n, where j_lo = T n and j_hi = T n + T - 1."""
    on_low, on_high = form.coefficient(columns.low), form.coefficient(columns.high)
    others = form.without(columns.low, columns.high)
    varying = [(atom, k) for atom, k in others.terms if columns.vary_in(atom)]
    if varying:
        return not (on_low or on_high) and len(varying) == 1 and _solve_quotient(others, columns, limits)
    step = (on_low + on_high) * columns.tile
    others = others + on_high * (columns.tile - 1)
    if step > 0:  # n <= -others / step
        limits.highs.append(divide(at_least_zero(others.scaled(-1) + step), step))
    elif step < 0:  # n >= others / -step
        limits.lows.append(divide(at_least_zero(others - step - 1), -step))
    return step != 0


def _solve_quotient(form: Linear, columns: Columns, limits: _Limits) -> bool:
    """x // d <= f is x < (f + 1) * d, and x // d >= f is x >= f * d, for the one varying atom x // d."""
    atom, k = next((atom, k) for atom, k in form.terms if columns.vary_in(atom))
    if atom.op is not Op.FLOORDIV or abs(k) != 1:
        return False
    x, divisor = atom.args
    if columns.vary_in(divisor) or literal(divisor) == 0 or not is_nonnegative(divisor):
        return False
    others = form.without(atom)
    if k > 0:
        return _solve_linear(Linear.of(x) - _times(others.scaled(-1) + 1, divisor) + 1, columns, limits)
    return _solve_linear(_times(others, divisor) - Linear.of(x), columns, limits)


def _times(form: Linear, factor: Expr) -> Linear:
    value = literal(factor)
    return form.scaled(value) if value is not None else Linear.of(apply(Op.MUL, form.expr(), factor))
