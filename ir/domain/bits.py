"""Tests of single bits, as packed masks make them: (words[i, j // 32] >> j % 32) & 1."""

from __future__ import annotations

from dataclasses import dataclass

from ..expr import Expr, Op, const

ONE = const(1)
BYTE, WORD = 255, -1  # all bits of u8, and of every signed type


@dataclass(frozen=True, slots=True)
class BitTest:
    """Whether a bit of `word` is set (or is not); `full`: the words in which each bit asked for is set."""

    word: Expr
    is_set: bool
    full: tuple[int, ...]


def bit_test(comparison: Expr) -> BitTest | None:
    """The test that a comparison of a shifted LOAD's lowest bit with 0 or 1 is; None for anything else."""
    if comparison.op not in (Op.EQ, Op.NE):
        return None
    for bit, wanted in (comparison.args, comparison.args[::-1]):
        if wanted not in (ONE, const(0)) or bit.op is not Op.BITAND or ONE not in bit.args:
            continue
        shifted = bit.args[0] if bit.args[1] is ONE else bit.args[1]
        if shifted.op is not Op.SHR or shifted.args[0].op is not Op.LOAD:
            return None
        is_set = (wanted is ONE) == (comparison.op is Op.EQ)
        by = shifted.args[1]
        is_byte = by.op is Op.MOD and by.args[1] is const(8)
        return BitTest(shifted.args[0], is_set, (WORD, BYTE) if is_byte else (WORD,))
    return None
