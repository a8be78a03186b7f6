"""Expert programs that transfer starts from, kept as text beside this file."""

from __future__ import annotations

import functools
from pathlib import Path

from ..ir.errors import TilewrightError
from ..ir.parser import parse_program
from ..ir.program import Grid, Program, statements
from ..ir.spec import AttentionSpec
from ..ir.transfer.backward import renamed_captured

__all__ = ["reference_program", "with_free_names"]

FOLDER = Path(__file__).parent / "programs"


@functools.cache
def reference_program(name: str = "flash_forward") -> Program:
    """The expert program of that name; TilewrightError lists what there is."""
    path = FOLDER / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.txt")))
        raise TilewrightError(f"no reference program {name!r}; there are: {known}")
    return parse_program(path.read_text(encoding="utf-8"))


@functools.cache
def _taken() -> frozenset[str]:
    """Names that expert programs give to tiles, scalars and tile variables; those of gradients rename by themselves."""
    found: set[str] = set()
    for file in FOLDER.glob("flash_[!b]*.txt"):
        for statement in statements(reference_program(file.stem).body):
            found |= set(statement.names) if isinstance(statement, Grid) else {str(getattr(statement, "name", ""))}
    return frozenset(found)


def with_free_names(spec: AttentionSpec) -> AttentionSpec:
    """The spec with captured tensors that hide no name of an expert program: a gate may be called g."""
    return renamed_captured(spec, set(_taken()))
