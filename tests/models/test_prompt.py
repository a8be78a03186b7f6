"""What models are told: a manual that has every word of the parser, and the task."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tilewright.ir import parse_expr, parse_statements
from tilewright.ir.parser import parse_program
from tilewright.ir.printer import print_program, print_spec
from tilewright.ir.transfer.engine import CounterExample, Outcome, Verdict
from tilewright.ir.transfer.models import prompt as prompts
from tilewright.ir.transfer.models.prompt import MAX_QUOTED_CHARS, manual, prompt, quoted
from tilewright.ir.transfer.models.requests import digest

from .tasks import causal, task_of, tensors

DOCS = Path(__file__).parents[2] / "docs" / "program.md"
BEGIN = "## The idea"
NOT_FOR_MODELS = {"attention", "neg"}  # the word of spec text; the operator "-"


def test_the_manual_is_the_documentation() -> None:
    """After an edit of docs/program.md copy it, from its second heading on, to ir/transfer/models/manual.md."""
    text = DOCS.read_text(encoding="utf-8")
    assert manual() == text[text.index(BEGIN) :]


def test_the_manual_has_every_word_of_the_parser() -> None:
    known = set(re.findall(r"\w+", manual()))
    source = Path(parse_statements.__file__).read_text(encoding="utf-8")
    options = set(re.findall(r'\("?(\w+)"', "".join(re.findall(r"_options\(.*\)", source))))
    options |= {word for row in re.findall(r"_options\(.*?\((.*?)\)", source) for word in re.findall(r'"(\w+)"', row)}
    assert {"where", "stages", "registers", "into", "after"} <= options
    words = parse_expr.RESERVED | set(parse_statements.PARTS) | set(parse_statements.SPACES) | options
    words |= set(parse_statements.GRID_ORDERS) | set(parse_statements.TILE_ORDERS)
    assert words - known == NOT_FOR_MODELS


def test_the_task_is_told() -> None:
    task, _ = task_of(causal, tensors())
    system, user = (message.content for message in prompt(task))
    assert manual() in system
    assert "    q: f32[B, Hq, M, D]\n" in user
    assert "    o: out(f32[B, Hq, M, Dv])\n    lse: out(f32[B, Hq, M])" in user
    assert "@program(D=16, Dv=16)" in user
    assert task.function.strip() in user
    assert print_spec(task.spec).strip() in user
    assert task.reference is not None
    assert print_program(task.reference).strip() in user
    text = user.split("<<< REFERENCE ")[1].split("\n", 1)[1].split(">>> REFERENCE")[0]
    assert parse_program(text) is not None


def test_a_correction_has_the_candidate_and_the_counter_example() -> None:
    task, _ = task_of(causal, tensors())
    example = CounterExample({"B": 1, "M": 2}, "v all 1", "o", (0, 0, 1, 0), 0.5, 1.0, 1e-5)
    verdict = Verdict(Outcome.WRONG, "the mask is off by one", example)
    user = prompt(task, ("@program(D=1)\n...", verdict))[1].content
    assert "@program(D=1)\n..." in user
    assert (
        "It is rejected (wrong).\nthe mask is off by one\nThe smallest input found on which it is wrong: o[0, 0, 1, 0]"
        in user
    )
    again = prompt(task, ("x", Verdict(Outcome.WRONG, str(example), example)))[1].content
    assert again.count(str(example)) == 1


@pytest.mark.parametrize("text", ["", "x", "x" * (3 * MAX_QUOTED_CHARS), "<<< A b\n>>> A b"])
def test_quoted_text_ends_where_its_mark_says(text: str) -> None:
    found = quoted("NAME", text)
    opening, *inside, closing = found.split("\n")
    assert closing == opening.replace("<<<", ">>>")
    assert found.count(closing) == 1
    assert len(found) < MAX_QUOTED_CHARS + 200
    assert "\n".join(inside).startswith(text.rstrip()[:MAX_QUOTED_CHARS])


def test_a_mark_that_the_text_contains_is_not_taken(monkeypatch) -> None:
    """Short marks can be guessed: here one digit, which the text has found out."""
    monkeypatch.setattr(prompts, "MARK_DIGITS", 1)
    guesses = [f"z{n}" for n in range(1000)]
    text = next(guess for guess in guesses if digest(guess)[0] in guess)
    mark = quoted("NAME", text).splitlines()[0].split()[-1]
    assert len(mark) == 1
    assert mark not in text
