"""Types of names: element type and named axes of every tile, inferred from a program in one walk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .dtypes import DType, Kind
from .edit import references
from .errors import ProgramError, ProgramLine
from .expr import Expr, Op, walk
from .printer import Path, listing, print_expr
from .program import (
    All,
    Alloc,
    Arrive,
    Barriers,
    Block,
    Copy,
    Fill,
    Gemm,
    Grid,
    If,
    Let,
    Load,
    Operand,
    Param,
    Program,
    RangeLoop,
    Reduce,
    ReduceAdd,
    Ref,
    Role,
    ScatterAdd,
    Statement,
    Store,
    TileAt,
    TileAxis,
    TileLoop,
    Tiles,
    Wait,
)  # fmt: skip
from .spec import SIZES

COMPUTED = {Kind.FLOAT: DType.F32, Kind.INT: DType.I32, Kind.BOOL: DType.BOOL}


@dataclass(frozen=True, slots=True)
class TileType:
    """Element type and axes of a tile; a scalar has no axes."""

    dtype: DType
    axes: tuple[str, ...] = ()


Tensor = Param | Alloc | Barriers


@dataclass(slots=True)
class Shapes:
    """What every name of a program stands for. `names`: tiles and scalars; `tiles`: tile variables."""

    sizes: dict[str, int]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, TileType] = field(default_factory=dict)
    tiles: dict[str, Tiles] = field(default_factory=dict)

    def extent(self, axis: str) -> int:
        """Elements along an axis: a tile variable's tile, or a fixed size."""
        return self.tiles[axis].tile if axis in self.tiles else self.sizes[axis]

    def axes(self, expr: Expr) -> tuple[str, ...]:
        """Axes of a tile expression, in the order of a tile that it reads, or else of any, that has just these.

        Where there is no such tile yet, in the order in which tile variables are bound.
        """
        found: dict[str, None] = {}
        tiles: list[tuple[str, ...]] = []
        for node in walk(expr):
            if node.op is Op.VAR and str(node.attr) in self.names:
                tiles.append(self.names[str(node.attr)].axes)
                found |= dict.fromkeys(tiles[-1])
            elif node.op is Op.INDEX:
                found[str(node.attr)] = None
        whole = next((axes for axes in tiles if len(axes) == len(found)), None)
        if whole is None and len(found) > 1:
            whole = next((t.axes for t in self.names.values() if set(t.axes) == set(found)), None)
        order = [*self.tiles, *self.sizes]
        return whole if whole is not None else tuple(sorted(found, key=order.index))

    def type_of(self, expr: Expr) -> TileType:
        """Element type and axes of an expression; an outermost cast decides the element type."""
        dtype = expr.attr if expr.op is Op.CAST and isinstance(expr.attr, DType) else COMPUTED[expr.kind]
        if expr.op is Op.VAR and str(expr.attr) in self.names:
            dtype = self.names[str(expr.attr)].dtype
        return TileType(dtype, self.axes(expr))

    def rows_axis(self, ref: Ref) -> str | None:
        """The axis over which a reference's indices are computed, None where every index is a scalar or whole.

        ValueError where they are over several axes, or one of them is also indexed by its tile variable.
        """
        over = dict.fromkeys(axis for item in ref.indices if isinstance(item, Expr) for axis in self.axes(item))
        if len(over) > 1:
            raise ValueError(f"indices of {ref.name} are computed over axes {list(over)}; only one may be")
        for axis in over:
            if axis not in self.tiles:
                raise ValueError(f"an index of {ref.name} is computed over {axis}, which is no tile variable")
            if TileAxis(axis) in ref.indices:
                raise ValueError(f"indices of {ref.name} are computed over {axis}: write index({axis}) for {axis} too")
        return next(iter(over), None)

    def ref_axes(self, ref: Ref) -> tuple[str, ...]:
        """Axes of the tile that a reference selects: that of computed indices first, the others in order."""
        dims = self.check_count(ref)
        rows = self.rows_axis(ref)
        axes = [] if rows is None else [rows]
        for dim, item in zip(dims, ref.indices, strict=True):
            if isinstance(item, TileAxis):
                axes.append(item.name)
            elif isinstance(item, All):
                if dim not in self.sizes:
                    raise ValueError(f"`:` on dimension {dim} of {ref.name}, whose size is not fixed by the header")
                axes.append(dim)
        return tuple(axes)

    def check_count(self, ref: Ref) -> tuple[str, ...]:
        """The dimensions of what a reference names; ValueError where it has more or fewer indices."""
        dims = self.dims(ref.name)
        if len(dims) != len(ref.indices):
            raise ValueError(f"{ref.name} has {len(dims)} dimensions, but {len(ref.indices)} indices are given")
        return dims

    def dims(self, tensor: str) -> tuple[str, ...]:
        """The dimensions of a tensor or buffer as text."""
        found = self.tensors[tensor]
        if isinstance(found, Barriers):
            return (str(found.count),)
        return tuple(str(dim) for dim in found.dims)

    def dtype(self, tensor: str) -> DType:
        """Element type of a tensor or buffer."""
        found = self.tensors[tensor]
        return DType.I32 if isinstance(found, Barriers) else found.dtype

    def operand(self, operand: Operand) -> TileType:
        """Type of a gemm's operand."""
        if isinstance(operand, str):
            return self.names[operand]
        return TileType(self.dtype(operand.name), self.ref_axes(operand))

    def gemm(self, statement: Gemm) -> TileType:
        """The result's axes; ValueError unless the operands share exactly one."""
        left, right = self.operand(statement.left).axes, self.operand(statement.right).axes
        shared = [axis for axis in left if axis in right]
        if len(shared) != 1:
            raise ValueError(f"gemm operands have axes {list(left)} and {list(right)}; exactly one must be shared")
        return TileType(DType.F32, tuple(a for a in (*left, *right) if a != shared[0]))


def infer(program: Program) -> Shapes:
    """Types of all names. Raises ProgramError, naming the line, when a statement's types do not fit."""
    shapes = Shapes(dict(program.sizes), {param.name: param for param in program.params})
    for name in (*SIZES, *program.free_sizes):
        shapes.names.setdefault(name, TileType(DType.I32))
    _infer_body(program, program.body, (), shapes)
    return shapes


def _infer_body(program: Program, body: tuple[Statement, ...], path: Path, shapes: Shapes) -> None:
    for position, statement in enumerate(body):
        here = (*path, position)
        try:
            bind = _BINDERS.get(type(statement))
            if bind is not None:
                bind(statement, shapes)
        except (ValueError, KeyError) as error:
            raise ProgramError("types", str(error), program_line(program, here)) from None
        if isinstance(statement, Block):
            _infer_body(program, statement.body, here, shapes)


def program_line(program: Program, path: Path) -> ProgramLine:
    """The line of a statement, for error messages."""
    text = listing(program)
    return ProgramLine(text.statement_lines[path], text.line(path))


def _bind(shapes: Shapes, name: str, kind: TileType) -> None:
    known = shapes.names.setdefault(name, kind)
    if known != kind:
        raise ValueError(
            f"{name!r} is {known.dtype.value}{list(known.axes)} and cannot become {kind.dtype.value}{list(kind.axes)}"
        )


def _bind_tile(shapes: Shapes, name: str, tiles: Tiles) -> None:
    for extent in (tiles.extent, tiles.most):
        if extent is not None and (extent.kind is not Kind.INT or shapes.axes(extent)):
            raise ValueError(f"the extent {print_expr(extent)} of {name!r} must be a single integer")
    known = shapes.tiles.setdefault(name, tiles)
    if known != tiles:
        raise ValueError(f"tile variable {name!r} stands for tiles of {known.tile} and of {tiles.tile}")
    _bind(shapes, name, TileType(DType.I32))


def _fill(s: Fill, shapes: Shapes) -> None:
    for axis in s.axes:
        if axis not in shapes.tiles and axis not in shapes.sizes:
            raise ValueError(f"axis {axis!r} of {s.name!r} is neither a tile variable nor a fixed size")
    _bind(shapes, s.name, TileType(s.dtype, s.axes))


def _let(s: Let, shapes: Shapes) -> None:
    _bind(shapes, s.name, shapes.type_of(s.value))


def _gemm(s: Gemm, shapes: Shapes) -> None:
    _whole_refs(s, shapes)
    result = shapes.gemm(s)
    if s.into is not None and not set(shapes.axes(s.into)) <= set(result.axes):
        raise ValueError(f"into= has axes {list(shapes.axes(s.into))}, the product {list(result.axes)}")
    _bind(shapes, s.name, result)


def _reduce(s: Reduce, shapes: Shapes) -> None:
    source = shapes.names[s.source]
    if s.axis not in source.axes:
        raise ValueError(f"{s.source!r} has axes {list(source.axes)}, none of them {s.axis!r}")
    _bind(shapes, s.name, TileType(source.dtype, tuple(a for a in source.axes if a != s.axis)))


def _load(s: Load, shapes: Shapes) -> None:
    axes = shapes.ref_axes(s.source)
    _check_where(s.where, s.source, shapes)
    _bind(shapes, s.name, TileType(shapes.dtype(s.source.name), axes))


def _check_where(where: Expr | None, ref: Ref, shapes: Shapes) -> None:
    """where= is a scalar, or over the rows: the computed axis, or the first tile variable of the reference."""
    if where is None:
        return
    rows = shapes.rows_axis(ref) or next((item.name for item in ref.indices if isinstance(item, TileAxis)), None)
    if rows is None:
        raise ValueError(f"where= of {ref.name} needs rows: a tile variable or a computed index")
    over = list(shapes.axes(where))
    if where.kind is not Kind.BOOL or not set(over) <= {rows}:
        raise ValueError(f"where= of {ref.name} must be truth values over {rows}; it is {where.kind.value} over {over}")


def _whole_refs(s: Copy | ReduceAdd | Gemm, shapes: Shapes) -> None:
    """Computed places are for loads and stores; every dimension has an index."""
    for ref in references(s):
        shapes.check_count(ref)
        if shapes.rows_axis(ref) is not None:
            raise ValueError(f"an index of {ref.name} is a tile; only load and store know computed places")


def _store(s: Store | ReduceAdd, shapes: Shapes) -> None:
    if isinstance(s, Store):
        _check_where(s.where, s.target, shapes)
    else:
        _whole_refs(s, shapes)
    value, target = shapes.axes(s.value), shapes.ref_axes(s.target)
    if not set(value) <= set(target):
        raise ValueError(f"a tile with axes {list(value)} stored to a place with axes {list(target)}")


def _scatter(s: ScatterAdd, shapes: Shapes) -> None:
    """Places and conditions are over axes of the value, which are tile variables; the memory is f32."""
    name, over = s.target.name, shapes.axes(s.value)
    shapes.check_count(s.target)
    if shapes.dtype(name) is not DType.F32:
        raise ValueError(f"scatter_add to {name}, which is {shapes.dtype(name).value}; sums are f32")
    if not over or not set(over) <= set(shapes.tiles):
        raise ValueError(f"scatter_add to {name} adds a tile over tile variables; this one is over {list(over)}")
    for item in s.target.indices:
        if not isinstance(item, Expr):
            text = item.name if isinstance(item, TileAxis) else ":"
            raise ValueError(f"an index of {name} is {text}; scatter_add takes numbers: write index({text})")
    asked = [item for item in (*s.target.indices, s.where) if isinstance(item, Expr)]
    extra = {axis for item in asked for axis in shapes.axes(item)} - set(over)
    if extra:
        raise ValueError(f"scatter_add to {name}: places over {sorted(extra)}, but the tile is over {list(over)}")


def _grid(s: Grid, shapes: Shapes) -> None:
    for name, extent in zip(s.names, s.extents, strict=True):
        if isinstance(extent, Tiles):
            _bind_tile(shapes, name, extent)
        else:
            _bind(shapes, name, TileType(DType.I32))


def _role(s: Role, shapes: Shapes) -> None:
    if s.worker is not None:
        _bind(shapes, s.worker, TileType(DType.I32))


def _condition(s: If, shapes: Shapes) -> None:
    if s.condition.kind is not Kind.BOOL or shapes.axes(s.condition):
        raise ValueError("the condition of `if` must be a single truth value")


def _alloc(s: Alloc, shapes: Shapes) -> None:
    odd = [dim for dim in s.dims if isinstance(dim, Expr) and dim.kind is not Kind.INT]
    if odd:
        raise ValueError(f"a dimension of {s.name} is {odd[0]!r}, of kind {odd[0].kind.value}; wanted an integer")
    shapes.tensors[s.name] = s


def _barrier(s: Arrive | Wait, shapes: Shapes) -> None:
    shapes.check_count(s.barrier)


_BINDERS: dict[type, Callable[[Any, Shapes], None]] = {
    Alloc: _alloc,
    Arrive: _barrier,
    Wait: _barrier,
    Barriers: lambda s, shapes: shapes.tensors.__setitem__(s.name, s),
    Load: _load,
    Copy: _whole_refs,
    Fill: _fill,
    Let: _let,
    Gemm: _gemm,
    Reduce: _reduce,
    Store: _store,
    ReduceAdd: _store,
    ScatterAdd: _scatter,
    Grid: _grid,
    TileLoop: lambda s, shapes: _bind_tile(shapes, s.name, s.tiles),
    TileAt: lambda s, shapes: _bind_tile(shapes, s.name, s.tiles),
    RangeLoop: lambda s, shapes: _bind(shapes, s.name, TileType(DType.I32)),
    Role: _role,
    If: _condition,
}
