"""The last steps of a lift: names of sizes, memory that begins as zero, names bound again where nothing reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...edit import expressions, map_expressions, names_read
from ...expr import Expr, Op, const, free_vars, substitute, transform, var, walk
from ...program import (
    All,
    Block,
    Fill,
    Gemm,
    Grid,
    Let,
    Load,
    Program,
    Reduce,
    ReduceAdd,
    Ref,
    Statement,
    Store,
    TileAxis,
    Tiles,
    statements,
)  # fmt: skip
from .axes import AxisFinder, accesses_of
from .naming import Names
from .places import TensorInfo, axis_terms
from .sizes import SizeTable

Dims = tuple[str | int, ...]


def size_names(
    tensors: Mapping[str, TensorInfo], inputs: Sequence[str], finders: Sequence[AxisFinder], sizes: frozenset[str]
) -> dict[str, str]:
    """Names of sizes by the roles they play: B, Hq, Hkv, M, N where that can be told; `role:tensor` is m or n.

    The first three tensors of rank 3 or more are queries, keys and values. Rows of queries that tiles run over are M,
    rows of keys N (N too where they are one size); rows that lie at computed places are counted by names of their own.
    """
    arrays = [name for name in inputs if name in tensors and len(tensors[name].dims) >= 3]
    queries, keys = arrays[:1], arrays[1:3]
    tiled, computed = _tiled(finders, sizes)
    names: dict[str, str] = {}
    _name_first(names, sorted({s for t, s in tiled if t in keys}), "N")
    _name_first(names, sorted({s for t, s in tiled if t in queries} - set(names)), "M")
    for tensor, wanted in ((queries, ("Tq",)), (keys, ("Slots", "Page"))):
        for size in [s for t in tensor for s in _sizes(tensors[t]) if s not in names and (t, s) in computed]:
            shared = any((t, size) in computed for t in (queries if tensor is keys else keys))
            _name_first(names, [size], *(("T",) if shared else wanted if len(tensors[tensor[0]].dims) > 3 or
                                         tensor is queries else ("Tk",)))  # fmt: skip
    own = [s for name in queries for s in _sizes(tensors[name]) if s not in names]
    theirs = [s for name in keys for s in _sizes(tensors[name]) if s not in names]
    for size in own:
        _name_first(names, [size], *(("B", "Hq") if len(own) > 1 else ("Hq",)))
    for size in theirs:
        _name_first(names, [size], "Hkv", "B")
    taken = {*names.values(), "B", "Hq", "Hkv", "M", "N", "D", "Dv"}
    for size in sorted(sizes - set(names)):
        names[size] = _plain(size, taken, "M" not in names.values() and _is_most(size, finders))
        taken.add(names[size])
    for name in tensors:
        is_key = name in keys or (name[:2] in ("dk", "dv") and tensors[name].role != "input")
        names[f"role:{name}"] = "n" if is_key else "m"
    return names


def _name_first(names: dict[str, str], sizes: Sequence[str], *wanted: str) -> None:
    """Give the first name that is free to the first size that has none."""
    for size in sizes:
        free = [name for name in wanted if name not in names.values()]
        if size not in names and free:
            names[size] = free[0]


def _sizes(tensor: TensorInfo) -> list[str]:
    return [str(dim.attr) for dim in tensor.dims if dim.op is Op.VAR]


def _is_most(size: str, finders: Sequence[AxisFinder]) -> bool:
    """Whether a size that no tensor has counts the tiles of a grid."""
    return "." not in size and any(
        size in free_vars(extent) for finder in finders for extent in finder.reader.integers.extents.values()
    )


def _plain(size: str, taken: set[str], is_rows: bool) -> str:
    if "." not in size:
        wanted = "M" if is_rows else size
        return wanted if is_rows or wanted not in taken else f"{wanted}_"
    tensor, position = size.rsplit(".", 1)
    wanted = f"{tensor.capitalize()}{position}"
    while wanted in taken:
        wanted += "_"
    return wanted


def _tiled(finders: Sequence[AxisFinder], sizes: frozenset[str]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """(tensor, size) of all dimensions that tiles run over from 0, and of those whose indices are computed."""
    direct: set[tuple[str, str]] = set()
    computed: set[tuple[str, str]] = set()
    for finder in finders:
        for access in accesses_of(finder.reader.body):
            tensor = finder.tensors[access.tensor]
            for dim, item in zip(tensor.dims, access.indices, strict=True):
                index = finder.reader.integers.poly(item)
                is_looked_up = any(node.op is Op.LOAD for term in index for atom in term for node in walk(atom))
                if is_looked_up and not axis_terms(index) and str(dim.attr) in sizes:
                    computed.add((tensor.name, str(dim.attr)))
                for token in axis_terms(index):
                    axis = finder.axis(token)
                    if axis.is_whole or str(dim.attr) not in sizes:
                        continue
                    inner = {node.op for term in index for atom in term for node in walk(atom)}
                    is_remainder = item.op is Op.MOD and item.args[1] is dim
                    start = {(var(token),): 1} | {t: c * axis.width for t, c in axis.number.items()}
                    if axis.number and index == start:
                        direct.add((tensor.name, str(dim.attr)))
                    elif Op.LOAD in inner or (is_remainder and _reads_tables(access.indices)):
                        computed.add((tensor.name, str(dim.attr)))
                    elif is_remainder or (axis.number and index.get((var(token),)) == 1):
                        direct.add((tensor.name, str(dim.attr)))
    return direct, computed - direct


def _reads_tables(indices: Sequence[Expr]) -> bool:
    return any(node.op is Op.LOAD for item in indices for node in walk(item))


def whole_names(
    tensors: Mapping[str, TensorInfo], inputs: Sequence[str], finders: Sequence[AxisFinder]
) -> tuple[dict[tuple[str, int], str], dict[str, int]]:
    """Names of the dimensions that `:` stands for, one for those that meet in one axis, and their sizes."""
    groups: list[set[tuple[str, int]]] = []
    for finder in finders:
        for axis in finder.found.values():
            if axis.whole:
                merged = set(axis.whole)
                apart = [group for group in groups if not group & merged]
                for group in groups:
                    if group & merged:
                        merged |= group
                groups = [*apart, merged]
    arrays = [name for name in inputs if name in tensors]
    names: dict[tuple[str, int], str] = {}
    fixed: dict[str, int] = {}
    free = iter(("E", "F", "G", "P", "R", "S", "T", "U"))
    keys = [arrays[n] if n < len(arrays) else "" for n in (0, 1, 2)]
    for group in sorted(groups, key=sorted):
        has = {name for name, _ in group}
        wanted = "D" if has & set(keys[:2]) else "Dv" if keys[2] in has else ""
        if not wanted or wanted in fixed:
            wanted = next(free)
        tensor, position = next(iter(group))
        fixed[wanted] = int(tensors[tensor].dims[position].attr)  # type: ignore[call-overload]
        names |= dict.fromkeys(group, wanted)
    return names, fixed


def zero_grids(
    tensors: Mapping[str, TensorInfo], dims: Mapping[str, Dims], grids: Sequence[Statement], names: Names
) -> list[Statement]:
    """Grids that clear the memory that kernels add to, which the launcher made of zeros."""
    added = {s.target.name for s in statements(tuple(grids)) if isinstance(s, ReduceAdd)}
    found: list[Statement] = []
    for name in sorted(added):
        if tensors[name].contents != "zero":
            continue
        variables: list[str] = []
        extents: list[Expr | Tiles] = []
        indices: list[Expr | TileAxis | All] = []
        shape = dims[name]
        tiled = (
            len(shape) - 2 if isinstance(shape[-1], str) and shape[-1] and _is_whole(tensors[name]) else len(shape) - 1
        )
        for position, dim in enumerate(shape):
            size = const(dim) if isinstance(dim, int) else var(dim)
            if position > tiled:
                indices.append(All())
                continue
            variable = names.fresh(f"z{position}")
            variables.append(variable)
            extents.append(Tiles(size, 64) if position == tiled else size)
            indices.append(TileAxis(variable) if position == tiled else var(variable))
        zero = const(0.0)
        found.append(Grid(tuple(variables), tuple(extents), (Store(Ref(name, tuple(indices)), zero),)))
    return found


def _is_whole(tensor: TensorInfo) -> bool:
    return tensor.dims[-1].op is Op.CONST and len(tensor.dims) > 1


def finish(program: Program, sizes: Mapping[str, Expr], table: SizeTable, tensors: Mapping[str, TensorInfo]) -> Program:
    """Final names of sizes everywhere; names bound again where that is safe; sizes that no tensor has are declared."""
    program = map_expressions(program, lambda e: substitute(e, sizes))
    program = replace(program, body=coalesced(program.body))
    had = {dim for param in program.params for dim in param.dims if isinstance(dim, str)}
    read = {n for s in statements(program.body) for e in expressions(s) for n in free_vars(e)}
    new = {str(e.attr) for e in sizes.values()}
    standard = {"B", "Hq", "Hkv", "M", "N", "D", "Dv"}
    return replace(program, free_sizes=tuple(sorted((read & new) - had - standard)))


def coalesced(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """Loops that end in `a = b` bind `a` where they bound `b`, when nothing reads the old `a` after that.

    rewrite:
        acc_2 = gemm(p, v, into=acc * r)      ->      acc = gemm(p, v, into=acc * r)
        acc = acc_2
    """
    return tuple(_coalesced_block(statement) for statement in body)


def _coalesced_block(statement: Statement) -> Statement:
    if not isinstance(statement, Block):
        return statement
    inner = coalesced(statement.body)
    return replace(statement, body=inner if isinstance(statement, Grid) else _coalesce(inner))


def _coalesce(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    items = list(body)
    position = len(items) - 1
    while position >= 0:
        last = items[position]
        if isinstance(last, Let) and last.value.op is Op.VAR and _is_tail(items, position):
            made = _maker(items, position, str(last.value.attr))
            if made is not None and not _reads(items[made + 1 : position], last.name) and not _binds(
                items[made:position], last.name
            ):  # fmt: skip
                old, new = str(last.value.attr), last.name
                items = [_renamed(s, old, new) for s in items[:position]] + [
                    _renamed(s, old, new) for s in items[position + 1 :]
                ]
        position -= 1
    return tuple(items)


def _is_tail(items: Sequence[Statement], position: int) -> bool:
    return all(isinstance(s, Let) for s in items[position:])


def _maker(items: Sequence[Statement], end: int, name: str) -> int | None:
    made = [n for n in range(end) if getattr(items[n], "name", None) == name and isinstance(
        items[n], (Let, Load, Fill, Gemm, Reduce))]  # fmt: skip
    return made[0] if len(made) == 1 else None


def _reads(items: Sequence[Statement], name: str) -> bool:
    return any(name in names_read(s) for s in statements(tuple(items)))


def _binds(items: Sequence[Statement], name: str) -> bool:
    return any(getattr(s, "name", None) == name for s in statements(tuple(items)))


def _renamed(statement: Statement, old: str, new: str) -> Statement:
    program = Program("x", (), (statement,))
    kinds = {old: var(new)}

    def rename(expr: Expr) -> Expr:

        return transform(expr, lambda e: var(new, e.kind) if e.op is Op.VAR and e.attr == old and kinds else None)

    (found,) = map_expressions(program, rename).body
    return _rename_operands(found, old, new)


def _rename_operands(statement: Statement, old: str, new: str) -> Statement:
    if isinstance(statement, Block):
        return replace(statement, body=tuple(_rename_operands(s, old, new) for s in statement.body))
    if isinstance(statement, (Let, Load, Fill, Gemm, Reduce)) and statement.name == old:
        statement = replace(statement, name=new)
    if isinstance(statement, Gemm):
        left = new if statement.left == old else statement.left
        right = new if statement.right == old else statement.right
        return replace(statement, left=left, right=right)
    if isinstance(statement, Reduce) and statement.source == old:
        return replace(statement, source=new)
    return statement
