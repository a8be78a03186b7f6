"""Collaborative entropy by hand: numbers, clusters of relations that are not transitive, silence, bad input."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

import tilewright as tw
from tilewright.ir.transfer.consensus_clusters import clusters_by_relation
from tilewright.ir.transfer.consensus_entropy import hellinger, js, kl

LOG2 = math.log(2)


def test_by_hand():
    """Two models, p = (1/2, 1/2) and (1, 0): the mean is (3/4, 1/4)."""
    found = tw.consensus({"unsure": ["x", "y"], "sure": ["x", "x"]})
    assert found.entropies == {"unsure": pytest.approx(LOG2), "sure": 0.0}
    assert found.aleatoric == pytest.approx(LOG2 / 2)
    far = math.log((1 / 2) / (3 / 4)) / 2 + math.log((1 / 2) / (1 / 4)) / 2
    near = math.log(1 / (3 / 4))
    assert found.divergences == {"unsure": pytest.approx(far), "sure": pytest.approx(near)}
    assert found.epistemic == pytest.approx((far + near) / 2)
    assert found.most_divergent == "sure"
    assert [cluster.medoid for cluster in found.clusters] == ["x", "y"]
    assert found.clusters[0].members == (("unsure", 0), ("sure", 0), ("sure", 1))
    assert str(found) == "2 clusters of 4 answers by 2 models, U_A 0.347, U_E 0.216"


def test_divergences_by_hand():
    p, mean = (1.0, 0.0), (0.5, 0.5)
    assert kl(p, mean) == pytest.approx(LOG2)
    assert js(p, mean) == pytest.approx(math.log(4 / 3) / 2 + (math.log(2 / 3) / 2 + LOG2 / 2) / 2)
    assert hellinger(p, mean) == pytest.approx(math.sqrt(1 - math.sqrt(0.5)))
    for name, value in (("kl", kl), ("js", js), ("hellinger", hellinger)):
        found = tw.consensus({"a": [0], "b": [1]}, divergence=name)
        assert found.epistemic == pytest.approx(value(p, mean))


def test_weights_shift_the_mean():
    answers = {"a": [0], "b": [1]}
    assert tw.consensus(answers, weights={"a": 3, "b": 1}).spread.mean == (0.75, 0.25)
    assert tw.consensus({**answers, "b": [None]}, weights={"a": 3, "b": 1}).weights == {"a": 1.0}


def test_all_fail_is_no_agreement():
    found = tw.consensus({"a": [None, None], "b": [None]})
    assert found.is_silent
    assert found.terms.total == math.inf
    assert found.normalised().total == 2
    assert (found.agreement, found.abstained) == (0.0, 1.0)
    assert found.pessimistic.aleatoric == pytest.approx(LOG2 / 2)
    assert found.pessimistic.epistemic == pytest.approx(LOG2)
    assert tw.consensus({}).is_silent
    assert tw.consensus({"a": []}).samples == {}


def test_abstentions_are_reported_beside():
    found = tw.consensus({"a": ["x", None, "x", None], "b": ["x"]})
    assert found.total == 0
    assert found.abstentions == {"a": 0.5, "b": 0.0}
    assert found.abstained == 0.25
    assert found.agreement == 0.75
    assert found.pessimistic.total > 0
    assert found.answers == {"a": 2, "b": 1}
    assert str(found).endswith("25% abstentions")


def close(a: float, b: float) -> bool:
    return abs(a - b) <= 1


def test_a_chain_of_neighbours_is_not_one_cluster():
    """0 .. 4, each close to the next: single linkage would say that 0 and 4 are the same."""
    groups = clusters_by_relation([0, 1, 2, 3, 4], close)
    assert len(groups) > 1
    for group in groups:
        assert all(close(a, b) for a in group for b in group)


def test_clusters_of_a_relation_do_not_depend_on_order():
    values = [round(0.4 * n, 1) for n in range(12)]
    wanted = {frozenset(values[n] for n in group) for group in clusters_by_relation(values, close)}
    for seed in range(20):
        shuffled = random.Random(seed).sample(values, len(values))
        groups = clusters_by_relation(shuffled, close)
        assert {frozenset(shuffled[n] for n in group) for group in groups} == wanted


def test_the_medoid_is_in_the_middle():
    values = [0.0, 0.9, 1.8, 10.0]
    found = tw.consensus({"a": values}, close)
    assert found.clusters[0].medoid == 0.9
    assert {cluster.medoid for cluster in found.clusters[1:]} <= {0.0, 1.8, 10.0}


def test_a_one_way_relation_is_not_the_same():
    """Entailment: "a cat" follows from "a black cat", which is not enough."""
    found = tw.consensus({"a": ["a black cat"], "b": ["cat"]}, lambda a, b: b in a)
    assert len(found.clusters) == 2


def test_answers_may_be_arrays():
    answers = {"a": [np.zeros(2), None], "b": [np.zeros(2) + 1e-9, np.ones(2)]}
    found = tw.consensus(answers, lambda a, b: bool(np.allclose(a, b)))
    assert [len(cluster.members) for cluster in found.clusters] == [2, 1]
    assert tw.consensus(answers, key=lambda a: tuple(a.round(3))).terms == found.terms


def test_correction_of_few_samples():
    """Samples of one distribution by three models: without correction, they seem surer than they are, and to differ."""
    truth, samples, models, tries = [0.5, 0.3, 0.2], 8, 3, 400
    exact = -sum(p * math.log(p) for p in truth)
    rng = random.Random(0)
    plain, corrected = [], []
    for _ in range(tries):
        answers = {str(m): rng.choices(range(3), truth, k=samples) for m in range(models)}
        plain.append(tw.consensus(answers).terms)
        corrected.append(tw.consensus(answers, is_corrected=True).terms)
    mean = lambda terms, name: sum(getattr(t, name) for t in terms) / tries  # noqa: E731
    assert abs(mean(corrected, "aleatoric") - exact) < abs(mean(plain, "aleatoric") - exact) / 3
    assert mean(corrected, "epistemic") < mean(plain, "epistemic") / 2
    one = tw.consensus({"a": [0, 0, 1, 2]}, is_corrected=True)
    assert one.terms.aleatoric == pytest.approx(tw.consensus({"a": [0, 0, 1, 2]}).aleatoric + 2 / 8)
    assert one.epistemic == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([["x"]],), "got a list, wanted a mapping"),
        (({"a": "yes"},), "is one string; wanted a sequence"),
        (({"a": [[1]]},), "type list has no hash; give same= or key="),
    ],
)
def test_bad_answers(arguments, message):
    with pytest.raises(tw.ConsensusError, match=message):
        tw.consensus(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "wasserstein"}, "wanted one of kl, js, hellinger"),
        ({"weights": {"a": 1.0}}, r"weights\['b'\] is None: wanted a positive number"),
        ({"weights": {"a": 1.0, "b": -1.0}}, r"weights\['b'\] is -1.0"),
        ({"same": close, "key": str}, "got both same= and key="),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(tw.ConsensusError, match=message):
        tw.consensus({"a": [1], "b": [2]}, **options)


def test_a_bad_measure():
    with pytest.raises(tw.ConsensusError, match="wanted 'maximum', 'samples' or 'clusters'"):
        tw.consensus({"a": [1]}).normalised("size")
