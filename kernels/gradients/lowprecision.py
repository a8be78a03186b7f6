"""Backward as fast kernels compute it: float32, base-2 exponentials, operands of products in the element type.

Its error against fp64 is what a correct kernel may be expected to make; verification's budget comes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir.dtypes import Kind
from ...ir.evaluate import Array, convert, evaluate
from ...ir.expr import Expr
from ...ir.gradient import CapturedGradient, Source, differentiate
from ...ir.reference import bind_sizes
from ...ir.spec import AttentionSpec, NormaliserKind
from ..lowprecision import FLOAT, LOG2E, low_precision

__all__ = ["low_precision_backward"]

ROUNDING = FLOAT(2.0**-24)  # of a score, which backward may round differently from forward: multiply-adds are fused
EXP2_ERROR = FLOAT(3 * 2.0**-23)  # of kernels' exponentials: 3 ulp on CPUs, 2 on GPUs

Product = Callable[[Array, Array], Array]


def low_precision_backward(
    spec: AttentionSpec,
    arrays: Sequence[Array],
    d_o: Array,
    product: Product = np.matmul,
    seed: int | None = None,
) -> dict[str, Array]:
    """dq, dk, dv and captured tensors' gradients by name, rounded to their types, as fp64 arrays.

    product: how float32 matrices are multiplied; orders of summing differ in their error. seed: draw the errors
    that kernels make and NumPy does not.
    """
    o, lse = (x.astype(FLOAT) for x in low_precision(spec, *arrays, product=product))
    d_o = d_o.astype(FLOAT)
    with np.errstate(all="ignore"):
        run = _Run(spec, arrays, product)
        run.generator = None if seed is None else np.random.default_rng(seed)
        sources, p = run.sources(o, lse, d_o)
        ds = run.rounded(_times(sources[Source.VALUE], run.of(run.backward.slope)))
        kept = run.rounded(_times(p, run.after()))
        gradients = {"dq": product(ds, run.k)}
        gradients["dk"] = run.sum_of_groups(product(ds.swapaxes(-1, -2), run.q))
        gradients["dv"] = run.sum_of_groups(product(kept.swapaxes(-1, -2), d_o))
        found = {name: convert(x, spec.dtype) for name, x in gradients.items()}
        known = {gradient.tensor.name: gradient for gradient in run.backward.captured}
        for tensor in spec.captured:
            if tensor.dtype.kind is Kind.FLOAT:
                found[tensor.name] = convert(run.captured(tensor.name, known.get(tensor.name), sources), tensor.dtype)
    return {name: x.astype(np.float64) for name, x in found.items()}


class _Run:
    """All pairs of rows and columns of one call, in float32."""

    def __init__(self, spec: AttentionSpec, arrays: Sequence[Array], product: Product) -> None:
        self.spec, self.product = spec, product
        self.generator: np.random.Generator | None = None
        self.backward = differentiate(spec)
        self.tensors = {tensor.name: array for tensor, array in zip(spec.tensors, arrays, strict=True)}
        self.env: dict[str, Any] = dict(bind_sizes(spec, self.tensors))
        sizes = (self.env[name] for name in ("B", "Hq", "M", "N"))
        self.env |= zip("bhij", np.ogrid[tuple(slice(size) for size in sizes)], strict=True)
        q, k, v = (self.tensors[name].astype(FLOAT) for name in ("q", "k", "v"))
        self.q, self.k, self.v = q, np.repeat(k, spec.group, axis=1), np.repeat(v, spec.group, axis=1)
        self.env["s"] = product(q, self.k.swapaxes(-1, -2))
        self.keep = self.of(spec.keep)

    def of(self, expr: Expr) -> Array:
        """The values of an expression, [B, Hq, M, N]."""
        return np.broadcast_to(evaluate(expr, self.env, self.tensors), self.env["s"].shape)

    def after(self) -> Array:
        """What weights are multiplied by once they are normalised."""
        return np.ones((), FLOAT) if self.backward.after is None else self.of(self.backward.after)

    def off(self, x: Array, error: np.float32) -> Array:
        """Off by up to a relative error, where errors are drawn."""
        if self.generator is None:
            return x
        return np.asarray(x * (1 + error * self.generator.uniform(-1, 1, x.shape).astype(FLOAT)))

    def rounded(self, x: Array) -> Array:
        """As an operand of a product."""
        return np.asarray(convert(x, self.spec.dtype).astype(FLOAT))

    def sources(self, o: Array, lse: Array, d_o: Array) -> tuple[dict[str, Array], Array]:
        """What terms are multiplied with, and the weights."""
        rule, value = self.spec.normaliser, self.off(self.of(self.backward.value), ROUNDING)
        dp = self.product(d_o, self.v.swapaxes(-1, -2))
        delta, base = (d_o * o).sum(-1, keepdims=True, dtype=FLOAT), lse[..., None] * LOG2E
        found: dict[str, Array] = {}
        if rule.kind is NormaliserKind.SOFTMAX:
            p = np.where(self.keep & np.isfinite(base), self.off(np.exp2(value * LOG2E - base), EXP2_ERROR), FLOAT(0))
            found[Source.VALUE] = _times(p, dp * self.after() - delta)
            if self.backward.sink is not None:
                share = np.exp2(self.of(self.backward.sink)[..., :1] * LOG2E - base)
                found[Source.SINK] = np.where(np.isfinite(base), -share * delta, FLOAT(0))
        else:
            weights = np.where(self.keep, self.off(value, EXP2_ERROR), FLOAT(0))
            is_divided = rule.kind is NormaliserKind.ROW_SUM
            total = weights.sum(-1, keepdims=True, dtype=FLOAT) + FLOAT(rule.epsilon)
            share = np.where(total == 0, FLOAT(0), 1 / total) if is_divided else np.ones_like(total)
            p = weights * share
            gap = dp * self.after() - (delta if is_divided else FLOAT(0))
            found[Source.VALUE] = np.where(self.keep, gap * share, FLOAT(0))
        found[Source.AFTER] = _times(p, dp)
        return found, p

    def captured(self, name: str, gradient: CapturedGradient | None, sources: dict[str, Array]) -> Array:
        """The gradient of one captured tensor: every term added to where its indices point."""
        shape = self.tensors[name].shape
        total = np.zeros(int(np.prod(shape)), FLOAT)
        for term in gradient.terms if gradient is not None else ():
            source = sources[term.source]
            amount = _times(source, self.of(term.factor)[..., : source.shape[-1]])
            place = np.zeros(amount.shape, np.int64)
            for index, size in zip(term.indices, shape, strict=True):
                place = place * size + self.of(index)[..., : source.shape[-1]]
            np.add.at(total, place.ravel(), amount.ravel().astype(FLOAT))
        return total.reshape(shape)

    def sum_of_groups(self, x: Array) -> Array:
        """[B, Hq, N, D] -> [B, Hkv, N, D]."""
        group = self.spec.group
        return np.asarray(x.reshape(len(x), x.shape[1] // group, group, *x.shape[2:]).sum(axis=2, dtype=FLOAT))


def _times(x: Array, factor: Array) -> Array:
    """x * factor, where a zero of x stays zero whatever the factor is."""
    return np.asarray(np.where(x == 0, FLOAT(0), x * factor))
