"""What values of a kernel are while it is read, and the statements they become before axes have names."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...dtypes import DType
from ...expr import Expr, var

ELEMENTS = {
    "f64": DType.F64, "f32": DType.F32, "bf16": DType.BF16, "f16": DType.F16,
    "i64": DType.I64, "i32": DType.I32, "i16": DType.I16, "i8": DType.I8, "i1": DType.BOOL, "index": DType.I64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """A value: its expression, over `lane.p` (the element's index along position p) where it is no data.

    axes: None for what is computed from numbers alone; else data, whose expression reads tiles by name, with one axis
    for each position (None where it has one element). base: the tensor that a pointer points into; expr its offset.
    """

    shape: tuple[int, ...]
    element: str
    expr: Expr
    axes: tuple[int | None, ...] | None = None
    base: str | None = None

    @property
    def is_data(self) -> bool:
        """Whether it reads tiles."""
        return self.axes is not None


def lane(position: int) -> Expr:
    """The index of an element along a position of its tile."""
    return var(f"lane.{position}")


def axis_token(axis: int) -> Expr:
    """The index of an element along an axis that has no name yet."""
    return var(f"axis.{axis}")


class Axes:
    """Axes that must be one are one (union-find); each has its number of elements."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.widths: list[int] = []

    def new(self, width: int) -> int:
        """An axis of its own."""
        self.parents.append(len(self.parents))
        self.widths.append(width)
        return len(self.parents) - 1

    def find(self, axis: int) -> int:
        """The axis that stands for all that are one with this."""
        while self.parents[axis] != axis:
            self.parents[axis] = self.parents[self.parents[axis]]
            axis = self.parents[axis]
        return axis

    def unite(self, a: int | None, b: int | None) -> int | None:
        """Make two axes one."""
        if a is None or b is None:
            return a if b is None else b
        first, second = sorted((self.find(a), self.find(b)))
        self.parents[second] = first
        return first

    def of_shape(self, shape: tuple[int, ...]) -> tuple[int | None, ...]:
        """New axes for a tile's positions, none for those of one element."""
        return tuple(self.new(width) if width > 1 else None for width in shape)


# Statements before axes have names


@dataclass(slots=True)
class Access:
    """A load, store or addition: flat offset and mask over axis tokens. `name`: what a load binds."""

    kind: str
    tensor: str
    offset: Expr
    axes: tuple[int | None, ...]
    mask: Expr | None
    element: str
    place: str | None
    name: str = ""
    value: Expr | None = None
    other: Expr | None = None
    indices: list[Expr] = field(default_factory=list)


@dataclass(slots=True)
class Assign:
    """name = expression."""

    name: str
    expr: Expr
    axes: tuple[int | None, ...]


@dataclass(slots=True)
class Constant:
    """name = full(element[axes], value)."""

    name: str
    element: str
    axes: tuple[int | None, ...]
    value: Expr


@dataclass(slots=True)
class Product:
    """name = gemm(left, right, into)."""

    name: str
    left: str
    right: str
    into: Expr | None
    axes: tuple[int | None, ...] = ()


@dataclass(slots=True)
class Reduction:
    """name = reduce_op(source, axis)."""

    name: str
    op: str
    source: str
    axis: int


@dataclass(slots=True)
class Loop:
    """for token in 0 … (high - low) / step."""

    token: str
    low: Expr
    high: Expr
    step: Expr
    body: list[Item]
    name: str
    stages: int
    place: str | None


@dataclass(slots=True)
class Branch:
    """if condition."""

    condition: Expr
    body: list[Item]


Item = Access | Assign | Constant | Product | Reduction | Loop | Branch
