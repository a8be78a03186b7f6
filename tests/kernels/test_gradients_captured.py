"""Gradients of captured tensors: against autograd in fp64, the same bits on any number of threads, and their programs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

import tilewright as tw
from tilewright.ir.errors import ScheduleError, UnsupportedSpec, VerificationError
from tilewright.ir.gradient import Backward, differentiate, reference_backward
from tilewright.ir.interpreter import explore
from tilewright.ir.lift import lift
from tilewright.ir.parser import parse_program
from tilewright.ir.reference import reference
from tilewright.ir.spec import NormaliserKind
from tilewright.ir.transfer.captured import transfer_captured
from tilewright.kernels.dtypes import as_array
from tilewright.kernels.gradients.captured import CapturedKernel, compile_captured, compile_term
from tilewright.kernels.gradients.gradient import Known
from tilewright.kernels.gradients.oracle import expect_gradients, output_gradient
from tilewright.kernels.references import reference_program

from . import captured_variants as variants
from .captured_variants import SQUARE, VARIANTS, draw

Function = Callable[..., Tensor]
WIDTH = 32
QUICK = frozenset({
    variants.shared_bias, variants.key_bias, variants.slopes, variants.relative, variants.document_temperature, variants.gate,
    variants.relu_share,
})  # fmt: skip
HALF = (variants.buckets, variants.shared_bias, variants.slopes, variants.softcap, variants.sinks)
SIZES = ((1, 2, 17, 33), (2, 4, 131, 150))  # B, Hq, M, N


def tensors_of(function: Function, sizes: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    b, h, m, n = sizes
    m = n if function in SQUARE else m
    qkv = draw(b, h, m, WIDTH), draw(b, h // 2, n, WIDTH, seed=1), draw(b, h // 2, n, WIDTH, seed=2)
    captured = VARIANTS[function](b, h, m, n)
    return [x.to(dtype) if x.is_floating_point() else x for x in (*qkv, *captured)]


@functools.cache
def made(function: Function, dtype: torch.dtype) -> tuple[Backward, tuple[CapturedKernel, ...]]:
    backward = differentiate(lift(function, tensors_of(function, (2, 4, 70, 90), dtype)))
    return backward, tuple(compile_captured(backward, n, "cpu") for n in range(len(backward.captured)))


def known_of(backward: Backward, tensors: list[Tensor]) -> Known:
    """What the forward leaves, from fp64, and a gradient that arrives."""
    o, lse = reference(backward.spec, *[as_array(x) for x in tensors])
    d_o = output_gradient(backward.spec, tensors, 7)
    return Known(torch.from_numpy(o).to(d_o.dtype), torch.from_numpy(lse).float(), d_o)


def names(function: Function) -> str:
    return function.__name__


def marked(functions: Iterable[Function], quick: Container[Function]) -> list[ParameterSet]:
    """Each is a kernel to build: only some are built in the quick suite."""
    return [pytest.param(f, id=f.__name__, marks=() if f in quick else pytest.mark.slow) for f in functions]


@pytest.mark.parametrize("function", marked(VARIANTS, QUICK))
def test_is_what_autograd_gives(function):
    check(function, torch.float32)


@pytest.mark.parametrize("function", marked(HALF, HALF[:1]))
def test_bfloat16(function):
    check(function, torch.bfloat16)


@pytest.mark.slow
def test_captured_tensors_keep_their_own_type():
    def mixed(q, k, v, slopes):
        i, j = variants.positions(q, k)
        x = variants.scores(q, k).float() + slopes[:, None, None] * (j - i)
        return variants.weighted(variants.causal(x, q, k).softmax(-1).to(v.dtype), v)

    low, high = (tensors_of(variants.slopes, SIZES[1], dtype) for dtype in (torch.bfloat16, torch.float32))
    tensors = [*low[:3], *high[3:]]
    backward = differentiate(lift(mixed, tensors))
    known = known_of(backward, tensors)
    got = compile_captured(backward, 0, "cpu")(tensors, known)
    truth = expect_gradients(mixed, backward.spec, tensors, known.d_o)["slopes"]
    assert got.dtype is torch.float32
    assert truth.error(as_array(got.double())) <= truth.budget


def check(function: Function, dtype: torch.dtype) -> None:
    """Every captured gradient at all sizes; they share the largest low-precision error of each, as verification's do."""
    backward, kernels = made(function, dtype)
    assert kernels
    given = [tensors_of(function, sizes, dtype) for sizes in SIZES]
    known = [known_of(backward, tensors) for tensors in given]
    truths = [expect_gradients(function, backward.spec, x, y.d_o) for x, y in zip(given, known, strict=True)]
    for gradient, kernel in zip(backward.captured, kernels, strict=True):
        name = gradient.tensor.name
        low_error = max(truth[name].low_error for truth in truths)
        for tensors, left, found in zip(given, known, truths, strict=True):
            got, captured = kernel(tensors, left), tensors[3 + kernel.position]
            assert (got.shape, got.dtype) == (captured.shape, captured.dtype)
            truth = replace(found[name], low_error=low_error)
            assert truth.error(as_array(got.double())) <= truth.budget, name
        magnitude = max(float(np.abs(truth[name].exact).max()) for truth in truths)
        assert magnitude > 4 * max(truth[name].budget for truth in truths), f"{name}: nothing is told apart"


# Bits


@pytest.mark.parametrize("function", [f for f in VARIANTS if f in QUICK], ids=names)
def test_bits_are_the_same_on_any_number_of_threads(function):
    backward, (kernel,) = made(function, torch.float32)
    tensors = tensors_of(function, (2, 4, 131, 150))
    known = known_of(backward, tensors)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 4, 4, 4, 3, 2, 1):
            torch.set_num_threads(threads)
            found.append(kernel(tensors, known))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert_same_bits(found[0], other)


def test_bits_do_not_depend_on_the_place_in_a_batch():
    backward, (kernel,) = made(variants.key_bias, torch.float32)
    both = tensors_of(variants.key_bias, (2, 4, 150, 150))
    known = known_of(backward, both)
    assert known.lse is not None
    alone = Known(known.o[1:], known.lse[1:], known.d_o[1:])
    assert_same_bits(kernel(both, known)[1], kernel([x[1:] for x in both], alone)[0])


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    assert torch.equal(a.view(torch.int32), b.view(torch.int32))


# Meaning


@pytest.mark.parametrize("function", VARIANTS, ids=names)
def test_programs_mean_the_formula(function):
    check_meaning(function, tensors_of(function, (2, 2, 70, 140)))


def check_meaning(function: Function, tensors: list[Tensor]) -> None:
    """In exact arithmetic, with the instances of a grid run in several orders: no race, and the same bits."""
    backward = differentiate(lift(function, tensors))
    arrays = [as_array(x) for x in tensors]
    o, lse = reference(backward.spec, *arrays)
    d_o = as_array(draw(*o.shape, seed=3))
    dlse = as_array(draw(*lse.shape, seed=4)) if backward.spec.normaliser.kind is NormaliserKind.SOFTMAX else np.zeros(lse.shape)
    wanted = reference_backward(backward.spec, *arrays, do=d_o, dlse=dlse)
    for tensor, gradient in enumerate(backward.captured):
        total: object = 0
        for term in range(len(gradient.terms)):
            program = compile_term(backward, (tensor, term), "cpu").program
            inputs = [param.name for param in program.params if not param.is_output]
            named = dict(zip(inputs, arrays, strict=False)) | {"o": o, "lse": lse, "d_o": d_o, "d_lse": dlse}
            assert parse_program(str(program)) == program
            found = explore(program, {name: named[name] for name in inputs}, seeds=range(2), float_type=np.float64)
            assert not found.differences
            total = total + found.outputs["gradient"]
        name = gradient.tensor.name
        np.testing.assert_allclose(total, wanted[name], rtol=0, atol=1e-9 * max(1, np.abs(wanted[name]).max()))


# Through torch


def test_parameters_learn():
    """Parameters of four kinds at once; those that do not require grad have none."""

    def learned(q, k, v, table, slopes, cap, sinks):
        i, j = variants.positions(q, k)
        s = cap * torch.tanh(variants.scores(q, k) / cap) + table[(i - j).clamp(0, 31)].permute(2, 0, 1)
        s = variants.causal(s - slopes[:, None, None] * (i - j), q, k)
        column = sinks[None, :, None, None].expand(s.shape[0], -1, s.shape[2], 1)
        return variants.weighted(torch.cat([s, column], -1).softmax(-1)[..., :-1], v)

    qkv = draw(2, 4, 80, WIDTH), draw(2, 2, 80, WIDTH, seed=1), draw(2, 2, 80, WIDTH, seed=2)
    captured = [torch.nn.Parameter(x) for x in (draw(32, 4), draw(4).abs() * 0.1, torch.tensor(3.0), draw(4))]
    kernel = tw.compile(learned, example=(*qkv, *captured), backward=True, verify=False)
    d_o = draw(2, 4, 80, WIDTH, seed=5)
    wanted = torch.autograd.grad(learned(*qkv, *captured), captured, d_o)
    captured[1].requires_grad_(False)
    kernel(*qkv, *captured).backward(d_o)
    assert captured[1].grad is None
    for parameter, exact in zip(captured, wanted, strict=True):
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, exact, rtol=1e-4, atol=1e-4)


def compiled_slopes(**options: bool) -> tuple[tw.Kernel, list[Tensor]]:
    tensors = tensors_of(variants.slopes, (1, 2, 20, 20))
    return tw.compile(variants.slopes, example=tensors, backward=True, **options), tensors


def test_gradients_are_verified_and_reported():
    kernel, tensors = compiled_slopes()
    gradients = kernel.gradients_for(tensors)
    assert gradients.reports == {}
    tensors[3].requires_grad_()
    kernel(*tensors).sum().backward()
    assert tensors[3].grad is not None
    report = gradients.reports["slopes"]
    assert report.verified
    assert {row.output for row in report.rows if not row.skipped} == {"slopes"}


def test_torch_compile():
    kernel, tensors = compiled_slopes(verify=False)
    for x in tensors:
        x.requires_grad_()
    expected = torch.autograd.grad(kernel(*tensors).square().sum(), tensors)
    compiled = torch.compile(lambda *x: kernel(*x).square().sum(), backend="aot_eager")
    found = torch.autograd.grad(compiled(*tensors), tensors)
    for a, b in zip(expected, found, strict=True):
        assert_same_bits(a, b)


@pytest.mark.slow
def test_a_wrong_kernel_is_refused(monkeypatch):
    call = CapturedKernel.__call__
    monkeypatch.setattr(CapturedKernel, "__call__", lambda self, *given: call(self, *given) * 1.01)
    kernel, tensors = compiled_slopes()
    tensors[3].requires_grad_()
    with pytest.raises(VerificationError, match="gradient of slopes of slopes for cpu"):
        kernel(*tensors)


def test_what_only_the_mask_reads_has_no_gradient():
    def masked(q, k, v, threshold):
        return variants.weighted(variants.scores(q, k).masked_fill(threshold[:, None] < 0.0, -torch.inf).softmax(-1), v)

    tensors = [*tensors_of(variants.slopes, (1, 2, 20, 20))[:3], draw(20).abs()]
    kernel = tw.compile(masked, example=tensors, backward=True, verify=False)
    tensors[3].requires_grad_()
    kernel(*tensors).sum().backward()
    assert not tensors[3].grad.any()


@pytest.mark.parametrize("sizes", [(2, 2, 0, 20), (2, 2, 20, 0), (0, 2, 20, 20)], ids=str)
def test_no_pairs(sizes):
    kernel = made(variants.slopes, torch.float32)[1][0]
    tensors = tensors_of(variants.slopes, sizes)
    b, h, m, _ = sizes
    known = Known(torch.zeros(b, h, m, WIDTH), torch.zeros(b, h, m), torch.zeros(b, h, m, WIDTH))
    assert torch.equal(kernel(tensors, known), torch.zeros(2))


def test_names_of_the_program_are_no_obstacle():
    def clash(q, k, v, gradient, sums, m):
        return variants.weighted((variants.scores(q, k) + gradient[:, None, None] * sums[:, None] + m).softmax(-1), v)

    check_meaning(clash, [*tensors_of(variants.slopes, (1, 2, 20, 20))[:3], draw(2), draw(20), draw(20, 20)])


def test_a_target_that_cannot_scatter_says_so():
    function = variants.document_temperature
    backward = differentiate(lift(function, tensors_of(function, (1, 2, 20, 20))))
    wanted = r"gradient of captured tensor temperature: temperature\[.*several pairs meet; target triton"
    with pytest.raises(UnsupportedSpec, match=wanted):
        compile_captured(backward, 0, "triton", "sm_80")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("    d_o: f32[B, Hq, M, Dv],", "    do: f32[B, Hq, M, Dv],", "has no parameter 'd_o', which a gradient needs"),
        ("p * (dp - delta_tile)", "(dp - delta_tile) * p", r"has no ds = … p \* \(dp - delta_tile\)"),
    ],
)
def test_reference_programs_of_another_form(old, new, reason):
    text = str(reference_program("captured_rows"))
    assert old in text
    program = parse_program(text.replace(old, new).replace("load(d_o", "load(do" if "d_o" in old else "load(d_o"))
    backward = differentiate(lift(variants.gate, tensors_of(variants.gate, (1, 2, 20, 20))))
    with pytest.raises(ScheduleError, match=reason):
        transfer_captured(program, backward, 0, 0)
