"""Parser, rules and judge on texts that no one should send: nothing but refusals comes out, within bounds."""

from __future__ import annotations

import contextlib
import functools
import resource
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilewright.ir.dtypes import DType
from tilewright.ir.errors import ParseError, ProgramError
from tilewright.ir.interpreter import Limits
from tilewright.ir.parser import parse_program, parse_spec
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer.engine import Outcome
from tilewright.ir.verify import verify
from tilewright.kernels.cases import Case
from tilewright.kernels.judging import JudgeLimits, ProgramJudge, make_judge

from .malformed import GENERATORS, STAGED, VALID, malformed

MOST_MEGABYTES = 900  # that any text may add to the highest the process has stood at
texts = st.one_of(st.text(), st.integers(0, 2**32 - 1).map(lambda seed: malformed(Random(seed))))
quickly = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)


def highest_megabytes() -> float:
    """The most memory the process has held so far, which tests before these may have set."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@functools.cache
def megabytes_at_first() -> float:
    """`highest_megabytes` before the first text: torch and all, and the judge."""
    judge()
    return highest_megabytes()


@functools.cache
def judge() -> ProgramJudge:
    """Two small inputs, few steps."""
    claim = make_judge(None, None, spec=AttentionSpec("plain", DType.F32, 64, 64)).claim
    inputs = [claim.draw(case) for case in (Case(1, 1, 3, 5), Case(1, 2, 17, 20))]
    limits = JudgeLimits(run=Limits(steps=2000, elements=1 << 22, seconds=20.0), seconds=60.0, runs=4)
    return ProgramJudge(claim, limits, inputs=inputs)


def survive(text: str) -> Outcome:
    """Whatever is wrong with a text is said by an error of ours, and by no other."""
    before = megabytes_at_first()
    with contextlib.suppress(ParseError):
        parse_spec(text)
    program = None
    with contextlib.suppress(ParseError):
        program = parse_program(text)
    if program is not None:
        assert str(parse_program(str(program))) == str(program)  # nan is no equal of itself
        with contextlib.suppress(ProgramError):
            verify(program)
    verdict = judge().judge(text)
    assert (verdict.outcome is Outcome.UNPARSED) == (program is None)
    assert "internal" not in verdict.reason, verdict.reason
    assert not any("internal" in word for word in verdict.signature), verdict.signature
    assert highest_megabytes() < before + MOST_MEGABYTES
    return verdict.outcome


@settings(quickly, max_examples=100)
@given(texts)
def test_some_texts(text: str) -> None:
    survive(text)


@pytest.mark.slow
@settings(quickly, max_examples=10_000)
@given(texts)
def test_many_texts(text: str) -> None:
    survive(text)


def test_the_generators_reach_every_outcome() -> None:
    """Of mutated texts some parse, some are valid, some run: the fuzzing above is not of the parser alone."""
    found = {survive(malformed(Random(seed))) for seed in range(40)}
    assert found >= {Outcome.UNPARSED, Outcome.FAILED}
    assert {survive(text) for text in (*VALID[:2], STAGED)} == {Outcome.ACCEPTED, Outcome.WRONG}
    assert len(GENERATORS) > 3


LIMITED = {
    "a number of 400 digits": ("return s", f"return s * 1{'0' * 400}", Outcome.UNPARSED, "beyond 64 bits"),
    "a number of 5000 digits": ("return s", f"return s * 1{'0' * 5000}", Outcome.UNPARSED, "line"),
    "a power": ("tiles(M, 64)", "tiles(M, 10**400)", Outcome.UNPARSED, "this value"),
    "a wide head": ("D=64, Dv=64", "D=1000000000, Dv=64", Outcome.FAILED, "D=1000000000"),
    "a head of 400 digits": ("D=64, Dv=64", f"D=1{'0' * 400}, Dv=64", Outcome.UNPARSED, "a size"),
    "huge tiles": ("tiles(N, 64", "tiles(N, 1000000000", Outcome.FAILED, "memory"),
    "tiles beyond 32 bits": ("tiles(N, 64", "tiles(N, 10000000000", Outcome.UNPARSED, "this value"),
    "deep brackets": ("return s", f"return {'(' * 200}s{')' * 200}", Outcome.UNPARSED, "nesting too deep"),
    "a long sum": ("return s", f"return s{' + s' * 5000}", Outcome.UNPARSED, "nest"),
    "a buffer of everything": (
        "    for b, h, m in grid(", "    big = alloc(f32[B, M, N, 65536, 4096])\n    for b, h, m in grid(", Outcome.FAILED, "memory"
    ),
    "a negative buffer": ("    for b, h, m in grid(", "    big = alloc(f32[B - 9])\n    for b, h, m in grid(", Outcome.FAILED, "negative"),
    "a grid without end": ("grid(B, Hq, tiles(M, 64)", "grid(B + 1000000000, Hq, tiles(M, 64)", Outcome.FAILED, "instances"),
    "a loop without end": ("        acc = zeros", "        for t in range(0, 1000000000):\n            z = t\n        acc = zeros", Outcome.FAILED, "statements"),
    "a shift out of range": ("tiles(M, 64)", "tiles(M << 62, 64)", Outcome.FAILED, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITED)
def test_what_is_too_large_is_refused(name: str) -> None:
    old, new, outcome, told = LIMITED[name]
    text = VALID[0].replace(old, new)
    assert text != VALID[0]
    verdict = judge().judge(text)
    assert verdict.outcome is outcome, verdict.reason
    assert told in verdict.reason


def test_regions_that_double_without_end_are_invalid() -> None:
    """sixty regions, each calling the one before it twice, would unfold to 2^60 operations."""
    chain = "    def fn0(s: float):\n        return s\n\n" + "".join(
        f"    def fn{n + 1}(s: float):\n        return fn{n}(s + 1.0) + fn{n}(s + {n}.5)\n\n" for n in range(60)
    )
    text = (
        VALID[0]
        .replace("    def score(", f"{chain}    def score(", 1)
        .replace("        return s\n\n    def keep", "        return fn60(s)\n\n    def keep")
    )
    verdict = judge().judge(text)
    assert verdict.outcome is Outcome.FAILED
    assert "regions-small: region fn1" in verdict.reason
