"""Interleaved timing: every round runs every implementation once, in an order shuffled anew.

What disturbs the machine for a while (another process, a lower clock) then falls on all of them alike. Time
comes from an injected timer and clock, so the logic is tested without measuring anything.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Clock", "CudaTimer", "Rounds", "Run", "Timer", "WallTimer", "interleave"]

Run = Callable[[], object]
Clock = Callable[[], float]

CACHE_FLUSH_BYTES = 256 << 20  # more than the second-level cache of any GPU here


class Timer(Protocol):
    """How one sample is taken."""

    def sample(self, run: Run, calls: int) -> float:
        """Seconds per call, over `calls` calls in a row."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """How long to measure: until the budget is spent, but at least `least` and at most `most` rounds.

    warmups: untimed rounds before; calls: calls per sample (more than 1 where one is too short to time).
    """

    budget_s: float = 4.0
    least: int = 5
    most: int = 100
    warmups: int = 2
    calls: int = 1
    seed: int = 0


class WallTimer:
    """Time of a synchronous call by the clock on the wall."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock

    def sample(self, run: Run, calls: int) -> float:
        """Seconds per call."""
        start = self._clock()
        for _ in range(calls):
            run()
        return (self._clock() - start) / calls


class CudaTimer:
    """Time on the GPU between two events, from a cold second-level cache.

    Clearing the cache keeps the GPU busy while the host launches, so that launch time is not counted.
    """

    def __init__(self) -> None:
        import torch

        self._event: Any = torch.cuda.Event
        self._flush = torch.empty(CACHE_FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def sample(self, run: Run, calls: int) -> float:
        """Seconds per call."""
        start, end = (self._event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls


def interleave(
    runs: Mapping[str, Run], rounds: Rounds, timer: Timer, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Samples in seconds per name, all of one length; empty without runs."""
    if not runs:
        return {}
    order = list(runs)
    shuffle = random.Random(rounds.seed).shuffle
    for _ in range(rounds.warmups):
        for name in order:
            timer.sample(runs[name], 1)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    deadline = clock() + rounds.budget_s
    for done in range(rounds.most):
        if done >= rounds.least and clock() >= deadline:
            break
        shuffle(order)
        for name in order:
            samples[name].append(timer.sample(runs[name], rounds.calls))
    return samples
