"""Every operation means what PyTorch means by it; loads are checked; the reference is attention's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.errors import OutOfBounds, ProgramError, ShapeError
from tilewright.ir.evaluate import evaluate, round_bf16
from tilewright.ir.expr import Expr, Op, apply, call, cast, const, load, select, var
from tilewright.ir.reference import reference
from tilewright.ir.spec import AttentionSpec, Normaliser, NormaliserKind, S, TensorSpec

X, Y = var("x", Kind.FLOAT), var("y", Kind.FLOAT)
M, N = var("m"), var("n")
P, Q = var("p", Kind.BOOL), var("r", Kind.BOOL)

FLOAT_OPS = {
    Op.ADD: torch.add, Op.SUB: torch.sub, Op.MUL: torch.mul, Op.DIV: torch.div, Op.MIN: torch.minimum,
    Op.MAX: torch.maximum, Op.POW: torch.pow, Op.LT: torch.lt, Op.LE: torch.le, Op.EQ: torch.eq, Op.NE: torch.ne,
}  # fmt: skip
UNARY_OPS = {
    Op.NEG: torch.neg, Op.ABS: torch.abs, Op.EXP: torch.exp, Op.EXP2: torch.exp2, Op.LOG: torch.log,
    Op.LOG2: torch.log2, Op.SQRT: torch.sqrt, Op.RSQRT: torch.rsqrt, Op.TANH: torch.tanh,
    Op.SIGMOID: torch.sigmoid, Op.ERF: torch.erf, Op.SIN: torch.sin, Op.COS: torch.cos, Op.FLOOR: torch.floor,
}  # fmt: skip
INTEGER_OPS = {
    Op.ADD: torch.add, Op.SUB: torch.sub, Op.MUL: torch.mul, Op.FLOORDIV: torch.floor_divide,
    Op.MOD: torch.remainder, Op.BITAND: torch.bitwise_and, Op.BITOR: torch.bitwise_or,
    Op.BITXOR: torch.bitwise_xor, Op.MIN: torch.minimum, Op.MAX: torch.maximum,
}  # fmt: skip
LOGIC_OPS = {Op.AND: torch.logical_and, Op.OR: torch.logical_or, Op.XOR: torch.logical_xor}
SPECIAL = torch.tensor([0.0, -0.0, 1.5, -2.25, 30.0, -30.0, math.inf, -math.inf, math.nan], dtype=torch.float64)


def value(e, **env):
    return evaluate(e, {k: x.numpy() for k, x in env.items()}, {}, float_type=np.float64)


@pytest.mark.parametrize("op", FLOAT_OPS, ids=lambda op: op.name)
def test_float_operation(op):
    x, y = SPECIAL[:, None], SPECIAL[None, :]
    expected = FLOAT_OPS[op](x, y).numpy()
    np.testing.assert_allclose(value(apply(op, X, Y), x=x, y=y), expected, rtol=1e-14)


@pytest.mark.parametrize("op", UNARY_OPS, ids=lambda op: op.name)
def test_unary_operation(op):
    np.testing.assert_allclose(value(apply(op, X), x=SPECIAL), UNARY_OPS[op](SPECIAL).numpy(), rtol=1e-13)


@pytest.mark.parametrize("op", INTEGER_OPS, ids=lambda op: op.name)
def test_integer_operation(op):
    m, n = torch.arange(-7, 8)[:, None], torch.tensor([[-3, -1, 1, 2, 5]])
    np.testing.assert_array_equal(value(apply(op, M, N), m=m, n=n), INTEGER_OPS[op](m, n).numpy())


@pytest.mark.parametrize("op", LOGIC_OPS, ids=lambda op: op.name)
def test_logic(op):
    p, q = torch.tensor([[True], [False]]), torch.tensor([[True, False]])
    np.testing.assert_array_equal(value(apply(op, P, Q), p=p, r=q), LOGIC_OPS[op](p, q).numpy())


def test_shifts_and_choice():
    m = torch.arange(5)
    np.testing.assert_array_equal(value(apply(Op.SHR, apply(Op.SHL, M, 3), 1), m=m), (m << 3 >> 1).numpy())
    np.testing.assert_array_equal(value(select(~(M < 2), M, -M), m=m), [0, -1, 2, 3, 4])


def test_every_operation_has_a_meaning():
    leaves = {Op.CONST, Op.VAR, Op.INDEX, Op.LOAD, Op.CALL, Op.CAST}
    from tilewright.ir.evaluate import UFUNCS

    assert set(Op) - leaves == set(UFUNCS)


@pytest.mark.parametrize(
    ("dtype", "kind"), [(DType.F16, torch.float16), (DType.F32, torch.float32), (DType.BF16, torch.bfloat16)]
)
def test_casts_round_like_pytorch(dtype, kind):
    x = torch.cat([torch.randn(1000, dtype=torch.float64), SPECIAL, torch.tensor([1.00390625, 1.01171875])])
    np.testing.assert_array_equal(value(cast(X, dtype), x=x), x.to(kind).double().numpy())


@pytest.mark.parametrize(("dtype", "kind"), [(DType.I64, torch.int64), (DType.I32, torch.int32)])
def test_casts_to_integers_truncate(dtype, kind):
    x = torch.tensor([1.9, -1.9, 0.0, 7.5], dtype=torch.float64)
    np.testing.assert_array_equal(value(cast(X, dtype), x=x), x.to(kind).numpy())


def test_casts_to_small_integers_wrap():
    np.testing.assert_array_equal(value(cast(M, DType.I8), m=torch.tensor([127, 128, -129])), [127, -128, 127])


def test_bf16_keeps_shape_and_nan():
    assert round_bf16(np.zeros((2, 3))).shape == (2, 3)
    assert np.isnan(round_bf16(np.array(np.nan))).all()


def test_floats_are_computed_in_the_type_asked_for():
    e = X + 1e-9
    assert evaluate(e, {"x": 1.0}, {}).item() == 1.0
    assert evaluate(e, {"x": 1.0}, {}, float_type=np.float64).item() == 1.0 + 1e-9


def test_loads_broadcast():
    table = np.arange(12.0).reshape(3, 4)
    e = load("t", (M, N), Kind.FLOAT)
    got = evaluate(e, {"m": np.array([[2], [0]]), "n": np.array([[1, 3]])}, {"t": table})
    np.testing.assert_array_equal(got, [[9.0, 11.0], [1.0, 3.0]])


@pytest.mark.parametrize("index", [-1, 3])
def test_loads_outside_are_refused(index):
    with pytest.raises(OutOfBounds, match=f"t is loaded at {index}..{index} of axis 0, which has size 3"):
        evaluate(load("t", (const(index),), Kind.FLOAT), {}, {"t": np.zeros(3)})


def test_loads_with_too_few_indices_are_refused():
    with pytest.raises(OutOfBounds, match="t has 2 dims and is loaded with 1 indices"):
        evaluate(load("t", (const(0),), Kind.FLOAT), {}, {"t": np.zeros((3, 3))})


def test_calls_apply_regions():
    got = evaluate(call("double", (X,), Kind.FLOAT), {"x": 4.0}, {}, {"double": lambda x: x * 2})
    assert got.item() == 8.0


@pytest.mark.parametrize(
    ("e", "what"),
    [(X, "variable x"), (load("t", (), Kind.INT), "tensor t"), (call("f", (), Kind.INT), "region f")],
)
def test_unknown_names(e: Expr, what: str):
    with pytest.raises(ProgramError, match=f"{what} has no value"):
        evaluate(e, {}, {})


# The reference


def attention_tensors(hq=4, hkv=2, m=5, n=7):
    torch.manual_seed(0)
    return [
        torch.randn(2, hq, m, 8, dtype=torch.float64), torch.randn(2, hkv, n, 8, dtype=torch.float64),
        torch.randn(2, hkv, n, 6, dtype=torch.float64),
    ]  # fmt: skip


def spec_of(**parts):
    return AttentionSpec("a", DType.F64, 8, 6, 2, **parts)


ROW, COLUMN = var("i"), var("j")


def test_reference_is_attention():
    q, k, v = attention_tensors()
    o, lse = reference(spec_of(score=S * 0.3, keep=COLUMN <= ROW), q.numpy(), k.numpy(), v.numpy())
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    np.testing.assert_allclose(o, expected.numpy(), atol=1e-14)
    scores = (q @ k.repeat_interleave(2, 1).mT * 0.3).masked_fill(torch.ones(5, 7).triu(1).bool(), -math.inf)
    np.testing.assert_allclose(lse, scores.logsumexp(-1).numpy(), atol=1e-14)


def test_rows_that_keep_nothing_are_zero():
    q, k, v = attention_tensors()
    o, lse = reference(spec_of(keep=COLUMN < ROW), q.numpy(), k.numpy(), v.numpy())
    assert not o[:, :, 0].any()
    assert np.isneginf(lse[:, :, 0]).all()
    assert np.isfinite(lse[:, :, 1:]).all()


def test_sink_takes_part_in_the_sum_only():
    q, k, v = attention_tensors()
    sinks = torch.randn(4, dtype=torch.float64)
    spec = spec_of(
        captured=(TensorSpec("sinks", DType.F64, ("Hq",)),),
        normaliser=Normaliser(sink=load("sinks", (var("h"),), Kind.FLOAT)),
    )
    o, _ = reference(spec, q.numpy(), k.numpy(), v.numpy(), sinks.numpy())
    scores = q @ k.repeat_interleave(2, 1).mT
    column = sinks.view(1, 4, 1, 1).expand(2, 4, 5, 1)
    weights = torch.cat([scores, column], -1).softmax(-1)[..., :-1]
    np.testing.assert_allclose(o, (weights @ v.repeat_interleave(2, 1)).numpy(), atol=1e-14)


@pytest.mark.parametrize("kind", [NormaliserKind.ELEMENTWISE, NormaliserKind.ROW_SUM])
def test_other_weights(kind):
    q, k, v = attention_tensors()
    rule = Normaliser(kind, weight=apply(Op.MAX, S, 0.0), epsilon=0.5 if kind is NormaliserKind.ROW_SUM else 0.0)
    o, _ = reference(spec_of(normaliser=rule, keep=COLUMN <= ROW), q.numpy(), k.numpy(), v.numpy())
    weights = F.relu(q @ k.repeat_interleave(2, 1).mT).tril()
    if kind is NormaliserKind.ROW_SUM:
        weights = weights / (weights.sum(-1, keepdim=True) + 0.5)
    np.testing.assert_allclose(o, (weights @ v.repeat_interleave(2, 1)).numpy(), atol=1e-13)


def test_left_out_columns_do_not_spread_nan():
    q, k, v = attention_tensors()
    v[:, :, 6] = math.nan
    o, _ = reference(spec_of(keep=COLUMN < 6), q.numpy(), k.numpy(), v.numpy())
    assert np.isfinite(o).all()


def test_no_columns_at_all():
    q, k, v = attention_tensors(n=0)
    o, lse = reference(spec_of(), q.numpy(), k.numpy(), v.numpy())
    assert o.shape == (2, 4, 5, 6)
    assert not o.any()
    assert np.isneginf(lse).all()


def test_reference_checks_its_arguments():
    q, k, v = (x.numpy() for x in attention_tensors())
    with pytest.raises(ShapeError, match=r"a takes 3 tensors \(q, k, v\), got 4"):
        reference(spec_of(), q, k, v, v)
    with pytest.raises(ShapeError, match="a: k has D=7"):
        reference(spec_of(), q, k[..., :7], v)
    with pytest.raises(ShapeError, match=r"a: v has shape \(2, 7, 6\), wanted dims"):
        reference(spec_of(), q, k, v[:, 0])
    with pytest.raises(ShapeError, match="a: q has Hq=3 heads, wanted 2 times Hkv=2"):
        reference(spec_of(), q[:, :3], k, v)


def test_constants_beyond_64_bits_compare_as_they_should() -> None:
    j = np.array([-5, 0, 7])
    for power in (63, 64, 1024):
        assert evaluate(var("j") < const(1 << power), {"j": j}, {}).all()
        assert not evaluate(var("j") < const(-(1 << power)), {"j": j}, {}).any()
