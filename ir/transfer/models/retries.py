"""One question until it is answered: paid for, asked, and asked again after a while where that may help."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import SettingError
from .budget import Budget, BudgetSpent
from .client import Asker
from .limits import Usage
from .requests import Answer, Request, Unanswered

__all__ = ["Patience", "ask_patiently"]

NOTHING = Usage()
LONGEST_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """tries: of one question. timeout_s: of one try. delay_s: before the second try, doubled before each other."""

    tries: int = 4
    timeout_s: float = 180.0
    delay_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no number of tries or seconds."""
        if type(self.tries) is not int or self.tries < 1:
            raise SettingError(f"tries={self.tries!r}: wanted an integer of at least 1")
        for name, value in (("timeout_s", self.timeout_s), ("delay_s", self.delay_s)):
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise SettingError(f"{name}={value!r}: wanted a number of seconds")

    def delay(self, attempt: int, asked_for: float | None) -> float:
        """Seconds to wait after a failed attempt (from 0): what the server asked for, else more each time."""
        return asked_for if asked_for is not None else min(self.delay_s * 2**attempt, LONGEST_DELAY_S)


async def ask_patiently(
    asker: Asker, request: Request, budget: Budget, patience: Patience, tell: Callable[[int, Unanswered], None]
) -> Answer:
    """The answer. `tell` hears of each failed attempt.

    Raises Unanswered with the last failure's reason, and BudgetSpent, also where the server asks to wait for longer
    than there is time.
    """
    for attempt in range(patience.tries):
        try:
            return await _ask_once(asker, request, budget, patience.timeout_s)
        except Unanswered as failure:
            tell(attempt, failure)
            if not failure.is_passing or attempt + 1 >= patience.tries:
                raise
            delay = 0.0 if failure.refused else patience.delay(attempt, failure.retry_after)
            if delay >= budget.remaining_s:
                raise BudgetSpent(f"waiting {delay:.3g} s would pass the time limit ({failure.reason})") from None
            await asyncio.sleep(delay)
    raise AssertionError("the last attempt returns or raises")


async def _ask_once(asker: Asker, request: Request, budget: Budget, timeout_s: float) -> Answer:
    """One attempt, settled whatever comes of it: what may have been billed counts as spent in full."""
    reservation = await budget.reserve(request.model, request.most)
    used = request.most
    try:
        answer = await asker.ask(request, min(timeout_s, budget.remaining_s))
        used = answer.usage or request.most
    except Unanswered as failure:
        used = request.most if failure.is_billed else NOTHING
        raise
    finally:
        await budget.settle(reservation, used)
    return answer
