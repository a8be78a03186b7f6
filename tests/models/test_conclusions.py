"""What is taken of an ensemble's answers at its end, and what is not."""

from __future__ import annotations

import pytest

from tilewright.ir.transfer.consensus import consensus
from tilewright.ir.transfer.consensus_decision import Action, Decision, Thresholds
from tilewright.ir.transfer.engine import Outcome, Verdict
from tilewright.ir.transfer.models.dialogue import Line
from tilewright.ir.transfer.models.ensemble import Conclusion, conclude

STOP = Decision(Action.STOP, "no more")


def ended(answers: dict[str, str], decision: Decision = STOP) -> Conclusion:
    """An ensemble of models whose answers are words: capitals are accepted, small letters wrong, ? abstentions."""
    lines = {
        model: [
            Line(model, n, word, Verdict(Outcome.ACCEPTED if word.isupper() else Outcome.WRONG, "", None, (word,)), "")
            if word != "?"
            else Line(model, n, None, None, "no answer")
            for n, word in enumerate(words)
        ]
        for model, words in answers.items()
    }
    voiced = {model: [line if line.verdict else None for line in row] for model, row in lines.items()}
    found = consensus(voiced, key=lambda line: line.verdict.signature)
    return Conclusion(decision, found, tuple(line for row in lines.values() for line in row), ("a note",))


def taken(end: Conclusion) -> list[str]:
    return [line.name for line in conclude(end, Thresholds())[0]]


def test_an_accepted_cluster_is_taken_whole() -> None:
    end = ended({"a": "X", "b": "Xy"}, Decision(Action.ACCEPT, "a and b agree", (0,)))
    chosen, notes, reason = conclude(end, Thresholds())
    assert [line.name for line in chosen] == ["a/0", "b/0"]
    assert (notes, reason) == (("a note", "a and b agree"), "")


def test_the_only_verified_cluster_is_taken_with_a_word_where_questions_ran_out() -> None:
    chosen, notes, _ = conclude(ended({"a": "X", "b": "?"}), Thresholds())
    assert [line.name for line in chosen] == ["a/0"]
    assert notes[-1] == "verified, and chosen without agreement of the models: no more"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"a": "X", "b": "Y"}, "no more; verified candidates: 2"),
        ({"a": "Xpq", "b": "rst"}, "no more; verified candidates: 1 (a: wrong"),
        ({"a": "x", "b": "x"}, "no more (a: wrong; b: wrong)"),
        ({"a": "?", "b": "?"}, "no more (a: no answer; b: no answer)"),
    ],
    ids=["several are verified", "unsure and different", "all wrong", "nobody answered"],
)
def test_nothing_is_taken(answers: dict[str, str], message: str) -> None:
    end = ended(answers)
    assert taken(end) == []
    assert message in conclude(end, Thresholds())[2]


def test_a_cluster_that_verification_rejects_is_never_taken() -> None:
    assert taken(ended({"a": "x", "b": "x"}, Decision(Action.ACCEPT, "a and b agree", (0,)))) == []
