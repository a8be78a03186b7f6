"""Loop plans as people read them in a kernel, and what loops do with them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import tilewright.ir.domain as domain
from tilewright.ir.domain.fold import conjuncts
from tilewright.ir.domain.plan import plan_of
from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.errors import ScheduleError
from tilewright.ir.evaluate import evaluate
from tilewright.ir.expr import Expr, Op, apply, cast, const, load, loads, var

b, h, i, j, M, N = (var(name) for name in ("b", "h", "i", "j", "M", "N"))
CAUSAL = j <= i
WINDOW = CAUSAL & (i - j < 512)
DOCUMENTS = CAUSAL & apply(Op.EQ, load("document", (b, i), Kind.INT), load("document", (b, j), Kind.INT))
TILES = "(N + 63) // 64"

PLANS = {
    "full": (const(True), {"hi": TILES, "lo": "0", "full_lo": "0", "full_hi": "N // 64"}),
    "causal": (
        CAUSAL,
        {
            "hi": f"min({TILES}, (i_hi + 64) // 64)",
            "lo": "0",
            "full_lo": "0",
            "full_hi": "min(N // 64, (i_lo + 1) // 64)",
        },
    ),
    "bottom_right": (
        j <= i + N - M,
        {
            "hi": f"min({TILES}, max(i_hi + N - M + 64, 0) // 64)",
            "lo": "0",
            "full_lo": "0",
            "full_hi": "min(N // 64, max(i_lo + N - M + 1, 0) // 64)",
        },
    ),
    "window": (
        WINDOW,
        {
            "hi": f"min({TILES}, (i_hi + 64) // 64)",
            "lo": "min(max(i_lo - 511, 0) // 64, hi)",
            "full_lo": "min(max(max(i_hi - 448, 0) // 64, lo), hi)",
            "full_hi": "max(min(N // 64, (i_lo + 1) // 64), full_lo)",
        },
    ),
    "prefix": (
        CAUSAL | (j < load("prefix", (b,), Kind.INT)),
        {
            "hi": f"min({TILES}, max((i_hi + 64) // 64, max(prefix[b] + 63, 0) // 64))",
            "lo": "0",
            "full_lo": "0",
            "full_hi": "min(N // 64, max((i_lo + 1) // 64, max(prefix[b], 0) // 64))",
        },
    ),
    "blocks": (
        j // 16 <= i // 16,
        {
            "hi": f"min({TILES}, (i_hi // 16 * 16 + 79) // 64)",
            "lo": "0",
            "full_lo": "0",
            "full_hi": "min(N // 64, (i_lo // 16 * 16 + 16) // 64)",
        },
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_ranges_read_well(name: str) -> None:
    predicate, wanted = PLANS[name]
    loop = domain.plan(predicate, 32, 64)
    assert {name: str(value) for name, value in loop.assignments} == wanted
    assert (loop.may_rest, loop.must_rest) == (const(True), const(True))


def test_documents_are_asked_per_tile() -> None:
    loop = domain.plan(DOCUMENTS, 32, 64)
    assert str(loop.hi) == f"min({TILES}, (i_hi + 64) // 64)"
    assert {s.name for s in loop.summaries} == {f"document_{op}_1x{tile}" for op in ("min", "max") for tile in (32, 64)}
    assert {str(node.args[-1]) for node in loads(loop.may_rest)} == {"i_tile", "j_tile"}


@pytest.mark.parametrize(
    ("size", "asked"), [(128, "blocks[i_lo // 128, j_lo // 128]"), (16, "blocks_max_0x2_1x4[i_tile, j_tile]")]
)
def test_blocks_are_asked_per_tile(size: int, asked: str) -> None:
    """Of blocks that hold whole tiles the one element is read; of smaller ones any of a tile's."""
    loop = domain.plan(load("blocks", (i // size, j // size), Kind.BOOL), 32, 64)
    assert str(loop.may_rest) == asked


def test_blocks_that_tiles_cut_are_left_open() -> None:
    loop = domain.plan(load("blocks", (i // 96, j // 96), Kind.BOOL), 32, 64)
    assert loop.may_rest is const(True)
    assert loop.full_lo is loop.full_hi


def test_rows_that_keep_nothing_visit_nothing() -> None:
    """A condition on rows alone is asked once per row tile, not per column tile."""
    loop = domain.plan(i < load("length", (b,), Kind.INT), 32, 64)
    assert str(loop.hi) == f"where(i_lo < length[b], {TILES}, 0)"
    assert str(loop.full_hi) == "where(i_hi < length[b], N // 64, 0)"


def test_a_size_known_before_run_time_folds() -> None:
    loop = domain.plan(const(True), 64, 64, extent=const(200))
    assert (str(loop.hi), str(loop.full_hi)) == ("4", "3")


def test_nothing_left_of_a_contradiction() -> None:
    loop = domain.plan(const(False), 64, 64)
    env = {"N": 640, "i_lo": 0, "i_hi": 63}
    assert evaluate(loop.lo, env, {}) == evaluate(loop.hi, env, {}) == 0


def test_exchanged_axes_give_the_rows_of_a_column_tile() -> None:
    """The backward pass loops over row tiles of one column tile: for causal from the diagonal on."""
    loop = domain.plan(CAUSAL, 64, 32, row="j", column="i", extent=M)
    assert str(loop.hi) == "(M + 31) // 32"
    env = {"M": 320, "j_lo": 64, "j_hi": 127}
    bounds = [int(evaluate(e, env, {})) for e in (loop.lo, loop.full_lo, loop.full_hi, loop.hi)]
    assert bounds == [2, 4, 10, 10]


def test_a_decision_is_two_conditions_on_the_box() -> None:
    decision = domain.decide(WINDOW, 64, 64)
    assert str(decision.may) == "(j_lo <= i_hi) & (i_lo <= j_hi + 511)"
    assert str(decision.must) == "(j_hi <= i_lo) & (i_hi <= j_lo + 511)"
    assert decision.summaries == ()


def test_a_range_of_a_decision() -> None:
    columns = domain.Columns(64, (N + 63) // 64)
    found = domain.column_range(domain.decide(DOCUMENTS, 64, 64).may, columns)
    assert (str(found.lo), str(found.hi)) == ("0", f"min({TILES}, (i_hi + 64) // 64)")
    assert not {"j_lo", "j_hi"} & {str(node.attr) for node in loads(found.rest)}


def test_visits_in_loop_order() -> None:
    classes = domain.classify(WINDOW, shape=(1000, 1000), tile=(128, 128), scalars={}, tensors={})
    assert [row.tolist() for row in domain.visited(classes, "full")][6] == [3, 4, 5]
    assert [row.tolist() for row in domain.visited(classes, "partial")][6] == [2, 6]
    assert [row.tolist() for row in domain.visited(classes, "any", "descending")][6] == [6, 5, 4, 3, 2]


@pytest.mark.parametrize(
    ("part", "order", "message"),
    [
        ("whole", "ascending", "part 'whole' does not exist"),
        ("any", "zigzag", "order 'zigzag' does not exist"),
    ],
)
def test_unknown_parts_and_orders(part: str, order: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        domain.visited(np.zeros((1, 1), np.int8), part, order)


@pytest.mark.parametrize("predicate", [CAUSAL, DOCUMENTS], ids=["causal", "documents"])
def test_memory_follows_the_tiles(predicate: Expr) -> None:
    """32k x 32k elements in tiles of 128: 64 Ki tiles; a byte per element would be a gigabyte."""
    size = 32768
    document = np.repeat(np.arange(16), size // 16)[None]
    tracemalloc.start()
    classes = domain.classify(
        predicate,
        shape=(size, size),
        tile=(128, 128),
        scalars={"b": 0, "N": size},
        tensors={"document": document},
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert classes.shape == (256, 256)
    assert peak < 64 * classes.size


@pytest.mark.parametrize(("op", "wanted"), [("min", [[1, 0], [2, 2]]), ("max", [[9, 5], [3, 2]])])
def test_a_summary_is_ragged_at_the_end(op: str, wanted: list[list[int]]) -> None:
    tensor = np.array([[1, 9, 4, 0, 5], [2, 2, 3, 2, 2]])
    summary = domain.Summary("t", "tensor", op, (1,), (3,), Kind.INT)
    np.testing.assert_array_equal(domain.summarise(tensor, summary), wanted)


def test_a_summary_of_truth_values_is_all_and_any() -> None:
    mask = np.array([[True, True, False], [True, False, False]])
    least, greatest = (domain.Summary("s", "mask", op, (0, 1), (2, 2), Kind.BOOL) for op in ("min", "max"))
    assert domain.summarise(mask, least).tolist() == [[False, False]]
    assert domain.summarise(mask, greatest).tolist() == [[True, False]]


def test_bounds_allow_for_other_rounding() -> None:
    """0.1 * 3 <= 0.3 holds in single precision and not in double: a kernel may find either."""
    predicate = cast(i, DType.F32) * 0.1 <= const(0.3)
    classes = domain.classify(predicate, shape=(6, 1), tile=(1, 1), scalars={}, tensors={})
    assert classes[:, 0].tolist() == [2, 2, 2, 1, 0, 0]


def test_what_may_be_nan_is_asked() -> None:
    """inf * 0 is NaN, for which no comparison holds; minima of some targets would drop it."""
    slope = load("slope", (h,), Kind.FLOAT)
    decision = domain.decide(cast(i - j, DType.F32) * slope < 5.0, 64, 64)
    assert apply(Op.LT, apply(Op.ABS, slope), np.inf) in conjuncts(decision.must)


def test_a_sum_of_infinities_is_undecided() -> None:
    bias = load("bias", (j,), Kind.FLOAT)
    tensors = {"bias": np.array([np.inf, 1.0], np.float32)}
    classes = domain.classify(bias - bias <= 0.0, shape=(1, 2), tile=(1, 1), scalars={}, tensors=tensors)
    assert classes.tolist() == [[1, 1]]


def test_no_rows_or_no_columns() -> None:
    for shape, wanted in (((0, 5), (0, 2)), ((5, 0), (2, 0))):
        assert domain.classify(WINDOW, shape=shape, tile=(4, 4), scalars={}, tensors={}).shape == wanted


@pytest.mark.parametrize(
    ("may", "wanted"),
    [(var("i_lo") <= var("j_hi"), [3, 3, 8, 8]), (var("j_lo") <= var("i_hi"), [0, 0, 5, 5])],
    ids=["from_below", "from_above"],
)
def test_full_tiles_lie_among_the_visited_ones(may: Expr, wanted: list[int]) -> None:
    """Where only `may` has a bound, the full range keeps within it all the same."""
    must = load("kept", (var("j_tile"),), Kind.BOOL)
    loop = plan_of(domain.Decision(may, must), 8, "j", N)
    env = {"N": 64, "i_lo": 30, "i_hi": 33}
    bounds = [int(evaluate(e, env, {})) for e in (loop.lo, loop.full_lo, loop.full_hi, loop.hi)]
    assert bounds == wanted


def test_division_by_a_scalar_that_may_be_zero() -> None:
    """0 / 0 is NaN and 1 / 0 infinite: the row tile has elements that are kept."""
    ratio = cast(i, DType.F32) / load("slope", (const(0),), Kind.FLOAT)
    tensors = {"slope": np.zeros(1, np.float32)}
    classes = domain.classify(ratio >= 1.0, shape=(4, 1), tile=(4, 1), scalars={}, tensors=tensors)
    assert classes.tolist() == [[1]]


def test_a_scalar_below_zero() -> None:
    """Plans take variables to be at least 0; a value that is not goes in as a literal."""
    predicate = i + var("shift") >= j
    classes = domain.classify(predicate, shape=(4, 8), tile=(2, 2), scalars={"shift": -1}, tensors={})
    assert classes.tolist() == [[1, 0, 0, 0], [2, 1, 0, 0]]
    assert domain.classify(var("shift") >= 0, shape=(1, 1), tile=(1, 1), scalars={"shift": -1}, tensors={}) == 0
