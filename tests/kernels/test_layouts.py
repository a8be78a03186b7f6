"""Sequences laid end to end and paged caches: every sequence as if it were alone, and bad tables refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tilewright.ir.errors import TilewrightError, VerificationError
from tilewright.ir.parser import parse_program, parse_spec
from tilewright.ir.spec import AttentionSpec
from tilewright.kernels.compiled import Stages, lower_program
from tilewright.kernels.layout_arguments import LAYOUTS
from tilewright.kernels.layout_forms import compile_layout
from tilewright.kernels.layout_verification import verify_layout
from tilewright.kernels.layouts import LayoutKernel
from tilewright.kernels.verification import Subject

from .conftest import HEAD_DIM, causal_spec

SPECS = {
    "window-softcap": ("", "20.0 * tanh(s * 0.05)", "(j <= i + N - M) & (i + N - M - j < 40)", "softmax()"),
    "alibi": (", slopes: f32[Hq]", "s * 0.2 - slopes[h] * f32(i + N - M - j)", "j <= i + N - M", "softmax()"),
    "bias": (", bias: f32[B, 1, M, N]", "s * 0.2 + bias[b, 0, i, j]", "True", "softmax()"),
    "lengths": (", lengths: i64[B]", "s * 0.2", "j < lengths[b]", "softmax()"),
    "sink": (", sinks: f32[Hq]", "s * 0.2", "j <= i", "softmax(sink=sinks[h])"),
    "sigmoid": ("", "s * 0.2", "j <= i", "elementwise()"),
}
RUNS = [("alibi", "ragged"), ("sigmoid", "ragged"), ("window-softcap", "paged"), ("lengths", "paged"), ("sink", "paged")]
SLOW = [
    ("window-softcap", "ragged"), ("lengths", "ragged"), ("sink", "ragged"), ("bias", "ragged"),
    ("alibi", "paged"), ("bias", "paged"), ("sigmoid", "paged"),
]  # fmt: skip


def spec_of(name: str, dtype: str = "f32", group: int = 3) -> AttentionSpec:
    captured, score, keep, normaliser = SPECS[name]
    weight = "    def weight(s: float, b: int, h: int, i: int, j: int):\n        return sigmoid(s - log(f32(N)))\n\n"
    return parse_spec(f"""@attention(D=24, Dv=16, group={group})
def variant(q: {dtype}[B, Hq, M, D], k: {dtype}[B, Hkv, N, D], v: {dtype}[B, Hkv, N, Dv]{captured}):
    def score(s: float, b: int, h: int, i: int, j: int):
        return {score}

    def keep(b: int, h: int, i: int, j: int):
        return {keep}

{weight if normaliser == "elementwise()" else ""}    return {normaliser}
""")


def example_of(spec: AttentionSpec) -> tuple[Tensor, ...]:
    sizes = {"B": 2, "Hq": 2 * spec.group, "Hkv": 2, "M": 300, "N": 300, "D": 24, "Dv": 16}
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for tensor in spec.tensors:
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in tensor.dims]
        is_float = tensor.dtype.value.startswith(("f", "bf"))
        tensors.append(torch.randn(shape, generator=generator) if is_float else torch.randint(1, 150, shape))
    return tuple(tensors)


@pytest.mark.parametrize(("name", "layout"), [*RUNS, *(pytest.param(*run, marks=pytest.mark.slow) for run in SLOW)])
def test_every_sequence_is_attention_of_its_own(private_cache: object, name: str, layout: str) -> None:
    spec, few = spec_of(name), name == "sink"
    compiled = compile_layout(spec, LAYOUTS[layout].form, "cpu", None, few, Stages())
    report = verify_layout(compiled, Subject(spec, None, example_of(spec)), LAYOUTS[layout], few)
    assert report.verified, str(report)
    assert report.cases > 6


BUGS = {
    "one column more": ("ragged", "bias", "where(j < columns(b)", "where(j <= columns(b)"),
    "the longest sequence's diagonal": ("ragged", "window-softcap", "i + columns(b)", "i + N"),
    "the first sequence's values": ("ragged", "bias", "load(v[cu_k[b] + j,", "load(v[cu_k[0] + j,"),
    "one head for all": ("ragged", "bias", "load(q[cu_q[b] + i, h,", "load(q[cu_q[b] + i, 0,"),
    "pages in order": ("paged", "bias", "block_table[b, j // Page]", "j // Page"),
    "another page size": ("paged", "bias", "j % Page", "j % 4"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_program_is_found_out(private_cache: object, bug: str) -> None:
    layout, name, old, new = BUGS[bug]
    spec = spec_of(name, group=1)
    good = compile_layout(spec, LAYOUTS[layout].form, "cpu", None, True, Stages())  # unpacked: the text says it all
    text = str(good.program)
    assert old in text
    compiled = lower_program(parse_program(text.replace(old, new)), "cpu", spec=spec)
    assert not verify_layout(compiled, Subject(spec, None, example_of(spec)), LAYOUTS[layout], True).verified


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]
    scores = q @ k.transpose(-1, -2) * 0.25
    scores = scores.masked_fill(j > i + k.shape[2] - q.shape[2], float("-inf"))
    return torch.softmax(scores, -1) @ v


def starts(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def ragged(lengths: list[int], heads: int = 3, groups: int = 1, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    total = sum(lengths)
    return [torch.randn(total, n, HEAD_DIM, generator=generator).to(dtype) for n in (heads, groups, groups)]


@pytest.fixture(scope="module")
def kernel(private_cache: object) -> LayoutKernel:
    return LayoutKernel(attention, "ragged", "cpu")


def test_a_function_runs_on_sequences_of_any_length(kernel: LayoutKernel) -> None:
    for lengths in ([5, 0, 33, 1], [200], [1, 1, 1], [0, 0]):
        q, k, v = ragged(lengths)
        cu = starts(lengths)
        o, lse = kernel(q, k, v, cu_q=cu, cu_k=cu.long())
        assert lse is not None
        for first, last in zip(cu.tolist(), cu.tolist()[1:], strict=False):
            part = [x[first:last].transpose(0, 1)[None].double() for x in (q, k, v)]
            torch.testing.assert_close(o[first:last].transpose(0, 1)[None].double(), attention(*part), rtol=0, atol=2e-6)
            scores = part[0] @ part[1].transpose(-1, -2) * 0.25
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
            torch.testing.assert_close(lse[:, first:last].double(), scores.logsumexp(-1)[0], rtol=0, atol=2e-6)
    assert len(kernel.compiled) == 1
    assert kernel.compiled[0].report is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_the_batch(kernel: LayoutKernel, dtype: torch.dtype) -> None:
    q, k, v = ragged([70], dtype=dtype)
    alone = kernel(q, k, v, cu_q=starts([70]), cu_k=starts([70]))
    for before, after in (([3, 131], [2]), ([], [64, 64]), ([129], [])):
        others = ragged([sum(before)], dtype=dtype), ragged([sum(after)], dtype=dtype)
        together = [torch.cat([x, y, z]) for x, y, z in zip(others[0], (q, k, v), others[1], strict=True)]
        cu = starts([*before, 70, *after])
        o, lse = kernel(*together, cu_q=cu, cu_k=cu)
        here = slice(sum(before), sum(before) + 70)
        assert torch.equal(o[here], alone[0])
        assert torch.equal(lse[:, here], alone[1])  # type: ignore[index, arg-type]


def test_rows_behind_the_last_sequence_give_zero(kernel: LayoutKernel) -> None:
    q, k, v = ragged([40])
    out = torch.full_like(q, float("nan"))
    o, lse = kernel(q, k, v, cu_q=starts([30]), cu_k=starts([40]), out=out)
    assert o is out
    assert lse is not None
    assert (o[30:] == 0).all()
    assert lse[:, 30:].isneginf().all()
    assert not o[:30].isnan().any()


@pytest.mark.parametrize("rows", [1, 7, 20])
def test_pages_in_any_order_and_queries_of_any_strides(private_cache: object, rows: int) -> None:
    paged = LayoutKernel(causal_spec(), "paged", "cpu", verify=False)
    generator = torch.Generator().manual_seed(rows)
    lengths, page = [50, 0, 33], 8
    table = torch.randperm(30, generator=generator)[:24].reshape(3, 8)
    k, v = (torch.randn(30, page, 2, HEAD_DIM, generator=generator) for _ in range(2))
    q = torch.randn(3, 4, rows, HEAD_DIM, generator=generator)  # heads before rows
    spoiled = table.clone()
    spoiled[1], spoiled[2, 5:] = 10**6, -1  # pages that no key is in
    o, lse = paged(q.transpose(1, 2), k, v, block_table=spoiled, lengths=torch.tensor(lengths))
    assert lse is not None
    for b, n in enumerate(lengths):
        keys, values = (x[table[b]].flatten(0, 1)[:n].transpose(0, 1)[None].double() for x in (k, v))
        scores = q[b : b + 1].double() @ keys.repeat_interleave(2, 1).transpose(-1, -2) * 0.25
        hidden = torch.arange(n)[None, :] > torch.arange(rows)[:, None]
        scores = scores.masked_fill(hidden, float("-inf"))
        wanted = (torch.softmax(scores, -1) @ values.repeat_interleave(2, 1)) if n else torch.zeros(1, 4, rows, HEAD_DIM)
        torch.testing.assert_close(o[b].transpose(0, 1)[None].double(), wanted.double(), rtol=0, atol=2e-6)
        torch.testing.assert_close(lse[b].double(), scores.logsumexp(-1)[0], rtol=0, atol=2e-6)


Change = Callable[[dict[str, Any]], object]
RAGGED_FAULTS: dict[str, tuple[Change, str]] = {
    "starts late": (lambda a: a.update(cu_q=torch.tensor([1, 5, 12])), "cu_q starts at 1; wanted 0"),
    "falls": (lambda a: a.update(cu_k=torch.tensor([0, 9, 5])), "cu_k falls from 9 to 5 at sequence 1"),
    "ends outside": (lambda a: a.update(cu_k=torch.tensor([0, 5, 13])), "cu_k ends at 13, but k has 12 rows"),
    "other counts": (lambda a: a.update(cu_k=torch.tensor([0, 12])), "cu_q is for 2 sequences, cu_k for 1"),
    "no numbers": (lambda a: a.update(cu_q=torch.tensor([], dtype=torch.int32)), r"cu_q: shape \(0,\); wanted \[B \+ 1\]"),
    "floats": (lambda a: a.update(cu_q=torch.tensor([0.0, 5.0, 12.0])), "cu_q: got torch.float32, wanted a tensor of int32"),
    "a list": (lambda a: a.update(cu_q=[0, 5, 12]), "cu_q: got list"),
    "too long": (lambda a: a.update(max_q=6), "max_q=6, but the longest sequence has 7"),
    "dense": (lambda a: a.update(q=torch.zeros(1, 2, 12, 16)), r"q: rank 4, .* wanted \[Tq, Hq, D\]"),
    "heads": (lambda a: a.update(q=torch.zeros(12, 3, 16)), "Hq=3 heads and k has Hkv=2"),
    "widths": (lambda a: a.update(k=torch.zeros(12, 2, 8)), "k: size 8 for D"),
    "types": (lambda a: a.update(v=torch.zeros(12, 2, 16, dtype=torch.bfloat16)), "v: got torch.bfloat16, wanted torch.float32"),
    "gradients": (lambda a: a["q"].requires_grad_(True), "requires grad"),
    "another spec": (lambda a: a.update(q=torch.zeros(12, 2, 16)), "Hq=2, Hkv=2; .* Hq = 2 x Hkv|this kernel is for"),
}  # fmt: skip
PAGED_FAULTS: dict[str, tuple[Change, str]] = {
    "a page outside": (lambda a: a["block_table"].__setitem__((1, 1), 6), r"block_table\[1, 1\] is 6; the cache has pages 0..5"),
    "a negative page": (lambda a: a["block_table"].__setitem__((0, 0), -1), r"block_table\[0, 0\] is -1"),
    "longer than its table": (lambda a: a["lengths"].__setitem__(0, 13), r"lengths\[0\] is 13; .* 3 pages of 4, so wanted 0..12"),
    "a negative length": (lambda a: a["lengths"].__setitem__(1, -1), r"lengths\[1\] is -1"),
    "another batch": (lambda a: a.update(lengths=torch.tensor([1, 2, 3])), r"lengths: shape \(3,\); wanted \[B\] with B=2"),
    "a flat table": (lambda a: a.update(block_table=torch.arange(6)), r"block_table: shape \(6,\)"),
}  # fmt: skip


def ragged_call() -> dict[str, Any]:
    return {"q": torch.zeros(12, 4, 16), "k": torch.zeros(12, 2, 16), "v": torch.zeros(12, 2, 16),
            "cu_q": torch.tensor([0, 5, 12]), "cu_k": torch.tensor([0, 5, 12])}  # fmt: skip


def paged_call() -> dict[str, Any]:
    return {"q": torch.zeros(2, 3, 4, 16), "k": torch.zeros(6, 4, 2, 16), "v": torch.zeros(6, 4, 2, 16),
            "block_table": torch.tensor([[0, 1, 2], [3, 4, 5]]), "lengths": torch.tensor([9, 8])}  # fmt: skip


def refused(layout: str, call: dict[str, Any], reason: str) -> None:
    q, k, v = (call.pop(name) for name in "qkv")
    kernel = LayoutKernel(causal_spec(), layout, "cpu", verify=False)
    with pytest.raises((TilewrightError, TypeError), match=reason):
        kernel(q, k, v, **call)
    assert not kernel._plans


@pytest.mark.parametrize("fault", RAGGED_FAULTS)
def test_bad_sequences_are_refused(fault: str) -> None:
    change, reason = RAGGED_FAULTS[fault]
    call = ragged_call()
    change(call)
    refused("ragged", call, reason)


@pytest.mark.parametrize("fault", PAGED_FAULTS)
def test_bad_tables_are_refused(fault: str) -> None:
    change, reason = PAGED_FAULTS[fault]
    call = paged_call()
    change(call)
    refused("paged", call, reason)


def test_arguments_of_another_layout_are_refused() -> None:
    refused("ragged", {**ragged_call(), "lengths": torch.tensor([1])}, "takes no argument 'lengths'; it takes cu_k, cu_q")
    refused("paged", {**paged_call(), "block_table": None}, "paged attention needs block_table=")
    with pytest.raises(TilewrightError, match="layout 'dense': wanted one of ragged, paged"):
        LayoutKernel(causal_spec(), "dense")


def test_captured_tables_must_reach_as_far_as_a_sequence(private_cache: object) -> None:
    spec = parse_spec("""@attention(D=16, Dv=16, group=1)
def table(q: f32[B, Hq, M, D], k: f32[B, Hkv, N, D], v: f32[B, Hkv, N, Dv], bias: f32[Far]):
    def score(s: float, b: int, h: int, i: int, j: int):
        return s + bias[abs(i - j)]

    def keep(b: int, h: int, i: int, j: int):
        return True

    return softmax()
""")
    kernel = LayoutKernel(spec, "ragged", "cpu", verify=False)
    q, k, v = ragged([4, 9], heads=1)
    bias = torch.zeros(9)
    kernel(q, k, v, bias, cu_q=starts([4, 9]), cu_k=starts([4, 9]))
    with pytest.raises(TilewrightError, match=r"bias: read at .* = 0..9 of dimension 0, which has size 9 \(M=10, N=10\)"):
        kernel(q, k, v, bias, cu_q=starts([3, 10]), cu_k=starts([3, 10]))


def test_a_kernel_that_computes_something_else_is_not_given_out(private_cache: object, monkeypatch: Any) -> None:
    import tilewright.kernels.layouts as layouts

    wrong = spec_of("window-softcap", group=1)
    monkeypatch.setattr(layouts, "compile_layout", lambda spec, *rest: compile_layout(wrong, *rest))
    kernel = LayoutKernel(spec_of("sigmoid", group=1), "ragged", "cpu")
    q, k, v = torch.zeros(4, 1, 24), torch.zeros(4, 1, 24), torch.zeros(4, 1, 16)
    with pytest.raises(VerificationError, match="variant, ragged, for cpu: NOT verified"):
        kernel(q, k, v, cu_q=starts([4]), cu_k=starts([4]))
