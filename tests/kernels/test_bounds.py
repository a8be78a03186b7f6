"""Reads outside a captured tensor are refused before they happen; reads inside never are."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

import tilewright as tw
from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.expr import Expr, Op, apply, call, cast, const, load, select, var
from tilewright.kernels.bounds import accesses, check_accesses, index_sources

B, H, ROW, J = (var(name) for name in ("b", "h", "i", "j"))
SIZES = {"B": 2, "Hq": 3, "M": 5, "N": 7}


def check(index: Expr, size: int, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
    root = load("table", (index,), Kind.FLOAT)
    check_accesses(accesses([root]), {"table": torch.zeros(size), **(tensors or {})}, SIZES)


RELATIVE = ROW - J + const(6)  # 0 .. 10
LOGARITHM = cast(apply(Op.LOG, cast(apply(Op.MAX, ROW - J, const(1)), DType.F32)), DType.I64)  # 0 .. 1


@pytest.mark.parametrize(
    ("index", "low", "high"),
    [
        (ROW, 0, 4),
        (J, 0, 6),
        (B * const(3) + H, 0, 5),
        (RELATIVE, 0, 10),
        (apply(Op.ABS, ROW - J), 0, 6),
        (apply(Op.MIN, ROW + J, const(4)), 0, 4),
        (apply(Op.MAX, ROW - const(3), const(0)), 0, 1),
        ((ROW + J) // const(4), 0, 2),
        ((ROW + J) % const(4), 0, 3),
        (select(J <= ROW, ROW - J, const(0)), 0, 4),
        (LOGARITHM, 0, 1),
        (load("ids", (J,), Kind.INT), 2, 5),
        (apply(Op.SHR, J, const(1)), 0, 3),
    ],
)
def test_the_least_tensor_that_is_enough(index: Expr, low: int, high: int) -> None:
    tensors = {"ids": torch.tensor([2, 3, 3, 4, 5, 5, 2])}
    check(index, high + 1, tensors)
    with pytest.raises(tw.ShapeError, match=rf"table: read at .* = {low}\.\.{high} of dimension 0, .* size {high}"):
        check(index, high, tensors)


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(tw.ShapeError, match=r"table: read at i - j = -6\.\.4 of dimension 0"):
        check(ROW - J, 100)


def test_a_choice_protects_what_it_does_not_take() -> None:
    """A concatenation: the sink's own column, then the table moved by one."""
    root = select(const(1) > J, const(0.0), load("table", (J - const(1),), Kind.FLOAT))
    check_accesses(accesses([root]), {"table": torch.zeros(6)}, SIZES)
    with pytest.raises(tw.ShapeError, match=r"table: read at j - 1 = 0\.\.5"):
        check_accesses(accesses([root]), {"table": torch.zeros(5)}, SIZES)
    unprotected = root + load("table", (J - const(1),), Kind.FLOAT)
    with pytest.raises(tw.ShapeError, match=r"table: read at j - 1 = -1\.\.5"):
        check_accesses(accesses([unprotected]), {"table": torch.zeros(6)}, SIZES)


def test_an_index_read_from_outside_is_refused() -> None:
    index = load("ids", (J + const(1),), Kind.INT)
    with pytest.raises(tw.ShapeError, match=r"ids: read at j \+ 1 = 1\.\.7 of dimension 0, which has size 7"):
        check(index, 100, {"ids": torch.zeros(7, dtype=torch.int64)})


def test_long_sequences_are_quick() -> None:
    """Neither an interval nor a difference looks at M x N points."""
    long = {"B": 1, "Hq": 1, "M": 1 << 20, "N": 1 << 20}
    for index in (apply(Op.MIN, J, const(31)), LOGARITHM):
        root = load("table", (index,), Kind.FLOAT)
        check_accesses(accesses([root]), {"table": torch.zeros(32)}, long)


def test_empty_sequences_read_nothing() -> None:
    root = load("table", (J,), Kind.FLOAT)
    check_accesses(accesses([root]), {"table": torch.zeros(0)}, SIZES | {"M": 0})


def test_sources_of_indices() -> None:
    inner = load("ids", (J,), Kind.INT)
    roots = [load("table", (inner,), Kind.FLOAT), load("bias", (ROW, J), Kind.FLOAT)]
    assert index_sources(accesses(roots)) == {"ids"}
    assert [(a.tensor, a.axis) for a in accesses(roots)] == [("ids", 0), ("table", 0), ("bias", 0), ("bias", 1)]


def test_nothing_is_lost_in_calls() -> None:
    assert accesses([call("weight", (ROW,), Kind.FLOAT)]) == []
