"""What the measuring machine is, and whether it is idle enough to be measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from ..lowering.toolchain import cpu_isa

__all__ = ["BUSY_LOAD", "busy_warning", "describe_machine", "revision"]

BUSY_LOAD = 0.5  # one-minute load average above which a measurement is doubtful
TOLD_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_tile", "amx_bf16")
# What the user may have told torch or the OpenMP runtime to do without, or with fewer of.
TOLD_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def describe_machine() -> dict[str, Any]:
    """The "machine" of a row: processor, software, the load before measuring, and the GPU if there is one."""
    flags = _cpuinfo("flags").split()
    told: dict[str, Any] = {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": cpu_isa(),
        "flags": [flag for flag in TOLD_FLAGS if flag in flags],
        "load": load(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    told |= {name: os.environ[name] for name in TOLD_VARIABLES if name in os.environ}
    if torch.cuda.is_available():
        told |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "triton": _triton_version()}
    return told


def load() -> float | None:
    """The one-minute load average, or None where the system has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def busy_warning(measured: float | None) -> str | None:
    """What to say about a load before measuring, or None."""
    if measured is None or measured <= BUSY_LOAD:
        return None
    return f"the machine is busy (load {measured} > {BUSY_LOAD}): other programs are part of every time below"


def revision() -> str | None:
    """The commit of the measured source, with "+" behind it where files differ; None outside a checkout."""
    root = str(Path(__file__).resolve().parent.parent)
    try:
        command = ["git", "-C", root, "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _triton_version() -> str:
    import triton

    return str(triton.__version__)
