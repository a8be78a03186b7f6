"""Blocks of statements as tasks: bodies, loops, conditions, grids and teams of roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..expr import Expr
from ..program import (
    Arrive,
    Commit,
    Copy,
    Gemm,
    Grid,
    If,
    RangeLoop,
    ReduceAdd,
    Role,
    Sync,
    TileLoop,
    Tiles,
    Wait,
    WaitGroup,
)  # fmt: skip
from .clocks import join
from .domains import visited_tiles
from .expressions import scalar_of
from .machine import Crew, Worker
from .operations import copy_async, gemm_async
from .scheduler import Task, Waiting
from .statements import AT_ONCE, extent_of, tile_variable
from .steps import Step, Team
from .synchronisation import arrive_statement, commit, reduce_add, sync, wait, wait_for, wait_group
from .tiles import TileVariable, scalar

Point = tuple[int | TileVariable, ...]


def run_body(worker: Worker, steps: tuple[Step, ...]) -> Task:
    """Run statements in order; every statement is one step of the scheduler."""
    for step in steps:
        worker.line = step.line
        statement = step.statement
        kind = type(statement)
        if kind in BLOCKS:
            yield from BLOCKS[kind](worker, step)
        elif kind in IN_TIME and getattr(statement, "is_async", True):
            yield from IN_TIME[kind](worker, statement)
        else:
            AT_ONCE[kind](worker, statement)
            yield None


def _tile_loop(worker: Worker, step: Step) -> Task:
    s = step.statement
    assert isinstance(s, TileLoop)
    for number in visited_tiles(worker, s):
        worker.line = step.line
        worker.tiles[s.name] = tile_variable(worker, s.tiles, number)
        yield from run_body(worker, step.body)


def _range_loop(worker: Worker, step: Step) -> Task:
    s = step.statement
    assert isinstance(s, RangeLoop)
    for number in range(scalar_of(worker, s.start), scalar_of(worker, s.stop)):
        worker.line = step.line
        worker.bind(s.name, scalar(number))
        yield from run_body(worker, step.body)


def _if(worker: Worker, step: Step) -> Task:
    s = step.statement
    assert isinstance(s, If)
    if scalar_of(worker, s.condition):
        yield from run_body(worker, step.body)


def _grid(worker: Worker, step: Step) -> Task:
    """Start instances in issue order, at most `resident` at a time, and wait for all of them."""
    s = step.statement
    assert isinstance(s, Grid)
    machine, crew = worker.machine, Crew(0, 0)
    for point in _points(worker, s):
        crew.running += 1
        machine.scheduler.spawn(_instance(worker, step, point, crew))
        if machine.resident is not None and crew.running >= machine.resident:
            limit = machine.resident
            yield Waiting(crew, lambda limit=limit: crew.running < limit)  # type: ignore[misc]
    if crew.running:
        yield Waiting(crew, lambda: crew.running == 0)
    worker.thread.acquire(crew.gathered)
    machine.turns.clear()


def _points(worker: Worker, s: Grid) -> list[Point]:
    """The grid's points in issue order; the longest instances are taken to be the last ones."""
    meter, points = worker.machine.meter, []
    for count, point in enumerate(_points_after(worker, s, ()), 1):
        meter.start(count, "instances of a grid", worker.line)
        points.append(point)
    return points if s.order == "ascending" else points[::-1]


def _points_after(worker: Worker, s: Grid, first: Point) -> Iterator[Point]:
    """All points that begin with these values; an extent may depend on the names before it."""
    if len(first) == len(s.extents):
        yield first
        return
    if first:
        _bind_point(worker, s.names[len(first) - 1], first[-1])
    for value in _axis(worker, s.extents[len(first)]):
        yield from _points_after(worker, s, (*first, value))


def _bind_point(worker: Worker, name: str, value: int | TileVariable) -> None:
    if isinstance(value, TileVariable):
        worker.tiles[name] = value
    else:
        worker.names[name] = scalar(value)


def _axis(worker: Worker, extent: Expr | Tiles) -> list[int | TileVariable]:
    if isinstance(extent, Tiles):
        size = extent_of(worker, extent)
        worker.machine.meter.start(-(-size // extent.tile), "tiles of a grid", worker.line)
        return [TileVariable(n, extent.tile, size) for n in range(-(-size // extent.tile))]
    count = scalar_of(worker, extent)
    worker.machine.meter.start(count, "instances of a grid", worker.line)
    return list(range(count))


def _instance(parent: Worker, step: Step, point: Point, crew: Crew) -> Task:
    """One instance of a grid; it ends when its asynchronous operations have."""
    s = step.statement
    assert isinstance(s, Grid)
    numbers = [value.number if isinstance(value, TileVariable) else value for value in point]
    where = ", ".join(f"{name}={number}" for name, number in zip(s.names, numbers, strict=True))
    worker = parent.child(f"instance ({where})", Crew(1, 1))
    worker.operations = []
    for name, value in zip(s.names, point, strict=True):
        _bind_point(worker, name, value)
    yield from run_body(worker, step.body)
    for operation in worker.operations:
        yield from wait_for(worker, operation)
        worker.thread.acquire(operation.thread.clock)
    _end(worker, crew)


def _end(worker: Worker, crew: Crew) -> None:
    join(crew.gathered, worker.thread.clock)
    worker.machine.threads.end(worker.thread)
    crew.running -= 1
    worker.machine.scheduler.notify(crew)


def _team(worker: Worker, step: Step) -> Task:
    """Start every worker of consecutive roles and wait until all have ended."""
    team = step.statement
    assert isinstance(team, Team)
    worker.machine.meter.start(sum(_role(role).count for role in team.roles), "workers", worker.line)
    members = [(role, n) for role in team.roles for n in range(_role(role).count)]
    done, meeting = Crew(0, len(members)), Crew(len(members), len(members))
    for role, number in members:
        worker.machine.scheduler.spawn(_member(worker, role, number, (done, meeting)))
    yield Waiting(done, lambda: done.running == 0)
    worker.thread.acquire(done.gathered)


def _role(step: Step) -> Role:
    assert isinstance(step.statement, Role)
    return step.statement


def _member(parent: Worker, step: Step, number: int, crews: tuple[Crew, Crew]) -> Task:
    role, (done, meeting) = _role(step), crews
    worker = parent.child(f"{role.kind} {number} of {parent.who}", meeting)
    if role.worker is not None:
        worker.names[role.worker] = scalar(number)
    yield from run_body(worker, step.body)
    _end(worker, done)


BLOCKS: dict[type, Callable[[Worker, Step], Task]] = {
    TileLoop: _tile_loop, RangeLoop: _range_loop, If: _if, Grid: _grid, Team: _team,
}  # fmt: skip
IN_TIME: dict[type, Callable[[Worker, Any], Task]] = {
    Copy: copy_async, Gemm: gemm_async, Commit: commit, WaitGroup: wait_group, Arrive: arrive_statement,
    Wait: wait, Sync: sync, ReduceAdd: reduce_add,
}  # fmt: skip
