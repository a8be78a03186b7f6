"""Reads a kernel's operations: numbers and places become expressions, tiles become statements without named axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...dtypes import DType, Kind
from ...errors import UnsupportedKernel
from ...expr import Expr, Op, apply, cast, const, free_vars, load, substitute, transform, var
from . import control
from .elementwise import TABLE, compared, folded, library_function, literal
from .naming import Names, Uses, needs_name, source_name
from .poly import Integers
from .refusals import reason
from .text import Function, Operation, Type
from .values import (
    ELEMENTS,
    Access,
    Assign,
    Axes,
    Item,
    Product,
    Reduction,
    Value,
    axis_token,
    lane,
)  # fmt: skip

REDUCTIONS = {
    "arith.addf": "sum", "arith.addi": "sum", "arith.maxnumf": "max", "arith.maximumf": "max", "arith.maxsi": "max",
}  # fmt: skip


class Reader:
    """State of reading one kernel."""

    def __init__(
        self, function: Function, arguments: Mapping[str, Value], grid: Sequence[Expr], names: Names, prefix: str
    ) -> None:
        self.function = function
        self.uses = Uses(function)
        self.values: dict[str, Value] = dict(arguments)
        self.integers = Integers()
        self.axes = Axes()
        self.names = names
        self.prefix = prefix
        self.body: list[Item] = []
        self.notes: dict[str, None] = {}
        self.counter = 0
        self.carried: set[str] = set()
        self.rank: dict[str, int] = {}
        self.loaded: dict[str, str] = {}  # element types of tiles as they are in memory
        self.program_names: dict[str, str] = {}
        self.programs = [f"{prefix}pid.{axis}" for axis in range(3)]
        for name, extent in zip(self.programs, grid, strict=True):
            self.integers.extents[name] = extent
            self.integers.splittable.add(name)
            if extent is const(1):
                self.integers.meaning[name] = const(0)

    def read(self) -> list[Item]:
        """The kernel's statements. Raises UnsupportedKernel, naming operation and line."""
        control.read_function(self)
        return self.body

    def operation(self, operation: Operation) -> None:
        """Read one operation."""
        handler = HANDLERS.get(operation.name)
        try:
            if handler is not None:
                handler(self, operation)
            elif operation.name in TABLE:
                self.elementwise(operation, TABLE[operation.name])
            else:
                raise self.fail(operation, reason(operation.name))
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise self.fail(operation, f"cannot be read: {type(error).__name__}: {error}") from error

    def fail(self, operation: Operation, reason: str) -> UnsupportedKernel:
        """The error that names an operation and its line."""
        return UnsupportedKernel(reason, operation.name, self.function.places.line(operation.place))

    def note(self, text: str) -> None:
        """Remember something that the user should know."""
        self.notes[text] = None

    def token(self, word: str) -> str:
        """A name for an atom of integer expressions."""
        self.counter += 1
        return f"{self.prefix}{word}.{self.counter}"

    def value(self, name: str) -> Value:
        """A value by its name in the text."""
        return self.values[name]

    def define(self, operation: Operation, value: Value) -> None:
        """Bind an operation's only result."""
        self.values[operation.results[0]] = value

    def elementwise(self, operation: Operation, build: Callable[..., Expr], *, count: int | None = None) -> None:
        """An operation element by element; pure operands of data ones follow the data's axes."""
        operands = [self.value(name) for name in operation.operands[:count]]
        if any(operand.base is not None for operand in operands):
            if operation.name == "arith.select":
                return self._select_pointer(operation, operands)
            raise self.fail(operation, "arithmetic on pointers")
        kind = operation.types[-1]
        shape = operands[-1].shape
        if not any(operand.is_data for operand in operands):
            expr = build(*(operand.expr for operand in operands))
            return self.define(operation, Value(shape, kind.element, self._in_range(expr, kind)))
        axes = self.united(operands, shape)
        expr = build(*(self.on_axes(operand, axes) for operand in operands))
        if kind.element in ("f16", "bf16") and operation.name.startswith(("arith.", "math.")) and expr.op not in (
            Op.VAR, Op.CAST, Op.CONST,
        ):  # fmt: skip
            expr = cast(expr, ELEMENTS[kind.element])
        self.bind(operation, Value(shape, kind.element, expr, axes))
        return None

    def _in_range(self, expr: Expr, kind: Type) -> Expr:
        if expr.kind is Kind.INT and kind.element == "i1":
            return apply(Op.NE, expr, 0)
        return expr

    def _select_pointer(self, operation: Operation, operands: list[Value]) -> None:
        condition, then, other = operands
        if then.base != other.base or condition.is_data:
            raise self.fail(operation, "a choice between pointers into different tensors")
        expr = folded(Op.SELECT, condition.expr, then.expr, other.expr)
        self.define(operation, Value(then.shape, then.element, expr, None, then.base))

    def united(self, operands: Sequence[Value], shape: tuple[int, ...]) -> tuple[int | None, ...]:
        """The axes of an elementwise result: those of its data operands, made one."""
        axes: list[int | None] = [None] * len(shape)
        for operand in operands:
            for position, axis in enumerate(operand.axes or ()):
                axes[position] = self.axes.unite(axes[position], axis)
        return tuple(
            self.axes.new(width) if axis is None and width > 1 else axis
            for axis, width in zip(axes, shape, strict=True)
        )

    def on_axes(self, value: Value, axes: Sequence[int | None]) -> Expr:
        """A value's expression with its elements' indices along given axes."""
        if value.is_data:
            return value.expr
        found = {f"lane.{p}": const(0) if axis is None else axis_token(axis) for p, axis in enumerate(axes)}
        return substitute(value.expr, {n: e for n, e in found.items() if n in free_vars(value.expr)})

    def bind(self, operation: Operation, value: Value) -> None:
        """Bind data: as a statement where it needs a name, else as an expression that its user writes."""
        result = operation.results[0]
        if not self.uses.of(result):
            self.values[result] = value
        elif needs_name(self.uses, self.function, operation) and value.expr.op is not Op.VAR:
            self.values[result] = self.named(source_name(self.function, operation), value)
        else:
            self.values[result] = value

    def named(self, wanted: str, value: Value) -> Value:
        """Write `name = expression`; the value by that name."""
        name = self.names.fresh(wanted)
        self.rank[name] = max((self.rank.get(n, 0) for n in free_vars(value.expr)), default=0)
        self.rank[name] = max(self.rank[name], len({n for n in free_vars(value.expr) if n.startswith("axis.")}))
        self.body.append(Assign(name, value.expr, value.axes or ()))
        return Value(value.shape, value.element, var(name, value.expr.kind), value.axes)

    def tile_name(self, value: Value, wanted: str) -> tuple[str, Value]:
        """A tile by name, which gemm and reductions need; written as a statement where it has none."""
        if not value.is_data:
            axes = self.axes.of_shape(value.shape)
            value = Value(value.shape, value.element, self.on_axes(value, axes), axes)
        if value.expr.op is not Op.VAR:
            value = self.named(wanted, value)
        return str(value.expr.attr), value


def _constant(reader: Reader, operation: Operation) -> None:
    kind = operation.types[-1] if operation.types else Type((), "i1")
    word = next(w for w in operation.words if not w.startswith("{"))
    text = word[len("dense<") : -1] if word.startswith("dense<") else word
    reader.define(operation, Value(kind.shape, kind.element, literal(text, kind.element)))


def _program_id(reader: Reader, operation: Operation) -> None:
    axis = next("xyz".index(word) for word in operation.words if word in ("x", "y", "z"))
    name = reader.function.places.name(operation.place)
    if name is not None:
        reader.program_names[reader.programs[axis]] = name
    reader.define(operation, Value((), "i32", reader.integers.resolve(var(reader.programs[axis]))))


def _num_programs(reader: Reader, operation: Operation) -> None:
    axis = next("xyz".index(word) for word in operation.words if word in ("x", "y", "z"))
    reader.define(operation, Value((), "i32", reader.integers.extents[reader.programs[axis]]))


def _make_range(reader: Reader, operation: Operation) -> None:
    start = operation.number("start")
    kind = operation.types[-1]
    reader.define(operation, Value(kind.shape, "i32", lane(0) + start if start else lane(0)))


def _splat(reader: Reader, operation: Operation) -> None:
    value = reader.value(operation.operands[0])
    shape = operation.types[-1].shape
    axes = reader.axes.of_shape(shape) if value.is_data else None
    reader.define(operation, Value(shape, value.element, value.expr, axes, value.base))


def _moved(reader: Reader, operation: Operation, shape: tuple[int, ...], sources: Sequence[int | None]) -> None:
    """A change of shape: result position p is the operand's position sources[p], or a new one of one element."""
    value = reader.value(operation.operands[0])
    targets = {source: target for target, source in enumerate(sources) if source is not None}
    names = {f"lane.{s}": lane(targets[s]) if s in targets else const(0) for s in range(len(value.shape))}
    axes = value.axes
    if axes is not None:
        axes = tuple(None if source is None else axes[source] for source in sources)
        expr = value.expr
    else:
        expr = _substitute_all(value.expr, names)
    reader.define(operation, Value(shape, value.element, expr, axes, value.base))


def _substitute_all(expr: Expr, names: Mapping[str, Expr]) -> Expr:
    return transform(expr, lambda e: names.get(str(e.attr)) if e.op is Op.VAR else None)


def _expand_dims(reader: Reader, operation: Operation) -> None:
    axis = operation.number("axis")
    value = reader.value(operation.operands[0])
    sources: list[int | None] = list(range(len(value.shape)))
    sources.insert(axis, None)
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    _moved(reader, operation, shape, sources)


def _broadcast(reader: Reader, operation: Operation) -> None:
    value = reader.value(operation.operands[0])
    shape = operation.types[-1].shape
    axes = value.axes
    if axes is not None:
        pairs = zip(axes, value.shape, shape, strict=True)
        axes = tuple(reader.axes.new(wide) if narrow == 1 and wide > 1 else axis for axis, narrow, wide in pairs)
    reader.define(operation, Value(shape, value.element, value.expr, axes, value.base))


def _transpose(reader: Reader, operation: Operation) -> None:
    value = reader.value(operation.operands[0])
    text = next(word for word in operation.words if word.startswith("array<"))
    order = [int(part) for part in text[text.index(":") + 1 : -1].split(",")]
    _moved(reader, operation, tuple(value.shape[p] for p in order), order)


def _reshape(reader: Reader, operation: Operation) -> None:
    value = reader.value(operation.operands[0])
    shape = operation.types[-1].shape
    kept = [p for p, width in enumerate(value.shape) if width > 1]
    if [value.shape[p] for p in kept] != [width for width in shape if width > 1]:
        raise reader.fail(operation, f"a reshape of {list(value.shape)} to {list(shape)} mixes axes")
    left = iter(kept)
    _moved(reader, operation, shape, [next(left) if width > 1 else None for width in shape])


def _add_pointer(reader: Reader, operation: Operation) -> None:
    pointer, offset = (reader.value(name) for name in operation.operands)
    if offset.is_data or pointer.base is None:
        raise reader.fail(operation, "an address computed from data")
    reader.define(
        operation, Value(pointer.shape, pointer.element, folded(Op.ADD, pointer.expr, offset.expr), None, pointer.base)
    )


def _compare(reader: Reader, operation: Operation) -> None:
    reader.elementwise(operation, compared(operation.words[0]))
    result = reader.values[operation.results[0]]
    reader.values[operation.results[0]] = Value(result.shape, "i1", result.expr, result.axes)


def _divide(is_rest: bool) -> Callable[[Reader, Operation], None]:
    def handle(reader: Reader, operation: Operation) -> None:
        reader.note("integer division is taken to be of numbers that are not negative")
        with_extents = [v for name in operation.operands for v in [reader.value(name)]]
        if any(v.is_data for v in with_extents):
            return reader.elementwise(operation, lambda a, b: apply(Op.MOD if is_rest else Op.FLOORDIV, a, b))
        a, b = with_extents
        lanes = {f"lane.{p}": const(width) for p, width in enumerate(a.shape)}
        reader.integers.extents.update(lanes)
        expr = reader.integers.divide(a.expr, b.expr, is_rest=is_rest)
        for name in lanes:
            del reader.integers.extents[name]
        reader.define(operation, Value(a.shape, a.element, expr))
        return None

    return handle


def _to_low(reader: Reader, operation: Operation) -> None:
    element = operation.types[-1].element
    value = reader.value(operation.operands[0])
    if value.expr.op is Op.VAR and reader.loaded.get(str(value.expr.attr)) == element:  # widened and narrowed again
        return reader.define(operation, Value(value.shape, element, value.expr, value.axes))
    reader.elementwise(operation, lambda x: cast(x, ELEMENTS[element]) if x.op is not Op.CONST else x)
    return None


def _to_integer(reader: Reader, operation: Operation) -> None:
    reader.elementwise(operation, lambda x: cast(x, DType.I32))


def _truncate(reader: Reader, operation: Operation) -> None:
    element = operation.types[-1].element
    reader.elementwise(operation, lambda x: apply(Op.NE, x, 0) if element == "i1" else x)


def _library(reader: Reader, operation: Operation) -> None:
    symbol = next(word for before, word in zip(operation.words[1:], operation.words[2:], strict=False)
                  if before == "=" and word.startswith('"__nv_'))  # fmt: skip
    build = library_function(symbol)
    if build is None:
        raise reader.fail(operation, f"the library function {symbol}")
    reader.elementwise(operation, build)


def _pointer_of(reader: Reader, operation: Operation) -> Value:
    pointer = reader.value(operation.operands[0])
    if pointer.base is None:
        raise reader.fail(operation, "an address that is no argument's")
    return pointer


def _load(reader: Reader, operation: Operation) -> None:
    pointer = _pointer_of(reader, operation)
    assert pointer.base is not None
    mask = reader.value(operation.operands[1]) if len(operation.operands) > 1 else None
    other = reader.value(operation.operands[2]) if len(operation.operands) > 2 else None
    element = ELEMENTS[pointer.element]
    kind = Kind.INT if element is DType.BOOL else element.kind
    wide = [width for width in pointer.shape if width > 1]
    if (kind is Kind.INT and len(wide) <= 1) or not wide:
        expr = load(pointer.base, (pointer.expr,), kind)
        if mask is not None:
            zero = const(0) if kind is Kind.INT else const(0.0)
            expr = folded(Op.SELECT, mask.expr, expr, zero if other is None else other.expr)
        if kind is Kind.INT:
            return reader.define(operation, Value(pointer.shape, pointer.element, expr))
        scalar: tuple[int | None, ...] = (None,) * len(pointer.shape)
        reader.define(operation, reader.named(source_name(reader.function, operation), Value(
            pointer.shape, pointer.element, expr, scalar)))  # fmt: skip
        return None
    axes = reader.axes.of_shape(pointer.shape)
    name = reader.names.fresh(source_name(reader.function, operation))
    reader.rank[name] = len(wide)
    reader.loaded[name] = pointer.element
    reader.body.append(Access(
        "load", pointer.base, reader.on_axes(pointer, axes), axes,
        None if mask is None else reader.on_axes(mask, axes), pointer.element,
        reader.function.places.line(operation.place), name, None, None if other is None else other.expr,
    ))  # fmt: skip
    reader.define(operation, Value(pointer.shape, pointer.element, var(name, kind), axes))
    return None


def _store(reader: Reader, operation: Operation) -> None:
    _write(reader, operation, "store", operation.operands)


def _atomic(reader: Reader, operation: Operation) -> None:
    if operation.words[0] not in ("fadd", "add"):
        raise reader.fail(operation, f"atomic {operation.words[0]}; additions alone are known")
    if operation.results and reader.uses.of(operation.results[0]):
        raise reader.fail(operation, "an atomic addition whose old value is used")
    _write(reader, operation, "add", operation.operands)


def _write(reader: Reader, operation: Operation, kind: str, operands: Sequence[str]) -> None:
    pointer, value = _pointer_of(reader, operation), reader.value(operands[1])
    assert pointer.base is not None
    mask = reader.value(operands[2]) if len(operands) > 2 else None
    axes = reader.united([value], pointer.shape)
    if mask is not None and mask.is_data:
        raise reader.fail(operation, "a mask computed from data")
    reader.body.append(Access(
        kind, pointer.base, reader.on_axes(pointer, axes), axes,
        None if mask is None else reader.on_axes(mask, axes), pointer.element,
        reader.function.places.line(operation.place), "", reader.on_axes(value, axes),
    ))  # fmt: skip


def _dot(reader: Reader, operation: Operation) -> None:
    left, right, into = (reader.value(name) for name in operation.operands[:3])
    if control.times_identity(reader, operation):
        return None
    wanted = source_name(reader.function, operation)
    left_name, left = reader.tile_name(left, f"{wanted}_left")
    right_name, right = reader.tile_name(right, f"{wanted}_right")
    assert left.axes is not None
    assert right.axes is not None
    if len(left.shape) != 2 or len(right.shape) != 2:
        raise reader.fail(operation, "a product of tiles that are no matrices")
    reader.axes.unite(left.axes[1], right.axes[0])
    axes = reader.united([into], into.shape)
    rows, columns = reader.axes.unite(axes[0], left.axes[0]), reader.axes.unite(axes[1], right.axes[1])
    start = reader.on_axes(into, (rows, columns))
    is_zero = start.op is Op.CONST and start.attr == 0
    name = reader.names.fresh(wanted)
    reader.rank[name] = 2
    is_sum = not is_zero and not (free_vars(start) & reader.carried)
    reader.body.append(Product(name, left_name, right_name, None if is_zero or is_sum else start))
    shape, element = operation.types[-1].shape, operation.types[-1].element
    product = Value(shape, element, var(name, Kind.FLOAT), (rows, columns))
    if is_sum:  # what is added once is no accumulator: a score and its bias
        total = Value(shape, element, folded(Op.ADD, product.expr, start), (rows, columns))
        return reader.bind(operation, total)
    reader.define(operation, product)
    return None


def _reduce(reader: Reader, operation: Operation) -> None:
    if len(operation.operands) != 1 or len(operation.regions[0]) != 1:
        raise reader.fail(operation, "a reduction of several values")
    combine = operation.regions[0][0].operations
    op = REDUCTIONS.get(combine[0].name) if len(combine) == 2 else None
    if op is None:
        raise reader.fail(operation, f"a reduction by {combine[0].name}; sums and maxima are known")
    position = operation.number("axis")
    wanted = source_name(reader.function, operation)
    source_value = reader.value(operation.operands[0])
    if source_value.shape[position] == 1:
        raise reader.fail(operation, "a reduction of one element")
    source, value = reader.tile_name(source_value, f"{wanted}_each")
    assert value.axes is not None
    axis = value.axes[position]
    assert axis is not None
    name = reader.names.fresh(wanted)
    reader.body.append(Reduction(name, op, source, axis))
    reader.rank[name] = reader.rank.get(source, 1) - 1
    axes = (*value.axes[:position], *value.axes[position + 1 :])
    shape = (*value.shape[:position], *value.shape[position + 1 :])
    reader.define(operation, Value(shape, value.element, var(name, value.expr.kind), axes))


def _ignored(reader: Reader, operation: Operation) -> None:
    """Nothing to do: ends of blocks, hints."""


HANDLERS: dict[str, Callable[[Reader, Operation], None]] = {
    "arith.constant": _constant,
    "tt.get_program_id": _program_id,
    "tt.get_num_programs": _num_programs,
    "tt.make_range": _make_range,
    "tt.splat": _splat,
    "tt.expand_dims": _expand_dims,
    "tt.broadcast": _broadcast,
    "tt.trans": _transpose,
    "tt.reshape": _reshape,
    "tt.addptr": _add_pointer,
    "arith.cmpi": _compare,
    "arith.cmpf": _compare,
    "arith.divsi": _divide(False),
    "arith.divui": _divide(False),
    "arith.remsi": _divide(True),
    "arith.remui": _divide(True),
    "arith.truncf": _to_low,
    "arith.fptosi": _to_integer,
    "arith.fptoui": _to_integer,
    "arith.trunci": _truncate,
    "tt.extern_elementwise": _library,
    "tt.load": _load,
    "tt.store": _store,
    "tt.atomic_rmw": _atomic,
    "tt.dot": _dot,
    "tt.reduce": _reduce,
    "tt.return": _ignored,
    "llvm.intr.assume": _ignored,
    "tt.assert": _ignored,
    "tt.print": _ignored,
    "scf.for": control.read_for,
    "scf.if": control.read_if,
}
