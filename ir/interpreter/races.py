"""Data races: the accesses to one memory, by box, and the check that conflicting ones are ordered."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from ..errors import DataRace, ProgramLine
from .clocks import Event, Thread

Box = tuple[tuple[int, int], ...]  # first and last + 1 along each dimension


class Mode(Enum):
    """How memory is touched; `value` is the verb of messages."""

    READ = "reads"
    WRITE = "writes"
    ADD = "adds to"


CONFLICTS = {
    Mode.READ: (Mode.WRITE, Mode.ADD),
    Mode.WRITE: (Mode.READ, Mode.WRITE, Mode.ADD),
    Mode.ADD: (Mode.READ, Mode.WRITE),
}


@dataclass(slots=True, eq=False)
class _Cell:
    """The latest accesses to one box, by mode and thread, and the boxes that share elements with it."""

    events: dict[Mode, dict[int, Event]] = field(default_factory=lambda: {mode: {} for mode in Mode})
    overlapping: list[_Cell] = field(default_factory=list)


class History:
    """What has been done to a memory."""

    def __init__(self, name: str, rank: int) -> None:
        self.name = name
        self._rank = rank
        self._by_box: dict[Box, _Cell] = {}
        self._cells: list[_Cell] = []
        self._bounds: npt.NDArray[np.int64] = np.empty((16, self._rank, 2), np.int64)

    def access(self, box: Box, mode: Mode, thread: Thread, line: ProgramLine) -> None:
        """Note an access. Raises DataRace when nothing orders it after a conflicting one."""
        cell = self._by_box.get(box) or self._add(box)
        for other in cell.overlapping:
            for earlier_mode in CONFLICTS[mode]:
                for event in other.events[earlier_mode].values():
                    if not thread.knows(event):
                        raise self._race(box, (earlier_mode, event.line), (mode, line))
        if mode is Mode.WRITE:
            for events in cell.events.values():
                events.clear()
        cell.events[mode][thread.number] = thread.event(line)

    def _race(self, box: Box, first: tuple[Mode, ProgramLine], second: tuple[Mode, ProgramLine]) -> DataRace:
        place = ", ".join(str(low) if high == low + 1 else f"{low}:{high}" for low, high in box)
        return DataRace(
            f"data race on {self.name}[{place}]: line {first[1].number} {first[0].value} it, line "
            f"{second[1].number} {second[0].value} it, and nothing orders the two; "
            f"put a barrier, sync or wait_group between them",
            first[1],
            second[1],
        )

    def _add(self, box: Box) -> _Cell:
        """A cell for a new box, linked to those it shares elements with."""
        cell = _Cell()
        count = len(self._cells)
        if count == len(self._bounds):
            self._bounds = np.concatenate([self._bounds, np.empty_like(self._bounds)])
        new = np.array(box, np.int64).reshape(self._rank, 2)
        known = self._bounds[:count]
        meets = (np.maximum(known[:, :, 0], new[:, 0]) < np.minimum(known[:, :, 1], new[:, 1])).all(axis=1)
        cell.overlapping = [cell, *(self._cells[n] for n in np.flatnonzero(meets))]
        for other in cell.overlapping[1:]:
            other.overlapping.append(cell)
        self._bounds[count] = new
        self._cells.append(cell)
        self._by_box[box] = cell
        return cell
