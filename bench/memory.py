"""How much resident memory one call adds: `python -m tilewright.bench.memory IMPL VARIANT DTYPE LENGTH`.

Prints {"resident_mb": …}: the highest resident size during a call less the size before it, the output
included. A call at a small length comes first, so that libraries, threads and the kernel are loaded.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
from pathlib import Path

import torch

from .implementations import implementations_for
from .long import long_case
from .timing import Run

__all__ = ["added_mb"]

WARM_LENGTH = 64
STATUS = Path("/proc/self/status")


def main() -> None:
    """Measure what the command line names."""
    impl, variant, dtype, length = sys.argv[1:]
    (implementation,) = implementations_for("cpu", impl)
    runs = []
    for size in (WARM_LENGTH, int(length)):
        case = long_case(variant, dtype, size)
        prepared = implementation.prepare(case, case.inputs(torch.device("cpu")), "cpu")
        if prepared is None:
            raise SystemExit(f"{impl} does not cover {case}")
        runs.append(prepared.run)
    print(json.dumps({"resident_mb": added_mb(*runs)}))


def added_mb(warm: Run, run: Run) -> float:
    """MiB of resident memory that `run` adds at its highest, after `warm` has loaded what both need."""
    warm()
    _return_freed_memory()
    before = _forget_peak()
    run()
    return round((_peak_kb() - before) / 1024, 2)


def _return_freed_memory() -> None:
    """Give memory that is freed but still resident back to the system, or the call would take it unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _forget_peak() -> int:
    """Set the process's peak to what is resident now, where the system lets us; returns that, in KiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak_kb()
    return _status_kb("VmRSS")


def _peak_kb() -> int:
    return _status_kb("VmHWM") if STATUS.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status_kb(field: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
