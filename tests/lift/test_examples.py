"""Every file of the gallery lifts, by its own inputs, to a spec that computes the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from tilewright.ir.lift import lift
from tilewright.ir.lift.selfcheck import difference
from tilewright.ir.reference import reference

FILES = sorted(Path(__file__).parents[2].joinpath("examples").glob("*.py"))
GALLERY = [path for path in FILES if "def inputs(" in path.read_text()]


def load(path):
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def test_gallery_is_there():
    assert len(GALLERY) >= 12


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_example(path):
    torch.manual_seed(0)
    module = load(path)
    function = getattr(module, path.stem)
    args = module.inputs()
    spec = lift(function, args)
    assert spec.name == path.stem
    exact = [x.double() if x.is_floating_point() else x for x in args]
    got, lse = reference(spec, *(x.numpy() for x in exact))
    assert difference(got, lse, function(*exact).numpy()) < 2e-6
