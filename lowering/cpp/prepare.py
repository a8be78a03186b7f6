"""Passes that put a program into the form that C++ emission reads: whole tiles told apart, calls inlined, index names
and flags propagated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ...ir.algebra import simplify
from ...ir.domain import known_in_whole_tiles
from ...ir.dtypes import Kind
from ...ir.edit import edit_program, map_expressions, name_bound, names_read
from ...ir.expr import Expr, Op, free_vars, substitute, transform, var, walk
from ...ir.program import Let, Program, Statement, TileLoop, statements
from ...ir.shapes import infer
from .loops import domain_of
from .storage import FEW_ROWS

WHOLE = "whole tile "


def prepare(program: Program) -> Program:
    """The pipeline: tell whole tiles apart, inline regions, propagate indices and truth values, simplify."""
    for rewrite in (tell_whole_tiles, inline_calls, propagate_simple, simplify_expressions):
        program = rewrite(program)
    return program


def tell_whole_tiles(program: Program) -> Program:
    """In loops over whole and masked tiles, let masks hold at once in the whole ones.

    rewrite:
        for n in tiles(N, 64, where=keep(b, h, m, n)):
            x = where(keep(b, h, i, j) & (j < N), s, -inf)      ->  x = where(W | keep(b, h, i, j) & (j < N), s, -inf)
    W is a truth value of the loop's tile, `whole_of("n")`, which the loop binds: sweeps are unswitched by it.
    needs: rows enough for masks to cost something; few rows (decoding) keep the exact exponential of a masked tile.
    """
    if not any(isinstance(s, TileLoop) and s.part == "any" for s in statements(program.body)):
        return program
    shapes = infer(program)

    def edit(statement: Statement) -> Statement:
        if not isinstance(statement, TileLoop) or statement.part != "any":
            return statement
        domain = domain_of(statement, program, shapes)
        is_few = domain is not None and domain.row is not None and shapes.tiles[domain.row].tile <= FEW_ROWS
        if domain is None or not domain.has_whole_tiles or is_few:
            return statement
        whole, is_known = whole_of(statement.name), known_in_whole_tiles(statement, program)
        inner = replace(program, body=statement.body)
        told = map_expressions(inner, lambda e: transform(e, lambda c: _told(c, whole, is_known)))
        return replace(statement, body=told.body)

    return edit_program(program, edit)


def _told(condition: Expr, whole: Expr, is_known: Callable[[Expr], bool]) -> Expr | None:
    """c -> whole | c where whole implies c, and whole | a & b for two such."""
    if is_known(condition):
        return whole | condition
    if condition.op is Op.AND and all(arg.op is Op.OR and arg.args[0] is whole for arg in condition.args):
        return whole | condition.args[0].args[1] & condition.args[1].args[1]
    return None


def whole_of(tile: str) -> Expr:
    """Whether the loop over `tile` is in a whole tile; no text can have a name like this."""
    return var(WHOLE + tile, Kind.BOOL)


def asks_whole(tile: str, body: tuple[Statement, ...]) -> bool:
    """Whether something in the body of the loop over `tile` reads `whole_of(tile)`."""
    return any(str(whole_of(tile).attr) in names_read(s) for s in statements(body))


def tile_of(condition: Expr) -> str | None:
    """The tile variable of a `whole_of`; None for another condition."""
    name = str(condition.attr) if condition.op is Op.VAR else ""
    return name.removeprefix(WHOLE) if name.startswith(WHOLE) else None


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
