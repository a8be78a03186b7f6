"""What a run may take. Programs of unknown origin are interpreted under limits; one that asks for more is in error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from ..edit import expressions, references
from ..errors import LimitExceeded, ProgramLine
from ..expr import walk
from ..program import Alloc, Barriers, Program, Statement, statements
from ..shapes import Shapes, infer


@dataclass(frozen=True, slots=True)
class Limits:
    """steps: statements executed, and instances or workers started; elements: of tiles and buffers held at once, and of
    the intermediate results of one expression; seconds: of the run, of one processor.
    """

    steps: int = 100_000
    elements: int = 1 << 25
    seconds: float = 60.0


class Meter:
    """Counts what a run takes and stops it at its limits; without limits it never does."""

    def __init__(self, limits: Limits | None = None, clock: Callable[[], float] = time.thread_time) -> None:
        self.limits = limits
        self._clock = clock
        self._end = clock() + limits.seconds if limits else 0.0
        self._steps = self._held = self._tiles = 0

    def step(self) -> None:
        """One statement."""
        if self.limits is None:
            return
        self._steps += 1
        if self._steps > self.limits.steps:
            raise LimitExceeded("steps", f"the program runs for more than {self.limits.steps} statements; does it end?")
        if self._clock() > self._end:
            raise LimitExceeded("seconds", f"the program runs for more than {self.limits.seconds:g} seconds")

    def count(self, count: int, what: str, line: ProgramLine) -> None:
        """Before `count` things are made."""
        if self.limits is not None and count > self.limits.steps:
            raise LimitExceeded("steps", f"{count} {what}; at most {self.limits.steps} are made", line)

    def start(self, count: int, what: str, line: ProgramLine) -> None:
        """Before `count` instances or workers start: each needs a place for its tiles."""
        self.count(count, what, line)
        if self.limits is None:
            return
        if count * self._tiles > self.limits.elements:
            reason = f"{count} {what} with tiles of {self._tiles} elements; at most {self.limits.elements} are held"
            raise LimitExceeded("elements", reason, line)

    def hold(self, elements: int, what: str, line: ProgramLine) -> None:
        """Before memory is made that stays."""
        if self.limits is None:
            return
        self._held += elements
        if self._held > self.limits.elements:
            reason = f"{what} of {elements} elements; at most {self.limits.elements} are held in all"
            raise LimitExceeded("elements", reason, line)

    def check_tiles(self, program: Program) -> None:
        """Refuse a program whose tiles, or whose expressions with all their parts, are too large for memory."""
        if self.limits is None:
            return
        shapes = infer(program)
        for statement in statements(program.body):
            largest = max(_sizes(statement, shapes), default=0)
            if largest > self.limits.elements:
                reason = f"a statement ({_word(statement)}) over tiles of {largest} elements in all"
                raise LimitExceeded("elements", f"{reason}; at most {self.limits.elements} are held")
        axes = [found.axes for found in shapes.names.values()]
        self._tiles = sum(_elements(shapes, found) for found in axes if found)


def _word(statement: Statement) -> str:
    name = getattr(statement, "name", None)
    return f"{type(statement).__name__} {name}" if isinstance(name, str) else type(statement).__name__


def _sizes(statement: Statement, shapes: Shapes) -> list[int]:
    """Elements of what a statement makes: of its tile, the tiles it reads, and all parts of its expressions."""
    found = [shapes.tiles[axis].tile for axis in shapes.tiles if axis == getattr(statement, "name", None)]
    found += [shapes.tiles[name].tile for name in getattr(statement, "names", ()) if name in shapes.tiles]
    name = getattr(statement, "name", None)
    if name in shapes.names and not isinstance(statement, (Alloc, Barriers)):
        found.append(_elements(shapes, shapes.names[name].axes))
    found += [_elements(shapes, shapes.axes(expr)) * sum(1 for _ in walk(expr)) for expr in expressions(statement)]
    known = [ref for ref in references(statement) if not isinstance(shapes.tensors.get(ref.name), Barriers)]
    return found + [_elements(shapes, shapes.ref_axes(ref)) for ref in known]


def _elements(shapes: Shapes, axes: tuple[str, ...]) -> int:
    return prod(shapes.extent(axis) for axis in axes)
