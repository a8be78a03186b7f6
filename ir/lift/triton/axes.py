"""What every axis of a kernel is: a whole dimension, or tiles of one, by the places at which it is read and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...dtypes import Kind
from ...errors import UnsupportedKernel
from ...expr import COMPARISON, Expr, Op, const, loads, transform, var, walk
from .places import TensorInfo, axis_terms, conjunction, decompose, upper_limit
from .poly import Poly, added, scaled, to_expr
from .reader import Reader
from .values import Access, Assign, Branch, Constant, Item, Loop, Product


@dataclass(slots=True)
class Axis:
    """An axis: a whole dimension (`whole`: tensor and position), or tiles of `extent` by number."""

    width: int
    forms: list[tuple[Poly, TensorInfo | None, int]] = field(default_factory=list)
    limits: list[Poly] = field(default_factory=list)
    whole: list[tuple[str, int]] = field(default_factory=list)
    number: Poly = field(default_factory=dict)
    extent: Expr | None = None
    most: Expr | None = None
    name: str = ""
    tensors: dict[str, None] = field(default_factory=dict)
    places: list[str | None] = field(default_factory=list)
    is_paged: bool = False  # a dimension of fixed size, of which each tile takes the whole: index(n) - page * 16

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole dimension of fixed size."""
        return bool(self.whole)


class AxisFinder:
    """Looks at all accesses of a kernel."""

    def __init__(self, reader: Reader, tensors: Mapping[str, TensorInfo], sizes: frozenset[str]) -> None:
        self.reader = reader
        self.tensors = tensors
        self.sizes = sizes
        self.found: dict[int, Axis] = {}

    def run(self) -> dict[int, Axis]:
        """Every axis by the number that stands for it. Raises UnsupportedKernel for what is neither."""
        accesses = list(accesses_of(self.reader.body))
        self._unify_tokens()
        for access in accesses:
            self._look_at(access)
        for expr in expressions_of(self.reader.body):
            self._look_into(expr)
        for access in accesses:  # splits that later accesses made are seen by all
            tensor = self.tensors[access.tensor]
            access.indices = [to_expr(p) for p in self.decompose(tensor, access)]
        for root, axis in self.found.items():
            self._settle(root, axis)
        return self.found

    def decompose(self, tensor: TensorInfo, access: Access) -> list[Poly]:
        """An access's indices; errors tell its line."""
        try:
            return decompose(tensor, without_guards(access.offset), self.reader.integers, self.sizes)
        except UnsupportedKernel as error:
            raise UnsupportedKernel(error.reason, f"tt.{access.kind}", access.place) from None

    def _unify_tokens(self) -> None:
        axes = self.reader.axes
        for number in range(len(axes.parents)):
            root = axes.find(number)
            if root != number:
                self.reader.integers.meaning[f"axis.{number}"] = var(f"axis.{root}")

    def axis(self, token: str) -> Axis:
        """The axis of a token."""
        root = self.reader.axes.find(int(token.split(".")[1]))
        return self.found.setdefault(root, Axis(self.reader.axes.widths[root]))

    def _look_at(self, access: Access) -> None:
        tensor = self.tensors[access.tensor]
        for position, index in enumerate(self.decompose(tensor, access)):
            self._forms(index, tensor, position, access)
        for condition in conjunction(access.mask):
            limit = upper_limit(condition, self.reader.integers)
            if limit is not None:
                self.axis(limit[0]).limits.append(limit[1])

    def _look_into(self, expr: Expr) -> None:
        """Elements loaded inside an expression have places too."""
        for node in loads(without_guards(expr)):
            tensor = self.tensors[str(node.attr)]
            where = Access("load", tensor.name, node.args[0], (), None, "", None)
            for position, index in enumerate(self.decompose(tensor, where)):
                self._forms(index, tensor, position, where)

    def _forms(self, index: Poly, tensor: TensorInfo, position: int, access: Access) -> None:
        for token in axis_terms(index):
            axis = self.axis(token)
            axis.tensors[tensor.name] = None
            axis.places.append(access.place)
            own = (var(token),)
            base = {term: c for term, c in index.items() if term != own}
            if index.get(own) == 1 and token not in axis_terms(base):
                axis.forms.append((base, tensor, position))
            else:
                axis.forms += [(form, None, -1) for form in self._inner_forms(index, token)]

    def _inner_forms(self, index: Poly, token: str) -> Iterator[Poly]:
        """x of `(x + axis) // c`, `(x + axis) % c` and of indices of loads inside an index."""
        own = (var(token),)
        for term in index:
            for atom in term:
                for node in walk(atom):
                    if node.op not in (Op.FLOORDIV, Op.MOD, Op.LOAD):
                        continue
                    inner = self.reader.integers.poly(node.args[0])
                    if inner.get(own) == 1 and node.op is not Op.LOAD:
                        yield {t: c for t, c in inner.items() if t != own}

    def _settle(self, root: int, axis: Axis) -> None:
        if not axis.forms:
            raise UnsupportedKernel("an axis of a tile that no index of memory follows", "tt.load", axis.places[0])
        direct = [(tensor, position) for base, tensor, position in axis.forms if tensor is not None and not base]
        fixed = {tensor.dims[position] for tensor, position in direct if tensor.dims[position].op is Op.CONST}
        if len(direct) == len(axis.forms) and len(fixed) == 1 and all(
            tensor.dims[position].op is Op.CONST for tensor, position in direct
        ):  # fmt: skip
            size = int(next(iter(fixed)).attr)  # type: ignore[call-overload]
            if size == axis.width and self._as_pages(root, axis):
                return
            if size == axis.width or (size < axis.width and {(): size} in axis.limits):
                axis.whole = [(tensor.name, position) for tensor, position in direct]
                return
        numbers = [self._number(base, axis.width) for base, _, _ in axis.forms]
        axis.number = next((number for number in numbers if number), {})
        shift = scaled(axis.number, axis.width)
        ends = [added(limit, shift) for limit in axis.limits]
        own = [
            tensor.dims[position] for base, tensor, position in axis.forms
            if tensor is not None and base == shift
        ]  # fmt: skip
        axis.extent = self._extent(axis, own, ends)

    def _as_pages(self, root: int, axis: Axis) -> bool:
        """Make a dimension of fixed size that conditions count from page to page, `page * 16 + lane < n`, tiles."""
        numbers = [n for base in self._counted(var(f"axis.{root}")) if (n := self._number(base, axis.width)) and base]
        if not numbers or any(number != numbers[0] for number in numbers):
            return False
        shift = scaled(numbers[0], axis.width)
        ends = [end for limit in axis.limits if axis_terms(end := added(limit, shift)) == []]
        extent = to_expr(ends[0]) if ends else self._end_of_loop(numbers[0], axis.width)
        if extent is not None:
            axis.number, axis.extent, axis.is_paged = numbers[0], extent, True
        return extent is not None

    def _counted(self, own: Expr) -> Iterator[Poly]:
        """What is added to an axis's index in comparisons."""
        for expr in conditions_of(self.reader.body):
            for node in walk(expr):
                if node.op in COMPARISON and own in set(walk(node)):
                    low, high = (self.reader.integers.poly(arg) for arg in node.args)
                    side = low if (own,) in low else high
                    if side.get((own,)) == 1:
                        yield {t: c for t, c in side.items() if t != (own,) and not axis_terms({t: c})}

    def _end_of_loop(self, number: Poly, width: int) -> Expr | None:
        """x of the loop over `number` in 0 … ceil(x / width)."""
        for loop in loops_of(self.reader.body):
            if number == {(var(loop.token),): 1} and loop.low is const(0) and loop.step is const(1):
                high = to_expr(self.reader.integers.poly(loop.high))
                if high.op is Op.FLOORDIV and high.args[1] is const(width):
                    return to_expr(added(self.reader.integers.poly(high.args[0]), {(): 1 - width}))
        return None

    def _number(self, base: Poly, width: int) -> Poly:
        return {term: c // width for term, c in base.items() if c % width == 0}

    def _extent(self, axis: Axis, own: list[Expr], ends: list[Poly]) -> Expr:
        """The dimension's size, or where the masks end the rows that are at computed places."""
        common = [end for end in ends if ends.count(end) == max(ends.count(other) for other in ends)]
        if own:
            for dim in own:
                if self.reader.integers.poly(dim) in ends:
                    return dim
            if common and loads(to_expr(common[0])) and self._is_of_tables(axis):
                return to_expr(common[0])  # rows in use of a table, whose rows are longer
            if all(len(term) > 1 for end in ends for term in end):
                self.reader.note(f"rows are not masked at {axis.places[0]}: sizes are taken to be multiples of the "
                                 f"kernel's {axis.width}, the program takes any")  # fmt: skip
            return own[0]
        if common:
            return to_expr(common[0])
        base, tensor, position = next((f for f in axis.forms if f[1] is not None), axis.forms[0])
        if tensor is None:
            raise UnsupportedKernel("rows at computed places have no mask that says how many there are", "tt.load",
                                    axis.places[0])  # fmt: skip
        offset = added(base, scaled(axis.number, -axis.width))
        return to_expr(added(self.reader.integers.poly(tensor.dims[position]), scaled(offset, -1)))


    def _is_of_tables(self, axis: Axis) -> bool:
        """Whether an axis runs along dimensions of integer tensors alone."""
        tensors = [tensor for base, tensor, _ in axis.forms if tensor is not None]
        return all(tensor.dtype.kind is Kind.INT for tensor in tensors)


def accesses_of(body: list[Item]) -> Iterator[Access]:
    """All loads, stores and additions of a body."""
    for item in body:
        if isinstance(item, Access):
            yield item
        elif isinstance(item, (Loop, Branch)):
            yield from accesses_of(item.body)


def loops_of(body: list[Item]) -> Iterator[Loop]:
    """All loops of a body, those around others first."""
    for item in body:
        if isinstance(item, Loop):
            yield item
        if isinstance(item, (Loop, Branch)):
            yield from loops_of(item.body)


def conditions_of(body: list[Item]) -> Iterator[Expr]:
    """All expressions of a body's statements but flat offsets and what loops count."""
    for item in body:
        if isinstance(item, Access):
            yield from (e for e in (item.mask, item.value) if e is not None)
        elif isinstance(item, Assign):
            yield item.expr
        elif isinstance(item, (Loop, Branch)):
            yield from conditions_of(item.body)


def expressions_of(body: list[Item]) -> Iterator[Expr]:
    """All expressions of a body's statements but flat offsets."""
    for item in body:
        if isinstance(item, Access):
            yield from (e for e in (item.offset, item.mask, item.value) if e is not None)
        elif isinstance(item, Assign):
            yield item.expr
        elif isinstance(item, Constant):
            yield item.value
        elif isinstance(item, Product) and item.into is not None:
            yield item.into
        elif isinstance(item, Loop):
            yield from (item.low, item.high, item.step)
            yield from expressions_of(item.body)
        elif isinstance(item, Branch):
            yield item.condition
            yield from expressions_of(item.body)


def without_guards(expr: Expr) -> Expr:
    """Masked loads of indices without their masks: `where(n < N, table[n], 0)` -> `table[n]`."""

    def plain(node: Expr) -> Expr | None:
        if node.op is Op.SELECT and node.args[1].op is Op.LOAD and node.args[2].op is Op.CONST:
            return node.args[1]
        return None

    return transform(expr, plain)
