"""Which keys the loops of a program keep: the mask of its scores, proved to be what the loops' ranges leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...algebra import simplify
from ...domain.fold import all_of, any_of, conjuncts, negated
from ...dtypes import Kind
from ...expr import COMPARISON, Expr, Op, apply, const, free_vars, substitute, transform, var, walk
from ...integers import expression, polynomial
from .prover import implies, is_impossible

J = var("j")
PART = "@part"  # the split that a key belongs to

TRUE = const(True)


@dataclass(frozen=True, slots=True)
class Swept:
    """What one loop keeps, over b, h, i, j: keys of tiles it visits (`visit`) that its scores keep (`mask`).

    `part`: the variable of the split, and how many there are. `tile`: keys a tile has. `extent`: keys there are.
    """

    visit: Expr
    mask: Expr
    extent: Expr
    tile: int
    domain: Expr | None = None
    kind: str = "any"
    split: str | None = None
    splits: Expr | None = None

    @property
    def tail(self) -> Expr:
        """The test for the end of the keys."""
        return simplify(self.extent > J)


@dataclass(frozen=True, slots=True)
class Cover:
    """The keys that count.

    `keep`: the mask. `is_exact`: it is made of the loops' own bounds. `part`: keys of a split. `needs`: of sizes.
    """

    keep: Expr
    is_exact: bool
    part: Expr | None = None
    needs: Expr = TRUE


def cover(loops: Sequence[Swept], facts: Sequence[Expr], *, is_sum: bool) -> Cover | None:
    """The keys that loops keep together, each once; None where a key may count twice, or nothing can be proved.

    `facts` hold for rows that are stored. `is_sum`: weights alone are summed, so that keys past the end, whose rows of
    v are zero, must be left out.
    """
    known, effects = _effects(loops)
    facts = [*facts, *known, const(0) <= J]
    needs = const(True)
    for loop, effect in zip(loops, effects, strict=True):
        if is_sum and not implies([*facts, effect], loop.tail):
            needs = all_of(needs, apply(Op.EQ, loop.extent % loop.tile, 0))
    inside = [*facts, *(limit > J for loop in loops[:1] for limit in least_of(loop.extent)), loops[0].tail]
    if needs is not TRUE or not is_sum:
        effects = [all_of(effect, loop.tail) for loop, effect in zip(loops, effects, strict=True)]
    size = None
    if loops[0].split is not None:
        size = _part_size(loops, effects, inside)
        if size is None:
            return None
        in_part = all_of(var(PART) * size <= J, var(PART) * size + size > J)
        effects = [substitute(e, {loop.split or "": var(PART)}) for e, loop in zip(effects, loops, strict=True)]
        inside = [substitute(f, {loops[0].split or "": var(PART)}) for f in inside] + [in_part]
    for n, effect in enumerate(effects):
        for other in effects[n + 1 :]:
            if not is_impossible([*inside, effect, other]):
                return None
    union = any_of(*effects)
    for keep in _candidates(loops):
        sound = all(implies([*inside, effect], keep) for effect in effects)
        if sound and implies([*inside, keep], union) and _reaches(loops, size, inside, keep):
            return Cover(keep, False, size, needs)
    if size is not None or any(name.startswith("@") for name in free_vars(union)):
        return None
    return Cover(simplify(union), True, None, needs)


def _effects(loops: Sequence[Swept]) -> tuple[list[Expr], list[Expr]]:
    """Facts about loops with `where=`, and the condition under which each loop counts a key."""
    facts: list[Expr] = []
    effects: list[Expr] = []
    for loop in loops:
        visit = loop.visit
        if loop.domain is not None:
            name = f"@{loop.domain!r}"
            seen, whole = apply(Op.EQ, var(f"{name}seen"), 1), apply(Op.EQ, var(f"{name}full"), 1)
            inside = all_of(loop.domain, loop.tail)
            facts += [any_of(negated(inside), seen), any_of(negated(whole), inside), any_of(negated(whole), seen)]
            own = {"any": seen, "full": whole, "partial": all_of(seen, negated(whole))}[loop.kind]
            visit = all_of(visit, own)
        effects.append(all_of(visit, loop.mask))
    return facts, effects


def _candidates(loops: Sequence[Swept]) -> list[Expr]:
    """Masks that may be what the loops keep, the likeliest first: without tests of the end, and of splits."""
    masks = [_plain(loop.mask, loop) for loop in loops]
    domains = [_plain(loop.domain, loop) for loop in loops if loop.domain is not None]
    chosen = [choice for mask in masks for choice in _branches(mask)]
    every = [*chosen, *masks, *domains, all_of(*masks), any_of(*masks)]
    ordered = sorted(dict.fromkeys(every), key=lambda e: (e is not const(True), every.index(e)))
    return ordered if const(True) in ordered else [const(True), *ordered]


def _branches(mask: Expr) -> list[Expr]:
    """A mask that is applied to some tiles alone, as if it were to all: where(c, a, b) as a, as b."""
    choices = [node for node in walk(mask) if node.op is Op.SELECT and node.kind is Kind.BOOL]
    choices += [node for node in walk(mask) if node.op is Op.OR]
    return [simplify(transform(mask, lambda e, c=c, b=b: b if e is c else None)) for c in choices for b in c.args[-2:]]  # type: ignore[misc]


def _plain(mask: Expr, loop: Swept) -> Expr:
    """A mask without the test for the end of the keys, and without the bounds of a split."""
    kept = []
    for part in conjuncts(mask):
        if part is loop.tail or (loop.split is not None and loop.split in free_vars(part)):
            continue
        kept.append(part)
    return all_of(*kept)


def _part_size(loops: Sequence[Swept], effects: Sequence[Expr], facts: Sequence[Expr]) -> Expr | None:
    """P, where the keys of split s are s * P <= j < s * P + P, whatever loop they are in."""
    split = loops[0].split
    assert split is not None
    for size in _sizes(effects, split, loops[0].tile):
        low, high = var(split) * size <= J, var(split) * size + size > J
        if all(implies([*facts, effect], all_of(low, high)) for effect in effects):
            return size
    return None


def _sizes(effects: Sequence[Expr], split: str, tile: int) -> list[Expr]:
    """What a split's number is multiplied by in comparisons, in keys."""
    found: dict[Expr, None] = {}
    for effect in effects:
        for node in walk(effect):
            if node.op not in COMPARISON and node.op not in (Op.FLOORDIV, Op.MIN, Op.MAX):
                continue
            for arg in node.args:
                size = _slope(arg, split)
                if size is not None:
                    found[size] = found[expression(polynomial(size * tile))] = None
    return list(found)


def _slope(e: Expr, split: str) -> Expr | None:
    if e.kind.value != "int":
        return None
    slope = {}
    for monomial, c in polynomial(e).items():
        if var(split) in monomial:
            rest = list(monomial)
            rest.remove(var(split))
            slope[tuple(rest)] = c
    return expression(slope) if slope else None


def _reaches(loops: Sequence[Swept], size: Expr | None, facts: Sequence[Expr], keep: Expr) -> bool:
    """Whether every kept key is of a split that there is: j < splits * P."""
    if size is None:
        return True
    count = loops[0].splits
    assert count is not None
    plain = [fact for fact in facts if PART not in free_vars(fact)]
    return implies([*plain, keep], count * size > J)


def least_of(e: Expr) -> list[Expr]:
    """What a minimum is of."""
    return [part for arg in e.args for part in least_of(arg)] if e.op is Op.MIN else [e]
