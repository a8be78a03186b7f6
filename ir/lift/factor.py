"""Products taken apart: an expression as factors over factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..dtypes import Kind
from ..expr import Expr, Op, apply, const, select

ONE = const(1.0)
ZERO = const(0.0)


@dataclass(frozen=True, slots=True)
class Factors:
    """The product of `over` divided by the product of `under`."""

    over: list[Expr] = field(default_factory=list)
    under: list[Expr] = field(default_factory=list)

    def product(self) -> Expr:
        """The expression again."""
        below = _product(self.under)
        above = _product(self.over)
        return above if below is ONE else apply(Op.DIV, above, below)

    def split(self, belongs: Callable[[Expr], bool]) -> tuple[Factors, Factors]:
        """The factors that belong, and the others."""
        inside = Factors([e for e in self.over if belongs(e)], [e for e in self.under if belongs(e)])
        outside = Factors([e for e in self.over if not belongs(e)], [e for e in self.under if not belongs(e)])
        return inside, outside

    def __mul__(self, other: Factors) -> Factors:
        return Factors(self.over + other.over, self.under + other.under)

    def __truediv__(self, other: Factors) -> Factors:
        return Factors(self.over + other.under, self.under + other.over)

    def cancelled(self) -> Factors:
        """Without what stands both above and below, and without ones."""
        under = [e for e in self.under if e is not ONE]
        over = []
        for expr in self.over:
            if expr in under:
                under.remove(expr)
            elif expr is not ONE:
                over.append(expr)
        return Factors(over, under)


def _product(exprs: list[Expr]) -> Expr:
    total = ONE
    for expr in exprs:
        total = expr if total is ONE else apply(Op.MUL, total, expr)
    return total


def factors(expr: Expr) -> Factors:
    """Products, quotients, signs and choices against zero taken apart."""
    if expr.op is Op.MUL:
        return factors(expr.args[0]) * factors(expr.args[1])
    if expr.op is Op.DIV:
        return factors(expr.args[0]) / factors(expr.args[1])
    if expr.op is Op.NEG:
        return Factors([const(-1.0)]) * factors(expr.args[0])
    if expr.op is Op.SELECT and expr.kind is Kind.FLOAT:
        condition, then, otherwise = expr.args
        if otherwise is ZERO and then is not ONE:
            return Factors([select(condition, ONE, ZERO)]) * factors(then)
        if then is ZERO:
            return Factors([select(apply(Op.NOT, condition), ONE, ZERO)]) * factors(otherwise)
    return Factors([expr])
