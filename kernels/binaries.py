"""Built libraries in a saved kernel's directory, for machines without a compiler.

A library is machine code: it does whatever it was built to do, and the hash in the manifest finds damage, not
intent. So it runs only where the caller of `load` says binary=True; without that the source is built.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..ir.errors import BuildError, SettingError, TilewrightError, UnsupportedSpec
from ..ir.settings import ISAS
from ..lowering.cache import content_key, default_cache
from ..lowering.target import Launch
from ..lowering.toolchain import cpu_isa, supported_isas
from .compiled import Compiled

__all__ = ["BinaryWarning", "arch_here", "built", "launch_of", "rows", "warn"]

MAX_BINARY_BYTES = 256 << 20
SYSTEM = f"{platform.system()}-{platform.machine()}"


class BinaryWarning(UserWarning):
    """A saved library cannot be used here, so the kernel is built from its source."""


def built(compiled: Compiled, isas: Iterable[str]) -> dict[str, bytes]:
    """A library for each instruction set level, by file name. UnsupportedSpec for targets without libraries."""
    from ..lowering.cpp.target import CpuTarget

    if compiled.lowered.target != "cpu":
        raise UnsupportedSpec(
            f"binary: target {compiled.lowered.target!r} compiles at its first launch and has no library to save",
            hint="save without binary, and call the kernel once where it is loaded",
        )
    libraries = {}
    for isa in isas:
        if isa not in ISAS:
            raise SettingError(f"binary: level {isa!r}; wanted some of {', '.join(ISAS)}")
        libraries[f"kernel.{isa}.so"] = CpuTarget().build(dataclasses.replace(compiled.lowered, arch=isa)).read_bytes()
    return libraries


def rows(libraries: dict[str, bytes]) -> list[dict[str, str]]:
    """What the manifest says of libraries."""
    return [
        {"file": name, "isa": name.split(".")[1], "system": SYSTEM, "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in libraries.items()
    ]


def arch_here(target: str, arch: str) -> str:
    """The level to build a saved kernel for: its own where this processor has it, else this machine's best."""
    if target != "cpu" or arch in supported_isas():
        return arch
    return cpu_isa()


def launch_of(directory: Path, manifest: dict[str, Any], compiled: Compiled) -> Launch | None:
    """The launch of the best library that runs here; None, with a warning that says why, where there is none.

    Raises TilewrightError for a library that is not the one that was saved.
    """
    from ..lowering.cpp.target import CpuTarget

    found = {row["isa"]: row for row in manifest["binaries"] if row["system"] == SYSTEM}
    isa = next((isa for isa in supported_isas() if isa in found), None)
    if isa is None:
        held = ", ".join(f"{row['isa']} ({row['system']})" for row in manifest["binaries"]) or "none"
        warn(f"{directory}: no library for this machine ({supported_isas()[0]}, {SYSTEM}); it holds: {held}")
        return None
    path = _checked_copy(directory, found[isa])
    try:
        return CpuTarget().load_library(path, compiled.program)
    except BuildError as error:
        warn(f"{directory / found[isa]['file']}: {error}")
        return None


def _checked_copy(directory: Path, row: dict[str, str]) -> Path:
    """The library in our own cache, where nobody changes it between the check of its hash and its use."""
    path = directory / row["file"]
    if Path(row["file"]).name != row["file"]:
        raise TilewrightError(f"{directory}: the manifest names {row['file']!r}, which is not a plain file name")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BINARY_BYTES)
    except OSError as error:
        raise TilewrightError(f"{path}: {error.strerror}; save the kernel again") from None
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise TilewrightError(f"{path} is not the library that was saved (its hash differs); save the kernel again")
    return default_cache().get_or_build(content_key("saved library", row["sha256"]), lambda: data, ".so")


def warn(text: str) -> None:
    """Say why the source is built although a library was asked for."""
    warnings.warn(f"{text}; building from source", BinaryWarning, stacklevel=5)
