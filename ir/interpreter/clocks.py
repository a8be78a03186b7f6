"""Vector clocks: which events are known to have happened before which, and nothing about time.

Every worker and every asynchronous operation is a thread with its own counter. A thread's clock holds, for
each thread, the last count whose events it knows to be over. (Lamport 1978; Mattern 1989; checking single
events against clocks is FastTrack's, Flanagan and Freund 2009.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ProgramLine

Clock = dict[int, int]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that thread `number` did at count `count` on a line of the program."""

    number: int
    count: int
    line: ProgramLine


@dataclass(slots=True, eq=False)
class Thread:
    """One thread of control and what it knows."""

    number: int
    clock: Clock

    def event(self, line: ProgramLine) -> Event:
        """Something this thread does now."""
        return Event(self.number, self.clock[self.number], line)

    def knows(self, event: Event) -> bool:
        """Whether the event is ordered before whatever this thread does next."""
        return self.clock.get(event.number, 0) >= event.count

    def acquire(self, clock: Clock) -> None:
        """Learn all that a released clock knows."""
        join(self.clock, clock)

    def release(self, into: Clock) -> None:
        """Hand on what this thread knows; what it does from now on is not part of it."""
        join(into, self.clock)
        self.tick()

    def tick(self) -> None:
        """What this thread does from now on is later than all it has handed on."""
        self.clock[self.number] += 1


def join(into: Clock, clock: Clock) -> None:
    """Make `into` know what `clock` knows."""
    for number, count in clock.items():
        if into.get(number, 0) < count:
            into[number] = count


@dataclass(slots=True)
class Threads:
    """Hands out threads; a number is used again by a thread that knows its last user to be over."""

    started: int = 0
    over: list[Thread] = field(default_factory=list)

    def first(self) -> Thread:
        """A thread that knows nothing."""
        self.started += 1
        return Thread(self.started, {self.started: 1})

    def fork(self, parent: Thread) -> Thread:
        """A thread that knows what its parent knows now."""
        clock: Clock = {}
        parent.release(clock)
        for position, last in enumerate(self.over[:8]):
            if clock.get(last.number, 0) >= last.clock[last.number]:
                del self.over[position]
                clock[last.number] += 1
                return Thread(last.number, clock)
        self.started += 1
        clock[self.started] = 1
        return Thread(self.started, clock)

    def end(self, thread: Thread) -> None:
        """The thread does nothing more, and its clock stays as it is."""
        self.over.append(thread)
