"""Canonical text of expressions, programs and specs: restricted Python that `parser.py` reads back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .dtypes import DType, Kind
from .expr import Expr, Op, const, free_vars, walk
from .program import (
    All,
    Alloc,
    Arrive,
    Barriers,
    Block,
    Commit,
    Copy,
    Fill,
    Gemm,
    Grid,
    If,
    Index,
    Let,
    Load,
    Operand,
    Param,
    Program,
    RangeLoop,
    Reduce,
    ReduceAdd,
    Ref,
    Region,
    RegionParam,
    Role,
    ScatterAdd,
    Statement,
    Store,
    Sync,
    TileAt,
    TileAxis,
    TileLoop,
    Tiles,
    Wait,
    WaitGroup,
)  # fmt: skip
from .sharing import numbered_names, shared_parts
from .spec import (
    MASK_PARAMETERS,
    SCORE_PARAMETERS,
    AttentionSpec,
    Dim,
    NormaliserKind,
    TensorSpec,
)  # fmt: skip

Path = tuple[int, ...]

# Binding strength of Python's operators, weakest first.
COMPARE, OR, XOR, AND, SHIFT, SUM, TERM, UNARY, ATOM = range(9)

INFIX: dict[Op, tuple[str, int]] = {
    Op.LT: ("<", COMPARE), Op.LE: ("<=", COMPARE), Op.EQ: ("==", COMPARE), Op.NE: ("!=", COMPARE),
    Op.OR: ("|", OR), Op.BITOR: ("|", OR), Op.XOR: ("^", XOR), Op.BITXOR: ("^", XOR),
    Op.AND: ("&", AND), Op.BITAND: ("&", AND), Op.SHL: ("<<", SHIFT), Op.SHR: (">>", SHIFT),
    Op.ADD: ("+", SUM), Op.SUB: ("-", SUM),
    Op.MUL: ("*", TERM), Op.DIV: ("/", TERM), Op.FLOORDIV: ("//", TERM), Op.MOD: ("%", TERM),
}  # fmt: skip


def print_expr(expr: Expr) -> str:
    """The expression in Python syntax with the fewest parentheses."""
    return _expr(expr, COMPARE)


def _expr(expr: Expr, context: int) -> str:
    text, strength = _expr_strength(expr)
    return f"({text})" if strength < context else text


def _expr_strength(expr: Expr) -> tuple[str, int]:
    op, args = expr.op, expr.args
    if op in INFIX:
        symbol, strength = INFIX[op]
        left_context = strength + 1 if strength == COMPARE else strength
        return f"{_expr(args[0], left_context)} {symbol} {_expr(args[1], strength + 1)}", strength
    if op is Op.NOT:
        return f"~{_expr(args[0], UNARY)}", UNARY
    if op is Op.NEG and args[0].op is not Op.CONST:
        return f"-{_expr(args[0], UNARY)}", UNARY
    if op is Op.CONST:
        text = repr(expr.attr)
        return text, UNARY if text.startswith("-") else ATOM
    return _atom(expr), ATOM


def _atom(expr: Expr) -> str:
    inner = ", ".join(print_expr(arg) for arg in expr.args)
    if expr.op is Op.VAR:
        return str(expr.attr)
    if expr.op is Op.INDEX:
        return f"index({expr.attr})"
    if expr.op is Op.LOAD:
        return f"{expr.attr}[{inner or '()'}]"
    if expr.op is Op.CALL:
        return f"{expr.attr}({inner})"
    if expr.op is Op.CAST:
        assert isinstance(expr.attr, DType)
        return f"{expr.attr.value}({inner})"
    return f"{expr.op.value}({inner})"


# Programs


@dataclass(slots=True)
class Listing:
    """A program's lines, and the (1-based) line on which each statement begins, by its path in the body."""

    lines: list[str] = field(default_factory=list)
    statement_lines: dict[Path, int] = field(default_factory=dict)
    region_lines: dict[str, int] = field(default_factory=dict)

    def add(self, depth: int, text: str) -> int:
        """Append a line; its number."""
        self.lines.append("    " * depth + text)
        return len(self.lines)

    def line(self, path: Path) -> str:
        """The text of a statement's first line, without indentation."""
        return self.lines[self.statement_lines[path] - 1].strip()


def print_program(program: Program) -> str:
    """Canonical text; `parse_program` of it gives an equal program."""
    return "\n".join(listing(program).lines) + "\n"


def listing(program: Program) -> Listing:
    """The canonical text with a map from statements to lines."""
    out = Listing()
    out.add(0, f"@program({_sizes(program)})")
    out.add(0, f"def {program.name}(")
    for param in program.params:
        out.add(1, f"{param.name}: {_param_type(param)},")
    out.add(0, "):")
    for region in program.regions:
        _add_region(out, region)
    _add_body(out, program.body, 1, ())
    return out


def _sizes(program: Program) -> str:
    fixed = [f"{name}={value}" for name, value in program.sizes]
    return ", ".join([*fixed, *(f"{name}=size" for name in program.free_sizes)])


def _param_type(param: Param) -> str:
    text = _tensor_type(param.dtype, param.dims)
    return f"out({text})" if param.is_output else text


def _tensor_type(dtype: DType, dims: tuple[Dim, ...]) -> str:
    return f"{dtype.value}[{', '.join(str(dim) for dim in dims) or '()'}]"


def _add_region(out: Listing, region: Region) -> None:
    params = ", ".join(f"{p.name}: {p.kind.value}" for p in region.params)
    out.region_lines[region.name] = out.add(1, f"def {region.name}({params}):")
    taken = free_vars(region.body) | {str(node.attr) for node in walk(region.body) if node.op in (Op.LOAD, Op.CALL)}
    bindings, result = shared_parts(region.body, numbered_names(taken).__next__)
    for name, value in bindings:
        out.add(2, f"{name} = {print_expr(value)}")
    out.add(2, f"return {print_expr(result)}")
    out.add(0, "")


def _add_body(out: Listing, body: tuple[Statement, ...], depth: int, path: Path) -> None:
    for position, statement in enumerate(body):
        here = (*path, position)
        out.statement_lines[here] = out.add(depth, print_statement(statement))
        if isinstance(statement, Block):
            _add_body(out, statement.body, depth + 1, here)


def print_statement(statement: Statement) -> str:
    """A statement's own line (of a block, its header)."""
    return _STATEMENTS[type(statement)](statement)


def print_ref(ref: Ref) -> str:
    """`name[indices]`."""
    return f"{ref.name}[{', '.join(_index(i) for i in ref.indices) or '()'}]"


def _index(item: Index) -> str:
    if isinstance(item, All):
        return ":"
    return item.name if isinstance(item, TileAxis) else print_expr(item)


def _operand(operand: Operand) -> str:
    return operand if isinstance(operand, str) else print_ref(operand)


def _optional(value: Expr | None) -> str | None:
    return None if value is None else print_expr(value)


def _tiles(tiles: Tiles) -> str:
    return _call("tiles", print_expr(tiles.extent), str(tiles.tile), most=_optional(tiles.most))


def _call(name: str, *args: str | None, **options: object) -> str:
    """`name(args, option=…)`, leaving out what is None."""
    parts = [arg for arg in args if arg is not None]
    parts += [f"{key}={value}" for key, value in options.items() if value is not None]
    return f"{name}({', '.join(parts)})"


def _quoted(value: str, default: str | None = None) -> str | None:
    return None if value == default else f'"{value}"'


def _alloc(s: Alloc) -> str:
    kind = f"{s.dtype.value}[{', '.join(print_expr(d) for d in s.dims) or '()'}]"
    return f"{s.name} = " + _call("alloc", kind, space=_quoted(s.space), layout=_quoted(s.layout, "rows"))


def _fill(s: Fill) -> str:
    kind = f"{s.dtype.value}[{', '.join(s.axes) or '()'}]"
    if s.value is const(0.0):
        return f"{s.name} = zeros({kind})"
    return f"{s.name} = full({kind}, {print_expr(s.value)})"


def _gemm(s: Gemm) -> str:
    word = "gemm_async" if s.is_async else "gemm"
    return f"{s.name} = " + _call(word, _operand(s.left), _operand(s.right), into=_optional(s.into))


def _load(s: Load) -> str:
    space = _quoted(s.space, "register")
    return f"{s.name} = " + _call("load", print_ref(s.source), space=space, where=_optional(s.where))


def _copy(s: Copy) -> str:
    signal = None if s.signal is None else print_ref(s.signal)
    name = "copy_async" if s.is_async else "copy"
    return _call(name, print_ref(s.target), print_ref(s.source), signal=signal)


def _reduce_add(s: ReduceAdd) -> str:
    return _call("reduce_add", print_ref(s.target), print_expr(s.value), after=_optional(s.after))


def _grid(s: Grid) -> str:
    extents = [_tiles(e) if isinstance(e, Tiles) else print_expr(e) for e in s.extents]
    header = _call("grid", *extents, order=_quoted(s.order, "ascending"), warps=s.warps)
    return f"for {', '.join(s.names)} in {header}:"


def _tile_loop(s: TileLoop) -> str:
    header = _call(
        "tiles", print_expr(s.tiles.extent), str(s.tiles.tile), most=_optional(s.tiles.most),
        where=_optional(s.where), part=_quoted(s.part, "any"),
        order=_quoted(s.order, "ascending"), stages=None if s.stages == 1 else s.stages,
    )  # fmt: skip
    return f"for {s.name} in {header}:"


def _range_loop(s: RangeLoop) -> str:
    header = _call("range", print_expr(s.start), print_expr(s.stop), stages=None if s.stages == 1 else s.stages)
    return f"for {s.name} in {header}:"


def _role(s: Role) -> str:
    header = _call(
        "role", _quoted(s.kind), warps=s.warps, count=None if s.count == 1 else s.count, registers=s.registers
    )
    return f"with {header}{f' as {s.worker}' if s.worker else ''}:"


_STATEMENTS: dict[type, Callable[[Any], str]] = {
    Alloc: _alloc,
    Barriers: lambda s: f"{s.name} = barriers({s.count}, arrivals={s.arrivals})",
    Load: _load,
    Store: lambda s: _call("store", print_ref(s.target), print_expr(s.value), where=_optional(s.where)),
    Copy: _copy,
    ReduceAdd: _reduce_add,
    ScatterAdd: lambda s: _call("scatter_add", print_ref(s.target), print_expr(s.value), where=_optional(s.where)),
    Fill: _fill,
    Let: lambda s: f"{s.name} = {print_expr(s.value)}",
    Gemm: _gemm,
    Reduce: lambda s: f"{s.name} = reduce_{s.op}({s.source}, axis={s.axis})",
    TileAt: lambda s: f"{s.name} = tile({print_expr(s.tiles.extent)}, {s.tiles.tile}, {print_expr(s.number)})",
    Commit: lambda s: "commit()",
    WaitGroup: lambda s: f"wait_group({s.pending})",
    Arrive: lambda s: f"arrive({print_ref(s.barrier)})",
    Wait: lambda s: f"wait({print_ref(s.barrier)}, phase={print_expr(s.phase)})",
    Sync: lambda s: "sync()",
    Grid: _grid,
    TileLoop: _tile_loop,
    RangeLoop: _range_loop,
    If: lambda s: f"if {print_expr(s.condition)}:",
    Role: _role,
}


# Specs


def print_spec(spec: AttentionSpec) -> str:
    """Canonical text of a spec; `parse_spec` of it gives an equal spec."""
    out = Listing()
    out.add(0, f"@attention(D={spec.head_dim}, Dv={spec.value_dim}, group={spec.group})")
    out.add(0, f"def {spec.name}(")
    for tensor in spec.tensors:
        out.add(1, f"{tensor.name}: {_spec_type(tensor)},")
    out.add(0, "):")
    score_params = tuple(RegionParam(n, Kind.FLOAT if n == "s" else Kind.INT) for n in SCORE_PARAMETERS)
    mask_params = tuple(RegionParam(n, Kind.INT) for n in MASK_PARAMETERS)
    _add_region(out, Region("score", score_params, spec.score))
    _add_region(out, Region("keep", mask_params, spec.keep))
    if spec.normaliser.weight is not None:
        _add_region(out, Region("weight", score_params, spec.normaliser.weight))
    if spec.normaliser.after is not None:
        _add_region(out, Region("after", mask_params, spec.normaliser.after))
    if spec.requires is not const(True):
        _add_region(out, Region("requires", (), spec.requires))
    out.add(1, f"return {_normaliser(spec)}")
    return "\n".join(out.lines) + "\n"


def _spec_type(tensor: TensorSpec) -> str:
    return _tensor_type(tensor.dtype, tensor.dims)


def _normaliser(spec: AttentionSpec) -> str:
    rule = spec.normaliser
    epsilon = repr(rule.epsilon) if rule.kind is NormaliserKind.ROW_SUM else None
    return _call(rule.kind.value, sink=_optional(rule.sink), epsilon=epsilon)
