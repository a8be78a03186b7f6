"""Reading the result's element as a weighted sum of v, and the weights in normal form.

In normal form an exponential of a sum is a product of exponentials, and what does not depend on the summed
index stands outside a sum; so a subtracted maximum cancels, however it was written.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..algebra import is_const, number, simplify
from ..dtypes import Kind
from ..expr import Expr, Op, apply, const, select, walk
from .factor import Factors, factors
from .masks import LEFT_OUT

if TYPE_CHECKING:
    from .tracer import Tracer

NEGLIGIBLE = 1e-6  # beside a sum of exponentials that holds exp(0) = 1
SMALLEST = 1e-30  # beside a sum, it only makes 0 / 0 zero
MINUS_INFINITY = const(-math.inf)


class NormalForm:
    """Normal forms relative to one summed index."""

    def __init__(self, tracer: Tracer, bound: Expr) -> None:
        self.t = tracer
        self.bound = bound
        self.floor = 0.0  # the largest lower bound met on a sum; it only keeps 0 / 0 away

    def depends(self, e: Expr) -> bool:
        """Whether an expression depends on the summed index."""
        return self.t.depends(e, self.bound)

    def of(self, product: Factors) -> Factors:
        """The normal form of a product."""
        result = Factors()
        for e in product.over:
            result = result * self.of_factor(e)
        for e in product.under:
            result = result / self.of_factor(e)
        return result.cancelled()

    def of_factor(self, e: Expr) -> Factors:
        """The normal form of one factor."""
        bare = plain(e)
        self.floor = max(self.floor, 0.0 if bare is e else SMALLEST)
        e = simplify(bare) if bare.op is Op.ABS else bare
        parts = factors(e)
        if parts.under or len(parts.over) != 1 or parts.over[0] is not e:
            return self.of(parts)
        if e.op in (Op.EXP, Op.EXP2):
            scale = 1.0 if e.op is Op.EXP else math.log(2.0)
            return self._exponential(e.args[0], scale)
        if e.op is Op.POW and is_const(e.args[0]) and number(e.args[0]) > 0:
            return self._exponential(e.args[1], math.log(number(e.args[0])))
        if e.op is Op.SIGMOID and not self.depends(e):
            return self._gate(e)
        if e.op is Op.ADD and not self.depends(e):
            return self._denominator(e)
        if e.op is Op.MAX and is_const(e.args[1]) and 0 <= number(e.args[1]) <= NEGLIGIBLE:
            inner = self.of_factor(e.args[0])
            if not _has_sum(inner, self.t):
                return Factors([e])
            self.floor = max(self.floor, number(e.args[1]))
            return inner
        reduction = self.t.reductions.get(e)
        if reduction is not None and reduction.op == "sum":
            return self._sum(e)
        return Factors([e])

    def _exponential(self, exponent: Expr, scale: float) -> Factors:
        """exp(x - m) -> exp(x) / exp(m); exp(x - log(z)) -> exp(x) / z."""
        inside: list[Expr] = []
        result = Factors()
        parts = terms(simplify(exponent), scale, self.depends)
        is_score = any(self.depends(term) for term, _ in parts)
        for term, factor in parts:
            stays = (is_score and not self._is_reduced(term)) or term.op is Op.CONST or is_masking(term)
            if self.depends(term) or stays:
                inside.append(_scaled(term, factor))
            elif term.op is Op.LOG and abs(factor) == 1.0:
                one = self.of_factor(term.args[0])
                result = result * one if factor > 0 else result / one
            elif factor < 0:
                result = result / Factors([apply(Op.EXP, _scaled(term, -factor))])
            else:
                result = result * Factors([apply(Op.EXP, _scaled(term, factor))])
        if not inside:
            return result
        total = inside[0]
        for term in inside[1:]:
            total = apply(Op.ADD, total, term)
        return Factors([apply(Op.EXP, simplify(total))]) * result

    def _is_reduced(self, e: Expr) -> bool:
        """Whether an addend comes from a maximum or a sum; what a row adds of itself stays: it counts in lse."""
        return any(node in self.t.reductions for node in walk(e))

    def _gate(self, e: Expr) -> Factors:
        """sigmoid(log(z) - y) -> z / (z + exp(y))."""
        odds = self._exponential(e.args[0], 1.0)
        if not _has_sum(odds, self.t):
            return Factors([e])
        total = apply(Op.ADD, Factors(odds.over).product(), Factors(odds.under).product())
        return Factors(odds.over) / self._denominator(total)

    def _sum(self, e: Expr) -> Factors:
        """A sum with everything outside that does not depend on its index."""
        reduction = self.t.reductions[e]
        form = NormalForm(self.t, reduction.bound)
        inside, outside = form.of(factors(reduction.body)).split(form.depends)
        core = self.t.atom("sum", inside.product(), reduction.bound, reduction.length)
        if e in self.t.origins:
            self.t.origins.setdefault(core, self.t.origins[e])
        return (Factors([core]) * self.of(outside) if outside.over or outside.under else Factors([core])).cancelled()

    def _denominator(self, e: Expr) -> Factors:
        """sum(exp(x - m)) + exp(y - m) -> exp(-m) * (sum(exp(x)) + exp(y))."""
        parts = [self.of_factor(term) for term, _ in _addends(e)]
        signs = [sign for _, sign in _addends(e)]
        main = next((n for n, part in enumerate(parts) if _has_sum(part, self.t)), None)
        if main is None:
            return Factors([e])
        core, common = parts[main].split(lambda f: f in self.t.reductions)
        total = core.product()
        for n, part in enumerate(parts):
            if n == main:
                continue
            is_tiny = len(part.over) == 1 and not part.under and is_const(part.over[0])
            if is_tiny and 0 <= number(part.over[0]) <= NEGLIGIBLE and (common.over or common.under):
                continue  # an epsilon beside a sum that holds a one
            extra = simplify((part / common).cancelled().product())
            total = apply(Op.ADD if signs[n] > 0 else Op.SUB, total, extra)
        return Factors([total]) * common


def _has_sum(product: Factors, t: Tracer) -> bool:
    return any(e in t.reductions and t.reductions[e].op == "sum" for e in product.over)


def _scaled(e: Expr, factor: float) -> Expr:
    return e if factor == 1.0 else e * const(factor)


def _addends(e: Expr, sign: int = 1) -> list[tuple[Expr, int]]:
    if e.op in (Op.ADD, Op.SUB):
        second = sign if e.op is Op.ADD else -sign
        return _addends(e.args[0], sign) + _addends(e.args[1], second)
    return [(e, sign)]


def terms(e: Expr, factor: float, depends: object) -> list[tuple[Expr, float]]:
    """Addends with their factors; a term beside -inf in a choice comes out of the choice."""
    if e.kind is not Kind.FLOAT:
        return [(e, factor)]
    if e.op is Op.ADD:
        return terms(e.args[0], factor, depends) + terms(e.args[1], factor, depends)
    if e.op is Op.SUB:
        return terms(e.args[0], factor, depends) + terms(e.args[1], -factor, depends)
    if e.op is Op.NEG:
        return terms(e.args[0], -factor, depends)
    if e.op is Op.MUL and is_const(e.args[1]):
        return terms(e.args[0], factor * number(e.args[1]), depends)
    if e.op is Op.DIV and is_const(e.args[1]) and number(e.args[1]) != 0:
        return terms(e.args[0], factor / number(e.args[1]), depends)
    if e.op is Op.SELECT and MINUS_INFINITY in e.args[1:]:
        return _choice_terms(e, factor, depends)
    return [(e, factor)]


def _choice_terms(e: Expr, factor: float, depends: object) -> list[tuple[Expr, float]]:
    assert callable(depends)
    condition, then, otherwise = e.args
    is_then = otherwise is MINUS_INFINITY
    inner = terms(then if is_then else otherwise, 1.0, depends)
    outside = [(term, factor * scale) for term, scale in inner if not depends(term)]
    if not outside:
        return [(e, factor)]
    rest = const(0.0)
    for term, scale in inner:
        if depends(term):
            rest = rest + _scaled(term, scale)
    masked = select(condition, rest, MINUS_INFINITY) if is_then else select(condition, MINUS_INFINITY, rest)
    return [(simplify(masked), factor), *outside]


def plain(e: Expr) -> Expr:
    """where(sum == 0, 1, sum) -> sum: without the guard against rows that keep nothing, zero by definition."""
    while e.op is Op.SELECT:
        condition, _, otherwise = e.args
        if condition.op is not Op.EQ or condition.args[0] is not otherwise or not is_const(condition.args[1], 0.0):
            break
        e = otherwise
    return e


def is_masking(e: Expr) -> bool:
    """Whether an addend can mean "left out"; such an addend stays with the score."""
    return any(node.op is Op.CONST and node.kind is not Kind.BOOL and number(node) <= LEFT_OUT for node in walk(e))
