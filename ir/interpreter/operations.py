"""Asynchronous copies and products: threads of their own that take effect some time later.

Their accesses are noted for races when they are issued, with what the issuer knows then: anything that is not
ordered before the issue or after the completion conflicts, whenever the scheduler lets the data move. The
data itself moves late: the source is read at one random later time and the target written at another.
"""

from __future__ import annotations

from ..expr import Op
from ..program import Copy, Gemm, Operand
from .barriers import Barrier
from .expressions import value_of
from .gathers import Scattered
from .machine import Operation, Worker
from .memory import Place
from .places import fitted, place_of, touch, writable
from .races import Mode
from .scheduler import Task
from .statements import accumulated
from .synchronisation import arrive, barrier_of, wait_for
from .tiles import Tile, gemm

MAX_DELAY = 6

Source = Place | Scattered | Tile
Ends = tuple[Place | Scattered, Place | Scattered]


def copy_async(worker: Worker, s: Copy) -> Task:
    """Issue a copy; it joins the open group, or arrives at its barrier when done."""
    yield None
    source, target = place_of(worker, s.source), writable(worker, s.target)
    signal = None if s.signal is None else barrier_of(worker, s.signal)
    operation = _issue(worker)
    touch(worker, source, Mode.READ, operation.thread)
    touch(worker, target, Mode.WRITE, operation.thread)
    if signal is None:
        worker.open_group.append(operation)
    worker.machine.scheduler.spawn(_copy(worker, operation, (source, target), signal))


def gemm_async(worker: Worker, s: Gemm) -> Task:
    """Issue a product; its result may be read after a wait_group. Products of one worker finish in order."""
    yield None
    registers = frozenset(item for item in (s.left, s.right) if isinstance(item, str))
    operands = _operand(worker, s.left), _operand(worker, s.right)
    into = _accumulator(worker, s)
    operation = _issue(worker, registers)
    for item in operands:
        if not isinstance(item, Tile):
            touch(worker, item, Mode.READ, operation.thread)
    if isinstance(into, Operation):
        worker.names[s.name] = operation
    else:
        worker.bind(s.name, operation)
    worker.open_group.append(operation)
    worker.machine.scheduler.spawn(_product(worker, operation, operands, into))


def _issue(worker: Worker, registers: frozenset[str] = frozenset()) -> Operation:
    operation = Operation(worker.machine.threads.fork(worker.thread), worker.line, registers)
    worker.operations.append(operation)
    return operation


def _operand(worker: Worker, item: Operand) -> Source:
    return worker.lookup(item) if isinstance(item, str) else place_of(worker, item)


def _accumulator(worker: Worker, s: Gemm) -> Tile | Operation | None:
    """What is added to; a product may follow another one into the same register without a wait."""
    if s.into is None:
        return None
    earlier = worker.names.get(str(s.into.attr)) if s.into.op is Op.VAR else None
    if isinstance(earlier, Operation) and not earlier.is_joined and s.into.attr == s.name:
        return earlier
    return value_of(worker, s.into)


def _copy(worker: Worker, operation: Operation, ends: Ends, signal: Barrier | None) -> Task:
    source, target = ends
    yield from _delay(worker)
    tile = Tile(source.read(), source.axes)
    yield from _delay(worker)
    target.write(fitted(worker, tile, target), worker.machine.is_exact)
    _finish(worker, operation)
    if signal is not None:
        arrive(worker, signal, operation.thread, operation.line)


def _product(
    worker: Worker, operation: Operation, operands: tuple[Source, Source], into: Tile | Operation | None
) -> Task:
    if isinstance(into, Operation):
        yield from wait_for(worker, into)
        into = into.result
    yield from _delay(worker)
    left, right = (item if isinstance(item, Tile) else Tile(item.read(), item.axes) for item in operands)
    product = gemm(left, right, worker.machine.float_type, operation.line)
    operation.result = product if into is None else accumulated(worker, into, product)
    yield from _delay(worker)
    _finish(worker, operation)


def _delay(worker: Worker) -> Task:
    for _ in range(worker.machine.scheduler.random.randrange(MAX_DELAY)):
        yield None


def _finish(worker: Worker, operation: Operation) -> None:
    operation.is_done = True
    worker.machine.threads.end(operation.thread)
    worker.machine.scheduler.notify(operation)
