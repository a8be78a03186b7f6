"""A spec's formula as fast kernels compute it, in float32 with base-2 exponentials and rounded weights.

Weights are rounded to the element type before they meet v, and lse is taken of the rounded weights' sum. The
error against fp64 is what a correct kernel may be expected to make; verification's budget comes from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.evaluate import Array, convert, evaluate
from ..ir.expr import const
from ..ir.reference import bind_sizes
from ..ir.spec import AttentionSpec, NormaliserKind

__all__ = ["low_precision", "one_by_one"]

Product = Callable[[Array, Array], Array]
FLOAT = np.float32
LOG2E = FLOAT(math.log2(math.e))


def low_precision(spec: AttentionSpec, *arrays: Array, product: Product = np.matmul) -> tuple[Array, Array]:
    """Output [B, Hq, M, Dv] rounded to the element type, lse [B, Hq, M] in float32; both as fp64 arrays.

    product: how float32 matrices are multiplied; orders of summing differ in their error.
    """
    tensors = {tensor.name: array for tensor, array in zip(spec.tensors, arrays, strict=True)}
    env: dict[str, Any] = dict(bind_sizes(spec, tensors))
    env |= _indices(env)
    q, k, v = (tensors[name].astype(FLOAT) for name in ("q", "k", "v"))
    k, v = np.repeat(k, spec.group, axis=1), np.repeat(v, spec.group, axis=1)
    with np.errstate(all="ignore"):
        env["s"] = product(q, k.swapaxes(-1, -2))
        keep = np.broadcast_to(evaluate(spec.keep, env, tensors), env["s"].shape)
        env["s"] = np.broadcast_to(evaluate(spec.score, env, tensors), env["s"].shape)
        weights, share, lse = _weigh(spec, env, tensors, keep)
        if spec.normaliser.after is not None:
            weights = weights * evaluate(spec.normaliser.after, env, tensors)
        rounded = convert(np.where(keep, weights, FLOAT(0)), spec.dtype).astype(FLOAT)
        o = convert(product(rounded, v) * share, spec.dtype)
    return o.astype(np.float64), lse.astype(np.float64)


def one_by_one(left: Array, right: Array) -> Array:
    """A matrix product that adds one term after the other, as register tiles do."""
    total = np.zeros((*left.shape[:-1], right.shape[-1]), FLOAT)
    for term in range(left.shape[-1]):
        total += left[..., term : term + 1] * right[..., term : term + 1, :]
    return total


def _indices(sizes: dict[str, Any]) -> dict[str, Array]:
    axes = {"b": "B", "h": "Hq", "i": "M", "j": "N"}
    return {
        name: np.arange(sizes[size]).reshape([-1 if name == axis else 1 for axis in axes])
        for name, size in axes.items()
    }


def _weigh(
    spec: AttentionSpec, env: dict[str, Any], tensors: dict[str, Array], keep: Array
) -> tuple[Array, Array, Array]:
    """Unnormalised weights, the factor that normalises a row, and its lse."""
    rule = spec.normaliser
    if rule.kind is NormaliserKind.SOFTMAX:
        return _softmax(spec, env, tensors, keep)
    weights = np.broadcast_to(evaluate(rule.weight or const(1.0), env, tensors), keep.shape)
    mass = np.where(keep, weights, FLOAT(0)).sum(axis=-1, keepdims=True, dtype=FLOAT)
    if rule.kind is NormaliserKind.ELEMENTWISE:
        return weights, np.ones_like(mass), np.log(mass)[..., 0]
    total = mass + FLOAT(rule.epsilon)
    return weights, np.where(total == 0, FLOAT(0), FLOAT(1) / total), np.log(mass)[..., 0]


def _softmax(
    spec: AttentionSpec, env: dict[str, Any], tensors: dict[str, Array], keep: Array
) -> tuple[Array, Array, Array]:
    x = np.where(keep, env["s"] * LOG2E, FLOAT(-np.inf))
    sink = np.full((1, 1, 1, 1), -np.inf, FLOAT)
    if spec.normaliser.sink is not None:
        sink = evaluate(spec.normaliser.sink, env, tensors) * LOG2E
    peak = np.maximum(x.max(axis=-1, keepdims=True, initial=-np.inf), sink)
    base = np.where(np.isneginf(peak), FLOAT(0), peak)
    weights = np.exp2(x - base)
    low = convert(weights, spec.dtype).astype(FLOAT)
    mass, low_mass = (w.sum(axis=-1, keepdims=True, dtype=FLOAT) + np.exp2(sink - base) for w in (weights, low))
    share = np.where(mass == 0, FLOAT(0), FLOAT(1) / mass)
    lse = np.where(mass == 0, FLOAT(-np.inf), (base + np.log2(low_mass)) / LOG2E)
    return weights, share, lse[..., 0]
