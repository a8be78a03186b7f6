"""Which C++ compiler and which instruction set this machine has, and the flags that go with them."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..ir.errors import ToolchainMissing
from ..ir.settings import ISAS, settings

__all__ = ["Compiler", "compile_flags", "cpu_isa", "find_compiler", "isa_flags", "supported_isas"]

CANDIDATES = (("g++",), ("clang++",), ("c++",))
ADVICE = """\
  Debian, Ubuntu:  sudo apt install g++
  Fedora, RHEL:    sudo dnf install gcc-c++
  conda:           conda install -c conda-forge cxx-compiler
  macOS:           xcode-select --install
or set CXX to the compiler you have. Generating Triton source needs no C++ compiler."""

# Never -ffast-math: kernels must carry NaN and infinity. A fused multiply-add is wanted; integers wrap.
MATHS = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fwrapv")
COMMON = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", *MATHS)
AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
FLAGS = {
    "amx": (*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
    "avx512bf16": (*AVX512, "-mavx512bf16"),
    "avx512": AVX512,
    "avx2": AVX2,
    "portable": (),
}
# What /proc/cpuinfo must list for each level; the order of ISAS tries the best first.
NEEDS_AVX512 = {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
NEEDS = {
    "amx": {*NEEDS_AVX512, "avx512_bf16", "amx_tile", "amx_bf16"},
    "avx512bf16": {*NEEDS_AVX512, "avx512_bf16"},
    "avx512": NEEDS_AVX512,
    "avx2": {"avx2", "fma", "f16c"},
    "portable": set[str](),
}
TORCH_LEVELS = {"AVX512": "avx512", "AVX2": "avx2"}


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler: how to call it, what it says it is, and the OpenMP symbol its code calls."""

    command: tuple[str, ...]
    version: str
    openmp_symbol: str


def find_compiler() -> Compiler:
    """The compiler named by CXX, else the first of g++, clang++, c++ on PATH.

    Raises ToolchainMissing, with advice for the common systems, if there is none or it does not run.
    """
    asked = settings().cxx
    for name, *arguments in [asked] if asked else CANDIDATES:
        path = shutil.which(name)
        if path:
            return _identify((path, *arguments), Path(path).stat().st_mtime_ns)
    tried = f"CXX names {asked[0]}" if asked else "looked for g++, clang++ and c++ on PATH"
    raise ToolchainMissing(f"no C++ compiler found ({tried}). To get one:\n{ADVICE}")


@functools.cache
def _identify(command: tuple[str, ...], mtime_ns: int) -> Compiler:
    """Ask a compiler what it is; mtime_ns is in the arguments so that an upgraded one is asked again."""
    del mtime_ns
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        problem = f"C++ compiler {shlex.join(command)} does not run ({error})"
        raise ToolchainMissing(f"{problem}. To get one:\n{ADVICE}") from error
    version = done.stdout.strip().partition("\n")[0]
    return Compiler(command, version, "__kmpc_fork_call" if "clang" in version else "GOMP_parallel")


def supported_isas() -> tuple[str, ...]:
    """The instruction set levels this processor can run, best first; the last is always "portable"."""
    return _supported(_cpu_flags())


def _supported(flags: frozenset[str] | None) -> tuple[str, ...]:
    if flags is not None:
        return tuple(isa for isa in ISAS if NEEDS[isa] <= flags and (isa != "amx" or _amx_permitted()))
    best = TORCH_LEVELS.get(_torch_capability(), "portable")
    return ISAS[ISAS.index(best) :]


@functools.cache
def _amx_permitted() -> bool:
    """Ask the kernel for the tile registers of this process, which Linux gives on request only."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


def cpu_isa() -> str:
    """The level to build for: TILEWRIGHT_ISA if set, else the best that processor and compiler both know."""
    return settings().isa or next(isa for isa in supported_isas() if isa == "portable" or _is_accepted(isa))


def _is_accepted(isa: str) -> bool:
    """Whether the compiler knows a level's flags; one that is missing is reported when something is built."""
    try:
        return _compiles(find_compiler(), isa_flags(isa))
    except ToolchainMissing:
        return True


@functools.cache
def _compiles(compiler: Compiler, flags: tuple[str, ...]) -> bool:
    command = [*compiler.command, *flags, "-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


@functools.cache
def _cpu_flags() -> frozenset[str] | None:
    """The processor's feature names, or None where the system does not list them."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    flags = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    return frozenset(next(flags, ()))


def _torch_capability() -> str:
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


def isa_flags(isa: str) -> tuple[str, ...]:
    """Compiler flags of a level, one of ISAS."""
    return FLAGS[isa]


def compile_flags(isa: str) -> tuple[str, ...]:
    """All flags of a compile for a level; linking adds its own."""
    return (*COMMON, *isa_flags(isa))
