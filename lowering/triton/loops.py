"""Tile loops: ranges from the domain analysis, so that empty tiles are never visited and full ones need no mask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.domain import LoopPlan, plan, question_of
from ...ir.domain.fold import FALSE, TRUE, all_of, negated
from ...ir.edit import resolved
from ...ir.expr import Expr, Op, apply, const, free_vars, loads, select, substitute, var
from ...ir.printer import Path
from ...ir.program import RangeLoop, TileAt, TileLoop, statements
from .bound import bound_names
from .expressions import folded
from .layout import statement_lines

if TYPE_CHECKING:
    from .kernel import KernelWriter

BOUNDS = ("lo", "hi", "full_lo", "full_hi")


@dataclass(frozen=True, slots=True)
class Domain:
    """A loop's plan, the tile variable whose rows it is about (None: no rows), and the plan's names of indices."""

    plan: LoopPlan
    row: str | None
    row_name: str
    column_name: str


def domain_of(writer: KernelWriter, loop: TileLoop) -> Domain:
    """The domain of a tile loop."""
    asked = question_of(loop, writer.context.program)
    predicate, row, names = TRUE, None, ("row", loop.name)
    if asked is not None:
        predicate, row = folded(asked.predicate, writer.shapes.sizes), asked.row
        names = asked.row_name, asked.column_name
    row_tile = writer.shapes.tiles[row].tile if row else 1
    extent = writer.extent(loop.name)
    found = plan(predicate, row_tile, loop.tiles.tile, row=names[0], column=names[1], extent=extent)
    return Domain(found, row, *names)


def is_heavier_later(writer: KernelWriter) -> bool:
    """Whether later row tiles of the grid visit more column tiles: the end of a loop grows with them, not its start."""
    ends: set[str] = set()
    starts: set[str] = set()
    for statement in statements(writer.grid.body):
        if isinstance(statement, TileLoop):
            domain = domain_of(writer, statement)
            if domain.row not in writer.grid.names:
                continue
            rows = _own_names(domain.row_name)
            ends |= free_vars(domain.plan.hi) & rows
            starts |= free_vars(domain.plan.lo) & rows
    return bool(ends) and not starts


def write_tile_loop(writer: KernelWriter, s: TileLoop, path: Path) -> None:
    """A tile loop over the part of the domain that it names."""
    writer.define_extent(s.name, path)
    domain = domain_of(writer, s)
    if s.where is None and s.part == "any" and s.order == "ascending" and not is_read(writer, s.tiles.extent):
        writer.hoist(s.body, (), {s.name, *bound_names(s.body)}, path)
        limits = f"0, {writer.short_text(writer.extent(s.name), path)}"
        with count_elements(writer, (s.name,), s.name, limits, s.stages) as first:
            _write_body(writer, s, domain.column_name, TRUE, path, first)
        return
    found = domain.plan
    for summary in found.summaries:
        writer.context.add_summary(summary)
    values = _bounds(writer, s, domain, path)
    start, stop, skip = _range(s.part, found, values)
    if start is stop:
        return
    rest = substitute(_condition(s.part, found, values, s.name), values)
    writer.hoist(s.body, (rest,), {s.name, *_own_names(domain.column_name), *bound_names(s.body)}, path)
    is_direct = skip is None and s.order == "ascending"
    counter = s.name if is_direct else writer.context.names.fresh("step")
    # In part of a domain, or up to an end read from a table, what is computed of the numbers costs more than it saves.
    counts_elements = is_direct and s.part == "any" and not is_read(writer, s.tiles.extent)
    if counts_elements:
        start, stop = counted_range(start, stop, s.tiles.tile)
    limits = f"{writer.text(start, (), path)}, {writer.text(stop, (), path)}"
    if counts_elements:
        with count_elements(writer, (s.name,), s.name, limits, s.stages) as first:
            _write_body(writer, s, domain.column_name, rest, path, first)
        return
    with writer.block(f"for {writer.context.names(counter)} in tl.range({limits}{stages_text(s.stages)}):"):
        if not is_direct:
            _write_number(writer, s, (start, stop, skip), counter, path)
        _write_body(writer, s, domain.column_name, rest, path)


def is_read(writer: KernelWriter, extent: Expr) -> bool:
    """Whether an extent depends on elements of a tensor."""
    return bool(loads(resolved(writer.context.inline(extent), writer.context.definitions)))


def stages_text(stages: int) -> str:
    """The argument of `tl.range` for so many stages; none for one."""
    return f", num_stages={stages}" if stages > 1 else ""


def tiles_counted(loop: RangeLoop) -> TileAt | None:
    """The tiles of a counted loop whose number is the loop's own, if they are the only ones it binds by that name."""
    tiles = [s for s in statements(loop.body) if isinstance(s, TileAt)]
    own = [s for s in tiles if s.number is var(loop.name)]
    is_bound_anew = loop.name in bound_names(loop.body) or [s.name for s in tiles].count(own[0].name if own else "") > 1
    return own[0] if len(own) == 1 and not is_bound_anew else None


def counted_range(start: Expr, stop: Expr, tile: int) -> tuple[Expr, Expr]:
    """The first elements of tiles `start` to `stop`; (n + 63) // 64 tiles of 64 end at n."""
    if stop.op is Op.FLOORDIV and stop.args[1] is const(tile):
        inner = stop.args[0]
        if inner.op is Op.ADD and inner.args[1] is const(tile - 1):
            return _scaled(start, tile), inner.args[0]
    return _scaled(start, tile), _scaled(stop, tile)


def _scaled(number: Expr, tile: int) -> Expr:
    if number.op is Op.CONST:
        return const(int(str(number.attr)) * tile)
    if number.op is Op.MUL and number.args[1].op is Op.CONST:
        return number.args[0] * (int(str(number.args[1].attr)) * tile)
    return number * tile


@contextmanager
def count_elements(
    writer: KernelWriter, numbers: tuple[str, ...], tile: str, limits: str, stages: int = 1
) -> Iterator[str]:
    """A loop that counts the first elements of tiles, by name, which takes fewer registers than their numbers.

    `numbers`: names of the tile's number, which get a line where the body uses them.
    """
    first, size = writer.given(("first", tile), f"{tile}_first"), writer.context.tile(tile)
    with writer.block(f"for {first} in tl.range({limits}, {size}{stages_text(stages)}):"):
        begin = len(writer.lines)
        yield first
        for name in reversed([writer.context.names(number) for number in numbers]):
            if any(re.search(rf"\b{name}\b", line) for line in writer.lines[begin:]):
                writer.lines.insert(begin, f"{'    ' * writer.depth}{name} = {first} // {size}")


def _own_names(name: str) -> set[str]:
    return {f"{name}_lo", f"{name}_hi", f"{name}_tile"}


def _bounds(writer: KernelWriter, s: TileLoop, domain: Domain, path: Path) -> dict[str, Expr]:
    """Write the bounds as lines, once for all loops over one domain; their values by the plan's names."""
    key = (s.where, s.tiles, s.name)
    if key in writer.plans:
        return writer.plans[key]
    values = _row_bounds(writer, domain, path)
    wanted = _bounds_wanted(writer, s)
    for name, planned in domain.plan.assignments:
        value = substitute(planned, values)
        if value.op not in (Op.CONST, Op.VAR) and name in wanted:
            text = writer.short_text(value, path)
            fresh = writer.context.names.fresh(name)
            writer.line(*statement_lines(f"{fresh} = ", text))
            value = var(fresh)
        values[name] = value
    writer.plans[key] = values
    return values


def _bounds_wanted(writer: KernelWriter, s: TileLoop) -> tuple[str, ...]:
    """All bounds, or those of the visited tiles where no loop over this domain asks for full ones."""
    loops = [t for t in statements(writer.grid.body) if isinstance(t, TileLoop) and t.name == s.name]
    return BOUNDS[:2] if all(t.part == "any" for t in loops if t.where == s.where) else BOUNDS


def _row_bounds(writer: KernelWriter, domain: Domain, path: Path) -> dict[str, Expr]:
    """First and last row of the row tile, as lines where the plan asks for them."""
    if domain.row is None:
        return {}
    used = set().union(*(free_vars(getattr(domain.plan, name)) for name in (*BOUNDS, "may_rest", "must_rest")))
    row = domain.row_name
    values: dict[str, Expr] = {f"{row}_tile": var(domain.row)}
    tile = writer.shapes.tiles[domain.row].tile
    first = var(domain.row) * tile
    last = apply(Op.MIN, first + tile, writer.extent(domain.row)) - 1
    for name, value in ((f"{row}_lo", first), (f"{row}_hi", last)):
        if name in used:
            fresh = writer.context.names.fresh(name)
            writer.line(f"{fresh} = {writer.text(value, (), path)}")
            values[name] = var(fresh)
    return values


def _range(part: str, found: LoopPlan, values: dict[str, Expr]) -> tuple[Expr, Expr, tuple[Expr, Expr] | None]:
    """First and one-past-last step; with a skip (from, count), steps from `from` on stand for tiles `count` later."""
    lo, hi, full_lo, full_hi = (values[name] for name in BOUNDS)
    if part == "full":
        return (full_lo, full_hi, None) if found.must_rest is not FALSE else (lo, lo, None)
    if part == "any" or found.must_rest not in (TRUE, FALSE):
        return lo, hi, None
    if full_lo is lo:
        return full_hi, hi, None
    if full_hi is hi:
        return lo, full_lo, None
    return lo, hi - (full_hi - full_lo), (full_lo, full_hi - full_lo)


def _condition(part: str, found: LoopPlan, values: dict[str, Expr], name: str) -> Expr:
    """What is left to ask of a single tile."""
    if part == "full":
        return found.must_rest
    if part == "any" or found.must_rest in (TRUE, FALSE):
        return found.may_rest
    inside = [found.must_rest]
    if values["full_lo"] is not values["lo"]:
        inside.append(apply(Op.LE, values["full_lo"], var(name)))
    if values["full_hi"] is not values["hi"]:
        inside.append(apply(Op.LT, var(name), values["full_hi"]))
    return all_of(found.may_rest, negated(all_of(*inside)))


def _write_number(
    writer: KernelWriter, s: TileLoop, steps: tuple[Expr, Expr, tuple[Expr, Expr] | None], counter: str, path: Path
) -> None:
    """The tile number from the step: descending, and past the skipped tiles."""
    start, stop, skip = steps
    step = var(counter) if s.order == "ascending" else folded(start + stop - 1 - var(counter), {})
    if skip is not None and step.op is not Op.VAR:
        writer.line(f"{writer.context.names(counter)} = {writer.text(step, (), path)}")
        step = var(counter)
    if skip is not None:
        step = step + select(apply(Op.LT, step, skip[0]), 0, skip[1])
    writer.line(f"{writer.context.names(s.name)} = {writer.text(step, (), path)}")


def _write_body(
    writer: KernelWriter, s: TileLoop, column: str, rest: Expr, path: Path, begin: str | None = None
) -> None:  # fmt: skip
    is_whole = s.part == "full"
    if rest is TRUE:
        writer.bind_tile(s.name, is_whole, s.body, begin)
        writer.body(s.body, path)
        return
    first = var(s.name) * s.tiles.tile
    last = first + (s.tiles.tile - 1) if is_whole else apply(Op.MIN, first + s.tiles.tile, writer.extent(s.name)) - 1
    own = {f"{column}_lo": first, f"{column}_hi": last, f"{column}_tile": var(s.name)}
    condition = writer.text(substitute(rest, own), (), path)
    with writer.block(*statement_lines("if ", condition, ":")):
        writer.bind_tile(s.name, is_whole, s.body, begin)
        writer.body(s.body, path)
