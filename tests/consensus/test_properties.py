"""What collaborative entropy must be, whatever the answers are."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import tilewright as tw
from tilewright.ir.transfer.consensus import Consensus

ANSWERS = st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=6)
ENSEMBLES = st.dictionaries(st.sampled_from("abcde"), ANSWERS, min_size=1, max_size=5)
DIVERGENCES = st.sampled_from(["kl", "js", "hellinger"])
NEAR = 1e-9


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x)


def measures(found: Consensus[object]) -> tuple[float, ...]:
    return (found.aleatoric, found.epistemic, found.pessimistic.aleatoric, found.pessimistic.epistemic)


def answered(ensemble: dict[str, list[int | None]]) -> bool:
    return any(answer is not None for row in ensemble.values() for answer in row)


@given(ENSEMBLES, DIVERGENCES, st.booleans())
def test_no_term_is_negative(ensemble, divergence, is_corrected):
    found = tw.consensus(ensemble, divergence=divergence, is_corrected=is_corrected)
    assert all(value >= 0 for value in measures(found))
    assert found.total == found.aleatoric + found.epistemic
    for by in ("maximum", "samples", "clusters"):
        terms = found.normalised(by)
        assert 0 <= terms.aleatoric <= 1
        assert 0 <= terms.epistemic <= 1


@given(ENSEMBLES, DIVERGENCES)
def test_zero_is_full_consensus_and_nothing_else(ensemble, divergence):
    found = tw.consensus(ensemble, divergence=divergence)
    values = {answer for row in ensemble.values() for answer in row if answer is not None}
    assert (found.total == 0) == (len(values) == 1)
    same_shares = len({tuple(p) for p in found.distributions.values()}) == 1
    assert (found.epistemic == 0) == same_shares
    is_sure = all(len({a for a in row if a is not None}) <= 1 for row in ensemble.values())
    assert (found.aleatoric == 0) == (is_sure and answered(ensemble))


@given(st.integers(1, 8), st.integers(1, 5))
def test_confident_models_that_all_differ(models, samples):
    found = tw.consensus({str(model): [model] * samples for model in range(models)})
    assert found.aleatoric == 0
    assert found.epistemic == pytest.approx(math.log(models), abs=NEAR)
    assert found.normalised().epistemic == (pytest.approx(1) if models > 1 else 0)


@given(ENSEMBLES)
def test_total_is_the_entropy_of_the_mean(ensemble):
    assume(answered(ensemble))
    found = tw.consensus(ensemble)
    rows = [[a for a in row if a is not None] for row in ensemble.values()]
    rows = [row for row in rows if row]
    mean = [sum(row.count(value) / len(row) for row in rows) / len(rows) for value in range(5)]
    assert found.total == pytest.approx(entropy(mean), abs=NEAR)


@given(ENSEMBLES, st.dictionaries(st.sampled_from("abcde"), st.floats(0.1, 10), min_size=5))
def test_the_identity_holds_by_weight(ensemble, weights):
    assume(answered(ensemble))
    found = tw.consensus(ensemble, weights=weights)
    assert math.fsum(found.weights.values()) == pytest.approx(1)
    assert found.total == pytest.approx(entropy(list(found.spread.mean)), abs=NEAR)
    assert [cluster.mass for cluster in found.clusters] == sorted(found.spread.mean, reverse=True)


@given(ENSEMBLES, DIVERGENCES, st.randoms(use_true_random=False), st.permutations(range(5)))
def test_names_and_order_do_not_matter(ensemble, divergence, random, renamed):
    found = tw.consensus(ensemble, divergence=divergence)
    other = {f"model {name}": random.sample(row, len(row)) for name, row in ensemble.items()}
    names = random.sample(sorted(other), len(other))
    values = {name: [None if a is None else f"answer {renamed[a]}" for a in other[name]] for name in names}
    again = tw.consensus(values, divergence=divergence)
    assert measures(again) == measures(found)  # to the bit
    assert (again.agreement, again.abstained) == (found.agreement, found.abstained)


@given(ENSEMBLES, DIVERGENCES, st.data())
def test_an_answer_withheld_never_raises_consensus(ensemble, divergence, data):
    places = [(m, n) for m, row in ensemble.items() for n, answer in enumerate(row) if answer is not None]
    assume(places)
    model, place = data.draw(st.sampled_from(places))
    before = tw.consensus(ensemble, divergence=divergence)
    ensemble[model] = [*ensemble[model][:place], None, *ensemble[model][place + 1 :]]
    after = tw.consensus(ensemble, divergence=divergence)
    assert after.pessimistic.aleatoric >= before.pessimistic.aleatoric - NEAR
    assert after.pessimistic.epistemic >= before.pessimistic.epistemic - NEAR
    assert after.agreement <= before.agreement + NEAR
    assert after.abstained > before.abstained


@given(ENSEMBLES, st.sampled_from("abcdef"))
def test_an_abstention_more_never_raises_consensus(ensemble, model):
    before = tw.consensus(ensemble)
    after = tw.consensus({**ensemble, model: [*ensemble.get(model, []), None]})
    assert after.terms == before.terms
    if model in ensemble:  # a model more changes the others' weights
        assert after.agreement <= before.agreement + NEAR
        assert after.abstained >= before.abstained - NEAR


@given(ENSEMBLES)
def test_bounds_hold_the_terms(ensemble):
    found = tw.consensus(ensemble)
    most = found.spread.most("kl")
    if not found.is_silent:
        assert found.aleatoric <= most.aleatoric + NEAR
        assert found.epistemic <= most.epistemic + NEAR


@given(ENSEMBLES)
def test_the_farthest_model_adds_most(ensemble):
    found = tw.consensus(ensemble)
    share = {model: found.weights[model] * found.divergences[model] for model in found.models}
    if found.epistemic == 0 or found.is_silent:
        assert found.most_divergent is None
    else:
        assert share[found.most_divergent] == max(share.values())
