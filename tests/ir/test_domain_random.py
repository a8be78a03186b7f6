"""Random predicates over random boxes: the analysis never skips what is there, nor takes gaps as full."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilewright.ir.domain as domain
from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.evaluate import evaluate
from tilewright.ir.expr import Expr, Op, apply, cast, const, load, select, var

b, h, i, j, M, N = (var(name) for name in ("b", "h", "i", "j", "M", "N"))
SCALARS = {"b": 1, "h": 2}
EXAMPLES = 150


def nodes(ops: list[Op], *operands: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return st.builds(apply, st.sampled_from(ops), *operands)


LITERALS = st.integers(-9, 20).map(const)
POSITIVE = st.integers(1, 9).map(const) | st.sampled_from([M, N])
DIVISORS = POSITIVE | st.sampled_from([const(-3), load("signed", (h,), Kind.INT)])
INT_LEAVES = (
    st.sampled_from([i, j, i, j, i - j, M, N, b, h])
    | LITERALS
    | st.sampled_from([load("rows", (b, i), Kind.INT), load("columns", (j,), Kind.INT), load("signed", (h,), Kind.INT)])
    | st.sampled_from([load("rows", (b, i // 3), Kind.INT), load("columns", (j // 2,), Kind.INT)])
)
FLOATS_OF_INTS = [DType.F32, DType.F16]
MONOTONE = [
    Op.EXP2,
    Op.TANH,
    Op.SIGMOID,
    Op.ERF,
    Op.FLOOR,
    Op.SQRT,
    Op.LOG,
    Op.RSQRT,
    Op.SIN,
    Op.COS,
    Op.ABS,
    Op.NEG,
]


def integers(x: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return (
        nodes([Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX, Op.BITAND, Op.BITOR, Op.BITXOR], x, x)
        | nodes([Op.ABS, Op.NEG], x)
        | nodes([Op.FLOORDIV, Op.MOD], x, DIVISORS)
        | nodes([Op.BITAND, Op.SHL, Op.SHR], x, st.integers(0, 7).map(const))
        | st.builds(select, nodes([Op.LT, Op.EQ], x, x), x, x)
        | st.builds(cast, nodes([Op.LE, Op.NE], x, x), st.just(DType.I32))
        | st.builds(cast, x, st.sampled_from([DType.I8, DType.I64]))
        | x.map(lambda e: e * e)
    )


def floats(x: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return (
        nodes([Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MIN, Op.MAX], x, x)
        | nodes(MONOTONE, x)
        | nodes([Op.POW], x, st.sampled_from([2.0, 3.0, 0.5, -1.0]).map(const))
        | st.builds(select, nodes([Op.LT, Op.NE], x, x), x, x)
    )


INTS = st.recursive(INT_LEAVES, integers, max_leaves=5)
FLOAT_LEAVES = (
    st.builds(cast, st.recursive(INT_LEAVES, integers, max_leaves=2), st.sampled_from(FLOATS_OF_INTS))
    | st.sampled_from([-np.inf, -2.5, 0.0, 0.1, 3.0, np.inf]).map(const)
    | st.sampled_from(
        [load("slope", (h,), Kind.FLOAT), load("bias", (i, j), Kind.FLOAT), load("decay", (j,), Kind.FLOAT)]
    )
)
FLOATS = st.recursive(FLOAT_LEAVES, floats, max_leaves=4)
COMPARISONS = [Op.LT, Op.LE, Op.EQ, Op.NE]
BOOL_LEAVES = (
    nodes(COMPARISONS, INTS, INTS)
    | nodes(COMPARISONS, FLOATS, FLOATS)
    | st.sampled_from([load("mask", (i, j), Kind.BOOL), load("kept", (j,), Kind.BOOL), const(True)])
    | st.builds(cast, INTS | FLOATS, st.just(DType.BOOL))
)


def logic(x: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return (
        nodes([Op.AND, Op.OR, Op.AND, Op.OR, Op.XOR, Op.EQ, Op.NE], x, x)
        | nodes([Op.NOT], x)
        | st.builds(select, x, x, x)
    )


PREDICATES = st.recursive(BOOL_LEAVES, logic, max_leaves=4)
SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))
TILES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def data(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(shape[0] * 100 + shape[1])
    bias = rng.choice(np.array([-np.inf, -1.5, 0, 0.25, 7, np.nan], np.float32), shape)
    mask = rng.random(shape) < 0.5
    mask[: shape[0] // 2], mask[:, : shape[1] // 2] = True, False
    return {
        "rows": np.sort(rng.integers(-4, 9, (2, shape[0]))),
        "columns": np.sort(rng.integers(-4, 9, shape[1])),
        "signed": rng.integers(1, 4, 3) * rng.choice([-1, 1], 3), "bias": bias, "mask": mask,
        "slope": rng.choice(np.array([0.5, -2, 0, np.inf, np.nan], np.float32), 3),
        "decay": rng.standard_normal(shape[1]).astype(np.float32), "kept": np.arange(shape[1]) % 11 > 3,
    }  # fmt: skip


def elements(predicate: Expr, shape: tuple[int, int], float_type: Any) -> np.ndarray:
    env = {**SCALARS, "M": shape[0], "N": shape[1]}
    env |= {"i": np.arange(shape[0])[:, None], "j": np.arange(shape[1])[None, :]}
    return np.broadcast_to(evaluate(predicate, env, data(shape), float_type=float_type), shape)


def check_tiles(classes: np.ndarray, kept: np.ndarray, tile: tuple[int, int]) -> None:
    for m, n in np.ndindex(*classes.shape):
        box = kept[m * tile[0] : (m + 1) * tile[0], n * tile[1] : (n + 1) * tile[1]]
        assert classes[m, n] != 0 or not box.any(), f"tile {m, n} is skipped"
        whole = (n + 1) * tile[1] <= kept.shape[1]
        assert classes[m, n] != 2 or (box.all() and whole), f"tile {m, n} is not full"


@pytest.mark.parametrize("float_type", [np.float32, np.float64])
@settings(max_examples=EXAMPLES, deadline=None)
@given(predicate=PREDICATES, shape=SIZES, tile=TILES)
def test_tiles_are_sound(predicate: Expr, shape: tuple[int, int], tile: tuple[int, int], float_type: Any) -> None:
    """Elements in single or in double precision: bounds are wide enough for either."""
    scalars = {**SCALARS, "M": shape[0], "N": shape[1]}
    classes = domain.classify(predicate, shape=shape, tile=tile, scalars=scalars, tensors=data(shape))
    check_tiles(classes, elements(predicate, shape, float_type), tile)


@settings(max_examples=EXAMPLES, deadline=None)
@given(predicate=PREDICATES, shape=SIZES, tile=TILES)
def test_plans_are_ordered(predicate: Expr, shape: tuple[int, int], tile: tuple[int, int]) -> None:
    """0 <= lo <= full_lo <= full_hi <= hi <= tiles for every row tile; named assignments say the same."""
    loop = domain.plan(predicate, *tile)
    tensors = data(shape)
    tensors |= {s.name: domain.summarise(tensors[s.tensor], s) for s in loop.summaries}
    for m in range(-(-shape[0] // tile[0])):
        env: dict[str, Any] = {**SCALARS, "M": shape[0], "N": shape[1], "i_tile": m, "i_lo": m * tile[0]}
        env["i_hi"] = min(m * tile[0] + tile[0], shape[0]) - 1
        bounds = [int(evaluate(e, env, tensors)) for e in (loop.lo, loop.full_lo, loop.full_hi, loop.hi)]
        assert [0, *bounds, -(-shape[1] // tile[1])] == sorted([0, *bounds, -(-shape[1] // tile[1])])
        for name, value in loop.assignments:
            env[name] = int(evaluate(value, env, tensors))
        assert [env["lo"], env["full_lo"], env["full_hi"], env["hi"]] == bounds


@settings(max_examples=EXAMPLES, deadline=None)
@given(predicate=PREDICATES, shape=SIZES, corner=SIZES, extent=TILES)
def test_boxes_are_sound(
    predicate: Expr, shape: tuple[int, int], corner: tuple[int, int], extent: tuple[int, int]
) -> None:
    """Any box inside one tile, at the border of tiles or not."""
    low = [min(c, size) - 1 for c, size in zip(corner, shape, strict=True)]
    high = [min(first + size, whole) - 1 for first, size, whole in zip(low, extent, shape, strict=True)]
    decision = domain.decide(predicate, *shape)
    tensors = data(shape)
    tensors |= {s.name: domain.summarise(tensors[s.tensor], s) for s in decision.summaries}
    env = {**SCALARS, "M": shape[0], "N": shape[1], "i_tile": 0, "j_tile": 0}
    env |= {"i_lo": low[0], "i_hi": high[0], "j_lo": low[1], "j_hi": high[1]}
    box = elements(predicate, shape, np.float32)[low[0] : high[0] + 1, low[1] : high[1] + 1]
    assert evaluate(decision.may, env, tensors) or not box.any()
    assert not evaluate(decision.must, env, tensors) or box.all()
