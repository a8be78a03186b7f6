"""The meaning of an AttentionSpec: its formula in fp64, with all scores held at once.

Slow and short on purpose; what everything faster is compared with.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import ShapeError
from .evaluate import Array, evaluate
from .expr import const
from .spec import AttentionSpec, NormaliserKind

# Kernels hold scores times log2(e) in float32: what is below its range, such as an additive mask of
# torch.finfo(float32).min, is -inf, and a row of nothing else keeps no column.
LEAST_SCORE = float(np.finfo(np.float32).min) / math.log2(math.e)


def bind_sizes(spec: AttentionSpec, tensors: dict[str, Array]) -> dict[str, int]:
    """Sizes by name, read off the tensors. Raises ShapeError where a tensor does not fit its spec."""
    sizes: dict[str, int] = {"D": spec.head_dim, "Dv": spec.value_dim}
    for tensor in spec.tensors:
        shape = tensors[tensor.name].shape
        if len(shape) != len(tensor.dims):
            raise ShapeError(f"{spec.name}: {tensor.name} has shape {shape}, wanted dims {tensor.dims}")
        for dim, size in zip(tensor.dims, shape, strict=True):
            wanted = dim if isinstance(dim, int) else sizes.setdefault(dim, size)
            if wanted != size:
                raise ShapeError(
                    f"{spec.name}: {tensor.name} has {dim}={size} in {shape} {tensor.dims}, wanted {wanted}"
                )
    if sizes["Hq"] != spec.group * sizes["Hkv"]:
        raise ShapeError(
            f"{spec.name}: q has Hq={sizes['Hq']} heads, wanted {spec.group} times Hkv={sizes['Hkv']}"
        )
    return sizes


def reference(spec: AttentionSpec, q: Any, k: Any, v: Any, *captured: Any) -> tuple[Array, Array]:
    """Output [B, Hq, M, Dv] and log-sum-exp [B, Hq, M] in fp64, from arrays of any float type.

    A row that keeps no column has o = 0 and lse = -inf. For normalisers other than softmax, lse is the
    logarithm of the row sum of the weights.
    """
    names = [tensor.name for tensor in spec.tensors]
    arrays = [np.asarray(a) for a in (q, k, v, *captured)]
    if len(arrays) != len(names):
        raise ShapeError(f"{spec.name} takes {len(names)} tensors ({', '.join(names)}), got {len(arrays)}")
    tensors = dict(zip(names, arrays, strict=True))
    env: dict[str, Any] = dict(bind_sizes(spec, tensors))
    tensors.update({name: tensors[name].astype(np.float64) for name in ("q", "k", "v")})
    env |= _indices(env)
    repeat = {name: np.repeat(tensors[name], spec.group, axis=1) for name in ("k", "v")}
    with np.errstate(all="ignore"):
        env["s"] = tensors["q"] @ repeat["k"].swapaxes(-1, -2)
        full = env["s"].shape
        keep = np.broadcast_to(evaluate(spec.keep, env, tensors, float_type=np.float64), full)
        x = np.broadcast_to(evaluate(spec.score, env, tensors, float_type=np.float64), full)
        weights, lse = _normalise(spec, x, keep, env, tensors)
        if spec.normaliser.after is not None:
            weights = weights * evaluate(spec.normaliser.after, env, tensors, float_type=np.float64)
        weights = np.where(keep, weights, 0.0)
        return _sum_kept(weights, repeat["v"], keep), lse


def _sum_kept(weights: Array, v: Array, keep: Array) -> Array:
    """weights @ v where a column that is left out adds nothing, whatever v holds there."""
    if np.isfinite(v).all():
        return np.asarray(weights @ v)
    terms = weights[..., None] * v[:, :, None]
    return np.asarray(np.where(keep[..., None], terms, 0.0).sum(axis=-2))


def _indices(sizes: dict[str, Any]) -> dict[str, Array]:
    names = {"b": "B", "h": "Hq", "i": "M", "j": "N"}
    return {
        name: np.arange(sizes[size]).reshape([-1 if name == axis else 1 for axis in names])
        for name, size in names.items()
    }


def _normalise(
    spec: AttentionSpec, x: Array, keep: Array, env: dict[str, Any], tensors: dict[str, Array]
) -> tuple[Array, Array]:
    """Weights [B, Hq, M, N] and the logarithm of their row sums before division [B, Hq, M]."""
    rule = spec.normaliser
    if rule.kind is NormaliserKind.SOFTMAX:
        return _softmax(spec, np.where(keep, x, -np.inf), env, tensors)
    weight = rule.weight if rule.weight is not None else const(1.0)
    weights = np.broadcast_to(evaluate(weight, env | {"s": x}, tensors, float_type=np.float64), x.shape)
    weights = np.where(keep, weights, 0.0)
    mass = weights.sum(axis=-1, keepdims=True)
    lse = np.log(mass)[..., 0]
    if rule.kind is NormaliserKind.ELEMENTWISE:
        return weights, lse
    total = mass + rule.epsilon
    return np.where(keep.any(axis=-1, keepdims=True), weights / total, 0.0), lse


def _softmax(
    spec: AttentionSpec, x: Array, env: dict[str, Any], tensors: dict[str, Array]
) -> tuple[Array, Array]:
    x = np.where(x < LEAST_SCORE, -np.inf, x)
    empty = np.isneginf(x).all(axis=-1, keepdims=True) if x.shape[-1] else np.ones((*x.shape[:-1], 1), bool)
    sink = np.full((1, 1, 1, 1), -np.inf)
    if spec.normaliser.sink is not None:
        sink = np.asarray(evaluate(spec.normaliser.sink, env, tensors, float_type=np.float64))
    peak = np.maximum(x.max(axis=-1, keepdims=True, initial=-np.inf), sink)
    safe = np.where(np.isneginf(peak), 0.0, peak)
    weights = np.exp(x - safe)
    mass = weights.sum(axis=-1, keepdims=True) + np.exp(sink - safe)
    lse = np.where(np.isneginf(peak), -np.inf, safe + np.log(mass))[..., 0]
    return np.where(empty, 0.0, weights / mass), lse
