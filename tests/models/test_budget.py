"""Budgets: limits hold whatever is under way at once, and nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
import random

import pytest

from tilewright.ir.errors import SettingError
from tilewright.ir.transfer.models.budget import Budget, BudgetSpent
from tilewright.ir.transfer.models.limits import Limits, Price, Usage
from tilewright.ir.transfer.models.requests import Message, Request

MOST = Usage(100, 50)


def still() -> float:
    return 0.0


async def spend(budget: Budget, used: Usage, pause: float = 0.0) -> bool:
    try:
        reservation = await budget.reserve("a", MOST)
    except BudgetSpent:
        return False
    await asyncio.sleep(pause)
    await budget.settle(reservation, used)
    return True


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        (Limits(requests=3), 3),
        (Limits(prompt_tokens=350), 3),
        (Limits(completion_tokens=99), 1),
        (Limits(money=0.0004), 2),  # 100 x 1 and 50 x 2 of a million
        (Limits(requests=0), 0),
    ],
    ids=["requests", "prompt tokens", "completion tokens", "money", "nothing"],
)
def test_concurrent_requests_do_not_overrun(limits: Limits, allowed: int) -> None:
    async def run() -> tuple[list[bool], dict[str, float]]:
        budget = Budget(limits, {"a": Price(1.0, 2.0)}, still)
        return await asyncio.gather(*(spend(budget, MOST, 0.01) for _ in range(8))), budget.spent

    done, spent = asyncio.run(run())
    assert sum(done) == allowed
    assert spent["requests"] == allowed
    assert spent["money"] == pytest.approx(allowed * 0.0002)


def test_a_request_waits_for_what_others_leave_over() -> None:
    async def run() -> list[bool]:
        budget = Budget(Limits(prompt_tokens=130), clock=still)
        return await asyncio.gather(*(spend(budget, Usage(10, 1), 0.01) for _ in range(4)))

    assert asyncio.run(run()) == [True, True, True, True]


def test_random_spending_never_exceeds_a_limit() -> None:
    draw = random.Random(0)

    async def one(budget: Budget) -> None:
        most = Usage(draw.randint(1, 60), draw.randint(1, 60))
        try:
            reservation = await budget.reserve("a", most)
        except BudgetSpent:
            return
        await asyncio.sleep(draw.random() * 0.005)
        await budget.settle(
            reservation, Usage(draw.randint(0, most.prompt_tokens), draw.randint(0, most.completion_tokens))
        )
        assert budget.spent["prompt_tokens"] <= 500
        assert budget.spent["completion_tokens"] <= 300
        assert budget.spent["requests"] <= 30

    async def run() -> Budget:
        budget = Budget(Limits(requests=30, prompt_tokens=500, completion_tokens=300), clock=still)
        await asyncio.gather(*(one(budget) for _ in range(60)))
        return budget

    budget = asyncio.run(run())
    assert 10 < budget.spent["requests"] <= 30
    assert set(budget._reserved.values()) == {0.0}


def test_time_ends_everything() -> None:
    now = [0.0]

    async def run() -> None:
        budget = Budget(Limits(seconds=10), clock=lambda: now[0])
        assert await spend(budget, MOST)
        now[0] = 11.0
        assert budget.remaining_s == 0.0
        with pytest.raises(BudgetSpent, match="the limit of 10 seconds is reached"):
            await budget.reserve("a", MOST)

    asyncio.run(run())


def test_what_earlier_runs_spent_counts() -> None:
    async def run() -> None:
        budget = Budget(Limits(requests=5), clock=still)
        budget.restore({"requests": 4.0, "seconds": 1e9})
        assert await spend(budget, MOST)
        with pytest.raises(BudgetSpent, match="limit of 5 requests is reached: 5 spent, 1 more needed"):
            await budget.reserve("a", MOST)

    asyncio.run(run())


def test_the_most_that_a_request_costs_is_no_estimate() -> None:
    text = "☃" * 100  # three bytes each: no tokeniser makes more tokens than bytes
    assert Request("a", (Message("user", text),), 0, 77).most == Usage(300 + 16, 77)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Limits(seconds=-1), "limit seconds=-1"),
        (lambda: Limits(money=float("nan")), "limit money=nan"),
        (lambda: Price(-1.0, 0.0), "price of prompt tokens"),
        (lambda: Price(0.0, float("inf")), "price of completion tokens"),
    ],
)
def test_limits_are_numbers(make, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()
