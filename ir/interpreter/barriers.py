"""Barriers with phases, as CUDA's mbarrier counts them; every wait and arrival must mean one phase.

A barrier is in phase 0, 1, 2, …; a phase completes after its arrivals. `wait` with a parity passes when the
phase of that parity has completed, which is when the current phase has the other parity. A parity names a
phase only to someone who knows all but the last completion, so whoever waits or arrives without that
knowledge is in error, whatever the timing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import BarrierPhaseError, ProgramLine
from .clocks import Clock, Event, Thread, join


@dataclass(slots=True, eq=False)
class Barrier:
    """One barrier. `phase` counts completed phases, `arrived` the arrivals in the current one."""

    name: str
    arrivals: int
    phase: int = 0
    arrived: int = 0
    completions: list[Event] = field(default_factory=list)
    released: Clock = field(default_factory=dict)
    _gathered: Clock = field(default_factory=dict)

    def known(self, thread: Thread) -> int:
        """How many phases the thread knows to have completed."""
        for phase in range(self.phase, 0, -1):
            if thread.knows(self.completions[phase - 1]):
                return phase
        return 0

    def arrive(self, thread: Thread, line: ProgramLine) -> bool:
        """Arrive; whether that completed the phase. The thread's clock must tick before anything else.

        Raises BarrierPhaseError for an arrival that could fall in either of two phases.
        """
        if self.known(thread) < self.phase:
            last = self.completions[-1].line
            raise BarrierPhaseError(
                f"{self.name}: too many arrivals: phase {self.phase - 1} takes {self.arrivals} and line "
                f"{last.number} completed it, but nothing orders the arrival of line {line.number} after "
                f"that; it may count for either phase; make arrivals= match, or wait before arriving again",
                last,
                line,
            )
        self.arrived += 1
        event = thread.event(line)
        join(self._gathered, thread.clock)
        if self.arrived < self.arrivals:
            return False
        self.arrived = 0
        self.phase += 1
        self.completions.append(event)
        self.released = dict(self._gathered)
        return True

    def awaited(self, parity: int, thread: Thread, line: ProgramLine) -> int:
        """The phase that a wait means. Raises BarrierPhaseError when the barrier is past it."""
        if parity not in (0, 1):
            raise BarrierPhaseError(f"{self.name}: phase={parity} is not a parity; wanted 0 or 1", line)
        known = self.known(thread)
        meant = known if parity == known % 2 else known - 1
        self.check(meant, line)
        return meant

    def check(self, meant: int, line: ProgramLine) -> None:
        """Raises BarrierPhaseError when the barrier has run two phases past the one that is meant."""
        if self.phase <= meant + 1:
            return
        last = self.completions[meant + 1].line
        raise BarrierPhaseError(
            f"{self.name}: line {line.number} waits for parity {meant % 2}, which to this worker means phase "
            f"{meant}, but phase {meant + 1} has completed too (line {last.number}), so the parity stands "
            f"for another phase now; correct phase=, or let the arrivals wait for this worker",
            last,
            line,
        )

    def has_completed(self, phase: int) -> bool:
        """Whether that phase is over."""
        return self.phase > phase
