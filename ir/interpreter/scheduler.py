"""The seeded scheduler: tasks are generators; at every step a random runnable one runs to its next yield."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from ..errors import Deadlock, ProgramLine
from .limits import Meter

MAX_LISTED = 8
_ENDED = object()


@dataclass(slots=True, eq=False)
class Waiting:
    """Yielded by a task that cannot go on: until `ready()`, which can become true when `key` is notified.

    `reason` is for people; a task that only waits for the tasks it started has none.
    """

    key: object
    ready: Callable[[], bool]
    who: str = ""
    line: ProgramLine | None = None
    reason: str = ""


Task = Iterator[Waiting | None]


class Scheduler:
    """Runs tasks interleaved. The same seed gives the same interleaving."""

    def __init__(self, seed: int, meter: Meter | None = None) -> None:
        self.random = Random(seed)
        self.meter = meter or Meter()
        self._active: list[Task] = []
        self._parked: dict[int, list[tuple[Task, Waiting]]] = {}

    def spawn(self, task: Task) -> None:
        """Start a task."""
        self._active.append(task)

    def notify(self, key: object) -> None:
        """Something about `key` changed: look again at the tasks that wait for it."""
        parked = self._parked.pop(id(key), [])
        still = [(task, wait) for task, wait in parked if not wait.ready()]
        self._active += [task for task, wait in parked if wait.ready()]
        if still:
            self._parked[id(key)] = still

    def run(self) -> None:
        """Run until every task has ended. Raises Deadlock when all that are left wait."""
        active = self._active
        while active:
            self.meter.step()
            position = self.random.randrange(len(active))
            task = active[position]
            wait = next(task, _ENDED)
            if wait is None or (isinstance(wait, Waiting) and wait.ready()):
                continue
            active[position] = active[-1]
            active.pop()
            if isinstance(wait, Waiting):
                self._parked.setdefault(id(wait.key), []).append((task, wait))
        if self._parked:
            raise self._deadlock()

    def _deadlock(self) -> Deadlock:
        """Who waits where for what; workers of different instances that wait alike are listed once."""
        alike: dict[tuple[ProgramLine, str, str], list[str]] = {}
        for parked in self._parked.values():
            for _, wait in parked:
                if wait.line is not None:
                    role = wait.who.partition(" of ")[0] if " of " in wait.who else ""
                    alike.setdefault((wait.line, wait.reason, role), []).append(wait.who)
        rows = sorted(alike.items(), key=lambda row: (row[0][0].number, row[0][1:]))
        listed = []
        for (line, reason, _), names in rows[:MAX_LISTED]:
            others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            listed.append(f"{min(names)}{others} waits on line {line.number} for {reason}")
        if len(rows) > MAX_LISTED:
            listed.append(f"and {len(rows) - MAX_LISTED} other kinds of wait")
        lines = dict.fromkeys(line for (line, _, _), _ in rows)
        return Deadlock("\n    ".join(["deadlock: every worker waits for another", *listed]), *lines)
