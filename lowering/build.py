"""C++ source to a loaded shared library, through the cache.

Two OpenMP runtimes in one process fight over the cores, so a library is linked without one and takes the
one that torch has already loaded; only where torch offers none is it linked with the compiler's own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..ir.errors import BuildError
from .cache import Cache, content_key, default_cache
from .toolchain import Compiler, compile_flags, find_compiler

__all__ = ["COMPILE_TIMEOUT_S", "build_shared_library", "load_shared_library"]

COMPILE_TIMEOUT_S = 300.0
MAX_ERROR_LINES = 12


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything that decides the bytes of the library, and nothing else."""

    source: str
    includes: Path
    compiler: Compiler
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]

    def key(self) -> str:
        flags = shlex.join(("compile", *self.compile_flags, "link", *self.link_flags))
        tools = shlex.join((*self.compiler.command, self.compiler.version, platform.machine()))
        return content_key("shared library", self.source, *_headers(self.includes), flags, tools)

    def steps(self) -> tuple[list[str], list[str]]:
        """The command lines that turn kernel.cpp into kernel.so, run in the folder that holds them."""
        command, include = self.compiler.command, str(self.includes.resolve())
        return (
            [*command, *self.compile_flags, "-I", include, "-c", "kernel.cpp", "-o", "kernel.o"],
            [*command, "kernel.o", *self.link_flags, "-o", "kernel.so"],
        )


def build_shared_library(
    source: str, isa: str, includes: Path, *, timeout_s: float = COMPILE_TIMEOUT_S, cache: Cache | None = None
) -> Path:
    """Compile C++ source for an instruction set level; returns a library that load_shared_library loads.

    includes: folder searched for headers; their bytes are part of the key. timeout_s: of each compiler call.
    Raises ToolchainMissing without a compiler; BuildError if it refuses, is killed or runs out of time.
    """
    compiler = find_compiler()
    shared_runtime = _is_in_process(compiler.openmp_symbol)
    link_flags = ("-shared",) if shared_runtime else ("-shared", "-fopenmp")
    job = _Job(source, includes, compiler, compile_flags(isa), link_flags)
    cache = cache or default_cache()
    key = job.key()
    return cache.get_or_build(key, lambda: _compile(job, key, timeout_s, cache), ".so")


def load_shared_library(path: Path) -> ctypes.CDLL:
    """Load a built library into this process, with torch's OpenMP runtime in place before it."""
    _is_in_process("GOMP_parallel")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} does not load: {error}; delete it to have it built again") from error


def _is_in_process(symbol: str) -> bool:
    """Whether libraries loaded from now on find a symbol in what is loaded already, torch included."""
    import torch  # noqa: F401 - loads its OpenMP runtime for the whole process

    return hasattr(ctypes.CDLL(None), symbol)


def _headers(includes: Path) -> list[str | bytes]:
    parts: list[str | bytes] = []
    for path in sorted(path for path in includes.rglob("*") if path.is_file()):
        parts += [path.relative_to(includes).as_posix(), path.read_bytes()]
    return parts


def _compile(job: _Job, key: str, timeout_s: float, cache: Cache) -> bytes:
    """Compile in a folder that goes away whatever happens, and return the library's bytes."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as name:
        folder = Path(name)
        (folder / "kernel.cpp").write_text(job.source, encoding="utf-8")
        for step in job.steps():
            problem = _call(step, folder, timeout_s)
            if problem:
                kept = cache.keep(f"{key[:16]}.cpp", job.source.encode())
                raise BuildError(f"{problem}\n  source kept at {kept}\n  command: {shlex.join(step)}")
        return (folder / "kernel.so").read_bytes()


def _call(command: list[str], folder: Path, timeout_s: float) -> str | None:
    """Run a compiler step in a process group of its own; returns what went wrong, or None."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return f"the C++ compiler did not finish within {timeout_s:g} s"
    finally:
        _end_group(process)
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return f"the C++ compiler was killed ({name}); if memory ran out, close other programs and try again"
    if process.returncode:
        return f"the C++ compiler refused the source:\n{_first_errors(errors)}"
    return None


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a compiler and its children if they still run: after a timeout or Ctrl-C, never after success."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _first_errors(text: str) -> str:
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if "error" in line.lower()), 0)
    return "\n".join(f"    {line}" for line in lines[first : first + MAX_ERROR_LINES])
