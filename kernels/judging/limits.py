"""How much a judgement may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ...ir.interpreter import Limits

__all__ = ["Allowance", "JudgeLimits", "TORCH_LOCK"]

TORCH_LOCK = threading.RLock()  # the oracle changes torch's default element type while it runs


@dataclass(frozen=True, slots=True)
class JudgeLimits:
    """Seconds are those of a processor, so that a busy machine does not change a verdict.

    text_bytes: of a candidate. run: of one run of a program. seconds: of all cases of one candidate.

    runs, seconds_to_shrink: of the search for a smaller counter-example. seeds: interleavings of programs in which
    something is concurrent within an instance or across instances.
    """

    text_bytes: int = 1 << 18
    run: Limits = field(default_factory=Limits)
    seconds: float = 180.0
    runs: int = 250
    seconds_to_shrink: float = 60.0
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(slots=True)
class Allowance:
    """Runs and seconds that are left of a budget."""

    runs: int
    seconds: float
    clock: Callable[[], float] = time.thread_time
    used: int = 0
    _start: float = field(init=False)

    def __post_init__(self) -> None:
        self._start = self.clock()

    @property
    def is_spent(self) -> bool:
        """Whether nothing more may be run."""
        return self.used >= self.runs or self.left_s <= 0

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return self.seconds - (self.clock() - self._start)

    def spend(self) -> bool:
        """Take one run; False when there is none left."""
        if self.is_spent:
            return False
        self.used += 1
        return True
