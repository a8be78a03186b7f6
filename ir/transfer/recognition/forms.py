"""Normal form of float expressions: sums of products of powers of atoms and one exponential.

    sum over terms of  coefficient * atom1^p1 * atom2^p2 * … * 2^(c1 * x1 + c2 * x2 + …)

In it `exp(a - b)`, `exp2(a * log2e) / exp2(b * log2e)` and `exp2((a - b) * log2e)` are one form, so that the many
spellings of an online softmax compare equal. Arithmetic is that of the real numbers: roundings to a type are dropped,
and guards for rows without keys (`where(peak == -inf, 0.0, peak)`) count as what they guard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ...algebra import simplify
from ...dtypes import Kind
from ...expr import Expr, Op, apply, const, rebuild, select, substitute, transform, var, walk

LOG2E = math.log2(math.e)
LEAST = -1e6  # constants of scores at most this are masks: no weight comes of them
DEGENERATE = -1e19  # maxima at most this stand for rows that have seen no key
TINY = 1e-6  # bounds of sums at most this guard rows without keys
CLOSE = 1e-6  # constants are rounded to what kernels hold, float32

Powers = tuple[tuple[Expr, int], ...]
Exponent = tuple[tuple[Expr, float], ...]
Term = tuple[Powers, Exponent]
Form = dict[Term, float]

UNIT: Term = ((), ())


def number(e: Expr) -> float | None:
    """The value of a numeric literal, else None."""
    if e.op is Op.NEG:
        inner = number(e.args[0])
        return None if inner is None else -inner
    return float(e.attr) if e.op is Op.CONST and e.kind is not Kind.BOOL else None  # type: ignore[arg-type]


def _simplified(e: Expr) -> Expr:
    """The expression simplified outside sums and maxima, which stay as they are."""
    names: dict[Expr, Expr] = {}
    stack = [e]
    while stack:
        node = stack.pop()
        if node.op is Op.CALL:
            names.setdefault(node, var(f"@sub{len(names)}", node.kind))
        else:
            stack.extend(node.args)
    hidden = replaced(e, names)
    return substitute(simplify(hidden), {str(new.attr): old for old, new in names.items()})


def indicator(condition: Expr) -> Expr:
    """1 where the condition holds, else 0."""
    return select(condition, 1.0, 0.0)


def is_indicator(e: Expr) -> bool:
    """Whether an atom is 1 under a condition and 0 elsewhere."""
    return e.op is Op.SELECT and number(e.args[1]) == 1.0 and number(e.args[2]) == 0.0


def replaced(e: Expr, values: Mapping[Expr, Expr]) -> Expr:
    """The expression with whole sub-expressions replaced, the largest first."""
    done: dict[Expr, Expr] = {}

    def visit(node: Expr) -> Expr:
        if node in values:
            return values[node]
        if node not in done:
            done[node] = rebuild(node, tuple(visit(arg) for arg in node.args))
        return done[node]

    return visit(e)


class Forms:
    """Normal forms of one program's expressions; equal atoms are one interned expression."""

    def __init__(self) -> None:
        self._rank: dict[Expr, int] = {}
        self._known: dict[Expr, Form] = {}

    # Construction

    def of(self, e: Expr) -> Form:
        """The normal form of a FLOAT or INT expression."""
        found = self._known.get(e)
        if found is None:
            found = self._known[e] = self._find(e)
        return found

    def _find(self, e: Expr) -> Form:
        value = number(e)
        if value is not None:
            return {UNIT: value} if value else {}
        rule = _RULES.get(e.op)
        if rule is not None and e.kind is Kind.FLOAT:
            return rule(self, e)
        return self.atom(simplify(e) if e.kind is Kind.INT else self._opaque(e))

    def _opaque(self, e: Expr) -> Expr:
        """A function without rules here, its float arguments in canonical order."""
        if not e.args or e.op in (Op.LOAD, Op.CALL):
            return e
        args = tuple(self.expr(self.of(a)) if a.kind is Kind.FLOAT else simplify(a) for a in e.args)
        return _simplified(apply(e.op, *args)) if e.op is not Op.CAST else e

    def atom(self, e: Expr) -> Form:
        """The form of an expression that is taken as a whole."""
        self._rank.setdefault(e, len(self._rank))
        return {(((e, 1),), ()): 1.0}

    def add(self, a: Form, b: Form, factor: float = 1.0) -> Form:
        """a + factor * b."""
        total = dict(a)
        for term, c in b.items():
            total[term] = total.get(term, 0.0) + factor * c
            size = abs(a.get(term, 0.0)) + abs(factor * c)
            if abs(total[term]) <= CLOSE * size:
                del total[term]
        return total

    def times(self, a: Form, b: Form) -> Form:
        """a * b."""
        total: Form = {}
        for (p1, e1), c1 in a.items():
            for (p2, e2), c2 in b.items():
                total = self.add(total, {self._joined(p1, p2, e1, e2): c1 * c2})
        return total

    def _joined(self, p1: Powers, p2: Powers, e1: Exponent, e2: Exponent) -> Term:
        powers: dict[Expr, int] = dict(p1)
        for atom, power in p2:
            powers[atom] = 1 if is_indicator(atom) else powers.get(atom, 0) + power
        exponent: dict[Expr, float] = dict(e1)
        for atom, c in e2:
            before = exponent.get(atom, 0.0)
            exponent[atom] = before + c
            if abs(exponent[atom]) <= CLOSE * (abs(before) + abs(c)):
                del exponent[atom]
        return self._ordered(powers), self._exponent(exponent)

    def _ordered(self, powers: Mapping[Expr, int]) -> Powers:
        kept = [(atom, power) for atom, power in powers.items() if power]
        return tuple(sorted(kept, key=lambda item: self._rank[item[0]]))

    def _exponent(self, exponent: Mapping[Expr, float]) -> Exponent:
        kept = [(atom, float(f"{c:.10g}")) for atom, c in exponent.items() if c]
        return tuple(sorted(kept, key=lambda item: self._rank[item[0]]))

    def inverse(self, a: Form) -> Form:
        """1 / a: term by term where there is one, a sigmoid of the shape 1 / (1 + exp(-x)), else a whole."""
        if len(a) == 1:
            (((powers, exponent), c),) = a.items()
            flipped = {atom: 1 if is_indicator(atom) else -power for atom, power in powers}
            return {(self._ordered(flipped), self._exponent({x: -k for x, k in exponent})): 1.0 / c}
        squashed = self._sigmoid_of(a)
        if squashed is not None:
            return squashed
        shared = self._shared(a)
        if shared != UNIT:
            factor = {shared: 1.0}
            return self.times(self.inverse(factor), self.inverse(self.times(a, self.inverse(factor))))
        whole = self.expr(a)
        self._rank.setdefault(whole, len(self._rank))
        return {(((whole, -1),), ()): 1.0}

    def _sigmoid_of(self, a: Form) -> Form | None:
        """1 / (c + d * 2^y) = sigmoid(log(c / d) - y * log(2)) / c."""
        others = [term for term in a if term != UNIT]
        if len(others) != 1 or others[0][0] or a.get(UNIT, 0.0) <= 0 or a[others[0]] <= 0:
            return None
        shift = math.log(a[UNIT] / a[others[0]])
        x: Form = {UNIT: shift} if shift else {}
        for atom, c in others[0][1]:
            x = self.add(x, self.of(atom), -float(f"{c / LOG2E:.9g}"))
        return {term: c / a[UNIT] for term, c in self.atom(apply(Op.SIGMOID, self.expr(x))).items()}

    def _shared(self, a: Form) -> Term:
        """The factor that all terms have in common."""
        powers, exponent = next(iter(a), UNIT)
        for other in a:
            powers = tuple(item for item in powers if item in other[0] and not is_indicator(item[0]))
            exponent = tuple(item for item in exponent if item in other[1])
        return powers, exponent

    def power_of_two(self, x: Form) -> Form:
        """2^x: constants become coefficients, logarithms powers, the rest the exponent."""
        scale, powers, exponent = 0.0, {}, {}  # type: ignore[var-annotated]
        for term, c in x.items():
            if term == UNIT:
                scale = c
                continue
            atom = self.expr({term: 1.0})
            if atom.op is Op.LOG2 and abs(c - round(c)) < 1e-6:
                powers[atom.args[0]] = powers.get(atom.args[0], 0) + round(c)
                self._rank.setdefault(atom.args[0], len(self._rank))
                continue
            self._rank.setdefault(atom, len(self._rank))
            exponent[atom] = exponent.get(atom, 0.0) + c
        try:
            factor = 2.0**scale
        except OverflowError:
            factor = math.inf
        sums = [(atom, power) for atom, power in powers.items() if atom.op is Op.ADD and power > 0]
        result = {
            (self._ordered({a: p for a, p in powers.items() if (a, p) not in sums}), self._exponent(exponent)): factor
        }
        for atom, power in sums:
            for _ in range(power):
                result = self.times(result, self.of(atom))
        return result if factor else {}

    def log2(self, a: Form) -> Form:
        """log2 of a; of one term with positive powers it is a sum."""
        shared = self._shared(a)
        if len(a) > 1 and shared != UNIT:
            rest = self.times(a, self.inverse({shared: 1.0}))
            return self.add(self.log2({shared: 1.0}), self.log2(rest))
        if len(a) != 1 or next(iter(a.values())) <= 0:
            return self.atom(apply(Op.LOG2, self.expr(a)))
        (((powers, exponent), c),) = a.items()
        total: Form = {UNIT: math.log2(c)} if c != 1.0 else {}
        for atom, k in exponent:
            total = self.add(total, self.of(atom), k)
        for atom, power in powers:
            total = self.add(total, self.atom(apply(Op.LOG2, atom)), power)
        return total

    def lifted(self, e: Expr) -> tuple[Expr, Expr]:
        """(condition, x) of an exponent: where the condition fails the exponent is -inf, else it is x."""
        if e.op is Op.SELECT:
            c, then, otherwise = e.args
            if is_least(otherwise):
                inner, x = self.lifted(then)
                return c & inner, x
            if is_least(then):
                inner, x = self.lifted(otherwise)
                return apply(Op.NOT, c) & inner, x
            (c1, x1), (c2, x2) = self.lifted(then), self.lifted(otherwise)
            return select(c, c1, c2), select(c, x1, x2)
        if e.op in (Op.ADD, Op.SUB):
            (c1, x1), (c2, x2) = self.lifted(e.args[0]), self.lifted(e.args[1])
            return c1 & c2, apply(e.op, x1, x2)
        if e.op in (Op.MUL, Op.DIV):
            for at in (1, 0) if e.op is Op.MUL else (1,):
                factor = number(e.args[at])
                if factor is not None and factor > 0:
                    c1, x1 = self.lifted(e.args[1 - at])
                    return c1, apply(e.op, x1, factor) if at else apply(e.op, factor, x1)
        if e.op is Op.CAST and e.args[0].kind is Kind.FLOAT:
            return self.lifted(e.args[0])
        if e.op is Op.MAX and any(is_least(arg) for arg in e.args):
            return self.lifted(next(arg for arg in e.args if not is_least(arg)))
        return const(True), e

    # Back to expressions

    def expr(self, a: Form) -> Expr:
        """The canonical expression of a form."""
        total: Expr | None = None
        for term, c in sorted(a.items(), key=lambda item: self._place(item[0])):
            product = self._product(term, c)
            total = product if total is None else total + product
        return const(0.0) if total is None else total

    def _place(self, term: Term) -> tuple[object, ...]:
        powers, exponent = term
        ranked = tuple((self._rank[x], p) for x, p in powers), tuple((self._rank[x], c) for x, c in exponent)
        return (term == UNIT, *ranked)

    def _product(self, term: Term, c: float) -> Expr:
        factors = [factor for atom, power in term[0] for factor in _power(atom, power)]
        if term[1]:
            total: Expr | None = None
            for atom, k in term[1]:
                part = atom if k == 1.0 else atom * k
                total = part if total is None else total + part
            assert total is not None
            factors.append(apply(Op.EXP2, total))
        product: Expr | None = None
        for factor in factors:
            product = factor if product is None else product * factor
        if product is None:
            return const(c)
        return product if c == 1.0 and product.kind is Kind.FLOAT else product * c

    def same(self, a: Form, b: Form, tolerance: float = CLOSE) -> bool:
        """Whether two forms are equal up to the rounding of their constants."""
        if a.keys() == b.keys():
            return all(math.isclose(c, b[term], rel_tol=tolerance) for term, c in a.items())
        return self._same_terms(list(a.items()), list(b.items()), tolerance)

    def _same_terms(self, a: list[tuple[Term, float]], b: list[tuple[Term, float]], tolerance: float) -> bool:
        if len(a) != len(b):
            return False
        for term, c in a:
            found = next((item for item in b if _near(term, c, *item, tolerance)), None)
            if found is None:
                return False
            b.remove(found)
        return True

    def replaced(self, a: Form, replace: Callable[[Expr], Expr | None]) -> Form:
        """The form with sub-expressions of its atoms replaced."""
        return self.of(transform(self.expr(a), replace))


def _near(t1: Term, c1: float, t2: Term, c2: float, tolerance: float) -> bool:
    exponents = [x for x, _ in t1[1]] == [x for x, _ in t2[1]]
    close = exponents and all(
        math.isclose(k1, k2, rel_tol=tolerance) for (_, k1), (_, k2) in zip(t1[1], t2[1], strict=True)
    )
    return t1[0] == t2[0] and close and math.isclose(c1, c2, rel_tol=tolerance)


def _power(atom: Expr, power: int) -> list[Expr]:
    return [atom] * power if power > 0 else [apply(Op.DIV, 1.0, atom)] * -power


def is_least(e: Expr) -> bool:
    """Whether a constant of a score is so low that no weight comes of it."""
    value = number(e)
    return value is not None and value <= LEAST


def guarded(condition: Expr) -> bool | None:
    """Which branch of a choice is for rows that have seen keys: True the first, False the second, None neither.

    Conditions that only rows without keys meet compare a maximum with -inf or a sum with 0.
    """
    if condition.op is Op.NOT:
        inner = guarded(condition.args[0])
        return None if inner is None else not inner
    if condition.op not in (Op.EQ, Op.NE, Op.LT, Op.LE):
        return None
    left, right = condition.args
    for side, bound in ((left, number(right)), (right, number(left))):
        if bound is None or not _is_guard(side, bound):
            continue
        if condition.op in (Op.EQ, Op.NE):
            return condition.op is Op.NE
        return side is right  # bound < peak: the first branch is for rows with keys
    return None


def _is_guard(x: Expr, bound: float) -> bool:
    """Whether x only compares so with the bound where a row has no key: a maximum with -inf, a sum with 0."""
    marks = ("@peak", "@max", "@carried") if bound <= DEGENERATE else ("@fold",)
    is_low = bound <= DEGENERATE or 0.0 <= bound <= TINY
    return is_low and any(n.op in (Op.CALL, Op.VAR) and str(n.attr).startswith(marks) for n in walk(x))


def _largest(forms: Forms, e: Expr) -> Form:
    """max(sum, 1e-9) guards rows without keys."""
    for x, bound in (e.args, e.args[::-1]):
        limit = number(bound)
        if limit is not None and 0.0 < limit <= TINY and _is_guard(x, limit):
            return forms.of(x)
    return forms.atom(forms._opaque(e))


def _sum(forms: Forms, e: Expr) -> Form:
    total = forms.add(forms.of(e.args[0]), forms.of(e.args[1]), 1.0 if e.op is Op.ADD else -1.0)
    return _tangent(forms, total) or total


def _tangent(forms: Forms, total: Form) -> Form | None:
    """c * tanh(x) for the sum 2 * c * sigmoid(2 * x) - c; None for other sums."""
    if len(total) != 2 or UNIT not in total:
        return None
    (((powers, exponent), c),) = ((term, c) for term, c in total.items() if term != UNIT)
    is_squashed = not exponent and len(powers) == 1 and powers[0][0].op is Op.SIGMOID and powers[0][1] == 1
    if not is_squashed or not math.isclose(c, -2.0 * total[UNIT], rel_tol=CLOSE):
        return None
    sign = math.copysign(1.0, c)
    x = {term: 0.5 * sign * k for term, k in forms.of(powers[0][0].args[0]).items()}
    return {term: 0.5 * abs(c) * k for term, k in forms.atom(apply(Op.TANH, forms.expr(x))).items()}


def _has_factor(product: Form, factor: Form) -> bool:
    """Whether every term of a product has all atoms and the exponent of a factor of one term."""
    if len(factor) != 1:
        return False
    ((powers, exponent),) = factor
    return all(set(powers) <= set(p) and set(exponent) <= set(x) for p, x in product)


def _choice(forms: Forms, e: Expr) -> Form:
    condition, then, otherwise = e.args
    regular = guarded(condition)
    if regular is not None:
        return forms.of(then if regular else otherwise)
    if condition.op is Op.EQ and number(condition.args[1]) == 0.0 and number(then) == 0.0:
        product = forms.of(otherwise)
        if _has_factor(product, forms.of(condition.args[0])):
            return product  # where(p == 0, 0, p * z) is p * z
    condition = simplify(condition)
    if condition.op is Op.CONST:
        return forms.of(then if condition.attr else otherwise)
    if number(otherwise) == 0.0:
        return forms.times(forms.atom(indicator(condition)), forms.of(then))
    if number(then) == 0.0:
        return forms.times(forms.atom(indicator(simplify(apply(Op.NOT, condition)))), forms.of(otherwise))
    parts = forms.expr(forms.of(then)), forms.expr(forms.of(otherwise))
    if parts[0] is parts[1]:
        return forms.of(then)
    return forms.atom(select(condition, *parts))


def _exponential(forms: Forms, e: Expr) -> Form:
    condition, x = forms.lifted(e.args[0])
    exponent = forms.of(x)
    if e.op is Op.EXP:
        exponent = {term: c * LOG2E for term, c in exponent.items()}
    result = forms.power_of_two(exponent)
    condition = simplify(condition)
    return result if condition is const(True) else forms.times(forms.atom(indicator(condition)), result)


def _cast(forms: Forms, e: Expr) -> Form:
    (x,) = e.args
    if x.kind is Kind.BOOL:
        condition = simplify(x)
        return (
            forms.of(const(float(bool(condition.attr))))
            if condition.op is Op.CONST
            else forms.atom(indicator(condition))
        )
    return forms.of(x)


def _power_rule(forms: Forms, e: Expr) -> Form:
    power = number(e.args[1])
    if power is None or power not in (1.0, 2.0, 3.0, 4.0, -1.0):
        return forms.atom(forms._opaque(e))
    base = forms.of(e.args[0])
    if power < 0:
        return forms.inverse(base)
    total = base
    for _ in range(int(power) - 1):
        total = forms.times(total, base)
    return total


_RULES: dict[Op, Callable[[Forms, Expr], Form]] = {
    Op.ADD: _sum,
    Op.SUB: _sum,
    Op.NEG: lambda f, e: {term: -c for term, c in f.of(e.args[0]).items()},
    Op.MUL: lambda f, e: f.times(f.of(e.args[0]), f.of(e.args[1])),
    Op.DIV: lambda f, e: f.times(f.of(e.args[0]), f.inverse(f.of(e.args[1]))),
    Op.EXP: _exponential,
    Op.EXP2: _exponential,
    Op.LOG2: lambda f, e: f.log2(f.of(e.args[0])),
    Op.LOG: lambda f, e: {term: c / LOG2E for term, c in f.log2(f.of(e.args[0])).items()},
    Op.CAST: _cast,
    Op.POW: _power_rule,
    Op.MAX: _largest,
    Op.SELECT: _choice,
}
