"""The planner: targets, safety on any number of workers, residency of greedy plans, and purity."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.bench.schedules import FAMILIES, Case, Limits, cases, family, measure_case
from tilewright.ir.errors import ScheduleError
from tilewright.schedules import (
    Plan,
    PlanDeadlock,
    Work,
    check_plan,
    lower_bound,
    plan_backward,
    plan_work,
    simulate,
    stack_groups,
)
from tilewright.schedules.greedy import reserve, rings, to_plan
from tilewright.schedules.issue import issue_orders
from tilewright.schedules.masks import group_heads
from tilewright.schedules.named import NAMED, STATIC, reason_missing
from tilewright.schedules.planner import MODES

SMALL = [case for case in cases() if case.n <= 32]
LARGE = [case for case in cases() if case.n > 32]
WIDE = Limits(1.10, 1.60, 2000.0)


def name_of(case: Case) -> str:
    return f"{case.family}-n{case.n}-m{case.heads}-P{case.workers}"


@pytest.mark.parametrize("case", SMALL, ids=name_of)
def test_targets(case: Case) -> None:
    """Times are measured by `python -m tilewright.bench.schedules`; here only what does not depend on the machine."""
    measured = measure_case(case)
    assert measured.greedy <= case.limits.greedy + 1e-9
    assert measured.safe <= case.limits.safe + 1e-9
    assert measured.greedy <= measured.best_named + 1e-9


@pytest.mark.parametrize("case", SMALL, ids=name_of)
def test_safe_is_no_worse_than_any_named_order_that_is_safe(case: Case) -> None:
    work = Work.of(family(case.family, case.n), case.heads)
    mine = simulate(plan_work(work, case.workers, "safe"), work).makespan
    for name in NAMED:
        if name not in STATIC and not reason_missing(name, work):
            assert mine <= simulate(plan_work(work, case.workers, name), work).makespan + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE, ids=name_of)
def test_targets_of_long_sequences(case: Case) -> None:
    measured = measure_case(case)
    assert [miss for miss in measured.misses() if " ms " not in miss] == []


def test_few_heads_of_a_long_sequence() -> None:
    work = Work.of(np.tri(256, dtype=bool), 1)
    bound = lower_bound(work, 132)
    assert simulate(plan_work(work, 132, "greedy"), work).makespan <= 1.03 * bound
    assert simulate(plan_work(work, 132, "spt"), work).makespan >= 1.4 * bound


@pytest.mark.parametrize("name", FAMILIES)
def test_safe_plans_run_on_any_number_of_workers(name: str) -> None:
    work = Work.of(family(name, 12, 3), 2)
    plan = plan_work(work, 7, "safe")
    assert plan.min_resident == 1
    for workers in range(1, plan.num_jobs + 1):
        simulate(plan, work, workers)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), heads=st.integers(1, 3), workers=st.integers(1, 9))
def test_safe_plans_run_under_any_interleaving(seed: int, heads: int, workers: int) -> None:
    """A scheduler with bad intentions picks who goes on; jobs are taken in issue order."""
    rng = np.random.default_rng(seed)
    work = Work.of(rng.random((heads, 6, 5)) < 0.6, heads, rng.integers(1, 5, (heads, 6, 5)))
    plan = plan_work(work, workers, "safe")
    check_plan(plan, work)
    assert adversary(plan, int(rng.integers(1, 6)), rng) == plan.num_visits


def adversary(plan: Plan, workers: int, rng: np.random.Generator) -> int:
    """How many visits happen before nobody can go on."""
    due: dict[tuple[int, int], int] = {}
    running: list[tuple[int, int]] = []  # job, visit
    taken = happened = 0
    while True:
        moves: list[int] = []
        for index, (job, visit) in enumerate(running):
            tiles, ranks = plan.row(job)
            if due.get((plan.job(job)[0], int(tiles[visit])), 0) == ranks[visit]:
                moves.append(index)
        if len(running) < workers and taken < plan.num_jobs and (not moves or rng.random() < 0.5):
            running.append((taken, 0))
            taken += 1
        elif moves:
            index = int(rng.choice(moves))
            job, visit = running[index]
            tiles, ranks = plan.row(job)
            due[plan.job(job)[0], int(tiles[visit])] = int(ranks[visit]) + 1
            happened += 1
            running[index] = (job, visit + 1)
            if visit + 1 == len(tiles):
                running.pop(index)
        else:
            return happened


@pytest.mark.parametrize("name", ["full", "prefix-lm", "tree", "shared-prefix", "random"])
def test_greedy_says_how_many_workers_it_needs(name: str) -> None:
    work = Work.of(family(name, 16, 1), 2)
    plan = plan_work(work, 16, "greedy")
    for workers in range(1, 20):
        if workers >= plan.min_resident:
            simulate(plan, work, workers)
        else:
            with pytest.raises(PlanDeadlock, match=f"deadlocks with {workers} resident worker"):
                simulate(plan, work, workers)


def test_some_greedy_plans_do_need_them() -> None:
    assert plan_backward(np.ones((16, 16), dtype=bool), 2, 16, mode="greedy").min_resident > 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["causal", "tree", "random", "documents"])
def test_plans_are_pure(name: str, mode: str) -> None:
    """The same sequence has the same plan in every place of a batch, whatever was planned before."""
    batch = [family(name, 16, 2), family("random", 16, 5), family(name, 16, 2)]
    plans = [plan_backward(mask, 4, 12, mode=mode) for mask in batch]
    assert plans[0].digest() == plans[2].digest() != plans[1].digest()
    copied = np.repeat(batch[0][None], 4, axis=0)  # heads one by one instead of shared
    assert plan_backward(copied, 4, 12, mode=mode).digest() == plans[0].digest()


@pytest.mark.parametrize("mode", [*MODES, "quick"])
@pytest.mark.parametrize("name", FAMILIES)
def test_padding_changes_no_sum(name: str, mode: str) -> None:
    """Empty rows and columns at the end, and a head with nothing to do."""
    mask = family(name, 16, 1)
    padded = np.zeros((3, 21, 19), dtype=bool)
    padded[:2, :16, :16] = mask
    options = {"mode": "safe", "search": False} if mode == "quick" else {"mode": mode}
    small = plan_backward(mask, 2, 12, **options)
    large = plan_backward(padded, 3, 12, **options)
    check_plan(large, Work.of(padded, 3))
    assert small.reductions() == large.reductions()
    assert [small.job(job) for job in range(small.num_jobs)] == [large.job(job) for job in range(large.num_jobs)]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)),
    workers=st.integers(1, 12),
    reduce=st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0, 1.7]),
    is_uneven=st.booleans(),
)
def test_any_work_gets_right_plans(
    seed: int, shape: tuple[int, int, int], workers: int, reduce: float, is_uneven: bool
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < rng.uniform(0.1, 1.0)
    costs = rng.choice([0.4, 0.7, 1.0], shape) if is_uneven else 1.0
    work = Work.of(mask, shape[0], costs, reduce)
    bound = lower_bound(work, workers)
    best_named = min(simulate(plan_work(work, workers, name), work).makespan for name in ("ascending", "spt", "descending"))
    for mode in MODES:
        plan = plan_work(work, workers, mode)
        check_plan(plan, work)
        assert (plan.mode, plan.workers) == (mode, workers)
        makespan = simulate(plan, work).makespan
        assert bound - 1e-9 <= makespan <= best_named + 1e-6
        assert mode != "safe" or plan.min_resident == 1
    check_plan(plan_work(work, workers, "safe", search=False), work)


def test_uneven_costs_are_planned_for() -> None:
    """Full tiles cost less than those on the edge of the mask; a plan that knows is no worse than one that does not."""
    mask = np.tri(16, dtype=bool)
    costs = np.where(np.eye(16, dtype=bool), 1.5, 1.0)
    work = Work.of(mask, 4, costs, 0.25)
    aware = plan_work(work, 32, "greedy")
    unaware = plan_work(Work.of(mask, 4, 1.0, 0.25), 32, "greedy")
    assert simulate(aware, work).makespan <= simulate(unaware, work).makespan
    assert simulate(aware, work).makespan <= 1.05 * lower_bound(work, 32)


def test_known_latency_is_planned_for() -> None:
    mask = np.tri(32, dtype=bool)
    late = Work.of(mask, 8, 1.0, 0.25, latency=0.5)
    aware = simulate(plan_work(late, 32, "greedy"), late).makespan
    assert aware <= simulate(plan_work(Work.of(mask, 8), 32, "greedy"), late).makespan
    assert aware <= 1.03 * lower_bound(late, 32)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), workers=st.integers(1, 9), latency=st.integers(0, 3), is_even=st.booleans())
def test_reserved_moments_can_be_kept(seed: int, workers: int, latency: int, is_even: bool) -> None:
    """Carried out, a reservation takes no longer than it said."""
    rng = np.random.default_rng(seed)
    costs = 4.0 if is_even else rng.integers(0, 6, (2, 8, 7)).astype(float)
    work = Work.of(rng.random((2, 8, 7)) < 0.7, 2, costs, float(rng.integers(1, 4)), float(latency))
    for ring in itertools.islice(rings(work), 5):
        for issue in issue_orders(work, workers, lower_bound(work, workers)):
            reserved = reserve(work, issue, workers, ring)
            plan = to_plan(reserved, work, workers, "greedy")
            check_plan(plan, work)
            assert simulate(plan, work).makespan <= reserved.makespan


def test_residency_of_large_plans_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found on one of the heads that run in step, it may be more than the least."""
    mask = np.ones((16, 16), dtype=bool)
    least = plan_backward(mask, 4, 64, mode="greedy").min_resident
    monkeypatch.setattr("tilewright.schedules.planner.RESIDENT_VISITS", 0)
    plan = plan_backward(mask, 4, 64, mode="greedy")
    check_plan(plan, Work.of(mask, 4))
    assert 1 < least <= plan.min_resident <= 64


@pytest.mark.parametrize(("name", "seed", "workers"), [("random", 3, 32), ("random-causal", 6, 132), ("prefix-lm", 0, 132)])
def test_late_jobs_are_issued_earlier(name: str, seed: int, workers: int) -> None:
    """Issue orders by themselves are 0.5 to 2.5 % above the bound here; the repaired ones meet it."""
    work = Work.of(family(name, 32, seed), 8)
    assert simulate(plan_work(work, workers, "greedy"), work).makespan == pytest.approx(lower_bound(work, workers))


def test_long_jobs_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matching, which is for short jobs, plans are as right and a little longer."""
    work = Work.of(family("random-causal", 32, 2), 8)
    short = simulate(plan_work(work, 132, "greedy"), work).makespan
    monkeypatch.setattr("tilewright.schedules.greedy.MAX_MATCHED", 0)
    plan = plan_work(work, 132, "greedy")
    check_plan(plan, work)
    assert simulate(plan, work).makespan > short


def test_tables_do_not_grow_with_heads() -> None:
    tables = {heads: plan_backward(np.tri(32, dtype=bool), heads, 132).tables() for heads in (8, 64)}
    quick = plan_backward(np.tri(32, dtype=bool), 64, 132, search=False).tables()
    assert len(tables[8]["visit"]) == len(tables[64]["visit"]) == len(quick["visit"]) == 32 * 33 // 2
    assert len(tables[64]["jobs"]) == 64 * 32
    for table in quick.values():
        assert table.dtype == np.int32
        assert table.flags.c_contiguous


def test_tables_are_the_plan() -> None:
    plan = plan_backward(family("random", 8, 1), 2, 5)
    tables = plan.tables()
    order: dict[tuple[int, int], dict[int, int]] = {}
    for head, kv, row in tables["jobs"].tolist():
        for at in range(tables["first"][row], tables["first"][row + 1]):
            order.setdefault((head, int(tables["visit"][at])), {})[int(tables["rank"][at])] = kv
    assert {tile: [kvs[rank] for rank in range(len(kvs))] for tile, kvs in order.items()} == plan.reductions()


def test_groups_of_heads() -> None:
    """Query heads that share keys: a kv head whose q tiles run over (member, q tile)."""
    mask = np.tri(4, dtype=bool)
    stacked = stack_groups(mask, 3)
    assert stacked.shape == (12, 4)
    assert np.array_equal(stacked.reshape(3, 4, 4), np.repeat(mask[None], 3, axis=0))
    each = np.random.default_rng(0).random((6, 4, 5)) < 0.5
    assert np.array_equal(group_heads(each, 3)[1, 2 * 4 + 1], each[5, 1])
    check_plan(plan_backward(stacked, 2, 8), Work.of(stacked, 2))
    for bad in (lambda: stack_groups(mask, 0), lambda: group_heads(each, 4), lambda: group_heads(mask, 2)):
        with pytest.raises(ScheduleError, match="wanted"):
            bad()


def test_masks_by_name() -> None:
    by_name = plan_backward("window:2", 2, 6, tiles=(8, 8))
    q, kv = np.ogrid[:8, :8]
    assert by_name.digest() == plan_backward((q >= kv) & (q - kv <= 2), 2, 6).digest()
    with pytest.raises(ScheduleError, match=r"mask 'causal' by name: wanted tiles=\(NQ, NK\) as well"):
        plan_backward("causal")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan_backward(np.ones((2, 2))), "block mask of float64: wanted booleans"),
        (lambda: plan_backward(np.ones(4, dtype=bool)), r"shape \(4,\): wanted \[NQ, NK\]"),
        (lambda: plan_backward(np.ones((3, 2, 2), dtype=bool), 2), r"wanted \[NQ, NK\] or \[2, NQ, NK\]"),
        (lambda: plan_backward(np.ones((2, 0), dtype=bool)), r"wanted 1 to 1024 heads of 1 to 32768 tiles a side"),
        (lambda: plan_backward(np.ones((2, 2), dtype=bool), 0), "heads 0: wanted a whole number from 1 to 1024"),
        (lambda: plan_backward(np.ones((2, 2), dtype=bool), 1, 0), "workers 0: wanted a whole number from 1 to 65536"),
        (lambda: plan_backward(np.ones((2, 2), dtype=bool), 1, True), "workers True: wanted"),
        (lambda: plan_backward(np.ones((2, 2), dtype=bool), mode="quickest"), "mode 'quickest': wanted one of safe, greedy"),
        (lambda: plan_backward(np.ones((2, 2), dtype=bool), reduce=-1.0), "reduce cost -1.0: wanted a finite number"),
        (lambda: plan_backward(np.ones((2, 2), dtype=bool), latency=float("nan")), "latency cost nan: wanted"),
        (lambda: plan_backward(np.ones((2, 2), dtype=bool), compute=float("inf")), "a compute cost is not a finite number"),
        (lambda: plan_backward(np.ones((2, 2), dtype=bool), compute=np.ones(3)), r"compute costs of shape \(3,\): wanted"),
        (lambda: plan_backward(np.ones((2, 2), dtype=bool), compute=0.0, reduce=0.0), "compute and reduce cost 0"),
        (lambda: plan_backward(np.ones((8192, 8192), dtype=bool), 64), "4294967296 visits: wanted at most 268435456"),
        (lambda: Work.of(np.ones((2, 2), dtype=bool)).jittered(1.0, 0), "jitter 1.0: wanted a fraction from 0 up to"),
    ],
)
def test_bad_requests(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        call()


def test_nothing_to_do() -> None:
    for mode in MODES:
        plan = plan_backward(np.zeros((3, 4), dtype=bool), 2, mode=mode)
        assert plan.num_jobs == 0
        check_plan(plan, Work.of(np.zeros((3, 4), dtype=bool), 2))


def test_heads_that_differ() -> None:
    masks = np.stack([family(name, 16, 1) for name in ("causal", "tree", "random", "full")])
    work = Work.of(masks, 4)
    for mode in MODES:
        plan = plan_work(work, 24, mode)
        check_plan(plan, work)
        assert simulate(plan, work).makespan <= 1.5 * lower_bound(work, 24)


@pytest.mark.parametrize("heads", [7, 5])
def test_heads_that_do_not_divide_workers(heads: int) -> None:
    work = Work.of(np.tri(24, dtype=bool), heads)
    plan = plan_work(work, 31, "greedy")
    check_plan(plan, work)
    assert simulate(plan, work).makespan <= 1.05 * lower_bound(work, 31)


@pytest.mark.slow
def test_large_work_on_an_awkward_number_of_workers() -> None:
    work = Work.of(np.ones((256, 256), dtype=bool), 32)
    plan = plan_work(work, 131, "greedy")
    assert simulate(plan, work).makespan <= 1.05 * lower_bound(work, 131)


def test_limits_are_those_of_the_table() -> None:
    assert measure_case(Case("causal", 8, 2, 8, WIDE)).misses() == []
    assert measure_case(Case("random", 8, 2, 8, Limits(0.5, 0.5, 0.0))).misses() != []
