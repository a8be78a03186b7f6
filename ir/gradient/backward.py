"""Backward of a spec: the expressions that a backward kernel computes with.

With dO the gradient of o, dlse that of lse (0 where it has none), and pairs that are left out zero throughout:

    dp[i, j] = after(b, h, i, j) * sum_d dO[i, d] * v[j, d]
    delta[i] = sum_d dO[i, d] * o[i, d]

    softmax        p = exp(value - lse)     dvalue = p * (dp - delta + dlse)
                                            dsink  = -exp(sink - lse) * (delta - dlse)      of each row
    elementwise    p = value                dvalue = dp + dlse / sum_j value
    row sum        p = value / r            dvalue = (dp - delta) / r + dlse / sum_j value,   r = sum_j value + epsilon

    ds = dvalue * slope      dq[i] = sum_j ds * k[j]      dk[j] = sum_i ds * q[i]      dv[j] = sum_i p * after * dO[i]

where dk and dv are also summed over the heads of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..algebra import simplify
from ..dtypes import Kind
from ..expr import Expr, const, substitute
from ..spec import AttentionSpec, NormaliserKind, S, TensorSpec
from .derivative import derivative
from .terms import Source, Term, terms_of


@dataclass(frozen=True, slots=True)
class CapturedGradient:
    """The gradient of one captured tensor: the sum of its terms, at least one; each has a place of its own."""

    tensor: TensorSpec
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Backward:
    """What backward of `spec` is made of; see the module's formulas. All expressions are simplified.

    value: over s, b, h, i, j: the score for a softmax, otherwise the weight before it is divided. slope: its
    derivative by s; a literal where the score is s times one. after, sink: the normaliser's, None for none.
    captured: the floating captured tensors that have a gradient, in the spec's order; that of others is zero.
    """

    spec: AttentionSpec
    value: Expr
    slope: Expr
    after: Expr | None
    sink: Expr | None
    captured: tuple[CapturedGradient, ...]


def differentiate(spec: AttentionSpec) -> Backward:
    """Backward of a spec. Raises UnsupportedSpec where an expression has no derivative: it calls a region."""
    rule = spec.normaliser
    is_softmax = rule.kind is NormaliserKind.SOFTMAX
    value = _value(spec)
    after = None if rule.after is None else simplify(rule.after)
    sink = simplify(rule.sink) if is_softmax and rule.sink is not None else None
    parts = {Source.VALUE: value, Source.AFTER: after, Source.SINK: sink}
    captured = [
        CapturedGradient(tensor, terms)
        for tensor in spec.captured
        if tensor.dtype.kind is Kind.FLOAT and (terms := _terms(tensor.name, parts))
    ]
    return Backward(spec, value, derivative(value, S), after, sink, tuple(captured))


def _value(spec: AttentionSpec) -> Expr:
    """The score for a softmax, otherwise weight(score)."""
    rule = spec.normaliser
    if rule.kind is NormaliserKind.SOFTMAX:
        return simplify(spec.score)
    weight = const(1.0) if rule.weight is None else rule.weight
    return simplify(substitute(weight, {"s": spec.score}))


def _terms(tensor: str, parts: dict[Source, Expr | None]) -> tuple[Term, ...]:
    """The terms of one tensor from every part of a spec that loads it."""
    found = [terms_of(tensor, source, part) for source, part in parts.items() if part is not None]
    return tuple(term for terms in found for term in terms)
