"""What a call on a batch of many lengths adds to resident memory: `python -m tilewright.bench.varlen_memory IMPL COUNT
LONGEST DTYPE VARIANT`.

Prints {"resident_mb": …}, the output included. A call on a small batch comes first.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import torch

from .memory import added_mb
from .varlen import Batch, prepare

WARM_LENGTH = 40


def main() -> None:
    """Measure what the command line names."""
    impl, count, longest, dtype, variant = sys.argv[1:]
    batch = Batch(int(count), int(longest), dtype, variant)
    warm = replace(batch, longest=min(WARM_LENGTH, batch.longest))
    runs = [prepare(impl, b, torch.device("cpu")) for b in (warm, batch)]
    print(json.dumps({"resident_mb": added_mb(*runs)}))


if __name__ == "__main__":
    main()
