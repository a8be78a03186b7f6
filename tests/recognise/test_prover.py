"""The prover: what it proves holds for all numbers tried, and what it must prove of kernels' loops."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.ir.evaluate import evaluate
from tilewright.ir.expr import Expr, Op, apply, const, select, var
from tilewright.ir.transfer.recognition.prover import implies, is_impossible

ROW, J, M, N, T, W = (var(name) for name in ("i", "j", "m", "N", "t", "w"))
NONNEGATIVE = apply(Op.LE, 0, J)
TILES = [M * 128 <= ROW, ROW < M * 128 + 128, T * 64 <= J, J < T * 64 + 64, ROW < N, J < N]
LAST = apply(Op.MIN, M * 128 + 128, N)


def test_a_causal_loop_covers_its_mask() -> None:
    assert implies([*TILES, J <= ROW], T < (LAST + 63) // 64)
    assert implies([*TILES, T < M * 2], J <= ROW)
    assert not implies([*TILES, J <= ROW], T < LAST // 64)
    assert not implies([*TILES, J <= ROW], T < M * 2)
    assert not implies([*TILES, T <= M * 2], J <= ROW)


def test_a_window_covers_its_mask() -> None:
    low = apply(Op.MAX, M * 128 - W, 0) // 64
    assert implies([*TILES, ROW - J <= W], low <= T)
    assert not implies([*TILES, ROW - J <= W], low < T)
    assert not implies([*TILES, ROW - J <= W + 1], low <= T)


def test_splits_reach_the_last_key() -> None:
    size = ((N + 3) // 4 + 63) // 64 * 64
    assert implies([NONNEGATIVE, apply(Op.LT, J, N)], apply(Op.LT, J, size * 4))
    assert not implies([NONNEGATIVE, J < N], size * 3 > J)
    length = apply(Op.MAX, (N + 1023) // 1024 * 64, 128)
    count = apply(Op.MAX, (N - 1) // length + 1, 1)
    assert implies([NONNEGATIVE, J < N], count * length > J)
    assert not implies([NONNEGATIVE, J < N], N // length * length > J)


def test_facts_may_contradict() -> None:
    assert is_impossible([ROW < J, J < ROW])
    assert is_impossible([apply(Op.EQ, ROW, J * 2), apply(Op.EQ, ROW, J * 2 + 1)])
    assert not is_impossible([ROW < J, J < ROW + 2])


NAMES = ("i", "j", "t")
leaves = st.one_of(st.sampled_from([var(name) for name in NAMES]), st.integers(0, 5).map(const))
numbers = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda a, c: a * c, inner, st.integers(-3, 3)),
        st.builds(lambda a, c: a // c, inner, st.integers(1, 4)),
        st.builds(lambda a, c: a % c, inner, st.integers(1, 4)),
        st.builds(partial(apply, Op.MIN), inner, inner),
        st.builds(partial(apply, Op.MAX), inner, inner),
    ),
    max_leaves=4,
)
comparisons = st.builds(apply, st.sampled_from([Op.LT, Op.LE, Op.EQ, Op.NE]), numbers, numbers)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(partial(apply, Op.AND), inner, inner),
        st.builds(partial(apply, Op.OR), inner, inner),
        st.builds(partial(apply, Op.NOT), inner),
        st.builds(select, inner, inner, inner),
    ),
    max_leaves=3,
)


@settings(max_examples=80, deadline=None)
@given(st.lists(conditions, max_size=2), conditions)
def test_what_is_proved_holds(facts: list[Expr], goal: Expr) -> None:
    if not implies(facts, goal):
        return
    axes = np.meshgrid(np.arange(12), np.arange(0, 12, 2), np.arange(0, 7, 3), indexing="ij")
    env = dict(zip(NAMES, axes, strict=True))
    holds = np.ones(axes[0].shape, np.bool_)
    for fact in facts:
        holds &= evaluate(fact, env, {})
    assert np.broadcast_to(evaluate(goal, env, {}), holds.shape)[holds].all()


@pytest.mark.parametrize("step", range(1, 9))
def test_quotients_are_known_exactly(step: int) -> None:
    assert implies([], ROW // step * step <= ROW)
    assert implies([], ROW // step * step + step > ROW)
    assert implies([], apply(Op.EQ, ROW // step * step + ROW % step, ROW))
    assert not implies([step * 2 > ROW], ROW // step < 1)
