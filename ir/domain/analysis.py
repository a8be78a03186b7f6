"""Decisions: whether a predicate may hold somewhere in a box of rows and columns, and must hold everywhere.

The answer is two scalar expressions over the box's bounds, so that Python evaluates them and every target
prints them. Integer comparisons go through linear forms (their bounds are tight: each atom occurs once),
everything else through `rules.RULES`. The answer is sound, not complete: a box may be left undecided,
never decided wrongly.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..dtypes import Kind
from ..expr import COMPARISON, Expr, Op, apply, const, load, loads, rebuild, var
from .arithmetic import scalar
from .bits import BitTest, bit_test
from .fold import FALSE, TRUE, all_of, any_of, is_at_most_zero, negated
from .interval import UNKNOWN, UNKNOWN_FLOAT, Interval, Truth
from .linear import Linear
from .rules import RULES
from .summaries import Summary, block_of, indexed_by, summary_pair

_MAX_EXPANSIONS = 4  # of |x|, min, max and where in one comparison; beyond it their bounds are taken
UNDECIDED = Truth(may=TRUE, must=FALSE)
_FOLD: dict[Op, Callable[[Any, Any], bool]] = {
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.EQ: operator.eq,
    Op.NE: operator.ne,
}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a predicate `may` hold somewhere in a box, and `must` hold everywhere.

    Both are BOOL over the inclusive bounds i_lo, i_hi, j_lo, j_hi of the box (for variables i and j). Loads
    from `summaries` also use the tile numbers i_tile and j_tile; the box must lie in those tiles.
    """

    may: Expr
    must: Expr
    summaries: tuple[Summary, ...] = ()


def decide(predicate: Expr, row_tile: int, column_tile: int, row: str = "i", column: str = "j") -> Decision:
    """Whether `predicate` (BOOL) may hold for some, and must hold for all, elements of a box.

    The tiles are those of the summaries that are loaded. Integer variables are taken to be at least 0 and
    integers not to overflow.
    """
    analysis = Analysis({var(row): row_tile, var(column): column_tile})
    truth = analysis.truth(predicate)
    used = {str(node.attr) for side in (truth.may, truth.must) for node in loads(side)}
    return Decision(truth.may, truth.must, tuple(s for s in analysis.summaries.values() if s.name in used))


class Analysis:
    """Bounds and truths of the expressions of one predicate over one box, each computed once."""

    def __init__(self, tiles: dict[Expr, int]) -> None:
        """`tiles`: the box's variables, rows then columns, and their tiles."""
        self.tiles = tiles
        self.summaries: dict[str, Summary] = {}
        self._ends = {axis: (var(f"{axis.attr}_lo"), var(f"{axis.attr}_hi")) for axis in tiles}
        self._depends: dict[Expr, bool] = {}
        self._intervals: dict[Expr, Interval] = {}
        self._truths: dict[Expr, Truth] = {}

    def depends(self, e: Expr) -> bool:
        """Whether `e` varies over the box."""
        if e not in self._depends:
            self._depends[e] = e in self.tiles or any(self.depends(arg) for arg in e.args)
        return self._depends[e]

    def interval(self, e: Expr) -> Interval:
        """Bounds of a number over the box."""
        if e not in self._intervals:
            self._intervals[e] = self._find_interval(e)
        return self._intervals[e]

    def _find_interval(self, e: Expr) -> Interval:
        if not self.depends(e):
            return scalar(e)
        if e in self._ends:
            return Interval(*self._ends[e])
        if e.op is Op.LOAD:
            return self._load(e)
        if e.kind is Kind.INT:
            form = Linear.of(e)
            if form.terms != ((e, 1),):
                low, high = self.bounds(form)
                return Interval(low.expr() if low else None, high.expr() if high else None)
        rule = RULES.get(e.op)
        if rule is None:
            return UNKNOWN_FLOAT if e.kind is Kind.FLOAT else UNKNOWN
        return rule(self, e)

    def bounds(self, form: Linear) -> tuple[Linear | None, Linear | None]:
        """Bounds of an integer linear form over the box, None where there is none."""
        low: Linear | None = Linear((), form.constant)
        high = low
        for atom, k in form.terms:
            x = self.interval(atom)
            first, last = (x.low, x.high) if k > 0 else (x.high, x.low)
            low = None if low is None or first is None else low + Linear.of(first).scaled(k)
            high = None if high is None or last is None else high + Linear.of(last).scaled(k)
        return low, high

    def _load(self, e: Expr) -> Interval:
        found = self._least_and_greatest(e)
        if found is None:
            return UNKNOWN_FLOAT if e.kind is Kind.FLOAT else UNKNOWN
        low, high = found
        if low is high:
            return scalar(low)
        sane = apply(Op.LE, low, high) if e.kind is Kind.FLOAT else TRUE
        return Interval(low, high, sane, e.kind is not Kind.FLOAT)

    def _least_and_greatest(self, e: Expr) -> tuple[Expr, Expr] | None:
        """Elements that bound a LOAD over the box, the same one twice where the box has only one.

        None when its indices are neither rows or columns nor blocks of them that fit the tiles.
        """
        e = rebuild(e, tuple(block_of(arg, self.tiles) for arg in e.args))
        if not self.depends(e):
            return e, e
        axes = indexed_by(e, self.tiles)
        others = [arg for n, arg in enumerate(e.args) if n not in axes]
        if len({axis for axis, _ in axes.values()}) != len(axes) or any(self.depends(arg) for arg in others):
            return None
        tables = summary_pair(e, {n: elements for n, (_, elements) in axes.items()})
        self.summaries.update({table.name: table for table in tables})
        indices = [var(f"{axes[n][0].attr}_tile") if n in axes else arg for n, arg in enumerate(e.args)]
        least, greatest = (load(table.name, tuple(indices), table.kind) for table in tables)
        return least, greatest

    def truth(self, e: Expr) -> Truth:
        """What is known of a condition over the box."""
        if e not in self._truths:
            self._truths[e] = self._find_truth(e)
        return self._truths[e]

    def _find_truth(self, e: Expr) -> Truth:
        if e.op in COMPARISON:
            return self._comparison(e)
        if not self.depends(e):
            return Truth(e, e)
        if e.op is Op.LOAD:
            found = self._least_and_greatest(e)
            return Truth(may=found[1], must=found[0]) if found else UNDECIDED
        rule = _LOGIC.get(e.op)
        if rule is None:
            return UNDECIDED
        return rule(self, *e.args)

    def _comparison(self, e: Expr) -> Truth:
        left, right = e.args
        if left.op is Op.CONST and right.op is Op.CONST:
            holds = const(_FOLD[e.op](left.attr, right.attr))
            return Truth(holds, holds)
        if not self.depends(e):
            return Truth(e, e)
        for at, x in enumerate(e.args):
            if x.op is Op.SELECT and any(branch.op is Op.CONST for branch in x.args[1:]):
                then, otherwise = (apply(e.op, *_replaced(e.args, at, branch)) for branch in x.args[1:])
                return _where(self, x.args[0], then, otherwise)
        if left.kind is Kind.BOOL:
            same = _not(_xor(self, left, right))
            return same if e.op is Op.EQ else _not(same)
        bit = bit_test(e)
        if bit is not None:
            return self._bit(bit)
        if left.kind is Kind.INT and right.kind is Kind.INT:
            return self._compare_integers(e.op, Linear.of(left) - Linear.of(right))
        return self._compare_floats(e.op, self.interval(left), self.interval(right))

    def _bit(self, bit: BitTest) -> Truth:
        """A bit of a captured word: no bit is set where all words are 0, every bit where all are full."""
        found = self._least_and_greatest(bit.word)
        if found is None:
            return UNDECIDED
        least, greatest = found
        is_zero = all_of(apply(Op.EQ, least, 0), apply(Op.EQ, greatest, 0))
        is_full = FALSE
        for full in bit.full:
            is_full = any_of(is_full, all_of(apply(Op.EQ, least, full), apply(Op.EQ, greatest, full)))
        is_set = Truth(may=negated(is_zero), must=is_full)
        return is_set if bit.is_set else _not(is_set)

    def _compare_integers(self, op: Op, gap: Linear) -> Truth:
        if op is Op.NE:
            return _not(self._compare_integers(Op.EQ, gap))
        if op is Op.EQ:
            return _both(self._at_most_zero(gap), self._at_most_zero(gap.scaled(-1)))
        return self._at_most_zero(gap + 1 if op is Op.LT else gap)

    def _at_most_zero(self, form: Linear, expansions: int = _MAX_EXPANSIONS) -> Truth:
        """form <= 0, where |x| <= a is taken as (x <= a and -x <= a), and min, max and where likewise."""
        for atom, k in form.terms if expansions else ():
            if atom.op not in (Op.ABS, Op.MIN, Op.MAX, Op.SELECT) or not self.depends(atom):
                continue
            x = atom.args[-1]
            branches = (x, -x) if atom.op is Op.ABS else atom.args[-2:]
            first, second = (
                self._at_most_zero(form.without(atom) + Linear.of(branch).scaled(k), expansions - 1)
                for branch in branches
            )
            if atom.op is Op.SELECT:
                return _choice(self.truth(atom.args[0]), first, second)
            return _both(first, second) if (atom.op is Op.MIN) == (k < 0) else _either(first, second)
        low, high = self.bounds(form)
        return Truth(TRUE if low is None else _folded(low), FALSE if high is None else _folded(high))

    def _compare_floats(self, op: Op, x: Interval, y: Interval) -> Truth:
        """A comparison with NaN is false (!= is true): where an element may be NaN nothing is known."""
        if op is Op.NE:
            return _not(self._compare_floats(Op.EQ, x, y))
        below = _ordered(Op.LE if op is Op.EQ else op, x, y)
        if op is Op.EQ:
            below = _both(below, _ordered(Op.LE, y, x))
        sane = all_of(x.sane, y.sane)
        return Truth(any_of(negated(sane), below.may), all_of(sane, below.must))


def _replaced(args: tuple[Expr, ...], at: int, new: Expr) -> tuple[Expr, ...]:
    return (*args[:at], new, *args[at + 1 :])


def _ordered(op: Op, x: Interval, y: Interval) -> Truth:
    may = TRUE if x.low is None or y.high is None else apply(op, x.low, y.high)
    must = FALSE if x.high is None or y.low is None else apply(op, x.high, y.low)
    return Truth(may, must)


def _folded(form: Linear) -> Expr:
    """form <= 0; a choice that decides it in one branch becomes logic."""
    for atom, k in form.terms:
        if atom.op is Op.SELECT:
            then, otherwise = (_folded(form.without(atom) + Linear.of(b).scaled(k)) for b in atom.args[1:])
            if then.op is Op.CONST or otherwise.op is Op.CONST:
                condition = atom.args[0]
                return any_of(all_of(condition, then), all_of(negated(condition), otherwise))
    return is_at_most_zero(form)


def _not(x: Truth) -> Truth:
    return Truth(negated(x.must), negated(x.may))


def _both(x: Truth, y: Truth) -> Truth:
    return Truth(all_of(x.may, y.may), all_of(x.must, y.must))


def _either(x: Truth, y: Truth) -> Truth:
    return Truth(any_of(x.may, y.may), any_of(x.must, y.must))


def _choice(condition: Truth, then: Truth, otherwise: Truth) -> Truth:
    """where(c, t, f): t may and c may, or f may and not c may; where c is undecided, both t and f must."""
    taken = _either(_both(condition, then), _both(_not(condition), otherwise))
    if condition.may is condition.must:
        return taken
    return Truth(taken.may, any_of(taken.must, all_of(then.must, otherwise.must)))


def _where(analysis: Analysis, condition: Expr, then: Expr, otherwise: Expr) -> Truth:
    return _choice(analysis.truth(condition), analysis.truth(then), analysis.truth(otherwise))


def _xor(analysis: Analysis, left: Expr, right: Expr) -> Truth:
    x, y = analysis.truth(left), analysis.truth(right)
    return _either(_both(x, _not(y)), _both(_not(x), y))


def _to_bool(analysis: Analysis, x: Expr) -> Truth:
    if x.kind is Kind.BOOL:
        return analysis.truth(x)
    return analysis.truth(apply(Op.NE, x, const(0.0) if x.kind is Kind.FLOAT else const(0)))


_LOGIC: dict[Op, Callable[..., Truth]] = {
    Op.AND: lambda a, x, y: _both(a.truth(x), a.truth(y)),
    Op.OR: lambda a, x, y: _either(a.truth(x), a.truth(y)),
    Op.NOT: lambda a, x: _not(a.truth(x)),
    Op.XOR: _xor,
    Op.SELECT: _where,
    Op.CAST: _to_bool,
}
