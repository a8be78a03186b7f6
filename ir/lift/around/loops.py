"""Python loops over heads or batches: what they stacked, as one formula with the loop's number as an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...dtypes import Kind
from ...expr import Expr, Op, apply, const, rebuild, select, transform
from ...integers import expression, polynomial
from ...spec import BATCH, HEAD
from .products import Products, renamed

if TYPE_CHECKING:
    from ..tracer import Tracer


def without_loop(t: Tracer, e: Expr) -> Expr:
    """where(h < 1, f(0), where(h < 2, f(1), f(2))) -> f(h), where the branches are alike; else unchanged."""
    for variable in (HEAD, BATCH):
        branches = branches_of(t, e, variable)
        if len(branches) > 1:
            each = [at_number(t, branch, variable, number) for number, branch in enumerate(branches)]
            return Loop(t, variable).united(each) or Loop(t, variable).united(branches) or e
    return e


def branches_of(t: Tracer, e: Expr, variable: Expr) -> list[Expr]:
    """What a chain of choices gives for 0, 1, 2, … of a variable."""
    found: list[Expr] = []
    while e.op is Op.SELECT and _is_below(t, e.args[0], variable, len(found) + 1):
        found.append(e.args[1])
        e = e.args[2]
    return [*found, e]


def _is_below(t: Tracer, condition: Expr, variable: Expr, number: int) -> bool:
    """Whether a condition means variable < number; variable * size + e < number * size for e in 0..size - 1 does."""
    if condition.op not in (Op.LT, Op.LE):
        return False
    terms, limit = polynomial(condition.args[0]), condition.args[1].attr
    size = terms.pop((variable,), 0)
    if not isinstance(limit, int) or size < 1 or limit + (condition.op is Op.LE) != number * size:
        return False
    rest = expression(terms)
    return rest is const(0) or (t.is_nonnegative(rest) and t.is_nonnegative(t.simplified(size - 1 - rest)))


def at_number(t: Tracer, e: Expr, variable: Expr, number: int) -> Expr:
    """The expression for one value of a variable, positions that are kept inside a dim without need left alone."""
    return clamped_less(t, renamed(t, e, {str(variable.attr): const(number)}))


def clamped_less(t: Tracer, e: Expr) -> Expr:
    """min(x, y) and max(x, y) of indices decided where the ranges decide them, inside reductions as well."""

    def decide(node: Expr) -> Expr | None:
        reduction = t.reductions.get(node)
        if reduction is not None:
            return t.atom(reduction.op, clamped_less(t, reduction.body), reduction.bound, reduction.length)
        if node.op not in (Op.MIN, Op.MAX) or node.kind is not Kind.INT:
            return None
        x, y = (t.simplified(arg) for arg in node.args)
        if t.is_nonnegative(t.simplified(y - x)):
            return x if node.op is Op.MIN else y
        return (y if node.op is Op.MIN else x) if t.is_nonnegative(t.simplified(x - y)) else None

    return transform(e, decide)


class Loop:
    """One loop's variable."""

    def __init__(self, tracer: Tracer, variable: Expr) -> None:
        self.t = tracer
        self.variable = variable
        assert tracer.products is not None
        self.products: Products = tracer.products

    def united(self, branches: Sequence[Expr]) -> Expr | None:
        """The formula of all branches; None where they differ in more than numbers."""
        first = branches[0]
        if all(branch is first for branch in branches):
            return first
        if all(branch.op is Op.CONST and branch.kind is first.kind for branch in branches):
            return self._numbers(branches)
        if all(branch in self.t.reductions for branch in branches):
            return self._sums(branches)
        if len({(branch.op, branch.kind, len(branch.args)) for branch in branches}) > 1:
            return None
        if first.op is Op.LOAD and any(branch.attr != first.attr for branch in branches):
            return self._scores(branches)
        if any(branch.attr != first.attr for branch in branches) or not first.args:
            return None
        args = [self.united(several) for several in zip(*(branch.args for branch in branches), strict=True)]
        return None if None in args else rebuild(first, tuple(arg for arg in args if arg is not None))

    def _numbers(self, branches: Sequence[Expr]) -> Expr | None:
        values = [branch.attr for branch in branches]
        if all(isinstance(value, bool) for value in values):
            return None
        if all(isinstance(value, int) for value in values):
            first, step = int(str(values[0])), int(str(values[1])) - int(str(values[0]))
            if values == [first + step * n for n in range(len(values))]:
                return self.t.simplified(self.variable * step + first)
            times = values.count(values[0])
            if values == [n // times for n in range(len(values))]:
                return apply(Op.FLOORDIV, self.variable, const(times))
        result = branches[-1]
        for number in range(len(branches) - 2, -1, -1):
            result = select(apply(Op.LE, self.variable, const(number)), branches[number], result)
        return result

    def _sums(self, branches: Sequence[Expr]) -> Expr | None:
        reductions = [self.t.reductions[branch] for branch in branches]
        first = reductions[0]
        if any((one.op, one.bound, one.length) != (first.op, first.bound, first.length) for one in reductions):
            return None
        body = self.united([one.body for one in reductions])
        return None if body is None else self.t.atom(first.op, body, first.bound, first.length)

    def _scores(self, branches: Sequence[Expr]) -> Expr | None:
        """Products of each head's q and k, as one product of all heads."""
        by_name = {product.name: product for product in self.products.found.values()}
        column = branches[0].args[-1]
        if any(branch.attr not in by_name or branch.args[-1] is not column for branch in branches):
            return None
        products = [by_name[str(branch.attr)] for branch in branches]
        left, right = self.united([one.left for one in products]), self.united([one.right for one in products])
        if left is None or right is None or len({one.depth for one in products}) > 1:
            return None
        return self.products.read(self.t, self.products.add(left, right, products[0]), column)
