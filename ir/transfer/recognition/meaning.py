"""From what a program stores to the sums over keys that it is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...expr import Expr, Op, const, index, walk
from ...printer import Path, print_expr
from ...program import Program
from .buffers import tidy
from .forms import Form, is_indicator, replaced
from .walk import Fold, LoopInfo, Stored, Walker


@dataclass(frozen=True, slots=True)
class Leaf:
    """A sum over keys: its loop (and the loop over splits), the weight per key, the row of v, where it is written.

    `source`: the same in the grid that sweeps over keys, and `split_name` that grid's variable for the split.
    """

    loop: LoopInfo
    split: LoopInfo | None
    weight: Form
    value: Expr | None
    path: Path
    source: Leaf | None = None
    split_name: str | None = None


class Meaning:
    """Reads a walked program."""

    def __init__(self, walker: Walker) -> None:
        self.walker = walker
        self.forms = walker.forms
        self.program = walker.program

    def outputs(self) -> tuple[Stored, Stored | None]:
        """The store of the attention's output, and of the logarithm of sums."""
        found: dict[str, Stored] = {}
        for param in self.program.params:
            if param.is_output:
                stores = self.walker.stores.get(param.name, [])
                if len(stores) != 1:
                    where = stores[1].path if stores else (0,)
                    raise self.walker.refuse(where, f"output {param.name!r} is stored to {len(stores)} times")
                found[param.name] = stores[0]
        wide = [name for name in found if any(_sums_values(self, found[name].value))]
        if len(wide) != 1:
            where = next(iter(found.values())).path if found else (0,)
            raise self.walker.refuse(where, "one output must be sums of weighted rows of v; found " + str(len(wide)))
        others = [s for name, s in found.items() if name != wide[0]]
        if len(others) > 1:
            raise self.walker.refuse(
                others[1].path, "more than two outputs: an output and a log-sum-exp are understood"
            )
        return found[wide[0]], others[0] if others else None

    # Sums

    def leaves(self, a: Form, path: Path) -> list[Leaf]:
        """A form that is a sum of folds, each once."""
        found: list[Leaf] = []
        for (powers, exponent), c in a.items():
            folds = [atom for atom, power in powers if power == 1 and is_fold(atom)]
            if len(folds) != 1 or any(is_reference(x) for x, _ in exponent):
                text = print_expr(self.forms.expr({(powers, exponent): c}))
                raise self.walker.refuse(path, f"expected plain sums over keys; found {text[:120]}")
            # what a row's sum is multiplied by is a part of its weights
            outside = {(tuple(item for item in powers if item[0] is not folds[0]), exponent): c}
            leaves = self._leaves_of(folds[0], path)
            found += [replace(leaf, weight=self.forms.times(leaf.weight, outside)) for leaf in leaves]
        return found

    def _leaves_of(self, atom: Expr, path: Path) -> list[Leaf]:
        if str(atom.attr).startswith("@sum:"):
            axis = str(atom.attr).removeprefix("@sum:")
            tiles = next((t for t in self.walker.axes if t.axis == axis), None)
            loop = LoopInfo(path, index(axis), None if tiles is None else tiles.tiles, const(True))
            return [self._leaf(loop, None, self.forms.of(atom.args[0]), path)]
        fold, inner = self._fold(atom)
        nested = [a for (powers, _) in inner for a, _ in powers if is_fold(a) and a.attr == "@fold"]
        if not nested:
            return [self._leaf(fold.loop, None, inner, fold.path)]
        if len(inner) != 1 or len(next(iter(inner))[0]) > 2:
            raise self.walker.refuse(fold.path, "expected the sums of the parts to be merged by their own maxima")
        ((term, c),) = inner.items()
        others = [a for a, _ in term[0] if a is not nested[0]]
        if term[1] or abs(c - 1.0) > 1e-6 or not all(is_indicator(a) for a in others):
            raise self.walker.refuse(fold.path, "expected the sums of the parts to be merged by their own maxima")
        part, value = self._fold(nested[0])
        leaf = self._leaf(self._at(part, nested[0]), fold.loop, value, part.path)
        name = next(
            (c for c, a in zip(part.coords, nested[0].args[1:], strict=True) if fold.loop.element in set(walk(a))), None
        )
        own = self._leaf(part.loop, None, self.walker.folds[part.number].value, part.path)
        return [replace(leaf, source=own, split_name=None if name is None else str(name.attr))]

    def _at(self, part: Fold, atom: Expr) -> LoopInfo:
        """The loop of a part, in terms of the coordinates where the parts are merged."""
        values = dict(zip(part.coords, atom.args[1:], strict=True))
        domain = None if part.loop.domain is None else tidy(replaced(part.loop.domain, values), self.walker)
        tiles = part.loop.tiles
        if tiles is not None:
            tiles = replace(tiles, extent=replaced(tiles.extent, values))
        return replace(
            part.loop, visit=tidy(replaced(part.loop.visit, values), self.walker), domain=domain, tiles=tiles
        )

    def _fold(self, atom: Expr) -> tuple[Fold, Form]:
        fold = self.walker.folds[int(atom.args[0].attr)]  # type: ignore[call-overload]
        values = dict(zip(fold.coords, atom.args[1:], strict=True))
        if all(a is b for a, b in values.items()):
            return fold, fold.value
        inner = self.forms.of(tidy(replaced(self.forms.expr(fold.value), values), self.walker))
        return fold, inner

    def _leaf(self, loop: LoopInfo, split: LoopInfo | None, value: Form, path: Path) -> Leaf:
        """Split a value into the weight and the row of v, a load that every term has once."""
        shared: set[Expr] | None = None
        for powers, _ in value:
            here = {a for a, power in powers if a.op is Op.LOAD and power == 1 and self._is_row(a, loop)}
            shared = here if shared is None else shared & here
        if not shared:
            return Leaf(loop, split, value, None, path)
        if len(shared) > 1:
            raise self.walker.refuse(path, "products of three tensors are not attention's second product")
        (row,) = shared
        weight = {(tuple(p for p in powers if p[0] is not row), exponent): c for (powers, exponent), c in value.items()}
        return Leaf(loop, split, weight, row, path)

    def _is_row(self, atom: Expr, loop: LoopInfo) -> bool:
        """Whether a load is of a row of v: it depends on the key and on a whole dimension."""
        return _is_whole(atom, self.program) and loop.element in set(walk(atom))


def is_fold(atom: Expr) -> bool:
    """Whether an atom is a sum over what a loop or a tile visits."""
    return atom.op is Op.CALL and (atom.attr == "@fold" or str(atom.attr).startswith("@sum:"))


def is_reference(e: Expr) -> bool:
    """Whether an exponent is a running maximum, which must cancel."""
    marks = ("@peak", "@max", "@carried", "@fold")
    return any(n.op in (Op.CALL, Op.VAR) and str(n.attr).startswith(marks) for n in walk(e))


def _sums_values(meaning: Meaning, e: Expr) -> list[Expr]:
    """Sums over keys in an expression whose terms have a row of v."""
    found = []
    for node in walk(e):
        if not is_fold(node) or str(node.attr).removeprefix("@sum:") in meaning.program.fixed:
            continue
        if node.attr == "@fold":
            value = meaning.walker.folds[int(node.args[0].attr)].value  # type: ignore[call-overload]
        else:
            value = meaning.forms.of(node.args[0])
        rows = [a for powers, _ in value for a, _ in powers if a.op is Op.LOAD and _is_whole(a, meaning.program)]
        if rows or _sums_values(meaning, meaning.forms.expr(value)):
            found.append(node)
    return found


def _is_whole(atom: Expr, program: Program) -> bool:
    """Whether an element is along a whole dimension, such as D."""
    return any(n.op is Op.INDEX and str(n.attr) in program.fixed for n in walk(atom))
