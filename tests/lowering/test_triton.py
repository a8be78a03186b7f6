"""The triton target's meaning: generated sources in Triton's interpreter against the fp64 formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilewright.ir.parser import parse_program
from tilewright.ir.program import Program
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import Orchestration, transfer
from tilewright.kernels.dtypes import as_array
from tilewright.kernels.oracle import distance, expect
from tilewright.kernels.references import reference_program
from tilewright.lowering import TARGETS
from tilewright.lowering.triton.interpreter import interpret
from tilewright.lowering.triton.target import import_source
from tilewright.schedules.tuning import choose

from . import variants
from .variants import VARIANTS, Variant, named_sizes

SMALL = Orchestration((("m", 32), ("n", 16)))


def arguments(
    spec: AttentionSpec, batch: int = 1, heads: int = 4, rows: int = 37, columns: int = 53
) -> list[torch.Tensor]:
    return variants.arguments(spec, named_sizes(spec, batch, heads, rows, columns))


def program_of(spec: AttentionSpec, how: Orchestration = SMALL) -> Program:
    return parse_program(str(transfer(reference_program(), spec, how)))


def check(spec: AttentionSpec, tensors: list[torch.Tensor], program: Program | None = None) -> None:
    """The interpreted source within the budget of the low-precision reference, output and lse."""
    variants.check(spec, tensors, interpret(program or program_of(spec), tensors))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_computes_its_formula(name: str) -> None:
    spec = VARIANTS[name].spec()
    check(spec, arguments(spec, batch=2 if "[b" in VARIANTS[name].keep else 1))


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["causal", "softcap", "documents", "sink", "relu2"])
def test_low_precision(name: str, dtype: str) -> None:
    spec = VARIANTS[name].spec(dtype=dtype)
    check(spec, arguments(spec))


@pytest.mark.parametrize(("d", "dv"), [(8, 8), (80, 96), (96, 17), (128, 64)])
def test_head_sizes_that_are_no_powers_of_two(d: int, dv: int) -> None:
    spec = VARIANTS["causal"].spec(d=d, dv=dv)
    check(spec, arguments(spec, heads=2, rows=33, columns=40))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 64), (17, 16), (32, 15), (33, 31), (64, 1)])
@pytest.mark.parametrize("name", ["full", "causal"])
def test_tails(name: str, rows: int, columns: int) -> None:
    spec = VARIANTS[name].spec(d=16, dv=16, group=1)
    check(spec, arguments(spec, heads=1, rows=rows, columns=columns))


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (5, 0)])
def test_empty_sequences_are_defined(rows: int, columns: int) -> None:
    spec = VARIANTS["documents" if rows == columns else "causal"].spec(d=16, dv=16, group=1)
    o, lse = interpret(program_of(spec), arguments(spec, heads=2, rows=rows, columns=columns))
    assert o.shape == (1, 2, rows, 16)
    assert torch.equal(o, torch.zeros_like(o))
    assert torch.equal(lse, torch.full_like(lse, -torch.inf))


LAYOUTS = {
    "heads-inside": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "every-other-row": lambda t: torch.stack([t, torch.full_like(t, torch.nan)], 3).flatten(2, 3)[:, :, ::2],
    "inside-more": lambda t: torch.nn.functional.pad(t, (3, 5, 2, 2), value=torch.nan)[:, :, 2:-2, 3:-5],
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "one-batch-twice": lambda t: t[:1].expand_as(t),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout: str) -> None:
    spec = VARIANTS["causal"].spec(d=40, dv=16)
    tensors = [LAYOUTS[layout](tensor) for tensor in arguments(spec, batch=2)]
    assert not tensors[0].is_contiguous()
    check(spec, tensors)


@pytest.mark.parametrize("value", [1e4, -1e4, torch.inf, -torch.inf, torch.nan])
def test_extreme_logits(value: float) -> None:
    spec = VARIANTS["bias"].spec(d=16, dv=16, group=1)
    q, k, v, bias = arguments(spec, heads=1)
    bias[0, 3, 5], bias[0, 20, :] = value, value
    check(spec, [q, k, v, bias])


EDITS = {
    "one-sweep": [('part="full"', 'part="any"'), ("x = score(s, b, h, i, j) * 1.4426950408889634",
                   "x = where(keep(b, h, i, j) & (j < N), score(s, b, h, i, j) * 1.4426950408889634, -inf)")],
    "descending": [('part="full"', 'part="full", order="descending"'), ('part="partial"', 'part="partial", order="descending"')],
    "grid-order": [('order="longest_first"', 'order="descending"')],
    "launch": [('order="longest_first"', 'order="longest_first", warps=8'), ('part="full"', 'part="full", stages=2')],
    "other-tiles": [("tiles(M, 32)", "tiles(M, 16)"), ("tiles(N, 16", "tiles(N, 64")],
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", ["window", "documents"])
def test_edits_that_keep_the_meaning(name: str, edit: str) -> None:
    spec = VARIANTS[name].spec(d=16, dv=16, group=1)
    text = str(program_of(spec))
    for old, new in EDITS[edit]:
        assert old in text
        text = text.replace(old, new)
    if edit == "one-sweep":  # the second loop would visit the rest again
        first, _, second = text.partition('        for n in tiles(N, 16, where=keep(b, h, m, n), part="partial"):\n')
        text = first + second[second.index("        share = ") :]
    check(spec, arguments(spec, heads=2), parse_program(text))


BREAKS = [
    ("into=acc * rescale", "into=acc"),
    ("return j <= i", "return j < i"),
    ("mass * rescale + total", "mass + total"),
]


@pytest.mark.parametrize(("old", "new"), BREAKS)
def test_a_broken_edit_changes_the_kernel(old: str, new: str) -> None:
    """The kernel comes from the text alone: what is wrong in the text is wrong in the kernel."""
    spec = VARIANTS["causal"].spec(d=16, dv=16)
    text = str(program_of(spec))
    assert old in text
    tensors = arguments(spec)
    o, _ = interpret(parse_program(text.replace(old, new)), tensors)
    assert distance(as_array(o), expect(None, spec, tensors).o.exact) > 0.01


SUMS = """\
@program(C=24)
def sums(
    x: f32[R, C],
    weight: i16[R],
    total: out(f32[R]),
    double: out(f32[R, C]),
):
    def scaled(s: float, r: int):
        return s * 2.0

    scratch = alloc(f32[R, C])
    for r in grid(tiles(R, 16)):
        row = index(r)
        rows = load(x[r, :])
        store(scratch[r, :], scaled(rows, row))
    for t in grid(1):
        for step in range(0, (R + 15) // 16):
            if step < (R + 15) // 16:
                r2 = tile(R, 16, step)
                part = load(scratch[r2, :])
                most = reduce_max(part, axis=C)
                least = reduce_sum(part, axis=C)
                store(total[r2], f32(weight[index(r2)]) * (most + least))
                store(double[r2, :], part)
"""


def test_other_statements() -> None:
    """Two grids over a scratch buffer, range, if, tile, reductions over a padded axis, element loads, narrow integers."""
    x = -torch.rand(37, 24) - 1.0
    weight = torch.randint(1, 9, (37,), dtype=torch.int16)
    total, double = interpret(parse_program(SUMS), [x, weight])
    assert torch.equal(double, 2 * x)
    exact = weight.double() * (double.double().amax(1) + double.double().sum(1))
    np.testing.assert_allclose(total.numpy(), exact.numpy(), rtol=1e-5)


TWISTED = """\
@program(D=16)
def twisted(
    x: f32[R, D],
    y: f32[C, D],
    table: f32[T],
    ids: i32[T],
    twice: out(f32[R, C]),
    count: out(f32[C]),
    walked: out(f32[R]),
):
    def number(i: int, j: int):
        return f32(j) + 1.0

    for r in grid(tiles(R, 32)):
        a = load(x[r, :])
        start = 0
        total = full(f32[r], table[start])
        for step in range(0, 5):
            total = total + table[start]
            start = start + ids[start]
        store(walked[r], total)
        for c in tiles(C, 16):
            b = load(y[c, :])
            s = gemm(a, b)
            t = gemm(b, a)
            store(twice[r, c], s + t)
            w = number(index(r), index(c))
            rows = reduce_sum(w, axis=r)
            store(count[c], rows)
"""


def test_axes_out_of_order_and_names_bound_anew() -> None:
    """A product added to its transpose; a region that ignores an axis; an element load whose index changes in a loop."""
    x, y, table = torch.randn(30, 16), torch.randn(20, 16), torch.randn(9)
    ids = torch.tensor([2, 1, 1, 3, 0, 1, 1, 0, 0], dtype=torch.int32)
    twice, count, walked = interpret(parse_program(TWISTED), [x, y, table, ids])
    torch.testing.assert_close(twice, 2 * x @ y.T, rtol=1e-5, atol=1e-5)
    assert torch.equal(count, 32 * torch.arange(1.0, 21.0))
    visited = [0, 2, 3, 6, 7]
    torch.testing.assert_close(walked, (table[0] + table[visited].sum()).expand(30))


SUMMED = """\
@program(D=16)
def summed(
    x: f32[R, D],
    y: f32[D, E],
    total: out(f32[D, E]),
):
    for e in grid(tiles(E, 16)):
        store(total[:, e], 0.0)
    for r, e in grid(tiles(R, 32), tiles(E, 16)):
        a = load(x[r, :])
        b = load(y[:, e])
        c = gemm(a, b)
        d = gemm(a, c)
        reduce_add(total[:, e], d)
"""


def test_sums_from_many_programs() -> None:
    """reduce_add without an order: every program adds its rows' share."""
    x, y = torch.randn(70, 16), torch.randn(16, 40)
    (total,) = interpret(parse_program(SUMMED), [x, y])
    torch.testing.assert_close(total, x.T @ (x @ y), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_partial_tiles_on_both_sides_of_full_ones(order: str) -> None:
    spec = Variant(keep="(j <= i) & (i - j < 70)").spec(d=16, dv=16, group=1)
    text = str(program_of(spec, Orchestration((("m", 16), ("n", 16)))))
    text = text.replace('part="partial"', f'part="partial", order="{order}"')
    check(spec, arguments(spec, heads=1, rows=150, columns=140), parse_program(text))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_on_a_gpu(name: str, dtype: str) -> None:
    """The compiled kernel, with the tiles and tuning of this GPU."""
    target = TARGETS["triton"]
    spec = VARIANTS[name].spec(d=64, dv=64, dtype=dtype)
    program = program_of(spec, choose(spec, "triton", target.default_arch()))
    module = import_source(target.lower(program, target.default_arch()).source)
    for rows, columns in ((300, 333), (1, 64), (1024, 1024)):
        tensors = arguments(spec, batch=2, rows=rows, columns=columns)
        outputs = getattr(module, module.__all__[0])(*(tensor.cuda() for tensor in tensors))
        o = outputs[0] if isinstance(outputs, tuple) else outputs
        expected = expect(None, spec, tensors)
        assert distance(as_array(o.cpu()), expected.o.exact) <= expected.o.budget
