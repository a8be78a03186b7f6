"""Kernels as nodes of torch's autograd graph: gradients, their bits, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import tilewright as tw
from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.errors import UnsupportedSpec
from tilewright.ir.expr import Expr, Op, apply, cast, load
from tilewright.ir.spec import COLUMN, ROW, AttentionSpec, S, TensorSpec
from tilewright.kernels.gradients import gradients as module
from tilewright.lowering.toolchain import supported_isas

from .conftest import causal_eager, causal_spec, qkv


def softcap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = 5 * torch.tanh(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 / 5)
    future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1) @ v


def leaves(*sizes: int, group: int = 2) -> list[Tensor]:
    return [tensor.requires_grad_() for tensor in qkv(*sizes, group=group)]


def gradients(function: Callable[..., Tensor], tensors: list[Tensor], d_o: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(*tensors), tensors, d_o)


def assert_near(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for name, ours, theirs in zip(("dq", "dk", "dv"), got, wanted, strict=False):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def kernel(private_cache: object) -> tw.Kernel:
    """Causal, D = 16, group 2, float32; verified."""
    return tw.compile(causal_spec(), backward=True, deterministic=True)


@pytest.fixture(autouse=True)
def forget_compiled() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("sizes", [(2, 2, 33, 33), (1, 1, 200, 170), (1, 2, 64, 128), (2, 1, 1, 300), (1, 1, 300, 1)])
def test_gradients_are_autograd_s(kernel: tw.Kernel, sizes: tuple[int, ...]) -> None:
    tensors = leaves(*sizes)
    d_o = torch.randn(tensors[0].shape)
    assert_near(gradients(kernel, tensors, d_o), gradients(causal_eager, tensors, d_o))


def test_a_function_s_backward_is_verified_and_reported() -> None:
    kernel = tw.compile(softcap, backward=True)
    tensors = leaves(1, 2, 70, 70, group=1)
    d_o = torch.randn(tensors[0].shape)
    assert_near(gradients(kernel, tensors, d_o), gradients(softcap, tensors, d_o))
    report = kernel.report
    assert report is not None
    assert report.verified
    assert {row.output for row in report.rows if not row.skipped} == {"o", "lse", "dq", "dk", "dv"}


def test_a_wrong_backward_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification compares with autograd of the function, so a wrong derivative cannot pass."""
    from dataclasses import replace

    from tilewright.ir.gradient import differentiate

    monkeypatch.setattr(module, "differentiate", lambda spec: replace(differentiate(spec), slope=S * 0.0 + 0.26))
    kernel = tw.compile(causal_spec(), backward=True)
    with pytest.raises(tw.VerificationError, match=r"backward of causal for cpu[\s\S]*FAILED[\s\S]*dq"):
        kernel(*leaves())


def test_only_what_is_asked_for_is_computed(kernel: tw.Kernel) -> None:
    q, k, v = qkv()
    k.requires_grad_()
    o = kernel(q, k, v)
    o.sum().backward()
    assert k.grad is not None
    assert q.grad is None
    with torch.no_grad():
        assert not kernel(q, k, v).requires_grad
    assert not kernel(q, k.detach(), v).requires_grad


def test_lse_has_a_gradient(kernel: tw.Kernel) -> None:
    tensors = leaves()
    d_o, d_lse = torch.randn(tensors[0].shape), torch.randn(tensors[0].shape[:3])

    def eager_lse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keep = torch.arange(k.shape[2])[None, :] <= torch.arange(q.shape[2])[:, None]
        scores = q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 0.25
        return scores.masked_fill(~keep, float("-inf")).logsumexp(-1)

    got = torch.autograd.grad(kernel(*tensors, return_lse=True), tensors, (d_o, d_lse))
    o, lse = causal_eager(*tensors), eager_lse(*tensors)
    assert_near(got, torch.autograd.grad((o, lse), tensors, (d_o, d_lse)))
    alone = torch.autograd.grad(kernel(*tensors, return_lse=True)[1], tensors[:2], d_lse)
    assert_near(alone, torch.autograd.grad(eager_lse(*tensors), tensors[:2], d_lse))


def test_gradients_of_any_layout(kernel: tw.Kernel) -> None:
    """q of other strides, and an expanded gradient as sum() gives it."""
    q, k, v = qkv(2, 2, 70, 70)
    q = q.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    k = torch.cat([k, k], -1)[..., ::2].requires_grad_()
    tensors = [q, k, v.requires_grad_()]
    got = torch.autograd.grad(kernel(*tensors).sum(), tensors)
    assert_near(got, torch.autograd.grad(causal_eager(*tensors).sum(), tensors))


def test_rows_and_calls_without_keys(kernel: tw.Kernel) -> None:
    """No keys, no rows: zeros of the right shapes."""
    for sizes in ((1, 1, 5, 0), (1, 1, 0, 5), (0, 1, 5, 5)):
        tensors = leaves(*sizes)
        for tensor, gradient in zip(tensors, torch.autograd.grad(kernel(*tensors).sum(), tensors), strict=True):
            assert gradient.shape == tensor.shape
            assert not gradient.any()


def test_float16_and_bfloat16() -> None:
    for dtype in (DType.BF16, DType.F16):
        kernel = tw.compile(causal_spec(dtype), backward=True)
        kind = {DType.BF16: torch.bfloat16, DType.F16: torch.float16}[dtype]
        tensors = [tensor.detach().to(kind).requires_grad_() for tensor in leaves(1, 2, 150, 150)]
        d_o = torch.randn(tensors[0].shape).to(kind)
        got = gradients(kernel, tensors, d_o)
        wanted = gradients(causal_eager, [tensor.detach().float().requires_grad_() for tensor in tensors], d_o.float())
        assert all(gradient.dtype is kind for gradient in got)
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours.float(), theirs, rtol=4e-2, atol=4e-2)


# The same bits


def bits_of(kernel: tw.Kernel, tensors: list[Tensor], d_o: Tensor) -> list[Tensor]:
    return [gradient.clone() for gradient in gradients(kernel, tensors, d_o)]


def assert_same_bits(got: list[Tensor], wanted: list[Tensor]) -> None:
    for name, ours, theirs in zip(("dq", "dk", "dv"), got, wanted, strict=True):
        assert torch.equal(ours, theirs), f"{name}: {int((ours != theirs).sum())} of {ours.numel()} elements differ"


def test_bits_do_not_depend_on_runs_or_threads(kernel: tw.Kernel) -> None:
    tensors = leaves(2, 2, 300, 300)
    d_o = torch.randn(tensors[0].shape)
    wanted, threads = bits_of(kernel, tensors, d_o), torch.get_num_threads()
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            for _ in range(5):
                assert_same_bits(bits_of(kernel, tensors, d_o), wanted)
    finally:
        torch.set_num_threads(threads)


def test_bits_do_not_depend_on_the_place_in_a_batch(kernel: tw.Kernel) -> None:
    tensors = leaves(3, 2, 200, 200)
    d_o = torch.randn(tensors[0].shape)
    wanted = bits_of(kernel, tensors, d_o)
    for b in range(3):
        alone = [tensor[b : b + 1].detach().clone().requires_grad_() for tensor in tensors]
        assert_same_bits(bits_of(kernel, alone, d_o[b : b + 1]), [gradient[b : b + 1] for gradient in wanted])
    order = torch.tensor([2, 0, 1])
    moved = [tensor[order].detach().clone().requires_grad_() for tensor in tensors]
    assert_same_bits(bits_of(kernel, moved, d_o[order]), [gradient[order] for gradient in wanted])


def test_bits_do_not_depend_on_padding(kernel: tw.Kernel) -> None:
    """Rows and keys behind a causal sequence, whose gradients arrive as zero."""
    tensors, more = leaves(1, 1, 200, 200), leaves(1, 1, 330, 330)
    d_o = torch.randn(tensors[0].shape)
    wanted = bits_of(kernel, tensors, d_o)
    with torch.no_grad():
        for padded, tensor in zip(more, tensors, strict=True):
            padded[:, :, :200] = tensor
    longer = torch.zeros(more[0].shape)
    longer[:, :, :200] = d_o
    assert_same_bits([gradient[:, :, :200] for gradient in bits_of(kernel, more, longer)], wanted)


def within(length: Expr, place: Expr, keep: Expr) -> Expr:
    return apply(Op.AND, keep, apply(Op.LT, place, length))


CAUSAL = apply(Op.LE, COLUMN, ROW)
PATTERNS = {  # of 330 rows the last tile has masked, whole and masked tiles of keys, in this order
    "causal": CAUSAL,
    "window": apply(Op.AND, CAUSAL, apply(Op.LT, ROW - COLUMN, 160)),
    "documents": apply(Op.AND, CAUSAL, apply(Op.EQ, (ROW + 250) // 400, (COLUMN + 250) // 400)),
}
SCORES = {"scaled": S * 0.25, "plain": S, "alibi": S * 0.25 + 0.125 * cast(COLUMN - ROW, DType.F32)}


def padded(pattern: str, score: str, place: Expr, dtype: DType = DType.F32) -> AttentionSpec:
    """Attention of the first `length` rows only, or to the first `length` keys, as `place` says."""
    keep = within(load("length", (), Kind.INT), place, PATTERNS[pattern])
    length = TensorSpec("length", DType.I32, ())
    return AttentionSpec("padded", dtype, 16, 16, captured=(length,), score=SCORES[score], keep=keep)


def bits_with_padding(spec: AttentionSpec, order: bool | str, size: int) -> list[Tensor]:
    """o, dq, dk and dv of the first 330 rows of `size`."""
    kernel = tw.compile(spec, backward=True, deterministic=order, verify=False)
    longest = qkv(1, 1, 430, 430, group=1)
    d_o = torch.randn(longest[0].shape, generator=torch.Generator().manual_seed(1))
    d_o[:, :, 330:] = 0
    tensors = [tensor[:, :, :size].clone().requires_grad_() for tensor in longest]
    o = kernel(*tensors, torch.tensor(330, dtype=torch.int32))
    found = [o, *torch.autograd.grad(o, tensors, d_o[:, :, :size])]
    return [tensor.detach()[:, :, :330] for tensor in found]


@pytest.mark.parametrize(
    ("pattern", "score", "place"),
    [
        *(("causal", score, ROW) for score in SCORES),
        *((pattern, "scaled", place) for pattern in ("window", "documents") for place in (ROW, COLUMN)),
    ],
    ids=lambda x: {ROW: "rows", COLUMN: "keys"}.get(x, x),
)
def test_bits_do_not_depend_on_what_the_mask_leaves_out(pattern: str, score: str, place: Expr) -> None:
    """330 rows do not fill their last tile, so that tiles of keys are whole, but masked with padding behind them."""
    spec = padded(pattern, score, place)
    alone = bits_with_padding(spec, True, 330)
    for size in (331, 430):
        for name, found, wanted in zip(("o", "dq", "dk", "dv"), bits_with_padding(spec, True, size), alone, strict=True):
            assert torch.equal(found, wanted), name


def test_bits_in_ascending_order_do_not_depend_on_rows_that_attend() -> None:
    """Rows behind the sequence see its last keys, so that there are more visits; the planner may order those anew."""
    both = apply(Op.AND, apply(Op.LT, ROW - COLUMN, 100), apply(Op.LT, COLUMN - ROW, 100))
    length = TensorSpec("length", DType.I32, ())
    keep = within(load("length", (), Kind.INT), COLUMN, both)
    spec = AttentionSpec("both", DType.F32, 16, 16, captured=(length,), score=S * 0.25, keep=keep)
    found, wanted = bits_with_padding(spec, "ascending", 430), bits_with_padding(spec, "ascending", 330)
    assert_same_bits(found[1:], wanted[1:])
    assert torch.equal(found[0], wanted[0])
    planned, other = bits_with_padding(spec, True, 430), bits_with_padding(spec, True, 330)
    assert torch.equal(planned[0], other[0])
    assert not torch.equal(planned[1], other[1])  # what "ascending" is for


@pytest.mark.parametrize("isa", supported_isas())
def test_forward_bits_of_a_padded_window_on_every_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_ISA", isa)
    kernel = tw.compile(padded("window", "scaled", ROW, DType.BF16), verify=False)
    length = torch.tensor(330, dtype=torch.int32)
    longest = [tensor.bfloat16() for tensor in qkv(1, 1, 430, 430, group=1)]
    wanted = kernel(*(tensor[:, :, :330] for tensor in longest), length)
    assert torch.equal(kernel(*longest, length)[:, :, :330], wanted)


def test_torch_asks_for_the_same_bits() -> None:
    kernel = tw.compile(causal_spec(), backward=True, verify=False)
    tensors = leaves(1, 2, 150, 150)
    free = kernel.gradients_for(tuple(tensors)).main.compiled.program
    torch.use_deterministic_algorithms(True)
    try:
        fixed = kernel.gradients_for(tuple(tensors)).main.compiled.program
    finally:
        torch.use_deterministic_algorithms(False)
    assert "after=visits[step, 2]" in str(fixed)
    assert "after=" not in str(free)
    d_o = torch.randn(tensors[0].shape)
    assert_near(gradients(kernel, tensors, d_o), gradients(causal_eager, tensors, d_o))


def test_a_greedy_plan_gives_way_where_too_few_can_run() -> None:
    """One thread cannot carry out a plan that needs several at once: the safe plan runs, and the report says so."""
    blocks = torch.rand(16, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    mask = blocks.repeat_interleave(64, 0).repeat_interleave(128, 1)
    keep = load("mask", (ROW, COLUMN), Kind.BOOL)
    spec = AttentionSpec(
        "sparse", DType.F32, 16, 16, captured=(TensorSpec("mask", DType.BOOL, ("M", "N")),), score=S * 0.25, keep=keep
    )
    kernel = tw.compile(spec, backward=True, deterministic="greedy", verify=False)
    tensors = leaves(1, 4, 1024, 1024, group=1)
    d_o, threads = torch.randn(tensors[0].shape), torch.get_num_threads()
    gradient = kernel.gradients_for((*tensors, mask)).main
    assert gradient.order.mode == "greedy"
    torch.set_num_threads(1)
    try:
        got = gradients(lambda *t: kernel(*t, mask), tensors, d_o)
    finally:
        torch.set_num_threads(threads)
    assert gradient.order.mode == "safe"
    assert "the safe plan is used" in str(kernel.report)
    assert "threads at once and it runs on 1" in str(kernel.report)

    def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.transpose(-1, -2) * 0.25).masked_fill(~mask, float("-inf"))
        return torch.softmax(scores, -1).nan_to_num() @ v

    assert_near(got[1:], gradients(eager, tensors, d_o)[1:])


def test_a_plan_s_mode_is_checked() -> None:
    with pytest.raises(UnsupportedSpec, match="deterministic='fast': wanted True, False, safe, greedy or ascending"):
        tw.compile(causal_spec(), deterministic="fast")


# torch's other ways


def test_checkpointing_gives_the_same_bits(kernel: tw.Kernel) -> None:
    tensors = leaves()
    wanted = torch.autograd.grad((kernel(*tensors) * 2).sum(), tensors)
    again = torch.autograd.grad(checkpoint(lambda *t: kernel(*t) * 2, *tensors, use_reentrant=False).sum(), tensors)
    assert_same_bits(list(again), list(wanted))
    checkpoint(lambda *t: kernel(*t) * 2, *tensors, use_reentrant=True).sum().backward()
    assert_same_bits([tensor.grad for tensor in tensors], list(wanted))  # type: ignore[misc]


def test_compiled_training_step_is_one_graph(kernel: tw.Kernel) -> None:
    step = torch.compile(lambda *t: (kernel(*t) * 2).sum(), backend="aot_eager", fullgraph=True)
    for sizes in ((2, 2, 33, 33), (1, 2, 80, 90)):
        tensors = leaves(*sizes)
        wanted = torch.autograd.grad((kernel(*tensors) * 2).sum(), tensors)
        assert_same_bits(list(torch.autograd.grad(step(*tensors), tensors)), list(wanted))


def test_compiled_without_an_lse() -> None:
    """A normaliser without lse goes through the operator all the same."""

    def sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.sigmoid(q @ k.transpose(-1, -2) * 0.25) @ v

    kernel = tw.compile(sigmoid, backward=True, verify=False)
    step = torch.compile(lambda *t: kernel(*t).sum(), backend="aot_eager", fullgraph=True)
    tensors = leaves(group=1)
    assert_near(torch.autograd.grad(step(*tensors), tensors), torch.autograd.grad(sigmoid(*tensors).sum(), tensors))


def test_functional_gradients(kernel: tw.Kernel) -> None:
    tensors = leaves()
    wanted = torch.autograd.grad((kernel(*tensors) * 2).sum(), tensors)
    plain = [tensor.detach() for tensor in tensors]
    got = torch.func.grad(lambda *t: (kernel(*t) * 2).sum(), argnums=(0, 1, 2))(*plain)
    assert_same_bits(list(got), list(wanted))


# Refused


def test_a_second_derivative_is_refused(kernel: tw.Kernel) -> None:
    tensors = leaves()
    (dq,) = torch.autograd.grad(kernel(*tensors).sum(), tensors[0], create_graph=True)
    with pytest.raises(UnsupportedSpec, match=r"second derivative of attention[\s\S]*use the PyTorch function"):
        dq.sum().backward()


def test_out_and_gradients_exclude_each_other(kernel: tw.Kernel) -> None:
    tensors = leaves()
    with pytest.raises(UnsupportedSpec, match="out= with a tensor that requires grad"):
        kernel(*tensors, out=torch.empty_like(tensors[0]))


def test_a_program_alone_has_no_gradients() -> None:
    from tilewright.kernels.compiled import lower_program
    from tilewright.kernels.options import Options
    from tilewright.kernels.references import reference_program
    from tilewright.kernels.specialisers import FixedSpecialiser

    compiled = lower_program(reference_program(), "cpu")
    kernel = tw.Kernel(FixedSpecialiser(compiled), compiled, Options(backward=True))
    with pytest.raises(UnsupportedSpec, match="a kernel from program text alone has no gradients"):
        kernel(*(torch.randn(1, 1, 8, 64, requires_grad=True) for _ in range(3)))


# Saved


def test_a_saved_kernel_keeps_its_backward(kernel: tw.Kernel, tmp_path: Path) -> None:
    tensors = leaves(1, 2, 150, 150)
    d_o = torch.randn(tensors[0].shape)
    wanted = bits_of(kernel, tensors, d_o)
    folder = kernel.save(tmp_path / "kernel")
    assert (folder / "backward.cpp").is_file()
    loaded = tw.load(folder)
    assert_same_bits(bits_of(loaded, tensors, d_o), wanted)
    (folder / "backward.txt").write_text((folder / "backward.txt").read_text().replace("0.25", "0.5"))
    with pytest.raises(tw.TilewrightError, match=r"backward\.txt is not the file that was saved"):
        tw.load(folder)


def test_a_forward_alone_is_loaded_without_gradients(causal: tw.Kernel, tmp_path: Path) -> None:
    loaded = tw.load(causal.save(tmp_path / "kernel"))
    with pytest.raises(UnsupportedSpec, match="this kernel has no backward"):
        loaded(*leaves())


def test_spec_with_row_sums() -> None:
    """Weights divided by their sum: the share of a row is computed again in the backward."""

    def normalised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.relu(q @ k.transpose(-1, -2) * 0.25) ** 2
        return weights / (weights.sum(-1, keepdim=True) + 1e-3) @ v

    kernel = tw.compile(normalised, backward=True)
    tensors = leaves(1, 2, 150, 140, group=1)
    d_o = torch.randn(tensors[0].shape)
    assert_near(gradients(kernel, tensors, d_o), gradients(normalised, tensors, d_o))

