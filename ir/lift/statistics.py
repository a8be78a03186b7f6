"""Operators that are made of sums: running sums, norms, variances, distances, places in sorted values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..dtypes import Kind
from ..errors import UnsupportedSpec
from ..expr import Expr, Op, apply, const, select
from .reduce import along, axes_of, no_place, reduce_over
from .reduce import mean as mean_of
from .value import Element, Index, Value, as_kind

if TYPE_CHECKING:
    from .tracer import Tracer


def _cumulative_sum(t: Tracer, out: Value, x: Value, dim: int, **_: Any) -> Element:
    def element(index: Index) -> Expr:
        value = as_kind(x.at(index), out.kind)
        position = index[dim % len(index)]
        if value.op is not Op.CONST:
            return _running_sum(t, out, x, dim, index)
        return value * as_kind(t.simplified(position + 1), out.kind)

    return element


def _running_sum(t: Tracer, out: Value, x: Value, dim: int, index: Index) -> Expr:
    """sum over r of where(r <= position, x[r], 0)."""
    if t.products is None:
        raise UnsupportedSpec("a running sum of a tensor", hint="compute it outside and pass it as an argument")
    axis, length = dim % len(index), t.size(x.shape[dim])
    bound = t.bound(length, index)
    term = as_kind(x.at((*index[:axis], bound, *index[axis + 1 :])), out.kind)
    zero = const(0) if out.kind is Kind.INT else const(0.0)
    return t.atom("sum", select(apply(Op.LE, bound, index[axis]), term, zero), bound, length)


def _sorted_place(is_bucketize: bool) -> Callable[..., Element]:
    """searchsorted and bucketize: how many of the sorted values are below (right: not above) each."""

    def handler(t: Tracer, out: Value, first: Value, second: Value, *_: Any, **settings: Any) -> Element:
        values, x = (second, first) if is_bucketize else (first, second)
        if t.products is None:
            raise UnsupportedSpec("places in sorted values", hint="compute them outside and pass them as an argument")
        op = Op.LE if settings.get("right") or settings.get("side") == "right" else Op.LT

        def element(index: Index) -> Expr:
            batch = index[: len(values.shape) - 1]

            def is_below(r: Expr) -> Expr:
                value, limit = as_kind(values.at((*batch, r)), Kind.FLOAT), as_kind(x.at(index), Kind.FLOAT)
                if values.kind is Kind.INT and x.kind is Kind.INT:
                    value, limit = values.at((*batch, r)), x.at(index)
                return as_kind(apply(op, value, limit), Kind.INT)

            return reduce_over(t, "sum", t.size(values.shape[-1]), is_below, index)

        return element

    return handler


def _distances(t: Tracer, out: Value, x: Value, y: Value, p: float = 2.0, *_: Any) -> Element:
    """Euclidean distances of all pairs of rows."""
    if p != 2.0:
        raise UnsupportedSpec(f"torch.cdist with p = {p}")

    def element(index: Index) -> Expr:
        batch, row, column = index[:-2], index[-2], index[-1]

        def square(r: Expr) -> Expr:
            apart = t.read(x, (*batch, row, r), (*out.shape[:-1], x.shape[-1])) - t.read(
                y, (*batch, column, r), (*out.shape[:-2], out.shape[-1], y.shape[-1])
            )
            return apart * apart

        total = reduce_over(t, "sum", t.size(x.shape[-1]), square, index)
        return apply(Op.SQRT, apply(Op.MAX, total, const(0.0)))

    return element


def _scatter(t: Tracer, out: Value, x: Value, dim: int, places: Value, value: Any, **_: Any) -> Element:
    """x with a number written at computed places along a dim: where any of the places is this one."""
    if isinstance(value, Value) and value.shape:
        raise UnsupportedSpec("an assignment of a tensor at computed positions", hint="write it with torch.where")
    axis = dim % len(x.shape)

    def element(index: Index) -> Expr:
        def is_here(r: Expr) -> Expr:
            return apply(Op.EQ, places.at((*index[:axis], r, *index[axis + 1 :])), index[axis])

        found = reduce_over(t, "any", t.size(places.shape[axis]), is_here, index)
        return t.choose(found, as_kind(t.size(value), x.kind), x.at(index))

    return element


def _variance(is_root: bool) -> Callable[..., Element]:
    def handler(
        t: Tracer, out: Value, x: Value, dims: Any = None, *_: Any, keepdim: bool = False, **given: Any
    ) -> Element:
        correction = given.get("correction")
        mean, squares = mean_of(t, out, x, dims, keepdim), along(t, "sum", x, dims, keepdim, lambda e: e * e)

        def element(index: Index) -> Expr:
            count = const(1.0)
            for axis in axes_of(x, dims):
                count = count * as_kind(t.size(x.shape[axis]), Kind.FLOAT)
            middle = mean(index)
            total = squares(index) - middle * middle * count
            found = apply(Op.DIV, total, count - (1.0 if correction is None else float(correction)))
            return apply(Op.SQRT, found) if is_root else found

        return element

    return handler


def _layer_norm(  # noqa: PLR0913 (PyTorch's operands)
    t: Tracer, out: Value, x: Value, dims: Sequence[Any], weight: Value | None, bias: Value | None, eps: float
) -> Any:
    """(x - mean) * rsqrt(variance + eps) * weight + bias, and mean and rsqrt, which nothing here can use."""
    last = [len(x.shape) - n - 1 for n in range(len(dims))]
    mean = mean_of(t, out, x, last, True)
    variance = _variance(False)(t, out, x, last, keepdim=True, correction=0)

    def element(index: Index) -> Expr:
        result = (x.at(index) - mean(index)) * apply(Op.RSQRT, variance(index) + eps)
        tail = index[len(index) - len(dims) :]
        result = result if weight is None else result * weight.at(tail)
        return result if bias is None else result + bias.at(tail)

    return [element, no_place, no_place]


def _rms_norm(
    t: Tracer, out: Value, x: Value, dims: Sequence[Any], weight: Value | None = None, eps: Any = None
) -> Any:
    """x * rsqrt(mean of squares + eps) * weight."""
    last = [len(x.shape) - n - 1 for n in range(len(dims))]
    squares = Value(x.shape, Kind.FLOAT, lambda index: x.at(index) * x.at(index))
    mean = mean_of(t, out, squares, last, True)
    least = torch.finfo(torch.float32).eps if eps is None else float(eps)

    def element(index: Index) -> Expr:
        result = x.at(index) * apply(Op.RSQRT, mean(index) + least)
        return result if weight is None else result * weight.at(index[len(index) - len(dims) :])

    return [element, no_place]


def _norm(t: Tracer, out: Value, x: Value, p: Any = 2, *along_dims: Any, **_: Any) -> Element:
    dims, keepdim = (*along_dims, None, False)[:2] if len(along_dims) != 1 else (along_dims[0], False)
    if p == 1:
        return along(t, "sum", x, dims, keepdim, lambda e: apply(Op.ABS, e))
    if p != 2:
        raise UnsupportedSpec(f"a vector norm with p = {p}")
    squares = along(t, "sum", x, dims, keepdim, lambda e: e * e)
    return lambda index: apply(Op.SQRT, squares(index))


STATISTICS: dict[str, Callable[..., Any]] = {
    "cumsum": _cumulative_sum, "linalg_vector_norm": _norm, "searchsorted": _sorted_place(False),
    "bucketize": _sorted_place(True), "_cdist_forward": _distances, "_euclidean_dist": _distances,
    "scatter": _scatter, "var": _variance(False), "std": _variance(True), "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
}  # fmt: skip
