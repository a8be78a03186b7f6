"""The drawn tree is the real tree, and messages show every field."""

from __future__ import annotations

import pickle
import re

import pytest

from tilewright.ir import errors
from tilewright.ir.errors import (
    BarrierPhaseError,
    DataRace,
    Deadlock,
    InterpreterError,
    MissingExtra,
    OutOfBounds,
    ParseError,
    ProgramError,
    ProgramLine,
    TilewrightError,
    UninitialisedRead,
    UnsupportedSpec,
)

LINES = (ProgramLine(3, "  copy(s, k)"), ProgramLine(7, "gemm(acc, q, s)"))
EXAMPLES = [
    UnsupportedSpec("a loop over data", "attn.py:12", "  while x.sum() > 0:", "use where"),
    ParseError(2, 5, "'->'", "a name", "let -> x"),
    ProgramError("defined before used", "acc is not defined", LINES[1]),
    DataRace("s is written while it is read", *LINES),
    MissingExtra("llm", "transfer by language model"),
]


def test_the_drawing_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^( {4}(?:│   )*(?:[├└]── )?)([A-Z]\w+)(?: |$)", line)
        if found:
            depth = (len(found[1]) - 4) // 4
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else "Exception"
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in kinds}


def test_messages_show_every_field() -> None:
    spec, parse, program, race, extra = map(str, EXAMPLES)
    assert spec == "attn.py:12: a loop over data\n    while x.sum() > 0:\n  hint: use where"
    assert parse == "line 2, column 5: found '->', wanted a name\n    let -> x\n        ^"
    assert program == "defined before used: acc is not defined\n    line 7: gemm(acc, q, s)"
    assert race == "s is written while it is read\n    line 3: copy(s, k)\n    line 7: gemm(acc, q, s)"
    assert extra == "transfer by language model needs an optional dependency: pip install 'tilewright[llm]'"
    assert str(UnsupportedSpec("no softmax")) == "no softmax"


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_cross_processes(error: TilewrightError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", [DataRace, Deadlock, BarrierPhaseError, UninitialisedRead, OutOfBounds])
def test_conflicts_name_both_lines(kind: type[InterpreterError]) -> None:
    error = kind("conflict", *LINES)
    assert error.lines == LINES
    assert "line 3" in str(error)
    assert "line 7" in str(error)
