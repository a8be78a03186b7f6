"""Inputs that tell two candidates apart."""

from __future__ import annotations

import torch
from torch import Tensor

from tilewright.ir.transfer import transfer
from tilewright.kernels.judging import ProgramJudge, make_judge, search_distinguishing
from tilewright.kernels.references import reference_program

WIDTH = 16


def limited(q: Tensor, k: Tensor, v: Tensor, length: Tensor) -> Tensor:
    """Keys before a length that is given per batch entry."""
    j = torch.arange(k.shape[2])
    scores = q @ k.mT * 0.25
    scores = torch.where(j < length[:, None, None, None], scores, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def judge_of(lengths: int) -> ProgramJudge:
    """The example's lengths are all alike, so that much is left open."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((2, 2, 20, WIDTH), generator=generator) for _ in range(3))
    return make_judge(limited, (q, k, v, torch.full((2,), lengths)))


def text_of(judge: ProgramJudge) -> str:
    program = transfer(reference_program(), judge.claim.subject.spec)  # type: ignore[attr-defined]
    return str(program).replace("64)", "16)").replace("64,", "16,")


def test_an_input_beyond_the_example_tells_two_candidates_apart() -> None:
    """Both agree wherever the length is the example's: only another length shows which of them is meant."""
    judge = judge_of(7)
    right = text_of(judge)
    wrong = right.replace("length[b]", "7")
    assert wrong != right
    assert judge.signature(wrong) == judge.signature(right)
    found = search_distinguishing(judge, [right, wrong], names=("one", "the other"))
    assert found is not None
    assert "in one" in found.sentence
    assert "the function agrees with one" in found.sentence
    assert "length" in found.sentence
    judge.add_case(found.inputs)
    assert judge.signature(wrong) != judge.signature(right)
    assert judge.signature(right)[-1] == "ok"
    assert judge.judge(wrong).outcome.value == "wrong"


def test_two_that_differ_are_told_by_their_keys() -> None:
    judge = judge_of(7)
    right = text_of(judge)
    more, less = (right.replace("j < length[b]", f"j < length[b] {sign} 1") for sign in "+-")
    found = search_distinguishing(judge, [more, less], names=("A", "B"))
    assert found is not None
    assert "in A keeps key" in found.sentence or "in A keeps keys" in found.sentence
    assert "which B leaves out" in found.sentence
    assert "the function agrees with" in found.sentence


def test_nothing_is_found_between_two_that_are_the_same() -> None:
    judge = judge_of(7)
    right = text_of(judge)
    assert search_distinguishing(judge, [right, right.replace("j < length[b]", "length[b] > j")], runs=15) is None
