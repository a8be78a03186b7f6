"""Dense tensors as a program's own arguments, in whatever order, packed or paged, and its outputs back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...dtypes import Kind
from ...edit import expressions, references
from ...evaluate import Array
from ...expr import Expr, Op, loads
from ...program import Let, Param, Program, statements

if TYPE_CHECKING:
    from ..recognise import Recognised

PAGE = 4
AXES = {"batch": 0, "head": 1, "row": 2, "feature": 3}
Lengths = Sequence[tuple[int, int]]
CANONICAL = {"q": "q", "k": "k", "v": "v"}


def scatter(
    program: Program, found: Recognised, tensors: Mapping[str, Array], lengths: Lengths, *, is_raw: bool
) -> dict[str, Array]:
    """The program's arguments. `tensors`: q, k, v as [B, heads, rows, features] and the captured ones."""
    places = found.places
    own = {places.q: "q", places.k: "k", places.v: "v"} if is_raw else CANONICAL
    arguments: dict[str, Array] = _pieces(program, found, tensors, lengths) if is_raw else {}
    for param in program.params:
        if param.is_output or param.name in arguments:
            continue
        if param.name in own:
            name = own[param.name]
            values = tensors[name]
            if is_raw and places.more and name != "v":
                values = values[..., : values.shape[-1] - sum(piece.features for piece in places.more)]
            roles = _roles(name, param, found, is_raw=is_raw)
            arguments[param.name] = _laid(param, values, name, found, lengths, roles=roles)
            if found.places.table is not None and name != "q":
                arguments[param.name] = _filled(arguments[param.name], param.dims)
        elif param.name in tensors:
            arguments[param.name] = tensors[param.name]
        else:
            arguments[param.name] = _table(param, program, found, lengths)
    return arguments


def _pieces(
    program: Program, found: Recognised, tensors: Mapping[str, Array], lengths: Lengths
) -> dict[str, Array]:
    """The last features of q and k, where a program keeps them in tensors of their own."""
    arguments: dict[str, Array] = {}
    begin = found.spec.head_dim - sum(piece.features for piece in found.places.more)
    for piece in found.places.more:
        for name, own, roles in (("q", piece.q, piece.roles[0]), ("k", piece.k, piece.roles[1])):
            param = next(p for p in program.params if p.name == own)
            values = tensors[name][..., begin : begin + piece.features]
            values = values[:, :1] if "shared" in roles or "head" not in roles else values
            plain = ["head" if role == "shared" else role for role in roles]
            arguments[own] = _laid(param, values, name, found, lengths, roles=plain)
        begin += piece.features
    return arguments


def _roles(name: str, param: Param, found: Recognised, *, is_raw: bool) -> list[str]:
    """Roles of the dimensions of q, k, v or o in this program."""
    places = found.places
    if is_raw:
        return places.dims.get(param.name) or places.outputs[param.name]
    dense = ["batch", "head", "row", "feature"]
    if name in ("k", "v") and places.table is not None:
        return places.dims[places.k]
    if places.layout == "paged":
        return ["batch", "row", "head", "feature"]
    return ["place", "head", "feature"] if places.layout == "ragged" else dense


def _laid(
    param: Param, values: Array, name: str, found: Recognised, lengths: Lengths, *, roles: Sequence[str]
) -> Array:
    if "place" not in roles:
        moved = values.transpose([AXES[role] for role in roles] + [AXES[r] for r in AXES if r not in roles])
        return moved.reshape(moved.shape[: len(roles)])
    counts = [rows if name == "q" else columns for rows, columns in lengths]
    if name == "q" or found.places.table is None:
        rows = [values[b, :, :count].transpose(1, 0, 2) for b, count in enumerate(counts)]
        return np.concatenate(rows)
    size = _page_size(param, roles)
    pages = max(-(-count // size) for count in counts) or 1
    cache = np.full((len(counts) * pages, size, *values.shape[1::2]), np.nan)
    for b, count in enumerate(counts):
        for j in range(count):
            cache[_page(b, j // size, pages), j % size] = values[b, :, j]
    cache = cache.reshape(-1, *cache.shape[2:]) if size == 1 else cache
    axes = {"place": [0, 1][: roles.count("place")], "head": [cache.ndim - 2], "feature": [cache.ndim - 1]}
    return cache.transpose([axes[role].pop(0) for role in roles])


def _page_size(param: Param, roles: Sequence[str]) -> int:
    """Rows of a page of a cache: what the program says, else PAGE; 1 where rows are found one by one."""
    places = [dim for dim, role in zip(param.dims, roles, strict=True) if role == "place"]
    return 1 if len(places) == 1 else places[1] if isinstance(places[1], int) else PAGE


def _filled(cache: Array, dims: Sequence[str | int]) -> Array:
    """A cache of as many pages as the program says."""
    more = [(0, max(dim - have, 0) if isinstance(dim, int) else 0) for dim, have in zip(dims, cache.shape, strict=True)]
    return np.pad(cache, more, constant_values=np.nan) if cache.dtype.kind == "f" else cache


def _page(b: int, page: int, pages: int) -> int:
    """Where a page lies: sequences from the last to the first."""
    return b * pages + (pages - 1 - page)


def _table(param: Param, program: Program, found: Recognised, lengths: Lengths) -> Array:
    """Starts of sequences, tables of pages, lengths: what the program reads beside the spec's tensors."""
    rows, columns = ([pair[n] for pair in lengths] for n in (0, 1))
    size = 1
    if found.places.table is not None:
        cache = next(p for p in program.params if p.name in (found.places.k, "k") and not p.is_output)
        size = _page_size(cache, found.places.dims[found.places.k])
    if found.places.is_indirect:
        return _indirect(param, found, (rows, columns), size)
    if len(param.dims) == 2:
        pages = max(-(-count // size) for count in columns) or 1
        return np.array([[_page(b, page, pages) for page in range(pages)] for b in range(len(columns))])
    if found.places.layout == "paged":
        return np.array(columns)
    held = lengths_held(program)
    if param.name in held:
        return np.array(columns)
    start = found.places.start
    is_rows = start is not None and (param.name == start.attr or param.name == "cu_q")
    starts = np.cumsum([0, *(rows if is_rows else columns)])
    return starts[:-1] if param.dims in held.values() else starts  # without the end where lengths tell it


def _indirect(param: Param, found: Recognised, counts: tuple[Sequence[int], Sequence[int]], size: int) -> Array:
    """The table of a cache's rows or pages, the requests or starts that it is read by, and where queries start."""
    places, table = found.places, found.places.table
    assert table is not None
    rows, columns = counts
    pages = [-(-count // size) for count in columns]
    most = max(pages) or 1
    own = [[_page(b, page, most) for page in range(count)] for b, count in enumerate(pages)]
    if param.name == table.attr and len(table.args) == 1:
        return np.array([page for one in own for page in one])
    is_request = len(table.args) == 2 and bool(loads(table.args[0]))
    numbers = [len(own) - b if is_request else b for b in range(len(own))]  # row 0 is nobody's
    if param.name == table.attr:
        whole = np.zeros((len(own) + is_request, most), np.int64)
        for number, one in zip(numbers, own, strict=True):
            whole[number, : len(one)] = one
        return whole
    if is_request and param.name == table.args[0].attr:
        return np.array(numbers)
    is_query = places.start is not None and param.name in (places.start.attr, "cu_q")
    starts = np.cumsum([0, *(rows if is_query else pages)])
    return starts[:-1] if places.sizes.get(str(param.dims[0]), param.dims[0]) == "B" else starts


def lengths_held(program: Program) -> dict[str, tuple[str | int, ...]]:
    """Tensors of a packed program that hold lengths, with their dimensions: no place in memory is computed from them,
    and no difference of neighbours."""
    read = [node for s in statements(program.body) for e in expressions(s) for node in loads(e)]
    read += [node for region in program.regions for node in loads(region.body)]
    ends = {str(node.attr) for node in read if len(node.args) == 1 and node.args[0].op is Op.ADD}
    places = [i for s in statements(program.body) for ref in references(s) for i in ref.indices if isinstance(i, Expr)]
    places += [s.value for s in statements(program.body) if isinstance(s, Let) and s.value.op is Op.LOAD]
    starts = {str(node.attr) for e in places for node in loads(e)}
    return {
        param.name: param.dims for param in program.params
        if len(param.dims) == 1 and param.dtype.kind is Kind.INT and param.name not in ends | starts
    }  # fmt: skip


def gather(
    program: Program, found: Recognised, outputs: Mapping[str, Array], shape: tuple[int, ...], lengths: Lengths,
    *, is_raw: bool,
) -> Array:  # fmt: skip
    """The output as [B, Hq, M, Dv], rows past a sequence's end zero."""
    name = next(n for n, roles in found.places.outputs.items() if "feature" in roles) if is_raw else "o"
    param = next(p for p in program.params if p.name == name)
    roles, values = _roles("o", param, found, is_raw=is_raw), outputs[name]
    if "place" not in roles:
        missing = [role for role in AXES if role not in roles]
        order = [*roles, *missing]
        whole = values.reshape(*values.shape, *(1 for _ in missing))
        return whole.transpose([order.index(role) for role in AXES])
    dense, first = np.zeros(shape), 0
    for b, (rows, _) in enumerate(lengths):
        dense[b, :, :rows] = values[first : first + rows].transpose(1, 0, 2)
        first += rows
    return dense
