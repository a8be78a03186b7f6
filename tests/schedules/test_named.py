"""Named orders: closed forms of DASH, the published table, and where they do not exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tilewright.ir.errors import ScheduleError
from tilewright.schedules import Plan, Work, check_plan, lower_bound, plan_work, simulate
from tilewright.schedules.named import NAMED, STATIC, least_end, reason_missing

SIZES = [(n, m, r) for n in (4, 6, 8, 16) for m in (1, 2, 3, 4) for r in (0.1, 0.25, 0.5, 1.0)]
MASKS = ("full", "causal")


def work_of(mask: str, n: int, heads: int, reduce: float) -> Work:
    blocks = np.ones((n, n), dtype=bool) if mask == "full" else np.tri(n, dtype=bool)
    return Work.of(blocks, heads, 1.0, reduce)


def makespan(name: str, work: Work, workers: int) -> float:
    plan = plan_work(work, workers, name)
    check_plan(plan, work)
    return simulate(plan, work).makespan


@pytest.mark.parametrize(("n", "m", "r"), SIZES)
def test_full_masks_have_the_published_makespans(n: int, m: int, r: float) -> None:
    work, cost = work_of("full", n, m, r), 1 + r
    naive = m * n * cost + (n - 1) * r
    assert makespan("ascending", work, n) == pytest.approx(naive)
    assert makespan("descending", work, n) == pytest.approx(naive)
    assert makespan("spt", work, n) == pytest.approx(naive)
    assert makespan("shift", work, n) == pytest.approx(m * n * cost)
    assert lower_bound(work, n) == pytest.approx(m * n * cost)


@pytest.mark.parametrize(("n", "m", "r"), SIZES)
def test_causal_masks_have_the_published_makespans(n: int, m: int, r: float) -> None:
    work, cost = work_of("causal", n, m, r), 1 + r
    assert makespan("ascending", work, n) == pytest.approx(m * n * cost + (n - 1) * r)
    if m % 2 == 0:
        assert makespan("descending", work, n) == pytest.approx(m * (n + 1) * cost / 2 + (n - 1) * r)
        assert makespan("symmetric-shift", work, n) == pytest.approx(m * (n + 1) * cost / 2)
    else:  # half a wave more
        assert makespan("symmetric-shift", work, n) == pytest.approx((m + 1) * (n + 1) * cost / 2)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 13, 16, 31])
@pytest.mark.parametrize("m", [2, 4, 6])
@pytest.mark.parametrize("r", [0.1, 0.25, 0.5, 1.0])
def test_zigzag_is_the_bound_for_even_heads_at_every_size(n: int, m: int, r: float) -> None:
    work = work_of("causal", n, m, r)
    plan = plan_work(work, n, "zigzag")
    trace = simulate(plan, work)
    assert trace.makespan == pytest.approx(m * (n + 1) * (1 + r) / 2)
    assert trace.makespan == pytest.approx(lower_bound(work, n))
    assert trace.stall == pytest.approx(0, abs=1e-9)
    assert plan.min_resident == 1


TABLE = [
    ("full", 8, 1, 0.5, 12, 15.5, 15.5, 15.5, 12, None),
    ("full", 32, 4, 0.3, 166.4, 175.7, 175.7, 175.7, 166.4, None),
    ("causal", 8, 2, 0.5, 13.5, 27.5, 17.0, 19.5, 13.5, 13.5),
    ("causal", 16, 4, 0.3, 44.2, 87.7, 48.7, 55.9, 44.2, 44.2),
    ("causal", 32, 1, 0.3, 41.6, 50.9, 41.6, 41.6, 42.9, 41.6),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-n{row[1]}-m{row[2]}")
def test_the_table_of_makespans(row: tuple[str, int, int, float, *tuple[float | None, ...]]) -> None:
    mask, n, m, r, bound, ascending, descending, spt, shift, zigzag = row
    work = work_of(mask, n, m, r)
    assert lower_bound(work, n) == pytest.approx(bound)
    wanted = {"ascending": ascending, "descending": descending, "spt": spt, "zigzag": zigzag}
    wanted["shift" if mask == "full" else "symmetric-shift"] = shift
    for name, value in wanted.items():
        if value is not None:
            assert makespan(name, work, n) == pytest.approx(value), name


EXISTING = [(name, mask) for name in NAMED for mask in MASKS if not reason_missing(name, work_of(mask, 8, 3, 0.25))]


@pytest.mark.parametrize(("name", "mask"), EXISTING)
@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8, 13, 64])
def test_orders_hold_on_other_worker_counts(name: str, mask: str, workers: int) -> None:
    work = work_of(mask, 8, 3, 0.25)
    plan = plan_work(work, workers, name)
    check_plan(plan, work)
    trace = simulate(plan, work)
    assert least_end(name, work, workers) <= trace.makespan + 1e-9
    assert lower_bound(work, workers) <= trace.makespan + 1e-9
    assert plan.min_resident <= workers
    assert (plan.lists is not None) == (name in STATIC)
    assert name in STATIC or plan.min_resident == trace.resident == 1


@pytest.mark.parametrize("name", ["ascending", "descending", "spt"])
def test_directions(name: str) -> None:
    plan = plan_work(work_of("causal", 4, 1, 0.5), 4, name)
    issue = [plan.job(job)[1] for job in range(4)]
    kv = {plan.job(job)[1]: job for job in range(4)}
    assert issue == ([3, 2, 1, 0] if name == "spt" else [0, 1, 2, 3])
    assert plan.row(kv[1])[0].tolist() == ([3, 2, 1] if name == "descending" else [1, 2, 3])
    assert plan.reductions()[0, 3] == ([3, 2, 1, 0] if name == "spt" else [0, 1, 2, 3])


def test_shift_rotates_and_sums_in_order_of_arrival() -> None:
    plan = plan_work(work_of("full", 4, 1, 0.5), 4, "shift")
    assert [plan.row(job)[0].tolist() for job in range(4)] == [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]
    assert [plan.reductions()[0, q] for q in range(4)] == [[0, 3, 2, 1], [1, 0, 3, 2], [2, 1, 0, 3], [3, 2, 1, 0]]
    assert plan.lists == ((0,), (1,), (2,), (3,))


def test_symmetric_shift_pairs_tiles() -> None:
    plan = plan_work(work_of("causal", 4, 2, 0.5), 4, "symmetric-shift")
    assert plan.lists is not None
    assert [[plan.job(job) for job in jobs] for jobs in plan.lists] == [
        [(0, 0), (0, 3)], [(0, 1), (0, 2)], [(1, 0), (1, 3)], [(1, 1), (1, 2)],
    ]  # fmt: skip
    order = {plan.job(job): plan.row(job)[0].tolist() for job in range(8)}
    assert order[0, 0] == [1, 2, 3, 0]  # the rectangle from its diagonal, then its own triangle
    assert order[0, 1] == [2, 3, 1]
    assert order[0, 2] == [3, 2]


@pytest.mark.parametrize(
    ("name", "mask", "reason"),
    [
        ("shift", np.tri(4, dtype=bool), "needs a full mask"),
        ("symmetric-shift", np.ones((4, 4), dtype=bool), "needs a causal mask with as many q tiles as kv tiles"),
        ("symmetric-shift", np.tri(5, dtype=bool), "needs an even number of kv tiles, got 5"),
        ("zigzag", np.tri(6, 4, dtype=bool), "needs a causal mask with as many"),
        ("sideways", np.tri(4, dtype=bool), "no such order; wanted one of ascending, "),
    ],
)
def test_orders_that_do_not_exist_say_why(name: str, mask: np.ndarray, reason: str) -> None:
    from tilewright.schedules.named import named_plan

    work = Work.of(mask)
    assert reason in (reason_missing(name, work) or "")
    with pytest.raises(ScheduleError, match=f"order {name}: .*{re.escape(reason)}"):
        named_plan(name, work, 4)


@pytest.mark.parametrize("name", NAMED)
def test_padding_changes_no_order(name: str) -> None:
    """Empty rows and columns, as padding makes them, move no sum."""
    mask = np.ones((6, 6), dtype=bool) if name == "shift" else np.tri(6, dtype=bool)
    padded = np.zeros((9, 8), dtype=bool)
    padded[:6, :6] = mask
    small = plan_work(Work.of(mask, 2), 5, name)
    large = plan_work(Work.of(padded, 2), 5, name)
    check_plan(large, Work.of(padded, 2))
    assert same_order(small, large)


def same_order(a: Plan, b: Plan) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.tables().values(), b.tables().values(), strict=True))


def test_nothing_to_do() -> None:
    plan = plan_work(Work.of(np.zeros((3, 3), dtype=bool), 2), 4, "ascending")
    assert plan.num_jobs == 0
    assert simulate(plan, Work.of(np.zeros((3, 3), dtype=bool), 2)).makespan == 0


def test_documentation_names_every_order() -> None:
    text = (Path(__file__).parents[2] / "docs" / "determinism.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*NAMED, "safe", "greedy"))
