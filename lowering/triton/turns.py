"""Additions in a fixed order: whose turn it is to add to a tile, and instances started in the order of their grid.

Every tile of the target has a counter of the additions made to it. An addition of rank r waits until its counter is r,
acquiring what those before it stored; adds, alone; waits for its own threads; and adds one to the counter, releasing
what it stored. The order of a floating-point sum is then that of the ranks, whoever is faster.

An addition may wait for one of another instance, so instances of such a grid must not depend on which of its programs
the hardware starts first. They are taken from a counter, one after the other in the grid's order, by programs that
take another when they are done: whatever an instance waits for that was taken before it is being worked on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.expr import Expr, const, var
from ...ir.printer import TERM, Path
from ...ir.program import All, Barriers, Grid, ReduceAdd, Statement, TileAt, TileAxis, Tiles, statements
from .bound import tile_references
from .layout import call_lines, statement_lines
from .memory import atomic_add_lines, tile_place

if TYPE_CHECKING:
    from .kernel import KernelWriter

TICKETS, REPORT, MOST_SPINS = "tickets", "report", "most_spins"  # what ordered kernels take beside their counters
TICKET = "ticket"
TAKE_NEXT = f'{TICKET} = tl.atomic_add({TICKETS}, 1, sem="relaxed")'


@dataclass(frozen=True, slots=True)
class Turns:
    """Counters of one target: their name in the file, which target it is, how many tiles each dimension has."""

    name: str
    number: int
    counts: tuple[Expr | Tiles, ...]


def is_ordered(grid: Grid) -> bool:
    """Whether some addition of a grid waits for its turn."""
    return any(isinstance(s, ReduceAdd) and s.after is not None for s in statements(grid.body))


def open_tickets(writer: KernelWriter) -> str:
    """Write the loop in which a program takes instances in the grid's order until none is left; the instance's name."""
    grid = writer.grid
    for name, extent in zip(grid.names, grid.extents, strict=True):
        if isinstance(extent, Tiles) and extent.most is not None:
            reason = "reduce_add in a given order, in a grid whose tiles differ from instance to instance"
            raise writer.context.refuse(writer.path, reason, "drop after=, or let the grid cover all tiles")
        writer.counts[name] = writer.count_of(extent, name)
    writer.line(f"{TAKE_NEXT}  # instances are started in the grid's order")
    writer.line(f"while {TICKET} < {' * '.join(writer.counts.values())}:")
    writer.depth += 1
    return TICKET


def look_up_again(writer: KernelWriter, body: tuple[Statement, ...], loop: int) -> None:
    """Bind tiles anew that are used again after a loop: what is kept through it takes its products' registers."""
    used = tile_references(body[loop + 1 :])
    for position, statement in enumerate(body[:loop]):
        if isinstance(statement, TileAt) and statement.name in used:
            writer.forget({statement.name})
            writer.body(body[position : position + 1], writer.path)


def write_ordered_add(writer: KernelWriter, s: ReduceAdd, path: Path) -> None:
    """Wait for the turn, add without atomics, let the next one go."""
    assert s.after is not None
    turns = _turns(writer, s, path)
    rank = writer.text(s.after, (), path)
    place = tile_place(writer, s.target, path)
    value = writer.text(s.value, place.axes, path)
    name = writer.context.names(s.target.name)
    tile = writer.given(("tile", s.target), f"{name}_tile")
    writer.context.functions |= {"wait_for_turn", "pass_turn"}
    writer.line(*statement_lines(f"{tile} = ", _tile_number(writer, s, turns, path)))
    told = (f"{turns.name} + {tile}", rank, f"{turns.number}, {tile}, {TICKET}", REPORT, MOST_SPINS)
    writer.line(*call_lines("wait_for_turn", told[:1], told[1:]))
    writer.line(*atomic_add_lines(place, value))
    writer.line(f"pass_turn({turns.name} + {tile}, {MOST_SPINS})")


def _turns(writer: KernelWriter, s: ReduceAdd, path: Path) -> Turns:
    """The counters of a target, the same for all additions to it."""
    known = writer.context.turns
    counts = tuple(_count(writer, s, position) for position in range(len(s.target.indices)))
    if s.target.name not in known:
        name = writer.context.names.fresh(f"{writer.context.names(s.target.name)}_turns")
        known[s.target.name] = Turns(name, len(known), counts)
    found = known[s.target.name]
    if found.counts != counts:
        reason = f"additions to tiles of {s.target.name} of two sizes, in a given order"
        raise writer.context.refuse(path, reason, "add to tiles of one size")
    writer.turns[found.name] = None
    return found


def _count(writer: KernelWriter, s: ReduceAdd, position: int) -> Expr | Tiles:
    """How many tiles an index of a reference tells apart."""
    item = s.target.indices[position]
    target = writer.shapes.tensors[s.target.name]
    assert not isinstance(target, Barriers)
    dim = target.dims[position]
    size = var(dim) if isinstance(dim, str) else const(dim) if isinstance(dim, int) else dim
    if isinstance(item, All):
        return const(1)
    return Tiles(size, writer.shapes.tiles[item.name].tile) if isinstance(item, TileAxis) else size


def _tile_number(writer: KernelWriter, s: ReduceAdd, turns: Turns, path: Path) -> str:
    """The number of a tile among those of its target, in row-major order."""
    text = ""
    for item, count in zip(s.target.indices, turns.counts, strict=True):
        if isinstance(item, All):
            continue
        if isinstance(item, TileAxis):
            assert isinstance(count, Tiles)
            size = writer.text(count.extent, (), path)
            index, many = writer.context.names(item.name), f"tl.cdiv({size}, {writer.context.tile(item.name)})"
        else:
            assert isinstance(count, Expr)
            index, many = writer.text(item, (), path, TERM), writer.text(count, (), path, TERM + 1)
        outer = f"({text})" if " + " in text else text
        text = f"{outer} * {many} + {index}" if text else index
    return text
