"""Axes of a kernel as tiles: bound by the grid, by a loop that covers a dimension, or by their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import UnsupportedKernel
from ...expr import Expr, Op, const, free_vars, loads, var
from ...program import Tiles
from .axes import Axis, AxisFinder
from .naming import AXIS_NAMES
from .places import TensorInfo
from .poly import Poly, added, scaled, to_expr
from .reader import Reader
from .sizes import ceil_div
from .values import Branch, Item, Loop


@dataclass(slots=True)
class Shared:
    """What the kernels of a program share: tensors, tile variables, names of whole dimensions."""

    tensors: Mapping[str, TensorInfo]
    sizes: frozenset[str]
    size_names: Mapping[str, str]
    tiles: dict[str, Tiles] = field(default_factory=dict)
    whole: dict[tuple[str, int], str] = field(default_factory=dict)


class Roles:
    """Which axis is a tile of the grid, of a loop, or bound by its number; names of tiles and of instances."""

    def __init__(self, reader: Reader, finder: AxisFinder, shared: Shared, warps: int | None, stages: int) -> None:
        self.reader = reader
        self.integers = reader.integers
        self.axes = finder.found
        self.finder = finder
        self.shared = shared
        self.warps = warps
        self.stages = stages
        self.order = "ascending"
        self.bound_by_grid: dict[str, Tiles] = {}
        self.bound_by_loop: dict[str, tuple[Axis, str]] = {}
        self.placed: dict[str, list[Axis]] = {}
        self.scalars: dict[str, Expr] = {}

    def _leaves(self) -> list[str]:
        found: list[str] = []

        def visit(name: str) -> None:
            meaning = self.integers.meaning.get(name)
            if meaning is None:
                found.append(name)
            elif meaning is not const(0):
                visit(f"{name}.hi")
                visit(f"{name}.lo")

        for name in reversed(self.reader.programs):
            visit(name)
        return found

    def _reverse(self, leaves: list[str]) -> None:
        """Instances that take the tiles from last to first are numbered by their tiles."""
        for axis in self.axes.values():
            for name in leaves:
                if axis.number.get((var(name),)) == -1:
                    last = self.integers.extents[name] - 1
                    turned = f"{name}.turned"
                    self.integers.meaning[name] = last - var(turned)
                    self.integers.extents[turned] = self.integers.extents[name]
                    leaves[leaves.index(name)] = turned
                    self.order = "descending"
        for axis in self.axes.values():
            axis.number = self.integers.poly(to_expr(axis.number))

    def _role(self, root: int, axis: Axis, leaves: list[str]) -> None:
        assert axis.extent is not None
        axis.extent = self.integers.simplify(axis.extent)
        number = axis.number
        single = next(iter(number)) if len(number) == 1 and list(number.values()) == [1] else ()
        token = str(single[0].attr) if len(single) == 1 else ""
        tiles = Tiles(axis.extent, axis.width)
        if token in leaves:
            cut = self._grid_tiles(token, axis)
            if cut is not None:
                tiles = cut
        loops = self._loops()
        loop = next((lp for lp in reversed(loops) if any(lp.token in free_vars(f) for t in number for f in t)), None)
        axis.name = self._tile_name(axis, tiles)
        if token in leaves and self._grid_tiles(token, axis) is not None and token not in self.bound_by_grid:
            self.bound_by_grid[token] = tiles
            self.integers.meaning[token] = var(axis.name)
        elif token in leaves and self.bound_by_grid.get(token) == tiles:
            pass
        elif loop is not None and self._covers(loop, axis):
            direction = "ascending" if number.get((var(loop.token),)) == 1 else "descending"
            self.bound_by_loop[loop.token] = (axis, direction)
        else:
            scope = "" if loop is None else loop.token
            if all(other.name != axis.name for other in self.placed.get(scope, ())):
                self.placed.setdefault(scope, []).append(axis)
        self.shared.tiles[axis.name] = tiles

    def _grid_tiles(self, token: str, axis: Axis) -> Tiles | None:
        assert axis.extent is not None
        count = self.integers.poly(self.integers.extents[token.removesuffix(".turned")])
        if count == self.integers.poly(ceil_div(axis.extent, axis.width)):
            return Tiles(axis.extent, axis.width)
        whole = to_expr(count)
        if whole.op is Op.FLOORDIV and whole.args[1] is const(axis.width):
            most = to_expr(added(self.integers.poly(whole.args[0]), {(): 1 - axis.width}))
            if loads(axis.extent):
                return Tiles(axis.extent, axis.width, most)
        return None

    def _covers(self, loop: Loop, axis: Axis) -> bool:
        """Whether a loop visits all tiles of an axis, one after another or from last to first."""
        assert axis.extent is not None
        trips = self._trips(loop)
        if trips != self.integers.poly(ceil_div(axis.extent, axis.width)) or loop.token in self.bound_by_loop:
            return self.bound_by_loop.get(loop.token, (None, ""))[0] is not None and axis.number in (
                {(var(loop.token),): 1},
            ) and self.bound_by_loop[loop.token][0].name == axis.name  # fmt: skip
        up: Poly = {(var(loop.token),): 1}
        return axis.number in (up, added(added(trips, {(): -1}), scaled(up, -1)))

    def _trips(self, loop: Loop) -> Poly:
        length = to_expr(added(self.integers.poly(loop.high), scaled(self.integers.poly(loop.low), -1)))
        return self.integers.poly((length + loop.step - 1) // loop.step)

    def _loops(self) -> list[Loop]:
        found: list[Loop] = []

        def visit(body: list[Item]) -> None:
            for item in body:
                if isinstance(item, Loop):
                    found.append(item)
                if isinstance(item, (Loop, Branch)):
                    visit(item.body)

        visit(self.reader.body)
        return found

    def _tile_name(self, axis: Axis, tiles: Tiles) -> str:
        """m for rows of queries, n for rows of keys, t for others; another name where one means other tiles."""
        roles = {self.shared.size_names.get(f"role:{name}", "t") for name in axis.tensors}
        wanted = "n" if "n" in roles else "m" if "m" in roles else "t"
        for other in self.axes.values():
            if other.name and other.number == axis.number and other.width == axis.width and other.extent is axis.extent:
                return other.name
        used = {other.name for other in self.axes.values() if other.name and other.number != axis.number}
        for number in range(1, 100):
            name = wanted if number == 1 else f"{wanted}{number}"
            same_place = name not in used or self._never_together(name, axis)
            if self.shared.tiles.get(name, tiles) == tiles and same_place:
                return name
        raise UnsupportedKernel("too many axes")

    def _never_together(self, name: str, axis: Axis) -> bool:
        """Whether the axes of that name belong to other loops than this one."""
        mine = {f for t in axis.number for a in t for f in free_vars(a) if ".it" in f or f.startswith("it")}
        for other in self.axes.values():
            if other.name == name:
                theirs = {f for t in other.number for a in t for f in free_vars(a) if ".it" in f or f.startswith("it")}
                if not mine or not theirs or mine & theirs:
                    return False
        return True

    def _grid_extents(self, leaves: list[str]) -> tuple[tuple[str, ...], tuple[Expr | Tiles, ...]]:
        names: list[str] = []
        extents: list[Expr | Tiles] = []
        for leaf in leaves:
            if leaf in self.bound_by_grid:
                continue
            extent = self.integers.simplify(self.integers.extents[leaf])
            name = self._scalar_name(extent, leaf, names)
            self.integers.meaning[leaf] = var(name)
            self.scalars[name] = extent
            names.append(name)
            extents.append(extent)
        cut = sorted(self.bound_by_grid.items(), key=lambda item: leaves.index(item[0]))
        if all(tiles.most is None for _, tiles in cut):  # keep the order of the launch
            order = {str(self.integers.meaning[leaf].attr): leaves.index(leaf) for leaf in leaves}
        else:
            order = {}
        for leaf, tiles in cut:
            names.append(str(self.integers.meaning[leaf].attr))
            extents.append(Tiles(self.integers.simplify(tiles.extent), tiles.tile, tiles.most))
            self.shared.tiles[names[-1]] = extents[-1]  # type: ignore[assignment]
        pairs = sorted(zip(names, extents, strict=True), key=lambda pair: order.get(pair[0], 0))
        if not pairs:
            pairs = [(self.reader.names.fresh("one"), const(1))]
        return tuple(name for name, _ in pairs), tuple(extent for _, extent in pairs)

    def _scalar_name(self, extent: Expr, leaf: str, names: list[str]) -> str:
        size = self.shared.size_names.get(str(extent.attr), "") if extent.op is Op.VAR else ""
        wanted = {"B": "b", "Hq": "h", "Hkv": "g"}.get(size)
        if wanted is None and leaf in self.reader.program_names:
            wanted = self.reader.program_names[leaf]
        is_count = extent.op is Op.CONST or (extent.op is Op.VAR and size not in ("", "B", "Hq", "Hkv"))
        others = ("e", "t", "b", "h", "g") if is_count else ("b", "h", "g", "e")
        choices: tuple[str, ...] = (wanted or others[0], *others)
        for name in choices:
            if name not in names and (name in AXIS_NAMES or name not in self.reader.names.taken):
                return name
        return self.reader.names.fresh("e")
