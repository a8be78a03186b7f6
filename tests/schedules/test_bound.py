"""Lower bounds: each of them where it is the one that counts, and none above a schedule that exists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.schedules import Work, lower_bound, plan_work, simulate
from tilewright.schedules.bound import even_bound


def test_the_chain_of_sums() -> None:
    """Eight contributors of one q tile: one compute, then eight sums with latency between; ascending is that quick."""
    work = Work.of(np.ones((1, 8), dtype=bool), 1, 1.0, 0.5, latency=0.25)
    assert lower_bound(work, 8) == pytest.approx(1 + 8 * 0.5 + 7 * 0.25)
    assert simulate(plan_work(work, 8, "ascending"), work).makespan == pytest.approx(lower_bound(work, 8))


def test_the_longest_job_and_all_work() -> None:
    work = Work.of(np.tri(4, dtype=bool), 1, 1.0, 0.5)
    assert lower_bound(work, 100) == pytest.approx(4 * 1.5)
    assert lower_bound(work, 1) == pytest.approx(10 * 1.5)


def test_jobs_that_do_not_fit_together() -> None:
    """Three jobs of 4 visits on two workers: some worker has two. Costs that differ a little change little."""
    assert lower_bound(Work.of(np.ones((4, 3), dtype=bool), 1, 1.0, 0.25), 2) == pytest.approx(8 * 1.25)
    costs = np.array([1.0, 1.1, 1.2, 1.3])[:, None]
    assert lower_bound(Work.of(np.ones((4, 3), dtype=bool), 1, costs, 0.25), 2) == pytest.approx(2 * (4.6 + 1.0))


def test_overlap_hides_either_computing_or_sums() -> None:
    work = Work.of(np.ones((4, 1), dtype=bool), 1, 1.0, 0.25)
    assert lower_bound(work, 1, depth=1) == pytest.approx(4 * 1.0 + 0.25)
    assert lower_bound(Work.of(np.ones((4, 1), dtype=bool), 1, 0.25, 1.0), 1, depth=1) == pytest.approx(0.25 + 4 * 1.0)


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=7), workers=st.integers(1, 4))
def test_packing_is_never_above_the_best_packing(sizes: list[int], workers: int) -> None:
    descending = np.array(sorted(sizes, reverse=True), dtype=np.int64)
    assert even_bound(descending, workers) <= best_packing(sorted(sizes, reverse=True), [0] * workers)


def best_packing(sizes: list[int], loads: list[int]) -> int:
    """By trying everything."""
    if not sizes:
        return max(loads)
    tried = {load: place for place, load in enumerate(loads)}
    return min(
        best_packing(sizes[1:], [*loads[:place], load + sizes[0], *loads[place + 1 :]]) for load, place in tried.items()
    )


def test_packing_knows_what_work_and_pairs_do_not() -> None:
    """Five jobs are more than half of 10 visits, and there are four workers: some worker has 7 and 6."""
    sizes = np.array([7, 7, 7, 7, 6, 2, 2, 2], dtype=np.int64)
    assert even_bound(sizes, 4) == 13
    assert -(-int(sizes.sum()) // 4) == 10


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), workers=st.integers(1, 8), depth=st.integers(0, 2), latency=st.sampled_from([0.0, 0.7]))
def test_no_schedule_is_below(seed: int, workers: int, depth: int, latency: float) -> None:
    rng = np.random.default_rng(seed)
    work = Work.of(rng.random((2, 6, 6)) < 0.6, 2, rng.choice([0.5, 1.0], (2, 6, 6)), 0.5, latency)
    for mode in ("safe", "greedy", "descending"):
        assert lower_bound(work, workers, depth) <= simulate(plan_work(work, workers, mode), work, workers, depth).makespan + 1e-9


def test_nothing_takes_no_time() -> None:
    assert lower_bound(Work.of(np.zeros((2, 2), dtype=bool)), 3) == 0
