"""The eight variants of the CuBridge paper through the model engine: right at once, and corrected after a counter-example."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tilewright as tw
from tilewright.ir.printer import print_program
from tilewright.ir.transfer import transfer
from tilewright.kernels.engines import transfer_with_engine
from tilewright.kernels.references import reference_program
from tilewright.kernels.spec_source import SpecSource, example_tensors, load_source
from tilewright.kernels.specialisers import Stages, trace

from .server import by_turn, fenced, in_turn, serving
from .tasks import planted, settings

EXAMPLES = Path(__file__).parents[2] / "examples"
VARIANTS = {
    "prefix_lm": "stale max",
    "global_window": "tail",
    "share_question": "no rescale",
    "block_causal": "stale max",
    "t5_bias": "no rescale",
    "relu": "tail",
    "sigmoid": "tail",
    "comb": "tail",
}


def variant(name: str) -> tuple[SpecSource, tuple[torch.Tensor, ...], str]:
    """The function, its example tensors, and the rules' program for it."""
    source = load_source(f"{EXAMPLES / name}.py:{name}")
    torch.manual_seed(0)
    example = example_tensors(source, None, None)
    spec = trace(source.function, example, Stages()).spec
    return source, example, print_program(transfer(reference_program(), spec))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_good_candidate_at_once(name: str, tmp_path: Path) -> None:
    source, example, text = variant(name)
    with serving(in_turn(fenced(text))) as server:
        known = settings(server.url, tmp_path)
        made = transfer_with_engine(reference_program(), source.function, example, "llm", known)
    assert print_program(made.program) == text
    assert len(server.requests) == 1
    assert f"def {name}(" in server.prompts[0]


@pytest.mark.parametrize(("name", "mistake"), VARIANTS.items())
def test_a_wrong_candidate_is_corrected(name: str, mistake: str, tmp_path: Path) -> None:
    source, example, text = variant(name)
    wrong = planted(text, mistake)
    with serving(by_turn(fenced(wrong), "no program", fenced(text))) as server:
        known = settings(server.url, tmp_path)
        made = transfer_with_engine(reference_program(), source.function, example, "llm", known)
    assert print_program(made.program) == text
    assert len(server.requests) == 3
    assert "The smallest input found on which it is wrong: " in server.prompts[1]
    assert "no program" in server.prompts[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_compile_by_models(name: str, tmp_path: Path) -> None:
    source, example, text = variant(name)
    with serving(in_turn(fenced(text))) as server:
        given = {"models": "good", "base_url": server.url, "folder": tmp_path, "samples": 2}
        kernel = tw.compile(source.function, target="cpu", engine="llm", backward=True, engine_options=given)
        tensors = [x.requires_grad_(x.is_floating_point()) for x in example]
        o = kernel(*tensors)
    o.sum().backward()
    report = kernel.report
    assert report is not None
    assert report.verified
    assert "program by engine llm" in report.notes
    assert tensors[0].grad is not None
