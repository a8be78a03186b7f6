"""Every dialect of attention lifts to a spec that computes the same in fp64, at sizes it was not traced with."""

from __future__ import annotations

import pytest
import torch
from grouped import GROUPED
from written_by_hand import VARIANTS

from tilewright.ir.lift import lift
from tilewright.ir.lift.selfcheck import difference, holds
from tilewright.ir.parser import parse_spec
from tilewright.ir.printer import print_spec
from tilewright.ir.reference import reference

SIZES = [(2, 3, 6, 6), (3, 2, 5, 8), (1, 1, 7, 7), (2, 4, 1, 9)]


def tensors(b, hkv, m, n, group=1, d=8, dv=8, dtype=torch.float64):
    torch.manual_seed(b + 10 * m + 100 * n)
    return (
        torch.randn(b, hkv * group, m, d, dtype=dtype),
        torch.randn(b, hkv, n, d, dtype=dtype),
        torch.randn(b, hkv, n, dv, dtype=dtype),
    )


def check(function, spec, args):
    """The spec's reference against the function, where the function takes these sizes."""
    if not holds(spec, args):
        return False
    expected = function(*args).numpy()
    got, lse = reference(spec, *(x.numpy() for x in args))
    assert difference(got, lse, expected) < 2e-6
    return True


def floats(args):
    return tuple(x.double() if x.is_floating_point() else x for x in args)


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name):
    function, captured = VARIANTS[name]
    names = {"B": 2, "Hq": 3, "Hkv": 3, "M": 6, "N": 6}
    torch.manual_seed(0)
    spec = lift(function, (*tensors(2, 3, 6, 6, dtype=torch.float32), *captured(**names)))
    assert print_spec(parse_spec(print_spec(spec))) == print_spec(spec)
    done = 0
    for b, hkv, m, n in SIZES:
        extra = floats(captured(B=b, Hq=hkv, Hkv=hkv, M=m, N=n))
        done += check(function, spec, (*tensors(b, hkv, m, n), *extra))
    assert done >= 1


@pytest.mark.parametrize("name", GROUPED)
def test_grouped(name):
    function = GROUPED[name]
    spec = lift(function, tensors(2, 2, 6, 6, group=3, dtype=torch.float32))
    assert spec.group == 3
    assert all(check(function, spec, tensors(b, hkv, m, n, group=3)) for b, hkv, m, n in SIZES)
