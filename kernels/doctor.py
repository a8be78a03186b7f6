"""What this machine can do, what is missing and how to get it. Imports neither torch nor triton."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..ir.errors import TilewrightError
from ..ir.settings import settings
from ..lowering.toolchain import cpu_isa, find_compiler, supported_isas
from .version import VERSION

__all__ = ["Finding", "examine", "to_json"]

MIN_VERSIONS = {"torch": (2, 11), "triton": (3, 6), "numpy": (2, 0), "jinja2": (3, 1)}
EXTRAS = {
    "cuda": ("cupy-cuda13x", "nvidia-cuda-nvrtc"),
    "llm": ("openai",),
    "hf": ("transformers", "gguf"),
    "solve": ("ortools",),
    "plot": ("matplotlib",),
    "bench": ("pytest", "pytest-benchmark"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `is_needed`: the main job does not work without it."""

    name: str
    is_ok: bool
    found: str
    advice: str = ""
    is_needed: bool = True


def examine() -> list[Finding]:
    """Look at everything; never raises."""
    findings = [Finding("tilewright", True, VERSION), Finding("python", True, platform.python_version())]
    findings += [_package(name, minimum) for name, minimum in MIN_VERSIONS.items()]
    findings += [_asked("C++ compiler", _compiler), _asked("instruction set", _isa), _asked("cache", _cache)]
    findings += [_gpu(), *(_extra(name, packages) for name, packages in EXTRAS.items())]
    return findings


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings as plain data, and whether all that is needed is there."""
    ready = all(finding.is_ok for finding in findings if finding.is_needed)
    return {"ready": ready, "findings": [asdict(finding) for finding in findings]}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str, minimum: tuple[int, int]) -> Finding:
    version = _version(name)
    wanted = f"pip install '{name}>={minimum[0]}.{minimum[1]}'"
    if version is None:
        return Finding(name, False, "not installed", wanted)
    parts = [int(part) for part in version.split("+")[0].split(".")[:2] if part.isdecimal()]
    is_ok = tuple(parts) >= minimum
    return Finding(name, is_ok, version, "" if is_ok else wanted)


def _asked(name: str, look: Callable[[], Finding]) -> Finding:
    """A finding, or the refusal that looking for it gave."""
    try:
        return look()
    except TilewrightError as error:
        first, _, rest = str(error).partition("\n")
        return Finding(name, False, first, rest)


def _compiler() -> Finding:
    compiler = find_compiler()
    return Finding("C++ compiler", True, f"{' '.join(compiler.command)} ({compiler.version.splitlines()[0]})")


def _isa() -> Finding:
    levels = ", ".join(supported_isas())
    return Finding("instruction set", True, f"{cpu_isa()} (of {levels}), {os.cpu_count()} processors")


def _cache() -> Finding:
    root = settings().cache
    near = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(near, os.W_OK):
        advice = "each process builds its kernels again; set TILEWRIGHT_CACHE to a folder of yours"
        return Finding("cache", False, f"{root} cannot be written", advice, is_needed=False)
    files = [path for path in (root / "blobs").glob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    return Finding("cache", True, f"{root}: {len(files)} files, {size:.1f} MiB", is_needed=False)


def _gpu() -> Finding:
    if Path("/dev/nvidiactl").exists() and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            return Finding("GPU", False, f"nvidia-smi failed: {error}", "check the driver", is_needed=False)
        return Finding("GPU", True, "; ".join(done.stdout.strip().splitlines()), is_needed=False)
    advice = "target triton still generates source here; it runs on a machine with an NVIDIA GPU"
    return Finding("GPU", False, "none", advice, is_needed=False)


def _extra(name: str, packages: tuple[str, ...]) -> Finding:
    missing = [package for package in packages if _version(package) is None]
    found = "missing " + ", ".join(missing) if missing else ", ".join(f"{p} {_version(p)}" for p in packages)
    advice = f"pip install 'tilewright[{name}]'" if missing else ""
    return Finding(f"extra {name}", not missing, found, advice, is_needed=False)
