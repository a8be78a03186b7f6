"""The machine a program runs on: what all workers share, and what each worker has of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..domain import Question
from ..errors import DataRace, InterpreterError, ProgramError, ProgramLine, UninitialisedRead
from ..program import Program
from .barriers import Barrier
from .clocks import Clock, Thread, Threads
from .limits import Meter
from .memory import Memory
from .prepare import Prepared
from .races import Box
from .scheduler import Scheduler
from .tiles import Tile, TileVariable, scalar


@dataclass(slots=True, eq=False)
class Turn:
    """Whose turn it is to add to one destination tile, and what the adders so far know."""

    next_rank: int = 0
    released: Clock = field(default_factory=dict)
    line: ProgramLine | None = None


@dataclass(slots=True, eq=False)
class Machine:
    """What all workers of a run share. `resident`: instances of a grid that run at a time (None: all).

    `suspects` are reads of unwritten memory: each is an error, but the run goes on with poison, since a write
    that comes later and is not ordered with the read makes it a race, which says more.
    """

    program: Program
    sizes: dict[str, int]
    float_type: type[np.floating]
    scheduler: Scheduler
    resident: int | None
    bindings: dict[str, ProgramLine]
    threads: Threads = field(default_factory=Threads)
    prepared: dict[object, Prepared] = field(default_factory=dict)
    visits: dict[tuple[object, ...], list[list[int]]] = field(default_factory=dict)
    questions: dict[int, Question | None] = field(default_factory=dict)
    turns: dict[tuple[int, Box], Turn] = field(default_factory=dict)
    suspects: list[UninitialisedRead] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        """Whether floats are never rounded to the program's element types."""
        return self.float_type is np.float64

    @property
    def meter(self) -> Meter:
        """What the run has taken so far."""
        return self.scheduler.meter

    def run(self) -> None:
        """Run all tasks. Raises the first read of unwritten memory, rather than what became of it later."""
        try:
            self.scheduler.run()
        except InterpreterError as error:
            is_about_it = isinstance(error, DataRace) and self.suspects and self.suspects[0].lines[0] in error.lines
            if self.suspects and not is_about_it:
                raise self.suspects[0] from error
            raise
        if self.suspects:
            raise self.suspects[0]


@dataclass(slots=True, eq=False)
class Operation:
    """An asynchronous operation: a thread of its own, done at some later time.

    `registers` are tiles that it may still read; `result` is what it leaves in its register, if it has one.
    `is_joined`: its worker has waited for it.
    """

    thread: Thread
    line: ProgramLine
    registers: frozenset[str] = frozenset()
    result: Tile | None = None
    is_done: bool = False
    is_joined: bool = False


@dataclass(slots=True, eq=False)
class Crew:
    """The workers that run together: they meet at sync, and someone waits until all have ended."""

    size: int
    running: int
    met: int = 0
    meeting: int = 0
    gathered: Clock = field(default_factory=dict)
    released: Clock = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Worker:
    """One thread of control: its names, the memories it can reach, its asynchronous operations.

    `operations` are those of the whole grid instance; `open_group` and `groups` are this worker's own.
    """

    machine: Machine
    who: str
    thread: Thread
    line: ProgramLine
    crew: Crew = field(default_factory=lambda: Crew(1, 1))
    names: dict[str, Tile | Operation] = field(default_factory=dict)
    tiles: dict[str, TileVariable] = field(default_factory=dict)
    memories: dict[str, Memory] = field(default_factory=dict)
    barriers: dict[str, tuple[Barrier, ...]] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    open_group: list[Operation] = field(default_factory=list)
    groups: list[list[Operation]] = field(default_factory=list)

    def child(self, who: str, crew: Crew) -> Worker:
        """A worker that starts with all this one has; registers become its own."""
        for memory in self.memories.values():
            if memory.space == "register":
                self.machine.meter.hold(memory.values.size, f"a copy of {memory.name}", memory.line)
        memories = {
            name: memory.private_copy() if memory.space == "register" else memory
            for name, memory in self.memories.items()
        }
        thread = self.machine.threads.fork(self.thread)
        return Worker(
            self.machine, who, thread, self.line, crew, dict(self.names), dict(self.tiles), memories,
            dict(self.barriers), self.operations,
        )  # fmt: skip

    def lookup(self, name: str) -> Tile:
        """The value of a name: a tile, a scalar, a tile variable's number or a size."""
        value = self.names.get(name)
        if isinstance(value, Tile):
            return value
        if isinstance(value, Operation):
            return self._result(name, value)
        if name in self.tiles:
            return scalar(self.tiles[name].number)
        if name in self.machine.sizes:
            return scalar(self.machine.sizes[name])
        raise self._unbound(name)

    def _result(self, name: str, operation: Operation) -> Tile:
        if operation.is_joined and operation.result is not None:
            return operation.result
        raise DataRace(
            f"data race on register {name}: line {operation.line.number} may still be writing it when line "
            f"{self.line.number} reads it; commit() and wait_group() between them",
            operation.line,
            self.line,
        )

    def _unbound(self, name: str) -> Exception:
        binding = self.machine.bindings.get(name)
        if binding is None:
            return ProgramError("known names", f"{name!r} is not bound to anything", self.line)
        return UninitialisedRead(
            f"uninitialised read: line {self.line.number} reads {name!r}, which line {binding.number} "
            f"assigns, but that has not run in this worker; assign it on every way that leads here",
            self.line,
            binding,
        )

    def bind(self, name: str, value: Tile | Operation) -> None:
        """Give a name a value. Raises DataRace while an asynchronous operation may still use the name."""
        for operation in self.unfinished():
            if name in operation.registers or self.names.get(name) is operation is not value:
                raise DataRace(
                    f"data race on register {name}: line {operation.line.number} may still use it when line "
                    f"{self.line.number} overwrites it; commit() and wait_group() between them",
                    operation.line,
                    self.line,
                )
        self.names[name] = value

    def unfinished(self) -> Iterator[Operation]:
        """This worker's asynchronous operations that it has not waited for."""
        for group in (*self.groups, self.open_group):
            yield from group

    def memory(self, name: str) -> Memory:
        """A tensor or buffer. Raises ProgramError when there is none of that name."""
        if name not in self.memories:
            raise ProgramError("known names", f"{name!r} is no tensor or buffer here", self.line)
        return self.memories[name]
