"""Editing programs: rebuild bodies statement by statement, find uses, drop what nothing reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from .dtypes import DType, Kind
from .expr import Expr, Op, cast, free_vars, rebuild, substitute, transform, walk
from .program import (
    All,
    Arrive,
    Block,
    Copy,
    Fill,
    Gemm,
    Grid,
    If,
    Let,
    Load,
    Operand,
    Program,
    RangeLoop,
    Reduce,
    ReduceAdd,
    Ref,
    ScatterAdd,
    Statement,
    Store,
    TileAt,
    TileAxis,
    TileLoop,
    Tiles,
    Wait,
    statements,
)  # fmt: skip

Edit = Callable[[Statement], Statement | tuple[Statement, ...]]
PURE = (Load, Fill, Let, Gemm, Reduce)


def edit_body(body: tuple[Statement, ...], edit: Edit) -> tuple[Statement, ...]:
    """Rebuild a body, innermost blocks first; an edit may give one statement, several or none."""
    out: list[Statement] = []
    for original in body:
        statement = original
        if isinstance(original, Block):
            statement = replace(original, body=edit_body(original.body, edit))
        edited = edit(statement)
        out.extend(edited if isinstance(edited, tuple) else (edited,))
    return tuple(out)


def edit_program(program: Program, edit: Edit) -> Program:
    """`edit_body` on the whole program."""
    return replace(program, body=edit_body(program.body, edit))


def expressions(statement: Statement) -> Iterator[Expr]:
    """The scalar expressions that a statement itself evaluates (not those of its body)."""
    for ref in references(statement):
        yield from (item for item in ref.indices if isinstance(item, Expr))
    if isinstance(statement, (Load, Store, ScatterAdd)) and statement.where is not None:
        yield statement.where
    if isinstance(statement, (Let, Fill, Store, ReduceAdd, ScatterAdd)):
        yield statement.value
    if isinstance(statement, Gemm) and statement.into is not None:
        yield statement.into
    if isinstance(statement, ReduceAdd) and statement.after is not None:
        yield statement.after
    if isinstance(statement, TileLoop):
        yield from extents(statement.tiles)
        if statement.where is not None:
            yield statement.where
    if isinstance(statement, RangeLoop):
        yield from (statement.start, statement.stop)
    if isinstance(statement, If):
        yield statement.condition
    if isinstance(statement, Wait):
        yield statement.phase
    if isinstance(statement, TileAt):
        yield from (*extents(statement.tiles), statement.number)
    if isinstance(statement, Grid):
        for extent in statement.extents:
            yield from extents(extent)


def extents(cut: Tiles | Expr) -> tuple[Expr, ...]:
    """The expressions of a grid's or loop's extent."""
    if isinstance(cut, Tiles):
        return (cut.extent,) if cut.most is None else (cut.extent, cut.most)
    return (cut,)


def references(statement: Statement) -> Iterator[Ref]:
    """The places in memory that a statement names."""
    if isinstance(statement, Load):
        yield statement.source
    if isinstance(statement, (Store, ReduceAdd, ScatterAdd)):
        yield statement.target
    if isinstance(statement, Copy):
        yield from (statement.target, statement.source)
        if statement.signal is not None:
            yield statement.signal
    if isinstance(statement, (Arrive, Wait)):
        yield statement.barrier
    if isinstance(statement, Gemm):
        yield from (side for side in (statement.left, statement.right) if isinstance(side, Ref))


def names_read(statement: Statement) -> set[str]:
    """Names of tiles, scalars and tile variables that a statement reads (its own line only)."""
    found = {str(e.attr) for expr in expressions(statement) for e in walk(expr) if e.op in (Op.VAR, Op.INDEX)}
    for ref in references(statement):
        found |= {item.name for item in ref.indices if isinstance(item, TileAxis)}
    if isinstance(statement, Gemm):
        found |= {side for side in (statement.left, statement.right) if isinstance(side, str)}
    if isinstance(statement, Reduce):
        found |= {statement.source}
    return found


def name_bound(statement: Statement) -> str | None:
    """The tile or scalar that a pure statement computes."""
    return statement.name if isinstance(statement, PURE) else None


def eliminate_dead(program: Program) -> Program:
    """Drop computations whose names no effect needs.

    rewrite:
        t = reduce_max(x, axis=n)      ->      (nothing, when t is read by nobody but dead statements)
    needs: nothing.
    """
    live: set[str] = set()
    while True:
        before = len(live)
        for statement in statements(program.body):
            name = name_bound(statement)
            if name is None or name in live:
                live |= names_read(statement)
        if len(live) == before:
            break
    return edit_program(program, lambda s: () if name_bound(s) not in (None, *live) else s)


def map_expressions(program: Program, rewrite: Callable[[Expr], Expr]) -> Program:
    """Apply a rewrite to the expressions of all statements; the calls that are domains keep their regions."""

    def optional(value: Expr | None) -> Expr | None:
        return None if value is None else rewrite(value)

    def cut(tiles: Tiles) -> Tiles:
        return Tiles(rewrite(tiles.extent), tiles.tile, optional(tiles.most))

    def place(ref: Ref) -> Ref:
        return Ref(ref.name, tuple(rewrite(item) if isinstance(item, Expr) else item for item in ref.indices))

    edits: dict[type, Callable[[Any], Statement]] = {
        Let: lambda s: replace(s, value=rewrite(s.value)),
        Fill: lambda s: replace(s, value=rewrite(s.value)),
        Load: lambda s: replace(s, source=place(s.source), where=optional(s.where)),
        Store: lambda s: replace(s, target=place(s.target), value=rewrite(s.value), where=optional(s.where)),
        ReduceAdd: lambda s: replace(s, target=place(s.target), value=rewrite(s.value), after=optional(s.after)),
        ScatterAdd: lambda s: replace(s, target=place(s.target), value=rewrite(s.value), where=optional(s.where)),
        Gemm: lambda s: replace(s, into=optional(s.into)),
        If: lambda s: replace(s, condition=rewrite(s.condition)),
        RangeLoop: lambda s: replace(s, start=rewrite(s.start), stop=rewrite(s.stop)),
        TileAt: lambda s: replace(s, tiles=cut(s.tiles), number=rewrite(s.number)),
        TileLoop: lambda s: replace(s, tiles=cut(s.tiles), where=_with_arguments(s.where, rewrite)),
        Grid: lambda s: replace(
            s, extents=tuple(cut(e) if isinstance(e, Tiles) else rewrite(e) for e in s.extents)
        ),
    }
    return edit_program(program, lambda s: edits[type(s)](s) if type(s) in edits else s)


def _with_arguments(domain: Expr | None, rewrite: Callable[[Expr], Expr]) -> Expr | None:
    return None if domain is None else rebuild(domain, tuple(rewrite(arg) for arg in domain.args))


def definitions(program: Program) -> dict[str, Expr]:
    """What a name stands for, of names that only assignments of one and the same expression bind, which does not read
    the name itself."""
    bound: dict[str, set[Expr | None]] = {}
    for statement in statements(program.body):
        name = name_bound(statement)
        if name is not None:
            bound.setdefault(name, set()).add(statement.value if isinstance(statement, Let) else None)
    single = {name: next(iter(values)) for name, values in bound.items() if len(values) == 1}
    known = {name: value for name, value in single.items() if value is not None}
    settled: dict[str, Expr] = {}
    while True:
        ready = {name: value for name, value in known.items() if free_vars(value) & known.keys() <= settled.keys()}
        if len(ready) == len(settled):
            return settled
        settled = ready


def resolved(expr: Expr, known: Mapping[str, Expr]) -> Expr:
    """The expression with the names of `known`, and those in what they stand for, replaced."""
    while free_vars(expr) & known.keys():
        expr = substitute(expr, known)
    return expr


def inlined(expr: Expr, program: Program) -> Expr:
    """The expression with every call of a region replaced by the region's body."""

    def replaced(node: Expr) -> Expr | None:
        if node.op is not Op.CALL:
            return None
        region = program.region(str(node.attr))
        values = {}
        for param, arg in zip(region.params, node.args, strict=True):
            widens = param.kind is Kind.FLOAT and arg.kind is Kind.INT
            values[param.name] = cast(arg, DType.F64) if widens else arg
        return substitute(inlined(region.body, program), values)

    return transform(expr, replaced)


def without_factor(expr: Expr, name: str) -> Expr:
    """The expression with every product by variable `name` replaced by the other factor."""

    def drop(node: Expr) -> Expr | None:
        if node.op is not Op.MUL:
            return None
        sides = [side for side in node.args if not (side.op is Op.VAR and side.attr == name)]
        return sides[0] if len(sides) == 1 else None

    return transform(expr, drop)


def is_name(operand: Operand, name: str) -> bool:
    """Whether a gemm's operand is the tile of that name."""
    return operand == name


def whole_tile(tensor: str, leading: tuple[Expr, ...], tile: str) -> Ref:
    """`tensor[leading…, tile, :]`."""
    return Ref(tensor, (*leading, TileAxis(tile), All()))
