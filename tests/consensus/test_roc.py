"""Areas by hand, ties, one class alone, intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tilewright.bench.roc import auroc, bootstrap


@pytest.mark.parametrize(
    ("scores", "is_positive", "area"),
    [
        ([1, 2, 3, 4], [False, False, True, True], 1.0),
        ([4, 3, 2, 1], [False, False, True, True], 0.0),
        ([1, 1, 1, 1], [False, True, False, True], 0.5),
        ([1, 2, 3], [False, True, False], 0.5),
        ([1, 2, 2, 3], [False, True, False, True], 0.875),
    ],
)
def test_areas(scores, is_positive, area):
    assert auroc(scores, is_positive) == pytest.approx(area)


def test_one_class_has_no_area():
    assert math.isnan(auroc([1, 2], [True, True]))
    assert math.isnan(auroc([1, 2], [False, False]))


def test_intervals_hold_the_mean_and_are_the_same_every_time():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda at: float(values[at].mean()), 400)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert bootstrap(lambda at: float(values[at].mean()), 400) == (low, high)
    assert all(map(math.isnan, bootstrap(lambda at: math.nan, 3)))
