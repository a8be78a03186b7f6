"""Values of scalar expressions on tiles, with loads that check bounds, writes and races."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OutOfBounds, ProgramError
from ..evaluate import Array, evaluate
from ..expr import Expr, Op
from .machine import Worker
from .memory import Memory, Place
from .prepare import prepare
from .races import Mode
from .tiles import Tile, align, union


def value_of(worker: Worker, expr: Expr, needed: Tile | None = None) -> Tile:
    """The expression's value, element by element, on the axes of the tiles in it.

    `needed`: the elements that anyone asks for; at others a load outside its tensor is no error.
    """
    if expr.op is Op.VAR:
        return worker.lookup(str(expr.attr))
    machine = worker.machine
    ready = machine.prepared.get(expr)
    if ready is None:
        ready = machine.prepared[expr] = prepare(expr, machine.program, machine.is_exact)
    tiles = {name: worker.lookup(name) for name in ready.names}
    for name, variable in ready.indices:
        tiles[name] = Tile(_tile_variable(worker, variable).indices(), (variable,))
    axes = union(tile.axes for tile in tiles.values())
    env: dict[str, Any] = {name: align(tile, axes) for name, tile in tiles.items()}
    for name, node in ready.loads:
        indices = [evaluate(arg, env, {}, None, machine.float_type) for arg in node.args]
        wanted = None if needed is None or set(needed.axes) - set(axes) else align(needed, axes)
        env[name] = _gather(worker, worker.memory(str(node.attr)), indices, axes, wanted)
    return Tile(evaluate(ready.value, env, {}, None, machine.float_type), axes)


def scalar_of(worker: Worker, expr: Expr) -> int:
    """The value of an integer or truth expression without axes. Raises ProgramError when it is a tile."""
    if expr.op is Op.CONST:
        return int(expr.attr)  # type: ignore[call-overload, no-any-return]
    value = value_of(worker, expr)
    if value.axes:
        raise ProgramError("types", f"wanted a single number, got a tile with axes {list(value.axes)}", worker.line)
    if value.values.dtype.kind == "f":
        raise ProgramError("types", f"wanted an integer, got the float {float(value.values):g}", worker.line)
    return int(value.values)


def _tile_variable(worker: Worker, name: str) -> Any:
    if name not in worker.tiles:
        raise ProgramError("known names", f"{name!r} is not a tile variable here", worker.line)
    return worker.tiles[name]


def _gather(
    worker: Worker, memory: Memory, indices: list[Array], axes: tuple[str, ...], wanted: Array | None
) -> Array:
    """One element per element of the indices; zero where a row past a ragged end leaves the tensor."""
    sizes = memory.values.shape
    if len(indices) != len(sizes):
        reason = f"{memory.name} has {len(sizes)} dimensions, but {len(indices)} indices are given"
        raise ProgramError("types", reason, worker.line)
    outside = np.zeros(np.broadcast_shapes(*(index.shape for index in indices)), np.bool_)
    for index, size in zip(indices, sizes, strict=True):
        outside = outside | (index < 0) | (index >= size)
    if outside.any():
        wrong = outside & ~_ragged(worker, axes, outside.ndim)
        _check_inside(worker, memory, indices, wrong if wanted is None or not wrong.ndim else wrong & wanted)
        if memory.values.size == 0:
            return np.zeros(outside.shape, memory.values.dtype)
        indices = [np.clip(index, 0, size - 1) for index, size in zip(indices, sizes, strict=True)]
    if not memory.is_input:
        _check_read(worker, memory, indices)
    found = memory.values[tuple(indices)]
    return np.where(outside, np.zeros((), found.dtype), found) if outside.any() else np.asarray(found)


def _ragged(worker: Worker, axes: tuple[str, ...], rank: int) -> npt.NDArray[np.bool_]:
    """Which elements of a tile with these axes lie past a ragged end."""
    mask = np.zeros((1,) * rank, np.bool_)
    for position, axis in enumerate(axes[:rank]):
        variable = worker.tiles.get(axis)
        if variable is not None and variable.start + variable.tile > variable.extent:
            past = variable.indices() >= variable.extent
            mask = mask | past.reshape([-1 if n == position else 1 for n in range(rank)])
    return mask


def _check_inside(worker: Worker, memory: Memory, indices: list[Array], outside: npt.NDArray[np.bool_]) -> None:
    if not outside.any():
        return
    first = tuple(np.argwhere(outside)[0]) if outside.ndim else ()
    element = [int(np.broadcast_to(index, outside.shape)[first]) for index in indices]
    raise OutOfBounds(
        f"out of bounds: line {worker.line.number} loads {memory.name}{element}, which has shape "
        f"{list(memory.values.shape)}; clamp the index or guard the load",
        worker.line,
        memory.line,
    )


def _check_read(worker: Worker, memory: Memory, indices: list[Array]) -> None:
    """Check a gather from memory that is written; for races it counts as its bounding box."""
    if any(index.size == 0 for index in indices):
        return
    box = tuple((int(index.min()), int(index.max()) + 1) for index in indices)
    assert memory.history is not None
    assert memory.written is not None
    memory.history.access(box, Mode.READ, worker.thread, worker.line)
    if not memory.written[tuple(indices)].all():
        whole = tuple(slice(low, high) for low, high in box)
        suspect = Place(memory, whole, box, (), ()).note(Mode.READ, worker.thread, worker.line)
        worker.machine.suspects += [suspect] if suspect else []
