"""Loops that carry values, solved: running maxima, sums rescaled as the maximum rises, sums as logarithms.

For a loop that carries c with c' = c * r + d the invariant is c = (sum of what was added) * 2^(-k * peak): it holds
when r = 2^(k * (peak - peak')) and d * 2^(k * peak') depends on the keys alone. Whatever the reference point, it
cancels in the end; so every spelling of an online softmax, with or without a maximum, comes out as the same sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...dtypes import Kind
from ...edit import name_bound, names_read
from ...errors import ScheduleError
from ...expr import Expr, Op, apply, call, const, index, var, walk
from ...integers import polynomial
from ...printer import Path, print_expr
from ...program import Block, If, RangeLoop, Statement, TileLoop, statements
from .forms import DEGENERATE, LOG2E, UNIT, Form, Term, is_indicator, number, replaced
from .walk import Binding, Fold, LoopInfo, Scope, Walker


def run_loop(walker: Walker, s: TileLoop | RangeLoop, path: Path, scope: Scope) -> None:
    """Execute a loop: bind its variable, its carried names to symbols, solve what its body makes of them."""
    carried = [name for name in _carried(s.body) if name in scope.env]
    inner = scope.copy()
    depth = len(walker.folds), "x".join(map(str, path))
    symbols = {name: var(f"@carried:{name}:{depth[1]}", Kind.FLOAT) for name in carried if _is_float(walker, name)}
    inner.env.update(symbols)
    if isinstance(s, TileLoop):
        loop = _tile_loop(walker, s, path, inner)
        walker.body(s.body, path, inner)
    else:
        loop = _range_loop(walker, s, path, inner)
    for name in carried:
        if name not in symbols and inner.env[name] is not scope.env[name]:
            raise walker.refuse(path, f"the loop carries {name!r}, an integer; tiles are bound by tile(…)")
    results = _Solver(walker, loop, scope, inner, symbols).solve()
    for name in {n for st in statements(s.body) if (n := name_bound(st))} - set(results):
        scope.env.pop(name, None)
    scope.env.update(results)


def _is_float(walker: Walker, name: str) -> bool:
    found = walker.shapes.names.get(name)
    return found is not None and found.dtype.kind is Kind.FLOAT


def _carried(body: tuple[Statement, ...]) -> list[str]:
    """Names that a body reads before it binds them, and binds."""
    bound: set[str] = set()
    early: dict[str, None] = {}
    for s in statements(body):
        if not isinstance(s, If) or True:
            early.update({name: None for name in sorted(names_read(s)) if name not in bound})
        name = name_bound(s)
        if name is not None:
            bound.add(name)
    return [name for name in early if name in bound]


def _tile_loop(walker: Walker, s: TileLoop, path: Path, scope: Scope) -> LoopInfo:
    binding = walker.bind(s.name, s.tiles, None, scope, shift=walker.shift(s.body, s.name, scope, path))
    element = index(binding.axis)
    domain = None
    if s.where is not None:
        region = walker.program.region(str(s.where.attr))
        names = {s.name, *scope.tiles}
        args = tuple(index(str(a.attr)) if a.op is Op.VAR and a.attr in names else a for a in s.where.args)
        domain = walker.value(call(region.name, args, Kind.BOOL), scope, path)
    visit = const(True) if binding.shift is const(0) else binding.shift <= element
    return LoopInfo(path, element, binding.tiles, visit, s.order == "descending", domain, s.part)


def _range_loop(walker: Walker, s: RangeLoop, path: Path, scope: Scope) -> LoopInfo:
    """A counted loop: over the tiles that its body binds by number, or over the number itself."""
    start, stop = (walker.value(e, scope, path) for e in (s.start, s.stop))
    step = var(f"{s.name}@{'x'.join(map(str, path))}")
    scope.env[s.name] = step
    if start is const(0):
        walker.ranges[str(step.attr)] = stop
    before = dict(scope.tiles)
    walker.body(s.body, path, scope)
    bound = {n: b for n, b in scope.tiles.items() if before.get(n) is not b and step in set(walk(b.number))}
    if not bound:
        return LoopInfo(path, step, None, (start <= step) & (step < stop))
    if len(bound) > 1:
        raise walker.refuse(
            path, f"the loop binds the tiles of {sorted(bound)}; one tile variable a loop is understood"
        )
    (binding,) = bound.values()
    loop, at = _numbered(walker, path, step, (start, stop), binding)
    own = {step: at}  # of a key, which iteration is that of its tile
    scope.env.update({name: replaced(e, own) for name, e in scope.env.items()})
    walker.hidden = [(found, replaced(e, own), where) for found, e, where in walker.hidden]
    return loop


def _numbered(
    walker: Walker, path: Path, step: Expr, ends: tuple[Expr, Expr], binding: Binding
) -> tuple[LoopInfo, Expr]:
    """number = step + c or c - step: the step of element j's tile is j // T - c, or c - j // T."""
    number_of = polynomial(binding.number)
    slope = number_of.pop((step,), 0)
    if slope not in (1, -1) or any(step in monomial for monomial in number_of):
        text = print_expr(binding.number)
        raise walker.refuse(path, f"tile number {text} does not go up or down by one with the loop")
    from ...integers import expression

    offset = expression(number_of)
    element = index(binding.axis)
    tile = apply(Op.FLOORDIV, binding.index, binding.tiles.tile)
    at = tile - offset if slope == 1 else offset - tile
    visit = (ends[0] <= at) & (at < ends[1])
    if binding.shift is not const(0):
        visit = visit & (binding.shift <= element)
    return LoopInfo(path, element, binding.tiles, visit, slope == -1), at


@dataclass(slots=True)
class _Solver:
    """Finds the invariants of one loop. `symbols`: what carried names hold when an iteration begins."""

    walker: Walker
    loop: LoopInfo
    before: Scope
    after: Scope
    symbols: dict[str, Expr]

    def solve(self) -> dict[str, Expr]:
        """What carried names hold after the loop."""
        forms = self.walker.forms
        new = {name: self.after.env[name] for name in self.symbols}
        if not new:
            return {}
        self._check_conditions(new)
        unconditional = {n: self._unguarded(e, self.symbols[n]) for n, e in new.items()}
        updates = {name: forms.of(e) for name, e in unconditional.items()}
        peaks = {name: updates[name] for name in new if self._is_peak(name, updates[name])}
        results: dict[str, Expr] = {}
        finals: dict[str, Expr] = {}
        for name, update in peaks.items():
            final = call("@peak", (len(self.walker.peaks), *self.before.coords), Kind.FLOAT)
            self.walker.peaks[final] = forms.expr(update)
            results[name] = finals[name] = final
        sums = [name for name in new if name not in peaks]
        found = {name: self._sum(name, updates[name], peaks, finals) for name in sums}
        for name in sums:
            masses = {n: e for n, e in found.items() if e is not None}
            result = found[name] or self._normalised(name, updates, masses, peaks, finals)
            if result is None:
                raise self._no_sum(name)
            results[name] = result
        return results

    def _check_conditions(self, new: dict[str, Expr]) -> None:
        """A condition on an iteration must be one on everything that the loop carries."""
        found = {n: e.args[0] if e.op is Op.SELECT and e.args[2] is self.symbols[n] else None for n, e in new.items()}
        if len(set(found.values())) > 1:
            name = next(n for n, condition in found.items() if condition is not None)
            raise self.walker.refuse(self._line(name), f"{name!r} is updated under a condition that others are not")

    def _unguarded(self, e: Expr, symbol: Expr) -> Expr:
        """where(visited, new, old) as new; the condition joins the loop's."""
        if e.op is Op.SELECT and e.args[2] is symbol and not depends_on_rows(e.args[0], self.loop.element):
            condition = e.args[0]
            if condition not in flat(self.loop.visit):
                from dataclasses import replace

                self.loop = replace(self.loop, visit=self.loop.visit & condition)
            return e.args[1]
        return e

    def _is_peak(self, name: str, update: Form) -> bool:
        """c' = max(c, …), or the maximum that something else carries."""
        if len(update) != 1:
            return False
        ((term, c),) = update.items()
        atom = term[0][0][0] if len(term[0]) == 1 and not term[1] and c == 1.0 else None
        if atom is None or atom.op is not Op.MAX:
            return False
        return self.symbols[name] in _operands(atom) or self.symbols[name] not in set(walk(atom))

    def _sum(self, name: str, update: Form, peaks: dict[str, Form], finals: dict[str, Expr]) -> Expr | None:
        symbol = self.symbols[name]
        found = self._linear(name, update, symbol, peaks, finals)
        for base in (1.0, LOG2E):
            if found is None:
                found = self._logarithm(name, update, symbol, base)
        return found

    def _normalised(
        self,
        name: str,
        updates: dict[str, Form],
        masses: dict[str, Expr],
        peaks: dict[str, Form],
        finals: dict[str, Expr],
    ) -> Expr | None:
        """A sum that every step divides by what another sum has grown to: c * l is a sum like any other.

        c' = c * r * l / l' + d / l' makes (c * l)' = (c * l) * r + d.
        """
        forms, symbol = self.walker.forms, self.symbols[name]
        ratio, added = _split(updates[name], symbol)
        for mass, final in masses.items():
            share = forms.inverse(updates[mass])
            if ratio is None or len(share) != 1:
                continue
            grown = forms.inverse(share)
            own = forms.inverse(forms.of(self.symbols[mass]))
            plain = forms.times(forms.times(ratio, grown), own)
            plain = forms.times(plain, forms.atom(symbol))
            start = forms.of(self.before.env[name])
            if start:
                continue  # what a kernel starts with would have to be normalised as well
            total = self._linear(name, forms.add(plain, forms.times(added, grown)), symbol, peaks, finals)
            if total is not None:
                return forms.expr(forms.times(forms.of(total), forms.inverse(forms.of(final))))
        return None

    def _no_sum(self, name: str) -> ScheduleError:
        return self.walker.refuse(
            self._line(name),
            f"{name!r} is carried from one tile of keys to the next and is neither a running maximum, nor a sum that "
            "is rescaled by exactly what the running maximum rose",
        )

    def _line(self, name: str) -> Path:
        """The last line in the loop that binds a name."""
        body = self.walker.program.body
        path: list[int] = []
        for position in self.loop.path:
            statement = body[position]
            path.append(position)
            body = statement.body if isinstance(statement, Block) else ()
        found = tuple(path)
        for position, statement in enumerate(body):
            if name_bound(statement) == name or (
                isinstance(statement, Block) and any(name_bound(s) == name for s in statements(statement.body))
            ):
                found = (*path, position)
        return found

    def _linear(
        self, name: str, update: Form, symbol: Expr, peaks: dict[str, Form], finals: dict[str, Expr]
    ) -> Expr | None:
        """c' = c * r + d."""
        ratio, added = _split(update, symbol)
        if ratio is None or any(symbol in walk(atom) for term in added for atom, _ in (*term[0], *term[1])):
            return None
        gauge = self._gauge(ratio, peaks)
        if gauge is None:
            return None
        forms = self.walker.forms
        scale: Form = {UNIT: 1.0}
        start = forms.of(self.before.env[name])
        final: Form = {UNIT: 1.0}
        if gauge[0] is not None:
            peak, k = gauge
            self._check_peak(peak, k, added)  # type: ignore[arg-type]
            scale = forms.power_of_two(_scaled(peaks[peak], k))  # type: ignore[index]
            start = self._started(start, peak, k)  # type: ignore[arg-type]
            final = forms.power_of_two(_scaled(forms.of(finals[peak]), -k))  # type: ignore[index]
        total = self._folded(name, forms.times(added, scale))
        return None if total is None else forms.expr(forms.times(forms.add(start, total), final))

    def _gauge(self, ratio: Form, peaks: dict[str, Form]) -> tuple[str | None, float] | None:
        """(peak, k) where ratio = 2^(k * (peak - peak')); (None, 0) where it is 1."""
        forms = self.walker.forms
        if ratio == {UNIT: 1.0}:
            return None, 0.0
        if len(ratio) != 1:
            return None
        ((_, exponent),) = ratio
        for peak, update in peaks.items():
            k = next((c for atom, c in exponent if atom is self.symbols[peak]), 0.0)
            wanted = forms.add(_scaled(forms.of(self.symbols[peak]), k), update, -k)
            if k and forms.same(ratio, forms.power_of_two(wanted)):
                return peak, k
        return None

    def _check_peak(self, peak: str, k: float, added: Form) -> None:
        """The running maximum must be of the exponents (before or after a mask), or they may overflow."""
        forms, axis = self.walker.forms, str(self.loop.element.attr)
        update = forms.expr(forms.of(self._unguarded(self.after.env[peak], self.symbols[peak])))
        maxima = [form for part in _operands(update) for form in [forms.of(part)] if f"@max:{axis}" in str(part)]
        bounds = [self._bound(form, axis) for form in maxima]
        for powers, _ in added:
            for atom, _ in powers:
                if atom.attr != f"@sum:{axis}":
                    continue
                for _, exponent in forms.of(atom.args[0]):
                    inner: Form = {}
                    for x, c in exponent:
                        if _varies(x, self.loop.element):
                            inner = forms.add(inner, forms.of(x), c / k)
                    if inner and not any(bound is not None and forms.same(bound, inner) for bound in bounds):
                        text = print_expr(forms.expr(inner))[:120]
                        raise self.walker.refuse(self._line(peak), f"{peak!r} is not the running maximum of {text}")

    def _bound(self, form: Form, axis: str) -> Form | None:
        """x, where an operand of the maximum is c * reduce_max(x) for a positive c."""
        forms = self.walker.forms
        if len(form) != 1:
            return None
        (((powers, exponent), c),) = form.items()
        if len(powers) != 1 or exponent or c <= 0 or powers[0][0].attr != f"@max:{axis}":
            return None
        _, x = forms.lifted(powers[0][0].args[0])
        varying = {t: v for t, v in forms.of(x).items() if any(_varies(a, self.loop.element) for a, _ in t[0])}
        return _scaled(varying, c)

    def _started(self, start: Form, peak: str, k: float) -> Form:
        """What the loop starts with, free of the reference: start * 2^(k * peak before)."""
        forms = self.walker.forms
        first = number(self.before.env[peak])
        if not start or (first is not None and first <= DEGENERATE):
            return {}
        return _without_guards(forms.times(start, forms.power_of_two(_scaled(forms.of(self.before.env[peak]), k))))

    def _folded(self, name: str, added: Form) -> Form | None:
        """The sum over all that the loop visits, of what one tile adds."""
        forms, element = self.walker.forms, self.loop.element
        parts: dict[Term, Form] = {}
        for (powers, exponent), c in added.items():
            if any(s in walk(atom) for s in self.symbols.values() for atom, _ in (*powers, *exponent)):
                return None
            inside = (
                tuple(p for p in powers if _varies(p[0], element)),
                tuple(x for x in exponent if _varies(x[0], element)),
            )
            outside = (tuple(p for p in powers if p not in inside[0]), tuple(x for x in exponent if x not in inside[1]))
            value = self._added(inside)
            if value is None:
                return None
            parts[outside] = forms.add(parts.get(outside, {}), value, c)
        total: Form = {}
        for outside, value in parts.items():
            fold = Fold(len(self.walker.folds), self.loop, value, self.before.coords, self._line(name))
            self.walker.folds.append(fold)
            atom = forms.atom(call("@fold", (fold.number, *fold.coords), Kind.FLOAT))
            total = forms.add(total, forms.times({outside: 1.0}, atom))
        return total

    def _added(self, inside: Term) -> Form | None:
        """What one element adds: the inside of a sum over the tile's keys, or an iteration's own value."""
        element = self.loop.element
        if element.op is Op.VAR:
            return {inside: 1.0}
        powers, exponent = inside
        is_sum = len(powers) == 1 and powers[0][1] == 1 and powers[0][0].attr == f"@sum:{element.attr}"
        return self.walker.forms.of(powers[0][0].args[0]) if is_sum and not exponent else None

    def _logarithm(self, name: str, update: Form, symbol: Expr, base: float) -> Expr | None:
        """c' = log(exp(c) + d), in either base."""
        forms = self.walker.forms
        raised = forms.power_of_two(_scaled(update, base))
        own: Form = {((), ((symbol, float(f"{base:.10g}")),)): 1.0}
        rest = forms.add(raised, own, -1.0)
        if len(rest) >= len(raised) or any(symbol in walk(a) for t in rest for a, _ in (*t[0], *t[1])):
            return None
        total = self._folded(name, rest)
        if total is None:
            return None
        first = number(self.before.env[name])
        if first is None or first > DEGENERATE:
            total = forms.add(total, forms.power_of_two(_scaled(forms.of(self.before.env[name]), base)))
        return forms.expr(_scaled(forms.log2(total), 1.0 / base))


def flat(e: Expr) -> list[Expr]:
    """Conjuncts."""
    return [part for arg in e.args for part in flat(arg)] if e.op is Op.AND else [e]


def depends_on_rows(condition: Expr, element: Expr) -> bool:
    """Whether a condition differs between the elements of a tile."""
    return any(node is element for node in walk(condition) if node.op is Op.INDEX)


def _without_guards(a: Form) -> Form:
    """where(x != -inf, 1, 0) * 2^x as 2^x."""
    kept: Form = {}
    for (powers, exponent), c in a.items():
        low = [
            p
            for p in powers
            if is_indicator(p[0]) and p[0].args[0].op is Op.NE and number(p[0].args[0].args[1]) == -math.inf
        ]
        guards = [p for p in low if any(x is p[0].args[0].args[0] and k > 0 for x, k in exponent)]
        kept[(tuple(p for p in powers if p not in guards), exponent)] = c
    return kept


def _varies(e: Expr, element: Expr) -> bool:
    return any(node is element for node in walk(e))


def _operands(atom: Expr) -> list[Expr]:
    return [part for arg in atom.args for part in _operands(arg)] if atom.op is Op.MAX else [atom]


def _scaled(a: Form, factor: float) -> Form:
    return {term: c * factor for term, c in a.items()}


def _split(update: Form, symbol: Expr) -> tuple[Form | None, Form]:
    """(r, d) of symbol * r + d; r is None where the symbol stands otherwise."""
    ratio: Form = {}
    added: Form = {}
    for (powers, exponent), c in update.items():
        if (symbol, 1) in powers:
            ratio[(tuple(p for p in powers if p[0] is not symbol), exponent)] = c
        else:
            added[(powers, exponent)] = c
    return (ratio or None), added
