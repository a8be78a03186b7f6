"""Passes that put a program into the form that C++ emission reads: calls inlined, index names and flags propagated."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.algebra import simplify
from ...ir.dtypes import Kind
from ...ir.edit import edit_program, map_expressions, name_bound
from ...ir.expr import Expr, Op, free_vars, substitute, transform, walk
from ...ir.program import Let, Program, statements


def prepare(program: Program) -> Program:
    """The pipeline: inline regions, propagate indices and truth values, simplify."""
    for rewrite in (inline_calls, propagate_simple, simplify_expressions):
        program = rewrite(program)
    return program


def inline_calls(program: Program) -> Program:
    """Replace calls of regions by their bodies.

    rewrite:
        x = score(s, b, h, i, j) * 1.44      ->      x = 50.0 * tanh(s * 0.0025) * 1.44
    needs: nothing (the domains of tile loops keep their calls).
    """

    def expand(node: Expr) -> Expr | None:
        if node.op is not Op.CALL:
            return None
        region = program.region(str(node.attr))
        names = (param.name for param in region.params)
        return inline(substitute(region.body, dict(zip(names, node.args, strict=True))))

    def inline(expr: Expr) -> Expr:
        return transform(expr, expand)

    return map_expressions(program, inline)


def propagate_simple(program: Program) -> Program:
    """Substitute names that only ever stand for integers computed from an index vector, or for a truth value.

    rewrite:
        j = index(n); x = where(j < N, s, -inf)      ->      x = where(index(n) < N, s, -inf)
    needs: the name is always bound to the same expression, and that one reads no name bound twice.
    """
    bound: dict[str, set[Expr]] = {}
    for statement in statements(program.body):
        if isinstance(statement, Let):
            bound.setdefault(statement.name, set()).add(statement.value)
    single = {name: next(iter(values)) for name, values in bound.items() if len(values) == 1}
    changing = {name_bound(s) for s in statements(program.body)} - set(single)
    simple = {
        name: value
        for name, value in single.items()
        if value.op is Op.INDEX or (value.kind is Kind.BOOL and not free_vars(value) & changing)
    }
    simple |= _computed_indices(program, single)
    if not simple:
        return program

    def expand(expr: Expr) -> Expr:
        while free_vars(expr) & set(simple):
            expr = substitute(expr, simple)
        return expr

    kept = edit_program(program, lambda s: () if isinstance(s, Let) and s.name in simple else s)
    return map_expressions(kept, expand)


def _computed_indices(program: Program, single: Mapping[str, Expr]) -> dict[str, Expr]:
    """Names of integers that vary with an index: places, whose addresses are computed row by row."""
    changing = {name_bound(s) for s in statements(program.body)} - set(single)
    known = {n: v for n, v in single.items() if v.kind is Kind.INT and not free_vars(v) & changing}
    found = {name: value for name, value in known.items() if any(node.op is Op.INDEX for node in walk(value))}
    while True:
        more = {n: v for n, v in known.items() if n not in found and free_vars(v) & set(found)}
        if not more:
            return found
        found |= more


def simplify_expressions(program: Program) -> Program:
    """Fold constants and drop what does nothing, by the rules of `ir/algebra.py`."""
    return map_expressions(program, simplify)
