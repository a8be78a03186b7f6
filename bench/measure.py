"""One case, from inputs to rows: prepare every implementation, check its output, time what is right."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch

from .agreement import reference_of
from .cases import Case, Inputs
from .implementations import Implementation, Prepared
from .peak import Peak, peaks_for
from .rows import PEAK, Row, Times
from .timing import Rounds, Run, Timer, WallTimer, interleave

__all__ = ["DEVICES", "Judge", "Session", "measure"]

DEVICES = {"cpu": torch.device("cpu"), "triton": torch.device("cuda")}


class Judge(Protocol):
    """Knows what should come of a case."""

    def complaint(self, got: Any) -> str | None:
        """Why what a run gave is wrong, or None."""


@dataclass(frozen=True, slots=True)
class Session:
    """What all suites of one run share; say() tells the user what is being done, keep() is given every row made."""

    target: str = "cpu"
    timer: Timer = field(default_factory=WallTimer)
    rounds: Rounds = field(default_factory=Rounds)
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    keep: Callable[[Row], None] = lambda row: None
    peaks: Callable[[str, str], Mapping[str, Peak]] = peaks_for
    machine: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    revision: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the target's tensors live."""
        return DEVICES[self.target]

    def row(self, suite: str, case: Case | str, impl: str, **values: Any) -> Row:
        """A row with everything the session knows, and the case's shape if it is one."""
        if isinstance(case, Case):
            values = {"dtype": case.dtype, "shape": tuple(case.shape)} | values
        values = {"machine": self.machine, "command": self.command, "revision": self.revision} | values
        row = Row(suite, str(case), impl, self.target, **values)
        self.keep(row)
        return row


def measure(
    suite: str,
    case: Case,
    implementations: Sequence[Implementation],
    session: Session,
    judge: Callable[[Case, Inputs], Judge] = reference_of,
) -> list[Row]:
    """A row per implementation that covers the case, and one for the peak; a wrong result is an error row."""
    session.say(f"{suite}: {case}")
    inputs = case.inputs(session.device)
    reference = judge(case, inputs)
    tried = {i.name: _prepare(i, case, inputs, reference, session.target) for i in implementations}
    ready = {name: found for name, found in tried.items() if isinstance(found, Prepared)}
    errors = {name: found for name, found in tried.items() if isinstance(found, str)}
    del reference
    peaks = session.peaks(session.target, case.dtype)
    runs: dict[str, Run] = {name: peak.run for name, peak in peaks.items()}
    runs |= {name: prepared.run for name, prepared in ready.items()}
    samples = interleave(runs, session.rounds, session.timer)
    speeds = _speeds(samples, {name: peaks[name].flops if name in peaks else case.flops for name in runs})
    rows = [session.row(suite, case, name, **speed) for name, speed in speeds.items()]
    rows = [replace(row, extra=ready[row.impl].extra) if row.impl in ready else row for row in rows]
    return rows + [session.row(suite, case, name, error=error) for name, error in errors.items()]


def _prepare(
    implementation: Implementation, case: Case, inputs: Inputs, reference: Judge, target: str
) -> Prepared | str | None:
    """Ready to be timed, or why not, or None where the case is not covered."""
    try:
        prepared = implementation.prepare(case, inputs, target)
        if prepared is None:
            return None
        return reference.complaint(prepared.run()) or prepared
    except Exception as error:  # noqa: BLE001 - whatever one implementation does, the others are measured
        return f"{type(error).__name__}: {error}"


Speed = dict[str, float]


def _speeds(samples: Mapping[str, Sequence[float]], flops: Mapping[str, float]) -> dict[str, Speed]:
    """Times, GFLOP/s (of the median) and fraction of the peak, by name."""
    times = {name: Times.of(seconds) for name, seconds in samples.items()}
    gflops = {name: flops[name] / time.median_ms / 1e6 for name, time in times.items()}
    return {
        name: asdict(time) | {"gflops": gflops[name], "fraction_of_peak": gflops[name] / gflops[PEAK]}
        for name, time in times.items()
    }
