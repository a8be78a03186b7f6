"""Scores and weights as a person would write them: short constants, the product first, score and weight apart."""

from __future__ import annotations

import math

from ...algebra import simplify
from ...dtypes import Kind
from ...expr import Expr, Op, const, free_vars, transform, var, walk
from ...spec import S
from .forms import number, replaced
from .walk import Walker


def tidy_numbers(e: Expr, walker: Walker) -> Expr:
    """The expression with constants rounded to what a person would have written."""
    fixed = walker.program.fixed

    def snap(node: Expr) -> Expr | None:
        return const(snapped(float(node.attr), fixed)) if node.op is Op.CONST and node.kind is Kind.FLOAT else None  # type: ignore[arg-type]

    return transform(simplify(transform(e, snap)), _product_first)


def _product_first(node: Expr) -> Expr | None:
    """shift + s -> s + shift, s + -1.0 -> s - 1.0."""
    if node.op is not Op.ADD or node.kind is not Kind.FLOAT:
        return None
    left, right = node.args
    value = number(right)
    if value is not None and value < 0:
        return left - (-value)
    return right + left if "s" in free_vars(right) and "s" not in free_vars(left) else None


def snapped(x: float, fixed: dict[str, int]) -> float:
    """A number of few digits, or a head dimension's root, within 1e-6 of x; else x."""
    if not math.isfinite(x) or x == 0:
        return x
    roots = [sign / math.sqrt(size) for size in fixed.values() if size > 0 for sign in (1.0, -1.0)]
    for root in roots:
        if math.isclose(x, root, rel_tol=1e-6):
            return root
    for digits in range(1, 6):
        short = float(f"{x:.{digits}g}")
        if math.isclose(x, short, rel_tol=1e-6):
            return short
    return x


def split_weight(weight: Expr) -> tuple[Expr, Expr]:
    """(score, weight) of a weight over s: the score is the largest part that is linear in s and holds every s."""
    best: Expr = S
    for node in walk(weight):
        if node.kind is Kind.FLOAT and _is_linear(node) and _only(weight, node):
            best = node
    rest = transform(weight, lambda e: S if e is best else None)
    return best, rest


def _is_linear(e: Expr) -> bool:
    if e is S:
        return True
    if e.op in (Op.ADD, Op.SUB):
        return any(_is_linear(a) and "s" not in free_vars(b) for a, b in (e.args, e.args[::-1]))
    if e.op is Op.MUL:
        return any(_is_linear(a) and number(b) is not None for a, b in (e.args, e.args[::-1]))
    return False


def _only(whole: Expr, part: Expr) -> bool:
    """Whether every s of an expression lies in the part."""
    marker = var("@part", Kind.FLOAT)
    return "s" not in free_vars(replaced(whole, {part: marker}))
