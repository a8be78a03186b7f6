"""Program: HOW attention is computed. A tile program with explicit memory, loops, roles and barriers.

A program is data: frozen statements over interned scalar expressions. Tiles are values with *named axes*: a tile
variable such as `m` (bound by a grid, a tile loop or `tile(...)`) names the axis of the rows it covers, and a
size such as `D` names a whole dimension. Elementwise arithmetic broadcasts by axis name, `gemm` contracts the one
axis its operands share, so no statement needs a transpose or a None index. docs/program.md is the language's
manual; `printer.py` and `parser.py` are its text form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .dtypes import DType, Kind
from .expr import Expr
from .spec import Dim


@dataclass(frozen=True, slots=True)
class Tiles:
    """A dimension of size `extent` cut into tiles of `tile` elements; the last one may be ragged.

    `most` is a size that `extent`, known only while the program runs, never exceeds.
    """

    extent: Expr
    tile: int
    most: Expr | None = None


@dataclass(frozen=True, slots=True)
class TileAxis:
    """In a reference: the elements covered by the current tile of variable `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class All:
    """In a reference: a whole dimension (`:`), an axis named after the tensor's size there."""


Index = Expr | TileAxis | All


@dataclass(frozen=True, slots=True)
class Ref:
    """A place in memory: a tensor or buffer and one index per dimension; barriers have one index.

    An index may be an INT tile over one tile axis; all such indices of a reference are over the same axis, which names
    its rows: row r lies where their elements r say. Loads and stores know such places (gathers and scatters).
    """

    name: str
    indices: tuple[Index, ...]


Operand = str | Ref


# Declarations


@dataclass(frozen=True, slots=True)
class Param:
    """A tensor that the caller passes; outputs are written by the program."""

    name: str
    dtype: DType
    dims: tuple[Dim, ...]
    is_output: bool = False


@dataclass(frozen=True, slots=True)
class RegionParam:
    """A formal parameter of a region."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Region:
    """A named scalar function: the score, the mask predicate. Sizes and tensors are visible in `body`."""

    name: str
    params: tuple[RegionParam, ...]
    body: Expr


# Statements that touch memory


@dataclass(frozen=True, slots=True)
class Alloc:
    """A buffer. `space`: global (seen by all grids), shared (one per block) or register (one per role worker).

    `layout` says how a target places the last two dimensions: "rows" (as written), "rows:T" (blocks of T rows,
    packed for products along the rows), "columns:T" (blocks of T rows, packed for products along the columns, so
    transposed) or "swizzle:B" (XOR swizzle over B bytes). It never changes meaning.
    """

    name: str
    dtype: DType
    dims: tuple[Expr, ...]
    space: str = "global"
    layout: str = "rows"


@dataclass(frozen=True, slots=True)
class Barriers:
    """`count` barriers; each phase of one completes after `arrivals` arrivals (signalling copies count as one)."""

    name: str
    count: int
    arrivals: int


@dataclass(frozen=True, slots=True)
class Load:
    """`name` = the tile at `source`; rows past the end of a dimension read as zero.

    `where` (BOOL, a scalar or over the rows) says which rows exist; the others read as zero and are not touched.
    """

    name: str
    source: Ref
    space: str = "register"
    where: Expr | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """Write a tile expression to `target`; rows past the end, or that do not exist by `where`, are not written."""

    target: Ref
    value: Expr
    where: Expr | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """Memory to memory. Asynchronous copies complete at a wait_group, or arrive at `signal` when done."""

    target: Ref
    source: Ref
    is_async: bool = False
    signal: Ref | None = None


@dataclass(frozen=True, slots=True)
class ReduceAdd:
    """target += value, atomically; with `after`, in the order of the ranks 0, 1, 2, … per target tile."""

    target: Ref
    value: Expr
    after: Expr | None = None


@dataclass(frozen=True, slots=True)
class ScatterAdd:
    """Add every element of a tile where its indices say: one element after another, in row-major order of the tile.

    Indices are INT expressions over any axes of `value`, so that several elements may mean one place. Elements past
    the end of a dimension, or for which `where` does not hold, are left out: their indices may be anything. It is not
    atomic: the box around the places belongs to one instance alone meanwhile. The memory is f32.
    """

    target: Ref
    value: Expr
    where: Expr | None = None


# Statements that compute


@dataclass(frozen=True, slots=True)
class Fill:
    """`name` = a tile of the given axes (tile variables or size names), every element `value`."""

    name: str
    dtype: DType
    axes: tuple[str, ...]
    value: Expr


@dataclass(frozen=True, slots=True)
class Let:
    """`name` = a scalar, or a tile computed element by element."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Gemm:
    """`name` = left x right (+ into), contracting the one axis they share, in float32.

    The result's axes are the left's other axes, then the right's.
    """

    name: str
    left: Operand
    right: Operand
    into: Expr | None = None
    is_async: bool = False


@dataclass(frozen=True, slots=True)
class Reduce:
    """`name` = max or sum of tile `source` over `axis`."""

    name: str
    op: str
    source: str
    axis: str


@dataclass(frozen=True, slots=True)
class TileAt:
    """Bind tile variable `name` to tile `number` of `tiles`: `m = tile(M, 64, 2 * block + w)`."""

    name: str
    tiles: Tiles
    number: Expr


# Statements that order and synchronise


@dataclass(frozen=True, slots=True)
class Commit:
    """Close the current group of asynchronous operations of this worker."""


@dataclass(frozen=True, slots=True)
class WaitGroup:
    """Wait until at most `pending` committed groups of this worker are unfinished."""

    pending: int


@dataclass(frozen=True, slots=True)
class Arrive:
    """Arrive at a barrier."""

    barrier: Ref


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until the barrier's phase of this parity has completed."""

    barrier: Ref
    phase: Expr


@dataclass(frozen=True, slots=True)
class Sync:
    """All workers of the block meet."""


# Statements that hold others


@dataclass(frozen=True, slots=True)
class Grid:
    """Independent instances, one per point; consecutive grids are ordered, instances within one are not.

    The extent of tiles may depend on names before it (a ragged grid), if it says with `most` how large it may be.
    `order` is the order in which workers take instances: "ascending", "descending" or "longest_first" (most
    visited tiles first). It never changes meaning.
    """

    names: tuple[str, ...]
    extents: tuple[Expr | Tiles, ...]
    body: tuple[Statement, ...]
    order: str = "ascending"
    warps: int | None = None


@dataclass(frozen=True, slots=True)
class TileLoop:
    """A loop over the tiles of a dimension, restricted to a part of a predicate's domain.

    `where` is a CALL of a region. Its arguments are scalars, tile variables (for their indices), or INT expressions of
    the indices of this loop's tile variable and at most one other. `part` "full" visits the tiles
    in which it holds for every element (tiles past the ragged end are never full), "partial" those in which
    it may hold for some and is not known to hold for all, "any" both, in one sweep. Empty tiles are never visited. The
    decision may be conservative: a full tile may be visited as partial, never the reverse.
    """

    name: str
    tiles: Tiles
    body: tuple[Statement, ...]
    where: Expr | None = None
    part: str = "any"
    order: str = "ascending"
    stages: int = 1


@dataclass(frozen=True, slots=True)
class RangeLoop:
    """for name in range(start, stop). `stages`: how many steps' loads are under way at once, where a target can."""

    name: str
    start: Expr
    stop: Expr
    body: tuple[Statement, ...]
    stages: int = 1


@dataclass(frozen=True, slots=True)
class If:
    """Run the body where a scalar condition holds."""

    condition: Expr
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """Code of one kind of worker; consecutive roles of a body run concurrently, `count` workers each."""

    kind: str
    body: tuple[Statement, ...]
    warps: int = 4
    count: int = 1
    registers: int | None = None
    worker: str | None = None


Statement = (
    Alloc | Barriers | Load | Store | Copy | ReduceAdd | ScatterAdd | Fill | Let | Gemm | Reduce | TileAt
    | Commit | WaitGroup | Arrive | Wait | Sync | Grid | TileLoop | RangeLoop | If | Role
)  # fmt: skip

Block = (Grid, TileLoop, RangeLoop, If, Role)


@dataclass(frozen=True, slots=True)
class Program:
    """A whole program. `sizes` fixes dimensions by name (D=64); every other size is known only at run time.

    `free_sizes` are further sizes of a run, which no tensor need have (a number of splits).
    """

    name: str
    params: tuple[Param, ...]
    body: tuple[Statement, ...]
    regions: tuple[Region, ...] = ()
    sizes: tuple[tuple[str, int], ...] = field(default=())
    free_sizes: tuple[str, ...] = ()

    def __str__(self) -> str:
        from .printer import print_program

        return print_program(self)

    def region(self, name: str) -> Region:
        """The region of that name; KeyError when there is none."""
        for region in self.regions:
            if region.name == name:
                return region
        raise KeyError(name)

    @property
    def fixed(self) -> dict[str, int]:
        """Sizes known before run time, by name."""
        return dict(self.sizes)


def statements(body: tuple[Statement, ...]) -> Iterator[Statement]:
    """Every statement of a body, in text order, blocks before their contents."""
    for statement in body:
        yield statement
        if isinstance(statement, Block):
            yield from statements(statement.body)
