"""Which tiles a tile loop visits: its predicate's domain, analysed once per row tile and set of scalars."""

from __future__ import annotations

from typing import Any

from ..domain import classify, visited
from ..dtypes import Kind
from ..errors import OutOfBounds, ProgramError
from ..expr import Expr, Op, const, substitute, var
from ..program import TileLoop
from .expressions import scalar_of, value_of
from .machine import Worker
from .prepare import inline
from .tiles import TileVariable

_NO_ROWS = TileVariable(0, 1, 1)
Scalars = tuple[tuple[str, Any], ...]


def visited_tiles(worker: Worker, s: TileLoop) -> list[int]:
    """Numbers of the tiles that the loop visits, in its order."""
    predicate, scalars, rows = _predicate(worker, s)
    columns = scalar_of(worker, s.tiles.extent)
    key = (id(s), predicate, scalars, rows.tile, rows.extent, columns)
    visits = worker.machine.visits
    if key not in visits:
        sizes = worker.machine.sizes
        inputs = {name: m.values for name, m in worker.memories.items() if m.is_input}
        classes = classify(
            predicate, shape=(rows.extent, columns), tile=(rows.tile, s.tiles.tile),
            scalars={**sizes, **dict(scalars)}, tensors=inputs,
        )  # fmt: skip
        visits[key] = [row.tolist() for row in visited(classes, s.part, s.order)]
    if not 0 <= rows.number < len(visits[key]):
        raise OutOfBounds(
            f"out of bounds: line {worker.line.number} asks for the domain of row tile {rows.number} of "
            f"{len(visits[key])}; guard the loop",
            worker.line,
        )
    return visits[key][rows.number]


def _predicate(worker: Worker, s: TileLoop) -> tuple[Expr, Scalars, TileVariable]:
    """The predicate over VARs i (rows) and j (columns), its scalars' values, the current row tile."""
    if s.where is None:
        return const(True), (), _NO_ROWS
    program = worker.machine.program
    region = program.region(str(s.where.attr))
    values: dict[str, Expr] = {}
    scalars: list[tuple[str, Any]] = []
    rows: str | None = None
    for param, arg in zip(region.params, s.where.args, strict=True):
        name = str(arg.attr) if arg.op is Op.VAR else ""
        if name == s.name:
            values[param.name] = var("j")
        elif name in worker.tiles:
            if rows not in (None, name):
                raise ProgramError("domain", f"where= has two row tiles, {rows!r} and {name!r}", worker.line)
            rows, values[param.name] = name, var("i")
        else:
            values[param.name] = var(f"scalar_{param.name}", param.kind)
            scalars.append((f"scalar_{param.name}", _scalar(worker, arg, param.kind)))
    predicate = substitute(inline(region.body, program), values)
    return predicate, tuple(scalars), worker.tiles[rows] if rows else _NO_ROWS


def _scalar(worker: Worker, arg: Expr, kind: Kind) -> int | float:
    if kind is Kind.FLOAT:
        return float(value_of(worker, arg).values)
    return scalar_of(worker, arg)
