"""A prover for integers: whether facts imply a goal, for linear (in)equalities with quotients, min, max and choices.

The negated goal joins the facts and every case is refuted by Fourier-Motzkin elimination over the integers'
relaxation, tightened by greatest common divisors. The answer "proved" is certain; "not proved" means nothing. Index
variables and sizes are at least 0, divisors at least 1. What it does not know (elements of tensors, products of
variables) stands for itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ...domain.fold import negated
from ...domain.linear import is_nonnegative
from ...dtypes import DType, Kind
from ...expr import Expr, Op, apply, const, transform, walk
from ...integers import Monomial, add, multiply, polynomial

MOST_CASES = 4000
MOST_CONSTRAINTS = 300

Form = dict[Monomial, int]  # the constant under the empty monomial; meaning: form <= 0


def implies(facts: Iterable[Expr], goal: Expr) -> bool:
    """Whether the facts (BOOL expressions) certainly imply the goal."""
    return is_impossible([*facts, negated(goal)])


def is_impossible(facts: Sequence[Expr]) -> bool:
    """Whether the facts certainly contradict each other."""
    try:
        return _Search().refute([_plain(fact) for fact in facts])
    except _TooLarge:
        return False


class _TooLarge(Exception):
    pass


def _plain(e: Expr) -> Expr:
    """Without casts of integers."""

    def strip(node: Expr) -> Expr | None:
        is_wide = node.op is Op.CAST and node.attr in (DType.I32, DType.I64) and node.args[0].kind is Kind.INT
        return node.args[0] if is_wide else None

    return transform(e, strip)


class _Search:
    """A tableau over the logic, with a linear program at each leaf."""

    def __init__(self) -> None:
        self.cases = 0

    def refute(self, pending: list[Expr]) -> bool:
        """Whether every case of the pending facts is contradictory."""
        literals: list[Expr] = []
        return self._branch(pending, literals)

    def _branch(self, pending: list[Expr], literals: list[Expr]) -> bool:
        pending, literals = list(pending), list(literals)
        while pending:
            fact = pending.pop()
            if fact.op is Op.CONST:
                if not fact.attr:
                    return True
                continue
            if fact.op is Op.AND:
                pending += fact.args
                continue
            cases = _cases(fact)
            if cases is None:
                if negated(fact) in literals:
                    return True
                literals.append(fact)
                continue
            return self._all(pending, literals, cases)
        split = next((s for literal in literals if (s := _choice_in(literal)) is not None), None)
        if split is not None:
            return self._all([], [], _ways(split, literals))
        quotient = next((q for literal in literals if (q := _signless(literal, literals)) is not None), None)
        if quotient is not None:
            zero, x = const(0), quotient.args[0]
            return self._all([], literals, [[zero <= x, zero <= quotient], [x < zero, quotient < zero]])
        return _contradict(literals)

    def _all(self, pending: list[Expr], literals: list[Expr], cases: Sequence[Sequence[Expr]]) -> bool:
        for case in cases:
            self.cases += 1
            if self.cases > MOST_CASES:
                raise _TooLarge
            if not self._branch([*pending, *case], literals):
                return False
        return True


def _cases(fact: Expr) -> list[list[Expr]] | None:
    """The alternatives of a fact; None for a literal."""
    if fact.op is Op.OR:
        return [[fact.args[0]], [fact.args[1]]]
    if fact.op is Op.SELECT:
        c, then, otherwise = fact.args
        return [[c, then], [negated(c), otherwise]]
    if fact.op is Op.XOR:
        a, b = fact.args
        return [[a, negated(b)], [negated(a), b]]
    if fact.op is Op.NOT and fact.args[0].op in (Op.SELECT, Op.XOR):
        inner = fact.args[0]
        if inner.op is Op.XOR:
            a, b = inner.args
            return [[a, b], [negated(a), negated(b)]]
        c, then, otherwise = inner.args
        return [[c, negated(then)], [negated(c), negated(otherwise)]]
    is_integer = fact.args and all(arg.kind is Kind.INT for arg in fact.args)
    if is_integer and fact.op is Op.NE:
        a, b = fact.args
        return [[a < b], [b < a]]
    if is_integer and fact.op is Op.EQ:
        a, b = fact.args
        return [[a <= b, b <= a]]
    if fact.op is Op.NOT and fact.args[0].op in (Op.EQ, Op.NE) and fact.args[0].args[0].kind is Kind.INT:
        inner = fact.args[0]
        return _cases(apply(Op.NE if inner.op is Op.EQ else Op.EQ, *inner.args))
    return None


def _choice_in(literal: Expr) -> Expr | None:
    """A min, max, absolute value or choice inside an integer comparison."""
    if literal.op not in (Op.LT, Op.LE) or literal.args[0].kind is not Kind.INT:
        return None
    for node in walk(literal):
        if node.kind is Kind.INT and node.op in (Op.MIN, Op.MAX, Op.SELECT, Op.ABS):
            return node
    return None


def _signless(literal: Expr, literals: Sequence[Expr]) -> Expr | None:
    """A quotient by what is no literal whose sign has not been decided yet."""
    if literal.op not in (Op.LT, Op.LE) or literal.args[0].kind is not Kind.INT:
        return None
    for node in walk(literal):
        if node.op is not Op.FLOORDIV or node.args[1].op is Op.CONST or is_nonnegative(node.args[0]):
            continue
        if (const(0) <= node) not in literals and (node < const(0)) not in literals:
            return node
    return None


def _ways(node: Expr, literals: list[Expr]) -> list[list[Expr]]:
    """The literals with the choice decided, each way under its condition."""
    if node.op is Op.SELECT:
        c, a, b = node.args
    elif node.op is Op.ABS:
        (a,) = node.args
        c, b = const(0) <= a, -a
    else:
        a, b = node.args
        c = a <= b if node.op is Op.MIN else b <= a
    ways = []
    for value, condition in ((a, c), (b, negated(c))):
        decided = [transform(f, lambda e, v=value: v if e is node else None) for f in literals]  # type: ignore[misc]
        ways.append([condition, *decided])
    return ways


def _contradict(literals: Sequence[Expr]) -> bool:
    """Whether the linear comparisons among the literals have no solution."""
    forms: list[Form] = []
    for literal in literals:
        if literal.op in (Op.LT, Op.LE) and literal.args[0].kind is Kind.INT and literal.args[1].kind is Kind.INT:
            left, right = (polynomial(arg) for arg in literal.args)
            form = dict(left)
            for m, c in right.items():
                form[m] = form.get(m, 0) - c
            if literal.op is Op.LT:
                form[()] = form.get((), 0) + 1
            forms.append({m: c for m, c in form.items() if c})
    forms += _about_atoms(forms)
    return _infeasible(forms)


def _about_atoms(forms: Sequence[Form]) -> list[Form]:
    """Facts about quotients and remainders by literals, and about what is at least 0."""
    facts: list[Form] = []
    pending = [m for form in forms for m in form]
    seen: set[Monomial] = set()
    known: set[Expr] = set()
    while pending:
        monomial = pending.pop()
        if monomial in seen or not monomial:
            continue
        seen.add(monomial)
        new = [{monomial: -1}] if all(is_nonnegative(a) for a in monomial) else []
        new += [fact for atom in set(monomial) - known for fact in _division(atom)]
        known |= set(monomial)
        facts += new
        pending += [m for form in new for m in form]
    return facts


def _division(atom: Expr) -> list[Form]:
    """c * q <= x <= c * q + c - 1 for q = x // c; x = c * (x // c) + x % c and 0 <= x % c < c for a remainder."""
    if atom.op not in (Op.FLOORDIV, Op.MOD) or not is_nonnegative(atom.args[1]):
        return []
    x, c = (polynomial(arg) for arg in atom.args)
    quotient = apply(Op.FLOORDIV, *atom.args)
    rest = add(x, multiply(c, {(quotient,): 1}), -1)  # x - c * q
    last = add(add(rest, c, -1), {(): 1})
    if atom.op is Op.FLOORDIV:
        return [_negative(rest), last]
    own: Form = {(atom,): 1}
    return [add(own, rest, -1), add(rest, own, -1), _negative(own), add(add(own, c, -1), {(): 1})]


def _negative(form: Form) -> Form:
    return {m: -c for m, c in form.items()}


def _tightened(form: Form) -> Form:
    factors = [c for m, c in form.items() if m]
    g = math.gcd(*factors) if factors else 1
    if g > 1:
        form = {m: c // g if m else -(-c // g) for m, c in form.items()}
    return {m: c for m, c in form.items() if c}


def _infeasible(forms: list[Form]) -> bool:
    """Fourier-Motzkin: eliminate variables, the cheapest first, until a constant contradicts itself."""
    current = {_key(f): f for f in map(_tightened, forms)}
    while True:
        live = list(current.values())
        if any(f.get((), 0) > 0 and len(f) == 1 for f in live):
            return True
        live = [f for f in live if any(m for m in f)]
        signs: dict[Monomial, list[int]] = {}  # how many forms are bounded below by a variable, how many above
        for f in live:
            for m, c in f.items():
                if m:
                    signs.setdefault(m, [0, 0])[c > 0] += 1
        if not signs:
            return False
        chosen = min(signs, key=lambda m: math.prod(signs[m]) - sum(signs[m]))
        upper = [f for f in live if f.get(chosen, 0) > 0]
        lower = [f for f in live if f.get(chosen, 0) < 0]
        rest = [f for f in live if not f.get(chosen, 0)]
        made = [_combined(a, b, chosen) for a in upper for b in lower]
        if len(rest) + len(made) > MOST_CONSTRAINTS:
            raise _TooLarge
        current = {_key(f): f for f in (*rest, *made)}


def _key(form: Form) -> tuple[object, ...]:
    return tuple(sorted(((tuple(map(id, m)), c) for m, c in form.items())))


def _combined(a: Form, b: Form, variable: Monomial) -> Form:
    x, y = a[variable], -b[variable]
    total = {m: c * y for m, c in a.items()}
    for m, c in b.items():
        total[m] = total.get(m, 0) + c * x
    total.pop(variable, None)
    return _tightened({m: c for m, c in total.items() if c})
