"""What a spec's backward is made of: learned scores, weights and sinks against autograd; terms and their places."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.errors import ShapeError, UnsupportedSpec
from tilewright.ir.expr import Op, apply, call, const, load, substitute
from tilewright.ir.gradient import IndexKind, Source, differentiate, reference_backward
from tilewright.ir.lift import lift
from tilewright.ir.reference import reference
from tilewright.ir.spec import (
    BATCH,
    COLUMN,
    HEAD,
    ROW,
    AttentionSpec,
    Normaliser,
    NormaliserKind,
    S,
    TensorSpec,
)

from .truth import assert_same_gradients, autograd, check, derived, upstream

B, HKV, GROUP, M, N, D = 2, 2, 2, 5, 7, 4
HQ = HKV * GROUP
GENERATOR = torch.Generator()


def draw(*shape, seed=3):
    return torch.randn(shape, generator=GENERATOR.manual_seed(seed))


def qkv():
    return draw(B, HQ, M, D, seed=0), draw(B, HKV, N, D, seed=1), draw(B, HKV, N, D, seed=2)


def scores(q, k):
    return q @ k.repeat_interleave(GROUP, 1).mT * 0.4


def weighted(p, v):
    return p @ v.repeat_interleave(GROUP, 1)


def causal(s):
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])
    return s.masked_fill(j > i + 1, -torch.inf)


# Learned parts: (function, captured tensors, what the gradients of captured tensors come from)


def learned_softcap(q, k, v, cap):
    s = causal(torch.tanh(scores(q, k) / cap) * cap)
    return weighted(s.softmax(-1), v), s.logsumexp(-1)


def alibi_then_softcap(q, k, v, slopes, cap):
    s = scores(q, k) + slopes[:, None, None] * (torch.arange(N) - torch.arange(M)[:, None])
    s = causal(torch.tanh(s / cap[:, None, None]) * cap[:, None, None])
    return weighted(s.softmax(-1), v), s.logsumexp(-1)


def bias_of_rows_and_columns(q, k, v, rows, columns, bias):
    s = causal(scores(q, k) + rows[:, :, None] * columns[:, None, None, :] + bias)
    return weighted(s.softmax(-1), v), s.logsumexp(-1)


def same_table_twice(q, k, v, t):
    s = causal(scores(q, k) * t[0].exp() + t[torch.arange(N)] * t[torch.arange(M)][:, None])
    return weighted(s.softmax(-1), v), s.logsumexp(-1)


def sinks(q, k, v, sinks):
    s = causal(scores(q, k))
    column = sinks[None, :, None, None].expand(q.shape[0], -1, q.shape[2], 1)
    joined = torch.cat([s, column], -1)
    return weighted(joined.softmax(-1)[..., :-1], v), joined.logsumexp(-1)


def gated_weights(q, k, v, gate, keys):
    s = causal(scores(q, k))
    return weighted(s.softmax(-1) * torch.sigmoid(gate)[:, :, None] * keys[:, None, None, :], v), s.logsumexp(-1)


def sharing_score_and_gate(q, k, v, t):
    s = causal(scores(q, k) + t[:, None, None] * torch.arange(N))
    return weighted(s.softmax(-1) * t[:, None, None], v), s.logsumexp(-1)


def learned_decay(q, k, v, gamma):
    i, j = torch.arange(M)[:, None], torch.arange(N)
    w = scores(q, k) * torch.where(i >= j, gamma[:, None, None] ** (i - j).clamp(min=0), 0.0)
    return weighted(w, v)


def sigmoid_with_bias(q, k, v, bias):
    w = torch.sigmoid(scores(q, k) + bias[:, None, None]).tril()
    return weighted(w, v), w.sum(-1).log()


def relu_squared(q, k, v, shift):
    return weighted(torch.relu(scores(q, k) - shift).square(), v)


def normalised_softplus(q, k, v, shift):
    w = torch.nn.functional.softplus(scores(q, k) + shift[:, None, None])
    total = w.sum(-1, keepdim=True)
    return weighted(w / (total + 0.5), v), total[..., 0].log()


def normalised_and_gated(q, k, v, gate):
    w = torch.relu(scores(q, k)).tril()
    return weighted(w / (w.sum(-1, keepdim=True) + 0.1) * gate[:, :, None], v)


LEARNED = {
    learned_softcap: (torch.tensor(1.7),),
    alibi_then_softcap: (draw(HQ), draw(HQ).exp()),
    bias_of_rows_and_columns: (draw(HQ, M), draw(B, N), draw(B, 1, M, N)),
    same_table_twice: (draw(N),),
    sinks: (draw(HQ),),
    gated_weights: (draw(HQ, M), draw(B, N)),
    sharing_score_and_gate: (draw(HQ),),
    learned_decay: (draw(HQ).sigmoid(),),
    sigmoid_with_bias: (draw(HQ),),
    relu_squared: (torch.tensor(0.2),),
    normalised_softplus: (draw(HQ),),
    normalised_and_gated: (draw(HQ, M),),
}


@pytest.mark.parametrize("function", LEARNED, ids=lambda f: f.__name__)
def test_learned(function):
    tensors = (*qkv(), *LEARNED[function])
    spec = lift(function, tensors)
    got = check(function, spec, tensors)
    assert all(np.abs(x).max() > 1e-3 for x in got.values()), "nothing to be right about"
    result = function(*tensors)
    if isinstance(result, tuple):
        check(function, spec, tensors, has_lse=True)


def test_gradient_of_lse_alone():
    tensors = (*qkv(), *LEARNED[sinks])
    spec = lift(sinks, tensors)
    _, dlse = upstream(spec, tensors)
    do = torch.zeros(B, HQ, M, D, dtype=torch.float64)
    got = derived(spec, tensors, do, dlse)
    assert_same_gradients(got, autograd(sinks, spec, tensors, do, dlse))
    assert np.abs(got["sinks"]).max() > 1e-2
    assert not got["dv"].any()


def test_rows_that_keep_nothing_have_no_gradient():
    def masked(q, k, v, keep, sinks):
        s = scores(q, k).masked_fill(~keep, -torch.inf)
        column = sinks[None, :, None, None].expand(q.shape[0], -1, q.shape[2], 1)
        joined = torch.cat([s, column], -1)
        return weighted(joined.softmax(-1)[..., :-1], v), joined.logsumexp(-1)

    def without_sink(q, k, v, keep):
        return weighted(scores(q, k).masked_fill(~keep, -torch.inf).softmax(-1), v)

    keep = draw(M, N, seed=5) > 0
    keep[1], keep[3], keep[:, 2] = False, False, False
    tensors = (*qkv(), keep)
    got = check(without_sink, lift(without_sink, tensors), tensors)
    assert not got["dq"][:, :, [1, 3]].any()
    assert not got["dk"][:, :, 2].any()
    assert not got["dv"][:, :, 2].any()
    tensors = (*tensors, draw(HQ))
    got = check(masked, lift(masked, tensors), tensors, has_lse=True)
    assert not got["dq"][:, :, [1, 3]].any()


@pytest.mark.parametrize("kind", NormaliserKind, ids=lambda kind: kind.value)
def test_what_is_left_out_may_hold_anything(kind):
    weight = None if kind is NormaliserKind.SOFTMAX else apply(Op.EXP, S)
    spec = AttentionSpec(
        "causal", DType.F32, D, D, keep=COLUMN <= ROW, normaliser=Normaliser(kind, weight=weight, epsilon=0.1)
    )
    q, k, v = draw(1, 2, 3, D), draw(1, 2, 5, D, seed=4), draw(1, 2, 5, D, seed=5)
    do, _ = upstream(spec, (q, k, v))
    clean = derived(spec, (q, k, v), do)
    k[:, :, 3:], v[:, :, 3:] = np.nan, np.inf
    dirty = derived(spec, (q, k, v), do)
    assert_same_gradients(dirty, clean, 1e-13)


# Specs that no function lifts to


def made(score=S, captured=(), **others):
    return AttentionSpec("made", DType.F32, D, D, GROUP, captured, score, **others)


def test_zero_times_infinity_is_nothing():
    """A bias multiplied by a mask of -inf: where the mask holds, the weight is zero, and so is the gradient."""
    bias = load("bias", (COLUMN,), Kind.FLOAT)
    mask = apply(Op.SELECT, COLUMN <= ROW, const(1.0), const(-np.inf))
    spec = made(S + apply(Op.EXP, bias) * mask, (TensorSpec("bias", DType.F32, ("N",)),))
    got = derived(spec, (*qkv(), draw(N)), torch.ones(B, HQ, M, D).double())
    assert all(np.isfinite(x).all() for x in got.values())


def test_sink_of_an_expression():
    """exp(t[h // 2]) * t[0] as the sink, and t[h] in the scores too."""
    t = load("t", (HEAD // 2,), Kind.FLOAT)
    first, own = load("t", (const(0),), Kind.FLOAT), load("t", (HEAD,), Kind.FLOAT)
    sink = apply(Op.EXP, t) * first
    spec = made(S * 0.4 + own * COLUMN, (TensorSpec("t", DType.F32, ("Hq",)),), normaliser=Normaliser(sink=sink))
    (captured,) = differentiate(spec).captured
    assert [(term.source, term.kinds) for term in captured.terms] == [
        (Source.VALUE, (IndexKind.BARE,)),
        (Source.SINK, (IndexKind.HEAD,)),
        (Source.SINK, (IndexKind.CONSTANT,)),
    ]

    def same(q, k, v, t):
        s = scores(q, k) + t[:, None, None] * torch.arange(N)
        column = (t[torch.arange(HQ) // 2].exp() * t[0])[None, :, None, None].expand(B, -1, M, 1)
        joined = torch.cat([s, column], -1)
        return weighted(joined.softmax(-1)[..., :-1], v), joined.logsumexp(-1)

    check(same, spec, (*qkv(), draw(HQ) * 0.3), has_lse=True)


def test_sizes_of_zero():
    spec = made(S + load("bias", (COLUMN,), Kind.FLOAT), (TensorSpec("bias", DType.F32, ("N",)),))
    got = derived(
        spec, (draw(1, 2, 3, D), draw(1, 1, 0, D), draw(1, 1, 0, D), draw(0)), torch.ones(1, 2, 3, D).double()
    )
    assert {name: x.shape for name, x in got.items()} == {
        "dq": (1, 2, 3, D), "dk": (1, 1, 0, D), "dv": (1, 1, 0, D), "bias": (0,),
    }  # fmt: skip
    assert not got["dq"].any()


# The parts


FLOATS = (TensorSpec("t", DType.F32, ("B", "Hq", "M", "N")), TensorSpec("n", DType.I32, ("M", "N")))
NUMBER = load("n", (ROW, COLUMN), Kind.INT)
PLACES = {
    "own": ((BATCH, HEAD, ROW, COLUMN), ("bare",) * 4, ()),
    "rows": ((const(0), HEAD, ROW, const(0)), ("constant", "bare", "bare", "constant"), ("b", "j")),
    "columns": ((BATCH, HEAD // 2, const(0), COLUMN), ("bare", "head", "constant", "bare"), ("i",)),
    "distance": ((const(0), HEAD, ROW - COLUMN + 7, const(0)), ("constant", "bare", "scatter", "constant"), ("b",)),
    "looked up": ((const(0), const(0), NUMBER, const(0)), ("constant",) * 2 + ("scatter", "constant"), ("b", "h")),
    "shifted": ((const(0), const(0), ROW + 1, COLUMN), ("constant",) * 2 + ("scatter", "bare"), ("b", "h")),
}


@pytest.mark.parametrize("place", PLACES)
def test_places(place):
    indices, kinds, summed = PLACES[place]
    backward = differentiate(made(S * 0.5 + load("t", indices, Kind.FLOAT), FLOATS))
    ((captured),) = backward.captured
    (term,) = captured.terms
    assert (captured.tensor, term.source, term.factor) == (FLOATS[0], "value", const(1.0))
    assert tuple(kind.value for kind in term.kinds) == kinds
    assert term.bare == tuple(str(i.attr) if i in (BATCH, HEAD, ROW, COLUMN) else None for i in indices)
    assert (term.rows, term.columns, term.is_scatter) == (ROW in indices, COLUMN in indices, "scatter" in kinds)
    assert term.summed == summed
    assert backward.slope is const(0.5)


def test_terms_at_one_place_are_one():
    """t[0, h, i, 0] is read in three ways, one of which says i + 0."""
    one = load("t", (const(0), HEAD, ROW, const(0)), Kind.FLOAT)
    other = load("t", (const(0), HEAD, ROW + 0, const(0)), Kind.FLOAT)
    (captured,) = differentiate(made(S * one + other + apply(Op.EXP, one), FLOATS)).captured
    (term,) = captured.terms
    assert repr(term.factor) == "s + 1.0 + exp(t[0, h, i, 0])"


def test_a_sink_is_summed_over_rows_alone():
    sink = load("t", (const(0), HEAD, const(0), const(0)), Kind.FLOAT)
    (captured,) = differentiate(made(captured=FLOATS, normaliser=Normaliser(sink=sink))).captured
    assert captured.terms[0].summed == ("b", "i")


def test_what_has_no_gradient_is_not_listed():
    """Comparisons, whole numbers and masks: zero, and zeros come back for the tensor."""
    t = load("t", (BATCH, HEAD, ROW, COLUMN), Kind.FLOAT)
    score = S + apply(Op.FLOOR, t) + apply(Op.SELECT, t > 0.0, const(1.0), const(2.0)) + NUMBER
    spec = made(score, FLOATS, keep=t < 1.0)
    assert differentiate(spec).captured == ()
    tensors = (*qkv(), draw(B, HQ, M, N), torch.zeros(M, N, dtype=torch.int32))
    got = derived(spec, tensors, torch.ones(B, HQ, M, D).double())
    assert got.keys() == {"dq", "dk", "dv", "t"}
    assert not got["t"].any()


def test_value_of_weights():
    weight = apply(Op.MAX, S, 0.0) / 2.0
    spec = made(S * 0.5 + 1.0, normaliser=Normaliser(NormaliserKind.ELEMENTWISE, weight=weight))
    backward = differentiate(spec)
    assert repr(backward.value) == "max(s * 0.5 + 1.0, 0.0) * 0.5"
    assert repr(backward.slope) == "where(0.0 < s * 0.5 + 1.0, 0.25, 0.0)"
    assert backward.after is None
    assert backward.sink is None


def test_a_region_in_a_score_is_refused():
    spec = made(call("f", (S,), Kind.FLOAT))
    with pytest.raises(UnsupportedSpec, match="a region is inlined before it is differentiated"):
        differentiate(spec)


def test_shapes_are_checked():
    spec = made()
    q, k, v = (x.numpy() for x in qkv())
    with pytest.raises(ShapeError, match="made takes 3 tensors"):
        reference_backward(spec, q, k, v, v, do=q)
    for do, dlse in ((q[:, :, 1:], None), (q, q)):
        with pytest.raises(ShapeError, match=r"made: d(o|lse) has shape .*, wanted"):
            reference_backward(spec, q, k, v, do=do, dlse=dlse)


# All at once: the Jacobian, by differences of the forward


class Attention(torch.autograd.Function):
    """The references of forward and backward as one differentiable function."""

    @staticmethod
    def forward(ctx, spec, *tensors):
        ctx.spec = spec
        ctx.save_for_backward(*tensors)
        return tuple(torch.from_numpy(x) for x in reference(spec, *(x.numpy() for x in tensors)))

    @staticmethod
    def backward(ctx, do, dlse):
        tensors = [x.numpy() for x in ctx.saved_tensors]
        found = list(reference_backward(ctx.spec, *tensors, do=do.numpy(), dlse=dlse.numpy()).values())
        return None, *(torch.from_numpy(found.pop(0)) if x.dtype.kind == "f" else None for x in tensors)


T = load("t", (HEAD,), Kind.FLOAT)
KEEP = COLUMN <= ROW + 1
SMOOTH = {
    "softmax": made(S * 0.4, keep=KEEP),
    "softcap and slopes": made(apply(Op.TANH, (S + T * COLUMN) / 3.0) * 3.0, keep=KEEP),
    "sink": made(S * 0.4, keep=KEEP, normaliser=Normaliser(sink=T * 2.0)),
    "after": made(S * 0.4, normaliser=Normaliser(after=T * 0.5 + ROW)),
    "elementwise": made(S - T, keep=KEEP, normaliser=Normaliser(NormaliserKind.ELEMENTWISE, weight=apply(Op.SIGMOID, S))),
    "row sum": made(S * 0.3, normaliser=Normaliser(NormaliserKind.ROW_SUM, weight=apply(Op.EXP, S) + T * T, epsilon=0.3, after=T)),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_jacobian(name):
    spec = dataclasses.replace(SMOOTH[name], head_dim=2, value_dim=3, captured=(TensorSpec("t", DType.F64, ("Hq",)),))
    shapes = ((1, 2, 3, 2), (1, 1, 4, 2), (1, 1, 4, 3), (2,))
    tensors = [draw(*shape, seed=n).double().requires_grad_() for n, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(lambda *x: Attention.apply(spec, *x), tensors, atol=1e-7, rtol=1e-5)


def test_jacobian_sees_a_wrong_score():
    """The check above has teeth: a backward of other scores does not pass it."""
    spec = dataclasses.replace(SMOOTH["softmax"], head_dim=2, value_dim=3)
    wrong = dataclasses.replace(spec, score=substitute(spec.score, {"s": S * 1.001}))

    class Wrong(Attention):
        @staticmethod
        def forward(ctx, spec, *tensors):
            result = Attention.forward(ctx, spec, *tensors)
            ctx.spec = wrong
            return result

    tensors = [draw(*shape).double().requires_grad_() for shape in ((1, 2, 3, 2), (1, 1, 4, 2), (1, 1, 4, 3))]
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda *x: Wrong.apply(spec, *x), tensors)
