"""Places whose rows lie where a tile of indices says: which rows exist, and reading and writing those alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import DataRace, OutOfBounds, ProgramError, ProgramLine, UninitialisedRead
from ..evaluate import Array
from ..expr import Expr, Op, walk
from ..program import All, Ref, TileAxis
from .clocks import Thread
from .expressions import value_of
from .machine import Worker
from .memory import Memory, rounded
from .races import Box, Mode
from .tiles import Tile

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Scattered:
    """Rows of a tile at places of their own.

    `positions`: which rows of the tile exist. `places`: per dimension their indices (a column), or all the indices
    that every row covers (a row).
    """

    memory: Memory
    positions: Integers
    places: tuple[Integers, ...]
    is_row_index: tuple[bool, ...]
    axes: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def box(self) -> Box:
        """The bounds of all rows; for additions in order, which scattered places do not take."""
        return tuple((int(p.min()), int(p.max()) + 1) if p.size else (0, 0) for p in self.places)

    def note(self, mode: Mode, thread: Thread, line: ProgramLine) -> UninitialisedRead | None:
        """Note an access; the error it makes when it takes what nobody has written. Raises DataRace."""
        memory = self.memory
        if memory.history is None or memory.written is None or not self.positions.size:
            return None
        if mode is Mode.WRITE:
            self._check_distinct(line)
        for box in self._boxes():
            memory.history.access(box, mode, thread, line)
        written = memory.written[self._grid()]
        if mode is Mode.WRITE or written.all():
            return None
        first = np.argwhere(~written)[0]
        element = [int(np.broadcast_to(part, written.shape)[tuple(first)]) for part in self._grid()]
        return UninitialisedRead(
            f"uninitialised read: line {line.number} {mode.value} {memory.name}{element}, which nobody has "
            f"written; write it first, and order that write before this line",
            line,
            memory.line,
        )

    def read(self) -> Array:
        """The tile; rows that do not exist, and what lies past the end of other dimensions, are zero."""
        tile = np.zeros(self.shape, self.memory.values.dtype)
        if self.positions.size:
            tile[self._target()] = self.memory.values[self._grid()]
        return tile

    def write(self, values: Array, is_exact: bool) -> None:
        """Store the rows that exist, rounded to the memory's type."""
        memory = self.memory
        assert memory.written is not None
        if not self.positions.size:
            return
        part = np.broadcast_to(values, self.shape)[self._target()]
        memory.values[self._grid()] = rounded(part, memory.dtype, memory.values.dtype, is_exact)
        memory.written[self._grid()] = True

    def _widths(self) -> list[int]:
        return [p.size for p, is_row in zip(self.places, self.is_row_index, strict=True) if not is_row]

    def _grid(self) -> tuple[Integers, ...]:
        """Index arrays that give [rows, other dimensions in order]."""
        rank, axis, found = len(self.shape), 0, []
        for part, is_row in zip(self.places, self.is_row_index, strict=True):
            axis += not is_row
            shape = [1] * rank
            shape[0 if is_row else axis] = part.size
            found.append(part.reshape(shape))
        return tuple(found)

    def _target(self) -> tuple[Integers, ...]:
        return np.ix_(self.positions, *(np.arange(width) for width in self._widths()))

    def _boxes(self) -> list[Box]:
        """One box for every run of rows that follow each other along one dimension."""
        rows = np.stack([p for p, is_row in zip(self.places, self.is_row_index, strict=True) if is_row], axis=1)
        step = np.diff(rows, axis=0)
        follows = (np.abs(step).sum(axis=1) == 1) & (step.sum(axis=1) == 1)
        follows[1:] &= (step[1:] == step[:-1]).all(axis=1) | ~follows[:-1]
        starts = np.flatnonzero(np.concatenate([[True], ~follows]))
        ends = np.concatenate([starts[1:], [len(rows)]])
        return [self._box(rows[first], rows[last - 1]) for first, last in zip(starts, ends, strict=True)]

    def _box(self, first: Integers, last: Integers) -> Box:
        bounds = iter(zip(first, last, strict=True))
        found = []
        for part, is_row in zip(self.places, self.is_row_index, strict=True):
            low, high = next(bounds) if is_row else (part[0], part[-1]) if part.size else (0, -1)
            found.append((int(low), int(high) + 1))
        return tuple(found)

    def _check_distinct(self, line: ProgramLine) -> None:
        rows = np.stack([p for p, is_row in zip(self.places, self.is_row_index, strict=True) if is_row], axis=1)
        kinds, counts = np.unique(rows, axis=0, return_counts=True)
        if len(kinds) < len(rows):
            at = int(np.argmax(counts > 1))
            twins = self.positions[(rows == kinds[at]).all(axis=1)]
            raise DataRace(
                f"data race on {self.memory.name}: rows {twins[0]} and {twins[1]} of the tile that line {line.number} "
                "stores lie at the same place; compute places that differ, or leave one out with where=",
                line,
            )


def scattered(worker: Worker, ref: Ref, where: Expr | None) -> Scattered:
    """The place of a reference with computed indices, or with `where=`. Raises OutOfBounds for rows outside."""
    memory = worker.memory(ref.name)
    axis = _rows_axis(worker, ref)
    variable = worker.tiles[axis]
    exists = variable.indices() < variable.extent
    if where is not None:
        exists = exists & value_of(worker, where).values
    needed = Tile(exists, (axis,))
    positions = np.flatnonzero(exists)
    places, is_row, names, shape = [], [], [axis], [variable.tile]
    for position, item in enumerate(ref.indices):
        size = memory.values.shape[position]
        if item == TileAxis(axis) or isinstance(item, Expr):
            value = Tile(variable.indices(), (axis,)) if isinstance(item, TileAxis) else value_of(worker, item, needed)
            rows = np.broadcast_to(value.values, exists.shape)[exists].astype(np.int64)
            _check(worker, memory, position, rows)
            places.append(rows)
            is_row.append(True)
            continue
        covered, name, width = _covered(worker, item, memory, position)
        _check(worker, memory, position, covered[:1] if size else covered)
        places.append(covered)
        is_row.append(False)
        names.append(name)
        shape.append(width)
    return Scattered(memory, positions, tuple(places), tuple(is_row), tuple(names), tuple(shape))


def _covered(worker: Worker, item: TileAxis | All, memory: Memory, position: int) -> tuple[Integers, str, int]:
    """The indices that every row covers along a dimension, the axis they are, and its whole width."""
    size = memory.values.shape[position]
    if isinstance(item, All):
        return np.arange(size), memory.dims[position], size
    variable = worker.tiles[item.name]
    return np.arange(variable.start, min(variable.start + variable.tile, size)), item.name, variable.tile


def _rows_axis(worker: Worker, ref: Ref) -> str:
    for item in ref.indices:
        if isinstance(item, Expr):
            for axis in axes_of(worker, item):
                return axis
    for item in ref.indices:
        if isinstance(item, TileAxis):
            return item.name
    raise ProgramError("types", f"where= of {ref.name} needs rows: a tile variable or a computed index", worker.line)


def axes_of(worker: Worker, expr: Expr) -> tuple[str, ...]:
    """Axes of an index expression."""
    found: dict[str, None] = {}
    for node in walk(expr):
        if node.op is Op.INDEX:
            found[str(node.attr)] = None
        elif node.op is Op.VAR:
            found |= dict.fromkeys(worker.lookup(str(node.attr)).axes)
    return tuple(found)


def _check(worker: Worker, memory: Memory, position: int, rows: Integers) -> None:
    size = memory.values.shape[position]
    bad = rows[(rows < 0) | (rows >= size)]
    if bad.size:
        raise OutOfBounds(
            f"out of bounds: line {worker.line.number} touches index {int(bad[0])} of dimension "
            f"{memory.dims[position]} of {memory.name}, which has {size} elements; say with where= which rows exist",
            worker.line,
            memory.line,
        )
