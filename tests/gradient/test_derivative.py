"""Every operation's derivative is autograd's, at its kinks too; derivatives stay small and without NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.ir.algebra import simplify
from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.errors import UnsupportedSpec
from tilewright.ir.evaluate import evaluate
from tilewright.ir.expr import UNARY_FLOAT, Op, apply, call, cast, const, load, select, var, walk
from tilewright.ir.gradient import derivative
from tilewright.ir.gradient.derivative import CHOICES, PARTIALS
from tilewright.ir.lift.elementwise import ELEMENTWISE

from .torch_meaning import in_torch

S = var("s", Kind.FLOAT)
ROW = var("i")
TABLE = load("t", (ROW,), Kind.FLOAT)
OTHER = load("t", (ROW + 1,), Kind.FLOAT)
POINTS = np.array([-3.0, -1.5, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0, 3.25])
INEXACT = UNARY_FLOAT - {Op.FLOOR} | {Op.POW, Op.DIV}
ZERO = const(0.0)
FUNCTIONS = [Op.NEG, Op.ABS, *sorted(UNARY_FLOAT, key=str)]
FLOATING = [Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MIN, Op.MAX, Op.POW, *FUNCTIONS]
OPERANDS = [(S, TABLE), (TABLE, S), (S, const(0.0)), (const(0.5), S), (S, const(2.0)), (S, const(3)), (S, S * 0.5)]


def value(e, s, t):
    """An expression's value where s varies and t[0], t[1] are given."""
    env = {"s": np.asarray(s), "i": np.asarray(0)}
    return np.broadcast_to(evaluate(e, env, {"t": np.asarray(t)}, float_type=np.float64), np.shape(s))


def by_autograd(e, by, s, t):
    """The derivative by PyTorch, element by element of s."""
    leaves = {S: torch.tensor(s), TABLE: torch.full(s.shape, t[0]).double(), OTHER: torch.full(s.shape, t[1]).double()}
    leaf = leaves[by].requires_grad_()
    result = in_torch(e, leaves)
    if not result.requires_grad:
        return np.zeros(s.shape)
    return torch.autograd.grad(result.sum(), leaf, allow_unused=True, materialize_grads=True)[0].numpy()


def check(e, by, s=POINTS, t=(0.5, 2.0)):
    """Equal to autograd's wherever that is a number."""
    wanted = by_autograd(e, by, s, t)
    known = np.isfinite(wanted) & np.isfinite(value(e, s, t))
    got = value(derivative(e, by), s, t)
    np.testing.assert_allclose(got[known], wanted[known], rtol=1e-9, atol=1e-9)
    return known


def test_every_floating_operation_has_a_rule():
    assert {*PARTIALS, *CHOICES} == {*FLOATING, Op.SELECT, Op.CAST}


@pytest.mark.parametrize("op", FLOATING, ids=lambda op: op.value)
def test_operation(op):
    if op in FUNCTIONS:
        assert check(apply(op, S), S).sum() >= 4
        assert check(apply(op, S * 0.5 + 1.75) * S, S).all()
        return
    for x, y in OPERANDS:
        e = apply(op, x, y) if op is not Op.DIV or y.attr != 0 else x
        for by in (S, TABLE):
            check(e, by)
            assert check(e, by, np.abs(POINTS) + 0.5, (1.5, 2.0)).all()


@pytest.mark.parametrize("op", sorted({*PARTIALS} - {Op.CAST, Op.FLOOR}, key=str), ids=lambda op: op.value)
def test_operation_by_differences(op):
    points, step = np.array([0.31, 0.77, 1.61]), 1e-6
    operands = (S,) if len(PARTIALS[op]) == 1 else (S + 0.1, S * S * 0.5)
    e = apply(op, *operands)
    wanted = (value(e, points + step, (0, 0)) - value(e, points - step, (0, 0))) / (2 * step)
    np.testing.assert_allclose(value(derivative(e, S), points, (0, 0)), wanted, rtol=1e-8)


# Random expressions

literals = st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0, -3.0]).map(const)
floats = st.deferred(lambda: st.one_of(st.sampled_from([S, TABLE, OTHER]), literals, nodes))
truths = st.builds(apply, st.sampled_from([Op.LT, Op.LE]), floats, floats)
nodes = st.one_of(
    st.builds(apply, st.sampled_from([Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MIN, Op.MAX, Op.POW]), floats, floats),
    st.builds(apply, st.sampled_from(FUNCTIONS), floats),
    st.builds(select, truths, floats, floats),
    st.builds(lambda e: e * e, floats),
    st.builds(lambda e: cast(e, DType.F64), floats),
)


def compared(e):
    """Pairs of floats whose order decides what an operation gives, or what its derivative is."""
    if e.op in (Op.LT, Op.LE, Op.MIN, Op.MAX):
        return [e.args]
    if e.op is Op.FLOOR:
        return [(e.args[0], apply(Op.FLOOR, e.args[0] + 0.5))]
    return [(arg, ZERO) for arg in e.args] if e.op in (Op.ABS, Op.POW) else []


def turns_over(e, t):
    """Where computed floats that are compared are so close that the last bit decides: NumPy and PyTorch differ in it."""
    close = np.zeros(POINTS.shape, bool)
    for node in walk(e):
        if any(inner.op in INEXACT for inner in walk(node)):
            for pair in compared(node):
                x, y = (value(operand, POINTS, t) for operand in pair)
                close |= np.abs(x - y) < 1e-9 * (1.0 + np.abs(x))
    return close


@settings(max_examples=250, deadline=None)
@given(floats.map(simplify), st.sampled_from([S, TABLE, OTHER]), st.sampled_from([0.5, 1.0, -1.0, 0.0]))
def test_random(e, by, at):
    t = (at, 2.0)
    wanted = by_autograd(e, by, POINTS, t)
    inner = [wanted, *(value(x, POINTS, t) for x in walk(e) if x.kind is Kind.FLOAT)]
    is_tame = np.all([np.isfinite(x) & (np.abs(x) < 1e6) for x in inner], axis=0) & ~turns_over(e, t)
    got = value(derivative(e, by), POINTS, t)
    np.testing.assert_allclose(got[is_tame], wanted[is_tame], rtol=1e-6, atol=1e-6)


# Conventions


@pytest.mark.parametrize(
    ("e", "at", "wanted"),
    [
        (apply(Op.MAX, S, 0.0), 0.0, 0.0),
        (apply(Op.MAX, 0.0, S), 0.0, 0.0),
        (apply(Op.MAX, S, 1.0), 1.0, 1.0),
        (apply(Op.MIN, S, 1.0), 1.0, 1.0),
        (apply(Op.MIN, S, 0.0), 0.0, 1.0),
        (apply(Op.MAX, S, TABLE), 0.5, 0.5),
        (apply(Op.MIN, TABLE, S), 0.5, 0.5),
        (apply(Op.MAX, S, S * 2.0), 0.0, 1.5),
        (apply(Op.ABS, S), 0.0, 0.0),
        (apply(Op.POW, S, 0.0), 0.0, 0.0),
        (ELEMENTWISE["sign"](S), 0.0, 0.0),
        (ELEMENTWISE["sign"](S) * S, -2.0, -1.0),
        (ELEMENTWISE["leaky_relu"](S), 0.0, 0.01),
        (ELEMENTWISE["trunc"](S), 0.5, 0.0),
        (cast(S, DType.BF16) * 3.0, 1.0, 3.0),
        (cast(cast(S * 4.0, DType.I32), DType.F32), 1.0, 0.0),
    ],
)
def test_kinks(e, at, wanted):
    assert value(derivative(e, S), np.array([at]), (0.5, 2.0)) == [wanted]


@pytest.mark.parametrize(
    ("e", "at"),
    [
        (select(S > 0.0, apply(Op.LOG, S), S * 3.0), -1.0),  # NaN in the branch that is not taken
        (select(S < 1.0, S * 3.0, apply(Op.EXP, apply(Op.EXP, S * 1e3))), 0.9),  # inf there
        (apply(Op.SQRT, apply(Op.MAX, S, 0.0)), -1.0),  # inf times zero, NaN in PyTorch
        (apply(Op.SQRT, apply(Op.MAX, S, 0.0)), 0.0),
        (apply(Op.SQRT, apply(Op.ABS, S)), 0.0),
        (apply(Op.LOG, apply(Op.MAX, apply(Op.MIN, S, 4.0), 0.0)), 0.0),
    ],
)
def test_no_nan_from_what_is_not_taken(e, at):
    (got,) = value(derivative(e, S), np.array([at]), (0.5, 2.0))
    assert got == (3.0 if at in (-1.0, 0.9) and e.op is Op.SELECT else 0.0)


# Shape


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (S * 0.125, "0.125"),
        (S * 0.125 + TABLE, "0.125"),
        (apply(Op.TANH, S * 0.02) * 50.0, "1.0 - tanh(s * 0.02) * tanh(s * 0.02)"),
        (apply(Op.SIGMOID, S), "sigmoid(s) * (1.0 - sigmoid(s))"),
        (apply(Op.MAX, S * 0.5, 0.0), "where(0.0 < s * 0.5, 0.5, 0.0)"),
        (apply(Op.MAX, S, 0.0) * apply(Op.MAX, S, 0.0), "where(0.0 < s, max(s, 0.0) * 2.0, 0.0)"),
        (S * apply(Op.SIGMOID, S), "sigmoid(s) + s * (sigmoid(s) * (1.0 - sigmoid(s)))"),
        (apply(Op.MIN, apply(Op.MAX, S, -5.0), 5.0), "where((max(s, -5.0) <= 5.0) & (-5.0 <= s), 1.0, 0.0)"),
        (S / cast(var("N"), DType.F32), "1.0 / f32(N)"),
        (apply(Op.POW, S, 3.0), "3.0 * pow(s, 2.0)"),
        (apply(Op.FLOOR, S), "0.0"),
        (TABLE, "0.0"),
    ],
)
def test_text(e, text):
    got = repr(derivative(e, S))
    assert got in (text, text.replace("3.0 * pow(s, 2.0)", "pow(s, 2.0) * 3.0"))


def test_values_of_the_forward_are_used_again():
    e = simplify(apply(Op.TANH, S * 0.02 + TABLE) * 50.0)
    tanh = e.args[0]
    assert [node for node in walk(derivative(e, S)) if node.op is Op.TANH] == [tanh]


@pytest.mark.parametrize(
    "step",
    [
        lambda e: e * e,
        lambda e: apply(Op.SIN, e) * apply(Op.COS, e),
        lambda e: apply(Op.MAX, e, 0.5) + apply(Op.ABS, e),
        lambda e: select(e < 1.0, e * e, apply(Op.EXP, e) / e),
        lambda e: apply(Op.MAX, apply(Op.MIN, e, 3.0), -3.0) * 1.5,
        lambda e: apply(Op.MAX, apply(Op.TANH, e), TABLE),
    ],
)
def test_shared_parts_do_not_multiply(step):
    """Each step uses the one before twice: written out, sixty of them would have 2 ** 60 parts."""
    sizes = []
    for depth in (30, 60):
        e = S
        for _ in range(depth):
            e = step(e)
        sizes.append(sum(1 for _ in walk(derivative(e, S))))
    assert sizes[1] < 3 * sizes[0] < 3000 * 3


# Refusals


def test_by_something_that_has_no_derivative():
    for by in (ROW, const(1.0), S + 1.0, load("n", (ROW,), Kind.INT)):
        with pytest.raises(UnsupportedSpec, match=r"there is no derivative by .*: it is no floating variable"):
            derivative(S, by)


def test_a_region_is_inlined_first():
    e = call("f", (S,), Kind.FLOAT)
    with pytest.raises(UnsupportedSpec, match=r"there is no derivative of f\(s\): a region is inlined"):
        derivative(e, S)
    assert derivative(call("f", (TABLE,), Kind.FLOAT) * S, S) is call("f", (TABLE,), Kind.FLOAT)
    assert derivative(const(math.pi), S) is const(0.0)
