"""Which tensors are q, k and v, and which expressions of a program are the coordinates b, h, i and j."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...expr import Expr, Op, apply, const, loads, transform, var, walk
from ...integers import polynomial
from ...integers import simplify as simplify_integer
from ...printer import Path, print_expr
from ...program import Param, Program
from ...spec import HEAD
from .forms import number, replaced
from .walk import Walker

if TYPE_CHECKING:
    from .joined import Piece

Indices = list[tuple[int, Expr]]  # dimensions and what they are indexed by

GROUP = apply(Op.FLOORDIV, var("Hq"), var("Hkv"))
NAMES = {"batch": ("B", "Z", "batch"), "head": ("H", "Hq", "Hkv", "heads")}


@dataclass(slots=True)
class Places:
    """The coordinates of a program and where they stand.

    `q`, `k`, `v`: names. `batch`, `head`, `row`, `key_head`: the program's expressions for b, h, i and the key head.
    `group`: Hq / Hkv where the program fixes it. `dims`: tensor -> roles of its dimensions, "batch", "head", "row",
    "feature" or "place" (one of several that together find a row). `sizes`: the program's names of sizes -> canonical
    ones. `start`: where sequence b starts among the queries. `is_square`: there are as many keys as queries. `table`:
    the load that finds a key's row or page in a cache.
    """

    q: str
    k: str
    v: str
    batch: Expr
    head: Expr
    row: Expr
    key_head: Expr
    group: int | None = None
    dims: dict[str, list[str]] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    layout: str = "dense"
    is_square: bool = False
    start: Expr | None = None
    table: Expr | None = None
    outputs: dict[str, list[str]] = field(default_factory=dict)  # output -> roles of its dimensions
    more: tuple[Piece, ...] = ()  # further products that scores add up

    @property
    def is_indirect(self) -> bool:
        """Whether keys are found by a table of rows, or of pages of requests, and not by `table[b, page]`."""
        if self.table is None:
            return False
        return self.dims[self.k].count("place") == 1 or bool(loads(self.table.args[0]))

    def fixed_size(self, program: Program, tensor: str, role: str) -> int | None:
        """The number that a program says a dimension has, None where it has a name."""
        dims = next(p.dims for p in program.params if p.name == tensor)
        roles = self.dims[tensor]
        dim = dims[roles.index(role)] if role in roles else None
        return dim if isinstance(dim, int) else None

    def canonical(self, e: Expr, element: Expr, ranges: Mapping[str, Expr] | None = None) -> Expr:
        """An expression over b, h, i, j and canonical sizes."""
        e = rows_named(e, self, element)
        return transform(e, self._renamed)

    def _renamed(self, node: Expr) -> Expr | None:
        if node.op is Op.VAR and str(node.attr) in self.sizes:
            return var(self.sizes[str(node.attr)], node.kind)
        return None


def rows_named(e: Expr, places: Places, element: Expr) -> Expr:
    """The expression with the program's coordinates replaced by b, h, i and j."""
    values: dict[Expr, Expr] = {element: var("j")}
    if places.key_head.op is not Op.CONST:
        values[places.key_head] = apply(Op.FLOORDIV, HEAD, GROUP)
    for found, name in ((places.row, "i"), (places.head, "h"), (places.batch, "b")):
        if found.op is not Op.CONST:
            values[found] = var(name)
    return replaced(e, values)


def product_of(dot: Expr, element: Expr, walker: Walker, path: Path) -> tuple[Expr, Expr]:
    """The elements of q and k in a sum of their products over the head dimension."""
    product = dot.args[0]
    sides = list(product.args) if product.op is Op.MUL else []
    if len(sides) != 2 or any(side.op is not Op.LOAD for side in sides):
        raise walker.refuse(path, f"expected the product of rows of q and k; found {print_expr(product)[:120]}")
    keyed = [element in set(walk(side)) for side in sides]
    if sum(keyed) != 1:
        raise walker.refuse(path, "expected one operand of the first product to be keys of this loop")
    return (sides[1], sides[0]) if keyed[0] else (sides[0], sides[1])


def find_places(walker: Walker, q: Expr, k: Expr, v: Expr, element: Expr, path: Path) -> Places:
    """The coordinates, from one element each of q, k and v."""
    rest_k, keyed_k = _rest(k, element, walker, path)
    rest_v, keyed_v = _rest(v, element, walker, path)
    if [e for _, e in rest_k] != [e for _, e in rest_v] or keyed_k != keyed_v:
        raise walker.refuse(
            path, f"keys are read at {print_expr(k)} but values at {print_expr(v)}: other rows or heads"
        )
    rest_q = [(n, e) for n, e in enumerate(q.args) if not _is_feature(e, walker)]
    if len(rest_k) == 1:
        return _ragged_or_paged(walker, (q, k, v), (rest_q, rest_k), element, path)
    if len(rest_k) != 2 or len(rest_q) not in (2, 3):
        raise walker.refuse(path, f"expected q at [batch, head, row, :] in any order; found {print_expr(q)}")
    batch = _batch(walker, q, k, rest_q, rest_k)
    if batch is None:
        raise walker.refuse(path, f"q is read at {print_expr(q)} and k at {print_expr(k)}: no batch in common")
    key_place, key_head = next((n, e) for n, e in rest_k if n != batch[1])
    others = [(n, e) for n, e in rest_q if n != batch[0]]
    head, row = _head_and_row(others, key_head, walker, q)
    places = Places(str(q.attr), str(k.attr), str(v.attr), q.args[batch[0]], head[1], row[1], key_head)
    places.dims[places.q] = _roles(len(q.args), {batch[0]: "batch", head[0]: "head", row[0]: "row"})
    for name, tensor in ((places.k, k), (places.v, v)):
        roles = {batch[1]: "batch", key_place: "head"}
        roles |= {n: "row" for n, e in enumerate(tensor.args) if element in set(walk(e))}
        places.dims[name] = _roles(len(tensor.args), roles)
    _name_sizes(places, walker)
    _check_group(places, walker, path)
    return places


def _is_feature(e: Expr, walker: Walker) -> bool:
    return e.op is Op.INDEX and str(e.attr) in walker.program.fixed


def _rest(tensor: Expr, element: Expr, walker: Walker, path: Path) -> tuple[list[tuple[int, Expr]], list[Expr]]:
    """The indices of a row of k or v that are the same for all keys, and those that find the key."""
    keyed = [e for e in tensor.args if element in set(walk(e))]
    rest = [(n, e) for n, e in enumerate(tensor.args) if e not in keyed and not _is_feature(e, walker)]
    if len(rest) == 2 and keyed != [element]:
        raise walker.refuse(path, f"key rows are read at {print_expr(keyed[0])}; expected the loop's own tile")
    return rest, keyed


def _param(walker: Walker, name: str) -> Param:
    return next(p for p in walker.program.params if p.name == name)


def _batch(
    walker: Walker, q: Expr, k: Expr, rest_q: list[tuple[int, Expr]], rest_k: list[tuple[int, Expr]]
) -> tuple[int, int] | None:
    """The dimensions of q and k that are the batch: the index is the same, and its size, or its place, says so."""
    pairs = [(n, m) for n, x in rest_q for m, y in rest_k if x is y]
    dims = _param(walker, str(q.attr)).dims, _param(walker, str(k.attr)).dims
    named = [(n, m) for n, m in pairs if str(dims[0][n]) in NAMES["batch"]]
    heads = [(n, m) for n, m in pairs if str(dims[0][n]) in NAMES["head"]]
    left = [pair for pair in pairs if pair not in heads] or pairs
    return next(iter(named), None) or next(iter(left), None)


def _head_and_row(
    others: list[tuple[int, Expr]], key_head: Expr, walker: Walker, q: Expr
) -> tuple[tuple[int, Expr], tuple[int, Expr]]:
    """The head and the row among the other indices of q; a q without rows has one row."""
    if len(others) == 1:
        return others[0], (-1, const(0))
    tiled = [item for item in others if any(n.op is Op.INDEX for n in walk(item[1]))]
    if len(tiled) == 1:
        return next(item for item in others if item is not tiled[0]), tiled[0]
    first, second = others
    packed = [item for item in others if item[1].op is Op.MOD]
    if packed:
        return (second, first) if packed[0] is first else (first, second)
    dims = _param(walker, str(q.attr)).dims
    is_head = str(dims[first[0]]) in NAMES["head"] or first[1] is key_head
    return (first, second) if is_head else (second, first)


def _roles(rank: int, known: dict[int, str]) -> list[str]:
    return [known.get(n, "feature") for n in range(rank)]


def _name_sizes(places: Places, walker: Walker) -> None:
    """Canonical names of the sizes that dimensions have."""
    wanted = {
        places.q: {"batch": "B", "head": "Hq", "row": "M", "feature": "D"},
        places.k: {"batch": "B", "head": "Hkv", "row": "N", "feature": "D"},
        places.v: {"batch": "B", "head": "Hkv", "row": "N", "feature": "Dv"},
    }
    heads: dict[str, int] = {}
    for tensor, names in wanted.items():
        for dim, role in zip(_param(walker, tensor).dims, places.dims[tensor], strict=True):
            if role == "row" and isinstance(dim, str) and places.sizes.get(dim, "N") == "M":
                places.is_square = True
            if isinstance(dim, str) and role in names:
                places.sizes.setdefault(dim, names[role])
            elif isinstance(dim, str) and role == "place" and places.layout == "paged":
                places.sizes.setdefault(dim, "Slots" if "Slots" not in places.sizes.values() else "Page")
            elif role == "head" and isinstance(dim, int):
                heads[tensor] = dim
    if len(heads) == 3 and heads[places.k]:
        places.group = heads[places.q] // heads[places.k]


def _check_group(places: Places, walker: Walker, path: Path) -> None:
    """The key head must be h // group."""

    def plain(e: Expr) -> Expr:
        return transform(
            e, lambda n: var(places.sizes[str(n.attr)]) if n.op is Op.VAR and str(n.attr) in places.sizes else None
        )

    head, key = plain(places.head), plain(places.key_head)
    as_h = replaced(key, {head: HEAD})
    q_heads = _param(walker, places.q).dims[places.dims[places.q].index("head")]
    k_heads = _param(walker, places.k).dims[places.dims[places.k].index("head")]
    if as_h is HEAD:
        places.group = 1 if q_heads == k_heads else places.group
        if q_heads != k_heads:
            raise walker.refuse(
                path, f"keys of head h of {k_heads} are read for query head h of {q_heads}: no groups of heads"
            )
        return
    if as_h.op is Op.FLOORDIV and as_h.args[0] is HEAD:
        size = number(as_h.args[1])
        if size is not None:
            places.group = int(size)
            return
        if as_h.args[1] is GROUP:
            return
    hq, hkv = var("Hq"), var("Hkv")
    if as_h.op is Op.FLOORDIV and as_h.args[1] is hq and polynomial(as_h.args[0]) == polynomial(HEAD * hkv):
        return
    for factor in (GROUP, *([const(places.group)] if places.group else []), *_factors(head)):
        inside = polynomial(head - key * factor)
        if len(inside) == 1 and next(iter(inside.values())) == 1 and len(next(iter(inside))) == 1:
            slot = next(iter(inside))[0]
            if _is_slot(slot, factor, walker, plain):
                places.group = int(number(factor) or 0) or places.group
                return
    raise walker.refuse(
        path, f"the key head {print_expr(places.key_head)} of query head {print_expr(places.head)} is not h // group"
    )


def _factors(head: Expr) -> list[Expr]:
    return [arg for node in walk(head) if node.op is Op.MUL for arg in node.args if number(arg) is not None]


def _is_slot(slot: Expr, size: Expr, walker: Walker, plain: object) -> bool:
    """Whether slot counts the heads of a group: a tile index over `size` rows, or packed rows x // R over size * R."""
    x, rows = (slot.args[0], slot.args[1]) if slot.op is Op.FLOORDIV else (slot, const(1))
    if x.op is Op.VAR and str(x.attr) in walker.ranges:
        return polynomial(plain(walker.ranges[str(x.attr)])) == polynomial(size * rows)  # type: ignore[operator]
    if x.op is not Op.INDEX:
        return False
    binding = next((b for b in walker.axes if b.axis == x.attr), None)
    if binding is None:
        return False
    extent = plain(binding.tiles.extent)  # type: ignore[operator]
    return polynomial(extent) == polynomial(size * rows)


def _ragged_or_paged(
    walker: Walker, loads_of: tuple[Expr, Expr, Expr], rest: tuple[Indices, Indices], element: Expr, path: Path
) -> Places:
    """Rows at computed places: q[start[b] + i, h, :], k[start[b] + j, g, :]; or k in a cache, by a table."""
    q, k, v = loads_of
    rest_q, rest_k = rest
    ((key_place, key_head),) = rest_k
    keyed = [e for e in k.args if element in set(walk(e))]
    tables = [node for e in keyed for node in loads(e) if element in set(walk(node))]
    places = None
    if tables:
        places = _cached(walker, q, rest_q, key_head, (keyed, tables[0]), element)
    elif len(keyed) == 1:
        places = _ragged(walker, q, rest_q, key_head)
        if places is not None:
            _check_sequence(walker, keyed[0], element, places.batch, path)
    if places is None:
        raise walker.refuse(
            path,
            f"keys are read at {print_expr(k)}; expected rows of one sequence, packed, or in a cache by "
            "table[b, j // Page], table[request[b], j] or table[start[b] + j]",
        )
    places.k, places.v = str(k.attr), str(v.attr)
    for name, tensor in ((places.k, k), (places.v, v)):
        roles = {key_place: "head"} | {n: "place" for n, e in enumerate(tensor.args) if element in set(walk(e))}
        places.dims[name] = _roles(len(tensor.args), roles)
    _name_sizes(places, walker)
    _name_batches(places, walker, (*q.args, *k.args))
    _check_group(places, walker, path)
    return places


def _name_batches(places: Places, walker: Walker, indices: Sequence[Expr]) -> None:
    """B is the size of tensors that have one integer for each sequence, read at b alone."""
    seen = [*indices, *walker.lets.values(), *(b.tiles.extent for b in walker.axes)]
    reads: dict[str, set[Expr]] = {}
    for node in (node for e in seen for node in loads(e) if len(node.args) == 1):
        dim = walker.shapes.dims(str(node.attr))[0]
        reads.setdefault(str(dim), set()).add(node.args[0])
    for dim, found in reads.items():
        if found == {places.batch} and dim.isidentifier():
            places.sizes.setdefault(dim, "B")


def _cached(
    walker: Walker, q: Expr, rest_q: Indices, key_head: Expr, found: tuple[list[Expr], Expr], element: Expr
) -> Places | None:
    """Keys in a cache: k[table[b, j // P], j % P, g, :], k[table[request[b], j], g, :], k[table[start[b] + j], g, :].

    Queries are q[b, i, h, :], without i where there is one row, or packed: q[start[b] + i, h, :].
    """
    keyed, table = found
    if len(table.args) == 2:
        sequence = table.args[0]
        is_row = keyed == [table] and table.args[1] is element
    else:
        sequence = simplify_integer(table.args[0] - element, {})
        is_row = keyed == [table] and sequence.op is Op.LOAD
    if len(table.args) > 2 or not (is_row or (len(keyed) == 2 and len(table.args) == 2)):
        return None
    batch = sequence.args[0] if sequence.op is Op.LOAD and len(sequence.args) == 1 else sequence
    if any(e is batch for _, e in rest_q):
        others = [(n, e) for n, e in rest_q if e is not batch]
        if len(others) not in (1, 2):
            return None
        head, row = _head_and_row(others, key_head, walker, q)
        places = Places(str(q.attr), "", "", batch, head[1], row[1], key_head, layout="paged")
        batch_place = next(n for n, e in rest_q if e is batch)
        places.dims[places.q] = _roles(len(q.args), {batch_place: "batch", head[0]: "head", row[0]: "row"})
    else:
        packed = _ragged(walker, q, rest_q, key_head)
        if packed is None or packed.batch is not batch:
            return None
        places = packed
    places.table = table
    return places


def _check_sequence(walker: Walker, row: Expr, element: Expr, batch: Expr, path: Path) -> None:
    """Keys that begin at start[b] must end where start[b + 1] says."""
    first = simplify_integer(row - element, {})
    if first.op is not Op.LOAD or first.args != (batch,):
        raise walker.refuse(path, f"keys are in row {print_expr(row)}; expected rows of one sequence, packed or paged")
    binding = next(b for b in walker.axes if b.axis == element.attr)
    starts = {str(node.attr) for node in loads(row)}
    ends = {str(node.attr) for node in loads(binding.tiles.extent) if node.args[0] is not batch}
    if ends and ends != starts:
        raise walker.refuse(path, f"keys begin where {sorted(starts)} says and end where {sorted(ends)} says")


def _ragged(walker: Walker, q: Expr, rest_q: list[tuple[int, Expr]], key_head: Expr) -> Places | None:
    """q[start[b] + i, h, :]."""
    for n, e in rest_q:
        starts = [node for node in loads(e) if len(node.args) == 1]
        if len(rest_q) != 2 or len(starts) != 1:
            continue
        row = simplify_integer(e - starts[0], {})
        head = next(item for item in rest_q if item[0] != n)
        if row.op is Op.INDEX:
            places = Places(str(q.attr), "", "", starts[0].args[0], head[1], row, key_head, layout="ragged")
            places.start = starts[0]
            places.dims[places.q] = _roles(len(q.args), {n: "place", head[0]: "head"})
            return places
    return None
