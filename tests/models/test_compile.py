"""`tw.compile(engine=…)` end to end: models' programs become kernels, with gradients where the function can be lifted."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import tilewright as tw
from tilewright.ir.errors import SettingError, TransferFailed, UnsupportedSpec
from tilewright.ir.parser import parse_program
from tilewright.ir.printer import print_program
from tilewright.ir.transfer import pack_operands

from .server import fenced, in_turn, serving
from .tasks import causal, good_text, planted, settings, task_of, tensors


@pytest.fixture(scope="module")
def text() -> str:
    return good_text(task_of(causal, tensors())[0])


def options(url: str, folder: Path, **more) -> dict:
    known = settings(url)
    return {
        "models": ("good",), "base_url": url, "samples": 1, "folder": folder, "thresholds": known.thresholds,
        "patience": known.patience, "seconds": 120.0, **more,
    }  # fmt: skip


def prefixed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
    """Causal attention that sees a prefix of each batch entry."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]
    keep = (j <= i) | (j < prefix[:, None, None, None])
    return (q @ k.mT * 0.25).masked_fill(~keep, float("-inf")).softmax(-1) @ v


def test_a_models_program_becomes_a_kernel_with_gradients(tmp_path: Path) -> None:
    q, k, v = (torch.randn(2, heads, 20, 16).requires_grad_() for heads in (4, 2, 2))
    prefix = torch.tensor([3, 9])
    text = good_text(task_of(prefixed, (q, k, v, prefix))[0])
    with serving(in_turn(fenced(planted(text, "mask edge")), fenced(text))) as server:
        kernel = tw.compile(
            prefixed, target="cpu", engine="llm", backward=True, engine_options=options(server.url, tmp_path)
        )
        o = kernel(q, k, v, prefix)
    assert print_program(kernel.program) == print_program(pack_operands(parse_program(text)))
    assert "k_pack" in print_program(kernel.program), "the CPU's products read copies in their own layout"
    report = kernel.report
    assert report is not None
    assert report.verified
    assert "program by engine llm" in report.notes
    assert "written by good" in report.notes
    torch.testing.assert_close(o, prefixed(q, k, v, prefix), atol=1e-5, rtol=1e-5)
    o.sum().backward()
    found = [x.grad.clone() for x in (q, k, v)]
    wanted = torch.autograd.grad(prefixed(q, k, v, prefix).sum(), (q, k, v))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        one = [*(torch.randn(1, heads, 70, 16) for heads in (4, 2, 2)), torch.tensor([5])]
        torch.testing.assert_close(kernel(*one), prefixed(*one), atol=1e-5, rtol=1e-5)
    assert len(server.requests) == 2, "other lengths and a batch of one ask nobody"
    assert "def prefixed(q: torch.Tensor" in server.prompts[0]


def test_lse_is_asked_for_where_there_is_one(text: str, tmp_path: Path) -> None:
    lines = [line for line in text.splitlines(keepends=True) if "lse" not in line]
    with serving(in_turn(fenced("".join(lines)), fenced(text))) as server:
        kernel = tw.compile(causal, target="cpu", engine="llm", engine_options=options(server.url, tmp_path))
        _, lse = kernel(*tensors(), return_lse=True)
    assert lse.shape == (1, 4, 20)
    assert "the outputs are o; wanted o and lse, in this order" in server.prompts[1]


def test_auto_asks_nobody_for_what_the_rules_can_do(tmp_path: Path) -> None:
    with serving(in_turn("unused")) as server:
        kernel = tw.compile(causal, target="cpu", engine="auto", engine_options=options(server.url, tmp_path))
        kernel(*tensors())
    assert server.requests == []
    assert kernel.report is not None
    assert "program by engine rules" in kernel.report.notes


def unliftable(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Plain attention, through numpy, which no trace looks into."""
    weights = torch.from_numpy((q @ k.mT * 0.25).numpy()).softmax(-1)
    return weights @ v


def test_auto_asks_models_for_what_the_rules_refuse(tmp_path: Path) -> None:
    def plain(q, k, v):
        return (q @ k.mT * 0.25).softmax(-1) @ v

    example = tensors(group=1)
    program = good_text(task_of(plain, example)[0]).replace("def plain", "def unliftable")
    with serving(in_turn(fenced(program.replace("0.25", "0.5")), fenced(program))) as server:
        kernel = tw.compile(unliftable, target="cpu", engine="auto", engine_options=options(server.url, tmp_path))
        o = kernel(*example)
        with pytest.raises(UnsupportedSpec, match="backward=True needs a function that can be lifted"):
            tw.compile(
                unliftable, target="cpu", engine="auto", backward=True, engine_options=options(server.url, tmp_path)
            )(*example)
    torch.testing.assert_close(o, unliftable(*example), atol=1e-5, rtol=1e-5)
    kernel.save(tmp_path / "kernel")
    torch.testing.assert_close(tw.load(tmp_path / "kernel")(*example), o, atol=0, rtol=0)
    assert kernel.spec is None
    assert kernel.report is not None
    assert kernel.report.verified
    assert any("the rules refused: UnsupportedSpec" in note for note in kernel.report.notes)
    assert "<<< REFUSAL" in server.prompts[0]
    assert len(server.requests) == 2


def test_what_models_cannot_do_is_one_clear_error(tmp_path: Path) -> None:
    with serving(in_turn("I would rather not.")) as server:
        kernel = tw.compile(causal, target="cpu", engine="llm", engine_options=options(server.url, tmp_path, rounds=2))
        with pytest.raises(TransferFailed, match=r"no model has given an answer.*transcript: .*\.jsonl"):
            kernel(*tensors())


def test_bad_options(monkeypatch) -> None:
    for engine, given, message in (
        ("llm", None, "needs the names of models"),
        ("llm", {"modles": "x"}, "engine option 'modles': wanted one of models, base_url"),
        ("rules", {"models": "x"}, "only 'llm' and 'auto' have options"),
        ("llm", {"models": "x", "samples": 0}, "samples=0: wanted an integer of at least 1"),
        ("llm", {"models": "x", "base_url": "ftp://x"}, r"base URL 'ftp://x': wanted http\(s\)"),
        ("llm", {"models": "x", "base_url": "http://me:pw@x/v1"}, "no user, password"),
        ("llm", {"models": ("x", "x")}, "different names"),
        ("llm", {"models": "x", "temperature": 3}, "temperature=3"),
        ("llm", {"models": "x", "seconds": "ten"}, "limit seconds='ten'"),
        ("llm", {"models": "x", "tries": 0}, "tries=0: wanted an integer of at least 1"),
        ("llm", {"models": "x", "timeout_s": -1}, "timeout_s=-1: wanted a number of seconds"),
        ("llm", {"models": "x", "prices": {"x": 5}}, "price of x: 5; wanted"),
    ):
        with pytest.raises(SettingError, match=message):
            tw.compile(causal, engine=engine, engine_options=given)
    with pytest.raises(UnsupportedSpec, match="engine 'magic': wanted one of rules, llm, auto"):
        tw.compile(causal, engine="magic")
    monkeypatch.setenv("TILEWRIGHT_MODELS", "a, b,")
    assert tw.compile(causal, engine="llm")._options.engine_settings.models == ("a", "b")


def test_a_functions_text_has_its_helpers_and_constants() -> None:
    from tilewright.kernels.function_text import text_of

    text = text_of(functools.partial(uses_helpers, width=3))
    assert text.index("WINDOW = 7") < text.index("def helper(") < text.index("def uses_helpers(")
    assert "width = 3" in text
    assert text_of(torch.softmax) == ""
    assert "def forward(self" in text_of(Module())


WINDOW = 7


def helper(i: int) -> int:
    """Looked at by the test above."""
    return i + WINDOW


def uses_helpers(q: torch.Tensor, width: int) -> torch.Tensor:
    """Looked at by the test above."""
    return q * helper(width)


class Module(torch.nn.Module):
    """Looked at by the test above."""

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        return q
