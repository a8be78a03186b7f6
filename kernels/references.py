"""Expert programs that transfer starts from, kept as text beside this file."""

from __future__ import annotations

import functools
from pathlib import Path

from ..ir.errors import TilewrightError
from ..ir.parser import parse_program
from ..ir.program import Program

__all__ = ["reference_program"]

FOLDER = Path(__file__).parent / "programs"


@functools.cache
def reference_program(name: str = "flash_forward") -> Program:
    """The expert program of that name; TilewrightError lists what there is."""
    path = FOLDER / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.txt")))
        raise TilewrightError(f"no reference program {name!r}; there are: {known}")
    return parse_program(path.read_text(encoding="utf-8"))
