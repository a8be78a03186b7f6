"""Domain analysis on the masks people use: empty and full tiles are those of brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilewright.ir.domain as domain
from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.evaluate import evaluate
from tilewright.ir.expr import Expr, Op, apply, cast, const, load, select, var

b, h, i, j, M, N = (var(name) for name in ("b", "h", "i", "j", "M", "N"))


def equal(x: Expr, y: Any) -> Expr:
    return apply(Op.EQ, x, y)


def near(x: Expr, y: Expr, distance: int) -> Expr:
    return apply(Op.ABS, x - y) <= distance


def ints(name: str, *at: Expr) -> Expr:
    return load(name, at, Kind.INT)


def bools(name: str, *at: Expr) -> Expr:
    return load(name, at, Kind.BOOL)


CAUSAL = j <= i
AFFINE = {
    "full": const(True),
    "nothing": const(False),
    "causal": CAUSAL,
    "strict": j < i,
    "anticausal": j >= i,
    "bottom_right": j <= i + N - M,
    "window": CAUSAL & (i - j < 7),
    "two_sided": near(i, j, 5),
    "bottom_right_window": (j <= i + N - M) & (i + N - M - j < 9),
    "prefix": CAUSAL | (ints("prefix", b) > j),
    "padding": (ints("length", b) > i) & (ints("length", b) > j),
    "block_causal": j // 8 <= i // 8,
    "block_diagonal": equal(i // 6, j // 6),
    "outside": ~near(i, j, 5),
    "doubled": 2 * j <= i,
    "ratio": j * M <= i * N,
    "row_limit": ints("limit", i) > j,
    "captured": bools("mask", b, h, i, j),
    "not_captured": ~bools("mask", b, h, i, j),
    "additive": select(bools("mask", b, h, i, j), 0.0, -np.inf) > -np.inf,
    "counted": cast(bools("mask", b, h, i, j), DType.I32) * 2 > 0,
    "rows_and_columns": bools("row_mask", i) & bools("column_mask", j),
}
SOUND = {
    "taxicab": apply(Op.ABS, i - 20) + apply(Op.ABS, j - 20) <= 15,
    "global_and_window": CAUSAL & ((j < 4) | (i - j < 7)),
    "documents": CAUSAL & equal(ints("sorted", b, i), ints("sorted_columns", b, j)),
    "shuffled": equal(ints("shuffled", b, i), ints("shuffled_columns", b, j)),
    "dilated": equal((i - j) % 4, 0) & CAUSAL,
    "strided": equal(i % 4, j % 4),
    "neighbourhood": near(i // 7, j // 7, 1) & near(i % 7, j % 7, 1),
    "share_question": CAUSAL & (equal(ints("answer", j), 0) | equal(ints("answer", i), ints("answer", j))),
    "shifted_load": ints("sorted_columns", b, j) <= ints("sorted", b, apply(Op.MIN, i + 1, M - 1)),
    "circle": (i - j) * (i - j) <= 40,
    "butterfly": apply(Op.BITXOR, i, j) < 16,
    "low_bits": equal(apply(Op.BITAND, i, 3), apply(Op.BITAND, j, 3)),
    "alibi_cut": cast(i - j, DType.F32) * load("slope", (h,), Kind.FLOAT) < 5.0,
    "float_distance": apply(Op.SQRT, cast((i - j) * (i - j), DType.F32)) <= 6.5,
    "float_root": apply(Op.SQRT, cast(i - j, DType.F32)) <= 3.0,
    "power_root": apply(Op.POW, cast(i - j, DType.F32), 0.5) <= 3.0,
    "power_even": apply(Op.POW, cast(i - j, DType.F32), 2.0) <= 30.0,
    "power_odd": apply(Op.POW, cast(i - j, DType.F32), 3.0) <= 30.0,
    "decay": apply(Op.EXP, cast(j - i, DType.F32)) > 1e-3,
    "additive_bias": load("bias", (i, j), Kind.FLOAT) > -np.inf,
    "parity_switch": select(equal(h % 2, 0), CAUSAL, near(i, j, 3)),
    "exclusive": apply(Op.XOR, CAUSAL, j < 9),
    "blocks": bools("blocks", i // 8, j // 8),
    "causal_blocks": CAUSAL & bools("blocks", i // 16, j // 4),
    "ids_of_blocks": equal(ints("sorted", b, i // 4), ints("sorted_columns", b, j // 4)),
    "by_what_is_zero": const(-np.inf) < cast(i, DType.F32) / apply(Op.TANH, cast(b - 1, DType.F32)),
}
SHAPES = [
    (64, 64, 16, 16),
    (50, 37, 16, 8),
    (37, 70, 8, 16),
    (1, 40, 16, 16),
    (5, 1, 4, 4),
    (23, 23, 64, 5),
    (40, 40, 1, 1),
]


def tensors(rows: int, columns: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows * 1000 + columns)
    mask = rng.random((2, 2, rows, columns)) < 0.5
    mask[:, :, : rows // 2], mask[:, :, :, columns // 2 :] = True, False
    bias = np.where(mask[0, 0], rng.standard_normal((rows, columns)), -np.inf).astype(np.float32)
    bias[rows // 3, columns // 3] = np.nan
    size = max(rows, columns)
    answer = np.sort(rng.integers(0, 4, size))
    return {
        "prefix": np.array([3, 11]), "length": np.array([13, 29]), "mask": mask,
        "limit": rng.integers(0, columns + 1, rows),
        "bias": bias, "answer": answer, "slope": np.array([0.25, 0.5], np.float32),
        "blocks": rng.random((-(-rows // 8), -(-columns // 4))) < 0.4,
        "row_mask": np.arange(rows) % 20 < 17, "column_mask": np.arange(columns) % 23 > 4,
        "sorted": np.sort(rng.integers(0, 5, (2, rows))),
        "sorted_columns": np.sort(rng.integers(0, 5, (2, columns))),
        "shuffled": rng.integers(0, 3, (2, rows)), "shuffled_columns": rng.integers(0, 3, (2, columns)),
    }  # fmt: skip


def brute_force(
    predicate: Expr, shape: tuple[int, int], scalars: dict[str, int], data: dict[str, np.ndarray]
) -> np.ndarray:
    env = {**scalars, "i": np.arange(shape[0])[:, None], "j": np.arange(shape[1])[None, :]}
    return np.broadcast_to(evaluate(predicate, env, data), shape)


def exact_classes(kept: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """0 empty, 1 partial, 2 full; a ragged last column tile is never full."""
    grid = [range(0, size, step) for size, step in zip(kept.shape, tile, strict=True)]
    classes = np.zeros([len(g) for g in grid], np.int8)
    for m, i in enumerate(grid[0]):
        for n, j in enumerate(grid[1]):
            box = kept[i : i + tile[0], j : j + tile[1]]
            whole = j + tile[1] <= kept.shape[1]
            classes[m, n] = 2 if box.all() and whole else 1 if box.any() else 0
    return classes


def classes_of(
    predicate: Expr, rows: int, columns: int, row_tile: int, column_tile: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the analysis says of each tile, and what is true."""
    scalars, data = {"b": 1, "h": 1, "M": rows, "N": columns}, tensors(rows, columns)
    found = domain.classify(
        predicate, shape=(rows, columns), tile=(row_tile, column_tile), scalars=scalars, tensors=data
    )
    kept = brute_force(predicate, (rows, columns), scalars, data)
    return found, exact_classes(kept, (row_tile, column_tile))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "M{}-N{}-{}x{}".format(*s))
@pytest.mark.parametrize("name", AFFINE)
def test_exact(name: str, shape: tuple[int, int, int, int]) -> None:
    found, true = classes_of(AFFINE[name], *shape)
    np.testing.assert_array_equal(found, true)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "M{}-N{}-{}x{}".format(*s))
@pytest.mark.parametrize("name", SOUND)
def test_sound(name: str, shape: tuple[int, int, int, int]) -> None:
    found, true = classes_of(SOUND[name], *shape)
    assert not ((found == 0) & (true != 0)).any(), "a tile with something in it is skipped"
    assert not ((found == 2) & (true != 2)).any(), "a tile with something left out is taken as full"
