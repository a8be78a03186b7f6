"""Ragged, paged and split programs on the triton target: generated sources in Triton's interpreter against the formula."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from tilewright.ir.parser import parse_program
from tilewright.ir.program import Program
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import Orchestration, transfer
from tilewright.kernels.dtypes import to_torch
from tilewright.kernels.references import reference_program
from tilewright.lowering import TARGETS
from tilewright.lowering.triton.interpreter import _worker, interpret
from tilewright.lowering.triton.module import write_module
from tilewright.lowering.triton.target import import_source
from tilewright.schedules.tuning import SPLIT, choose

from .test_triton import arguments
from .variants import VARIANTS, Variant, check

TILES = Orchestration((("m", 16), ("n", 16)))
ROWS, COLUMNS = [5, 0, 19, 1], [7, 3, 36, 0]
KINDS = ("causal-bottom-right", "softcap", "alibi", "sink", "sigmoid")
# The last row sees the last column, so that what lies behind it would be seen as well.
VISIBLE = {name: replace(v, keep="j <= i + N - M") if v.keep == "j <= i" else v for name, v in VARIANTS.items()}
VISIBLE |= {"window": Variant(keep="(j <= i + N - M) & (i + N - M - j < 20)")}
Tensors = list[torch.Tensor]


def program_of(form: str, spec: AttentionSpec, how: Orchestration = TILES, **fixed: int) -> Program:
    reference = reference_program(form)
    reference = replace(reference, sizes=(*reference.sizes, *fixed.items()))
    return parse_program(str(transfer(reference, spec, how)))


def starts(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def drawn(spec: AttentionSpec, rows: int, columns: int, heads: int) -> Tensors:
    """q [rows, Hq, D], k and v [columns, Hkv, …] and the captured tensors, which have no row or column."""
    torch.manual_seed(rows + 7 * columns)
    sizes = {"Hq": heads, "Hkv": heads // spec.group, "D": spec.head_dim, "Dv": spec.value_dim}
    shapes = [(rows, heads, spec.head_dim), (columns, sizes["Hkv"], spec.head_dim), (columns, sizes["Hkv"], spec.value_dim)]
    shapes += [tuple(d if isinstance(d, int) else sizes[d] for d in t.dims) for t in spec.captured]
    return [torch.randn(shape).to(to_torch(t.dtype)) for shape, t in zip(shapes, spec.tensors, strict=True)]


def check_sequence(spec: AttentionSpec, tensors: Tensors, o: torch.Tensor, lse: torch.Tensor | None) -> None:
    """One sequence, rows first, against the formula; `lse` heads first."""
    q, k, v, *captured = tensors
    if 0 in (q.shape[0], k.shape[0]):
        assert torch.equal(o, torch.zeros_like(o))
        return
    found = [o.transpose(0, 1)[None], *([] if lse is None else [lse[None]])]
    check(spec, [*(x.transpose(0, 1)[None].contiguous() for x in (q, k, v)), *captured], found)


def check_ragged(spec: AttentionSpec, outputs: tuple[torch.Tensor, ...], tensors: Tensors) -> None:
    (q, k, v, *captured), (o, *lse) = tensors, outputs
    for at, to, first, last in zip(*(starts(ROWS)[n:].tolist() for n in (0, 1)), *(starts(COLUMNS)[n:].tolist() for n in (0, 1)), strict=False):
        sequence = [q[at:to], k[first:last], v[first:last], *captured]
        check_sequence(spec, sequence, o[at:to], lse[0][:, at:to] if lse else None)


def run_ragged(spec: AttentionSpec, heads: int) -> None:
    tensors = drawn(spec, sum(ROWS), sum(COLUMNS), heads)
    sizes = {"B": len(ROWS), "M": max(ROWS), "N": max(COLUMNS)}
    given = [*tensors, starts(ROWS), starts(COLUMNS)]
    check_ragged(spec, interpret(program_of("flash_ragged", spec), given, sizes), tensors)


@pytest.mark.parametrize("name", [*KINDS, "window"])
def test_sequences_of_any_length(name: str) -> None:
    run_ragged(VISIBLE[name].spec(d=16, dv=24, group=2), 4)


@pytest.mark.parametrize(("group", "heads", "dtype"), [(1, 2, "f32"), (3, 3, "bf16"), (4, 8, "f16")])
def test_sequences_whose_heads_share_keys(group: int, heads: int, dtype: str) -> None:
    run_ragged(VISIBLE["window"].spec(d=40, dv=16, group=group, dtype=dtype), heads)


def paged(tensors: Tensors, lengths: list[int], page: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Caches and block table for keys and values [sum of lengths, Hkv, …]; what no sequence has is NaN, or page -7."""
    most = max(-(-n // page) for n in lengths)
    table = torch.randperm(len(lengths) * most + 3)[: len(lengths) * most].reshape(-1, most).to(torch.int32)
    caches = [torch.full((len(lengths) * most + 3, page, *x.shape[1:]), torch.nan, dtype=x.dtype) for x in tensors[1:3]]
    first = 0
    for b, length in enumerate(lengths):
        for p in range(most):
            rows = slice(first + p * page, first + min((p + 1) * page, length))
            for cache, x in zip(caches, tensors[1:3], strict=True):
                part = x[rows] if p * page < length else x[:0]
                cache[int(table[b, p]), : len(part)] = part
        table[b, -(-length // page) :] = -7
        first += length
    return caches[0], caches[1], table


def run_paged(spec: AttentionSpec, page: int, rows: int, heads: int, form: str = "flash_paged", **fixed: int) -> Program:
    lengths = [21, 0, 40]
    tensors = drawn(spec, rows * len(lengths), sum(lengths), heads)
    k, v, table = paged(tensors, lengths, page)
    q = tensors[0].reshape(len(lengths), rows, heads, -1)
    program = short(program_of(form, spec, **fixed)) if "split" in form else program_of(form, spec, **fixed)
    given = [q, k, v, *tensors[3:], table, torch.tensor(lengths, dtype=torch.int32)]
    o, *lse = interpret(program, given, {"N": table.shape[1] * page})
    at = starts(lengths).tolist()
    for b in range(len(lengths)):
        sequence = [q[b], *(x[at[b] : at[b + 1]] for x in tensors[1:3]), *tensors[3:]]
        check_sequence(spec, sequence, o[b], lse[0][b] if lse else None)
    return program


@pytest.mark.parametrize("name", KINDS)
def test_pages(name: str) -> None:
    """Pages smaller than a tile, of a size known at run time."""
    run_paged(VISIBLE[name].spec(d=16, dv=16, group=3), page=5, rows=9, heads=3)


@pytest.mark.parametrize(("page", "is_gathered"), [(8, True), (16, False), (48, False), (40, True)])
def test_pages_of_a_fixed_size(page: int, is_gathered: bool) -> None:
    """A tile that lies in one page is addressed like a tile of a plain tensor: the table is read once for it."""
    spec = VISIBLE["window"].spec(d=16, dv=32, group=1, dtype="bf16")
    program = run_paged(spec, page, 17, 2, Page=page)
    assert ("k_rows" in write_module(program, "sm_90").source) == is_gathered


@pytest.mark.parametrize("name", [*KINDS, "window"])
def test_split_pages(name: str) -> None:
    program = run_paged(VISIBLE[name].spec(d=16, dv=16, group=3), 5, 2, 6, "flash_split_paged")
    assert "atomic_add" in write_module(program, "sm_90").source


@pytest.mark.parametrize(("page", "group"), [(16, 4), (8, 1)])
def test_split_pages_of_a_fixed_size(page: int, group: int) -> None:
    spec = VISIBLE["window"].spec(d=16, dv=32, group=group, dtype="bf16")
    run_paged(spec, page, 1, 2 * group, "flash_split_paged", Page=page)


def edited(program: Program, *edits: tuple[str, str]) -> Program:
    text = str(program)
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return parse_program(text)


def short(program: Program) -> Program:
    """A program that splits, with pieces of 16 or 32 columns and more."""
    if "columns(b) + 16383" in str(program):
        return edited(program, ("16383) // 16384 * 256, 512", "49) // 50 * 16, 16"), ("511) // 512, 64", "15) // 16, 4"))
    return edited(program, ("16383) // 16384 * 256, 512", "99) // 100 * 16, 32"))


def split_program(spec: AttentionSpec, *edits: tuple[str, str]) -> Program:
    return edited(short(program_of("flash_split", spec)), *edits)


@pytest.mark.parametrize("name", [*KINDS, "prefix", "bias-bf16", "row-sum", "dropout"])
def test_splits(name: str) -> None:
    spec = VISIBLE[name].spec(d=16, dv=24, group=2)
    tensors = arguments(spec, batch=2, rows=3, columns=101)
    check(spec, tensors, interpret(split_program(spec), tensors))


@pytest.mark.parametrize(("group", "heads", "rows", "columns"), [(1, 2, 1, 33), (3, 3, 1, 250), (4, 8, 2, 31), (4, 4, 9, 64), (6, 6, 1, 0)])
def test_splits_of_heads_that_share_keys(group: int, heads: int, rows: int, columns: int) -> None:
    spec = VARIANTS["causal-bottom-right"].spec(d=32, dv=16, group=group, dtype="bf16")
    tensors = arguments(spec, heads=heads, rows=rows, columns=columns)
    check(spec, tensors, interpret(split_program(spec), tensors))


BACKWARDS = (
    ("for b, g, split, m in grid", "for b, g, turn, m in grid"),
    ("        h = g", "        split = splits(N) - 1 - turn\n        h = g"),
)


def test_bits_do_not_depend_on_who_arrives_last() -> None:
    """The same pieces in the reverse order of arrival."""
    spec = VARIANTS["softcap"].spec(d=16, dv=16, group=2)
    tensors = arguments(spec, batch=2, rows=2, columns=300)
    first, middle, last = str(split_program(spec)).partition("    for b, g, m in grid")
    for old, new in BACKWARDS:
        assert old in first
        first = first.replace(old, new)
    backwards = parse_program(first + middle + last)
    assert "atomic_add" in write_module(backwards, "sm_90").source
    for one, other in zip(interpret(split_program(spec), tensors), interpret(backwards, tensors), strict=True):
        assert torch.equal(one, other)


def _counters_after(text: str, tensors: Tensors) -> list[torch.Tensor]:
    module: Any = import_source(write_module(parse_program(text), "sm_90").source)
    kept, make = [], module.arrival_counts
    module.arrival_counts = lambda *given: kept.append(make(*given)) or kept[-1]
    try:
        module.variant(*tensors)
    finally:
        module.arrival_counts = make
    return kept


def test_counters_are_zero_again() -> None:
    spec = VARIANTS["full"].spec(d=16, dv=16, group=4)
    tensors = arguments(spec, batch=2, rows=5, columns=90)
    (counters,) = _worker().submit(_counters_after, str(split_program(spec)), tensors).result()
    assert torch.equal(counters, torch.zeros(2 * 1 * 2, dtype=torch.int32))


def _launched(text: str, tensors: Tensors, sizes: dict[str, int]) -> Tensors:
    program = parse_program(text)
    launch = TARGETS["triton"].load(TARGETS["triton"].lower(program, "sm_90"), program)
    made = {**dict(program.sizes), **sizes}
    outputs = [
        torch.empty([d if isinstance(d, int) else made[d] for d in p.dims], dtype=to_torch(p.dtype))
        for p in program.params
        if p.is_output
    ]
    launch([*tensors, *outputs], sizes)
    return outputs


def test_a_launch_takes_sizes_that_no_input_has() -> None:
    """The target's launch, as kernels use it: every size by name, outputs allocated by the caller."""
    spec = VISIBLE["window"].spec(d=16, dv=16, group=2)
    tensors = drawn(spec, sum(ROWS), sum(COLUMNS), 2)
    sizes = {"B": len(ROWS), "M": 32, "N": 64, "Hq": 2, "Hkv": 1, "Tq": sum(ROWS), "Tk": sum(COLUMNS), "Starts": len(ROWS) + 1}
    given = [*tensors, starts(ROWS), starts(COLUMNS)]
    outputs = _worker().submit(_launched, str(program_of("flash_ragged", spec)), given, sizes).result()
    check_ragged(spec, tuple(outputs), tensors)


def test_counters_are_kept_for_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = import_source(write_module(split_program(VARIANTS["full"].spec()), "sm_90").source)
    stream, device, is_captured = type("Stream", (), {"cuda_stream": 7})(), torch.device("cuda:0"), False
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda count, dtype, device: zeros(count, dtype=dtype))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: is_captured)
    monkeypatch.setattr(module, "ARRIVALS", {})
    first = module.arrival_counts(6, device)
    assert module.arrival_counts(1024, device) is first
    assert module.arrival_counts(1025, device).numel() >= 1025
    stream.cuda_stream = 8
    other = module.arrival_counts(6, device)
    assert other is not first
    is_captured = True
    assert module.arrival_counts(6, device) is not other


APART = {
    "pieces that may be none": ("(columns + length(columns) - 1) // length(columns), 1)", "(columns + length(columns) - 1) // length(columns), 0)"),
    "parts of another head": ("load(peak_split[b, g, c, m])", "load(peak_split[b, Hkv - 1 - g, c, m])"),
    "parts without a head": ("[b, g, c, m]", "[b, 0, c, m]"),
    "other instances": ("for b, g, m in grid(B, Hkv, tiles(", "for b, g, m in grid(B, Hkv + 0, tiles("),
    "an input that is written": ("store(lse[b, h, i]", "store(peak_split[b, g, 0, m], peak)\n        store(lse[b, h, i]"),
    "elements of a part": ("peak = full(f32[m], -inf)", "peak = full(f32[m], peak_split[0, 0, 0, 0])"),
}  # fmt: skip


@pytest.mark.parametrize("why", APART)
def test_grids_that_stay_two_launches(why: str) -> None:
    source = write_module(split_program(VARIANTS["full"].spec(), APART[why]), "sm_90").source
    assert ("atomic_add" in source, source.count("_kernel_2[(programs,)]")) == (False, 1)


def test_two_launches_mean_the_same() -> None:
    spec = VARIANTS["causal-bottom-right"].spec(d=16, dv=16, group=2)
    tensors = arguments(spec, rows=2, columns=100)
    program = split_program(spec, ("for b, g, m in grid(B, Hkv, tiles(", "for b, g, m in grid(B, Hkv + 0, tiles("))
    for one, other in zip(interpret(split_program(spec), tensors), interpret(program, tensors), strict=True):
        assert torch.equal(one, other)


def on_gpu(program: Program, tensors: Tensors, sizes: dict[str, int]) -> tuple[torch.Tensor, ...]:
    target = TARGETS["triton"]
    module = import_source(target.lower(program, target.default_arch()).source)
    outputs = getattr(module, module.__all__[0])(*(tensor.cuda() for tensor in tensors), **sizes)
    return tuple(o.cpu() for o in (outputs if isinstance(outputs, tuple) else (outputs,)))


GPU = [(64, "bf16", 1), (128, "bf16", 3), (128, "f16", 4), (64, "f32", 2), (256, "bf16", 4)]
NAMED = [f"D{d}-{dtype}-G{group}" for d, dtype, group in GPU]


@pytest.mark.gpu
@pytest.mark.parametrize(("d", "dtype", "group"), GPU, ids=NAMED)
def test_sequences_on_a_gpu(d: int, dtype: str, group: int) -> None:
    spec = VISIBLE["window"].spec(d=d, dv=d, group=group, dtype=dtype)
    tensors = drawn(spec, sum(ROWS), sum(COLUMNS), 2 * group)
    sizes = {"B": len(ROWS), "M": max(ROWS), "N": max(COLUMNS)}
    program = program_of("flash_ragged", spec, Orchestration((("m", 64), ("n", 32))))
    check_ragged(spec, on_gpu(program, [*tensors, starts(ROWS), starts(COLUMNS)], sizes), tensors)


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["flash_paged", "flash_split_paged"])
@pytest.mark.parametrize("page", [16, 256])
@pytest.mark.parametrize(("d", "dtype", "group"), GPU, ids=NAMED)
def test_pages_on_a_gpu(d: int, dtype: str, group: int, page: int, form: str) -> None:
    spec = VISIBLE["causal-bottom-right"].spec(d=d, dv=d, group=group, dtype=dtype)
    lengths, rows = [700, 1, 0, 333], 5
    tensors = drawn(spec, rows * len(lengths), sum(lengths), 2 * group)
    k, v, table = paged(tensors, lengths, page)
    q = tensors[0].reshape(len(lengths), rows, 2 * group, d)
    program = program_of(form, spec, Orchestration((("m", 16), ("n", 32))), Page=page)
    given = [q, k, v, table, torch.tensor(lengths, dtype=torch.int32)]
    o, lse = on_gpu(program, given, {"N": table.shape[1] * page})
    at = starts(lengths).tolist()
    for b in range(len(lengths)):
        check_sequence(spec, [q[b], *(x[at[b] : at[b + 1]] for x in tensors[1:3])], o[b], lse[b])


@pytest.mark.gpu
@pytest.mark.parametrize(("d", "dtype", "group"), GPU, ids=NAMED)
def test_splits_on_a_gpu(d: int, dtype: str, group: int) -> None:
    """Right, and the same bits at every launch: the order of arrival varies, the order of merging does not."""
    spec = VARIANTS["causal-bottom-right"].spec(d=d, dv=d, group=group, dtype=dtype)
    program = program_of("flash_split", spec, choose(spec, "triton", TARGETS["triton"].default_arch(), SPLIT))
    for columns in (1, 513, 5000, 40001):
        tensors = arguments(spec, batch=2, heads=2 * group, rows=1, columns=columns)
        outputs = on_gpu(program, tensors, {})
        for _ in range(20):
            for one, other in zip(outputs, on_gpu(program, tensors, {}), strict=True):
                assert torch.equal(one, other)
        check(spec, tensors, outputs)


@pytest.mark.gpu
def test_splits_in_a_captured_graph() -> None:
    spec = VARIANTS["full"].spec(d=64, dv=64, group=4, dtype="bf16")
    tensors = [x.cuda() for x in arguments(spec, batch=2, heads=8, rows=1, columns=3000)]
    target = TARGETS["triton"]
    module: Any = import_source(target.lower(program_of("flash_split", spec, Orchestration((("n", 64),))), target.default_arch()).source)
    wanted = [x.clone() for x in module.variant(*tensors)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = module.variant(*tensors)
    for _ in range(5):
        for x in found:
            x.zero_()
        graph.replay()
        assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True))
