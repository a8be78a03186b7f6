"""Statements that wait or let others go on: barriers, groups, sync, and additions in order."""

from __future__ import annotations

from ..errors import BarrierPhaseError, OutOfBounds, ProgramError, ProgramLine
from ..program import All, Arrive, Commit, ReduceAdd, Ref, Sync, TileAxis, Wait, WaitGroup
from .barriers import Barrier
from .clocks import Thread
from .expressions import scalar_of, value_of
from .machine import Operation, Turn, Worker
from .places import fitted, touch, writable
from .races import Mode
from .scheduler import Task, Waiting


def barrier_of(worker: Worker, ref: Ref) -> Barrier:
    """The barrier a reference means. Raises OutOfBounds past the last one, ProgramError if there is none."""
    barriers = worker.barriers.get(ref.name)
    if barriers is None or len(ref.indices) != 1 or isinstance(ref.indices[0], (TileAxis, All)):
        raise ProgramError("known names", f"{ref.name!r} with these indices is no barrier here", worker.line)
    number = scalar_of(worker, ref.indices[0])
    if not 0 <= number < len(barriers):
        reason = f"out of bounds: line {worker.line.number} uses {ref.name}[{number}] of {len(barriers)} barriers"
        raise OutOfBounds(reason, worker.line)
    return barriers[number]


def arrive(worker: Worker, barrier: Barrier, thread: Thread, line: ProgramLine) -> None:
    """A thread arrives at a barrier; those that wait for the phase may go on."""
    if barrier.arrive(thread, line):
        worker.machine.scheduler.notify(barrier)


def arrive_statement(worker: Worker, s: Arrive) -> Task:
    """arrive(bar[i])"""
    yield None
    arrive(worker, barrier_of(worker, s.barrier), worker.thread, worker.line)
    worker.thread.tick()


def wait(worker: Worker, s: Wait) -> Task:
    """wait(bar[i], phase=parity)"""
    yield None
    line, barrier = worker.line, barrier_of(worker, s.barrier)
    meant = barrier.awaited(scalar_of(worker, s.phase), worker.thread, line)
    while not barrier.has_completed(meant):
        arrivals = f"{barrier.arrived} of {barrier.arrivals} arrivals"
        reason = f"phase {meant} of {barrier.name} (parity {meant % 2}; {arrivals})"
        yield Waiting(barrier, lambda: barrier.has_completed(meant), worker.who, line, reason)
    barrier.check(meant, line)
    worker.thread.acquire(barrier.released)


def commit(worker: Worker, _: Commit) -> Task:
    """commit()"""
    worker.groups.append(worker.open_group)
    worker.open_group = []
    yield None


def wait_group(worker: Worker, s: WaitGroup) -> Task:
    """wait_group(pending)"""
    yield None
    finished = worker.groups[: max(len(worker.groups) - s.pending, 0)]
    for group in finished:
        for operation in group:
            yield from wait_for(worker, operation)
            worker.thread.acquire(operation.thread.clock)
            operation.is_joined = True
    del worker.groups[: len(finished)]


def wait_for(worker: Worker, operation: Operation) -> Task:
    """Until an operation is done."""
    reason = f"the asynchronous operation of line {operation.line.number}"
    while not operation.is_done:
        yield Waiting(operation, lambda: operation.is_done, worker.who, worker.line, reason)


def sync(worker: Worker, _: Sync) -> Task:
    """sync(): all workers of the crew meet."""
    yield None
    crew = worker.crew
    meeting = crew.meeting
    crew.met += 1
    worker.thread.release(crew.gathered)
    if crew.met == crew.size:
        crew.met = 0
        crew.meeting += 1
        crew.released = dict(crew.gathered)
        worker.machine.scheduler.notify(crew)
    while crew.meeting == meeting:
        reason = f"all workers to meet ({crew.met} of {crew.size} have come)"
        yield Waiting(crew, lambda: crew.meeting != meeting, worker.who, worker.line, reason)
    worker.thread.acquire(crew.released)


def reduce_add(worker: Worker, s: ReduceAdd) -> Task:
    """reduce_add(target, value, after=rank)"""
    yield None
    value = value_of(worker, s.value)
    place = writable(worker, s.target)
    machine, turn = worker.machine, None
    if s.after is not None:
        turn = machine.turns.setdefault((id(place.memory), place.box), Turn())
        yield from _wait_for_turn(worker, s, turn, scalar_of(worker, s.after))
    touch(worker, place, Mode.ADD)
    place.write(place.read() + fitted(worker, value, place), machine.is_exact)
    if turn is not None:
        turn.next_rank += 1
        turn.line = worker.line
        worker.thread.release(turn.released)
        machine.scheduler.notify(turn)


def _wait_for_turn(worker: Worker, s: ReduceAdd, turn: Turn, rank: int) -> Task:
    """Until it is `rank`'s turn. Raises BarrierPhaseError when that turn is over."""
    line = worker.line
    while turn.next_rank < rank:
        reason = f"its turn {rank} to add to {s.target.name} (next is {turn.next_rank})"
        yield Waiting(turn, lambda: turn.next_rank >= rank, worker.who, line, reason)
    if turn.next_rank > rank:
        earlier = [turn.line] if turn.line is not None else []
        raise BarrierPhaseError(
            f"{s.target.name}: rank {rank} has already added to this tile; it takes ranks 0, 1, 2, … once",
            line,
            *earlier,
        )
    worker.thread.acquire(turn.released)
