"""Integer expressions as polynomials, so that equal places cancel; division by what divides or bounds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ...dtypes import Kind
from ...expr import Expr, Op, apply, const, rebuild, substitute, var, walk

Term = tuple[Expr, ...]
Poly = dict[Term, int]
LEAST_TILE = 16  # rows


def order(atom: Expr) -> str:
    """Sorts atoms by their text."""
    text = _ORDER.get(atom)
    if text is None:
        text = _ORDER[atom] = repr(atom)
    return text


_ORDER: dict[Expr, str] = {}


class Integers:
    """What is known of integer atoms: extents (0 <= atom < extent) and what some of them stand for."""

    def __init__(self) -> None:
        self.extents: dict[str, Expr] = {}
        self.meaning: dict[str, Expr] = {}
        self.splittable: set[str] = set()
        self.quotients: dict[tuple[str, int], str] = {}  # (Hq, 2) -> Hkv, where Hq is 2 * Hkv in every example

    def resolve(self, expr: Expr) -> Expr:
        """The expression with every atom of known meaning replaced."""
        for _ in range(64):
            known = {n: self.meaning[n] for n in _names(expr) if n in self.meaning}
            if not known:
                return expr
            expr = substitute(expr, known)
        raise AssertionError("atoms that stand for each other")

    def poly(self, expr: Expr) -> Poly:
        """The polynomial of an integer expression; what is no sum or product is an atom, simplified inside."""
        return self._poly(self.resolve(expr), {})

    def simplify(self, expr: Expr) -> Expr:
        """The expression with its integer parts brought to one form."""
        expr = self.resolve(expr)
        done: dict[Expr, Expr] = {}
        memo: dict[Expr, Poly] = {}
        for node in walk(expr):
            new = rebuild(node, tuple(done[arg] for arg in node.args))
            done[node] = to_expr(self._poly(new, memo)) if new.kind is Kind.INT and new.args else new
        return done[expr]

    def _poly(self, expr: Expr, memo: dict[Expr, Poly]) -> Poly:
        for node in walk(expr):
            if node not in memo:
                memo[node] = self._node(node, memo)
        return memo[expr]

    def _node(self, node: Expr, memo: dict[Expr, Poly]) -> Poly:
        if node.op is Op.CONST and node.kind is Kind.INT:
            return {(): int(node.attr)} if node.attr else {}  # type: ignore[call-overload]
        if node.kind is not Kind.INT:
            return {(node,): 1}
        parts = [memo[arg] for arg in node.args]
        if node.op is Op.ADD:
            return added(parts[0], parts[1])
        if node.op is Op.SUB:
            return added(parts[0], scaled(parts[1], -1))
        if node.op is Op.NEG:
            return scaled(parts[0], -1)
        if node.op is Op.MUL:
            return multiplied(parts[0], parts[1])
        if node.op in (Op.FLOORDIV, Op.MOD):
            found = self.divided(parts[0], parts[1])
            if found is not None:
                return found[0] if node.op is Op.FLOORDIV else found[1]
        if node.op in (Op.MIN, Op.MAX):
            return self._extreme(node.op, parts)
        args = tuple(to_expr(part) if arg.kind is Kind.INT else arg for part, arg in zip(parts, node.args, strict=True))
        return {(rebuild(node, args),): 1}

    def _extreme(self, op: Op, parts: list[Poly]) -> Poly:
        difference = added(parts[0], scaled(parts[1], -1))
        if set(difference) <= {()}:
            first = difference.get((), 0) <= 0
            return parts[0 if first == (op is Op.MIN) else 1]
        common = math.gcd(*(c for part in parts for c in part.values()))
        common = common if common >= LEAST_TILE else 1  # max(32 * x, 0) is 32 * max(x, 0): a number of tiles
        args = (to_expr({term: c // common for term, c in part.items()}) for part in parts)
        return {(apply(op, *args),): common}

    def divided(self, number: Poly, by: Poly, *, is_exact: bool = False) -> tuple[Poly, Poly] | None:
        """Quotient and rest where they are known: what divides exactly, plus what lies between 0 and the divisor.

        is_exact: whatever sizes are multiples of each other in the examples.
        """
        if len(by) != 1:
            if number == by:
                return {(): 1}, {}
            return None
        ((names, factor),) = by.items()
        if factor <= 0:
            return None
        known = self._known(number, factor) if not names and not is_exact else None
        if known is not None:
            return known, {}
        quotient: Poly = {}
        rest: Poly = {}
        for term, coefficient in number.items():
            left = without(term, names)
            if left is not None and coefficient % factor == 0:
                quotient[left] = coefficient // factor
            elif left == () and not names:
                whole, part = divmod(coefficient, factor)
                quotient = added(quotient, {(): whole} if whole else {})
                rest[()] = part
            else:
                rest[term] = coefficient
        if not rest:
            return quotient, {}
        return (quotient, rest) if self._is_below(rest, by) else None

    def _known(self, number: Poly, factor: int) -> Poly | None:
        """The quotient of a size where another size is that."""
        if len(number) != 1:
            return None
        ((term, coefficient),) = number.items()
        name = str(term[0].attr) if coefficient == 1 and len(term) == 1 and term[0].op is Op.VAR else ""
        found = self.quotients.get((name, factor))
        return None if found is None else {(var(found),): 1}

    def _is_below(self, rest: Poly, by: Poly) -> bool:
        """0 <= rest < by, by the extents of its atoms."""
        if any(coefficient < 0 for coefficient in rest.values()):
            return False
        if len(rest) == 1:
            ((term, coefficient),) = rest.items()
            extent = self._extent(term)
            if extent is not None and scaled(extent, coefficient) == by:
                return True
        most = 0
        for term, coefficient in rest.items():
            extent = {(): 2} if term == () else self._extent(term)
            if extent is None or set(extent) != {()}:
                return False
            most += coefficient * (extent[()] - 1)
        return set(by) == {()} and most < by[()]

    def _extent(self, term: Term) -> Poly | None:
        if len(term) != 1 or term[0].op is not Op.VAR:
            return None
        found = self.extents.get(str(term[0].attr))
        return None if found is None else self.poly(found)

    def divide(self, number: Expr, by: Expr, *, is_rest: bool) -> Expr:
        """number // by or number % by; a grid's number of instances is split where it is taken apart so."""
        top, bottom = self.poly(number), self.poly(by)
        found = self.divided(top, bottom)
        if found is None and self._split(top, bottom):
            found = self.divided(self.poly(number), bottom)
        if found is not None:
            return to_expr(found[1 if is_rest else 0])
        return apply(Op.MOD if is_rest else Op.FLOORDIV, to_expr(top), to_expr(bottom))

    def _split(self, number: Poly, by: Poly) -> bool:
        if len(number) != 1:
            return False
        ((term, coefficient),) = number.items()
        if coefficient != 1 or len(term) != 1 or term[0].op is not Op.VAR:
            return False
        return self.split(str(term[0].attr), by)

    def split(self, name: str, by: Poly) -> bool:
        """name -> name.hi * by + name.lo where `by` divides its extent; False where it does not."""
        if name not in self.splittable or name in self.meaning:
            return False
        found = self.divided(self.poly(self.extents[name]), by, is_exact=True)
        if found is None or found[1] or by == {(): 1}:
            return False
        self.extents[f"{name}.hi"], self.extents[f"{name}.lo"] = to_expr(found[0]), to_expr(by)
        self.splittable |= {f"{name}.hi", f"{name}.lo"}
        self.meaning[name] = var(f"{name}.hi") * to_expr(by) + var(f"{name}.lo")
        return True


def _names(expr: Expr) -> set[str]:
    return {str(node.attr) for node in walk(expr) if node.op is Op.VAR}


def added(a: Mapping[Term, int], b: Mapping[Term, int]) -> Poly:
    """a + b."""
    total = dict(a)
    for term, coefficient in b.items():
        total[term] = total.get(term, 0) + coefficient
    return {term: coefficient for term, coefficient in total.items() if coefficient}


def scaled(a: Mapping[Term, int], factor: int) -> Poly:
    """factor * a."""
    return {term: coefficient * factor for term, coefficient in a.items()} if factor else {}


def multiplied(a: Mapping[Term, int], b: Mapping[Term, int]) -> Poly:
    """a * b."""
    total: Poly = {}
    for left, m in a.items():
        for right, n in b.items():
            term = tuple(sorted((*left, *right), key=order))
            total[term] = total.get(term, 0) + m * n
    return {term: coefficient for term, coefficient in total.items() if coefficient}


def without(term: Term, names: Iterable[Expr]) -> Term | None:
    """The product without these factors, None where one of them is not in it."""
    left = list(term)
    for name in names:
        if name not in left:
            return None
        left.remove(name)
    return tuple(left)


def to_expr(poly: Mapping[Term, int]) -> Expr:
    """The polynomial as an expression: positive terms first, the constant last."""
    terms = sorted((item for item in poly.items() if item[0]), key=lambda item: item[1] < 0)
    total: Expr | None = None
    for term, coefficient in terms:
        product = _product(term, abs(coefficient))
        if total is None:
            total = product if coefficient > 0 else None
            if total is None:
                constant = poly.get((), 0)
                total = const(constant) - product if constant > 0 else -product
        else:
            total = total + product if coefficient > 0 else total - product
    constant = poly.get((), 0)
    if total is None:
        return const(constant)
    if constant > 0 and all(coefficient < 0 for _, coefficient in terms):
        return total
    return total if constant == 0 else total + constant if constant > 0 else total - (-constant)


def _product(term: Term, coefficient: int) -> Expr:
    total = term[0]
    for factor in term[1:]:
        total = total * factor
    return total if coefficient == 1 else total * coefficient
