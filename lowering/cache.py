"""A content-addressed store of built artefacts that survives crashes, rivals and bad disks.

    root/keys/<key>             small JSON: which blob answers this key
    root/blobs/<sha256><suffix> the artefact, named by its own bytes
    root/locks/<2 digits>       taken while a key is built, so that rivals wait instead of building twice

Both kinds of file appear by rename, so a reader sees a whole file or none. A blob's name is the hash of its
bytes, so every load can tell a damaged one, which then counts as absent and is built again. Where the root
cannot be written (read-only, full), artefacts go to a folder of this process and live as long as it does.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from ..ir.private_files import make_folders, why_unsafe, write_whole
from ..ir.settings import settings

__all__ = ["Cache", "CacheWarning", "content_key", "default_cache"]

LOCK_PATIENCE_S = 600.0
LOCK_POLL_S = 0.02


class CacheWarning(UserWarning):
    """The cache folder cannot be used as asked; kernels still work, they are built again next time."""


def content_key(*parts: str | bytes) -> str:
    """SHA-256 (64 hex digits) of the parts in order, lengths included: ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def default_cache() -> Cache:
    """The cache at the root that the settings name; one object per root."""
    return _open_cache(settings().cache)


@functools.cache
def _open_cache(root: Path) -> Cache:
    return Cache(root)


class Cache:
    """Artefacts by key. Safe under concurrent processes and threads; nothing is ever changed in place."""

    def __init__(self, root: Path) -> None:
        self._overflow: Path | None = None
        problem = why_unsafe(root)
        if problem:
            self._warn(f"cache folder {root} is not used: {problem}")
        self.root = self._private_folder() if problem else root

    def get(self, key: str) -> Path | None:
        """The intact artefact of a key, or None if there is none or it is damaged."""
        for root in (self.root, self._overflow):
            found = _load(root, key) if root else None
            if found:
                return found
        return None

    def put(self, key: str, data: bytes, suffix: str = "") -> Path:
        """Store an artefact under a key and return its path; a root that cannot be written is replaced."""
        try:
            return _store(self.root, key, data, suffix)
        except OSError as error:
            folder = self._private_folder()
            self._warn(f"cache folder {self.root} cannot be written ({error.strerror}); using {folder}")
            return _store(folder, key, data, suffix)

    def get_or_build(self, key: str, build: Callable[[], bytes], suffix: str = "") -> Path:
        """The artefact of a key, built if absent or damaged; of rivals that want the same key one builds."""
        found = self.get(key)
        if found:
            return found
        with _locked(self.root / "locks" / key[:2]):
            return self.get(key) or self.put(key, build(), suffix)

    def keep(self, name: str, data: bytes) -> Path:
        """Keep a file for a person to read (the source of a failed compile); returns where."""
        try:
            return _write(self.root / "kept" / name, data)
        except OSError:
            return _write(self._private_folder() / "kept" / name, data)

    def _private_folder(self) -> Path:
        if self._overflow is None:
            self._overflow = Path(tempfile.mkdtemp(prefix="tilewright-"))
            weakref.finalize(self, shutil.rmtree, self._overflow, ignore_errors=True)
        return self._overflow

    @functools.cache  # noqa: B019 - each text once; caches live as long as the process
    def _warn(self, text: str) -> None:
        warnings.warn(text, CacheWarning, stacklevel=3)


def _load(root: Path, key: str) -> Path | None:
    try:
        entry = json.loads((root / "keys" / key).read_bytes())
        blob = root / "blobs" / (entry["sha256"] + entry["suffix"])
        intact = hashlib.sha256(blob.read_bytes()).hexdigest() == entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: both mean "not there"
        return None
    return blob if intact else None


def _store(root: Path, key: str, data: bytes, suffix: str) -> Path:
    digest = hashlib.sha256(data).hexdigest()
    blob = _write(root / "blobs" / (digest + suffix), data)
    _write(root / "keys" / key, json.dumps({"sha256": digest, "suffix": suffix}).encode())
    return blob


def _write(path: Path, data: bytes) -> Path:
    write_whole(path, data)
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock if the file system can give one within patience; else go on without: it only saves work.

    The kernel drops the lock of a process that dies, so a killed build never blocks the next one.
    """
    try:
        make_folders(path.parent)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        _acquire(handle)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while time.monotonic() < deadline:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_POLL_S)
        except OSError:
            return
        else:
            return
