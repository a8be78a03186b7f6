"""The meaning of backward: its formulas in fp64, with all scores held at once.

Slow and short on purpose, as `ir/reference.py` is for the forward; what everything faster is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dtypes import Kind
from ..errors import ShapeError
from ..evaluate import Array, evaluate
from ..expr import Expr
from ..reference import LEAST_SCORE, bind_sizes, reference
from ..spec import AttentionSpec, NormaliserKind
from .backward import Backward, CapturedGradient, differentiate
from .terms import Source


def reference_backward(spec: AttentionSpec, *tensors: Any, do: Any, dlse: Any = None) -> dict[str, Array]:
    """dq, dk, dv in fp64, and under its own name d of every floating captured tensor.

    tensors: q, k, v and the captured ones, of any float type. do: [B, Hq, M, Dv]; dlse: [B, Hq, M], the gradient of
    the returned lse, None for zero. Rows that keep nothing, and pairs that are left out, have gradients of zero.
    Raises ShapeError where one does not fit, and what `differentiate` raises.
    """
    o, lse = reference(spec, *tensors)
    backward = differentiate(spec)
    do = _of_shape(spec, "do", do, o.shape)
    dlse = np.zeros(lse.shape) if dlse is None else _of_shape(spec, "dlse", dlse, lse.shape)
    with np.errstate(all="ignore"):
        pairs = _pairs(spec, tensors)
        q, k, v = (pairs.tensors[name] for name in ("q", "k", "v"))
        dp = np.where(pairs.keep, do @ v.swapaxes(-1, -2), 0.0)  # without after
        delta = (do * o).sum(-1)[..., None]
        sources = _sources(backward, pairs, dp, (delta, lse[..., None], dlse[..., None]))
        p = sources.pop("p")
        ds = _times(sources[Source.VALUE], pairs.of(backward.slope))
        columns = _contract(ds.swapaxes(-1, -2), q), _contract((p * pairs.after).swapaxes(-1, -2), do)
        dk, dv = (_sum_of_groups(x, spec.group) for x in columns)
        gradients = {"dq": _contract(ds, k), "dk": dk, "dv": dv}
        known = {gradient.tensor.name: gradient for gradient in backward.captured}
        for tensor in spec.captured:
            if tensor.dtype.kind is Kind.FLOAT:
                gradients[tensor.name] = _captured(known.get(tensor.name), pairs.tensors[tensor.name], pairs, sources)
    return gradients


def _of_shape(spec: AttentionSpec, name: str, given: Any, shape: tuple[int, ...]) -> Array:
    array = np.asarray(given, np.float64)
    if array.shape != shape:
        raise ShapeError(f"{spec.name}: {name} has shape {array.shape}, wanted {shape}")
    return array


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The variables of all pairs of rows and columns; k and v have a head for each query head."""

    env: dict[str, Any]
    tensors: dict[str, Array]
    keep: Array
    after: Array

    def of(self, expr: Expr) -> Array:
        """The values of an expression [B, Hq, M, N]."""
        return np.broadcast_to(evaluate(expr, self.env, self.tensors, float_type=np.float64), self.env["s"].shape)


def _pairs(spec: AttentionSpec, given: tuple[Any, ...]) -> _Pairs:
    tensors = {tensor.name: np.asarray(x) for tensor, x in zip(spec.tensors, given, strict=True)}
    env: dict[str, Any] = dict(bind_sizes(spec, tensors))
    env |= zip("bhij", np.ogrid[: env["B"], : env["Hq"], : env["M"], : env["N"]], strict=True)
    tensors |= {name: tensors[name].astype(np.float64) for name in ("q", "k", "v")}
    tensors |= {name: np.repeat(tensors[name], spec.group, axis=1) for name in ("k", "v")}
    env["s"] = tensors["q"] @ tensors["k"].swapaxes(-1, -2)
    bare = _Pairs(env, tensors, np.ones((), bool), np.ones(()))
    after = spec.normaliser.after
    return _Pairs(env, tensors, bare.of(spec.keep), bare.after if after is None else bare.of(after))


def _sources(backward: Backward, pairs: _Pairs, dp: Array, rows: tuple[Array, Array, Array]) -> dict[str, Array]:
    """dvalue, p * (dO . v), dsink where there is one, and p; `rows`: delta, lse and dlse [B, Hq, M, 1]."""
    delta, lse, dlse = rows
    rule, value = backward.spec.normaliser, pairs.of(backward.value)
    sources: dict[str, Array] = {}
    if rule.kind is NormaliserKind.SOFTMAX:
        p = np.where(pairs.keep & ~(value < LEAST_SCORE), np.exp(value - lse), 0.0)
        dvalue = _times(p, dp * pairs.after - delta + dlse)
        if backward.sink is not None:
            share = np.where(np.isneginf(lse), 0.0, np.exp(pairs.of(backward.sink)[..., :1] - lse))
            sources[Source.SINK] = -share * (delta - dlse)
    else:
        weights = np.where(pairs.keep, value, 0.0)
        mass = weights.sum(-1, keepdims=True)
        is_divided = rule.kind is NormaliserKind.ROW_SUM
        total, mean = (mass + rule.epsilon, delta) if is_divided else (np.ones_like(mass), np.zeros_like(delta))
        p = _times(pairs.keep, weights / total)
        dvalue = _times(pairs.keep, (dp * pairs.after - mean) / total + _times(dlse, 1 / mass))
    return sources | {Source.VALUE: dvalue, Source.AFTER: _times(p, dp), "p": p}


def _captured(gradient: CapturedGradient | None, tensor: Array, pairs: _Pairs, sources: dict[str, Array]) -> Array:
    """The gradient of one captured tensor: every term added to where its indices point."""
    total = np.zeros(tensor.size)
    for term in gradient.terms if gradient is not None else ():
        source = sources[term.source]
        amount = _times(source, pairs.of(term.factor)[..., : source.shape[-1]])
        place = np.zeros(amount.shape, np.int64)
        for index, size in zip(term.indices, tensor.shape, strict=True):
            place = place * size + pairs.of(index)[..., : source.shape[-1]]
        total += np.bincount(place.ravel(), amount.ravel(), total.size)
    return total.reshape(tensor.shape)


def _sum_of_groups(x: Array, group: int) -> Array:
    """[B, Hq, N, D] -> [B, Hkv, N, D]."""
    return np.asarray(x.reshape(len(x), x.shape[1] // group, group, *x.shape[2:]).sum(axis=2))


def _times(x: Array, factor: Array) -> Array:
    """x * factor, where a zero of x stays zero whatever the factor is."""
    return np.asarray(np.where(x == 0, 0.0, x * factor))


def _contract(weights: Array, x: Array) -> Array:
    """weights @ x, where a weight of zero adds nothing whatever x holds there."""
    if np.isfinite(x).all():
        return np.asarray(weights @ x)
    return np.asarray(_times(weights[..., None], x[:, :, None]).sum(axis=-2))
