"""Foreign CUDA C++ in, program text out: the source is shown as data, the PyTorch function is what decides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tilewright as tw
from tilewright.ir.errors import ParseError, ScheduleError, TransferFailed
from tilewright.ir.parser import parse_program
from tilewright.ir.printer import print_program
from tilewright.ir.transfer import pack_operands
from tilewright.kernels.compiled import lower_program
from tilewright.kernels.engines import transfer_with_engine

from .server import by_turn, fenced, in_turn, serving
from .tasks import causal, settings, tensors

FIXTURES = Path(__file__).parent / "fixtures"
SOURCE = (FIXTURES / "flash.cu").read_text()
TEXT = print_program(parse_program((FIXTURES / "flash.txt").read_text()))
MISREAD = {  # what is easily lost on the way from threads to tiles
    "grouped heads": ("h // (Hq // Hkv)", "h"),
    "the guard of the tail": (" & (j < N)", ""),
    "the rescaling": ("into=acc * rescale", "into=acc"),
    "rows without keys": ("where(mass == 0.0, 0.0, 1.0 / mass)", "1.0 / (mass + 1.0)"),
}


@pytest.mark.parametrize("misreading", MISREAD)
def test_cuda_source_becomes_a_program(tmp_path: Path, misreading: str) -> None:
    right, wrong = MISREAD[misreading]
    assert right in TEXT
    first = TEXT.replace(right, wrong)
    with serving(by_turn(fenced(first), fenced(TEXT))) as server:
        known = settings(server.url, tmp_path)
        made = transfer_with_engine(SOURCE, causal, tensors(), "llm", known, target="cpu")
    assert print_program(made.program) == TEXT
    assert len(server.requests) == 2
    prompt = server.prompts[0]
    assert "<<< SOURCE" in prompt
    assert SOURCE.strip() in prompt
    assert "<<< REFERENCE" not in prompt
    assert "def causal(" in prompt
    assert "lse: out(f32[B, Hq, M])" in prompt


def test_the_lifted_program_lowers_and_runs() -> None:
    compiled = lower_program(parse_program(TEXT), "cpu")
    q, k, v = tensors()
    sizes = {"B": 1, "Hq": 4, "Hkv": 2, "M": 20, "N": 20, **compiled.fixed}
    torch.testing.assert_close(compiled.run((q, k, v), sizes)["o"], causal(q, k, v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("engine", ["llm", "auto"])
def test_compile_after_cuda_source(tmp_path: Path, engine: str) -> None:
    with serving(in_turn(fenced(TEXT))) as server:
        given = {"models": "good", "base_url": server.url, "samples": 1, "folder": tmp_path}
        kernel = tw.compile(causal, target="cpu", engine=engine, engine_options=given, reference=SOURCE)
        o = kernel(*tensors())
    assert o.shape == (1, 4, 20, 16)
    assert kernel.program == pack_operands(parse_program(TEXT))
    assert kernel.report is not None
    assert kernel.report.verified
    assert "<<< SOURCE" in server.prompts[0]
    with pytest.raises(ParseError):
        tw.compile(causal, reference=SOURCE)


def test_the_rules_do_not_read_cuda(tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match="need a reference program"):
        transfer_with_engine(SOURCE, causal, tensors(), "rules")


def test_source_that_computes_something_else_is_told_by_the_function(tmp_path: Path) -> None:
    other = TEXT.replace("j <= i", "j >= i")
    with serving(in_turn(fenced(other))) as server, pytest.raises(TransferFailed):
        transfer_with_engine(SOURCE, causal, tensors(), "llm", settings(server.url, tmp_path, rounds=2))
