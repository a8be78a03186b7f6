"""The AttentionSpec of a walked program: score, mask, normaliser, captured tensors, sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...algebra import simplify
from ...domain.fold import all_of, conjuncts
from ...dtypes import Kind
from ...expr import Expr, Op, apply, const, free_vars, index, load, loads, var, walk
from ...integers import expression, polynomial
from ...printer import print_expr
from ...spec import (
    BATCH,
    MASK_PARAMETERS,
    SCORE_PARAMETERS,
    SIZES,
    AttentionSpec,
    Normaliser,
    NormaliserKind,
    S,
    TensorSpec,
)
from .coordinates import Places, find_places, product_of
from .cover import Cover, Swept, cover
from .forms import LOG2E, UNIT, Form, is_indicator, replaced
from .joined import as_one, main_product, pieces, tensor_notes
from .meaning import Leaf, Meaning, is_fold, is_reference
from .prover import implies
from .walk import LoopInfo, Stored, Walker
from .writing import snapped, split_weight, tidy_numbers

SPLIT = "@split"  # the number of a split in expressions


@dataclass(frozen=True, slots=True)
class Weighed:
    """A leaf in canonical coordinates: its weight without conditions, and the conditions."""

    leaf: Leaf
    weight: Form
    mask: Expr
    dot: Expr


@dataclass(slots=True)
class Understood:
    """What a program computes, and where: for the emission of the canonical program."""

    walker: Walker
    places: Places
    spec: AttentionSpec
    output: Stored
    lse: Stored | None
    values: list[Weighed]
    sums: list[Weighed]
    cover: Cover
    inner: Places
    splits: Expr | None = None
    split_name: str | None = None
    notes: list[str] = field(default_factory=list)


def understand(walker: Walker) -> Understood:
    """The meaning of a walked program. Raises ScheduleError, naming the line that cannot be understood."""
    return _Reader(walker).read()


class _Reader:
    def __init__(self, walker: Walker) -> None:
        self.walker = walker
        self.forms = walker.forms
        self.meaning = Meaning(walker)
        self.notes = walker.notes

    def read(self) -> Understood:
        output, lse = self.meaning.outputs()
        above, below = self._fraction(output)
        leaves = self.meaning.leaves(above, output.path)
        first = leaves[0]
        if first.value is None:
            raise self.walker.refuse(first.path, "the output's sums have no rows of v")
        places = self._places(first)
        self._check_output(output, places)
        values = [self._weighed(leaf, places, first) for leaf in leaves]
        weight = self._common(values)
        sums, rest = self._denominator(below, output, places, first)
        kept = self._cover(sums or values, places, output, is_sum=bool(sums))
        spec = self._spec(places, (weight, None if below is None else rest), sums, kept, output)
        swept = [[self._swept(one, places) for one in weighed] for weighed in (values, sums)]
        if sums and swept[0] != swept[1]:  # loops that are the same keep the same keys
            self._check_values(values, kept, places, output)
        if lse is not None:
            self._check_lse(lse, below, places)
        splits = self._swept(values[0], places).splits
        if splits is not None:
            self.notes.append("parts of the keys that have none count as nothing, whatever the kernel makes of them")
        for store in (output, lse):
            if store is not None:
                self._name_output(store, places)
        inner = self._inner(first, places)
        name = first.split_name if first.split is not None else None
        facts = self._facts(places, output, first.loop.element)
        self._check_hidden(values, inner, kept, facts, [t.name for t in spec.captured])
        self.notes += tensor_notes(self.walker, places)
        if places.is_square and {"i", "j"} <= free_vars(kept.keep) | free_vars(spec.score):
            self.notes.append("there are as many keys as queries in every example, so row 0 is read as being at key 0; "
                              "give examples with more keys than queries if the kernel takes them")  # fmt: skip
        if places.group is None:
            self.notes.append("the kernel takes any number of query heads for a key head; the spec says one")
        if not self.walker.peaks and spec.normaliser.kind is NormaliserKind.SOFTMAX:
            self.notes.append("the kernel has no running maximum; its canonical program has one")
        return Understood(self.walker, places, spec, output, lse, values, sums, kept, inner, splits, name, self.notes)

    def _inner(self, first: Leaf, places: Places) -> Places:
        """The coordinates in the grid that sweeps over keys."""
        if first.source is None:
            return places
        return self._places(first.source)

    def _places(self, leaf: Leaf) -> Places:
        """The coordinates of a sum over keys."""
        dot, *others = self._dots(leaf)
        q, k = product_of(dot, leaf.loop.element, self.walker, leaf.path)
        places = find_places(self.walker, q, k, leaf.value or k, leaf.loop.element, leaf.path)
        places.more = pieces(self.walker, others, places, leaf.loop.element, leaf.path)
        return places

    # The output

    def _fraction(self, output: Stored) -> tuple[Form, Form | None]:
        """The sums above and below the line; below is None where nothing divides."""
        form = self.forms.of(output.value)
        divisors = {tuple(p for p in powers if p[1] < 0) for powers, _ in form}
        if not form or len(divisors) != 1 or any(len(d) > 1 or (d and d[0][1] != -1) for d in divisors):
            raise self.walker.refuse(output.path, "expected sums of weighted rows of v, divided by one sum of weights")
        (divisor,) = divisors
        if any(is_reference(x) for _, exponent in form for x, _ in exponent):
            text = print_expr(self.forms.expr(form))[:120]
            raise self.walker.refuse(output.path, f"the reference point of the exponentials does not cancel: {text}")
        above = {(tuple(p for p in powers if p[1] > 0), exponent): c for (powers, exponent), c in form.items()}
        if not divisor:
            return above, None
        below = divisor[0][0]
        return above, self.forms.of(below) if below.op is Op.ADD else self.forms.atom(below)

    def _check_output(self, output: Stored, places: Places) -> None:
        """The output's rows must be the queries'."""
        stored = [e for e in output.indices if not (e.op is Op.INDEX and str(e.attr) in self.walker.program.fixed)]
        wanted = [e for e in (places.batch, places.head, places.row) if e.op is not Op.CONST]
        if places.start is not None:  # rows of sequence b
            row = expression(polynomial(places.start + places.row))
            stored = [expression(polynomial(e)) for e in stored]
            wanted = [row, *(expression(polynomial(e)) for e in (places.head,) if e.op is not Op.CONST)]
        if len(stored) != len(wanted) or {*stored} != {*wanted}:
            found = ", ".join(print_expr(e) for e in stored)
            rows = ", ".join(print_expr(e) for e in wanted)
            raise self.walker.refuse(output.path, f"the output is stored at {found}, its queries are at {rows}")

    def _name_output(self, store: Stored, places: Places) -> None:
        """The roles of an output's dimensions."""
        name = next(name for name, found in self.walker.stores.items() if store in found)
        known = {places.batch: "batch", places.head: "head", places.row: "row"}
        fixed = self.walker.program.fixed
        is_feature = [e.op is Op.INDEX and str(e.attr) in fixed for e in store.indices]
        roles = ["feature" if f else known.get(e, "place") for e, f in zip(store.indices, is_feature, strict=True)]
        places.outputs[name] = roles

    # Weights

    def _dots(self, leaf: Leaf) -> list[Expr]:
        """The products of a row of q and a row of k in a weight, first the one whose keys have the values' heads."""
        fixed = self.walker.program.fixed
        atoms = (atom for powers, exponent in leaf.weight for atom, _ in (*powers, *exponent))
        nodes = (node for atom in atoms for node in walk(atom) if node.op is Op.CALL)
        found = [n for n in dict.fromkeys(nodes) if str(n.attr).startswith("@sum:") and str(n.attr)[5:] in fixed]
        if not found:
            raise self.walker.refuse(leaf.path, "expected weights of a product of q and k; found none")
        if len(found) > 1:
            main = main_product(self.walker, found, leaf.loop.element, leaf.value, leaf.path)
            found = [main, *(dot for dot in found if dot is not main)]
        return found

    def _weighed(self, leaf: Leaf, places: Places, first: Leaf) -> Weighed:
        """A leaf's weight over s, b, h, i, j."""
        dot, *others = self._dots(leaf)
        here = self._places(leaf)
        same = (here.q, here.k, here.batch, here.head, here.row, here.key_head, here.more) == (
            places.q, places.k, places.batch, places.head, places.row, places.key_head, places.more,
        )  # fmt: skip
        if not same or (leaf.value is not None and here.v != places.v):
            raise self.walker.refuse(
                leaf.path, f"the product reads {print_expr(dot)[:120]}: other rows than the first loop's"
            )
        shared = [a for a, _ in next(iter(leaf.weight))[0] if is_indicator(a)]
        shared = [a for a in shared if all((a, 1) in powers for powers, _ in leaf.weight)]
        bare = {
            (tuple(p for p in powers if p[0] not in shared), exponent): c
            for (powers, exponent), c in leaf.weight.items()
        }
        whole = as_one(self.forms, self.forms.expr(bare), dot, others)
        if whole is None:
            raise self.walker.refuse(leaf.path, "weights of several products of q and k that they do not add up")
        text = self._canonical(whole, dot, places, leaf)
        conditions = [self._of_keys(part, leaf) for a in shared for part in conjuncts(a.args[0])]
        mask = all_of(*(self._canonical(e, dot, places, leaf) for e in conditions))
        return Weighed(leaf, self.forms.of(text), simplify(mask), dot)

    def _of_keys(self, condition: Expr, leaf: Leaf) -> Expr:
        """A condition, unless it only says that a row of a tile exists: rows that do not are not stored."""
        rows = {n for n in walk(condition) if n.op is Op.INDEX}
        if leaf.loop.element in rows:
            return condition
        exist = [index(b.axis) < b.tiles.extent for b in self.walker.axes if index(b.axis) in rows]
        return const(True) if exist and implies(exist, condition) else condition

    def _canonical(self, e: Expr, dot: Expr, places: Places, leaf: Leaf) -> Expr:
        return places.canonical(replaced(e, {dot: S, **_split_named(leaf.split)}), leaf.loop.element)

    def _common(self, weighed: Sequence[Weighed]) -> Form:
        """The weight that all loops have."""
        for one in weighed[1:]:
            if not self.forms.same(one.weight, weighed[0].weight):
                a, b = (print_expr(self.forms.expr(w.weight))[:100] for w in (weighed[0], one))
                raise self.walker.refuse(one.leaf.path, f"weights differ from loop to loop: {a} and here {b}")
        return weighed[0].weight

    def _denominator(
        self, below: Form | None, output: Stored, places: Places, first: Leaf
    ) -> tuple[list[Weighed], Form]:
        """The sums of weights below the line, and what is added to them."""
        if below is None:
            return [], {}
        sums = {term: c for term, c in below.items() if any(is_fold(atom) for atom, _ in term[0])}
        rest = {term: c for term, c in below.items() if term not in sums}
        rest = self.forms.of(places.canonical(self.forms.expr(rest), first.loop.element))
        return [self._weighed(leaf, places, first) for leaf in self.meaning.leaves(sums, output.path)], rest

    # Masks and loops

    def _swept(self, one: Weighed, places: Places) -> Swept:
        loop = one.leaf.loop
        if loop.tiles is None:
            raise self.walker.refuse(one.leaf.path, "keys are not visited by tiles")

        def plain(e: Expr) -> Expr:
            return simplify(places.canonical(replaced(e, _split_named(one.leaf.split)), loop.element))

        split = one.leaf.split
        name, count = None, None
        if split is not None:
            name, count = SPLIT, plain(self._splits(split))
        domain = None if loop.domain is None else plain(loop.domain)
        visit, extent = plain(loop.visit), plain(loop.tiles.extent)
        if places.layout == "dense":
            keys = self._keys(places)
            if extent is not keys:
                visit, extent = visit & (var("j") < extent), keys
        return Swept(visit, one.mask, extent, loop.tiles.tile, domain, loop.part, name, count)

    def _keys(self, places: Places) -> Expr:
        """How many keys the tensors have."""
        dims = next(p.dims for p in self.walker.program.params if p.name == places.k)
        dim = dims[places.dims[places.k].index("row")]
        return const(dim) if isinstance(dim, int) else var(places.sizes[dim])

    def _splits(self, split: LoopInfo) -> Expr:
        """How many splits are merged."""
        if split.tiles is not None:
            return split.tiles.extent
        bounds = [part for part in conjuncts(split.visit) if part.op is Op.LT and part.args[0] is split.element]
        return bounds[0].args[1] if bounds else const(0)

    def _facts(self, places: Places, output: Stored, element: Expr) -> list[Expr]:
        """What holds for rows that are stored."""
        facts = [places.canonical(f, element) for f in self.walker.facts]
        binding = next((b for b in self.walker.axes for n in walk(places.row) if n is index(b.axis)), None)
        if binding is not None and places.row.op is Op.INDEX:
            facts.append(var("i") < places.canonical(binding.tiles.extent, element))
            self._check_rows(places, facts[-1].args[1], output)
        if places.is_square:
            facts.append(apply(Op.EQ, var("M"), var("N")))
        is_known = binding is not None and bool(loads(binding.tiles.extent))
        if places.start is not None and not is_known:  # rows of sequence b
            after = load(str(places.start.attr), (BATCH + 1,), Kind.INT)
            facts.append(var("i") < after - load(str(places.start.attr), (BATCH,), Kind.INT))
        for condition in output.conditions:
            test = places.canonical(condition, element)
            if not implies(facts, test):
                raise self.walker.refuse(output.path, f"rows are stored only where {print_expr(condition)}")
        return facts

    def _check_rows(self, places: Places, extent: Expr, output: Stored) -> None:
        """Tiles of rows must be of all the rows that there are."""
        if places.layout == "dense" and "row" in places.dims[places.q]:
            dims = next(p.dims for p in self.walker.program.params if p.name == places.q)
            dim = dims[places.dims[places.q].index("row")]
            if extent is not (const(dim) if isinstance(dim, int) else var(places.sizes[dim])):
                raise self.walker.refuse(output.path, f"rows up to {print_expr(extent)} are stored, of {dim}")

    def _cover(self, weighed: Sequence[Weighed], places: Places, output: Stored, is_sum: bool) -> Cover:
        loops = [self._swept(one, places) for one in weighed]
        facts = self._facts(places, output, weighed[0].leaf.loop.element)
        found = cover(loops, facts, is_sum=is_sum)
        if found is None:
            ranges = "; ".join(print_expr(all_of(loop.visit, loop.mask))[:160] for loop in loops)
            reason = "it cannot be proved that every key counts once; loops keep keys with " + ranges
            raise self.walker.refuse(weighed[0].leaf.loop.path, reason)
        if found.is_exact:
            self.notes.append("the loops' ranges leave more than the mask says: their bounds are part of the mask")
        if found.needs is not const(True):
            self.notes.append(f"scores past the last key are not masked: right where {print_expr(found.needs)}")
        return found

    def _check_values(self, values: Sequence[Weighed], kept: Cover, places: Places, output: Stored) -> None:
        """The weights that multiply v must be those that are summed."""
        found = self._cover(values, places, output, is_sum=False)
        one = self._swept(values[0], places)
        facts = [*self._facts(places, output, values[0].leaf.loop.element), one.tail, const(0) <= var("j")]
        same = found.keep is kept.keep
        if not same and not (implies([*facts, kept.keep], found.keep) and implies([*facts, found.keep], kept.keep)):
            a, b = print_expr(found.keep)[:100], print_expr(kept.keep)[:100]
            raise self.walker.refuse(values[0].leaf.path, f"keys with {a} multiply v, but those with {b} are summed")

    def _check_lse(self, lse: Stored, below: Form | None, places: Places) -> None:
        """What is stored beside the output must be the logarithm of the sums, in either base."""
        if below is None:
            raise self.walker.refuse(lse.path, "a second output without sums of weights is not understood")
        form, wanted = self.forms.of(lse.value), self.forms.log2(below)
        if self.forms.same(form, wanted):
            self.notes.append("the stored log-sum-exp is in base 2; the canonical program stores the natural logarithm")
        elif not self.forms.same(form, {term: c / LOG2E for term, c in wanted.items()}):
            text = print_expr(self.forms.expr(form))[:120]
            raise self.walker.refuse(lse.path, f"expected the logarithm of the sums of weights; found {text}")

    def _check_hidden(
        self, values: Sequence[Weighed], places: Places, kept: Cover, facts: Sequence[Expr], captured: Sequence[str]
    ) -> None:
        """Rows that loads leave out (where=) must not count. `places`: of the grid that sweeps over keys."""
        leaves = [w.leaf.source or w.leaf for w in values]
        for found, condition, path in self.walker.hidden:
            if found.attr not in (places.q, places.k, places.v, *captured):
                continue
            leaf = next((x for x in leaves if x.loop.element in set(walk(found))), None)
            known, element = [*facts], leaves[0].loop.element
            if leaf is not None and leaf.loop.tiles is not None:
                element = leaf.loop.element
                known += [kept.keep, simplify(places.canonical(element < leaf.loop.tiles.extent, element))]
                name = values[0].leaf.split_name
                if name is not None and kept.part is not None:
                    known += [var(name) * kept.part <= var("j"), var("j") < var(name) * kept.part + kept.part]
            if not implies(known, simplify(places.canonical(condition, element))):
                text = print_expr(condition)
                raise self.walker.refuse(path, f"rows are left out where {text} does not hold, which the mask keeps")

    # The spec

    def _spec(
        self, places: Places, weights: tuple[Form, Form | None], sums: Sequence[Weighed], kept: Cover, output: Stored
    ) -> AttentionSpec:
        """The spec. `weights`: what multiplies v, and what is added to the sums of weights; None without sums."""
        weight, rest = weights
        has_sums = rest is not None
        program = self.walker.program
        params = {p.name: p for p in program.params}
        after = None
        base = weight
        if has_sums:
            base = self._common(sums)
            after = self._after(weight, base, sums[0])
        score, normaliser = self._normaliser(base, rest, output)
        normaliser = Normaliser(normaliser.kind, normaliser.sink, normaliser.weight, normaliser.epsilon, after)
        expressions = [score, kept.keep, *(e for e in (normaliser.sink, normaliser.weight, after) if e is not None)]
        captured = self._captured(expressions, places)
        requires = kept.needs
        if places.is_square:
            requires = all_of(requires, apply(Op.EQ, var("M"), var("N")))
        if places.row.op is Op.CONST:
            requires = all_of(requires, apply(Op.EQ, var("M"), 1))
        self._check_names(expressions, captured, output)
        d, dv = (params[name].dims[places.dims[name].index("feature")] for name in (places.q, places.v))
        fixed = program.fixed
        width = fixed.get(str(d), d) + sum(piece.features for piece in places.more)  # type: ignore[operator]
        return AttentionSpec(
            program.name, params[places.q].dtype, width, fixed.get(str(dv), dv),  # type: ignore[arg-type]
            places.group or 1, captured, score, kept.keep, normaliser, simplify(requires),
        )  # fmt: skip

    def _after(self, weight: Form, base: Form, where: Weighed) -> Expr | None:
        """What weights are multiplied by after they are summed."""
        if self.forms.same(weight, base):
            return None
        if len(weight) == 1 and len(base) == 1:
            ratio = self.forms.times(weight, self.forms.inverse(base))
            text = simplify(self.forms.expr(ratio))
            if "s" not in free_vars(text):
                return tidy_numbers(text, self.walker)
        a, b = (print_expr(self.forms.expr(w))[:100] for w in (weight, base))
        raise self.walker.refuse(
            where.leaf.path, f"the weights that are summed, {b}, are not those that multiply v, {a}"
        )

    def _normaliser(self, base: Form, rest: Form | None, output: Stored) -> tuple[Expr, Normaliser]:
        """The score, and how it becomes a weight. `rest`: what is added to the sums of weights that divide."""
        exponential = self._exponential(base)
        if rest is not None and exponential is not None:
            return exponential, Normaliser(NormaliserKind.SOFTMAX, self._sink(rest, output))
        weight = simplify(self.forms.expr(base))
        score, weight = split_weight(weight)
        if rest is None:
            return self._tidy(score), Normaliser(NormaliserKind.ELEMENTWISE, None, self._tidy(weight))
        epsilon = rest.get(UNIT, 0.0)
        if set(rest) - {UNIT}:
            raise self.walker.refuse(output.path, "expected a number to be added to the sums of weights")
        return self._tidy(score), Normaliser(NormaliserKind.ROW_SUM, None, self._tidy(weight), epsilon)

    def _tidy(self, e: Expr) -> Expr:
        return tidy_numbers(e, self.walker)

    def _exponential(self, base: Form) -> Expr | None:
        """x where the weight is exp(x), else None."""
        if len(base) != 1:
            return None
        (((powers, exponent), c),) = base.items()
        if powers or c <= 0 or not any("s" in free_vars(x) for x, _ in exponent):
            return None
        return self._natural(exponent, c)

    def _natural(self, exponent: tuple[tuple[Expr, float], ...], c: float) -> Expr:
        total: Expr | None = None
        for x, k in sorted(exponent, key=lambda item: "s" not in free_vars(item[0])):
            factor = snapped(k / LOG2E, self.walker.program.fixed)
            part = x if factor == 1.0 and x.kind is Kind.FLOAT else x * factor
            total = part if total is None else total + part
        assert total is not None
        if abs(math.log(c)) > 1e-9:
            total = total + math.log(c)
        return self._tidy(simplify(total))

    def _sink(self, rest: Form, output: Stored) -> Expr | None:
        """The logit of a sum's one extra term."""
        if not rest:
            return None
        if len(rest) > 1 or next(iter(rest.values())) <= 0:
            text = print_expr(self.forms.expr(rest))[:120]
            raise self.walker.refuse(output.path, f"expected one extra logit in the sums of weights; found {text}")
        (((_, exponent), c),) = rest.items()
        return self._natural(exponent, c) if exponent else const(math.log(c))

    def _captured(self, expressions: Sequence[Expr], places: Places) -> tuple[TensorSpec, ...]:
        """Inputs that the expressions read, in the order of the program."""
        used = {str(node.attr) for e in expressions for node in loads(e)}
        found = []
        for param in self.walker.program.params:
            if param.name in used and not param.is_output:
                reads = [node for e in expressions for node in loads(e) if node.attr == param.name]
                dims = tuple(self._dim(d, [r.args[n] for r in reads], places) for n, d in enumerate(param.dims))
                found.append(TensorSpec(param.name, param.dtype, dims))
        return tuple(found)

    def _dim(self, dim: str | int, indices: Sequence[Expr], places: Places) -> str | int:
        """The canonical name of a dimension; one that is a number is the size of what it is indexed by."""
        if isinstance(dim, str):
            found = places.sizes.get(dim, dim)
            is_key = places.is_square and found == "M" and all(e is var("j") for e in indices)
            return "N" if is_key else found
        names = {"b": "B", "h": "Hq", "i": "M", "j": "N"}
        named = {names.get(str(e.attr)) if e.op is Op.VAR else None for e in indices}
        return next(iter(named)) or dim if len(named) == 1 and dim > 1 else dim

    def _check_names(self, expressions: Sequence[Expr], captured: Sequence[TensorSpec], output: Stored) -> None:
        """Scores and masks are functions of b, h, i, j, sizes and captured tensors alone."""
        known = {
            *SCORE_PARAMETERS,
            *MASK_PARAMETERS,
            *SIZES,
            *(d for t in captured for d in t.dims if isinstance(d, str)),
        }
        known |= set(self.walker.program.free_sizes)
        for e in expressions:
            for node in walk(e):
                if node.op in (Op.INDEX, Op.CALL) or (node.op is Op.VAR and node.attr not in known):
                    reason = (
                        f"{print_expr(e)[:160]} depends on {print_expr(node)[:80]}, which is no coordinate of a score"
                    )
                    raise self.walker.refuse(output.path, reason)


def _split_named(split: LoopInfo | None) -> dict[Expr, Expr]:
    """The number of a split under one name."""
    return {} if split is None else {split.element: var(SPLIT)}
