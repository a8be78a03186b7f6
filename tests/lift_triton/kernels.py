"""The fixtures by name, and what the tests ask of them."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tilewright.ir.lift.triton import Lifted, lift_triton

FOLDERS = (Path(__file__).parent / "fixtures", Path(__file__).parent / "styles")
NAMES, STYLES = (
    tuple(sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")) for folder in FOLDERS
)


@functools.cache
def module(name: str) -> ModuleType:
    """A fixture's module."""
    path = FOLDERS[name in STYLES] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"lift_triton_fixture_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


@functools.cache
def lifted(name: str) -> Lifted:
    """A fixture, lifted."""
    fixture = module(name)
    return lift_triton(fixture.launch, [fixture.inputs(**sizes) for sizes in fixture.EXAMPLES], name)
