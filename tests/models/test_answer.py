"""Program text out of answers: what counts as one, and that nothing of an answer is ever run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.ir.transfer.models.answer import MAX_ANSWER_CHARS, program_text

PROGRAM = "@program(D=4)\ndef f(\n    q: f32[M, D],\n):\n    pass\n"
OTHER = PROGRAM.replace("def f", "def g")


@pytest.mark.parametrize(
    "answer",
    [
        PROGRAM,
        f"```python\n{PROGRAM}```",
        f"Sure!\n\n```\n{PROGRAM}\n\n```\nHope it helps",
        f"~~~tile\n{PROGRAM}~~~",
        f"````python\n{PROGRAM}````",
        f"```python\n{PROGRAM}",
        f"```python\n{PROGRAM}```\nagain:\n```python\n{PROGRAM}```",
        f"```text\nwhat was wrong\n```\n```python\n{PROGRAM}```",
        f"The program follows.\n{PROGRAM}",
        f"<think>perhaps\n```python\n{OTHER}```\n</think>\n```python\n{PROGRAM}```",
        PROGRAM.replace("\n", "\r\n"),
        "  ```python\n" + "".join(f"  {line}\n" for line in PROGRAM.splitlines()) + "  ```",
    ],
)
def test_a_program_is_found(answer: str) -> None:
    assert program_text(answer) == PROGRAM


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n\t",
        f"```\n{PROGRAM}```\n```\n{OTHER}```",
        "```\nimport os\n```\n```\nimport sys\n```",
        "x" * (MAX_ANSWER_CHARS + 1),
    ],
    ids=["empty", "blank", "two programs", "two blocks", "too long"],
)
def test_an_abstention(answer: str) -> None:
    assert program_text(answer) is None


def test_what_is_no_program_goes_to_the_parser_as_it_stands() -> None:
    assert program_text("```python\nimport os\nos.remove('x')\n```") == "import os\nos.remove('x')\n"
    assert program_text("I cannot do that.") == "I cannot do that.\n"


@given(st.text(st.sampled_from("`~@program() \n\t<think>x"), max_size=400))
def test_any_text_gives_some_text_or_none(answer: str) -> None:
    found = program_text(answer)
    assert found is None or found.endswith("\n")


@pytest.mark.parametrize("unit", ["```\n", "~", "`", "<think>", "@program(", " \n", "\t", "~~~ `\n"])
def test_long_answers_take_no_time(unit: str) -> None:
    """Would not return within the suite's time if anything were quadratic in the answer's length."""
    program_text(unit * (MAX_ANSWER_CHARS // len(unit)))
