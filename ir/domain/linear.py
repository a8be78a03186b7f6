"""Integer linear forms: sums of atoms with integer coefficients, collected so that equal terms cancel.

An atom is any integer expression that is not itself a sum. `i - j + 1 <= i` has the form `-j + 1`, whose
bounds over a box are tight because every atom occurs once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..dtypes import DType, Kind
from ..expr import Expr, Op, apply, as_expr, const, var

_WIDE = (DType.I32, DType.I64)  # conversions that keep every index value


@dataclass(frozen=True, slots=True)
class Linear:
    """sum of coefficient * atom, plus a constant; coefficients are not zero and atoms are distinct."""

    terms: tuple[tuple[Expr, int], ...]
    constant: int

    @staticmethod
    def of(value: Expr | int) -> Linear:
        """The form of an integer expression."""
        return _collect(as_expr(value))

    def __add__(self, other: Linear | Expr | int) -> Linear:
        right = other if isinstance(other, Linear) else Linear.of(other)
        return _merge((*self.terms, *right.terms), self.constant + right.constant)

    def __sub__(self, other: Linear | Expr | int) -> Linear:
        right = other if isinstance(other, Linear) else Linear.of(other)
        return self + right.scaled(-1)

    def scaled(self, factor: int) -> Linear:
        """Every coefficient times `factor`."""
        if factor == 0:
            return Linear((), 0)
        return Linear(tuple((atom, k * factor) for atom, k in self.terms), self.constant * factor)

    def without(self, *atoms: Expr) -> Linear:
        """The form without the terms of these atoms."""
        return Linear(tuple((atom, k) for atom, k in self.terms if atom not in atoms), self.constant)

    def coefficient(self, atom: Expr) -> int:
        """What `atom` is multiplied by; 0 when it does not occur."""
        return dict(self.terms).get(atom, 0)

    def expr(self) -> Expr:
        """The form as an expression: positive terms first, then what is taken away, then the constant."""
        total: Expr | None = None
        for atom, k in sorted(self.terms, key=lambda term: term[1] < 0):
            size = atom if abs(k) == 1 else atom * abs(k)
            if total is None:
                total = size if k > 0 else (self.constant - size if self.constant > 0 else -size)
            else:
                total = total + size if k > 0 else total - size
        if total is None:
            return const(self.constant)
        if self.constant > 0 and all(k < 0 for _, k in self.terms):
            return total
        return _plus(total, self.constant)


def _plus(total: Expr, constant: int) -> Expr:
    if constant == 0:
        return total
    return total + constant if constant > 0 else total - (-constant)


def _merge(terms: Iterable[tuple[Expr, int]], constant: int) -> Linear:
    total: dict[Expr, int] = {}
    for atom, k in terms:
        total[atom] = total.get(atom, 0) + k
    return Linear(tuple((atom, k) for atom, k in total.items() if k), constant)


def _collect(e: Expr) -> Linear:
    if e.op is Op.CONST:
        return Linear((), int(e.attr))  # type: ignore[call-overload]
    if e.op is Op.ADD:
        return _collect(e.args[0]) + _collect(e.args[1])
    if e.op is Op.SUB:
        return _collect(e.args[0]) - _collect(e.args[1])
    if e.op is Op.NEG:
        return _collect(e.args[0]).scaled(-1)
    if e.op is Op.MUL:
        left, right = _collect(e.args[0]), _collect(e.args[1])
        if not right.terms:
            return left.scaled(right.constant)
        if not left.terms:
            return right.scaled(left.constant)
    if e.op is Op.SHL and (shift := literal(e.args[1])) is not None and shift >= 0:
        return _collect(e.args[0]).scaled(1 << shift)
    if e.op is Op.CAST and e.attr in _WIDE and e.args[0].kind is Kind.INT:
        return _collect(e.args[0])
    return Linear(((e, 1),), 0)


def literal(e: Expr) -> int | None:
    """The value of an integer literal, else None."""
    if e.op is Op.NEG and (inner := literal(e.args[0])) is not None:
        return -inner
    return int(e.attr) if e.op is Op.CONST and e.kind is Kind.INT else None  # type: ignore[call-overload]


def is_nonnegative(e: Expr) -> bool:
    """Whether an integer expression is known to be at least 0, as every variable is: an index or a size.

    A divisor that is at least 0 counts as positive: division by zero has no meaning that could be kept.
    """
    if (value := literal(e)) is not None:
        return value >= 0
    if e.op in (Op.VAR, Op.INDEX, Op.ABS):
        return True
    if e.op is Op.MOD:
        return is_nonnegative(e.args[1])
    if e.op in (Op.MAX, Op.BITAND):
        return any(is_nonnegative(arg) for arg in e.args)
    if e.op is Op.SELECT:
        return all(is_nonnegative(arg) for arg in e.args[1:])
    if e.op in (Op.ADD, Op.MUL, Op.FLOORDIV, Op.MIN, Op.BITOR, Op.BITXOR, Op.SHR, Op.SHL):
        return all(is_nonnegative(arg) for arg in e.args)
    return e.op is Op.CAST and e.args[0].kind is Kind.INT and e.attr in _WIDE and is_nonnegative(e.args[0])


def never_positive(form: Linear) -> bool:
    """Whether form <= 0 is known, given that x_lo <= x_hi and that integer variables are at least 0.

    x_hi is x_lo + d for some d >= 0: a negative coefficient of x_hi counts for x_lo as well.
    """
    total = dict(form.terms)
    for atom, k in form.terms:
        name = str(atom.attr)
        if atom.op is Op.VAR and name.endswith("_hi") and k < 0:
            first = var(f"{name[:-3]}_lo")
            total[first] = total.get(first, 0) + k
    return form.constant <= 0 and all(k == 0 or (k < 0 and is_nonnegative(atom)) for atom, k in total.items())


def never_greater(left: Expr, right: Expr) -> bool:
    """Whether left <= right is known, of two integer expressions or of their quotients by one divisor."""
    if left.op is Op.FLOORDIV and right.op is Op.FLOORDIV and left.args[1] is right.args[1]:
        return (literal(left.args[1]) or 0) > 0 and never_greater(left.args[0], right.args[0])
    return never_positive(Linear.of(left) - Linear.of(right))


def divide(form: Linear, divisor: int) -> Expr:
    """floor(form / divisor) for a form known to be at least 0, so that truncating division gives the same."""
    value = form.expr()
    if not form.terms:
        return const(form.constant // divisor)
    return value if divisor == 1 else apply(Op.FLOORDIV, value, divisor)


def at_least_zero(form: Linear) -> Linear:
    """max(form, 0)."""
    if form.constant >= 0 and all(k > 0 and is_nonnegative(atom) for atom, k in form.terms):
        return form
    if not form.terms:
        return Linear((), max(form.constant, 0))
    return Linear.of(apply(Op.MAX, form.expr(), 0))
