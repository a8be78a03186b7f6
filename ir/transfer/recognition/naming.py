"""Canonical names of a foreign program's variables, sizes and tensors, and its places in their canonical order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...dtypes import Kind
from ...edit import extents, inlined
from ...errors import ScheduleError
from ...expr import Expr, Op, index, load, loads, transform, var, walk
from ...program import (
    Grid,
    If,
    Index,
    Let,
    Load,
    Param,
    Ref,
    Store,
    TileAt,
    TileAxis,
    TileLoop,
    statements,
)  # fmt: skip
from .coordinates import Places
from .lines import ROLES
from .specify import Understood


@dataclass(slots=True)
class Naming:
    """Names for one program. `names`: of variables and sizes; `tensors`: of tables; `bound`: bound coordinates."""

    understood: Understood
    names: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    bound: set[str] = field(default_factory=set)
    elements: set[Expr] = field(default_factory=set)
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        """The coordinates are those of the grid that sweeps over keys."""
        self.places = self.understood.inner

    @property
    def h(self) -> str:
        """The head's name; where splits have a tile of heads, `h` is that of the grid that merges them."""
        return "head" if self.is_split and self.places.head.op is not Op.VAR else "h"

    @property
    def i(self) -> str:
        """The row's name."""
        return "row" if self.h == "head" else "i"

    @property
    def is_single(self) -> bool:
        """Whether an instance has one row of one head, neither a tile of rows nor one of heads."""
        places = self.places
        return places.row.op is Op.CONST and not any(n.op is Op.INDEX for n in walk(places.head))

    @property
    def is_split(self) -> bool:
        """Whether parts of the keys are summed by one grid and merged by another."""
        return self.understood.splits is not None

    def plan_names(self) -> None:
        """Canonical names of the program's variables; what is in their way is renamed."""
        u = self.understood
        places, raw = self.places, u.walker.program
        wanted = {places.batch: "b", places.head: self.h, places.row: self.i}
        for found, name in wanted.items():
            if found.op is Op.VAR:
                self.names[str(found.attr)] = name
        if places.row.op is Op.INDEX:
            self.names[str(places.row.attr).split("@")[0]] = "m"
        if places.key_head.op is Op.VAR and places.key_head is not places.head:
            self.names[str(places.key_head.attr)] = "g"
            self.bound.add("g")
        if places.row.op is not Op.INDEX:  # packed: the rows of a tile have heads of their own
            slot = next((n for e in (places.head, places.row) for n in walk(e) if n.op is Op.INDEX), None)
            if slot is not None:
                self.names[str(slot.attr).split("@")[0]] = "m"
            elif places.row.op is not Op.CONST:
                raise u.walker.refuse(u.output.path, "one row at a time has no canonical form: no tile of rows")
        split = u.split_name
        if split is not None:
            self.names[split] = "split"
        for w in (*u.values, *u.sums):
            self.elements.add(w.leaf.loop.element)
            self.names[str(w.leaf.loop.element.attr).split("@")[0]] = "n"
        self.names |= {places.q: "q", places.k: "k", places.v: "v"}
        self.names |= {p.name: ("o" if p.name == self.output() else "lse") for p in raw.params if p.is_output}
        self.names |= places.sizes

    def plan_tensors(self) -> None:
        """The names that layouts give to where sequences start and pages lie."""
        places, loop = self.places, self.understood.values[0].leaf.loop
        row = next(iter(self.understood.values)).dot
        tables = [e for n in walk(row) if n.op is Op.LOAD and n.attr == places.k for arg in n.args for e in loads(arg)]
        if places.is_indirect:
            names = {} if places.start is None else {str(places.start.attr): "cu_q"}
        elif places.layout == "paged":
            lengths = loads(loop.tiles.extent)  # type: ignore[union-attr]
            names = {str(e.attr): "block_table" for e in tables} | {str(e.attr): "lengths" for e in lengths}
        elif places.layout == "ragged":
            names = {str(e.attr): "cu_k" for e in tables} | {str(places.start.attr): "cu_q"}  # type: ignore[union-attr]
        else:
            names = {}
        taken = {t.name for t in self.understood.spec.captured} | {
            p.name for p in self.understood.walker.program.params
        }
        self.tensors = {raw: name for raw, name in names.items() if name not in taken or raw == name}

    def named(self, e: Expr) -> Expr:
        """An expression of canonical coordinates with the tensors' canonical names."""
        return transform(
            e,
            lambda n: (
                load(self.tensors[str(n.attr)], n.args, n.kind) if n.op is Op.LOAD and n.attr in self.tensors else None
            ),
        )

    def output(self) -> str:
        stores = self.understood.walker.stores
        return next(name for name, found in stores.items() if self.understood.output in found)

    def name(self, raw: str) -> str:
        """The canonical name of a variable."""
        if raw in self.names:
            return self.names[raw]
        kinds = self.understood.spec.captured
        if raw in ROLES or raw in self.names.values():
            if any(t.name == raw for t in kinds):
                raise ScheduleError(
                    f"recognise: captured tensor {raw!r} has a name that canonical programs use; rename it"
                )
            self.names[raw] = f"{raw}_own"
        else:
            self.names[raw] = raw
        return self.names[raw]

    def expr(self, e: Expr) -> Expr:
        """An expression with canonical names."""

        def rename(node: Expr) -> Expr | None:
            if node.op is Op.VAR:
                return var(self.name(str(node.attr)), node.kind)
            if node.op is Op.INDEX:
                return index(self.name(str(node.attr)))
            if node.op is Op.LOAD and str(node.attr) in self.tensors:
                return load(self.tensors[str(node.attr)], node.args, node.kind)
            return None

        return transform(inlined(e, self.understood.walker.program), rename)

    def parameters(self) -> tuple[Param, ...]:
        u = self.understood
        places, raw = self.places, u.walker.program
        by_name = {p.name: p for p in raw.params}

        def canonical(param: Param, name: str) -> Param:
            roles = self.roles(param.name)
            names = {"batch": "B", "head": "Hq" if name in ("q", "o", "lse") else "Hkv"}
            names |= {"place": "Tq" if name in ("q", "o", "lse") else "Tk"} if places.layout == "ragged" else {}
            names |= {"row": "M" if name in ("q", "o", "lse") else "N", "feature": "D" if name in ("q", "k") else "Dv"}
            if not self._is_as_written(name):
                return Param(name, param.dtype, tuple(names[role] for role in self.order(name)), param.is_output)
            dims = tuple(
                names.get(role, places.sizes.get(str(dim), dim)) for dim, role in zip(param.dims, roles, strict=True)
            )
            return Param(name, param.dtype, dims, param.is_output)

        inputs = [
            canonical(by_name[raw_name], name) for raw_name, name in ((places.q, "q"), (places.k, "k"), (places.v, "v"))
        ]
        known = {places.q, places.k, places.v}
        used = self._read()
        others = [
            replace(
                p,
                name=self.tensors.get(p.name, p.name),
                dims=tuple(places.sizes.get(d, d) if isinstance(d, str) else d for d in p.dims),
            )
            for p in raw.params
            if not p.is_output and p.name not in known and p.name in used
        ]
        outputs = [canonical(p, self.names[p.name]) for p in raw.params if p.is_output]
        outputs.sort(key=lambda p: p.name != "o")
        return (*inputs, *others, *outputs)

    def _read(self) -> set[str]:
        """Tensors that indices, extents and conditions read."""
        found: set[str] = set()
        for s in statements(self.understood.walker.program.body):
            exprs = [*extents(s.tiles)] if isinstance(s, (TileLoop, TileAt)) else []
            if isinstance(s, (Load, Store)):
                exprs += [
                    item for item in (s.source if isinstance(s, Load) else s.target).indices if isinstance(item, Expr)
                ]
                exprs += [s.where] if s.where is not None else []
            if isinstance(s, Let) and s.value.kind is not Kind.FLOAT:
                exprs.append(s.value)
            if isinstance(s, If):
                exprs.append(s.condition)
            if isinstance(s, Grid):
                exprs += [e for extent in s.extents for e in extents(extent)]
            found |= {str(node.attr) for e in exprs for node in walk(e) if node.op is Op.LOAD}
        return found

    def roles(self, tensor: str) -> list[str]:
        """Roles of a tensor's dimensions, in its own order."""
        places = self.understood.places
        return places.dims.get(tensor) or places.outputs[tensor]

    def order(self, name: str) -> tuple[str, ...]:
        if name == "lse":
            return ("batch", "head", "row")
        if self.places.layout == "paged" and name in ("q", "o"):
            return ("batch", "row", "head", "feature")
        return ("batch", "head", "row", "feature")

    def place(self, ref: Ref) -> Ref:
        """A reference to q, k, v or an output, with canonical dimensions in their order."""
        items = [self._item(item) for item in ref.indices]
        name = self.names[ref.name]
        if self._is_as_written(name):
            return Ref(name, tuple(items))
        by_role = dict(zip(self.roles(ref.name), items, strict=True))
        if self.places.row.op is Op.CONST and name in ("q", "o", "lse"):
            by_role |= {"head": var(self.h), "row": var(self.i)}
        return Ref(name, tuple(by_role[role] for role in self.order(name)))

    def _item(self, item: Index) -> Index:
        if isinstance(item, TileAxis):
            return TileAxis(self.name(item.name))
        return self.expr(item) if isinstance(item, Expr) else item

    def _is_as_written(self, name: str) -> bool:
        """Whether a tensor's dimensions stay in the program's order: where rows lie at computed places."""
        is_new = self.places.row.op is Op.CONST and name in ("q", "o", "lse")
        return self.places.layout != "dense" and not is_new
