"""Memory: values, a mask of what has been written, and the places in it that tiles go to and come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dtypes import DType, Kind
from ..errors import ProgramLine, UninitialisedRead
from ..evaluate import Array, as_kind, convert
from .clocks import Thread
from .races import Box, History, Mode

Index = tuple[int | slice, ...]


@dataclass(slots=True, eq=False)
class Memory:
    """A tensor or buffer. Inputs have no `written` mask and no `history`: they are only read."""

    name: str
    dtype: DType
    dims: tuple[str, ...]
    values: Array
    line: ProgramLine
    space: str
    written: npt.NDArray[np.bool_] | None = None
    history: History | None = None

    @property
    def is_input(self) -> bool:
        """Whether the memory belongs to the caller and is only read."""
        return self.written is None

    def private_copy(self) -> Memory:
        """The same contents for another worker."""
        assert self.written is not None
        return Memory(
            self.name, self.dtype, self.dims, self.values.copy(), self.line, self.space, self.written.copy(),
            History(self.name, self.values.ndim),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A tile's place: `index` selects what exists of it; `shape` and `axes` are the whole tile's."""

    memory: Memory
    index: Index
    box: Box
    axes: tuple[str, ...]
    shape: tuple[int, ...]

    def note(self, mode: Mode, thread: Thread, line: ProgramLine) -> UninitialisedRead | None:
        """Note an access; the error it makes when it takes what nobody has written. Raises DataRace."""
        memory = self.memory
        if memory.history is None or memory.written is None:
            return None
        memory.history.access(self.box, mode, thread, line)
        written = memory.written[self.index]
        if mode is Mode.WRITE or written.all():
            return None
        offsets = iter(np.argwhere(~written)[0]) if written.ndim else iter(())
        element = [int(i.start + next(offsets)) if isinstance(i, slice) else i for i in self.index]
        return UninitialisedRead(
            f"uninitialised read: line {line.number} {mode.value} {memory.name}{element}, which nobody has "
            f"written; write it first, and order that write before this line",
            line,
            self.memory.line,
        )

    def read(self) -> Array:
        """The tile; rows past the end are zero."""
        found = self.memory.values[self.index]
        if np.shape(found) == self.shape:
            return np.array(found)
        tile = np.zeros(self.shape, self.memory.values.dtype)
        tile[_corner(np.shape(found))] = found
        return tile

    def write(self, values: Array, is_exact: bool) -> None:
        """Store a tile of the static size, rounded to the memory's type; rows past the end are left out."""
        memory = self.memory
        assert memory.written is not None
        part = np.broadcast_to(values, self.shape)[_corner(np.shape(memory.values[self.index]))]
        memory.values[self.index] = rounded(part, memory.dtype, memory.values.dtype, is_exact)
        memory.written[self.index] = True


def _corner(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in shape)


def rounded(values: Array, dtype: DType, stored: np.dtype[Any], is_exact: bool) -> Array:
    """Values as the element type holds them; exact arithmetic does not round floats."""
    if is_exact and dtype.kind is Kind.FLOAT:
        return np.asarray(values).astype(stored)
    with np.errstate(all="ignore"):
        return np.asarray(convert(values, dtype)).astype(stored)


def storage(shape: tuple[int, ...], dtype: DType, float_type: type[np.floating]) -> Array:
    """Poisoned values: NaN, the least integer, or False."""
    if dtype.kind is Kind.FLOAT:
        return np.full(shape, np.nan, float_type)
    if dtype.kind is Kind.INT:
        return np.full(shape, np.iinfo(np.int64).min, np.int64)
    return np.zeros(shape, np.bool_)


def stored_input(values: Array, dtype: DType, float_type: type[np.floating]) -> Array:
    """An argument as its element type holds it, in the type that its kind is computed in."""
    plain = as_kind(values, dtype.kind, float_type)
    return rounded(plain, dtype, plain.dtype, float_type is np.float64)
