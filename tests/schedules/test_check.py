"""What check_plan refuses, and plans as text: there and back, and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.ir.errors import ScheduleError, TilewrightError
from tilewright.schedules import Plan, PlanDeadlock, Work, check_plan, parse_plan, plan_work, print_plan

MASK = np.tri(4, dtype=bool)
WORK = Work.of(MASK, 2)
PLAN = plan_work(WORK, 4, "ascending")
STATIC = plan_work(WORK, 4, "symmetric-shift")


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def edited(table: np.ndarray, at: Any, value: object) -> np.ndarray:
    copy = table.copy()
    copy[at] = value
    return copy


BROKEN: list[tuple[Plan, str]] = [
    (replace(PLAN, heads=0), "plan with 0 heads: wanted 1 to 1024"),
    (replace(PLAN, num_q=1 << 20), "plan with 1048576 q tiles: wanted"),
    (replace(PLAN, first=PLAN.first + 1), "offsets of rows: wanted them to rise from 0"),
    (replace(PLAN, first=edited(PLAN.first, 1, 9)), "offsets of rows"),
    (replace(PLAN, rank=PLAN.rank[:-1]), "9 ranks for 10 visits: wanted one each"),
    (replace(PLAN, jobs=edited(PLAN.jobs, (0, 0), 2)), "head from 0 to 2: wanted 0 to 1"),
    (replace(PLAN, jobs=edited(PLAN.jobs, (0, 1), -1)), "kv tile from -1 to 3: wanted 0 to 3"),
    (replace(PLAN, jobs=edited(PLAN.jobs, (0, 2), 4)), "row from 0 to 4: wanted 0 to 3"),
    (replace(PLAN, visit=edited(PLAN.visit, 0, 4)), "q tile from 1 to 4: wanted 0 to 3"),
    (replace(PLAN, rank=edited(PLAN.rank, 0, 4)), "rank from 0 to 4: wanted 0 to 3"),
    (replace(PLAN, jobs=edited(PLAN.jobs, 1, 0)), "a kv tile of a head is the job of two workers"),
    (replace(PLAN, workers=0), "workers 0: wanted a whole number from 1"),
    (replace(PLAN, min_resident=5), "5 resident workers of 4: wanted 1 to 4"),
    (replace(STATIC, workers=2, min_resident=2), "worker 3 has a list, and the plan has workers 0 to 1"),
    (replace(STATIC, lists=((0, 1), (2, 3))), "static lists of 4 jobs: wanted each of the 8 jobs once"),
    (replace(STATIC, lists=((0, 1, 2, 3, 4, 5, 6, 6),)), "static lists of 8 jobs: wanted each of the 8"),
    (replace(PLAN, rank=edited(PLAN.rank, 1, 1)), "q tile 1 of head 0: rank 1 where rank 0 was wanted"),
    (replace(PLAN, rank=edited(PLAN.rank, 4, 0)), "q tile 1 of head 0: rank 0 where rank 1 was wanted"),
    (replace(PLAN, visit=edited(PLAN.visit, 0, 1), rank=edited(PLAN.rank, 0, 2)), r"tile \(q 0, kv 0\) of head 0 is never"),
    (replace(PLAN, jobs=PLAN.jobs[:-1]), r"tile \(q 3, kv 3\) of head 1 is never visited; 1 such tiles"),
]  # fmt: skip


@pytest.mark.parametrize(("plan", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_a_broken_plan_is_refused(plan: Plan, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        check_plan(plan, WORK)


def test_a_plan_for_another_mask_is_refused() -> None:
    masked = Work.of(edited(MASK, (2, 0), False), 2)
    with pytest.raises(ScheduleError, match=r"tile \(q 2, kv 0\) of head 0 is masked out and visited; 2 such tiles"):
        check_plan(PLAN, masked)
    with pytest.raises(ScheduleError, match=r"mask of \(2, 3, 3\), plan for \(2, 4, 4\)"):
        check_plan(PLAN, Work.of(np.tri(3, dtype=bool), 2))


def test_a_tile_visited_twice_is_refused() -> None:
    twice = replace(PLAN, jobs=PLAN.jobs[:1], first=ints(0, 2), visit=ints(0, 0), rank=ints(0, 1))
    with pytest.raises(ScheduleError, match=r"tile \(q 0, kv 0\) of head 0 is visited 2 times; wanted once"):
        check_plan(twice, Work.of(edited(np.zeros((2, 4, 4), dtype=bool), (0, 0, 0), True), 2))


def test_a_plan_that_claims_to_need_fewer_workers_is_refused() -> None:
    with pytest.raises(PlanDeadlock, match="deadlocks with 1 resident worker;"):
        check_plan(replace(STATIC, min_resident=1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), mode=st.sampled_from(["safe", "greedy", "spt"]), workers=st.integers(1, 9))
def test_there_and_back(seed: int, mode: str, workers: int) -> None:
    mask = np.random.default_rng(seed).random((2, 5, 4)) < 0.5
    work = Work.of(mask, 2)
    plan = plan_work(work, workers, mode)
    again = parse_plan(print_plan(plan), work)
    assert again.digest() == plan.digest()
    assert print_plan(again) == print_plan(plan)
    assert again.lists == plan.lists


def test_static_lists_there_and_back() -> None:
    again = parse_plan(print_plan(STATIC), WORK)
    assert again.lists == STATIC.lists
    assert again.digest() == STATIC.digest() != replace(STATIC, lists=None).digest()


@pytest.mark.parametrize("field", ["mode", "workers", "min_resident", "jobs", "visit", "rank", "lists"])
def test_digests_see_everything(field: str) -> None:
    changes: dict[str, Any] = {
        "mode": "other", "workers": 5, "min_resident": 2, "jobs": PLAN.jobs[::-1],
        "visit": PLAN.visit[::-1], "rank": PLAN.rank[::-1], "lists": ((0,),),
    }  # fmt: skip
    assert replace(PLAN, **{field: changes[field]}).digest() != PLAN.digest()


def tampered(change: Callable[[dict[str, Any]], object]) -> str:
    data = json.loads(print_plan(PLAN))
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "plan is not JSON"),
        ("[" * 100_000, "plan is not JSON"),
        ("[]", "plan of format 'list': wanted 'tilewright-plan-1'"),
        (tampered(lambda d: d.update(format="x")), "plan of format 'x'"),
        (tampered(lambda d: d.pop("rank")), "plan without rank: the file is not complete"),
        (tampered(lambda d: d.update(heads=-1)), "plan's heads -1: wanted a whole number from 0"),
        (tampered(lambda d: d.update(workers=2.0)), "plan's workers 2.0: wanted a whole number"),
        (tampered(lambda d: d.update(heads=True)), "plan's heads True"),
        (tampered(lambda d: d.update(mode=3)), "plan's mode 3: wanted a name"),
        (tampered(lambda d: d.update(visit=[1 << 40])), "plan's visit: wanted a list of whole numbers"),
        (tampered(lambda d: d.update(visit="no")), "plan's visit: wanted"),
        (tampered(lambda d: d.update(jobs=[[0, 1]])), "plan's jobs: wanted a list of whole numbers from 0, three a job"),
        (tampered(lambda d: d.update(lists=3)), "plan's lists: wanted null, or a list of jobs per worker"),
        (tampered(lambda d: d.update(lists=[["a"]])), "plan's lists 'a': wanted a whole number"),
        (tampered(lambda d: d.update(mode="x")), "text says .*: the file was changed"),
        (tampered(lambda d: d.update(workers=9)), "the file was changed"),
        (tampered(lambda d: d.update(num_q=2)), "q tile from 0 to 3: wanted 0 to 1"),
    ],
)
def test_bad_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        parse_plan(text)


def test_long_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilewright.schedules.serial.MAX_TEXT_BYTES", 10)
    with pytest.raises(ScheduleError, match="MiB: wanted at most"):
        parse_plan(print_plan(PLAN))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_file_says_it_is_a_plan_or_a_named_error(data: st.DataObject) -> None:
    """One value of the text is replaced by another."""
    found = json.loads(print_plan(STATIC))
    name = data.draw(st.sampled_from(sorted(found)))
    value = data.draw(st.one_of(st.integers(-2, 40), st.lists(st.integers(-1, 9), max_size=12), st.none(), st.text(max_size=3)))
    found[name] = value
    with contextlib.suppress(TilewrightError):
        check_plan(parse_plan(json.dumps(found)))
