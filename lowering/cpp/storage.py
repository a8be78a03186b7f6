"""Where tiles live in a C++ kernel: element types, strides, and which tiles are only names for memory elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ir.dtypes import DType, Kind
from ...ir.edit import names_read
from ...ir.errors import LoweringError
from ...ir.expr import Op
from ...ir.printer import print_statement
from ...ir.program import All, Alloc, Gemm, Load, Program, ReduceAdd, Ref, Statement, Store, statements
from ...ir.shapes import Shapes

LANES = 16  # rows and columns of tile buffers are padded to the widest vector
DEEPEST = 32  # no product pads its inner dimension to more
ORDERS = ("rows", "columns", "tiles", "upended")
FLOATS = (DType.F32, DType.F16)  # what is multiplied as float32 on every instruction set
ALL_FLOATS = (*FLOATS, DType.BF16)  # and on those without products of bfloat16
FEW_ROWS = 16  # tiles of so few rows may read a right operand where it lies
C_TYPE = {
    DType.F64: "double", DType.F32: "float", DType.BF16: "bf16", DType.F16: "f16", DType.I64: "std::int64_t",
    DType.I32: "std::int32_t", DType.I16: "std::int16_t", DType.I8: "std::int8_t", DType.U8: "std::uint8_t",
    DType.BOOL: "bool",
}  # fmt: skip


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not smaller."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True, slots=True)
class Packed:
    """Blocks of `block` rows: packed for products along the "rows" or along the "columns"; "tiles", each block row by
    row, for operands from either side and for sums; "upended", each column by column, for sums of transposed tiles."""

    order: str
    block: int

    @staticmethod
    def parse(alloc: Alloc) -> Packed | None:
        """The layout of an Alloc, None for plain rows; LoweringError for one that the CPU does not know."""
        if alloc.layout == "rows":
            return None
        order, _, block = alloc.layout.partition(":")
        if order not in ORDERS or not block.isdigit() or int(block) == 0:
            layouts = ", ".join(f"{name}:T" for name in ORDERS)
            raise LoweringError(f"{print_statement(alloc)}: the cpu target has layouts rows, {layouts}")
        return Packed(order, int(block))


@dataclass(slots=True)
class Storage:
    """The plan of all tiles of a program."""

    shapes: Shapes
    floats: tuple[DType, ...] = FLOATS  # what is multiplied as float32
    packed: dict[str, Packed] = field(default_factory=dict)  # buffers
    operand: dict[str, DType] = field(default_factory=dict)  # tiles read by products, with their element type
    left: set[str] = field(default_factory=set)  # tiles read by products from the left
    right: dict[str, str] = field(default_factory=dict)  # tiles read by products from the right -> order
    others: set[str] = field(default_factory=set)  # tiles read in any other way
    streamed: set[str] = field(default_factory=set)  # right operands that products read where they lie
    turned: set[str] = field(default_factory=set)  # left operands kept with their axes exchanged: the shared one last
    upended: dict[str, int] = field(default_factory=dict)  # buffers of blocks of so many rows, each column by column
    tiled: dict[str, int] = field(default_factory=dict)  # buffers of blocks of so many rows, each row by row
    plain: dict[str, int] = field(default_factory=dict)  # operands that lie in tiled memory, with their width
    summed: dict[str, ReduceAdd] = field(default_factory=dict)  # products that go straight into what they are added to

    def c_type(self, name: str) -> str:
        """Element type of a tile's buffer."""
        if name in self.operand and name not in self.others:
            return f"operand<{C_TYPE[self.operand[name]]}>"
        kind = self.shapes.names[name].dtype.kind
        return {Kind.FLOAT: "float", Kind.INT: "std::int32_t", Kind.BOOL: "bool"}[kind]

    def stride(self, name: str) -> str:
        """C++ text of the elements from one row of a tile's buffer to the next."""
        extent = self.shapes.extent(self.axes(name)[-1])
        if name in self.left:
            return f"padded_depth<{C_TYPE[self.operand[name]]}>({extent})"
        return str(round_up(extent, LANES))

    def axes(self, name: str) -> tuple[str, ...]:
        """Axes of a tile's buffer, rows first."""
        axes = self.shapes.names[name].axes
        return axes[::-1] if name in self.turned else axes

    def is_padded(self, name: str) -> bool:
        """Whether a left operand's rows may be longer than its axis, by zeros that products read."""
        return name in self.left and self.shapes.extent(self.axes(name)[-1]) % DEEPEST != 0

    def rows(self, name: str) -> int:
        """Rows of a tile's buffer, padded."""
        return round_up(self.shapes.extent(self.axes(name)[0]), LANES)

    def step_of(self, name: str, axis: str) -> str:
        """C++ text of the elements from one index along an axis of a left operand to the next."""
        if axis == self.axes(name)[-1]:
            return "1"
        return str(self.plain[name]) if name in self.plain else self.stride(name)

    def vectors(self, axis: str) -> str:
        """C++ text of how many vectors cover an axis."""
        return f"{round_up(self.shapes.extent(axis), LANES)} / W"


def plan_storage(program: Program, shapes: Shapes, floats: tuple[DType, ...] = FLOATS) -> Storage:
    """Decide element types and layouts of every tile. Raises LoweringError for what has no CPU form.

    floats: what the instruction set multiplies as float32.
    """
    plan = Storage(shapes, floats)
    loads = {s.name: s for s in statements(program.body) if isinstance(s, Load)}
    for statement in statements(program.body):
        if isinstance(statement, Alloc):
            layout = Packed.parse(statement)
            if layout is not None and layout.order in ("upended", "tiles"):
                blocks = plan.upended if layout.order == "upended" else plan.tiled
                blocks[statement.name] = layout.block
            elif layout is not None:
                plan.packed[statement.name] = layout
        if isinstance(statement, Gemm):
            _plan_gemm(statement, plan, loads)
        elif not is_packing(statement, plan):
            plan.others |= names_read(statement)
    plan.streamed = _streamed(program, plan)
    plan.summed = _summed(program, plan)
    _check_operands(program, plan)
    return plan


def _check_operands(program: Program, plan: Storage) -> None:
    """What is kept in one way only is read in that way only."""
    for statement in statements(program.body):
        if not isinstance(statement, Gemm):
            continue
        if statement.left in plan.turned & (plan.others | set(plan.right)):
            reason = "on the cpu a left operand has the shared axis last, or is loaded for this product alone"
            raise LoweringError(f"{print_statement(statement)}: {reason}")
        right = str(statement.right)
        if right in plan.plain and (plan.right[right] != "rows" or plan.operand[right] not in plan.floats):
            raise LoweringError(f"{print_statement(statement)}: memory in tiles is read along its rows, as float32")


def _summed(program: Program, plan: Storage) -> dict[str, ReduceAdd]:
    """Products that are only added to a whole tile of memory, which lies as they do."""
    products = {s.name: s for s in statements(program.body) if isinstance(s, Gemm) and s.into is None}
    readers: dict[str, list[Statement]] = {}
    for statement in statements(program.body):
        for name in names_read(statement) & products.keys():
            readers.setdefault(name, []).append(statement)
    found = {}
    for name, users in readers.items():
        add = users[0]
        is_alone = len(users) == 1 and isinstance(add, ReduceAdd) and add.value.op is Op.VAR
        if is_alone and isinstance(add, ReduceAdd) and add.target.name in plan.tiled:
            axes = plan.shapes.names[name].axes
            width = plan.shapes.extent(axes[-1])
            if axes == plan.shapes.ref_axes(add.target) and width % LANES == 0:
                found[name] = add
    return found


def _streamed(program: Program, plan: Storage) -> set[str]:
    """Right operands that only products of few rows read, rows of which lie in memory as they are."""
    found = {s.name for s in statements(program.body) if isinstance(s, Load) and _lies_plain(s, plan)}
    products = [s for s in statements(program.body) if isinstance(s, Gemm)]
    many = {s.right for s in products if plan.shapes.extent(plan.shapes.names[s.name].axes[0]) > FEW_ROWS}
    return {name for name in found - many - plan.others if name in plan.right}


def _lies_plain(load: Load, plan: Storage) -> bool:
    last = load.source.indices[-1:]
    return load.source.name not in plan.packed and last == (All(),)


def is_packing(statement: object, plan: Storage) -> bool:
    """Whether a statement stores a whole tile into packed memory."""
    if not isinstance(statement, Store) or statement.value.op is not Op.VAR:
        return False
    return statement.target.name in {**plan.packed, **plan.tiled}


def _plan_gemm(statement: Gemm, plan: Storage, loads: Mapping[str, Load]) -> None:
    left, right, shapes = statement.left, statement.right, plan.shapes
    if isinstance(left, Ref) or isinstance(right, Ref) or statement.is_async:
        raise LoweringError(f"{print_statement(statement)}: the cpu target multiplies loaded tiles, at once")
    for name in (left, right):
        if name in loads and loads[name].source.name in plan.tiled:
            plan.plain[name] = shapes.extent(shapes.names[name].axes[-1])
    result = shapes.names[statement.name].axes
    order = "rows" if shapes.names[right].axes[-1] in result else "columns"
    if plan.right.setdefault(right, order) != order:
        raise LoweringError(f"{right} is multiplied along both of its axes; load it twice under two names")
    is_turned = shapes.names[left].axes[-1] in result
    is_copied = left in loads and left not in plan.plain
    if is_copied and left in plan.left and is_turned != (left in plan.turned):
        raise LoweringError(f"{left} is multiplied along both of its axes from the left; load it twice under two names")
    if is_turned and is_copied:
        plan.turned.add(left)
    elif is_turned and shapes.names[left].dtype not in plan.floats:
        reason = "on the cpu a left operand has the shared axis last, or is loaded for this product alone"
        raise LoweringError(f"{print_statement(statement)}: {reason}")
    dtypes = {shapes.names[left].dtype, shapes.names[right].dtype}
    dtype = dtypes.pop() if len(dtypes) == 1 else DType.F32
    for name in (left, right):
        if plan.operand.setdefault(name, dtype) is not dtype:
            raise LoweringError(f"{print_statement(statement)}: {name} is multiplied in two element types")
    plan.left.add(left)
