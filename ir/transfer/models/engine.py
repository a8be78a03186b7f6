"""The engines: `rules` rewrites a reference, `llm` asks models, `auto` asks models for what the rules refuse."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import ScheduleError, SettingError, TransferFailed, UnsupportedSpec
from ...printer import print_program, print_spec
from ...private_files import private_folder
from ...program import Program
from .. import transfer as transfer_by_rules
from ..engine import Engine, Task, Transferred
from .answers import Answers
from .budget import Budget
from .client import Asker, OpenAIAsker
from .dialogue import Court, Desk, Line
from .ensemble import Conclusion, conclude, converse
from .keys import find_key
from .requests import digest, escaped
from .settings import EngineSettings
from .transcript import Transcript

__all__ = ["AutoEngine", "ModelEngine", "RulesEngine"]

GRACE_S = 5.0
Rank = Callable[[Program], float]
AskerFactory = Callable[[EngineSettings], Asker]


class RulesEngine:
    """Rewrites the task's reference by rules. is_judged: whether the judge is asked as well."""

    name = "rules"

    def __init__(self, *, is_judged: bool = True) -> None:
        self._is_judged = is_judged

    def transfer(self, task: Task) -> Transferred:
        """The reference with the spec's semantics. UnsupportedSpec without a spec, ScheduleError from the passes."""
        if task.spec is None:
            raise UnsupportedSpec(task.refusal or f"{task.name}: the rules need a function that can be lifted")
        if task.reference is None:
            raise ScheduleError(f"transfer: {task.name}: the rules need a reference program")
        program = transfer_by_rules(task.reference, task.spec)
        if self._is_judged:
            verdict = task.judge.judge(print_program(program))
            if not verdict.is_accepted:
                raise TransferFailed(f"the rules' program for {task.name} is rejected: {verdict.reason}")
        return Transferred(program, self.name)


@dataclass
class ModelEngine:
    """Asks models for program text until the judge accepts some.

    rank: what a program costs, in any unit; of accepted ones that agree the cheapest is taken. asker: makes what asks
    the server.
    """

    settings: EngineSettings
    rank: Rank | None = None
    asker: AskerFactory = field(default=lambda known: OpenAIAsker(
        known.base_url, find_key(known.base_url), is_streaming=known.is_streaming
    ))  # fmt: skip
    name: str = "llm"

    def transfer(self, task: Task) -> Transferred:
        """A program that the judge accepted.

        Raises TransferFailed with the transcript's path where none was, within the limits; SettingError without models;
        MissingExtra without the client library.
        """
        known = self.settings
        if not known.models:
            raise SettingError("engine 'llm' needs the names of models: models=… (--model NAME) or TILEWRIGHT_MODELS")
        _checked_prices(known)
        asker = self.asker(known)
        transcript = Transcript(_transcript_path(known, task), _digest(task))
        try:
            transcript.add("start", task=_digest(task), name=task.name, settings=_described(known))
            return _in_own_loop(lambda: self._run(task, asker, transcript), known.limits.seconds + GRACE_S, transcript)
        finally:
            transcript.close()

    async def _run(self, task: Task, asker: Asker, transcript: Transcript) -> Transferred:
        known = self.settings
        budget = Budget(known.limits, known.prices)
        budget.restore(transcript.spent)
        memory = known.folder / "answers" if known.folder is not None and known.has_memory else None
        court, gate = Court(task.judge), asyncio.Semaphore(known.concurrency)
        desk = Desk(task, known, asker, court, budget, transcript, Answers(memory), gate)
        try:
            end = await converse(desk)
        finally:
            court.close()
            await asker.close()
        return self._concluded(end, budget, transcript)

    def _concluded(self, end: Conclusion, budget: Budget, transcript: Transcript) -> Transferred:
        chosen, notes, reason = conclude(end, self.settings.thresholds)
        spent, path = budget.spent, transcript.path
        transcript.add("spent", **spent)
        if not chosen:
            transcript.add("end", outcome="failed", reason=reason)
            raise TransferFailed(escaped(reason, 2000), None if path is None else str(path))
        line, program = self._cheapest(chosen)
        text = print_program(program)
        transcript.add("end", outcome="accepted", line=line.name, candidate=digest(line.text or ""), program=text)
        return Transferred(program, self.name, (f"written by {line.model}", *notes), spent, path)

    def _cheapest(self, chosen: tuple[Line, ...]) -> tuple[Line, Program]:
        """The first of the lines, or the one whose program costs least; each different text is ranked once."""
        different: dict[str | None, tuple[Line, Program]] = {}
        for line in chosen:
            if line.verdict is not None and line.verdict.program is not None:
                different.setdefault(line.text, (line, line.verdict.program))
        known = list(different.values())
        rank = self.rank
        if rank is None or len(known) == 1:
            return known[0]
        return min(known, key=lambda pair: rank(pair[1]))


@dataclass
class AutoEngine:
    """One engine, and another for what it refuses."""

    first: Engine
    second: Engine
    name: str = "auto"

    def transfer(self, task: Task) -> Transferred:
        """By the first engine; by the second for what the first cannot do or has rejected, with a note of why."""
        try:
            return self.first.transfer(task)
        except (ScheduleError, UnsupportedSpec, TransferFailed) as refusal:
            reason = escaped(str(refusal))
            made = self.second.transfer(task if task.refusal else replace(task, refusal=str(refusal)))
            return replace(made, notes=(f"{self.first.name}: {reason}", *made.notes))


def _in_own_loop(
    run: Callable[[], Coroutine[Any, Any, Transferred]], seconds: float, transcript: Transcript
) -> Transferred:
    """Run a coroutine in a thread with a loop of its own (the caller may have one), and wait no longer than that.

    A caller that is interrupted, or has waited too long, ends it; a thread that does not heed that is left behind.
    """
    loop, done = asyncio.new_event_loop(), Future[Transferred]()

    async def main() -> None:
        work = asyncio.current_task()
        assert work is not None
        stop.append(work.cancel)
        try:
            done.set_result(await run())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            done.set_exception(error)

    def whole() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    stop: list[Callable[[], object]] = []
    threading.Thread(target=whole, name="tilewright-models", daemon=True).start()
    try:
        return done.result(seconds)
    except BaseException as error:
        if stop and not done.done():
            loop.call_soon_threadsafe(stop[0])
        if isinstance(error, TimeoutError):
            path = transcript.path
            raise TransferFailed("the time limit is reached", None if path is None else str(path)) from None
        raise


def _checked_prices(known: EngineSettings) -> None:
    """Refuse a limit of money where a model has no price."""
    missing = [model for model in known.models if model not in known.prices]
    if known.limits.money is not None and missing:
        raise SettingError(f"a limit of money needs the price of every model; {', '.join(missing)} has none")


def _transcript_path(known: EngineSettings, task: Task) -> Path | None:
    """The file that was named, or a new one in the folder."""
    if known.transcript is not None or known.folder is None:
        return known.transcript
    time = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    return private_folder(known.folder / "transcripts") / f"{task.name[:60]}-{time}-{secrets.token_hex(3)}.jsonl"


def _digest(task: Task) -> str:
    """What a transcript is of: everything that a model is told of the task."""
    spec = "" if task.spec is None else print_spec(task.spec)
    reference = "" if task.reference is None else print_program(task.reference)
    facts = (task.name, task.tensors, task.function, spec, reference, task.source, sorted(task.sizes.items()))
    return digest(repr(facts))


def _described(known: EngineSettings) -> dict[str, object]:
    """The settings that decide what is asked."""
    names = ("base_url", "samples", "rounds", "temperature", "seed", "max_tokens", "concurrency", "is_streaming")
    facts = {name: getattr(known, name) for name in names}
    return {"models": list(known.models), "limits": repr(known.limits), **facts}
