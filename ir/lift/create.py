"""Operators that make tensors out of nothing: arange, full, eye, and constants of the user's module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..dtypes import Kind
from ..expr import Expr, Op, apply, as_expr, const, select
from .value import Element, Index, Value, as_kind

if TYPE_CHECKING:
    from .tracer import Tracer


def _arange(t: Tracer, out: Value, *bounds: Any, **_: Any) -> Element:
    start, step = (0, 1) if len(bounds) == 1 else (bounds[0], bounds[2] if len(bounds) > 2 else 1)

    def element(index: Index) -> Expr:
        first, stride = t.size(start), t.size(step)
        if first.kind is Kind.INT and stride.kind is Kind.INT:
            return as_kind(t.simplified(first + index[0] * stride), out.kind)
        return as_kind(first, Kind.FLOAT) + as_kind(index[0], Kind.FLOAT) * as_kind(stride, Kind.FLOAT)

    return element


def _linspace(t: Tracer, out: Value, start: Any, end: Any, steps: Any, **_: Any) -> Element:
    def element(index: Index) -> Expr:
        first, last = as_kind(t.size(start), Kind.FLOAT), as_kind(t.size(end), Kind.FLOAT)
        intervals = as_kind(t.simplified(t.size(steps) - 1), Kind.FLOAT)
        return first + apply(Op.DIV, as_kind(index[0], Kind.FLOAT) * (last - first), intervals)

    return element


def _filled(value: Any) -> Callable[..., Element]:
    return lambda t, out, *_, **__: lambda index: as_kind(as_expr(value), out.kind)


def _full(t: Tracer, out: Value, _: Any, value: Any, **__: Any) -> Element:
    if isinstance(value, Value):
        return lambda index: as_kind(value.at(()), out.kind)
    return lambda index: as_kind(t.size(value), out.kind)


def _new_full(t: Tracer, out: Value, _: Any, __: Any, value: Any, **___: Any) -> Element:
    return _full(t, out, None, value)


def _eye(t: Tracer, out: Value, *_: Any, **__: Any) -> Element:
    return lambda index: as_kind(apply(Op.EQ, index[0], index[1]), out.kind)


def _scalar_tensor(t: Tracer, out: Value, value: Any, **_: Any) -> Element:
    return lambda index: as_kind(t.size(value), out.kind)


def _one_hot(t: Tracer, out: Value, x: Value, *_: Any) -> Element:
    return lambda index: select(apply(Op.EQ, x.at(index[:-1]), index[-1]), const(1), const(0))


CREATIONS: dict[str, Callable[..., Element]] = {
    "arange": _arange, "linspace": _linspace, "full": _full, "full_like": _full, "new_full": _new_full,
    "zeros": _filled(0), "zeros_like": _filled(0), "new_zeros": _filled(0), "zero": _filled(0),
    "ones": _filled(1), "ones_like": _filled(1), "new_ones": _filled(1), "eye": _eye,
    "empty": _filled(float("nan")), "empty_like": _filled(float("nan")), "new_empty": _filled(float("nan")),
    "empty_strided": _filled(float("nan")), "new_empty_strided": _filled(float("nan")),
    "scalar_tensor": _scalar_tensor, "one_hot": _one_hot,
}  # fmt: skip
