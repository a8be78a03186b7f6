"""The abstract interpreter: runs the user's function on fake tensors and keeps, for each, what its element is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..dtypes import Kind
from ..errors import UnsupportedSpec
from ..expr import Expr, Op, apply, const, load, transform, var, walk
from ..integers import add, is_nonnegative, polynomial, simplify
from .constants import constant_element
from .create import CREATIONS
from .elementwise import ELEMENTWISE
from .location import Location, here, refuse
from .reduce import CONTRACTIONS, REDUCTIONS, Reduction
from .sizes import Sizes
from .statistics import STATISTICS
from .steps import exact_steps
from .value import DTYPES, Element, Index, Value, as_kind
from .views import MOVES, SPLITS, VIEWS
from .words import wrapped
from .writes import WRITE_BACK

if TYPE_CHECKING:
    from .around.products import Products

RANDOM = frozenset({"bernoulli", "bernoulli_", "native_dropout", "rand", "randn", "rand_like", "randn_like", "randint",
                    "normal", "uniform", "multinomial", "randperm", "dropout", "exponential"})  # fmt: skip
READS_DATA = frozenset({"_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal"})
NOTHING = frozenset({"aten::sym_size", "aten::size", "aten::sym_stride", "aten::sym_numel", "aten::_assert_async"})
SETTINGS = ("alpha", "rounding_mode", "approximate", "min", "max", "value")


@dataclass(slots=True, eq=False)
class Cell:
    """The memory behind a tensor: its value now and, for a view, the cell it is a view of."""

    value: Value
    tensor: torch.Tensor
    parent: Cell | None = None
    name: str = ""
    settings: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    number: int = 0
    version: int = 0
    seen: int = 0  # version of the parent that `value` was made of


@dataclass(eq=False)
class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives every tensor operation its meaning on elements; see `value.py`."""

    sizes: Sizes
    file: str | None
    ranges: dict[str, Expr] = field(default_factory=dict)
    cells: dict[int, Cell] = field(default_factory=dict)
    reductions: dict[Expr, Reduction] = field(default_factory=dict)
    atoms: dict[tuple[str, Expr, Expr], Expr] = field(default_factory=dict)
    last: Location | None = None  # the line of the operation that was traced last
    now: Location | None = None  # the line of the operation whose element is being made
    names: dict[Expr, frozenset[str]] = field(default_factory=dict)
    origins: dict[Expr, Location] = field(default_factory=dict)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    long: set[str] = field(default_factory=set)  # arguments of 64-bit integers, whose low 32 bits kernels read
    products: Products | None = None  # scores of a changed q and k, where functions with steps around are read

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    # tensors and their values

    def bind(self, tensor: torch.Tensor, element: Element, parent: Cell | None = None) -> Cell:
        """Give a tensor its value; the operation's place in the user's source goes with its elements."""
        location = here(self.file)
        kind = DTYPES[tensor.dtype].kind if tensor.dtype in DTYPES else None
        if kind is None:
            raise refuse(f"a tensor of type {tensor.dtype} cannot be compiled", location)

        cell = Cell(Value(tuple(tensor.shape), kind, self._located(element, kind, location)), tensor, parent)
        self.cells[id(tensor)] = cell
        return cell

    def _located(self, element: Element, kind: Kind, location: Location | None) -> Element:
        """The element with its line: known for its expression, for reductions it makes and for refusals in it."""

        def located(index: Index) -> Expr:
            outer, self.now = self.now, location or self.now
            try:
                expr = as_kind(element(index), kind)
            except UnsupportedSpec as error:
                raise error if error.location else refuse(error.reason, location, error.hint) from None
            finally:
                self.now = outer
            if location is not None:
                self.origins.setdefault(expr, location)
            return expr

        return located

    def bind_argument(self, tensor: torch.Tensor, name: str) -> None:
        """A tensor argument of the user's function: its elements are loads."""
        kind = DTYPES[tensor.dtype].kind
        self.bind(tensor, lambda index: load(name, tuple(self.positions(index)), kind))

    def positions(self, index: Index) -> Index:
        """Indices in normal form."""
        return tuple(simplify(exact_steps(i), self.ranges) for i in index)

    def cell(self, tensor: torch.Tensor) -> Cell:
        """The memory of a tensor; one that was not made during the trace is a constant of the user's."""
        found = self.cells.get(id(tensor))
        return found if found is not None else self.bind(tensor, constant_element(self, tensor))

    def value(self, tensor: torch.Tensor) -> Value:
        """The value of a tensor now, after every write to what it is a view of."""
        return self._current(self.cell(tensor))

    def _current(self, cell: Cell) -> Value:
        if cell.parent is not None:
            source = self._current(cell.parent)
            if cell.seen != cell.parent.version:
                cell.value = self._view_value(cell, source)
                cell.seen = cell.parent.version
                cell.version += 1
        return cell.value

    def _view_value(self, cell: Cell, source: Value) -> Value:
        args, kwargs = cell.settings
        out = Value(cell.value.shape, cell.value.kind, cell.value.element)
        made = VIEWS[cell.name](self, out, source, *args, **kwargs)
        return Value(out.shape, out.kind, made)

    # what handlers ask

    def size(self, size: Any) -> Expr:
        """A size or a number made of sizes as an expression."""
        if isinstance(size, Value):
            return size.at(())
        expr = self.sizes.expr(size)
        return simplify(expr, self.ranges) if expr.kind is Kind.INT else expr

    def simplified(self, expr: Expr) -> Expr:
        """An integer expression in normal form."""
        return simplify(expr, self.ranges)

    def same(self, a: Expr, b: Expr) -> bool:
        """Whether two sizes are certainly equal."""
        return a is b or polynomial(a) == polynomial(b)

    def is_nonnegative(self, expr: Expr) -> bool:
        """Whether an index is certainly >= 0."""
        return is_nonnegative(polynomial(expr), self.ranges)

    def is_certainly_negative(self, expr: Expr) -> bool:
        """Whether an index is certainly < 0."""
        below = add(add({}, polynomial(expr), -1), {(): 1}, -1)
        return is_nonnegative(below, self.ranges)

    def less(self, a: Expr, b: Expr) -> Expr:
        """a < b, decided where the ranges decide it."""
        difference = simplify(b - a - 1, self.ranges)
        if self.is_nonnegative(difference):
            return const(True)
        return const(False) if self.is_certainly_negative(difference) else apply(Op.LT, a, b)

    def bound(self, length: Expr, index: Index) -> Expr:
        """A variable for positions 0..length - 1 that no expression of `index` uses."""
        used = {name for i in index for name in self.free(i)}
        level = 0
        while (name := f"@r{level}[{length!r}]") in used:
            level += 1
        self.ranges[name] = length
        return var(name)

    def atom(self, op: str, body: Expr, bound: Expr, length: Expr) -> Expr:
        """The variable of a reduction; equal reductions get the same one."""
        key = (op, body, bound)
        found = self.atoms.get(key)
        if found is None:
            found = self.atoms[key] = var(f"@{op}{len(self.atoms)}", body.kind)
            self.reductions[found] = Reduction(op, body, bound, length)
            if self.now is not None:
                self.origins.setdefault(found, self.now)
        return found

    def free(self, expr: Expr) -> frozenset[str]:
        """Names of the variables an expression depends on, through reductions."""
        found = self.names.get(expr)
        if found is not None:
            return found
        for node in walk(expr):
            if node not in self.names:
                self.names[node] = self._own_names(node)
        return self.names[expr]

    def _own_names(self, node: Expr) -> frozenset[str]:
        reduction = self.reductions.get(node)
        if reduction is not None:
            return self.free(reduction.body) - {str(reduction.bound.attr)}
        if node.op is Op.VAR:
            return frozenset({str(node.attr)})
        return frozenset().union(*(self.names[arg] for arg in node.args))

    def depends(self, expr: Expr, variable: Expr) -> bool:
        """Whether an expression depends on a variable."""
        return str(variable.attr) in self.free(expr)

    def choose(self, condition: Expr, then: Expr, otherwise: Expr) -> Expr:
        """`then` where the condition holds, else `otherwise`; truth values become logic."""
        if condition.op is Op.CONST or then is otherwise:
            return then if condition.attr is not False else otherwise
        return ELEMENTWISE["where"](condition, then, otherwise)

    def decided(self, expr: Expr) -> Expr:
        """Comparisons and magnitudes of indices decided where the ranges decide them."""

        def decide(node: Expr) -> Expr | None:
            if node.op is Op.ABS and node.kind is Kind.INT and self.is_nonnegative(node.args[0]):
                return node.args[0]
            if node.op not in (Op.LT, Op.LE) or any(arg.kind is not Kind.INT for arg in node.args):
                return None
            found = self.less(node.args[0], node.args[1] if node.op is Op.LT else node.args[1] + 1)
            return found if found.op is Op.CONST else None

        return transform(expr, decide)

    def conjunction(self, a: Expr, b: Expr) -> Expr:
        """a and b, without literals."""
        if a.op is Op.CONST:
            return b if a.attr else a
        return (a if b.attr else b) if b.op is Op.CONST else apply(Op.AND, a, b)

    def read(self, value: Value, index: Index, shape: Sequence[Any]) -> Expr:
        """The element of a value broadcast to `shape`, at an index of that shape."""
        tail = index[len(index) - len(value.shape) :]
        sizes = shape[len(shape) - len(value.shape) :]
        return value.at(
            tuple(
                const(0) if self.size(own) is const(1) and self.size(full) is not const(1) else i
                for i, own, full in zip(tail, value.shape, sizes, strict=True)
            )
        )

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Questions about sizes asked inside are ours, not the user's."""
        count = len(self.sizes.env.branches)
        yield
        del self.sizes.env.branches[count:]

    # operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator on fake tensors for its shapes, and give the result its elements."""
        kwargs = kwargs or {}
        namespace, _, name = func._schema.name.partition("::")
        if func._schema.name in NOTHING or namespace == "prim":
            return func(*args, **kwargs)
        self._refuse_at_once(name)
        self.last = here(self.file) or self.last
        out = func(*args, **kwargs)
        self._interpret(name, func, out, args, kwargs)
        return out

    def _refuse_at_once(self, name: str) -> None:
        plain = name.rstrip("_")
        if plain in READS_DATA or name in READS_DATA:
            raise refuse(
                "the function's Python code depends on the data in a tensor",
                here(self.file),
                "write the choice with torch.where; sizes (tensor.shape) may be used freely",
            )
        if plain in RANDOM:
            raise refuse(f"{plain} draws random numbers", here(self.file), "use dropout of 0 for inference")

    def _interpret(self, name: str, func: Any, out: Any, args: Any, kwargs: Any) -> None:
        is_write = (name.endswith("_") and not name.endswith("__")) or "out" in kwargs
        plain = name.rstrip("_") if is_write and not name.startswith("__") else name
        if name in SPLITS:
            self._bind_parts(name, out, args, kwargs)
            return
        if name in VIEWS:
            self._bind_view(out, name, self.cell(args[0]), (tuple(args[1:]), dict(kwargs)))
            return
        try:
            element = self._element(plain, out, self._values(args), self._values(kwargs))
        except UnsupportedSpec as error:
            raise error if error.location else refuse(error.reason, here(self.file), error.hint) from None
        if element is None:
            raise refuse(f"the operator {name} is not one that can be compiled", here(self.file))
        if is_write:
            self._write(kwargs.get("out", args[0] if args else None), element)
        elif isinstance(element, list):
            for tensor, one in zip(out, element, strict=False):
                self.bind(tensor, one)
        else:
            self.bind(out[0] if isinstance(out, (tuple, list)) else out, element)

    def _bind_view(self, out: torch.Tensor, name: str, parent: Cell, settings: Any) -> None:
        args, kwargs = settings
        source = self._current(parent)
        probe = Value(tuple(out.shape), source.kind, source.element)
        cell = self.bind(out, VIEWS[name](self, probe, source, *args, **kwargs), parent)
        cell.name, cell.settings, cell.seen = name, settings, parent.version

    def _bind_parts(self, name: str, outs: Any, args: Any, kwargs: Any) -> None:
        parent = self.cell(args[0])
        probes = [Value(tuple(out.shape), parent.value.kind, parent.value.element) for out in outs]
        for out, (view, settings) in zip(outs, SPLITS[name](probes, *args[1:], **kwargs), strict=True):
            self._bind_view(out, view, parent, (settings, {}))

    def _element(self, name: str, out: Any, args: Any, kwargs: Any) -> Any:
        first = out[0] if isinstance(out, (tuple, list)) else out
        if not isinstance(first, torch.Tensor):
            return None
        kind = DTYPES[first.dtype].kind if first.dtype in DTYPES else Kind.FLOAT
        probe = Value(tuple(first.shape), kind, lambda index: const(0))
        if name in ELEMENTWISE:
            element = self._elementwise(name, probe, args, kwargs)
            return wrapped(element) if first.dtype is torch.int32 else element
        for table in (MOVES, CREATIONS, REDUCTIONS, STATISTICS, CONTRACTIONS):
            if name in table:
                return table[name](self, probe, *args, **kwargs)
        return None

    def _elementwise(self, name: str, out: Value, args: Any, kwargs: Any) -> Element:
        rule = ELEMENTWISE[name]
        settings = {k: v for k, v in kwargs.items() if k in SETTINGS}
        settings = {{"min": "low", "max": "high"}.get(k, k): v for k, v in settings.items()}
        if name in ("clone", "_to_copy", "to", "contiguous"):
            args = args[:1]

        def element(index: Index) -> Expr:
            operands = [self._operand(arg, index, out.shape) for arg in args]
            named = {k: self._operand(v, index, out.shape) for k, v in settings.items()}
            return rule(*operands, **named)

        return element

    def _operand(self, arg: Any, index: Index, shape: Sequence[Any]) -> Any:
        if isinstance(arg, Value):
            return self.read(arg, index, shape)
        if arg is None or isinstance(arg, (str, torch.dtype, torch.device, torch.memory_format)):
            return arg
        return self.size(arg)

    def _values(self, arg: Any) -> Any:
        if isinstance(arg, torch.Tensor):
            return self.value(arg)
        if isinstance(arg, (tuple, list)):
            return type(arg)(self._values(a) for a in arg) if type(arg) in (tuple, list) else [*map(self._values, arg)]
        if isinstance(arg, dict):
            return {key: self._values(value) for key, value in arg.items()}
        return arg

    def _write(self, tensor: torch.Tensor, element: Element) -> None:
        """An in-place operator: the tensor's memory, and whatever it is a view of, takes the new elements."""
        cell = self.cell(tensor)
        old = self._current(cell)
        self._assign(cell, Value(old.shape, old.kind, self._located(element, old.kind, here(self.file))))

    def _assign(self, cell: Cell, new: Value) -> None:
        cell.value = new
        cell.version += 1
        if cell.parent is None:
            return
        if cell.name not in WRITE_BACK:
            raise refuse(f"a write through a view made by {cell.name}", here(self.file), "write with torch.where")
        parent = self._current_without_refresh(cell.parent)
        args, kwargs = cell.settings
        back = WRITE_BACK[cell.name](self, new, parent, *args, **kwargs)

        def element(index: Index) -> Expr:
            inside, at = back(index)
            return self.choose(inside, new.at(at), parent.at(index)) if inside.attr is not True else new.at(at)

        self._assign(cell.parent, Value(parent.shape, parent.kind, element))
        cell.seen = cell.parent.version

    @staticmethod
    def _current_without_refresh(cell: Cell) -> Value:
        return cell.value
