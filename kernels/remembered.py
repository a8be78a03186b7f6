"""Results of `generate`, remembered by content: a repeated command neither imports torch nor traces again.

An answer counts only while everything it came from is unchanged: the bytes of the spec's file, every file
that importing it loaded, Tilewright's own sources, the versions of torch and Python, and the options.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..lowering.cache import content_key, default_cache

__all__ = ["Memory", "loaded_files", "recall", "remember"]

PACKAGE = Path(__file__).resolve().parent.parent
OWN_FOLDERS = ("ir", "schedules", "lowering", "kernels")
OWN_SUFFIXES = {".py", ".txt", ".hpp", ".j2"}
ANSWER = "answer"
WATCHED = "watched"
Stamp = tuple[str, int, int]  # path, size in bytes, time of change in ns


@dataclass(frozen=True, slots=True)
class Memory:
    """A question: the key under which its answer is kept."""

    key: str

    @classmethod
    def of(cls, spec: str, options: Iterable[object]) -> Memory | None:
        """The question of a command line; None where the spec's file cannot be found without importing it."""
        source = _file_of(spec.rpartition(":")[0])
        if source is None:
            return None
        facts = [fingerprint(), spec, str(source), source.read_bytes().hex(), sys.version, _version("torch")]
        return cls(content_key("generate", *facts, *(repr(option) for option in options)))


def _file_of(place: str) -> Path | None:
    if place.endswith(".py"):
        path = Path(place).resolve()
        return path if path.is_file() else None
    try:
        found = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found is not None and found.has_location and found.origin else None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@functools.cache
def fingerprint() -> str:
    """A hash of the sources that decide what is generated."""
    digest = hashlib.sha256()
    for folder in OWN_FOLDERS:
        for path in sorted((PACKAGE / folder).rglob("*")):
            if path.suffix in OWN_SUFFIXES and path.is_file():
                digest.update(str(path.relative_to(PACKAGE)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def recall(memory: Memory) -> dict[str, Any] | None:
    """The answer, if it is there and nothing it came from has changed."""
    path = default_cache().get(memory.key)
    if path is None:
        return None
    try:
        kept = json.loads(path.read_bytes())
        if not all(_stamp(Path(name)) == (name, size, time) for name, size, time in kept[WATCHED]):
            return None
        answer: dict[str, Any] = kept[ANSWER]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answer


def remember(memory: Memory, answer: dict[str, Any], files: Iterable[Path]) -> None:
    """Keep an answer with the files it came from."""
    kept = {WATCHED: [_stamp(path) for path in files], ANSWER: answer}
    default_cache().put(memory.key, json.dumps(kept).encode(), ".json")


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def loaded_files(before: set[str]) -> list[Path]:
    """Files of the modules that were imported since `before` (names in sys.modules), torch's own left out."""
    found = set()
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and not name.startswith(("torch.", "tilewright")) and Path(file).is_file():
            found.add(Path(file).resolve())
    return sorted(found)
