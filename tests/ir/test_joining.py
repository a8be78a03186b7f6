"""Whole and masked tiles in one order: what is joined, what stays two loops, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.ir.domain import known_in_whole_tiles
from tilewright.ir.interpreter import interpret
from tilewright.ir.parser import parse_program
from tilewright.ir.program import Program, TileLoop, statements
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import Orchestration, join_parts, transfer
from tilewright.ir.verify import verify
from tilewright.kernels.references import reference_program

from ..lowering.variants import VARIANTS

FULL, PARTIAL = (f'for n in tiles(N, 16, where=keep(b, h, m, n), part="{part}"):' for part in ("full", "partial"))
MASKED = "where(keep(b, h, i, j) & (j < N), score(s, b, h, i, j) * 1.4426950408889634, -inf)"


def two_loops(name: str = "window") -> tuple[Program, AttentionSpec]:
    spec = VARIANTS[name].spec(d=8, dv=8, group=1)
    return transfer(reference_program(), spec, Orchestration((("m", 16), ("n", 16)))), spec


def loops(program: Program) -> list[TileLoop]:
    return [s for s in statements(program.body) if isinstance(s, TileLoop)]


@pytest.mark.parametrize("form", ["flash_forward", "flash_ragged", "flash_paged"])
@pytest.mark.parametrize("name", ["full", "window", "sink", "relu2", "row-sum", "gate-after"])
def test_loops_over_parts_of_a_domain_become_one(form: str, name: str) -> None:
    program = transfer(reference_program(form), VARIANTS[name].spec(), Orchestration(is_joined=True))
    verify(program)
    assert parse_program(str(program)) == program
    assert [loop.part for loop in loops(program)] == ["any"]


def test_the_masked_body_is_kept_and_means_the_same() -> None:
    apart, _ = two_loops()
    joined = join_parts(apart)
    assert str(joined).count(MASKED) == 1
    assert str(joined).count("for n in tiles(N, 16, where=keep(b, h, m, n)):") == 1
    assert join_parts(joined) == joined
    generator = np.random.default_rng(0)
    q, k, v = (generator.standard_normal((1, 1, 50, 8)).astype(np.float32) for _ in range(3))
    one, two = (interpret(program, {"q": q, "k": k, "v": v}) for program in (joined, apart))
    for name, values in two.items():
        np.testing.assert_allclose(one[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (MASKED, MASKED.replace("j < N", "j < N - 1")),
        (MASKED, MASKED.replace("keep(b, h, i, j)", "keep(b, h, i + 1, j)")),
        (MASKED, MASKED.replace("keep(b, h, i, j)", "(i < 40)")),
        (MASKED, MASKED.replace(" * 1.44", " * 1.45")),
        (FULL, FULL.replace(", part", ', order="descending", part')),
        (FULL, FULL.replace("keep(b, h, m, n)", "keep(b, 0, m, n)")),
        (PARTIAL, "peak = peak\n        " + PARTIAL),
        (PARTIAL, PARTIAL + "\n            i = index(m) + 1"),
    ],
    ids=["end", "place", "condition", "scale", "order", "domain", "between", "rebound"],
)
def test_loops_that_differ_otherwise_stay_two(old: str, new: str) -> None:
    text = str(two_loops()[0])
    assert text.count(old) == 1
    program = parse_program(text.replace(old, new))
    assert join_parts(program) == program


def test_what_a_body_binds_anew_is_not_known() -> None:
    text = str(join_parts(two_loops()[0]))
    program = parse_program(text)
    condition = next(e for e in (s.value for s in statements(program.body) if getattr(s, "name", "") == "x")).args[0]
    both = condition.args
    assert [known_in_whole_tiles(loops(program)[0], program)(c) for c in both] == [True, True]
    rebound = parse_program(text.replace("            j = index(n)\n", "            j = index(n)\n            h = h + 1\n"))
    assert [known_in_whole_tiles(loops(rebound)[0], rebound)(c) for c in both] == [False, True]
