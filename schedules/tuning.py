"""Default orchestration per target, architecture, element type and head size: tables of measured choices."""

from __future__ import annotations

from ..ir.dtypes import DType
from ..ir.expr import free_vars, loads
from ..ir.settings import PAIRED
from ..ir.spec import COLUMN, ROW, AttentionSpec
from ..ir.transfer import Orchestration
from .backward_tuning import RECOMPUTE, backward_tiles

# Rows x columns of a CPU tile by widest head dimension (up to and including), first fit. Products in tile registers
# (amx) are so fast that the softmax decides: few rows keep scores, weights and accumulators in the first-level cache,
# and two stages let one tile's scores be multiplied while the weights of the one before are still being stored.
CPU_TILES = ((128, (128, 64)), (1 << 30, (64, 64)))
AMX_TILES = ((256, (32, 128)), (1 << 30, (64, 128)))
# Rows x columns of a GPU block's tile, likewise: the largest that compile without spilling registers. Where operands of
# products live in registers (mma.sync), wide rows leave room for fewer columns. Warps and stages are left to be tuned.
Tiles = dict[DType, tuple[tuple[int, tuple[int, int]], ...]]
GPU_TILES: Tiles = {
    DType.F32: ((64, (64, 32)), (128, (32, 32)), (1 << 30, (32, 16))),
    DType.BF16: ((128, (128, 64)), (256, (64, 32)), (1 << 30, (32, 32))),
}
MMA_SYNC = ("sm_80", "sm_120")
MMA_SYNC_TILES: Tiles = {
    DType.F32: ((64, (64, 32)), (128, (32, 32)), (256, (32, 16)), (1 << 30, (16, 16))),
    DType.BF16: ((64, (128, 64)), (128, (128, 32)), (256, (64, 32)), (1 << 30, (32, 32))),
}
# Forms of a kernel: the names of the expert programs they come from.
DENSE, DECODE, RAGGED = "flash_forward", "flash_decode", "flash_ragged"
# Where rows have addresses of their own, those need registers as well.
RAGGED_MMA_SYNC_TILES: Tiles = {
    DType.F32: MMA_SYNC_TILES[DType.F32],
    DType.BF16: ((64, (128, 64)), (128, (64, 64)), (256, (64, 32)), (1 << 30, (32, 32))),
}
# Decoding reads keys and values where they lie, once: for at most so many rows (queries x heads that share keys), and
# at least so many keys a row. Columns of its tile by widest head dimension.
DECODE_ROWS, DECODE_KEYS_A_ROW = 16, 2
DECODE_COLUMNS = ((128, 256), (1 << 30, 128))
# GPUs split the keys so that every multiprocessor reads some, and merge in the same launch. Columns of a tile, and how
# many parts are merged at once, by bytes an element and widest head dimension: first fit.
SPLIT, SPLIT_PAGED = "flash_split", "flash_split_paged"
DECODE_FORMS = {"cpu": DECODE, "triton": SPLIT}
SPLIT_TILES = (
    (2, 128, (64, 4)),
    (2, 256, (32, 4)),
    (2, 1 << 30, (32, 2)),
    (8, 64, (32, 4)),
    (8, 128, (16, 4)),
    (8, 1 << 30, (16, 2)),
)

# Backward: query rows x keys of a tile by widest head dimension. Where float32 is multiplied, operands are read along
# either axis and tiles have queries as rows; dot products and tile registers want keys as rows. Wider tiles would visit
# less often, but compute more that the diagonal of a causal mask leaves out.
BACKWARD_ROWS, BACKWARD_KEYS = "flash_backward_rows", "flash_backward"
CPU_BACKWARD_TILES = {
    BACKWARD_ROWS: ((256, (64, 64)), (1 << 30, (32, 32))),
    BACKWARD_KEYS: ((128, (64, 128)), (256, (64, 64)), (1 << 30, (32, 32))),
}


def form_for(target: str, rows: int, keys: int) -> str:
    """The form that serves a call; sizes of the call decide, but never its batch, so that bits do not depend on it."""
    is_few = rows <= DECODE_ROWS and keys >= DECODE_KEYS_A_ROW * rows
    return DECODE_FORMS[target] if is_few and target in DECODE_FORMS else DENSE


def choose(spec: AttentionSpec, target: str, arch: str, form: str = DENSE) -> Orchestration:
    """The orchestration that transfer starts from on this target."""
    width = max(spec.head_dim, spec.value_dim)
    if form in (SPLIT, SPLIT_PAGED):
        columns, parts = next(t for size, limit, t in SPLIT_TILES if spec.dtype.bytes <= size and width <= limit)
        return Orchestration((("n", columns), ("c", parts)))
    if form == DECODE:
        return Orchestration((("n", next(columns for limit, columns in DECODE_COLUMNS if width <= limit)),))
    if target == "cpu":
        is_amx = arch == "amx" and spec.dtype is DType.BF16
        rows, columns = next(tiles for limit, tiles in (AMX_TILES if is_amx else CPU_TILES) if width <= limit)
        tiles = ("m", rows), ("n", columns)
        return Orchestration(tiles, stages=2 if is_amx else 1, is_packed=True, is_joined=True)
    tables = GPU_TILES
    if arch in MMA_SYNC:
        tables = RAGGED_MMA_SYNC_TILES if form == RAGGED else MMA_SYNC_TILES
    rows, columns = next(tiles for limit, tiles in tables[_on_gpu(spec.dtype)] if width <= limit)
    return Orchestration((("m", rows), ("n", columns)))


def backward_form(spec: AttentionSpec, target: str, arch: str) -> str:
    """The name of the expert's backward program that suits a target, its architecture, element type and mask.

    A plan of a mask that reads tensors is made from their values; on a GPU that would stop the queue at every call, so
    scores are computed twice there instead, which needs no plan.
    """
    if target == "cpu":
        return BACKWARD_KEYS if spec.dtype is DType.BF16 and arch in PAIRED else BACKWARD_ROWS
    return RECOMPUTE if loads(spec.keep) else BACKWARD_KEYS


def choose_backward(spec: AttentionSpec, target: str, arch: str) -> Orchestration:
    """The orchestration that the transfer of a backward program starts from; `m` are query rows, `n` keys."""
    width = max(spec.head_dim, spec.value_dim)
    if target != "cpu":
        form = backward_form(spec, target, arch)
        rows, columns = backward_tiles(spec.dtype, width, arch, form, reads_pairs=_reads_pairs(spec))
        return Orchestration((("m", rows), ("n", columns)))
    table = CPU_BACKWARD_TILES[backward_form(spec, target, arch)]
    rows, columns = next(tiles for limit, tiles in table if width <= limit)
    return Orchestration((("m", rows), ("n", columns)), is_packed=True)


def _reads_pairs(spec: AttentionSpec) -> bool:
    """Whether the score reads an element of a tensor for every pair of a row and a column."""
    pair = {str(ROW.attr), str(COLUMN.attr)}
    return any(pair <= free_vars(load) for load in loads(spec.score))


def _on_gpu(dtype: DType) -> DType:
    return DType.F32 if dtype is DType.F32 else DType.BF16
