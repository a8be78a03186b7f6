"""Backward of every function of the repository's galleries is what autograd makes of the function, in fp64."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from tilewright.ir.lift import lift
from tilewright.ir.lift.selfcheck import holds
from tilewright.kernels.attention import Formula, Pair

from ..compat.flex_gallery import BATCH, HEADS
from ..compat.flex_gallery import GALLERY as FLEX
from ..lift.grouped import GROUPED, one_key_head
from ..lift.written_by_hand import VARIANTS
from .truth import check

FILES = sorted(Path(__file__).parents[2].joinpath("examples").glob("*.py"))
EXAMPLES = [path for path in FILES if "def inputs(" in path.read_text()]  # functions, not other uses of the library
LENGTHS = (34, 40)  # of the FlexAttention gallery
REFUSED = {"inplace_everything": lambda q, k, v: (q @ k.mT * 0.25).softmax(-1) @ v}
"""What functions compute whose way of writing autograd refuses."""


def qkv(b, hkv, m, n, group=1, d=8):
    generator = torch.Generator().manual_seed(b + 10 * m + 100 * n)
    shapes = ((b, hkv * group, m, d), (b, hkv, n, d), (b, hkv, n, d))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path):
    torch.manual_seed(0)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function, tensors = getattr(module, path.stem), module.inputs()
    check(function, lift(function, tensors), tensors)


def dialects():
    """All; those before softcap only spell softmax and masks in their ways, whose backward is that of plain attention."""
    names = list(VARIANTS)
    for n, name in enumerate(names):
        is_plain = n < names.index("softcap") and name not in ("textbook", "captured_additive", "rows_without_keys")
        yield pytest.param(name, marks=[pytest.mark.slow] if is_plain else [], id=name)


@pytest.mark.parametrize("name", list(dialects()))
def test_dialect(name):
    function, captured = VARIANTS[name]
    torch.manual_seed(0)
    spec = lift(function, (*qkv(2, 3, 6, 6), *captured(B=2, Hq=3, Hkv=3, M=6, N=6)))
    for b, heads, m, n in ((2, 3, 5, 8), (2, 3, 6, 6)):
        tensors = (*qkv(b, heads, m, n), *captured(B=b, Hq=heads, Hkv=heads, M=m, N=n))
        if holds(spec, tensors):
            check(REFUSED.get(name, function), spec, tensors)
            return
    pytest.fail("the spec holds for neither size")


@pytest.mark.parametrize("name", GROUPED)
def test_grouped(name):
    function = GROUPED[name]
    check(function, lift(function, qkv(2, 2, 6, 6, group=3)), qkv(2, 2, 5, 8, group=3))


def test_one_key_head():
    check(one_key_head, lift(one_key_head, qkv(2, 1, 6, 6, group=4)), qkv(2, 1, 5, 8, group=4))


def flex_cases():
    """All; those that only mask have the backward of plain attention, and are many."""
    for name, make in FLEX.items():
        yield pytest.param(name, marks=[pytest.mark.slow] if make(*LENGTHS)[0] is None else [], id=name)


@pytest.mark.parametrize("name", list(flex_cases()))
def test_flex_gallery(name):
    rows, columns = LENGTHS
    pair = Pair(FLEX[name](rows, columns))
    function = Formula(pair, True)
    tensors = (*qkv(BATCH, HEADS, rows, columns), *pair.captures.tensors)
    check(function, lift(function, tensors), tensors)
