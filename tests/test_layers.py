"""Imports go down the floors and never up; every folder with Python in it is packaged."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {"ir": 1, "schedules": 2, "lowering": 3, "kernels": 4, "compat": 5, "runtimes": 6, "bench": 7}
TOP = 7  # root files: cli.py, __init__.py
NOT_PACKAGED = {"tests", "examples", "docs", "build", "dist", "out"}
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not any(part.startswith(".") or part in NOT_PACKAGED for part in path.relative_to(ROOT).parts)
]


def floor_of(module: str) -> int:
    return FLOORS.get(module.split(".")[1] if "." in module else "", TOP)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("tilewright", *parts)).removesuffix(".__init__")


def imports_of(tree: ast.AST, package: str) -> list[tuple[int, str]]:
    """(line, absolute module) of every import of ours; `from . import x` names x."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            found += [(node.lineno, base if base != "tilewright" else f"{base}.{a.name}") for a in node.names]
    return [(line, name) for line, name in found if name.split(".")[0] == "tilewright"]


def upward_imports(source: str, module: str, *, is_package: bool) -> list[str]:
    package = module if is_package else module.rpartition(".")[0]
    found = imports_of(ast.parse(source), package)
    return [f"{module}:{line} imports {name}" for line, name in found if floor_of(name) > floor_of(module)]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_down(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert upward_imports(source, module_of(path), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    "statement",
    ["from ..kernels import x", "from .. import kernels", "import tilewright.bench", "from ..cli import x"],
)
def test_an_upward_import_is_seen(statement: str) -> None:
    assert upward_imports(statement, "tilewright.lowering.build", is_package=False)
    assert upward_imports("from ..ir import errors", "tilewright.lowering.build", is_package=False) == []


def test_every_folder_is_packaged() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    present = {module_of(path.parent / "__init__.py") for path in SOURCES}
    assert sorted(listed) == sorted(present)
