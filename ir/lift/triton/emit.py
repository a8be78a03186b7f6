"""Statements of a kernel with named axes: a grid of the program language."""

from __future__ import annotations

from ...dtypes import Kind
from ...errors import UnsupportedKernel
from ...expr import Expr, Op, apply, const, free_vars, index, load, select, transform, var, walk
from ...program import (
    All,
    Fill,
    Gemm,
    Grid,
    If,
    Index,
    Let,
    Load,
    RangeLoop,
    Reduce,
    ReduceAdd,
    Ref,
    Statement,
    Store,
    TileAt,
    TileAxis,
    TileLoop,
    Tiles,
)  # fmt: skip
from .axes import Axis
from .elementwise import folded
from .grids import Roles
from .places import TensorInfo, axis_terms, conjunction, is_lower_bound, upper_limit
from .poly import Poly, added, multiplied, scaled, to_expr
from .sizes import ceil_div
from .values import ELEMENTS, Access, Assign, Branch, Constant, Item, Loop, Product, Reduction


class Emitter(Roles):
    """Writes one kernel."""

    def grid(self) -> Grid:
        """The kernel's grid. Raises UnsupportedKernel for what has no form in the language."""
        leaves = self._leaves()
        self._reverse(leaves)
        for root, axis in self.axes.items():
            if not axis.is_whole:
                self._role(root, axis, leaves)
        names, extents = self._grid_extents(leaves)
        for root, axis in self.axes.items():
            if not axis.is_whole:
                number = to_expr(axis.number)
                self.integers.meaning[f"axis.{root}"] = index(axis.name) - number * axis.width
        body = (*self._tile_statements(""), *self.body(self.reader.body))
        return Grid(names, extents, body, self.order, self.warps)

    # Statements

    def body(self, items: list[Item]) -> tuple[Statement, ...]:
        """A body's statements."""
        out: list[Statement] = []
        for item in items:
            out += self._statement(item)
        return tuple(out)

    def _statement(self, item: Item) -> list[Statement]:
        if isinstance(item, Access):
            return self._access(item)
        if isinstance(item, Assign):
            return [Let(item.name, self._known(item.name, self.final(item.expr)))]
        if isinstance(item, Constant):
            axes = tuple(self._axis_name(axis) for axis in item.axes if axis is not None)
            return [Fill(item.name, ELEMENTS[item.element], axes, self.final(item.value))]
        if isinstance(item, Product):
            into = None if item.into is None else self.final(item.into)
            return [Gemm(item.name, item.left, item.right, into)]
        if isinstance(item, Reduction):
            return [Reduce(item.name, item.op, item.source, self._axis_name(item.axis))]
        if isinstance(item, Loop):
            return [self._loop(item)]
        return self._branch(item)

    def _known(self, name: str, value: Expr) -> Expr:
        """A tile's value, unless it is computed from places along a dimension that is whole in every tile."""
        if any(axis.startswith("axis.") for axis in free_vars(value)):
            raise UnsupportedKernel(f"{name} is computed from places along a dimension that the kernel takes whole")
        return value

    def _branch(self, item: Branch) -> list[Statement]:
        if self._is_certain(item.condition):
            return list(self.body(item.body))
        inner = self.body(item.body)
        return [If(self.final(item.condition), inner)] if inner else []

    def _is_certain(self, condition: Expr) -> bool:
        """Whether a condition says that a grid's tile begins before the end, which instances know."""
        if condition.op not in (Op.LT, Op.LE):
            return False
        low, high = (self.integers.poly(arg) for arg in condition.args)
        difference = added(high, scaled(low, -1))
        if condition.op is Op.LE:
            difference = added(difference, {(): 1})
        for name, tiles in ((str(self.integers.meaning[t].attr), c) for t, c in self.bound_by_grid.items()):
            start: Poly = {(var(name),): tiles.tile}
            if difference == added(self.integers.poly(tiles.extent), scaled(start, -1)):
                return True
        return False

    def _loop(self, loop: Loop) -> Statement:
        stages = loop.stages or self.stages
        if loop.token in self.bound_by_loop:
            axis, direction = self.bound_by_loop[loop.token]
            assert axis.extent is not None
            tiles = Tiles(self.final(axis.extent), axis.width)
            number: Expr = var(axis.name)
            if direction == "descending":
                number = to_expr(self._trips(loop)) - 1 - number
            self.integers.meaning[loop.token] = number
            self.shared.tiles[axis.name] = tiles
            inner = (*self._tile_statements(loop.token), *self.body(loop.body))
            return TileLoop(axis.name, tiles, inner, None, "any", direction, max(stages, 1))
        condition = self._once(loop)
        if condition is not None:
            self.integers.meaning[loop.token] = const(0)
            return If(self.final(condition), (*self._tile_statements(loop.token), *self.body(loop.body)))
        start, stop = self._range(loop)
        inner = (*self._tile_statements(loop.token), *self.body(loop.body))
        return RangeLoop(loop.name, self.final(start), self.final(stop), inner, max(stages, 1))

    def _once(self, loop: Loop) -> Expr | None:
        """The condition of a loop that runs once or not at all: `range(0, where(c, 1, 0))`."""
        high = loop.high
        is_choice = high.op is Op.SELECT and high.args[1] is const(1) and high.args[2] is const(0)
        return high.args[0] if is_choice and loop.low is const(0) and loop.step is const(1) else None

    def _range(self, loop: Loop) -> tuple[Expr, Expr]:
        """Start and stop of a counted loop: in steps from 0 where the start is a multiple of the step."""
        low, step = self.integers.poly(loop.low), self.integers.poly(loop.step)
        found = self.integers.divided(low, step)
        if found is not None and not found[1]:
            start = to_expr(found[0])
            self.integers.meaning[loop.token] = var(loop.name) - start
            stop = loop.high if loop.step is const(1) else (loop.high + loop.step - 1) // loop.step
            return start, self._clipped(loop, stop)
        self.integers.meaning[loop.token] = var(loop.name)
        return const(0), to_expr(self._trips(loop))

    def _clipped(self, loop: Loop, stop: Expr) -> Expr:
        """A loop's end, not past the last tile that it binds."""
        for axis in self.placed.get(loop.token, ()):
            assert axis.extent is not None
            if self.integers.poly(to_expr(axis.number)) != {(var(loop.name),): 1} or loop.step is not const(axis.width):
                continue
            high, end = to_expr(self.integers.poly(loop.high)), to_expr(self.integers.poly(axis.extent))
            starts = {  # where a grid's tile of the same dimension begins lies before its end
                to_expr({(self.integers.meaning[leaf],): tiles.tile})
                for leaf, tiles in self.bound_by_grid.items() if tiles.extent is axis.extent
            }  # fmt: skip
            if high is end or high in starts or (high.op is Op.MIN and end in high.args):
                continue
            self.reader.note(f"tiles past the end of a dimension are not visited by the loop at {loop.place}")
            return apply(Op.MIN, stop, ceil_div(axis.extent, axis.width))
        return stop

    def _tile_statements(self, scope: str) -> list[Statement]:
        found: list[Statement] = []
        for axis in self.placed.get(scope, ()):
            assert axis.extent is not None
            tiles = Tiles(self.final(axis.extent), axis.width)
            self.shared.tiles[axis.name] = tiles
            found.append(TileAt(axis.name, tiles, self.final(to_expr(axis.number))))
        return found

    def _axis_name(self, number: int) -> str:
        axis = self.axes.get(self.reader.axes.find(number))
        if axis is None:
            raise UnsupportedKernel("an axis of a tile that no access to memory names")
        return self.shared.whole[axis.whole[0]] if axis.is_whole else axis.name

    # Places

    def _access(self, access: Access) -> list[Statement]:
        tensor = self.shared.tensors[access.tensor]
        indices = [self.integers.poly(e) for e in self._decomposed(tensor, access)]
        ref, rows = self._reference(tensor, indices, access)
        needed, whole = self._conditions(access)
        if ref is None:
            return self._elements(access, indices, whole)
        where = None
        apart: list[Expr] = []
        for condition in needed:
            over = {str(node) for node in _axes_read(condition)}
            if rows is not None and over <= {rows}:
                where = condition if where is None else where & condition
            else:
                apart.append(condition)
        if access.kind == "load":
            return self._load(access, ref, where, apart, whole)
        if apart or (where is not None and access.kind == "add"):
            raise UnsupportedKernel("a mask over columns of what is written", f"tt.{access.kind}", access.place)
        assert access.value is not None
        value = self.final(access.value)
        return [Store(ref, value, where)] if access.kind == "store" else [ReduceAdd(ref, value)]

    def _decomposed(self, tensor: TensorInfo, access: Access) -> list[Expr]:
        paged = [var(f"axis.{root}") for root, axis in self.axes.items() if axis.is_paged]
        tokens = {node for e in access.indices for node in walk(e) if node.op is Op.VAR}
        if any(self.reader.integers.resolve(token) is not token and token in tokens for token in paged):
            return access.indices  # found before the axis was told to be index(n) - page * 16
        return [to_expr(p) for p in self.finder.decompose(tensor, access)]

    def _load(
        self, access: Access, ref: Ref, where: Expr | None, apart: list[Expr], whole: list[Expr]
    ) -> list[Statement]:
        other = access.other
        is_zero = other is None or (other.op is Op.CONST and other.attr == 0)
        if is_zero and not apart:
            return [Load(access.name, ref, "register", where)]
        assert other is not None or apart
        condition = apart if is_zero else whole
        if not condition:
            return [Load(access.name, ref, "register", where)]
        raw = self.reader.names.fresh(f"{access.name}_all")
        chosen = condition[0]
        for more in condition[1:]:
            chosen = chosen & more
        fill = const(0.0) if other is None else self.final(other)
        value = var(raw, ELEMENTS[access.element].kind)
        return [Load(raw, ref, "register", where), Let(access.name, select(chosen, value, fill))]

    def _elements(self, access: Access, indices: list[Poly], whole: list[Expr]) -> list[Statement]:
        """A tile whose elements lie at places computed over several axes is read element by element."""
        if access.kind != "load":
            raise UnsupportedKernel("places computed over several axes", f"tt.{access.kind}", access.place)
        value = load(access.tensor, tuple(self.final(to_expr(p)) for p in indices), ELEMENTS[access.element].kind)
        for condition in reversed(whole):
            value = select(condition, value, 0.0 if access.other is None else self.final(access.other))
        return [Let(access.name, value)]

    def _reference(self, tensor: TensorInfo, indices: list[Poly], access: Access) -> tuple[Ref | None, str | None]:
        """The reference, and the axis of its rows; None for places computed over several axes."""
        plain: list[Index] = []
        computed: set[str] = set()
        for position, poly in enumerate(indices):
            item = self._index(tensor, position, poly)
            plain.append(item)
            if isinstance(item, Expr):
                computed |= _axes_read(item)
        if len(computed) > 1 or any(name.startswith("axis.") for name in computed):
            return None, None
        plain = [index(item.name) if isinstance(item, TileAxis) and item.name in computed else item for item in plain]
        rows = next(iter(computed), None) or next((i.name for i in plain if isinstance(i, TileAxis)), None)
        return Ref(tensor.name, tuple(plain)), rows

    def _index(self, tensor: TensorInfo, position: int, poly: Poly) -> Index:
        tokens = axis_terms(poly)
        if len(tokens) == 1 and poly == {(var(tokens[0]),): 1}:
            axis = self.finder.axis(tokens[0])
            if axis.is_whole and (tensor.name, position) in axis.whole:
                return All()
        expr = self.final(to_expr(poly))
        if expr.op is Op.INDEX:
            name = str(expr.attr)
            axis = next(axis for axis in self.axes.values() if axis.name == name)
            assert axis.extent is not None
            if self.integers.poly(axis.extent) == self.integers.poly(tensor.dims[position]):
                return TileAxis(name)
        return expr

    def _conditions(self, access: Access) -> tuple[list[Expr], list[Expr]]:
        """Conditions of a mask that the place does not imply, and all that say something."""
        needed: list[Expr] = []
        whole: list[Expr] = []
        for condition in conjunction(access.mask):
            if is_lower_bound(condition, self.integers):
                continue
            final = self.final(condition)
            if final.op is Op.CONST and final.attr is True:
                continue
            if self._is_implied(condition, final):
                if not any(name.startswith("axis.") for name in free_vars(final)):
                    whole.append(final)
                continue
            needed.append(final)
            whole.append(final)
        return needed, whole

    def _is_implied(self, condition: Expr, final: Expr) -> bool:
        limit = upper_limit(condition, self.integers)
        if limit is not None:  # an axis without a meaning of its own: a whole dimension
            axis = self.finder.axis(limit[0])
            return axis.is_whole and set(limit[1]) == {()} and limit[1][()] >= self._whole_size(axis)
        return self._always(final)

    def _always(self, final: Expr) -> bool:
        """Whether a condition holds for all rows that exist and all instances, by their extents."""
        if final.op not in (Op.LT, Op.LE) or any(arg.kind is not Kind.INT for arg in final.args):
            return False
        difference = added(self.integers.poly(final.args[1]), scaled(self.integers.poly(final.args[0]), -1))
        if final.op is Op.LE:
            difference = added(difference, {(): 1})
        for atom, extent in self._bounded():
            taken = [term for term in difference if atom in term]
            if not taken or any(term.count(atom) > 1 for term in taken):
                continue
            replaced = self.integers.poly(extent - 1)
            for term in taken:
                factor = difference.pop(term)
                left = list(term)
                left.remove(atom)
                part = multiplied({tuple(left): factor}, replaced) if factor < 0 else {}
                difference = added(difference, part)
        return bool(difference) and difference.get((), 0) > 0 and all(c > 0 for c in difference.values())

    def _bounded(self) -> list[tuple[Expr, Expr]]:
        """Atoms with the extents that they stay below: rows of axes, then instances."""
        rows = [(index(a.name), a.extent) for a in self.axes.values() if not a.is_whole and a.extent is not None]
        return rows + [(var(name), extent) for name, extent in self.scalars.items()]

    def _whole_size(self, axis: Axis) -> int:
        tensor, position = axis.whole[0]
        return int(str(self.shared.tensors[tensor].dims[position].attr))

    # Expressions

    def final(self, expr: Expr) -> Expr:
        """An expression in the program's names: places as indices, whole dimensions' bounds left out."""
        expr = self._without_whole(expr)
        simple = self.integers.simplify(expr)
        return transform(transform(simple, self._element), self._unguarded)

    def _unguarded(self, node: Expr) -> Expr | None:
        """Masks of loads inside conditions that ask the same, or about rows that a grid never stores, are left out."""
        if node.op is Op.SELECT and node.args[1].op is Op.LOAD and node.args[2].op is Op.CONST:
            ends = {apply(Op.LT, index(str(self.integers.meaning[leaf].attr)), tiles.extent)
                    for leaf, tiles in self.bound_by_grid.items()}  # fmt: skip
            return node.args[1] if node.args[0] in ends else None
        if node.op is not Op.AND:
            return None
        asked = set(conjunction(node))

        def plain(inner: Expr) -> Expr | None:
            is_guard = inner.op is Op.SELECT and inner.args[0] in asked and inner.args[1].op is Op.LOAD
            return inner.args[1] if is_guard else None

        new = transform(node, plain)
        return None if new is node else new

    def _without_whole(self, expr: Expr) -> Expr:
        """Conditions that hold for every element of a whole dimension are true."""

        def known(node: Expr) -> Expr | None:
            if node.op in (Op.LT, Op.LE) and self._is_true(node):
                return const(True)
            if node.op is Op.NE and node.args[0].op is Op.SELECT and node.args[1] is node.args[0].args[2] is const(0):
                return node.args[0].args[0] & apply(Op.NE, node.args[0].args[1], 0)
            if node.op is Op.AND and node.args[1] in conjunction(node.args[0]):
                return node.args[0]
            if node.op in (Op.AND, Op.OR, Op.SELECT):
                new = folded(node.op, *node.args)
                return None if new is node else new
            return None

        return transform(expr, known)

    def _is_true(self, node: Expr) -> bool:
        limit = upper_limit(node, self.integers)
        if limit is None:
            return False
        axis = self.finder.axis(limit[0])
        return axis.is_whole and set(limit[1]) == {()} and limit[1][()] >= self._whole_size(axis)

    def _element(self, node: Expr) -> Expr | None:
        if node.op is not Op.LOAD or len(node.args) != 1:
            return None
        tensor = self.shared.tensors[str(node.attr)]
        if len(tensor.dims) == 1 and tensor.strides[0].coefficient == 1 and not tensor.strides[0].names:
            return None
        access = Access("load", tensor.name, node.args[0], (), None, "", None)
        indices = self.finder.decompose(tensor, access)
        return load(tensor.name, tuple(to_expr(p) for p in indices), node.kind)


def _axes_read(expr: Expr) -> set[str]:
    """Tile variables and unnamed axes that an expression is computed over."""
    found = {str(node.attr) for node in walk(expr) if node.op is Op.INDEX}
    return found | {name for name in free_vars(expr) if name.startswith("axis.")}
