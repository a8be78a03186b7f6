"""Additions of a tile's elements at places of their own, one after another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import OutOfBounds, ProgramError
from ..evaluate import Array
from ..expr import Expr
from ..program import ScatterAdd
from .expressions import value_of
from .machine import Worker
from .memory import Memory, Place
from .races import Mode
from .tiles import Tile, align

Integers = npt.NDArray[np.int64]


def scatter_add(worker: Worker, s: ScatterAdd) -> None:
    """scatter_add(target, value, where=…). Raises OutOfBounds for a place outside, DataRace where the box around the
    places is not this worker's alone."""
    memory, value = worker.memory(s.target.name), value_of(worker, s.value)
    if memory.is_input:
        raise ProgramError("outputs", f"{s.target.name} is an input and cannot be written", worker.line)
    exists = _existing(worker, value)
    if s.where is not None:
        exists = exists & align(value_of(worker, s.where), value.axes)
    places = tuple(_along(worker, s, position, Tile(exists, value.axes)) for position in range(len(s.target.indices)))
    if not exists.any():
        return
    _note(worker, memory, places)
    added, flat = value.values[exists].astype(memory.values.dtype), memory.values.reshape(-1)
    at = np.ravel_multi_index(places, memory.values.shape) if places else np.zeros(added.shape, np.int64)
    with np.errstate(all="ignore"):
        np.add.at(flat, at, added)


def _existing(worker: Worker, value: Tile) -> npt.NDArray[np.bool_]:
    """Which elements of a tile do not lie past an end."""
    exists = np.ones(value.values.shape, np.bool_)
    for position, axis in enumerate(value.axes):
        variable = worker.tiles[axis]
        shape = [-1 if n == position else 1 for n in range(exists.ndim)]
        exists &= (variable.indices() < variable.extent).reshape(shape)
    return exists


def _along(worker: Worker, s: ScatterAdd, position: int, exists: Tile) -> Integers:
    """The index along one dimension of every element that exists, in row-major order."""
    item, memory = s.target.indices[position], worker.memory(s.target.name)
    assert isinstance(item, Expr)
    found: Array = np.broadcast_to(align(value_of(worker, item, exists), exists.axes), exists.values.shape)
    places = found[exists.values].astype(np.int64)
    size = memory.values.shape[position]
    bad = places[(places < 0) | (places >= size)]
    if bad.size:
        raise OutOfBounds(
            f"out of bounds: line {worker.line.number} adds at index {int(bad[0])} of dimension "
            f"{memory.dims[position]} of {memory.name}, which has {size} elements; say with where= which are added",
            worker.line,
            memory.line,
        )
    return places


def _note(worker: Worker, memory: Memory, places: tuple[Integers, ...]) -> None:
    box = tuple((int(p.min()), int(p.max()) + 1) for p in places)
    assert memory.history is not None
    assert memory.written is not None
    memory.history.access(box, Mode.WRITE, worker.thread, worker.line)
    if not memory.written[places].all():
        whole = tuple(slice(low, high) for low, high in box)
        suspect = Place(memory, whole, box, (), ()).note(Mode.ADD, worker.thread, worker.line)
        worker.machine.suspects += [suspect] if suspect else []
