"""What a tile loop asks of its domain: arguments looked through, indices named, the rest uniform; tiles left out."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.ir.domain import Question, TileClass, classify, question_of
from tilewright.ir.expr import free_vars, substitute, var
from tilewright.ir.parser import parse_program
from tilewright.ir.printer import print_expr
from tilewright.ir.program import Program, TileLoop, statements

TEXT = """@program(D=8)
def packed(
    q: f32[B, Hq, M, D],
    lengths: i32[B],
    o: out(f32[B, Hq, M, D]),
):
    def columns(b: int):
        return lengths[b]

    def keep(b: int, h: int, i: int, j: int):
        return (j <= i + columns(b) - M) & (i + columns(b) - M - j < 16 * h)

    for b, g, m in grid(B, Hkv, tiles(Hq // Hkv * M, 32)):
        h = g * (Hq // Hkv) + index(m) // M
        i = index(m) % M
        shift = lengths[b] - M
        for n in tiles(N, 32, where=keep(b, h, i, n)):
            s = load(q[b, h, i, :])
            store(o[b, h, i, :], s)
"""


def loop_of(program: Program) -> TileLoop:
    return next(s for s in statements(program.body) if isinstance(s, TileLoop))


def asked(*edits: tuple[str, str]) -> Question:
    text = TEXT
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    program = parse_program(text)
    found = question_of(loop_of(program), program)
    assert found is not None
    return found


def test_names_are_looked_through() -> None:
    found = asked()
    assert (found.row, found.row_name, found.column_name) == ("m", "m_index", "j")
    assert "lengths[b]" in print_expr(found.predicate)
    assert free_vars(found.predicate) == {"b", "g", "m_index", "j", "Hq", "Hkv", "M"}


def test_plain_arguments_keep_the_regions_names() -> None:
    found = asked(("where=keep(b, h, i, n)", "where=keep(b, g, m, n)"))
    assert (found.row, found.row_name, found.column_name) == ("m", "i", "j")


def test_columns_may_be_shifted_by_what_is_negative() -> None:
    found = asked(("where=keep(b, h, i, n)", "where=keep(b, g, m, index(n) + shift)"))
    assert (found.row, found.column_name) == ("m", "n_index")
    assert "shift" not in free_vars(found.predicate)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ("keep(b, h, i, 5)", "does not depend on 'n'"),
        ("keep(b, h, i, n + 1)", r"use index\(n\)"),
        ("keep(b, index(t), i, n)", r"depends on the rows of \['t', 'm'\]"),
        ("keep(b, step, i, n)", "'step', which is no index"),
    ],
)
def test_other_arguments_are_refused(new: str, reason: str) -> None:
    steps = ("        shift = lengths[b] - M\n", "        t = tile(M, 32, 0)\n        for step in range(0 - 1, 1):\n            z = step\n")
    with pytest.raises(ValueError, match=reason):
        asked(steps, ("keep(b, h, i, n)", new))


@pytest.mark.parametrize(("rows", "length"), [(32, 128), (48, 100), (5, 70), (64, 40)])
def test_no_tile_that_holds_something_is_left_out(rows: int, length: int) -> None:
    """Every tile is classified as its elements say, or partial; heads and rows change within a tile."""
    found = asked()
    heads, columns = 3, 128
    predicate = substitute(found.predicate, {found.row_name: var("i")})
    scalars = {"b": 0, "g": 1, "Hq": 2 * heads, "Hkv": 2, "M": rows}
    classes = classify(predicate, shape=(heads * rows, columns), tile=(32, 32), scalars=scalars,
                       tensors={"lengths": np.array([length])})  # fmt: skip
    at, j = np.arange(heads * rows)[:, None], np.arange(columns)[None]
    h, i = heads + at // rows, at % rows
    kept = (j <= i + length - rows) & (i + length - rows - j < 16 * h)
    for row in range(classes.shape[0]):
        for column in range(classes.shape[1]):
            part = kept[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
            if classes[row, column] == TileClass.EMPTY:
                assert not part.any()
            if classes[row, column] == TileClass.FULL:
                assert part.all()
    if rows == 32:  # a tile is one head's: nothing is left undecided
        assert (classes == TileClass.EMPTY).any()
        assert (classes == TileClass.FULL).any()
