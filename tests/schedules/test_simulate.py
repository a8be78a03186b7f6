"""The simulator: against a second one, its two engines against each other, deadlocks, latency, overlap, jitter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.ir.errors import ScheduleError
from tilewright.schedules import Plan, PlanDeadlock, Work, plan_work, simulate
from tilewright.schedules.command import Request, schedule_command
from tilewright.schedules.simulate import _Machine, resident_workers

CASES = [
    ("causal", "5x5", 3, 4, 0, 0.0),
    ("causal", "8x8", 2, 8, 0, 0.0),
    ("full", "6x6", 2, 6, 0, 0.5),
    ("window:2", "7x7", 3, 5, 1, 0.0),
    ("document:3,2,4", "9x9", 2, 7, 2, 0.25),
    ("full", "4x6", 3, 5, 1, 0.5),
]


@pytest.mark.parametrize(("mask", "tiles", "heads", "workers", "overlap", "latency"), CASES)
def test_a_second_simulator_agrees(
    independent: Callable[..., float], mask: str, tiles: str, heads: int, workers: int, overlap: int, latency: float
) -> None:
    request = Request(mask, tiles, heads, workers, 1.0, 0.25, overlap=overlap, latency=latency)
    result, _ = schedule_command(request)
    assert len(result["orders"]) + len(result["skipped"]) == 8
    for order in result["orders"]:
        assert independent(order, workers, 1.0, 0.25, overlap, latency) == pytest.approx(order["makespan"]), order["name"]


def masks(max_heads: int = 3) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, max_heads), st.integers(1, 6), st.integers(1, 6))
    return shapes.flatmap(
        lambda shape: st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))).map(
            lambda bits: np.array(bits, dtype=bool).reshape(shape)
        )
    )


@settings(max_examples=60, deadline=None)
@given(mask=masks(), workers=st.integers(1, 7), latency=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 99))
def test_both_engines_agree(mask: np.ndarray, workers: int, latency: float, seed: int) -> None:
    costs = np.random.default_rng(seed).integers(1, 4, mask.shape)
    work = Work.of(mask, mask.shape[0], costs, 0.5, latency)
    plan = plan_work(work, workers, "safe")
    fast, slow = (_Machine(plan, work, workers, 0) for _ in range(2))
    assert fast.run_in_issue_order()
    slow.run()
    one, two = fast.trace(), slow.trace()
    assert one.makespan == pytest.approx(two.makespan)
    for name in ("begin", "done", "reduce", "taken", "worker", "stall"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=1e-9, err_msg=name)
    assert two.resident == 1


@settings(max_examples=60, deadline=None)
@given(mask=masks(), workers=st.integers(1, 7), mode=st.sampled_from(["safe", "greedy", "ascending", "spt"]))
def test_a_trace_breaks_no_rule(mask: np.ndarray, workers: int, mode: str) -> None:
    """One job at a time on a worker, in order; sums of a tile one after the other, in the order of ranks."""
    work = Work.of(mask, mask.shape[0], 1.0, 0.5, 0.25)
    plan = plan_work(work, workers, mode)
    trace = simulate(plan, work)
    tiles, ranks, _ = plan.flat()
    ends = trace.reduce + 0.5
    assert (trace.done >= trace.begin + 1 - 1e-9).all()
    assert (trace.reduce >= trace.done - 1e-9).all()
    for tile in np.unique(tiles):
        mine = np.flatnonzero(tiles == tile)
        mine = mine[np.argsort(ranks[mine])]
        assert (trace.reduce[mine][1:] >= ends[mine][:-1] + 0.25 - 1e-9).all()
    job_ends = np.array([ends[stop - 1] for stop in trace.offset[1:]])
    for worker in range(workers):
        mine = np.flatnonzero(trace.worker == worker)
        mine = mine[np.argsort(trace.taken[mine], kind="stable")]
        assert (trace.taken[mine][1:] >= job_ends[mine][:-1] - 1e-9).all()
    assert (np.diff(trace.taken) >= -1e-9).all()  # first come, first served


def crossed() -> Plan:
    """Job 0 waits for job 1 at q tile 1, and job 1 for job 0 at q tile 0."""
    plan = plan_work(Work.of(np.ones((2, 2), dtype=bool)), 2, "ascending")
    visit, rank = np.array([1, 0, 0, 1], dtype=np.int32), np.array([1, 0, 1, 0], dtype=np.int32)
    return replace(plan, first=np.array([0, 2, 4], dtype=np.int32), visit=visit, rank=rank)


def test_a_plan_that_can_never_end_is_refused_with_the_cycle() -> None:
    with pytest.raises(PlanDeadlock) as caught:
        simulate(crossed(), Work.of(np.ones((2, 2), dtype=bool)))
    assert [(wait.job, wait.needs, wait.q) for wait in caught.value.cycle] == [((0, 0), (0, 1), 1), ((0, 1), (0, 0), 0)]
    assert "the plan deadlocks with 2 resident workers" in str(caught.value)
    assert "(head 0, kv 0) waits at q tile 1 for (head 0, kv 1)" in str(caught.value)


def test_too_few_workers_are_a_cycle_through_the_queue() -> None:
    work = Work.of(np.ones((4, 4), dtype=bool))
    plan = plan_work(work, 4, "shift")
    assert plan.min_resident == 4
    with pytest.raises(PlanDeadlock, match="holds one") as caught:
        simulate(plan, work, 3)
    cycle = caught.value.cycle
    assert [wait.needs for wait in cycle] == [*(wait.job for wait in cycle[1:]), cycle[0].job]
    assert caught.value.workers == 3
    assert any(wait.q is None for wait in cycle)


def test_a_static_list_is_a_wait_for_the_job_before() -> None:
    plan = replace(crossed(), visit=np.array([0, 1, 0, 1], dtype=np.int32), rank=np.array([1, 1, 0, 0], dtype=np.int32))
    plan = replace(plan, lists=((0, 1),))
    with pytest.raises(PlanDeadlock) as caught:
        simulate(plan, Work.of(np.ones((2, 2), dtype=bool)), 1)
    assert [(wait.job, wait.needs, wait.q) for wait in caught.value.cycle] == [((0, 0), (0, 1), 0), ((0, 1), (0, 0), None)]


def test_a_job_further_down_a_list_waits_for_the_one_before_it() -> None:
    """0 waits for 3, which is behind 2 in its list; 2 waits for 1, which is behind 0."""
    plan = plan_work(Work.of(np.ones((2, 4), dtype=bool)), 2, "ascending")
    jobs = plan.jobs.copy()
    jobs[:, 2] = np.arange(4)
    visit, rank = np.array([0, 1, 0, 1, 1, 0, 0, 1], np.int32), np.array([1, 2, 2, 0, 1, 3, 0, 3], np.int32)
    first = np.arange(0, 10, 2, dtype=np.int32)
    plan = replace(plan, jobs=jobs, first=first, visit=visit, rank=rank, lists=((0, 1), (2, 3)))
    with pytest.raises(PlanDeadlock) as caught:
        simulate(plan, Work.of(np.ones((2, 4), dtype=bool)))
    waits = {wait.job[1]: (wait.needs[1], wait.q) for wait in caught.value.cycle}
    assert waits == {0: (3, 0), 3: (2, None), 2: (1, 1), 1: (0, None)}


def test_a_rank_that_nobody_has() -> None:
    plan = plan_work(Work.of(np.ones((2, 2), dtype=bool)), 2, "ascending")
    with pytest.raises(ScheduleError, match="q tile 0 of head 0: no job has rank 0, and others wait for it"):
        simulate(replace(plan, rank=plan.rank + 1), Work.of(np.ones((2, 2), dtype=bool)))


@settings(max_examples=80, deadline=None)
@given(mask=masks(2), workers=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_min_resident_is_exact(mask: np.ndarray, workers: int, seed: int) -> None:
    """With any visits and sums: it runs on that many workers and more, whatever the costs, and on no fewer."""
    rng = np.random.default_rng(seed)
    plan = shuffled(plan_work(Work.of(mask, mask.shape[0]), workers, "safe"), rng)
    work = Work.of(mask, mask.shape[0], rng.uniform(0.1, 3, mask.shape), 0.5)
    try:
        needed = resident_workers(plan)
    except PlanDeadlock:
        with pytest.raises(PlanDeadlock):
            simulate(plan, work, plan.num_jobs)
        return
    for count in range(1, plan.num_jobs + 2):
        if count >= needed:
            simulate(plan, work, count)
        else:
            with pytest.raises(PlanDeadlock):
                simulate(plan, work, count)


def shuffled(plan: Plan, rng: np.random.Generator) -> Plan:
    """The same jobs with visits in any order; sums in the order of some sequential execution, mostly."""
    visit, rank = [], []
    moments: dict[tuple[int, int], list[tuple[float, int]]] = {}
    rows = [rng.permutation(plan.row(job)[0]) for job in range(plan.num_jobs)]
    for job, tiles in enumerate(rows):
        begin = rng.uniform(0, 4)
        for place, q in enumerate(tiles):
            moments.setdefault((plan.job(job)[0], int(q)), []).append((begin + place, job))
    for job, tiles in enumerate(rows):
        for q in tiles:
            visit.append(int(q))
            rank.append([other for _, other in sorted(moments[plan.job(job)[0], int(q)])].index(job))
    jobs = plan.jobs.copy()
    jobs[:, 2] = np.arange(len(jobs))
    first = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return replace(plan, jobs=jobs, first=first, visit=np.array(visit, np.int32), rank=np.array(rank, np.int32))


def test_latency_costs_orders_without_slack() -> None:
    work = Work.of(np.tri(16, dtype=bool), 4, 1.0, 0.25)
    late = replace(work, latency=0.5)
    grown = {
        name: simulate(plan_work(work, 16, name), late).makespan / simulate(plan_work(work, 16, name), work).makespan
        for name in ("descending", "zigzag", "symmetric-shift")
    }
    assert grown["descending"] > 1.05
    assert grown["symmetric-shift"] == pytest.approx(1.0)


def test_overlap_hides_reductions() -> None:
    work = Work.of(np.tri(8, dtype=bool), 2, 1.0, 0.5)
    plan = plan_work(work, 8, "zigzag")
    serial, one, two = (simulate(plan, work, depth=depth).makespan for depth in (0, 1, 2))
    assert serial > one >= two
    assert one >= 9 * 1.0 + 0.5  # all computing of a worker, and its last sum


def test_jitter_moves_time_and_no_sum() -> None:
    work = Work.of(np.tri(8, dtype=bool), 4)
    plan = plan_work(work, 8, "greedy")
    makespans = set()
    for seed in range(5):
        trace = simulate(plan, work.jittered(0.3, seed))
        makespans.add(trace.makespan)
        tiles, ranks, _ = plan.flat()
        order = np.lexsort((trace.reduce, tiles))
        assert (np.diff(ranks[order])[np.diff(tiles[order]) == 0] == 1).all()
    assert len(makespans) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": 0}, "workers 0: wanted a whole number from 1"),
        ({"depth": -1}, "overlap -1: wanted a whole number from 0 to 64"),
        ({"work": Work.of(np.ones((3, 2), dtype=bool))}, r"plan for \(1, 2, 2\) heads, q and kv tiles, work of \(1, 3, 2\)"),
        ({"work": Work.of(np.ones((2, 2), dtype=bool)), "depth": True}, "overlap True"),
    ],
)
def test_bad_requests(change: dict[str, object], message: str) -> None:
    work = Work.of(np.ones((2, 2), dtype=bool))
    arguments: dict[str, object] = {"plan": plan_work(work, 2, "ascending"), "work": work} | change
    with pytest.raises(ScheduleError, match=message):
        simulate(**arguments)  # type: ignore[arg-type]


def test_too_much_to_simulate() -> None:
    work = Work.of(np.ones((2048, 2048), dtype=bool), 8)
    plan = plan_work(Work.of(np.ones((2, 2), dtype=bool)), 2, "ascending")
    with pytest.raises(ScheduleError, match="33554432 visits: wanted at most 16777216 to simulate"):
        simulate(replace(plan, heads=8, num_q=2048, num_kv=2048), work)
