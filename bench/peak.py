"""The peak that fractions refer to, measured in the same rounds as the kernels.

On the CPU peak.cpp runs on every thread: fused multiply-adds for f32, and for bf16 the fastest unit that
multiplies it (dot products of tiles, else of vectors, else f32's). Where tiles are the fastest, the vectors'
peak is measured as well, under the name "peak-dot". On a GPU it is a large matrix product through torch.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..lowering import cpp
from ..lowering.build import build_shared_library, load_shared_library
from ..lowering.toolchain import cpu_isa
from .cases import DTYPES
from .rows import PEAK, VECTOR_PEAK
from .timing import Run

__all__ = ["Peak", "peaks_for", "reading_peak"]

HERE = Path(__file__).resolve().parent
HEADERS = Path(cpp.__file__).resolve().parent / "include"
STEPS = {"peak_fma": 1 << 22, "peak_dot": 1 << 21, "peak_tile": 1 << 18}  # about ten milliseconds each
PRODUCT_SIZE = 8192
UNITS = {
    "f32": ("peak_fma",),
    "f16": ("peak_fma",),
    "bf16": ("peak_tile", "peak_dot", "peak_fma"),
}  # fastest first


@dataclass(frozen=True, slots=True)
class Peak:
    """A run of known work: run() does `flops` floating-point operations as fast as the machine can."""

    run: Run
    flops: float


def peaks_for(target: str, dtype: str) -> Mapping[str, Peak]:
    """The peaks of a target for an element type by impl name; PEAK is there always.

    Raises ToolchainMissing on a CPU without a C++ compiler.
    """
    return PEAKS[target](dtype)


@functools.cache
def _library() -> ctypes.CDLL:
    source = (HERE / "peak.cpp").read_text(encoding="utf-8")
    return load_shared_library(build_shared_library(source, cpu_isa(), HEADERS))


def _cpu(dtype: str) -> dict[str, Peak]:
    found = {unit: peak for unit in UNITS[dtype] if (peak := _unit(unit)) is not None}
    peaks = {PEAK: next(iter(found.values()))}
    return peaks | ({VECTOR_PEAK: found["peak_dot"]} if "peak_tile" in found else {})


def _unit(symbol: str) -> Peak | None:
    """A unit's peak; None where this processor, or the flags the kernels are built with, lack the unit."""
    function = getattr(_library(), symbol)
    function.argtypes, function.restype = (ctypes.c_long,), ctypes.c_double
    run = functools.partial(function, STEPS[symbol])
    flops = float(run())
    return Peak(run, flops) if flops else None


def _gpu(dtype: str) -> dict[str, Peak]:
    a, b = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device="cuda").to(DTYPES[dtype]) for _ in range(2))
    return {PEAK: Peak(lambda: a @ b, 2.0 * PRODUCT_SIZE**3)}


def reading_peak(target: str, num_bytes: int, flops: float) -> Mapping[str, Peak]:
    """A peak for work that reads `num_bytes` once and does `flops` on the way: reading alone, at full speed.

    Memory of that size is read anew in every run, so that caches help it as much as they help the work.
    """
    memory = torch.ones(num_bytes, dtype=torch.uint8, device="cpu" if target == "cpu" else "cuda")
    return {PEAK: Peak(_READERS[target](memory), flops)}


def _read_cpu(memory: torch.Tensor) -> Run:
    function = _library().read_memory
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_long), ctypes.c_double
    return lambda: function(memory.data_ptr(), memory.numel())


def _read_gpu(memory: torch.Tensor) -> Run:
    words = memory[: memory.numel() // 8 * 8].view(torch.int64)
    return words.sum


_READERS = {"cpu": _read_cpu, "triton": _read_gpu}
PEAKS = {"cpu": _cpu, "triton": _gpu}
