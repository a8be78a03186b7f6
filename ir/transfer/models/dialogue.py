"""One line of questions to one model: a candidate, the judge's verdict, the counter-example, the next candidate."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TypeVar

from ..engine import Judge, Outcome, Task, Verdict
from .answer import program_text
from .answers import Answers
from .budget import Budget, BudgetSpent
from .client import Asker
from .prompt import prompt
from .requests import Answer, Request, Unanswered, digest, escaped, seed_of
from .retries import ask_patiently
from .settings import EngineSettings
from .transcript import Transcript

__all__ = ["Court", "Desk", "Line", "hold"]

NO_PROGRAM = "the answer holds no single program text: answer with one fenced block that begins with @program("
MAX_SHOWN_CHARS = 4000
ROUNDS_OVER = "no more rounds"
Result = TypeVar("Result")


class Court:
    """The judge, one candidate at a time (it may change global state), each text once."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._known: dict[str, Verdict] = {}
        self._thread = ThreadPoolExecutor(1, "tilewright-judge")

    async def verdict(self, text: str, seconds: float) -> Verdict:
        """The verdict on a text. Raises BudgetSpent where time runs out first."""
        if text not in self._known:
            self._known[text] = await self.aside(lambda: self._known.get(text) or self.judge.judge(text), seconds)
        return self._known[text]

    async def aside(self, work: Callable[[], Result], seconds: float) -> Result:
        """Work in the judge's own thread."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError:
            raise BudgetSpent("the time limit is reached while a candidate is judged") from None

    def forget(self) -> None:
        """Judge every text anew: the cases have changed."""
        self._known.clear()

    def close(self) -> None:
        """Let go of the thread; what it still does ends by the judge's own bounds."""
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class Line:
    """One sample of a model: its last candidate and the verdict on it; None before, or without, any."""

    model: str
    sample: int
    text: str | None = None
    verdict: Verdict | None = None
    end: str = ""

    @property
    def name(self) -> str:
        """model/sample."""
        return f"{self.model}/{self.sample}"


@dataclass(slots=True)
class Desk:
    """What every line needs: who is asked, who judges, what it may cost, and what is written down."""

    task: Task
    settings: EngineSettings
    asker: Asker
    court: Court
    budget: Budget
    transcript: Transcript
    answers: Answers
    gate: asyncio.Semaphore


async def hold(desk: Desk, line: Line) -> Line:
    """Ask until a candidate is accepted, rounds are over, the model cannot be reached or the budget is spent."""
    last: tuple[str, Verdict] | None = None
    for turn in range(desk.settings.rounds):
        try:
            answer = await _answer(desk, line, turn, _request(desk, line, turn, last))
            last = await _judged(desk, line, turn, answer)
        except Unanswered as failure:
            line.end = failure.reason
            return line
        except BudgetSpent as spent:
            line.end = str(spent)
            raise
        text, verdict = last
        if verdict.outcome is not Outcome.UNPARSED or line.verdict is None:
            line.text, line.verdict = text, verdict
        if verdict.is_accepted:
            line.end = "accepted"
            return line
    line.end = ROUNDS_OVER
    return line


def _request(desk: Desk, line: Line, turn: int, last: tuple[str, Verdict] | None) -> Request:
    known = desk.settings
    seed = seed_of(known.seed, line.model, line.sample, turn)
    return Request(line.model, prompt(desk.task, last), seed, known.max_tokens, known.temperature)


async def _answer(desk: Desk, line: Line, turn: int, request: Request) -> Answer:
    """From the transcript, from memory, or from the network; written down before anything depends on it."""
    known = desk.transcript.answers.get(request.key)
    if known is not None:
        return known
    remembered = desk.answers.get(request.key)
    place = {"line": line.name, "turn": turn}
    if remembered is not None:
        desk.transcript.add_answer(request, remembered, "memory", **place)
        return remembered

    def tell(attempt: int, failure: Unanswered) -> None:
        desk.transcript.add("failure", **place, attempt=attempt, reason=failure.reason, spent=desk.budget.spent)

    async with desk.gate:
        answer = await ask_patiently(desk.asker, request, desk.budget, desk.settings.patience, tell)
    desk.transcript.add_answer(request, answer, "network", **place)
    desk.transcript.add("spent", **desk.budget.spent)
    desk.answers.put(request.key, answer)
    return answer


async def _judged(desk: Desk, line: Line, turn: int, answer: Answer) -> tuple[str, Verdict]:
    """The candidate in an answer and the verdict on it."""
    text = program_text(answer.text)
    if text is None:
        shown, verdict = answer.text[:MAX_SHOWN_CHARS], Verdict(Outcome.UNPARSED, _without_program(answer))
    else:
        shown, verdict = text, await desk.court.verdict(text, desk.budget.remaining_s)
    facts = {"line": line.name, "turn": turn, "candidate": None if text is None else digest(text)}
    desk.transcript.add("verdict", **facts, **verdict_to_json(verdict))
    return shown, verdict


def _without_program(answer: Answer) -> str:
    return f"{NO_PROGRAM} (it ended by {answer.finish!r})" if answer.finish == "length" else NO_PROGRAM


def verdict_to_json(verdict: Verdict) -> dict[str, object]:
    """A verdict as plain data; values that JSON lacks as words."""
    found = verdict.counter_example
    return {
        "outcome": verdict.outcome.value,
        "reason": escaped(verdict.reason, MAX_SHOWN_CHARS),
        "counter_example": None if found is None else {k: _plain(v) for k, v in asdict(found).items()},
        "signature": list(verdict.signature),
        "seconds": round(verdict.seconds, 3),
    }


def _plain(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
