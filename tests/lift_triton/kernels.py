"""The fixtures by name, and what the tests ask of them."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tilewright.ir.lift.triton import Lifted, lift_triton

FOLDER = Path(__file__).parent / "fixtures"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__"))


@functools.cache
def module(name: str) -> ModuleType:
    """A fixture's module."""
    spec = importlib.util.spec_from_file_location(f"lift_triton_fixture_{name}", FOLDER / f"{name}.py")
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
