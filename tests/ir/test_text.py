"""Program and spec text: what is printed parses back to the same thing, and what is not text of ours is refused."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.errors import ParseError
from tilewright.ir.expr import (
    ARITHMETIC,
    COMPARISON,
    FLOATING,
    INTEGER,
    LOGIC,
    UNARY_FLOAT,
    Expr,
    Op,
    apply,
    call,
    cast,
    const,
    index,
    load,
    select,
    var,
)  # fmt: skip
from tilewright.ir.parse_expr import Scope, parse_expression
from tilewright.ir.parser import parse_program, parse_spec
from tilewright.ir.printer import print_expr, print_spec
from tilewright.ir.program import Let, Program
from tilewright.ir.spec import AttentionSpec, Normaliser, NormaliserKind, TensorSpec
from tilewright.kernels.references import reference_program

SCOPE = Scope(
    kinds={"i": Kind.INT, "n": Kind.INT, "x": Kind.FLOAT, "flag": Kind.BOOL},
    tensors={"table": Kind.FLOAT, "ids": Kind.INT, "mask": Kind.BOOL},
    regions={"score": Kind.FLOAT},
    tiles={"n"},
)
BINARY_INT = [*sorted(INTEGER, key=lambda op: op.name), Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX]


def _numbers(kind: Kind) -> st.SearchStrategy[Expr]:
    if kind is Kind.INT:
        return st.integers(-(2**63) + 1, 2**63 - 1).map(const)
    return st.floats(allow_nan=True).map(const)


@cache
def _expressions(kind: Kind, depth: int) -> st.SearchStrategy[Expr]:
    leaves = {
        Kind.INT: st.one_of(_numbers(Kind.INT), st.sampled_from([var("i"), index("n"), load("ids", (var("i"),), Kind.INT)])),
        Kind.FLOAT: st.one_of(_numbers(Kind.FLOAT), st.sampled_from([var("x", Kind.FLOAT), load("table", (), Kind.FLOAT)])),
        Kind.BOOL: st.one_of(st.booleans().map(const), st.just(var("flag", Kind.BOOL))),
    }[kind]  # fmt: skip
    if depth == 0:
        return leaves
    ints, floats, flags = (_expressions(k, depth - 1) for k in (Kind.INT, Kind.FLOAT, Kind.BOOL))
    if kind is Kind.INT:
        nodes = [
            st.builds(apply, st.sampled_from(BINARY_INT), ints, ints), st.builds(apply, st.just(Op.NEG), ints),
            st.builds(select, flags, ints, ints), st.builds(cast, floats, st.just(DType.I32)),
        ]  # fmt: skip
    elif kind is Kind.FLOAT:
        two = [Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MIN, Op.MAX, Op.POW]
        nodes = [
            st.builds(apply, st.sampled_from(two), floats, floats), st.builds(apply, st.sampled_from(two), floats, floats),
            st.builds(apply, st.sampled_from(sorted(UNARY_FLOAT, key=lambda op: op.name)), floats),
            st.builds(select, flags, floats, floats), st.builds(cast, floats, st.sampled_from([DType.BF16, DType.F32])),
            floats.map(lambda e: call("score", (e, 1), Kind.FLOAT)), floats.map(lambda e: -e),
        ]  # fmt: skip
    else:
        logic = [Op.AND, Op.OR, Op.XOR]
        compare = sorted(COMPARISON, key=lambda op: op.name)
        nodes = [
            st.builds(apply, st.sampled_from(logic), flags, flags), st.builds(apply, st.just(Op.NOT), flags),
            st.builds(apply, st.sampled_from(compare), ints, ints), st.builds(apply, st.sampled_from(compare), floats, ints),
        ]  # fmt: skip
    return st.one_of(leaves, *nodes)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(Kind)).flatmap(lambda kind: _expressions(kind, 3)))
def test_an_expression_parses_back_to_the_same_object(expr: Expr) -> None:
    text = print_expr(expr)
    assert parse_expression(ast.parse(text, mode="eval").body, SCOPE) is expr, text


def test_every_operation_has_a_text_form() -> None:
    reachable = ARITHMETIC | COMPARISON | FLOATING | INTEGER | LOGIC | {Op.SELECT, Op.CAST}
    assert reachable | {Op.CONST, Op.VAR, Op.INDEX, Op.LOAD, Op.CALL} == set(Op)


@settings(max_examples=100, deadline=None)
@given(_expressions(Kind.FLOAT, 2), st.integers(1, 512))
def test_a_program_parses_back(expr: Expr, size: int) -> None:
    renamed = parse_program(str(reference_program()).replace("s: float", "x: float").replace("return s", "return x"))
    clean = not {"flag", "score", "i", "n", "ids", "table"} & {str(e.attr) for e in _walk(expr)}
    program = replace(renamed, sizes=(("D", size), ("Dv", 8)))
    if clean:
        program = replace(program, regions=(replace(program.regions[0], body=expr), *program.regions[1:]))
    assert parse_program(str(program)) == program
    assert str(parse_program(str(program))) == str(program)


def _walk(expr: Expr) -> list[Expr]:
    from tilewright.ir.expr import walk

    return list(walk(expr))


def test_roles_barriers_and_reductions_parse_back() -> None:
    text = '''@program(D=64, Dv=64)
def everything(
    k: bf16[B, Hkv, N, D],
    ranks: i32[4],
    o: out(f32[B, Hkv, N, D]),
    scale: f32[()],
):
    def keep(i: int, j: int):
        return (j <= i) & (i - j < 512)

    for b, g in grid(B, Hkv, order="descending", warps=8):
        ring = alloc(bf16[2, 128, D], space="shared", layout="swizzle:128")
        filled = barriers(2, arrivals=1)
        with role("producer", warps=4, registers=24):
            for step in range(0, N // 128, stages=2):
                n = tile(N, 128, step)
                wait(filled[step % 2], phase=step // 2 % 2)
                copy_async(ring[step % 2, n, :], k[b, g, n, :], signal=filled[step % 2])
                copy(ring[0, n, :], k[b, g, n, :])
                commit()
                wait_group(1)
        with role("consumer", warps=4, count=2) as w:
            for n in tiles(N, 128, order="descending", stages=3):
                a = load(k[b, g, n, :], space="shared")
                c = zeros(f32[n, D])
                d = full(f32[n], -inf)
                s = gemm_async(a, a, into=c * 2.0)
                arrive(filled[w])
                sync()
                if w == 0:
                    reduce_add(o[b, g, n, :], c, after=ranks[w])
                reduce_add(o[b, g, n, :], c)
'''
    assert str(parse_program(text)) == text


def test_a_spec_parses_back() -> None:
    sinks = TensorSpec("sinks", DType.BF16, ("Hq",))
    softmax = Normaliser(sink=load("sinks", (var("h"),), Kind.FLOAT))
    ratio = Normaliser(NormaliserKind.ROW_SUM, weight=apply(Op.EXP, var("s", Kind.FLOAT)), epsilon=1e-6)
    for rule, captured in ((softmax, (sinks,)), (ratio, ())):
        spec = AttentionSpec("variant", DType.BF16, 64, 128, group=4, captured=captured, normaliser=rule)
        assert parse_spec(print_spec(spec)) == spec


def _with(line: str) -> str:
    return str(reference_program()).replace("            j = index(n)\n", f"            {line}\n", 1)


REFUSED = {
    "import os": "Import statement",
    "__import__('os').system('true')": "call of this form",
    "x = [1 for _ in range(3)]": "ListComp expression",
    "x = lambda: 1": "Lambda expression",
    "x = s.__class__": "Attribute expression",
    "x = 'text'": "'text'",
    "x = q[b, h, 0:3, 0]": "Slice expression",
    "x = load(q[b, h, 0:3, :])": "slice with bounds",
    "x = unknown(b)": "unknown function 'unknown'",
    "x = b < h < 3": "chained comparison",
    "x = b ** 2": "operator Pow",
    "x = exp(b, b)": "exp with 2 arguments",
    "x = b & True": "operands of fitting kinds",
    "x = 10000000000000000000": "64 bits",
    "load = b": "not reserved",
    "x, y = b, h": "assignment of this form",
    "while True: sync()": "While statement",
    "x = gemm(q_tile)": "gemm with 1 arguments",
    "x = load(q[b, h, m, :], color=3)": "option 'color'",
    "x = load(q[b, h, m, :], space=\"moon\")": "\"global\" or \"shared\" or \"register\"",
    "x = reduce_max(acc)": "without an axis",
    "x = load(nowhere[b])": "unknown tensor 'nowhere'",
    "m = b": "bound",
    "x = index(b)": "no tile variable",
    "wait_group(-1)": "integer of at least 0",
    "x = alloc(f32[64], layout=\"a\\nb\")": "short quoted word",
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_not_the_language_is_refused_with_its_place(line: str) -> None:
    text = _with(line)
    with pytest.raises(ParseError, match=REFUSED[line]) as caught:
        parse_program(text)
    assert text.splitlines()[caught.value.line - 1].strip().startswith(line[:3])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "single function"),
        ("x = 1", "single function"),
        ("def f(): pass", "decorators"),
        ("@program(D=64)\ndef f(q: f32[B, D], q2: int): pass", "without a type"),
        ("@program(D=0)\ndef f(q: f32[B, D]): pass", "NAME=positive integer"),
        ("@program(D=64)\ndef f(q: f32[B, D], *rest): pass", "stars"),
        ("@program(D=64)\ndef f(q: f32[B, D], q: f32[B]): pass", "not used twice"),
        ("@attention(D=64)\ndef f(q: f32[B, D]): pass", "this decorator"),
        ("@program(D=64)\ndef f(\0): pass", "cannot parse|null bytes"),
        ("(" * 500, "nesting too deep"),
        ("x = " + "~" * 100_000 + "1", "nesting too deep"),
        ("#" * 2_000_000, "bytes of text"),
    ],
)  # fmt: skip
def test_text_that_is_no_program_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ParseError, match=reason):
        parse_program(text)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_text_never_crashes_the_parser(data: st.DataObject) -> None:
    text = str(reference_program())
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start, min(len(text), start + 40)))
    damaged = text[:start] + data.draw(st.text(max_size=12)) + text[stop:]
    try:
        program = parse_program(damaged)
    except ParseError:
        return
    assert isinstance(program, Program)
    assert parse_program(str(program)) == program


def test_infinities_and_negative_numbers_keep_their_bits() -> None:
    for value in (math.inf, -math.inf, -0.0, 1e-45, 0.1, -3, 2**62):
        program = reference_program()
        grid = program.body[0]
        line = Let("extra", const(value))
        changed = replace(program, body=(replace(grid, body=(line, *grid.body)),))  # type: ignore[arg-type, call-arg]
        assert parse_program(str(changed)) == changed
