"""Integers of a launch as expressions of sizes: what is found, and what is not guessed."""

from __future__ import annotations

import pytest

from tilewright.ir.errors import UnsupportedKernel
from tilewright.ir.expr import Op, apply, const, select, var
from tilewright.ir.lift.triton.elementwise import is_identity
from tilewright.ir.lift.triton.sizes import SizeTable
from tilewright.ir.lift.triton.values import lane
from tilewright.ir.printer import print_expr

M, N, HEADS = (90, 131, 259), (175, 277, 150), (6, 21, 22)


def table() -> SizeTable:
    found = SizeTable()
    for name, values in (("M", M), ("N", N), ("H", HEADS)):
        found.dimension(values, name)
    return found


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((85, 146, -109), "N - M"),
        ((-85, -146, 109), "M - N"),
        ((265, 408, 409), "M + N"),
        ((90, 131, 150), "min(M, N)"),
        ((175, 277, 259), "max(M, N)"),
        ((86, 147, -108), "N - M + 1"),
        ((264, 407, 408), "M + N - 1"),
        ((6, 9, 9), "(max(M, N) + 31) // 32"),
    ],
)
def test_combinations_of_two_sizes(values: tuple[int, ...], text: str) -> None:
    assert print_expr(table().identify(values, "x")) == text


def test_other_numbers_are_refused() -> None:
    with pytest.raises(UnsupportedKernel, match=r"x is \[85, 146, -100\]"):
        table().identify((85, 146, -100), "x")


def test_what_two_combinations_explain_is_refused() -> None:
    with pytest.raises(UnsupportedKernel):  # blocks of 64 of the larger, blocks of 32 of the smaller
        table().identify((3, 5, 5), "x")


def test_the_identity_matrix() -> None:
    rows, columns = lane(0), lane(1)
    assert is_identity(select(apply(Op.EQ, rows, columns), const(1.0), const(0.0)))
    assert is_identity(select(apply(Op.NE, columns, rows), const(0.0), const(1.0)))
    assert not is_identity(select(apply(Op.EQ, rows, columns), const(2.0), const(0.0)))
    assert not is_identity(select(apply(Op.EQ, rows, columns), const(0.0), const(1.0)))
    assert not is_identity(select(apply(Op.EQ, rows, columns + 1), const(1.0), const(0.0)))
    assert not is_identity(select(apply(Op.EQ, rows, rows), const(1.0), const(0.0)))
    assert not is_identity(select(apply(Op.EQ, rows, var("M")), const(1.0), const(0.0)))
