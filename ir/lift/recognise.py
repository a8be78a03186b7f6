"""From the element of the function's result to score, keep and normaliser."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..algebra import is_const, simplify
from ..dtypes import Kind
from ..expr import Expr, Op, apply, const, loads, select, substitute, transform, walk
from ..rewrite import rewrite
from ..spec import BATCH, COLUMN, HEAD, ROW, Normaliser, NormaliserKind, S
from .constants import CONSTANT
from .factor import ONE, Factors, factors
from .location import Location, refuse
from .masks import split_score
from .reduce import SCORES
from .weights import NormalForm, plain

if TYPE_CHECKING:
    from ..errors import UnsupportedSpec
    from .tracer import Tracer

NONLINEAR = frozenset({Op.MAX, Op.MIN, Op.EXP, Op.EXP2, Op.SIGMOID, Op.TANH, Op.ERF, Op.LOG, Op.SQRT, Op.POW,
                       Op.ABS, Op.SIN, Op.COS, Op.FLOOR, Op.SELECT})  # fmt: skip


TILED_HINT = "query head h uses kv head h // group: repeat heads with repeat_interleave, not repeat"


@dataclass(frozen=True, slots=True)
class Recognised:
    """The three expressions of a spec."""

    score: Expr
    keep: Expr
    normaliser: Normaliser


class Recogniser:
    """One reading of one result."""

    def __init__(self, tracer: Tracer, group: int, column: Expr, where: Location | None) -> None:
        self.t = tracer
        self.where = where  # the line to name where no better one is known
        self.group = group
        self.element = column  # the index into v's last dim
        self.bound = COLUMN

    def read(self, result: Expr) -> Recognised:
        """Score, keep and normaliser of a result's element. Raises UnsupportedSpec."""
        row_factors, total = self._value_sum(self._without_row_guards(rewrite_zeros(result)))
        reduction = self.t.reductions[total]
        self.bound = reduction.bound
        weights = self._weights(total, reduction.body)
        form = NormalForm(self.t, self.bound)
        product = form.of(weights * row_factors)
        inside, outside = product.split(form.depends)
        for factor in inside.over:
            if factor.op in (Op.ADD, Op.SUB) and any(node in self.t.reductions for node in walk(factor)):
                raise self._refusal(factor, "the weights are a sum of terms that are normalised on their own")
        if not any(self._reads_deep(e, name) for e in (*inside.over, *inside.under) for name in (SCORES, "q", "k")):
            raise self._refusal(total, "the weights do not depend on the product of q and k")
        if any(self._sums(e) for e in (*outside.over, *outside.under)):
            return self._normalised(inside, outside, form.floor)
        return self._elementwise(product.product())

    # the weighted sum of v

    def _without_row_guards(self, e: Expr) -> Expr:
        """where(row keeps something, x, 0) -> x."""
        e = plain(e)
        if e.op is Op.SELECT and not self.t.free(e.args[0]) & {str(self.element.attr)}:
            condition, then, otherwise = e.args
            if any(node in self.t.reductions for node in walk(condition)):
                if otherwise.op is Op.CONST:
                    return self._without_row_guards(then)
                if then.op is Op.CONST:
                    return self._without_row_guards(otherwise)
        return e

    def _value_sum(self, e: Expr) -> tuple[Factors, Expr]:
        """The factors beside the sum over j of weight * v, and that sum."""
        over: list[Expr] = []
        parts = factors(e)
        for factor in parts.over:
            guarded = self._without_row_guards(factor)
            over += [guarded] if guarded is factor else factors(guarded).over
        sums = [f for f in over if f in self.t.reductions and self._reads(self.t.reductions[f].body, "v")]
        if len(sums) != 1:
            raise self._refusal(e, self._why_no_sum(e))
        return Factors([f for f in over if f is not sums[0]], parts.under), sums[0]

    def _why_no_sum(self, e: Expr) -> str:
        reads_v = any(self._reads_deep(node, "v") for node in walk(e))
        if not reads_v:
            return "the result does not depend on v"
        if any(f.op in (Op.ADD, Op.SUB) for f in factors(e).over):
            return "the result adds something to the weighted sum of v; only the weighted sum itself can be compiled"
        return "the result is not a sum over j of a weight times v"

    def _weights(self, total: Expr, body: Expr) -> Factors:
        """The factors of the body without v, which must be read at [b, h // group, j, e]."""
        parts = factors(plain(body))
        values = [f for f in parts.over if f.op is Op.LOAD and f.attr == "v"]
        rest = [f for f in parts.over if f not in values]
        if len(values) != 1 or any(self._reads_deep(f, "v") for f in (*rest, *parts.under)):
            raise self._refusal(total, "v is changed before it is summed; only a weight times v can be compiled")
        wanted = (BATCH, self._kv_head(), self.bound, self.element)
        if values[0].args != wanted:
            raise self._refusal(total, self._misread("v", values[0].args, wanted), self._grouping_hint(values[0]))
        return Factors(rest, parts.under)

    def _kv_head(self) -> Expr:
        return self.t.simplified(apply(Op.FLOORDIV, HEAD, const(self.group)))

    def _misread(self, name: str, got: tuple[Expr, ...], wanted: tuple[Expr, ...]) -> str:
        shown = [", ".join(self._shown(e) for e in index) for index in (got, wanted)]
        return f"{name} is read at [{shown[0]}] where [{shown[1]}] is expected"

    def _shown(self, e: Expr) -> str:
        return repr(substitute(e, {str(self.bound.attr): COLUMN}))

    def _grouping_hint(self, e: Expr) -> str | None:
        is_tiled = any(node.op is Op.MOD for arg in e.args for node in walk(arg))
        return TILED_HINT if is_tiled else None

    # weights that are divided by their sum

    def _sums(self, e: Expr) -> list[Expr]:
        """Sums among the addends of a factor."""
        addends = [e] if e.op not in (Op.ADD, Op.SUB) else [*self._sums(e.args[0]), *self._sums(e.args[1])]
        return [a for a in addends if a in self.t.reductions and self.t.reductions[a].op == "sum"]

    def _normalised(self, inside: Factors, outside: Factors, floor: float) -> Recognised:
        divisors = [f for f in outside.under if self._sums(f)]
        if len(divisors) != 1 or any(self._sums(f) for f in outside.over):
            raise self._refusal(outside.product(), self._why_not_normalised(outside))
        (divisor,) = divisors
        sums = self._sums(divisor)
        inside, later = self._summed(inside, sums)
        later = later * Factors(outside.over, [f for f in outside.under if f is not divisor])
        extra = simplify(divisor_rest(divisor, sums[0]))
        exponents = [f.args[0] for f in inside.over if f.op is Op.EXP]
        if exponents and not inside.under:
            found = self._softmax(inside, exponents, extra)
        else:
            found = self._row_sum(inside.product(), const(floor) if is_const(extra, 0.0) else extra, divisor)
        return replace(found, normaliser=replace(found.normaliser, after=self._after(later, divisor)))

    def _summed(self, inside: Factors, sums: list[Expr]) -> tuple[Factors, Factors]:
        """The factors of the weights that their sum is over, and those that come after it."""
        summed = Factors()
        if len(sums) == 1:
            reduction = self.t.reductions[sums[0]]
            summed = factors(self._renamed(reduction.body, reduction.bound))
        over, under = _without(inside.over, summed.over), _without(inside.under, summed.under)
        if len(sums) == 1 and over is not None and under is not None:
            return summed, Factors(over, under)
        others = [f for f in inside.over if f not in summed.over]
        raise refuse(
            "the weights are divided by a sum of something other than themselves",
            self._line_of_use(others[0], sums[0]) if others else self._location(sums[0]),
            "mask before the softmax, or divide by the sum of the masked weights",
        )

    def _after(self, later: Factors, divisor: Expr) -> Expr | None:
        """What normalised weights are multiplied by; None for nothing. It may not read the scores."""
        for factor in (*later.over, *later.under):
            if self._reads_deep(factor, SCORES) or str(self.element.attr) in self.t.free(factor):
                reason = "the normalised weights are multiplied or divided by something that depends on scores"
                raise refuse(reason, self._line_of_use(factor, divisor), "multiply the scores, before the normaliser")
        after = simplify(self._in_spec_terms(later.product()))
        return None if is_const(after, 1.0) else after

    def _why_not_normalised(self, outside: Factors) -> str:
        if not outside.under:
            return "the result depends on a sum over the scores that does not divide the weights"
        return "the weights are divided by a sum more than once"

    def _renamed(self, e: Expr, bound: Expr) -> Expr:
        return e if bound is self.bound else substitute(e, {str(bound.attr): self.bound})

    def _softmax(self, inside: Factors, exponents: list[Expr], extra: Expr) -> Recognised:
        score = exponents[0]
        for exponent in exponents[1:]:
            score = apply(Op.ADD, score, exponent)
        for factor in inside.over:
            if factor.op is Op.EXP:
                continue
            if factor.op is not Op.SELECT or not is_const(factor.args[2], 0.0):
                raise self._refusal(factor, "the exponentials are multiplied by something that is not a mask")
            score = select(factor.args[0], score, const(-math.inf))
        keep, score = split_score(self._in_spec_terms(score), self._is_mask)
        sink = None if is_const(extra, 0.0) else simplify(apply(Op.LOG, self._in_spec_terms(extra)))
        if sink is not None:
            sink = sink_logit(sink)
        return Recognised(score, keep, Normaliser(sink=sink))

    def _row_sum(self, weight: Expr, extra: Expr, divisor: Expr) -> Recognised:
        if extra.op is not Op.CONST:
            raise self._refusal(divisor, "the row sum of the weights has something added that is not a constant")
        found = self._elementwise(weight)
        assert isinstance(extra.attr, float)
        rule = Normaliser(NormaliserKind.ROW_SUM, weight=found.normaliser.weight, epsilon=extra.attr)
        return Recognised(found.score, found.keep, rule)

    # weights of each score alone

    def _elementwise(self, weight: Expr) -> Recognised:
        keep, weight = split_zero(simplify(self._in_spec_terms(weight)), self._is_mask)
        score, weight = split_at_nonlinearity(weight, self._reads_scores)
        kept, inner = split_score(score, self._is_mask)
        if kept is not const(True) and is_const(simplify(substitute(weight, {"s": const(-math.inf)})), 0):
            keep, score = simplify(apply(Op.AND, keep, kept)), inner
        rule = Normaliser(NormaliserKind.ELEMENTWISE, weight=weight)
        return Recognised(simplify(score), simplify(keep), rule)

    # the terms of a spec: s, b, h, i, j and captured tensors

    def _in_spec_terms(self, e: Expr) -> Expr:
        for node in walk(e):
            self._require_allowed(node)
        scaled = [node for node in walk(e) if str(self.element.attr) in self.t.free(node)]
        if scaled:
            reason = "elements of the result are scaled each in its own way; do that after the call"
            raise refuse(reason, self._line_of_use(next((n for n in scaled if n is not self.element), e), e))
        e = self.t.decided(transform(e, self._score_variable))
        return substitute(e, {str(self.bound.attr): COLUMN})

    def _score_variable(self, node: Expr) -> Expr | None:
        if node.op is not Op.LOAD or node.attr != SCORES:
            return None
        wanted = (BATCH, HEAD, ROW, BATCH, self._kv_head(), self.bound)
        if node.args == wanted:
            return S
        q, k = node.args[:3], node.args[3:]
        if q == wanted[:3]:
            reason = self._misread("k", (*k, const(0)), (*wanted[3:], const(0))).replace(", 0]", ", d]")
        else:
            reason = self._misread("q", (*q, const(0)), (*wanted[:3], const(0))).replace(", 0]", ", d]")
        raise self._refusal(node, reason, self._grouping_hint(node))

    def _require_allowed(self, node: Expr) -> None:
        if node in self.t.reductions:
            raise self._refusal(node, self._why_not_score(node))
        if node.op is Op.LOAD and node.attr in ("q", "k", "v"):
            raise self._refusal(node, f"{node.attr} is used other than in the product of q and k or the sum of v")
        if node.op is Op.LOAD and str(node.attr).startswith(CONSTANT):
            raise self._refusal(
                node,
                "a tensor of the surrounding Python code is used whose elements differ",
                "pass it to the function as a further argument",
            )

    def _why_not_score(self, node: Expr) -> str:
        reduction = self.t.reductions[node]
        if self._reads(reduction.body, "q") and self._reads(reduction.body, "k"):
            return "q or k is changed before their product (a rotation, a norm, an added bias); do that before the call"
        if self._reads(reduction.body, "q") or self._reads(reduction.body, "k"):
            return "a sum over elements of q or k enters the score other than as the product of q and k"
        if not self.t.depends(node, ROW) and self._reads_deep(node, SCORES):
            return f"the {reduction.op} over the queries of a key is used; weights can be normalised over the keys only"
        return f"the {reduction.op} over a row enters the score other than in the normaliser"

    # questions

    def _is_mask(self, condition: Expr) -> bool:
        return not self._reads_scores(condition)

    @staticmethod
    def _reads_scores(e: Expr) -> bool:
        return any(node is S for node in walk(e))

    def _reads(self, e: Expr, tensor: str) -> bool:
        return any(node.attr == tensor for node in loads(e))

    def _reads_deep(self, e: Expr, tensor: str) -> bool:
        """Whether a tensor is read, also inside reductions."""
        return any(
            node.attr == tensor if node.op is Op.LOAD else self._reads_deep(self.t.reductions[node].body, tensor)
            for node in walk(e)
            if node.op is Op.LOAD or node in self.t.reductions
        )

    def _refusal(self, e: Expr, reason: str, hint: str | None = None) -> UnsupportedSpec:
        return refuse(reason, self._location(e), hint)

    def _location(self, e: Expr) -> Location | None:
        """The line of the outermost part of an expression whose line is known."""
        for node in reversed(list(walk(e))):
            if node in self.t.origins:
                return self.t.origins[node]
        return self.where

    def _line_of_use(self, factor: Expr, otherwise: Expr) -> Location | None:
        """The last line that made something of a factor."""
        for made, location in reversed(self.t.origins.items()):
            if factor in made.args:
                return location
        return self._location(otherwise)


def rewrite_zeros(e: Expr) -> Expr:
    """Products with the literal zero are zero: they come from columns that were added and dropped again."""

    def vanish(node: Expr) -> Expr | None:
        return const(0.0) if any(is_const(arg, 0.0) for arg in node.args) and node.kind is Kind.FLOAT else None

    def drop(node: Expr) -> Expr | None:
        x, y = node.args
        return x if is_const(y, 0.0) else y if is_const(x, 0.0) else None

    return rewrite(e, {Op.MUL: (vanish,), Op.ADD: (drop,)})


def _without(factors: list[Expr], gone: list[Expr]) -> list[Expr] | None:
    """The factors less some of them; None where one of those is missing."""
    rest = list(factors)
    for factor in gone:
        if factor not in rest:
            return None
        rest.remove(factor)
    return rest


def divisor_rest(divisor: Expr, total: Expr) -> Expr:
    """What is added to the sum in a divisor."""
    return substitute(divisor, {str(total.attr): const(0.0)})


def sink_logit(sink: Expr) -> Expr:
    """log(exp(x)) -> x."""
    is_exponential = sink.op is Op.LOG and sink.args[0].op is Op.EXP
    return sink.args[0].args[0] if is_exponential else sink


def split_zero(weight: Expr, is_mask: object) -> tuple[Expr, Expr]:
    """where(c, x, 0) and x * where(c, 1, 0) -> (c, x)."""
    assert callable(is_mask)
    keep = const(True)
    parts = factors(weight)
    rest: list[Expr] = []
    for factor in parts.over:
        is_choice = factor.op is Op.SELECT and factor.args[1:] == (ONE, const(0.0)) and is_mask(factor.args[0])
        if is_choice:
            keep = apply(Op.AND, keep, factor.args[0])
        else:
            rest.append(factor)
    return simplify(keep), simplify(Factors(rest, parts.under).product())


def split_at_nonlinearity(weight: Expr, reads_scores: object) -> tuple[Expr, Expr]:
    """(score, weight over s): the score is what the outermost nonlinear function is applied to."""
    assert callable(reads_scores)
    node = weight
    while True:
        inner = {arg for arg in node.args if reads_scores(arg)}
        if len(inner) != 1:
            break
        is_nonlinear = node.op in NONLINEAR
        (node,) = inner
        if is_nonlinear:
            break
    if node is weight or (node is S and weight is S):
        return weight, S
    if not any(n.op in NONLINEAR for n in _path(weight, node)):
        return weight, S
    return node, transform(weight, lambda e: S if e is node else None)


def _path(root: Expr, below: Expr) -> list[Expr]:
    """The nodes of an expression that use `below`, outermost last."""
    users: set[Expr] = {below}
    found = []
    for node in walk(root):
        if node not in users and any(arg in users for arg in node.args):
            users.add(node)
            found.append(node)
    return found
