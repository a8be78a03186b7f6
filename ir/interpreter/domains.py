"""Which tiles a tile loop visits: its predicate's domain, analysed once per row tile and set of scalars."""

from __future__ import annotations

from typing import Any

from ..domain import classify, question_of, visited
from ..errors import OutOfBounds, ProgramError
from ..expr import Expr, Op, const, substitute, var, walk
from ..program import TileLoop
from .machine import Worker
from .statements import extent_of
from .tiles import TileVariable

_NO_ROWS = TileVariable(0, 1, 1)
Scalars = tuple[tuple[str, Any], ...]


def visited_tiles(worker: Worker, s: TileLoop) -> list[int]:
    """Numbers of the tiles that the loop visits, in its order."""
    predicate, scalars, rows = _predicate(worker, s)
    columns = extent_of(worker, s.tiles)
    key = (id(s), predicate, scalars, rows.tile, rows.extent, columns)
    visits = worker.machine.visits
    if key not in visits:
        tiles = (rows.extent // rows.tile + 1) * (columns // s.tiles.tile + 1)
        worker.machine.meter.count(tiles, "tiles of a domain", worker.line)
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
    machine = worker.machine
    if id(s) not in machine.questions:
        try:
            machine.questions[id(s)] = question_of(s, machine.program)
        except ValueError as error:
            raise ProgramError("domains-are-predicates", str(error), worker.line) from None
    asked = machine.questions[id(s)]
    if asked is None:
        return const(True), (), _NO_ROWS
    renamed = {asked.row_name: "i", asked.column_name: "j"}
    names = sorted({str(e.attr) for e in walk(asked.predicate) if e.op is Op.VAR} - set(renamed))
    values = {name: var(f"scalar_{name}") for name in names} | {old: var(new) for old, new in renamed.items()}
    scalars = tuple((f"scalar_{name}", int(worker.lookup(name).values)) for name in names)
    rows = _NO_ROWS if asked.row is None else worker.tiles[asked.row]
    return substitute(asked.predicate, values), scalars, rows
