"""Normal forms: spellings of one number are one form, different numbers are not."""

from __future__ import annotations

import math

import pytest

from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.expr import Expr, Op, apply, call, cast, const, select, var
from tilewright.ir.transfer.recognition.forms import LOG2E, Forms

X, P, R, L = (var(name, Kind.FLOAT) for name in ("x", "p", "r", "l"))
PEAK, SUM = (call(name, (0,), Kind.FLOAT) for name in ("@peak", "@fold"))


def exp(x: Expr) -> Expr:
    return apply(Op.EXP, x)


def exp2(x: Expr) -> Expr:
    return apply(Op.EXP2, x)


def log(x: Expr) -> Expr:
    return apply(Op.LOG, x)


SAME = {
    "bases": (exp(X - P), exp2((X - P) * LOG2E)),
    "quotient of exponentials": (exp(X) / exp(P), exp(X - P)),
    "constants of float32": (exp2(X * 1.44269504), exp(X)),
    "reciprocal": (X * (1.0 / L), X / L),
    "logarithm of a sum of exponentials": (P + log(exp(L - P) + exp(R - P)), log(exp(L) + exp(R))),
    "exponential of a logarithm": (exp(X - log(L)), exp(X) / L),
    "sigmoid": (1.0 / (1.0 + exp(-X)), apply(Op.SIGMOID, X)),
    "sigmoid of half": (0.5 / (0.5 + exp2(-X * LOG2E) * 0.5), apply(Op.SIGMOID, X)),
    "tangent": (apply(Op.SIGMOID, X * 2.0) * 2.0 - 1.0, apply(Op.TANH, X)),
    "soft cap": ((2.0 / (1.0 + exp(X / 20.0 * -2.0)) - 1.0) * 20.0, apply(Op.TANH, X * 0.05) * 20.0),
    "tangent, growing below the line": (1.0 - 2.0 / (exp(X * 2.0) + 1.0), apply(Op.TANH, X)),
    "rounding": (cast(X * 2.0, DType.F16), X + X),
    "guard of a maximum": (select(apply(Op.EQ, PEAK, -math.inf), 0.0, PEAK), PEAK),
    "guard of a sum": (select(apply(Op.EQ, SUM, 0.0), 0.0, X / SUM), X / SUM),
    "floor of a sum": (X / apply(Op.MAX, SUM, 1e-9), X / SUM),
    "mask before the exponential": (
        exp(select(X < P, X, -math.inf) - L), select(X < P, exp(X - L), 0.0),
    ),
    "added mask": (exp(X * 0.5 + select(X < P, 0.0, -1e9)), select(X < P, exp(X * 0.5), 0.0)),
    "square": (apply(Op.POW, X, 2.0), X * X),
}  # fmt: skip

DIFFERENT = {
    "sign": (exp(X - P), exp(P - X)),
    "base": (exp(X), exp2(X)),
    "scale": (exp(X * 0.5), exp(X)),
    "clamp at zero": (select(apply(Op.LT, const(0.0), PEAK), PEAK, 0.0), PEAK),
    "floor of a maximum": (apply(Op.MAX, PEAK, 0.0), PEAK),
    "mild mask": (exp(select(X < P, X, -10000.0)), select(X < P, exp(X), 0.0)),
    "sum and product": (exp(X) + exp(P), exp(X + P)),
    "tangent of half": (apply(Op.SIGMOID, X) * 2.0 - 1.0, apply(Op.TANH, X)),
    "shifted sigmoid": (apply(Op.SIGMOID, X * 2.0) * 2.0 - 3.0, apply(Op.TANH, X)),
    "tangent's sign": (1.0 - apply(Op.SIGMOID, X * 2.0) * 2.0, apply(Op.TANH, X)),
}


@pytest.mark.parametrize("name", SAME)
def test_spellings_are_one_form(name: str) -> None:
    forms = Forms()
    a, b = (forms.of(e) for e in SAME[name])
    assert forms.same(a, b), (forms.expr(a), forms.expr(b))


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_numbers_are_different_forms(name: str) -> None:
    forms = Forms()
    a, b = (forms.of(e) for e in DIFFERENT[name])
    assert not forms.same(a, b)
