"""Small stand-ins for the parts of a bench run: a case, implementations, a quick session, rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilewright.bench.cases import Case, Shape
from tilewright.bench.implementations import Implementation, Prepared
from tilewright.bench.measure import Session
from tilewright.bench.peak import Peak
from tilewright.bench.rows import PEAK, Row
from tilewright.bench.timing import Rounds
from tilewright.bench.variants import VARIANTS


@pytest.fixture
def small_case() -> Callable[..., Case]:
    return lambda variant="causal", dtype="f32": Case(VARIANTS[variant], dtype, Shape(2, 3, 3, 40, 40, 16, 16))


@pytest.fixture
def implementation() -> Callable[..., Implementation]:
    """implementation(name, output): one that returns output(o), o being what the variant's function gives."""

    def make(name: str, output: Callable[[torch.Tensor], Any]) -> Implementation:
        def prepare(case: Case, inputs: Any, target: str) -> Prepared:
            return Prepared(lambda: output(case.variant.spec(*inputs.tensors)), {"note_ms": 1.0})

        return Implementation(name, frozenset({"cpu"}), prepare)

    return make


@pytest.fixture
def session() -> Session:
    return Session(
        rounds=Rounds(budget_s=0, least=3, warmups=1),
        say=lambda text: None,
        peaks=lambda target, dtype: {PEAK: Peak(lambda: torch.zeros(8), 1e6)},
        machine={"cpu": "a processor", "load": 0.0},
        command="tilewright bench forward --target cpu",
    )


@pytest.fixture
def timed_row() -> Callable[..., Row]:
    def make(case: str, impl: str, ms: float, suite: str = "forward", **values: Any) -> Row:
        times = {"median_ms": ms, "min_ms": ms, "max_ms": ms}
        return Row(suite, case, impl, "cpu", machine={"cpu": "a processor"}, **times | values)

    return make
