"""Packing of right operands whose rows are gathered: sequences close up, anything else has room of its own."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.ir.dtypes import DType
from tilewright.ir.evaluate import Array
from tilewright.ir.expr import Op, apply, var
from tilewright.ir.interpreter import interpret
from tilewright.ir.parser import parse_program
from tilewright.ir.spec import COLUMN, ROW, AttentionSpec, S
from tilewright.ir.transfer import Orchestration, pack_operands, retile, transfer
from tilewright.ir.verify import verify
from tilewright.kernels.references import reference_program

BOTTOM_RIGHT = apply(Op.LE, COLUMN, ROW + var("N") - var("M"))
SPEC = AttentionSpec("bottom_right", DType.F32, 16, 16, 2, score=S * 0.25, keep=BOTTOM_RIGHT)
HOW = Orchestration((("m", 16), ("n", 32)), is_packed=True)


def ragged_arguments(lengths: list[int]) -> tuple[dict[str, Array], dict[str, int]]:
    random = np.random.default_rng(0)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    total = int(starts[-1])
    given = {name: random.standard_normal((total, heads, 16)) for name, heads in (("q", 4), ("k", 2), ("v", 2))}
    return given | {"cu_q": starts, "cu_k": starts}, {"B": len(lengths), "M": max(lengths), "N": max(lengths)}


def test_sizes_become_the_lengths_of_each_sequence() -> None:
    program = transfer(reference_program("flash_ragged"), SPEC)
    assert parse_program(str(program)) == program
    assert "return j <= i + columns(b) - rows(b)" in str(program)
    assert "return j <= i + columns(b) - M" in str(transfer(reference_program("flash_paged"), SPEC))


@pytest.mark.parametrize("lengths", [[33, 0, 5, 64, 1], [1], [32, 32, 31]])
def test_sequences_are_packed_behind_each_other(lengths: list[int]) -> None:
    program = transfer(reference_program("flash_ragged"), SPEC, HOW)
    verify(program)
    text = str(program)
    assert "alloc(f32[Hkv, Tk + B * 32, D]" in text
    assert "store(k_pack[g, (cu_k[b] // 32 + b) * 32 + index(n), :], k_block)" in text
    given, sizes = ragged_arguments(lengths)
    plain = interpret(retile(transfer(reference_program("flash_ragged"), SPEC), dict(HOW.tiles)), given, sizes=sizes)
    packed = interpret(program, given, sizes=sizes)
    for name, values in plain.items():
        np.testing.assert_array_equal(values, packed[name])


@pytest.mark.parametrize(
    ("old", "new"),
    [("return cu_k[b + 1] - cu_k[b]", "return cu_k[b + 2] - cu_k[b]"), ("cu_k[b] + j", "cu_k[b] * 2 + j")],
    ids=["overlapping", "with gaps"],
)
def test_rows_that_do_not_follow_each_other_have_room_of_their_own(old: str, new: str) -> None:
    text = str(reference_program("flash_ragged"))
    assert old in text
    packed = str(pack_operands(parse_program(text.replace(old, new))))
    assert "k_pack = alloc(f32[B, Hkv, N, D]" in packed
    assert "store(k_pack[b, g, n, :], k_block)" in packed


def test_pages_are_packed_in_order() -> None:
    program = transfer(reference_program("flash_paged"), SPEC, HOW)
    verify(program)
    assert "k_block = load(k[block_table[b, index(n) // Page], index(n) % Page, g, :])" in str(program)
    assert "k_pack = alloc(f32[B, Hkv, N, D]" in str(program)


def test_what_has_no_limit_is_not_packed() -> None:
    text = str(reference_program("flash_ragged")).replace("tiles(columns(b), 64, most=N", "tiles(columns(b), 64")
    program = parse_program(text)
    assert pack_operands(program) == program


@pytest.mark.parametrize("name", ["k_pack", "mine"])
def test_copies_that_a_program_makes_itself_are_not_copied_before_they_are_written(name: str) -> None:
    text = str(transfer(reference_program(), SPEC, HOW)).replace("k_pack", name).replace("v_pack", f"{name}_v")
    program = parse_program(text)
    assert pack_operands(program) == program
    half = parse_program(str(transfer(reference_program(), SPEC)).replace("k_tile", "k_block"))
    assert pack_operands(half) == half, "a name that a copy would take"
