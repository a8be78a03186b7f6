"""Files for one user alone: folders of mode 0700, files of mode 0600 that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from .errors import SettingError

__all__ = ["make_folders", "private_folder", "why_unsafe", "write_whole"]


def private_folder(path: Path) -> Path:
    """The folder, made if need be. SettingError where others own it or may write to it, or it cannot be made."""
    problem = why_unsafe(path)
    if problem:
        raise SettingError(f"folder {path} cannot be used: {problem}")
    return path


def why_unsafe(path: Path) -> str | None:
    """Why what lies in the folder could not be trusted, or None. Makes it, for one user alone, if need be."""
    try:
        make_folders(path)
        status = path.stat()
    except OSError as error:
        return f"{error.strerror or error}; name one that can be written"
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, not to {os.geteuid()}; name your own"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(status.st_mode):o}); chmod go-w it"
    return None


def make_folders(path: Path) -> None:
    """Make the folder, and those above it, for one user alone where they do not exist. OSError where that fails."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file by renaming, on disk before it has its name. OSError where that fails."""
    make_folders(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
