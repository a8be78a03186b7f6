"""Integer expressions as polynomials: a normal form, ranges of variables, and division with a proof.

A polynomial maps monomials to integer coefficients; a monomial is a sorted tuple of atoms, and an atom is
any integer expression that is not itself a sum or a product. Sizes are at least 1. The ranges of index
variables are given: `ranges[name] = n` says 0 <= name < n.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from .dtypes import Kind
from .expr import Expr, Op, apply, const, rebuild, var, walk

Monomial = tuple[Expr, ...]
Polynomial = dict[Monomial, int]
Ranges = Mapping[str, Expr]

ONE: Monomial = ()


def polynomial(expr: Expr) -> Polynomial:
    """The polynomial of an INT expression; what is no sum or product is an atom."""
    if expr.op is Op.CONST:
        return {ONE: int(expr.attr)} if expr.attr else {}  # type: ignore[call-overload]
    if expr.op is Op.ADD:
        return add(polynomial(expr.args[0]), polynomial(expr.args[1]))
    if expr.op is Op.SUB:
        return add(polynomial(expr.args[0]), polynomial(expr.args[1]), -1)
    if expr.op is Op.NEG:
        return add({}, polynomial(expr.args[0]), -1)
    if expr.op is Op.MUL:
        return multiply(polynomial(expr.args[0]), polynomial(expr.args[1]))
    return {(expr,): 1}


def add(left: Polynomial, right: Polynomial, factor: int = 1) -> Polynomial:
    """left + factor * right."""
    total = dict(left)
    for monomial, coefficient in right.items():
        total[monomial] = total.get(monomial, 0) + factor * coefficient
    return {monomial: c for monomial, c in total.items() if c}


def multiply(left: Polynomial, right: Polynomial) -> Polynomial:
    """left * right."""
    total: Polynomial = {}
    for m1, c1 in left.items():
        for m2, c2 in right.items():
            monomial = _sorted(m1 + m2)
            total[monomial] = total.get(monomial, 0) + c1 * c2
    return {monomial: c for monomial, c in total.items() if c}


def _sorted(atoms: Monomial) -> Monomial:
    return tuple(sorted(atoms, key=repr)) if len(atoms) > 1 else atoms


def expression(poly: Polynomial) -> Expr:
    """The expression of a polynomial: positive terms first, the constant last."""
    order = sorted(poly.items(), key=lambda term: (not term[0], term[1] < 0, repr(term[0])))
    total: Expr | None = None
    for monomial, coefficient in order:
        if total is None:
            total = _term(monomial, coefficient)
        elif coefficient < 0:
            total = total - _term(monomial, -coefficient)
        else:
            total = total + _term(monomial, coefficient)
    return const(0) if total is None else total


def _term(monomial: Monomial, coefficient: int) -> Expr:
    product: Expr | None = None
    for atom in monomial:
        product = atom if product is None else product * atom
    if product is None:
        return const(coefficient)
    if coefficient == 1:
        return product
    return -product if coefficient == -1 else product * coefficient


def simplify(expr: Expr, ranges: Ranges) -> Expr:
    """An INT expression in normal form: sums collected, divisions and remainders resolved where provable."""
    done: dict[Expr, Expr] = {}
    for node in walk(expr):
        new = rebuild(node, tuple(done[arg] for arg in node.args))
        if node.op is Op.FLOORDIV:
            new = floordiv(new.args[0], new.args[1], ranges)
        elif node.op is Op.MOD:
            new = modulo(new.args[0], new.args[1], ranges)
        elif node.kind is Kind.INT and node.op in (Op.ADD, Op.SUB, Op.MUL, Op.NEG):
            new = expression(_rejoin(polynomial(new)))
        done[node] = new
    return done[expr]


def _rejoin(poly: Polynomial) -> Polynomial:
    """x // n * n + x % n -> x."""
    for monomial, coefficient in list(poly.items()):
        for atom in monomial:
            if atom.op is not Op.MOD:
                continue
            x, n = atom.args
            rest = list(monomial)
            rest.remove(atom)
            scale: Polynomial = {tuple(rest): coefficient}
            whole = multiply(scale, multiply(polynomial(n), {(apply(Op.FLOORDIV, x, n),): 1}))
            if all(poly.get(m) == c for m, c in whole.items()):
                without = add(add(poly, whole, -1), {monomial: coefficient}, -1)
                return _rejoin(add(without, multiply(scale, polynomial(x))))
    return poly


def floordiv(x: Expr, n: Expr, ranges: Ranges) -> Expr:
    """x // n, with the multiples of n taken out and a proven remainder dropped."""
    whole, rest = _split(polynomial(x), n)
    if not rest or _within(rest, n, ranges):
        return expression(_rejoin(whole))
    for part, other in _parts(n):  # x // (a * b) -> (x // a) // b where x % a drops out
        if _within(_split(rest, part)[1], part, ranges):
            inner = floordiv(expression(rest), part, ranges)
            return expression(_rejoin(add(whole, polynomial(floordiv(inner, other, ranges)))))
    remainder = expression(rest)
    if remainder.op is Op.FLOORDIV:  # (x // a) // n -> x // (a * n)
        remainder, n = remainder.args[0], expression(multiply(polynomial(remainder.args[1]), polynomial(n)))
    return expression(_rejoin(add(whole, {(apply(Op.FLOORDIV, remainder, n),): 1})))


def modulo(x: Expr, n: Expr, ranges: Ranges) -> Expr:
    """x % n, with the multiples of n dropped."""
    _, rest = _split(polynomial(x), n)
    for part, other in _parts(n):  # x % (a * b) -> x // a % b * a + x % a where x % a is plain
        _, last = _split(rest, part)
        if _within(last, part, ranges):
            first = modulo(floordiv(expression(rest), part, ranges), other, ranges)
            return expression(_rejoin(add(multiply(polynomial(first), polynomial(part)), last)))
    remainder = expression(rest)
    return remainder if not rest or _within(rest, n, ranges) else apply(Op.MOD, remainder, n)


def _parts(n: Expr) -> list[tuple[Expr, Expr]]:
    """(a, b) with a * b = n, a an atom and b not 1."""
    divisor = polynomial(n)
    if len(divisor) != 1:
        return []
    ((atoms, coefficient),) = divisor.items()
    found = []
    for atom in sorted(set(atoms), key=repr):
        left = list(atoms)
        left.remove(atom)
        if left or coefficient != 1:
            found.append((atom, expression({tuple(left): coefficient})))
    return found


def _split(x: Polynomial, n: Expr) -> tuple[Polynomial, Polynomial]:
    """x = whole * n + rest. Exact for a divisor of one term; a longer divisor must divide x as a whole."""
    divisor = polynomial(n)
    if len(divisor) != 1:
        return ({ONE: 1}, {}) if x == divisor else ({}, x)
    ((atoms, coefficient),) = divisor.items()
    whole: Polynomial = {}
    rest: Polynomial = {}
    for monomial, c in x.items():
        left = Counter(monomial)
        left.subtract(Counter(atoms))
        if min(left.values(), default=0) < 0 or c % coefficient:
            rest[monomial] = c
        else:
            whole[_sorted(tuple(left.elements()))] = c // coefficient
    return whole, rest


def _within(x: Polynomial, n: Expr, ranges: Ranges) -> bool:
    """Whether 0 <= x < n is certain."""
    upper = add(add(polynomial(n), {ONE: 1}, -1), x, -1)
    return is_nonnegative(x, ranges) and is_nonnegative(upper, ranges)


def is_nonnegative(poly: Polynomial, ranges: Ranges) -> bool:
    """Whether a polynomial is certainly >= 0 for all index variables in their ranges and sizes >= 1."""
    for monomial in poly:
        for atom in monomial:
            limit = extent(atom, ranges)
            if limit is not None:
                return _at_both_ends(poly, atom, limit, ranges)
    if any(atom.op is not Op.VAR for monomial in poly for atom in monomial):
        return False
    return all(coefficient >= 0 for coefficient in _from_one(poly).values())


def _at_both_ends(poly: Polynomial, atom: Expr, limit: Expr, ranges: Ranges) -> bool:
    """Linear in the atom: nonnegative when it is so at the worse end of the atom's range."""
    slope: Polynomial = {}
    rest: Polynomial = {}
    for monomial, coefficient in poly.items():
        if monomial.count(atom) > 1:
            return False
        if atom in monomial:
            remaining = list(monomial)
            remaining.remove(atom)
            slope[tuple(remaining)] = coefficient
        else:
            rest[monomial] = coefficient
    last = add(polynomial(limit), {ONE: 1}, -1)
    at_end = add(rest, multiply(slope, last))
    return is_nonnegative(rest, ranges) and is_nonnegative(at_end, ranges)


def _from_one(poly: Polynomial) -> Polynomial:
    """The polynomial with every size n written as 1 + t, t >= 0."""
    shifted: Polynomial = {}
    for monomial, coefficient in poly.items():
        term: Polynomial = {ONE: coefficient}
        for atom in monomial:
            term = multiply(term, {(atom,): 1, ONE: 1})
        shifted = add(shifted, term)
    return shifted


def extent(atom: Expr, ranges: Ranges) -> Expr | None:
    """The n of 0 <= atom < n, where known."""
    if atom.op is Op.VAR:
        return ranges.get(str(atom.attr))
    if atom.op is Op.MOD and is_positive(atom.args[1]):
        return atom.args[1]
    if atom.op is Op.FLOORDIV:
        limit = extent(atom.args[0], ranges)
        if limit is not None and is_positive(atom.args[1]):
            whole, rest = _split(polynomial(limit), atom.args[1])
            return expression(whole) if not rest else None
    return None


def is_positive(size: Expr) -> bool:
    """Whether a size expression is certainly >= 1."""
    poly = add(polynomial(size), {ONE: 1}, -1)
    atoms = {atom for monomial in poly for atom in monomial}
    return all(a.op is Op.VAR for a in atoms) and is_nonnegative(poly, {})


def size_var(name: str) -> Expr:
    """A size by its name."""
    return var(name, Kind.INT)
