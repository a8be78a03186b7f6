"""Questions about a body of statements: which names it binds, which expressions it holds, which tiles it refers to."""

from __future__ import annotations

from dataclasses import fields

from ...ir.expr import Expr, Op, free_vars, loads, walk
from ...ir.program import (
    Fill,
    Gemm,
    Grid,
    Let,
    Load,
    RangeLoop,
    Reduce,
    Ref,
    Statement,
    TileAt,
    TileAxis,
    TileLoop,
    statements,
)  # fmt: skip

BINDERS = (Load, Fill, Let, Gemm, Reduce, TileAt, TileLoop, RangeLoop)


def bound_names(body: tuple[Statement, ...]) -> set[str]:
    """Names that statements of a body bind, at any depth."""
    return {s.name for s in statements(body) if isinstance(s, BINDERS)}


def references(statement: Statement) -> list[Ref]:
    """References in a statement itself, not in its body."""
    found = [getattr(statement, name.name) for name in fields(statement) if name.name != "body"]
    return [value for value in found if isinstance(value, Ref)]


def tile_references(body: tuple[Statement, ...]) -> set[str]:
    """Tile variables that some reference of a body covers rows of."""
    return {
        item.name
        for s in statements(body)
        for ref in references(s)
        for item in ref.indices
        if isinstance(item, TileAxis)
    }


def is_run_time(extent: Expr, sizes: tuple[str, ...]) -> bool:
    """Whether an extent is known only while the kernel runs: it is no expression of sizes."""
    return bool(loads(extent)) or not free_vars(extent) <= set(sizes)


def expressions_of(body: tuple[Statement, ...]) -> list[Expr]:
    """Expressions that statements of a body evaluate, at any depth, in text order."""
    found: list[Expr] = []
    for s in statements(body):
        if isinstance(s, (TileLoop, Grid)):
            continue
        values = [getattr(s, name.name) for name in fields(s) if name.name != "body"]
        indices = [item for ref in references(s) for item in ref.indices]
        found += [value for value in (*values, *indices) if isinstance(value, Expr)]
    return found


def names_in(ref: Ref, where: Expr | None) -> set[str]:
    """Names that the place of a reference depends on."""
    tiles = {item.name for item in ref.indices if isinstance(item, TileAxis)}
    return tiles.union(*(dependencies(e) for e in (*ref.indices, where) if isinstance(e, Expr)))


def dependencies(node: Expr) -> set[str]:
    """Names and tile variables that an expression's value depends on."""
    return {str(part.attr) for part in walk(node) if part.op in (Op.VAR, Op.INDEX)}
