"""Every dialect of attention lifts to a spec that computes the same in fp64, at sizes it was not traced with."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tilewright.ir.errors import UnsupportedSpec
from tilewright.ir.lift import lift
from tilewright.ir.lift.selfcheck import ExactFloats, check_lifted, difference, holds
from tilewright.ir.parser import parse_spec
from tilewright.ir.printer import print_expr, print_spec
from tilewright.ir.reference import reference

from .grouped import GROUPED, one_key_head
from .written_by_hand import VARIANTS

SIZES = [(2, 3, 6, 6), (3, 2, 5, 8), (1, 1, 7, 7), (2, 4, 1, 9)]


def tensors(b, hkv, m, n, group=1, d=8, dv=8, dtype=torch.float64):
    torch.manual_seed(b + 10 * m + 100 * n)
    return (
        torch.randn(b, hkv * group, m, d, dtype=dtype),
        torch.randn(b, hkv, n, d, dtype=dtype),
        torch.randn(b, hkv, n, dv, dtype=dtype),
    )


def check(function, spec, args):
    """The spec's reference against the function, where the function takes these sizes."""
    if not holds(spec, args):
        return False
    with ExactFloats():
        result = function(*args)
    expected = (result[0] if isinstance(result, tuple) else result).numpy()
    got, lse = reference(spec, *(x.numpy() for x in args))
    assert difference(got, lse, expected) < 2e-6
    return True


def floats(args):
    return tuple(x.double() if x.is_floating_point() else x for x in args)


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name):
    function, captured = VARIANTS[name]
    names = {"B": 2, "Hq": 3, "Hkv": 3, "M": 6, "N": 6}
    torch.manual_seed(0)
    spec = lift(function, (*tensors(2, 3, 6, 6, dtype=torch.float32), *captured(**names)))
    assert print_spec(parse_spec(print_spec(spec))) == print_spec(spec)
    done = 0
    for b, hkv, m, n in SIZES:
        extra = floats(captured(B=b, Hq=hkv, Hkv=hkv, M=m, N=n))
        done += check(function, spec, (*tensors(b, hkv, m, n), *extra))
    assert done >= 1


@pytest.mark.parametrize("name", GROUPED)
def test_grouped(name):
    function = GROUPED[name]
    spec = lift(function, tensors(2, 2, 6, 6, group=3, dtype=torch.float32))
    assert spec.group == 3
    assert all(check(function, spec, tensors(b, hkv, m, n, group=3)) for b, hkv, m, n in SIZES)


def test_one_key_head():
    spec = lift(one_key_head, tensors(2, 1, 6, 6, group=4, dtype=torch.float32))
    assert print_expr(spec.requires) in ("(4 == Hq) & (1 == Hkv)", "(1 == Hkv) & (4 == Hq)")
    assert check(one_key_head, spec, tensors(3, 1, 5, 8, group=4))


def test_other_branch_of_the_function():
    def branches(q, k, v):
        s = q @ k.mT
        if q.shape[2] > 1:
            s = s.masked_fill(torch.ones(s.shape[-2:]).triu(1).bool(), -torch.inf)
        return s.softmax(-1) @ v

    long, short = tensors(2, 2, 6, 6, dtype=torch.float32), tensors(2, 2, 1, 6, dtype=torch.float32)
    for example, keep, requires in ((long, "j <= i", "1 < M"), (short, "True", "1 == M")):
        spec = lift(branches, example)
        assert (print_expr(spec.keep), print_expr(spec.requires)) == (keep, requires)
        assert holds(spec, example)
    assert not holds(spec, long)


def test_sizes_of_one_are_not_special():
    function, _ = VARIANTS["sliding_window"]
    spec = lift(function, tensors(1, 1, 1, 1, dtype=torch.float32))
    assert print_expr(spec.requires) == "True"
    assert check(function, spec, tensors(2, 3, 6, 8))


def test_dims_of_captured_tensors():
    def biased(q, k, v, bias, table, mask):
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        s = torch.tanh(q @ k.mT + bias[:, None, None]) * table[3, 1]
        return (s + mask).softmax(-1) @ v

    captured = (torch.randn(6), torch.randn(5, 2), torch.randn(2, 1, 7, 8))
    spec = lift(biased, (*tensors(2, 3, 7, 8, group=2, dtype=torch.float32), *captured))
    assert [t.dims for t in spec.captured] == [("Hq",), ("T1", "T2"), ("B", 1, "M", "N")]


def test_names_that_the_text_cannot_hold():
    def reserved(q, k, v, keep, s):
        return (q @ k.mT * s).masked_fill(~keep, -torch.inf).softmax(-1) @ v

    example = (*tensors(2, 2, 6, 6, dtype=torch.float32), torch.rand(6, 6) > 0.5, torch.tensor(0.5))
    spec = lift(reserved, example)
    assert [t.name for t in spec.captured] == ["keep_", "s_"]
    assert parse_spec(print_spec(spec)) == spec


def test_buckets_change_exactly_where_the_function_does():
    """log(f32(n) / 8) / log(16) * 8 is a hair below a whole number for some n; the steps are PyTorch's own."""
    function, captured = VARIANTS["t5_buckets"]
    spec = lift(function, (*tensors(2, 3, 6, 6, dtype=torch.float32), *captured(Hq=3)))
    table = torch.arange(32.0 * 3, dtype=torch.float64).view(32, 3)
    assert check(function, spec, (*tensors(1, 3, 2, 400), table))


def test_the_check_finds_a_wrong_spec():
    q, k, v = tensors(2, 2, 6, 6, dtype=torch.float32)
    spec = lift(VARIANTS["textbook"][0], (q, k, v))
    wrong = dataclasses.replace(spec, score=spec.score * 1.01)
    with pytest.raises(UnsupportedSpec, match="the lifted form of textbook differs from the function"):
        check_lifted(VARIANTS["textbook"][0], (q, k, v), wrong)


def test_what_a_row_adds_to_its_scores_counts_in_lse() -> None:
    def attention(q, k, v, bias):
        return torch.softmax(q @ k.mT + bias[None, :, :, None], dim=-1) @ v

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 5, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    bias = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    spec = lift(attention, (q, k, v, bias))
    _, lse = reference(spec, *(x.numpy() for x in (q, k, v, bias)))
    wanted = torch.logsumexp(q @ k.mT + bias[None, :, :, None], dim=-1)
    assert abs(lse - wanted.numpy()).max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_words_are_shifted_by_more_than_they_have_bits(dtype: torch.dtype) -> None:
    def attention(q, k, v, words):
        bits = words[:, None] >> torch.arange(k.shape[2]) & 1
        return (q @ k.mT).masked_fill(bits == 0, -math.inf).softmax(-1) @ v

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 8, generator=generator, dtype=torch.float64) for n in (6, 70, 70))
    words = torch.tensor([1, -1, 2**31 - 1, -(2**31), 6, -7], dtype=dtype)
    assert check(attention, lift(attention, (q, k, v, words)), (q, k, v, words))
