"""The cpu target: C++ for the instruction set of this machine, compiled by the system compiler, loaded with ctypes."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...ir.program import Program
from ..build import build_shared_library, load_shared_library
from ..target import Launch, Lowered
from ..toolchain import cpu_isa
from .kernel import render, size_names

INCLUDES = Path(__file__).parent / "include"
_workspace = threading.local()


class CpuTarget:
    """C++ with the headers of `include/`."""

    name = "cpu"
    includes: Path | None = INCLUDES

    def default_arch(self) -> str:
        """The best instruction set level of this machine, or the one that TILEWRIGHT_ISA asks for."""
        return cpu_isa()

    def lower(self, program: Program, arch: str) -> Lowered:
        """C++ source; the same for every instruction set level."""
        return Lowered(self.name, arch, render(program), ".cpp")

    def load(self, lowered: Lowered, program: Program) -> Launch:
        """Compile (through the cache), load, and wrap the entry point."""
        library = load_shared_library(build_shared_library(lowered.source, lowered.arch, INCLUDES))
        return CpuLaunch(library, program)


class CpuLaunch:
    """Calls a loaded kernel: gathers addresses, strides and sizes into one array of 64-bit integers."""

    def __init__(self, library: ctypes.CDLL, program: Program) -> None:
        self._run = library.run
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._run.restype = None
        self._bytes = library.workspace_bytes
        self._bytes.argtypes = (ctypes.c_void_p,)
        self._bytes.restype = ctypes.c_int64
        self._sizes = size_names(program)
        count = sum(1 + 2 * len(param.dims) for param in program.params) + len(self._sizes) + 1
        self._array = ctypes.c_int64 * count

    def __call__(self, tensors: Sequence[Any], sizes: Mapping[str, int]) -> None:
        """Run on the program's parameters in order; every size by name."""
        import torch

        values: list[int] = []
        for tensor in tensors:
            values.append(tensor.data_ptr())
            values.extend(tensor.stride())
            values.extend(tensor.shape)
        values.extend([sizes[name] for name in self._sizes])
        array = self._array(*values, 0)
        needed = self._bytes(array)
        if needed:
            array[-1] = _workspace_address(needed)
        self._run(array, torch.get_num_threads())


def _workspace_address(needed: int) -> int:
    """A buffer of this thread, at least `needed` bytes, kept for the next call."""
    import torch

    held = getattr(_workspace, "memory", None)
    if held is None or held.numel() < needed + 64:
        _workspace.memory = held = torch.empty(needed + 64, dtype=torch.uint8)
    return (int(held.data_ptr()) + 63) // 64 * 64
