"""Spending within limits, whatever is under way at once: requests are paid for in advance and settled afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .limits import Limits, Price, Usage

__all__ = ["Budget", "BudgetSpent", "Reservation"]

COUNTED = ("requests", "prompt_tokens", "completion_tokens", "money")


class BudgetSpent(Exception):
    """A request that the budget no longer allows; says which limit."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one request may cost at most."""

    model: str
    most: Usage


class Budget:
    """What has been spent and what is reserved; the two together never exceed a limit.

    A server that uses more than it was allowed overruns by that request alone. Used from one event loop.
    """

    def __init__(
        self, limits: Limits, prices: Mapping[str, Price] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self._prices = dict(prices or {})
        self._clock = clock
        self._start = clock()
        self._spent = dict.fromkeys(COUNTED, 0.0)
        self._reserved = dict.fromkeys(COUNTED, 0.0)
        self._settled = asyncio.Condition()

    @property
    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(self.limits.seconds - (self._clock() - self._start), 0.0)

    @property
    def spent(self) -> dict[str, float]:
        """What was spent: requests, tokens, money, and the seconds of this run."""
        return {**self._spent, "seconds": self._clock() - self._start}

    def restore(self, spent: Mapping[str, float]) -> None:
        """Begin with what earlier runs of the same transcript spent; seconds are each run's own."""
        for name in COUNTED:
            self._spent[name] = max(float(spent.get(name, 0.0)), 0.0)

    async def reserve(self, model: str, most: Usage) -> Reservation:
        """Set aside what a request may cost, once what is under way leaves room. Raises BudgetSpent where none will."""
        asked = self._costs(model, most)
        async with self._settled:
            while True:
                if not self.remaining_s:
                    raise BudgetSpent(f"the limit of {self.limits.seconds:g} seconds is reached")
                for name, cost in asked.items():
                    self._refuse_beyond(name, cost)
                if all(self._fits(name, cost, self._reserved[name]) for name, cost in asked.items()):
                    break
                await self._wait()
            for name, cost in asked.items():
                self._reserved[name] += cost
        return Reservation(model, most)

    async def settle(self, reservation: Reservation, used: Usage) -> None:
        """Replace a reservation by what was used."""
        async with self._settled:
            for name, cost in self._costs(reservation.model, reservation.most).items():
                self._reserved[name] -= cost
            for name, cost in self._costs(reservation.model, used).items():
                self._spent[name] += cost
            self._settled.notify_all()

    def _costs(self, model: str, usage: Usage) -> dict[str, float]:
        price = self._prices.get(model, Price(0.0, 0.0))
        return dict(zip(COUNTED, (1.0, usage.prompt_tokens, usage.completion_tokens, price.of(usage)), strict=True))

    def _fits(self, name: str, cost: float, reserved: float) -> bool:
        limit = getattr(self.limits, name)
        return limit is None or self._spent[name] + reserved + cost <= limit * (1 + 1e-12)

    def _refuse_beyond(self, name: str, cost: float) -> None:
        if not self._fits(name, cost, 0.0):
            limit, spent = getattr(self.limits, name), self._spent[name]
            words = name.replace("_", " ")
            raise BudgetSpent(f"the limit of {limit:g} {words} is reached: {spent:g} spent, {cost:g} more needed")

    async def _wait(self) -> None:
        """Until something is settled, or time is up."""
        try:
            async with asyncio.timeout(self.remaining_s):
                await self._settled.wait()
        except TimeoutError:
            return
