"""Two forms of a kernel: which one serves a call, when it is made, and that both agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tilewright as tw
from tilewright.ir.errors import LoweringError, VerificationError
from tilewright.kernels import forms
from tilewright.kernels.references import reference_program
from tilewright.schedules.tuning import DECODE, DENSE, SPLIT, form_for

from .conftest import causal_spec, qkv


def full_eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The forms that were compiled, in order."""
    found: list[str] = []
    original = forms.compile_spec

    def counting(spec: Any, target: str, arch: Any, stages: Any, form: str, reference: Any = None) -> Any:
        found.append(form)
        return original(spec, target, arch, stages, form, reference)

    monkeypatch.setattr(forms, "compile_spec", counting)
    return found


@pytest.mark.parametrize(
    ("target", "rows", "keys", "form"),
    [
        ("cpu", 1, 32768, DECODE),
        ("cpu", 16, 32, DECODE),
        ("cpu", 17, 32768, DENSE),
        ("cpu", 16, 31, DENSE),
        ("cpu", 9, 9, DENSE),
        ("triton", 1, 32768, SPLIT),
        ("triton", 17, 32768, DENSE),
    ],
)
def test_few_rows_over_many_keys_decode(target: str, rows: int, keys: int, form: str) -> None:
    assert form_for(target, rows, keys) == form


def test_forms_are_made_when_first_needed_and_kept(made: list[str]) -> None:
    kernel = tw.compile(full_eager, verify=False)
    for rows, columns, forms_so_far in [
        (33, 33, [DENSE]),
        (1, 40, [DENSE, DECODE]),
        (1, 5000, [DENSE, DECODE]),
        (2, 77, [DENSE, DECODE]),
        (40, 3, [DENSE, DECODE]),
    ]:
        tensors = qkv(2, 2, rows, columns)
        torch.testing.assert_close(kernel(*tensors), full_eager(*tensors), rtol=1e-5, atol=1e-5)
        assert made == forms_so_far


def test_both_forms_are_verified() -> None:
    kernel = tw.compile(causal_spec(), target="cpu")
    reports = []
    for rows in (33, 1):
        kernel.prepare(*qkv(rows=rows, columns=66))
        reports.append(kernel.report)
        assert reports[-1] is not None
        assert reports[-1].verified
    assert reports[0] is not reports[1]


def test_a_wrong_decode_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that forgets to add up all splits."""
    original = forms.compile_spec

    def wrong(spec: Any, target: str, arch: Any, stages: Any, form: str, reference: Any = None) -> Any:
        from tilewright.ir.parser import parse_program
        from tilewright.kernels.compiled import lower_program

        text = str(original(spec, target, arch, stages, form, reference).program)
        bad = text.replace("for split in range(0, (N + 1023) // 1024):", "for split in range(0, min((N + 1023) // 1024, 1)):")
        assert bad != text
        return lower_program(parse_program(bad), target, arch, spec=spec)

    monkeypatch.setattr(forms, "compile_spec", wrong)
    kernel = tw.compile(full_eager, target="cpu")
    with pytest.raises(VerificationError):
        kernel(*qkv(1, 1, 1, 50))


def test_what_has_no_decode_form_is_served_by_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    original = forms.compile_spec

    def refusing(spec: Any, target: str, arch: Any, stages: Any, form: str, reference: Any = None) -> Any:
        if form == DECODE:
            raise LoweringError("no")
        return original(spec, target, arch, stages, form, reference)

    monkeypatch.setattr(forms, "compile_spec", refusing)
    kernel = tw.compile(full_eager, target="cpu", verify=False)
    tensors = qkv(1, 2, 1, 50)
    torch.testing.assert_close(kernel(*tensors), full_eager(*tensors), rtol=1e-5, atol=1e-5)


def test_an_experts_program_serves_every_length_in_its_own_tiles() -> None:
    text = str(reference_program()).replace("tiles(M, 64)", "tiles(M, 48)").replace("tiles(N, 64", "tiles(N, 80")
    kernel = tw.compile(full_eager, target="cpu", reference=text)
    for rows in (1, 100):
        q, k = torch.randn(1, 2, rows, 64), torch.randn(1, 2, 300, 64)
        assert (kernel(q, k, k) - full_eager(q, k, k)).abs().max() < 1e-5
        assert "tiles(M, 48)" in str(kernel.program)
        assert "tiles(N, 80" in str(kernel.program)
