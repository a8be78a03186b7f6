"""A right program is verified; one with a planted bug never is, by the interpreter and by the built kernel."""

from __future__ import annotations

import pytest
import torch

import tilewright as tw
from tilewright.ir.dtypes import DType
from tilewright.ir.program import Program
from tilewright.ir.transfer import Orchestration, transfer
from tilewright.kernels.compiled import lower_program
from tilewright.kernels.dtypes import to_torch
from tilewright.kernels.references import reference_program
from tilewright.kernels.report import CaseResult, Report
from tilewright.kernels.verification import Subject, verify_compiled, verify_program

from .conftest import causal_eager, causal_spec, qkv

BUGS = {
    "a rescale of the accumulator is dropped": ("into=acc * rescale)", "into=acc)"),
    "a rescale of the sum is dropped": ("mass = mass * rescale + total", "mass = mass + total"),
    "the base-2 factor is missing": (" * 1.4426950408889634", ""),
    "the mask is off by one": ("return j <= i", "return j < i"),
    "the mask lets one key too many through": ("return j <= i", "return j <= i + 1"),
    "the scale is wrong": ("return s * 0.25", "return s * 0.26"),
    "the wrong key head is read": ("g = h // (Hq // Hkv)", "g = h // (Hq // Hkv) * 0"),
    "keys past the end are counted": ("keep(b, h, i, j) & (j < N)", "(keep(b, h, i, j) | (j >= N))"),
    "the maximum starts too high": ("peak = full(f32[m], -inf)", "peak = zeros(f32[m])"),
    "rows that keep nothing are divided by zero": ("where(mass == 0.0, 0.0, 1.0 / mass)", "1.0 / mass"),
    "lse is of base two": (") * 0.6931471805599453", ")"),
}


def tiled(dtype: DType = DType.F32) -> Program:
    """The causal program with small tiles, so that the interpreter is quick."""
    return transfer(reference_program(), causal_spec(dtype), Orchestration((("m", 8), ("n", 16))))


def subject(dtype: DType = DType.F32) -> Subject:
    return Subject(causal_spec(dtype), causal_eager, [tensor.to(to_torch(dtype)) for tensor in qkv()])


def with_bug(name: str) -> Program:
    before, after = BUGS[name]
    text = str(tiled())
    assert before in text, f"the program no longer says {before!r}"
    return tw.parse_program(text.replace(before, after))


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F16])
def test_a_right_program_is_verified(dtype: DType) -> None:
    report = verify_program(tiled(dtype), subject(dtype))
    assert report.verified, str(report)
    assert report.cases == len({row.name for row in report.rows})
    assert report.method == "program in the interpreter"


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    report = verify_program(with_bug(name), subject())
    assert not report.verified
    assert "FAILED" in str(report)
    assert "(the spec agrees with the function)" in str(report)


@pytest.mark.parametrize("name", ["a rescale of the accumulator is dropped", "the mask is off by one"])
def test_a_planted_bug_is_found_in_the_built_kernel(name: str) -> None:
    assert not verify_compiled(lower_program(with_bug(name), "cpu"), subject()).verified


def test_a_lift_that_is_wrong_is_blamed() -> None:
    def doubled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return 2 * causal_eager(q, k, v)

    report = verify_program(tiled(), Subject(causal_spec(), doubled, qkv()))
    assert not report.verified
    assert "(the lifted spec already differs from the function)" in str(report)


def test_sizes_that_the_function_refuses_are_skipped_with_a_note() -> None:
    def square_only(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if q.shape[2] != k.shape[2]:
            raise ValueError("M and N must agree")
        return causal_eager(q, k, v)

    report = verify_program(tiled(), Subject(causal_spec(), square_only, qkv()))
    assert report.verified
    skipped = [row for row in report.rows if row.skipped]
    assert skipped
    assert skipped[0].note == "the function itself fails: ValueError: M and N must agree"


def test_a_function_that_refuses_everything_verifies_nothing() -> None:
    def never(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        raise RuntimeError

    assert not verify_program(tiled(), Subject(causal_spec(), never, qkv())).verified


def test_a_case_is_not_judged_by_its_own_luck() -> None:
    """One row of one key: low precision happens to be exact there, which is no budget for a kernel."""
    report = verify_program(tiled(), subject())
    budgets = {row.budget for row in report.rows if row.output == "o" and row.name.startswith("B1-Hkv1-M1-N1")}
    assert budgets
    assert all(budget > 4e-7 for budget in budgets)


def test_compile_raises_with_the_whole_report(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Report((CaseResult("B1", "o", 1.0, 0.5, note="(why)"),))
    monkeypatch.setattr("tilewright.kernels.forms.verify_compiled", lambda *args: bad)
    with pytest.raises(tw.VerificationError, match=r"causal for cpu .*NOT verified[\s\S]*FAILED  B1 o: .* \(why\)"):
        tw.compile(causal_spec(), example=qkv())


@pytest.mark.parametrize(
    ("row", "passed"),
    [
        (CaseResult("a", error=1.0, budget=1.0), True),
        (CaseResult("a", error=1.1, budget=1.0), False),
        (CaseResult("a", error=float("nan"), budget=1.0), False),
        (CaseResult("a", error=float("inf"), budget=1.0), False),
        (CaseResult("a", error=0.0, budget=0.0), True),
        (CaseResult("a", skipped=True), True),
    ],
)
def test_a_case_passes_within_its_budget(row: CaseResult, passed: bool) -> None:
    assert row.passed is passed
    assert Report((row,)).verified is (passed and not row.skipped)


def test_the_worst_case_is_the_one_nearest_its_budget() -> None:
    rows = (CaseResult("a", error=1.0, budget=100.0), CaseResult("b", error=0.1, budget=0.2))
    report = Report((*rows, CaseResult("c", skipped=True, note="n")))
    assert (report.worst.name, report.max_error, report.error_budget, report.cases) == ("b", 0.1, 0.2, 2)
    assert Report.from_json(report.to_json()) == report
    assert str(report).splitlines()[1] == "  skipped c: n"
