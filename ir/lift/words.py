"""Arithmetic of 32-bit integers: where it may overflow it wraps, as in hashes; indices and sizes do not get there."""

from __future__ import annotations

from ..dtypes import DType, Kind
from ..expr import Expr, Op, cast
from ..integers import polynomial
from .value import Element, Index, as_kind

LARGE = 1 << 24  # factors of indices and sizes are smaller, those of hashes are larger


def wrapped(element: Element) -> Element:
    """The element of an int32 tensor, cut to its low 32 bits unless it surely fits."""

    def wrap(index: Index) -> Expr:
        expr = as_kind(element(index), Kind.INT)
        return cast(expr, DType.I32) if may_overflow(expr) else expr

    return wrap


def may_overflow(e: Expr) -> bool:
    """Whether a sum or product has a large factor or words among its terms."""
    if e.op not in (Op.ADD, Op.SUB, Op.MUL, Op.NEG, Op.SHL):
        return False
    if e.op is Op.SHL:
        return is_word(e.args[0])
    terms = polynomial(e)
    return any(abs(factor) >= LARGE or any(is_word(atom) for atom in atoms) for atoms, factor in terms.items())


def is_word(e: Expr) -> bool:
    """Whether an integer is the result of wrapping arithmetic: its bits are used, not its size."""
    return e.op is Op.BITXOR or (e.op is Op.CAST and e.attr is DType.I32 and e.args[0].kind is Kind.INT)
