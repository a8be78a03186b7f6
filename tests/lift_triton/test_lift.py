"""Lifting Triton kernels: the programs' text, their meaning against Triton's interpreter, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tilewright.ir.errors import ParseError, UnsupportedKernel, VerificationError
from tilewright.ir.interpreter import interpret
from tilewright.ir.lift.triton import lift_triton
from tilewright.ir.lift.triton.selfcheck import distance, verify_lift
from tilewright.ir.lift.triton.text import parse_ttir
from tilewright.ir.parser import parse_program
from tilewright.ir.program import RangeLoop, TileLoop, statements

from .kernels import NAMES, lifted, module


@pytest.mark.parametrize("name", NAMES)
def test_text(name: str, golden) -> None:
    """Golden text; and the text is the program."""
    program = lifted(name).program
    golden(f"lift_triton/{name}", str(program))
    assert parse_program(str(program)) == program


@pytest.mark.parametrize("name", NAMES)
def test_program_computes_the_formula(name: str) -> None:
    """The program in exact arithmetic against the fixture's plain PyTorch function in fp64."""
    fixture = module(name)
    for sizes in fixture.SMALL:
        example = fixture.inputs(**sizes)
        named = lifted(name).arguments(fixture.launch, example)
        arrays = {n: v.float().numpy() if torch.is_tensor(v) and v.is_floating_point() else v for n, v in named.items()}
        arrays = {n: v.numpy() if torch.is_tensor(v) else v for n, v in arrays.items()}
        given = {n: v for n, v in arrays.items() if isinstance(v, int)}
        found = interpret(
            lifted(name).program,
            {n: v for n, v in arrays.items() if n not in given},
            sizes=given,
            float_type=np.float64,
        )
        wide = [x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in example]
        truth = fixture.reference(*wide)
        truth = truth if isinstance(truth, tuple) else (truth,)
        for output, expected in zip(found.values(), truth, strict=False):
            bound = 2e-3 if name == "backward_passes" else 1e-5  # backward reads o and lse in low precision
            assert distance(output, expected.detach().numpy()) <= bound * max(1.0, float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_kernel_and_program_agree(name: str) -> None:
    """Triton's interpreter on the kernel, ours on the program, on sizes with and without ragged ends."""
    fixture = module(name)
    found = verify_lift(lifted(name), fixture.launch, [fixture.inputs(**sizes) for sizes in fixture.SMALL])
    assert found
    assert all(item.is_equal for item in found)


@pytest.mark.slow
def test_a_wrong_program_is_seen() -> None:
    """A mask that is off by one key is further from the kernel than rounding."""
    fixture, right = module("tutorial_stages"), lifted("tutorial_stages")
    text = str(right.program).replace("index(n) <= index(m)", "index(n) < index(m)")
    assert text != str(right.program)
    wrong = replace(right, program=parse_program(text))
    with pytest.raises(VerificationError, match="example 0, output o"):
        verify_lift(wrong, fixture.launch, [fixture.inputs(B=1, H=1, N=128)])


def test_the_orchestration_survives() -> None:
    """Order, stages and warps of the launch are in the program."""
    loops = [s for s in statements(lifted("bias_lazy").program.body) if isinstance(s, TileLoop)]
    assert [(loop.order, loop.tiles.tile) for loop in loops] == [("descending", 32)]
    loops = [s for s in statements(lifted("sigmoid_bnhd").program.body) if isinstance(s, TileLoop)]
    assert [loop.stages for loop in loops] == [3]
    loops = [s for s in statements(lifted("tutorial_stages").program.body) if isinstance(s, RangeLoop)]
    assert [loop.stages for loop in loops] == [3, 3]
    (grid,) = lifted("window_helper").program.body
    assert (grid.order, grid.warps) == ("descending", 8)


def test_numbers_that_triton_would_specialise_make_no_other_program() -> None:
    """Sizes of 1 and multiples of 16 in the first example change nothing."""
    fixture = module("softcap_pointers")
    plain = [fixture.inputs(**sizes) for sizes in fixture.EXAMPLES]
    special = [fixture.inputs(B=1, Hq=32, Hkv=16, M=64, N=128), *plain]
    assert str(lift_triton(fixture.launch, special, "x").program) == str(
        lift_triton(fixture.launch, plain, "x").program
    )


# What is refused


@triton.jit
def _cumulative(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr + at, tl.cumsum(x, 0), mask=at < n)


@triton.jit
def _copy(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0.0), mask=at < n)


@triton.jit
def _least(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows = tl.program_id(1)
    x = tl.load(x_ptr + rows * n + at, mask=at < n, other=0.0)
    tl.store(y_ptr + rows, tl.min(x, 0))


def _launcher(kernel, prepare=lambda x: x, finish=lambda y: y, number=lambda x: x.shape[0]):
    def launch(x):
        y = torch.empty_like(x)
        kernel[(triton.cdiv(x.shape[0], 64), 1)](prepare(x), y, number(x), BLOCK=64)
        return finish(y)

    return launch


EXAMPLES = [(torch.ones(100),), (torch.ones(333),), (torch.ones(1027),)]


def test_a_kernel_that_copies_is_lifted() -> None:
    text = str(lift_triton(_launcher(_copy), EXAMPLES, "copied").program)
    assert "store(y[m], x_tile)" in text.replace("loaded", "x_tile")


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (_launcher(_cumulative), r"test_lift\.py:\d+: .*\(operation tt\.scan\)"),
        (_launcher(_least), r"test_lift\.py:\d+: a reduction by arith\.minnumf.*\(operation tt\.reduce\)"),
        (_launcher(_copy, prepare=lambda x: x * 2.0), "is computed by the launcher before the launch"),
        (_launcher(_copy, finish=lambda y: y.sum()), "result 0 of the launcher is computed after its last launch"),
        (_launcher(_copy, number=lambda x: x.shape[0] % 7 + 3), "argument n of _copy is .* no expression"),
        (lambda x: x, "launched no Triton kernel"),
        (lambda x: x.missing, "the launcher failed on CPU tensors: AttributeError"),
    ],
)
def test_what_is_out_of_reach_is_named(launch, message: str) -> None:
    with pytest.raises(UnsupportedKernel, match=message):
        lift_triton(launch, EXAMPLES, "x")


def test_one_example_is_not_enough() -> None:
    with pytest.raises(UnsupportedKernel, match="at least two examples"):
        lift_triton(_launcher(_copy), EXAMPLES[:1])


@pytest.mark.parametrize(
    "text", ["tt.func", "module { tt.func @f() { %x = ", "tt.func @f() {\x00}", "tt.func @f(%a: i32"]
)
def test_text_that_is_no_ttir_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse_ttir(text)


def test_deep_nesting_is_refused() -> None:
    text = "tt.func @f() " + "{ scf.if %c " * 100
    with pytest.raises(ParseError, match="nested too deeply"):
        parse_ttir(text)
