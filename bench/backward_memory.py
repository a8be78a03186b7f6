"""Resident memory that one forward and backward adds: `python -m tilewright.bench.backward_memory IMPL VARIANT LENGTH`.

Prints {"resident_mb": …}: the highest resident size during the two less the size before, o and the gradients included.
A run at a small length comes first, so that libraries, threads and kernels are loaded.
"""

from __future__ import annotations

import json
import sys

import torch

from .backward import memory_case
from .differentiated import MAKERS, gradients_of
from .memory import added_mb

__all__ = ["main"]

WARM_LENGTH = 64


def main() -> None:
    """Measure what the command line names."""
    impl, variant, length = sys.argv[1:]
    cases = [memory_case(variant, size) for size in (WARM_LENGTH, int(length))]
    small, whole = (case.inputs(torch.device("cpu")) for case in cases)
    attention = MAKERS[impl][1](cases[0], small, "cpu")
    if attention is None:
        raise SystemExit(f"{impl} does not cover {cases[0]}")
    warm, run = gradients_of(cases[0], small, attention), gradients_of(cases[1], whole, attention)
    print(json.dumps({"resident_mb": added_mb(warm, run)}))


if __name__ == "__main__":
    main()
