"""Speed of our kernels under pytest-benchmark, to compare commits: `pytest -m bench --benchmark-autosave`.

`pytest -m bench --benchmark-compare` then shows the change since. Nothing is asserted about time; peers are
measured by `tilewright bench`, which interleaves them.
"""

from __future__ import annotations

import pytest
import torch

from tilewright.bench.agreement import reference_of
from tilewright.bench.cases import Case
from tilewright.bench.forward import forward_cases
from tilewright.bench.implementations import TILEWRIGHT, implementations_for


@pytest.mark.bench
@pytest.mark.parametrize("case", forward_cases("cpu"), ids=str)
def test_forward(benchmark, case: Case) -> None:
    inputs = case.inputs(torch.device("cpu"))
    (ours,) = implementations_for("cpu", TILEWRIGHT)
    prepared = ours.prepare(case, inputs, "cpu")
    assert prepared is not None
    assert reference_of(case, inputs).complaint(prepared.run()) is None
    benchmark.extra_info["flops"] = case.flops
    benchmark.pedantic(prepared.run, rounds=20, warmup_rounds=3)
