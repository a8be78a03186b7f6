"""Run a program on NumPy arrays: its meaning, under one interleaving or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ..errors import ProgramLine, ShapeError, UninitialisedRead
from ..evaluate import Array
from ..program import Param, Program, ReduceAdd
from .blocks import run_body
from .limits import Limits, Meter
from .machine import Machine, Worker
from .memory import Memory, storage, stored_input
from .races import History
from .scheduler import Scheduler, Task
from .steps import Step, Team, binding_lines, parameter_lines, steps_of
from .synchronisation import wait_for


def interpret(  # noqa: PLR0913 - what a run is asked for, each with a default
    program: Program,
    arguments: Mapping[str, Array],
    *,
    seed: int = 0,
    float_type: type[np.floating] = np.float32,
    resident: int | None = None,
    sizes: Mapping[str, int] | None = None,
    limits: Limits | None = None,
) -> dict[str, Array]:
    """The program's outputs by name, as arrays of `float_type` (int64, bool for other kinds).

    `arguments`: one array per input parameter, of its dims; bf16 and f16 values are held in float32. `sizes`: those
    that no input has as a dim (the longest sequence, a number of splits). All
    that is concurrent is interleaved under `seed`. `float_type=np.float64` is exact arithmetic: no rounding
    to the program's element types. `resident`: how many instances of a grid run at a time, in issue order
    (None: all). `limits`: what the run may take (None: whatever it needs).

    Raises ShapeError for arguments that do not fit, and an InterpreterError when the program goes wrong:
    DataRace, Deadlock, BarrierPhaseError, UninitialisedRead, OutOfBounds, LimitExceeded.
    """
    steps = steps_of(program)
    bound = _bind_sizes(program, arguments, sizes or {})
    meter = Meter(limits)
    meter.check_tiles(program)
    machine = Machine(program, bound, float_type, Scheduler(seed, meter), resident, binding_lines(steps))
    lines = parameter_lines(program)
    for param in (param for param in program.params if param.is_output):
        shape = [dim if isinstance(dim, int) else bound.get(dim, 1) for dim in param.dims]
        meter.hold(prod(shape), f"output {param.name}", lines[param.name])
    memories = {p.name: _memory(p, arguments, bound, float_type, lines[p.name]) for p in program.params}
    first = ProgramLine(1, program.name)
    worker = Worker(machine, "the program", machine.threads.first(), first, memories=memories)
    machine.scheduler.spawn(_main(worker, steps))
    machine.run()
    return {param.name: _output(memories[param.name]) for param in program.params if param.is_output}


def _main(worker: Worker, steps: tuple[Step, ...]) -> Task:
    """The top level; it ends when its asynchronous operations have."""
    yield from run_body(worker, steps)
    for operation in worker.operations:
        yield from wait_for(worker, operation)


def _bind_sizes(program: Program, arguments: Mapping[str, Array], given: Mapping[str, int]) -> dict[str, int]:
    """Sizes by name, given or read off the inputs. Raises ShapeError where an argument does not fit."""
    sizes = {**given, **program.fixed}
    for name in program.free_sizes:
        if name not in sizes:
            raise ShapeError(f"{program.name}: size {name} is missing; pass it in sizes")
    for param in program.params:
        if param.is_output:
            continue
        if param.name not in arguments:
            raise ShapeError(f"{program.name}: argument {param.name} is missing; it needs dims {list(param.dims)}")
        shape = np.shape(arguments[param.name])
        if len(shape) != len(param.dims):
            raise ShapeError(f"{program.name}: {param.name} has shape {shape}, wanted dims {list(param.dims)}")
        for dim, size in zip(param.dims, shape, strict=True):
            wanted = dim if isinstance(dim, int) else sizes.setdefault(dim, size)
            if wanted != size:
                raise ShapeError(f"{program.name}: {param.name} has {dim}={size} in {shape}, wanted {wanted}")
    return sizes


def _memory(
    param: Param, arguments: Mapping[str, Array], sizes: dict[str, int], float_type: type[np.floating],
    line: ProgramLine,
) -> Memory:  # fmt: skip
    dims = tuple(str(dim) for dim in param.dims)
    if not param.is_output:
        values = stored_input(np.asarray(arguments[param.name]), param.dtype, float_type)
        return Memory(param.name, param.dtype, dims, values, line, "input")
    unknown = [dim for dim in param.dims if isinstance(dim, str) and dim not in sizes]
    if unknown:
        reason = f"output {param.name} has size {unknown[0]}, which no input has; add an input that has it"
        raise ShapeError(f"{reason}, or pass it in sizes")
    shape = tuple(dim if isinstance(dim, int) else sizes[dim] for dim in param.dims)
    values, written = storage(shape, param.dtype, float_type), np.zeros(shape, np.bool_)
    return Memory(param.name, param.dtype, dims, values, line, "output", written, History(param.name, len(shape)))


def _output(memory: Memory) -> Array:
    assert memory.written is not None
    if not memory.written.all():
        missing = int((~memory.written).sum())
        first = np.argwhere(~memory.written)[0].tolist() if memory.written.ndim else []
        raise UninitialisedRead(
            f"uninitialised read: the program never writes {missing} of the {memory.written.size} elements "
            f"of output {memory.name}, the first at {first}",
            memory.line,
        )
    return memory.values


@dataclass(frozen=True, slots=True)
class Difference:
    """An output that depends on the interleaving: seeds that disagree, and on how many elements."""

    output: str
    seeds: tuple[int, int]
    elements: int


@dataclass(frozen=True, slots=True)
class Exploration:
    """What several interleavings gave. `unordered`: additions without a rank, in any order."""

    outputs: dict[str, Array]
    differences: tuple[Difference, ...]
    unordered: tuple[ProgramLine, ...]

    @property
    def is_deterministic(self) -> bool:
        """Whether every interleaving gave the same bits."""
        return not self.differences


def explore(
    program: Program,
    arguments: Mapping[str, Array],
    *,
    seeds: Iterable[int] = range(5),
    float_type: type[np.floating] = np.float32,
    resident: int | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Exploration:
    """Interpret under every seed; compare all outputs bit by bit with the first. Raises as `interpret`."""
    first_seed, *rest = seeds
    first = interpret(program, arguments, seed=first_seed, float_type=float_type, resident=resident, sizes=sizes)
    differences: list[Difference] = []
    for seed in rest:
        found = interpret(program, arguments, seed=seed, float_type=float_type, resident=resident, sizes=sizes)
        for name, values in first.items():
            unequal = _unequal_bits(values, found[name])
            if unequal:
                differences.append(Difference(name, (first_seed, seed), unequal))
    return Exploration(first, tuple(differences), tuple(_unordered(steps_of(program))))


def _unequal_bits(a: Array, b: Array) -> int:
    if a.tobytes() == b.tobytes():
        return 0
    raw = [np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(x.size, -1) for x in (a, b)]
    return int((raw[0] != raw[1]).any(axis=1).sum())


def _unordered(steps: tuple[Step, ...]) -> list[ProgramLine]:
    found: list[ProgramLine] = []
    for step in steps:
        statement = step.statement
        if isinstance(statement, ReduceAdd) and statement.after is None:
            found.append(step.line)
        found += _unordered(statement.roles if isinstance(statement, Team) else step.body)
    return found
