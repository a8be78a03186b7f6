"""The judge: text in, verdict out. Nothing in the text is executed; parsing and interpreting are bounded.

The way of a candidate: parse (or abstain), validity, same tensors, then every case in the interpreter against the
function in fp64. A candidate that is wrong or fails comes back with the smallest input on which it does (shrink.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ...ir.errors import ParseError, ProgramError, ShapeError, TilewrightError
from ...ir.parser import parse_program
from ...ir.program import Program
from ...ir.transfer.engine import Outcome, Verdict
from ...ir.verify import verify
from ..oracle import Truth
from .claims import Claim, Unanswered
from .inputs import Inputs
from .limits import JudgeLimits
from .runs import Candidate, Ran, is_concurrent, output_roles
from .shrink import counter_example, least_failure
from .trials import Trial, own_inputs, shared_inputs
from .words import is_wrong

__all__ = ["ProgramJudge"]


class ProgramJudge:
    """Judges programs against one claim. Cases may be added; signatures are over all cases there are."""

    def __init__(
        self,
        claim: Claim,
        limits: JudgeLimits | None = None,
        clock: Callable[[], float] = time.thread_time,
        inputs: Sequence[Inputs] | None = None,
    ) -> None:
        """inputs: what candidates are tried on (None: the list that the claim gives)."""
        self.claim = claim
        self.limits = limits or JudgeLimits()
        self._clock = clock
        self._given = inputs
        self._trials: list[Trial] | None = None
        self._low: dict[tuple[str, str], float] = {}

    @property
    def cases(self) -> tuple[Inputs, ...]:
        """The inputs that every candidate is tried on."""
        return tuple(trial.inputs for trial in self._shared())

    def add_case(self, inputs: Inputs) -> None:
        """Try every candidate from now on on this input, too. Raises Unanswered where the function refuses it."""
        trials = self._shared()
        truths = self.expect(inputs)
        trials.append(Trial(inputs, truths))

    def judge(self, text: str) -> Verdict:
        """The verdict on program text; never raises for what the text says."""
        started = time.monotonic()
        verdict = self._judge_text(text)
        return replace(verdict, seconds=time.monotonic() - started)

    def signature(self, text: str) -> tuple[str, ...]:
        """What a candidate does on the cases, one word each; empty for text that is no program."""
        try:
            candidate = self.candidate(self._parsed(text))
        except ParseError:
            return ()
        except TilewrightError as error:
            return self._all(f"failed:{type(error).__name__}")
        return tuple(word for word, _ in self._words(candidate, self._shared()))

    def candidate(self, program: Program) -> Candidate:
        """A program made ready. Raises ProgramError or ShapeError for one that cannot be run on the claim's tensors."""
        verify(program)
        self.claim.check(program)
        seeds = self.limits.seeds if is_concurrent(program) else self.limits.seeds[:1]
        return Candidate(program, output_roles(program), seeds, self.limits)

    def expect(self, inputs: Inputs) -> dict[str, Truth]:
        """What should come out. Like contents share the largest low-precision error of the first cases, as in
        verification. Raises Unanswered where the function does not take these tensors."""
        return {role: self._pooled(inputs, role, truth) for role, truth in self.claim.expect(inputs).items()}

    def _parsed(self, text: str) -> Program:
        if len(text.encode(errors="replace")) > self.limits.text_bytes:
            raise ParseError(1, 1, f"{len(text)} characters", f"at most {self.limits.text_bytes} bytes of text")
        return parse_program(text)

    def _judge_text(self, text: str) -> Verdict:
        try:
            program = self._parsed(text)
        except ParseError as error:
            return Verdict(Outcome.UNPARSED, str(error))
        try:
            candidate = self.candidate(program)
        except (ProgramError, ShapeError) as error:
            word = f"failed:{type(error).__name__}"
            return Verdict(Outcome.FAILED, str(error), None, self._all(word), program)
        return self._judged(candidate)

    def _judged(self, candidate: Candidate) -> Verdict:
        shared = self._shared()
        own = self._prepared(own_inputs(self.claim, candidate.program, [trial.inputs for trial in shared]))
        trials = [*shared, *own]
        found = self._words(candidate, trials)
        words = [word for word, _ in found]
        signature = (*words[: len(shared)], *(f"own:{word}" for word in words[len(shared) :] if word != "ok"))
        bad = [(trial, ran) for trial, (word, ran) in zip(trials, found, strict=True) if word != "ok" and ran]
        if not bad and (not trials or "timeout" in words):
            reason = "it runs out of time" if trials else "the function takes none of the cases: nothing is known"
            return Verdict(Outcome.FAILED, reason, None, signature, candidate.program)
        if not bad:
            return Verdict(Outcome.ACCEPTED, "", None, signature, candidate.program)
        wrong = [(trial, ran) for trial, ran in bad if ran is not None and not ran.failure]
        if wrong:
            example, reason = counter_example(self, candidate, [trial.inputs for trial, _ in wrong])
            return Verdict(Outcome.WRONG, reason, example, signature, candidate.program)
        reason = least_failure(self, candidate, bad[0][0].inputs, bad[0][1])
        return Verdict(Outcome.FAILED, reason, None, signature, candidate.program)

    def _words(self, candidate: Candidate, trials: Sequence[Trial]) -> list[tuple[str, Ran | None]]:
        """A word per case; once a candidate has run out of time, the rest is a timeout unseen."""
        end = self._clock() + self.limits.seconds
        found: list[tuple[str, Ran | None]] = []
        for trial in trials:
            if self._clock() > end or (found and found[-1][0] == "timeout"):
                found.append(("timeout", None))
                continue
            ran = candidate.run(trial.inputs, lambda ran, trial=trial: is_wrong(ran, trial.truths))  # type: ignore[misc]
            found.append((trial.words.word(ran, trial.truths), ran))
        return found

    def _all(self, word: str) -> tuple[str, ...]:
        return (word,) * len(self._shared())

    def _shared(self) -> list[Trial]:
        if self._trials is None:
            self._trials = self._prepared(shared_inputs(self.claim) if self._given is None else self._given)
        return self._trials

    def _prepared(self, inputs: Sequence[Inputs]) -> list[Trial]:
        """Cases with their truths, of those that the function takes."""
        found: list[tuple[Inputs, dict[str, Truth]]] = []
        for one in inputs:
            try:
                found.append((one, self.claim.expect(one)))
            except Unanswered:
                continue
        for one, truths in found if self._trials is None else ():
            for role, truth in truths.items():
                key = _kind(one), role
                self._low[key] = max(self._low.get(key, 0.0), truth.low_error)
        return [Trial(one, {role: self._pooled(one, role, truth) for role, truth in truths.items()})
                for one, truths in found]  # fmt: skip

    def _pooled(self, inputs: Inputs, role: str, truth: Truth) -> Truth:
        return replace(truth, low_error=max(truth.low_error, self._low.get((_kind(inputs), role), 0.0)))


def _kind(inputs: Inputs) -> str:
    return inputs.content if inputs.has_large_scores else "normal"
