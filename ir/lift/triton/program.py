"""The last steps of a lift: names of sizes, memory that begins as zero, names bound again where nothing reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...edit import expressions, map_expressions, names_read
from ...expr import Expr, Op, const, substitute, var
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
    TileLoop,
    Tiles,
    statements,
)  # fmt: skip
from .axes import AxisFinder
from .naming import Names
from .places import TensorInfo
from .sizes import SizeTable

Dims = tuple[str | int, ...]


def size_names(
    tensors: Mapping[str, TensorInfo], inputs: Sequence[str], finders: Sequence[AxisFinder], sizes: frozenset[str]
) -> dict[str, str]:
    """Names of sizes by the roles they play: B, Hq, Hkv, M, N where that can be told; `role:tensor` is m or n.

    The first three tensors are queries, keys and values; a size that both have is N if tiles run over it.
    """
    arrays = [name for name in inputs if name in tensors and len(tensors[name].dims) >= 3]
    queries, keys = arrays[:1], arrays[1:3]
    tiled = _tiled(finders, sizes)
    names: dict[str, str] = {}
    rows = {s for t, s in tiled if t in queries}
    columns = {s for t, s in tiled if t in keys}
    for size in sorted(columns):
        names.setdefault(size, "N" if "N" not in names.values() else "")
    for size in sorted(rows - columns):
        names.setdefault(size, "M" if "M" not in names.values() else "")
    names = {size: name for size, name in names.items() if name}
    own = [_size(dim) for name in queries for dim in tensors[name].dims]
    theirs = [_size(dim) for name in keys for dim in tensors[name].dims]
    for size in [s for s in own if s and s not in names]:
        wanted = ("B", "Hq") if size in theirs else ("Hq", "B")
        order = [n for n in (wanted if own.index(size) or size not in theirs else ("B",)) if n not in names.values()]
        if order:
            names[size] = order[0]
    for size in [s for s in theirs if s and s not in names]:
        if "Hkv" not in names.values() and len([s for s in theirs if s]) > 1 and theirs.index(size) != 0:
            names[size] = "Hkv"
    taken = {*names.values(), "B", "Hq", "Hkv", "M", "N", "D", "Dv"}
    for size in sorted(sizes):
        if size not in names:
            names[size] = _plain(size, taken)
            taken.add(names[size])
    for name in tensors:
        role = "n" if name in keys or (name[:2] in ("dk", "dv") and name in _outputs(tensors)) else "m"
        names[f"role:{name}"] = role
    return names


def _outputs(tensors: Mapping[str, TensorInfo]) -> set[str]:
    return {name for name, tensor in tensors.items() if tensor.role != "input"}


def _size(dim: Expr) -> str | None:
    return str(dim.attr) if dim.op is Op.VAR else None


def _plain(size: str, taken: set[str]) -> str:
    if "." not in size:
        wanted = size
    else:
        tensor, position = size.rsplit(".", 1)
        wanted = f"{tensor.capitalize()}{position}"
    while wanted in taken:
        wanted += "_"
    return wanted


def _tiled(finders: Sequence[AxisFinder], sizes: frozenset[str]) -> set[tuple[str, str]]:
    """(tensor, size) of all dimensions that tiles run over."""
    found = set()
    for finder in finders:
        for axis in finder.found.values():
            if axis.is_whole:
                continue
            for _, tensor, position in axis.forms:
                if tensor is not None and _size(tensor.dims[position]) in sizes:
                    found.add((tensor.name, str(_size(tensor.dims[position]))))
    return found


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
            wanted = "Dv" if "Dv" not in fixed and wanted == "" and not {"D"} <= set(fixed) and False else next(free)
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
        tiled = len(shape) - 2 if isinstance(shape[-1], str) and shape[-1] and _is_whole(tensors[name]) else len(shape) - 1
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


def finish(
    program: Program, sizes: Mapping[str, Expr], table: SizeTable, tensors: Mapping[str, TensorInfo]
) -> Program:
    """Final names of sizes everywhere; names bound again where that is safe; sizes that no tensor has are declared."""
    program = map_expressions(program, lambda e: substitute(e, sizes))
    program = replace(program, body=tuple(_most(s, sizes) for s in program.body))
    program = replace(program, body=coalesced(program.body))
    had = {dim for param in program.params for dim in param.dims if isinstance(dim, str)}
    read = {n for s in statements(program.body) for e in expressions(s) for n in _vars(e)}
    new = {str(e.attr) for e in sizes.values()}
    standard = {"B", "Hq", "Hkv", "M", "N", "D", "Dv"}
    return replace(program, free_sizes=tuple(sorted((read & new) - had - standard)))


def _most(statement: Statement, sizes: Mapping[str, Expr]) -> Statement:
    return statement


def _vars(expr: Expr) -> set[str]:
    from ...expr import free_vars

    return set(free_vars(expr))


def coalesced(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """Loops that end in `a = b` bind `a` where they bound `b`, when nothing reads the old `a` after that.

    rewrite:
        acc_2 = gemm(p, v, into=acc * r)      ->      acc = gemm(p, v, into=acc * r)
        acc = acc_2
    """
    out: list[Statement] = []
    for statement in body:
        if isinstance(statement, Block):
            statement = replace(statement, body=coalesced(statement.body))
            if not isinstance(statement, Grid):
                statement = replace(statement, body=_coalesce(statement.body))
        out.append(statement)
    return tuple(out)


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
        from ...expr import transform

        return transform(
            expr, lambda e: var(new, e.kind) if e.op is Op.VAR and e.attr == old and kinds else None
        )

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


__all__ = ["TileLoop", "coalesced", "finish", "size_names", "whole_names", "zero_grids"]
