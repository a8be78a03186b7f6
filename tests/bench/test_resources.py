"""Suite `resources` reads what a generated kernel costs off its machine code, and a kernel that does not compile is an error row."""

from __future__ import annotations

import pytest

from tilewright.bench import resources
from tilewright.bench.measure import Session
from tilewright.bench.resources import resource_cases
from tilewright.bench.targets import verdicts
from tilewright.ir.errors import BuildError


@pytest.fixture
def one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "ARCHITECTURES", ("sm_90",))
    monkeypatch.setattr(resources, "resource_cases", lambda: resource_cases()[:1])


def test_a_kernel_is_compiled_and_judged(one_case) -> None:
    row, *others = resources.resources(Session(say=lambda text: None))
    assert (row.case, row.target, row.error) == ("full-D64-bf16-sm_90", "triton", None)
    assert [other.case for other in others] == [
        f"{form}-full-D64-bf16-sm_90"
        for form in ("split", "split-paged", "ragged", "paged", "backward", "backward-split")
    ]
    assert all(other.extra["spills"] == 0 and other.extra["tensor_core_instructions"] > 0 for other in others)
    assert row.extra["spills"] == 0
    assert 0 < row.extra["registers"] <= 255
    assert {verdict.goal.name: verdict.is_reached for verdict in verdicts([row])} == {
        "Triton kernels: instructions that spill": True,
        "Triton kernels: tensor-core instructions": True,
    }


def test_what_does_not_compile_is_an_error_row(one_case, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(spec, arch, form):
        raise BuildError(f"no registers left on {arch}")

    monkeypatch.setattr(resources, "_compiled", refuse)
    row, *others = resources.resources(Session(say=lambda text: None))
    assert len(others) == 6
    assert (row.error, row.extra) == ("no registers left on sm_90", {})
    assert verdicts([row, *others]) == []
