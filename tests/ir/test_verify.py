"""Validity rules: the reference is valid, and each rule catches the program that breaks it, naming the line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tilewright.ir.dtypes import Kind
from tilewright.ir.errors import ProgramError
from tilewright.ir.expr import Op, apply, call, const, var
from tilewright.ir.parser import parse_program
from tilewright.ir.program import Grid, Let, Program, Region, RegionParam, Sync
from tilewright.ir.verify import RULES, verify
from tilewright.kernels.references import reference_program


def edited(old: str, new: str) -> Program:
    text = str(reference_program())
    assert old in text
    return parse_program(text.replace(old, new))


def test_the_reference_is_valid() -> None:
    shapes = verify(reference_program())
    assert shapes.names["acc"].axes == ("m", "Dv")
    assert shapes.names["x"].axes == ("m", "n")


BROKEN = {
    "outputs-written": ("        store(lse[b, h, m], where(mass == 0.0, -inf, (peak + log2(mass)) * 0.6931471805599453))\n", "", "'lse'"),
    "inputs-only-read": ("store(o[b, h, m, :], acc * share)", "store(o[b, h, m, :], acc * share)\n        store(q[b, h, m, :], q_tile)", "'q' is an input"),
    "names-bound": ("            p = exp2(x - base)\n            total = reduce_sum(p, axis=n)\n", "            total = reduce_sum(p, axis=n)\n            p = exp2(x - base)\n", None),
    "calls-fit": ("keep(b, h, i, j) & (j < N)", "keep(b, h, i) & (j < N)", "4 arguments, 3"),
    "domains-are-predicates": ("where=keep(b, h, m, n), part=\"full\"", "part=\"full\"", "needs a where="),
}  # fmt: skip


@pytest.mark.parametrize("rule", [name for name in BROKEN if BROKEN[name][2]])
def test_each_rule_catches_its_breach(rule: str) -> None:
    old, new, reason = BROKEN[rule]
    with pytest.raises(ProgramError, match=str(reason)) as caught:
        verify(edited(old, new))
    assert caught.value.rule == rule


def test_a_domain_that_ignores_its_loop() -> None:
    with pytest.raises(ProgramError, match=r"does not depend on 'n'[\s\S]*line 22"):
        verify(edited('where=keep(b, h, m, n), part="full"', 'where=keep(b, h, m, m), part="full"'))


def test_a_domain_that_is_no_predicate() -> None:
    with pytest.raises(ProgramError, match="no predicate"):
        verify(edited('where=keep(b, h, m, n), part="full"', 'where=score(1.0, b, h, m, n), part="full"'))


def test_loads_have_one_index_per_dimension() -> None:
    with pytest.raises(ProgramError, match=r"q has 4 dimensions, but 1 indices are given"):
        verify(edited("return s\n", "return s + q[b]\n"))


def test_names_are_bound_before_they_are_read() -> None:
    program = reference_program()
    grid = program.body[0]
    assert isinstance(grid, Grid)
    early = Let("early", var("peak", Kind.FLOAT))
    broken = replace(program, body=(replace(grid, body=(early, *grid.body)),))
    with pytest.raises(ProgramError, match="'peak' is read before it is bound"):
        verify(broken)


def test_grids_are_outermost_and_nothing_stands_outside() -> None:
    program = reference_program()
    grid = program.body[0]
    assert isinstance(grid, Grid)
    with pytest.raises(ProgramError, match="a grid inside another block"):
        verify(replace(program, body=(replace(grid, body=(*grid.body, Grid(("z",), (const(1),), ()))),)))
    with pytest.raises(ProgramError, match="outside of every grid"):
        verify(replace(program, body=(Sync(), grid)))


def test_regions_do_not_recurse() -> None:
    loop = Region("loop", (RegionParam("s", Kind.FLOAT),), call("loop", (var("s", Kind.FLOAT),), Kind.FLOAT))
    with pytest.raises(ProgramError, match="not defined above it"):
        verify(replace(reference_program(), regions=(*reference_program().regions, loop)))


def test_names_are_declared_once() -> None:
    program = reference_program()
    with pytest.raises(ProgramError, match="'q' is declared twice"):
        verify(replace(program, params=(*program.params, program.params[0])))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("s = gemm(q_tile, k_tile)", "s = gemm(q_tile, q_tile)", "exactly one must be shared"),
        ("mass = mass * rescale + total", "mass = mass * rescale + p", "'mass' is f32"),
        ("store(o[b, h, m, :], acc * share)", "store(o[b, h, m, 0], acc * share)", "stored to a place with axes"),
        ("top = reduce_max(x, axis=n)", "top = reduce_max(peak, axis=n)", "none of them 'n'"),
        ("q_tile = load(q[b, h, m, :])", "q_tile = load(q[b, h, m])", "4 dimensions, but 3 indices"),
        ("q_tile = load(q[b, h, m, :])", "q_tile = load(q[b, :, m, 0])", "whose size is not fixed"),
        ("acc = zeros(f32[m, Dv])", "acc = zeros(f32[m, N])", "neither a tile variable nor a fixed size"),
        ("into=acc * rescale", "into=q_tile", "into= has axes"),
        ("tiles(N, 64, where=keep(b, h, m, n), part=\"partial\")", "tiles(N, 32, where=keep(b, h, m, n), part=\"partial\")", "tiles of 64 and of 32"),
        ("        share = where", "        if peak == 0.0:\n            share = peak\n        share = where", "single truth value"),
    ],
)  # fmt: skip
def test_types_must_fit(old: str, new: str, reason: str) -> None:
    with pytest.raises(ProgramError, match=reason) as caught:
        verify(edited(old, new))
    assert caught.value.rule == "types"
    assert caught.value.line is not None


def test_regions_take_the_kinds_they_declare() -> None:
    with pytest.raises(ProgramError, match="parameter 'i' is int, the argument float"):
        verify(edited("score(s, b, h, i, j) * 1.4426950408889634\n", "score(s, b, h, s, j) * 1.4426950408889634\n"))


def test_every_rule_is_a_row() -> None:
    assert set(BROKEN) <= set(RULES)
    assert apply(Op.ADD, 1, 2).kind is Kind.INT
