"""What this machine can run."""

from __future__ import annotations

import torch

__all__ = ["runs_here"]


def runs_here(target: str) -> bool:
    """Whether this machine has a device that the target's kernels run on."""
    return target == "cpu" or torch.cuda.is_available()
