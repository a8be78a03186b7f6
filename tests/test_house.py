"""Rules of the house that a linter does not know: budgets of size, one idea a file, flags in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = {"build", "dist", "out"}
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
SHORT_FUNCTION_LINES = 30
SHORT_SHARE = 0.9
MAX_FLAGS = 8


def files(*suffixes: str) -> list[Path]:
    found = [path for path in sorted(ROOT.rglob("*")) if path.suffix in suffixes and path.is_file()]
    return [path for path in found if not is_foreign(path.relative_to(ROOT).parts)]


def is_foreign(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part in NOT_OURS for part in parts)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


PYTHON = files(".py")
SHIPPED = [path for path in files(".py", ".hpp", ".j2") if path.relative_to(ROOT).parts[0] != "tests"]


def function_lengths(path: Path) -> dict[str, int]:
    """Lines of every function, from `def` to its end, without its docstring."""
    lengths = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            doc_lines = (doc.end_lineno or doc.lineno) - doc.lineno + 1 if doc else 0
            where = f"{name_of(path)}:{node.lineno} {node.name}"
            lengths[where] = (node.end_lineno or node.lineno) - node.lineno + 1 - doc_lines
    return lengths


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_file_fits_the_budget(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


def test_functions_fit_the_budget() -> None:
    code = [path for path in SHIPPED if path.suffix == ".py"]
    lengths = {name: n for path in code for name, n in function_lengths(path).items()}
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}
    longer = sorted((n, name) for name, n in lengths.items() if n > SHORT_FUNCTION_LINES)
    assert len(longer) <= (1 - SHORT_SHARE) * len(lengths), f"too many long functions: {longer}"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_file_says_its_idea(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not source.strip() or ast.get_docstring(ast.parse(source)), "say first what the file is for"


def test_no_drawers() -> None:
    """A file named for nothing collects everything."""
    assert [name_of(p) for p in PYTHON if p.stem in {"utils", "util", "helpers", "misc", "common"}] == []


def test_flags_live_in_one_file() -> None:
    flag = re.compile(r"TILEWRIGHT_[A-Z_]+")
    flags = set(flag.findall((ROOT / "ir" / "settings.py").read_text(encoding="utf-8")))
    assert 0 < len(flags) <= MAX_FLAGS
    code = [path for path in SHIPPED if path.suffix == ".py"]
    strings = {found for path in code for found in flag.findall(path.read_text(encoding="utf-8"))}
    assert strings <= flags, f"a flag that ir/settings.py does not document: {strings - flags}"
