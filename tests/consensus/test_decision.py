"""The decision table, whom to ask next, and the loop of an ensemble."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilewright as tw
from tilewright.ir.transfer.consensus_decision import (
    Action,
    Budget,
    Thresholds,
    ambiguity,
    decide,
    next_questions,
)
from tilewright.ir.transfer.consensus_exploration import Ensemble, explore

PLENTY, NONE = Budget(samples=20), Budget(samples=0, searches=0)
AGREE = {"a": ["x", "x"], "b": ["x", "x"], "c": ["x", "x"]}
DIFFER = {"a": ["x", "x"], "b": ["y", "y"], "c": ["x", "x"]}
UNSURE = {"a": ["x", "y", "z", "w"], "b": ["x", "y", "z", "w"], "c": ["y", "x", "w", "z"]}
CHAOS = {"a": ["x", "y", "z", "w"], "b": ["p", "q", "r", "s"], "c": ["k", "l", "m", "n"]}


@pytest.mark.parametrize(
    ("answers", "action"),
    [
        (AGREE, Action.ACCEPT),
        (DIFFER, Action.DISTINGUISH),
        (UNSURE, Action.SAMPLE_MORE),
        (CHAOS, Action.STOP),
    ],
    ids=["low-low", "low-high", "high-low", "high-high"],
)
def test_the_table(answers, action):
    found = tw.consensus(answers)
    step = decide(found, PLENTY)
    assert step.action is action
    is_unsure, is_split = found.normalised().aleatoric > 0.4, found.normalised().epistemic > 0.3
    assert (is_unsure, is_split) == {
        Action.ACCEPT: (False, False),
        Action.DISTINGUISH: (False, True),
        Action.SAMPLE_MORE: (True, False),
        Action.STOP: (True, True),
    }[action]


def test_accepting():
    step = decide(tw.consensus(AGREE), NONE)
    assert (step.action, step.clusters) == (Action.ACCEPT, (0,))
    assert step.reason == "a, b and c agree"


def test_agreement_on_what_is_wrong_is_not_accepted():
    found = tw.consensus(AGREE)
    step = decide(found, PLENTY, is_good=lambda cluster: False)
    assert (step.action, sum(step.ask.values())) == (Action.SAMPLE_MORE, 1)
    step = decide(found, NONE, is_good=lambda cluster: False)
    assert step.action is Action.STOP
    assert step.reason == "the models agree on an answer that verification rejects, and the budget is spent"


def test_distinguishing_says_what_the_ambiguity_is():
    found = tw.consensus(DIFFER)
    step = decide(found, PLENTY)
    assert step.clusters == (0, 1)
    assert step.reason == "the models are sure and differ: a and c say answer 1 (67%); b says answer 2 (33%)"
    assert ambiguity(found, lambda answer: answer.upper()) == "a and c say X (67%); b says Y (33%)"
    assert ambiguity(tw.consensus(CHAOS), most=1).endswith("; 11 more")


def test_after_the_search_verification_decides():
    found, searched = tw.consensus(DIFFER), Budget(samples=5, searches=0)
    step = decide(found, searched, is_good=lambda cluster: cluster.medoid == "y")
    assert (step.action, step.clusters) == (Action.ACCEPT, (1,))
    assert decide(found, searched, is_good=lambda cluster: False).action is Action.SAMPLE_MORE
    both = decide(found, searched)
    assert (both.action, both.clusters) == (Action.STOP, (0, 1))
    assert both.reason.startswith("several answers pass verification: a and c say")


def test_verified_answers_are_named_when_stopping():
    step = decide(tw.consensus(UNSURE), NONE, is_good=lambda cluster: cluster.medoid == "z")
    assert step.action is Action.STOP
    assert [tw.consensus(UNSURE).clusters[place].medoid for place in step.clusters] == ["z"]


def test_few_samples_are_no_disagreement():
    step = decide(tw.consensus({"a": ["x"], "b": ["y"]}), PLENTY)
    assert (step.action, step.ask) == (Action.SAMPLE_MORE, {"a": 1, "b": 1})
    step = decide(tw.consensus({"a": ["x", "y"], "b": ["p", "q"]}), PLENTY)
    assert (step.action, step.reason) == (Action.SAMPLE_MORE, "the models are unsure and differ, after few samples")


def test_one_answer_is_too_few():
    step = decide(tw.consensus({"a": ["x"], "b": [None]}), PLENTY)
    assert (step.action, step.reason) == (Action.SAMPLE_MORE, "1 answers are too few to accept")
    assert decide(tw.consensus({"a": ["x", "x"]}), PLENTY).action is Action.ACCEPT


def test_abstentions_keep_from_accepting():
    found = tw.consensus({"a": ["x", None, None, None], "b": ["x", None, None, None], "c": [None] * 4})
    step = decide(found, PLENTY)
    assert (step.action, step.reason) == (Action.SAMPLE_MORE, "83% of the samples are abstentions")
    assert decide(found, NONE).action is Action.STOP
    assert decide(tw.consensus({"a": [None], "b": [None]}), NONE).reason.startswith("no model has given an answer")


ANSWERS = st.lists(st.one_of(st.none(), st.integers(0, 2)), min_size=1, max_size=6)
ENSEMBLES = st.dictionaries(st.sampled_from("abc"), ANSWERS, min_size=1, max_size=3)


@given(ENSEMBLES, st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 2))
def test_an_abstention_more_never_leads_to_acceptance(ensemble, model, samples, searches):
    budget = Budget(samples, searches)
    before = decide(tw.consensus(ensemble), budget)
    more = {**ensemble, model: [*ensemble.get(model, []), None]}
    after = decide(tw.consensus(more), budget)
    if after.action is Action.ACCEPT and model in ensemble:
        assert before.action is Action.ACCEPT


@given(ENSEMBLES, st.integers(0, 3), st.integers(0, 2), st.integers(0, 2))
def test_what_is_accepted_was_verified(ensemble, samples, searches, wrong):
    found = tw.consensus(ensemble)
    step = decide(found, Budget(samples, searches), is_good=lambda cluster: cluster.medoid != wrong)
    if step.action is Action.ACCEPT:
        assert len(step.clusters) == 1
        assert found.clusters[step.clusters[0]].medoid != wrong
    assert (step.action is Action.SAMPLE_MORE) == bool(step.ask)
    assert sum(step.ask.values()) <= samples


def test_whom_to_ask():
    limits = Thresholds()
    assert next_questions(tw.consensus({}), limits, 2, ["a", "b", "c"]) == {"a": 1, "b": 1}
    assert next_questions(tw.consensus({"a": ["x"]}), limits, 9, ["a", "b"]) == {"b": 1}
    unsure = tw.consensus({"a": ["x", "x"], "b": ["x", "y"]})
    assert next_questions(unsure, limits, 9) == {"b": 1}
    rare = tw.consensus({"a": ["x", "x", "x"], "b": ["x", "x"]})
    assert next_questions(rare, limits, 9) == {"b": 1}
    mute = tw.consensus({"a": ["x", "y"] * 5, "b": [None] * 4})
    assert next_questions(mute, limits, 9) == {"a": 1}
    assert next_questions(tw.consensus({"b": [None] * 4}), limits, 9) == {}
    assert next_questions(unsure, limits, 0) == {}


def script(rows):
    """Models that answer from a list, then abstain."""
    left = {model: list(row) for model, row in rows.items()}
    return lambda model, count: [left[model].pop(0) for _ in range(count) if left[model]]


def test_agreement_costs_one_question_a_model():
    rows = {"a": ["x"] * 9, "b": ["x"] * 9, "c": ["x"] * 9}
    end = explore(Ensemble(tuple(rows), script(rows)), Budget(27))
    assert (end.decision.action, end.spent) == (Action.ACCEPT, 3)
    assert end.accepted == ("x", "a", 0)


def test_the_cheapest_of_the_cluster_is_accepted():
    rows = {"a": [(1, 9.0)], "b": [(1, 3.0)]}
    ensemble = Ensemble(tuple(rows), script(rows), key=lambda answer: answer[0], cost=lambda answer: answer[1])
    assert explore(ensemble, Budget(4)).accepted == ((1, 3.0), "b", 0)


def test_an_input_that_is_found_decides():
    """a and b are right; c is right on small inputs only, which is all that is looked at before the search."""
    tests = [1, 2]
    found_inputs = []
    rows = {"a": [abs] * 4, "b": [abs] * 4, "c": [lambda x: x] * 4, "d": [lambda x: -x] * 4}

    def distinguish(found, places):
        medoids = [found.clusters[place].medoid for place in places]
        found_inputs.append([f(-3) for f in medoids])
        tests.append(-3)
        return True

    ensemble = Ensemble(
        tuple(rows),
        script(rows),
        key=lambda f: tuple(f(x) for x in tests),
        is_good=lambda cluster: all(cluster.medoid(x) == abs(x) for x in tests),
        distinguish=distinguish,
    )
    end = explore(ensemble, Budget(40))
    assert found_inputs, "the search was asked for"
    assert end.decision.action is Action.ACCEPT
    assert end.accepted[0] is abs
    assert [step.action for step in end.history].count(Action.DISTINGUISH) == 1


def test_the_budget_ends_it():
    rows = {"a": ["x", "y", "z"] * 9, "b": ["y", "x", "z"] * 9}
    end = explore(Ensemble(tuple(rows), script(rows)), Budget(11))
    assert (end.decision.action, end.spent, end.accepted) == (Action.STOP, 11, None)


def test_models_that_never_answer_end_it():
    end = explore(Ensemble(("a", "b"), lambda model, count: []), Budget(1000))
    assert (end.decision.action, end.spent) == (Action.STOP, 8)
