"""Verdicts, signatures and counter-examples of candidate programs."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from tilewright.ir.interpreter import Limits
from tilewright.ir.transfer import transfer
from tilewright.ir.transfer.engine import Outcome, Verdict
from tilewright.kernels.judging import FunctionClaim, JudgeLimits, ProgramJudge, make_judge
from tilewright.kernels.judging.claims import SpecClaim
from tilewright.kernels.references import reference_program

WINDOW = 5


def windowed(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
    """A causal window with a bias per head, two query heads to a key head."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    i = torch.arange(q.shape[2])[:, None]
    j = torch.arange(k.shape[2])[None, :]
    scores = q @ k.mT * 0.25 + slope[:, None, None] * (j - i)
    scores = torch.where((j <= i) & (i - j < WINDOW), scores, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def unliftable(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
    """The same function, written so that no lift can trace it."""
    return torch.from_numpy(windowed(q, k, v, slope).numpy().copy())


def example() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 12, 16), (1, 2, 12, 16), (1, 2, 12, 16), (4,))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@functools.cache
def judge() -> ProgramJudge:
    return make_judge(windowed, example())


@functools.cache
def text(tile: int = 16) -> str:
    claim = judge().claim
    assert isinstance(claim, SpecClaim)
    program = transfer(reference_program(), claim.subject.spec)
    return str(program).replace("64)", f"{tile})").replace("64,", f"{tile},")


@functools.cache
def verdict_of(old: str, new: str) -> Verdict:
    assert old in text()
    return judge().judge(text().replace(old, new))


def test_the_function_itself_is_accepted() -> None:
    verdict = judge().judge(text())
    assert verdict.outcome is Outcome.ACCEPTED, verdict.reason
    assert set(verdict.signature) == {"ok"}
    assert len(verdict.signature) == len(judge().cases)
    assert verdict.counter_example is None
    assert str(verdict.program) == text()


def test_a_window_off_by_one_is_told_by_its_key() -> None:
    verdict = verdict_of("i < j + 5", "i <= j + 5")
    assert verdict.outcome is Outcome.WRONG
    found = verdict.counter_example
    assert found is not None
    assert found.sizes == {"B": 1, "Hq": 2, "Hkv": 1, "M": 6, "N": 1}
    assert "row i=5 keeps key j=0, which the function leaves out" in verdict.reason
    assert "q zero, k zero" in found.inputs


def test_the_other_edge() -> None:
    assert "row i=0 leaves out key j=0, which the function keeps" in verdict_of("j <= i", "j < i").reason


def test_a_wrong_head_is_told() -> None:
    verdict = verdict_of("h // (Hq // Hkv)", "h % Hkv")
    assert "reads values of key head" in verdict.reason
    assert verdict.counter_example is not None
    assert verdict.counter_example.sizes["Hkv"] == 2
    assert verdict.counter_example.sizes["M"] == verdict.counter_example.sizes["N"] == 1


def test_a_missing_rescale_needs_two_tiles() -> None:
    found = verdict_of("into=acc * rescale", "into=acc").counter_example
    assert found is not None
    assert 17 <= found.sizes["N"] <= 21


def test_what_the_values_of_a_budget_are() -> None:
    """The place is where the output is furthest off, with its numbers."""
    found = verdict_of("j <= i", "j < i").counter_example
    assert found is not None
    assert found.output == "o"
    assert found.got == 0.0
    assert found.wanted == pytest.approx(1.0)
    assert 0 < found.budget < 1e-3


def test_text_that_is_no_program_abstains() -> None:
    for words in ("", "import os\nos.system('true')", "Sorry, I cannot do that.", "@program(D=16)\ndef f(: pass"):
        verdict = judge().judge(words)
        assert verdict.outcome is Outcome.UNPARSED
        assert verdict.signature == ()
        assert "line " in verdict.reason


def test_an_invalid_program_fails_with_its_line() -> None:
    verdict = verdict_of('where=keep(b, h, m, n), part="full"', 'where=keep(b, h, m, m), part="full"')
    assert verdict.outcome is Outcome.FAILED
    assert "does not depend on 'n'" in verdict.reason
    assert "line " in verdict.reason
    assert set(verdict.signature) <= {"failed:ProgramError"}


def test_a_program_of_other_tensors_fails() -> None:
    verdict = verdict_of("q: f32[B, Hq, M, D]", "q: f16[B, Hq, M, D]")
    assert verdict.outcome is Outcome.FAILED
    assert "takes f16" in verdict.reason


def test_an_error_while_running_comes_with_the_least_sizes() -> None:
    verdict = verdict_of("k_tile = load(k[b, g, n, :])", "k_tile = load(k[b, g + 1, n, :])")
    assert verdict.outcome is Outcome.FAILED
    assert "OutOfBounds at B=1, Hq=2, Hkv=1, M=1, N=1" in verdict.reason
    assert "load(k[b, g + 1, n, :])" in verdict.reason


def test_a_store_that_two_instances_race_for() -> None:
    verdict = verdict_of("store(o[b, h, m, :], acc * share)", "store(o[b, 0, m, :], acc * share)")
    assert verdict.outcome is Outcome.FAILED
    assert "DataRace" in verdict.reason
    assert "failed:DataRace" in verdict.signature


def test_equal_behaviour_has_equal_words_and_other_behaviour_other_ones() -> None:
    loose = verdict_of("i < j + 5", "i <= j + 5").signature
    also_loose = judge().signature(text(32).replace("i < j + 5", "i - 6 < j"))
    looser = judge().signature(text().replace("i < j + 5", "i < j + 7"))
    assert loose == also_loose
    assert loose != looser
    assert any(word.startswith("off:") for word in loose)


def test_rounding_does_not_change_a_word() -> None:
    other_way = text().replace("exp2(x - base)", "exp((x - base) * 0.6931471805599453)")
    assert other_way != text()
    assert set(judge().signature(other_way)) == {"ok"}


def test_an_added_case_gives_another_word() -> None:
    own = make_judge(windowed, example())
    before = len(own.cases)
    own.add_case(own.claim.draw(_case(9, 3)))
    assert len(own.cases) == before + 1
    assert len(own.judge(text()).signature) == before + 1


def _case(rows: int, columns: int):  # type: ignore[no-untyped-def]
    from tilewright.kernels.cases import Case

    return Case(1, 1, rows, columns)


def test_a_function_that_no_lift_takes_is_judged_by_running_it() -> None:
    own = make_judge(unliftable, example())
    assert isinstance(own.claim, FunctionClaim)
    assert own.claim.tensors[3].dims == ("Hq",)
    assert own.judge(text()).outcome is Outcome.ACCEPTED
    verdict = own.judge(text().replace("i < j + 5", "i <= j + 5"))
    assert verdict.outcome is Outcome.WRONG
    assert "row i=5 keeps key j=0, which the function leaves out" in verdict.reason


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("acc = zeros(f32[m, Dv])", "acc = zeros(f32[m, Dv])\n        for t in range(0, 1000000000):\n            z = t + 1", "timeout"),
        ("    for b, h, m in", "    big = alloc(f32[B, M, N, 1000000, 4096])\n    for b, h, m in", "failed:memory"),
        ("for n in tiles(N, 16", "for n in tiles(N, 1000000000", "failed:memory"),
        ("tiles(M, 16)", "tiles(M * 2000000000, 16)", "timeout"),
    ],
)  # fmt: skip
def test_what_asks_for_too_much_is_stopped(old: str, new: str, word: str) -> None:
    assert old in text()
    small = JudgeLimits(run=Limits(steps=5000))
    own = ProgramJudge(judge().claim, small)
    verdict = own.judge(text().replace(old, new))
    assert verdict.outcome is Outcome.FAILED
    assert any(found.startswith(word) for found in verdict.signature), verdict.signature
