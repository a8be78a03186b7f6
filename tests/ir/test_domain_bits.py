"""Packed masks: tiles whose words are all zero are empty, those whose words are all ones are full."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.ir.domain import decide, summarise
from tilewright.ir.dtypes import Kind
from tilewright.ir.evaluate import evaluate
from tilewright.ir.expr import Expr, Op, apply, const, load, var

i, j = var("i"), var("j")
ROWS, COLUMNS = 16, 64
TYPES = {"i32": (np.int32, 32), "i8": (np.int8, 8), "u8": (np.uint8, 8)}


def bit(width: int) -> Expr:
    word = load("words", (i, apply(Op.FLOORDIV, j, width)), Kind.INT)
    return apply(Op.BITAND, apply(Op.SHR, word, apply(Op.MOD, j, width)), 1)


def packed(keep: np.ndarray, dtype: type, width: int) -> np.ndarray:
    places = np.left_shift(np.int64(1), np.arange(width))
    return (keep.reshape(len(keep), -1, width) * places).sum(-1).astype(dtype)


TESTS = {
    "equals-one": lambda b: apply(Op.EQ, b, const(1)),
    "one-equals": lambda b: apply(Op.EQ, const(1), b),
    "not-zero": lambda b: apply(Op.NE, b, const(0)),
    "not-equal-zero": lambda b: apply(Op.NOT, apply(Op.EQ, const(0), b)),
    "zero": lambda b: apply(Op.EQ, b, const(0)),
    "not-one": lambda b: apply(Op.NE, b, const(1)),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("test", TESTS)
def test_tiles_of_packed_masks(test: str, kind: str) -> None:
    dtype, width = TYPES[kind]
    rng = np.random.default_rng(0)
    keep = rng.random((3 * ROWS, 3 * COLUMNS)) < 0.5
    keep[:ROWS, :COLUMNS], keep[ROWS : 2 * ROWS, COLUMNS : 2 * COLUMNS] = False, True
    words = packed(keep, dtype, width)
    predicate = TESTS[test](bit(width))
    decision = decide(predicate, ROWS, COLUMNS)
    tensors = {"words": words} | {s.name: summarise(words, s) for s in decision.summaries}
    rows, columns = np.arange(3 * ROWS)[:, None], np.arange(3 * COLUMNS)
    holds = evaluate(predicate, {"i": rows, "j": columns}, tensors)
    found = {}
    for m in range(3):
        for n in range(3):
            env = {"i_tile": m, "j_tile": n, "i_lo": m * ROWS, "j_lo": n * COLUMNS}
            env |= {"i_hi": (m + 1) * ROWS - 1, "j_hi": (n + 1) * COLUMNS - 1}
            may, must = (bool(evaluate(side, env, tensors)) for side in (decision.may, decision.must))
            tile = holds[m * ROWS : (m + 1) * ROWS, n * COLUMNS : (n + 1) * COLUMNS]
            assert may or not tile.any()
            assert tile.all() or not must
            found[m, n] = may, must
    is_set = test not in ("zero", "not-one")
    empty, full = (False, False), (True, True)
    assert found[0, 0] == (empty if is_set else full)
    assert found[1, 1] == (full if is_set else empty)
    assert found[2, 2] == (True, False)
