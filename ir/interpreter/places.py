"""References resolved to places in memory: which elements a tile covers, with the check of bounds."""

from __future__ import annotations

from ..errors import OutOfBounds, ProgramError
from ..evaluate import Array
from ..expr import Expr
from ..program import All, Index, Ref, TileAxis
from .clocks import Thread
from .expressions import scalar_of
from .gathers import Scattered, axes_of, scattered
from .machine import Worker
from .memory import Memory, Place
from .races import Mode
from .tiles import Tile, TileVariable, align

Selection = tuple[int | slice, int, int, int | None, str]  # index, low, high, static size, axis


def place_of(worker: Worker, ref: Ref, where: Expr | None = None) -> Place | Scattered:
    """The place a reference means now. Raises OutOfBounds when it starts outside its memory."""
    memory = worker.memory(ref.name)
    if len(ref.indices) != len(memory.dims):
        reason = f"{ref.name} has {len(memory.dims)} dimensions, but {len(ref.indices)} indices are given"
        raise ProgramError("types", reason, worker.line)
    if where is not None or any(isinstance(item, Expr) and axes_of(worker, item) for item in ref.indices):
        return scattered(worker, ref, where)
    chosen = [_select(worker, memory, position, item) for position, item in enumerate(ref.indices)]
    return Place(
        memory,
        index=tuple(item[0] for item in chosen),
        box=tuple((item[1], item[2]) for item in chosen),
        axes=tuple(item[4] for item in chosen if item[3] is not None),
        shape=tuple(item[3] for item in chosen if item[3] is not None),
    )


def _select(worker: Worker, memory: Memory, position: int, item: Index) -> Selection:
    size = memory.values.shape[position]
    if isinstance(item, All):
        return slice(0, size), 0, size, size, memory.dims[position]
    if isinstance(item, TileAxis):
        return _rows(worker, memory, position, item.name)
    number = scalar_of(worker, item)
    if not 0 <= number < size:
        raise _outside(worker, memory, position, f"index {number}")
    return number, number, number + 1, None, ""


def _rows(worker: Worker, memory: Memory, position: int, name: str) -> Selection:
    """A tile's rows; a buffer that is one tile high holds the current tile, whatever its number."""
    variable = worker.tiles.get(name)
    if not isinstance(variable, TileVariable):
        raise ProgramError("known names", f"{name!r} is not a tile variable here", worker.line)
    size, tile = memory.values.shape[position], variable.tile
    if memory.space in ("shared", "register", "global") and size == tile:
        return slice(0, size), 0, size, size, name
    low = variable.start
    if not 0 <= low < size:
        raise _outside(worker, memory, position, f"tile {variable.number} of {tile} rows ({name})")
    high = min(low + tile, size)
    return slice(low, high), low, high, tile, name


def _outside(worker: Worker, memory: Memory, position: int, what: str) -> OutOfBounds:
    size = memory.values.shape[position]
    return OutOfBounds(
        f"out of bounds: line {worker.line.number} touches {what} of dimension {memory.dims[position]} of "
        f"{memory.name}, which has {size} elements; shorten the loop or grid, or guard the line",
        worker.line,
        memory.line,
    )


def touch(worker: Worker, place: Place | Scattered, mode: Mode, thread: Thread | None = None) -> None:
    """Note an access by the worker, or by another thread for it. Raises DataRace."""
    suspect = place.note(mode, thread or worker.thread, worker.line)
    if suspect is not None:
        worker.machine.suspects.append(suspect)


def read(worker: Worker, ref: Ref, where: Expr | None = None) -> Tile:
    """The tile at a reference, read by the worker now."""
    place = place_of(worker, ref, where)
    touch(worker, place, Mode.READ)
    return Tile(place.read(), place.axes)


def writable(worker: Worker, ref: Ref, where: Expr | None = None) -> Place | Scattered:
    """The place of something to be written. Raises ProgramError for an input."""
    place = place_of(worker, ref, where)
    if place.memory.is_input:
        raise ProgramError("outputs", f"{ref.name} is an input and cannot be written", worker.line)
    return place


def fitted(worker: Worker, tile: Tile, place: Place | Scattered) -> Array:
    """A tile's values in the order of a place's axes. Raises ProgramError when it has others."""
    extra = [axis for axis in tile.axes if axis not in place.axes]
    if extra:
        reason = f"a tile with axes {list(tile.axes)} written to a place with axes {list(place.axes)}"
        raise ProgramError("types", reason, worker.line)
    return align(tile, place.axes)
