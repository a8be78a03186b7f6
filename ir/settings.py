"""Every environment variable Tilewright reads, in one place.

    variable             values                                       default
    TILEWRIGHT_CACHE     absolute folder for built kernels            tilewright in XDG_CACHE_HOME or ~/.cache
    TILEWRIGHT_ISA       amx | avx512bf16 | avx512 | avx2 | portable  the best this machine has
    TILEWRIGHT_TRACE     0 | 1: print the IR before and after passes  0
    TILEWRIGHT_MODELS    language models' names, commas between them  none: engine 'llm' is told by its caller
    TILEWRIGHT_BASE_URL  the server that serves them                  OPENAI_BASE_URL, else OpenAI's
    TILEWRIGHT_API_KEY   its key, never shown                         see ir/transfer/models/keys.py
    CXX                  the C++ compiler, arguments allowed          first of g++, clang++, c++ on PATH

A variable that is set but empty counts as not set. Any other value is a SettingError.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from .errors import SettingError

__all__ = ["ISAS", "PAIRED", "Settings", "settings"]

ISAS = ("amx", "avx512bf16", "avx512", "avx2", "portable")  # best first
PAIRED = ISAS[:2]  # levels that multiply pairs of bfloat16; the others multiply them as float32


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment asks for; None or () where it leaves the choice to us. The key is not shown by repr."""

    cache: Path
    isa: str | None
    trace: bool
    cxx: tuple[str, ...]
    models: tuple[str, ...] = ()
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)


def settings() -> Settings:
    """The settings of this moment, read from the environment."""
    return Settings(
        cache=_cache_root(),
        isa=_choice("TILEWRIGHT_ISA", ISAS),
        trace=_choice("TILEWRIGHT_TRACE", ("0", "1")) == "1",
        cxx=_words("CXX"),
        models=tuple(name.strip() for name in os.environ.get("TILEWRIGHT_MODELS", "").split(",") if name.strip()),
        base_url=os.environ.get("TILEWRIGHT_BASE_URL") or None,
        api_key=os.environ.get("TILEWRIGHT_API_KEY") or None,
    )


def _choice(name: str, allowed: tuple[str, ...]) -> str | None:
    value = os.environ.get(name) or None
    if value is not None and value not in allowed:
        raise SettingError(f"{name}={value!r}: wanted one of {', '.join(allowed)}; unset it to let us choose")
    return value


def _words(name: str) -> tuple[str, ...]:
    value = os.environ.get(name) or ""
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise SettingError(f"{name}={value!r}: not a command line ({error})") from error


def _cache_root() -> Path:
    asked = os.environ.get("TILEWRIGHT_CACHE")
    if asked:
        path = Path(asked).expanduser()
        if not path.is_absolute():
            raise SettingError(f"TILEWRIGHT_CACHE={asked!r}: wanted an absolute path")
        return path
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "tilewright"
