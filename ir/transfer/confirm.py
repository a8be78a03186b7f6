"""Confirm: a foreign program, its canonical program and its spec give the same numbers on small random inputs.

All three are computed in fp64, the programs by the interpreter. What recognition proved of masks and loops is then seen
to hold, and what it took for granted (a constant rounded, a guard dropped) is seen not to matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..algebra import simplify
from ..dtypes import DType, Kind
from ..errors import VerificationError
from ..evaluate import Array
from ..expr import Op, const, loads, transform
from ..interpreter import interpret
from ..program import Grid, Program
from ..reference import reference
from ..spec import AttentionSpec, TensorSpec
from .recognise import Recognised
from .recognition.arguments import gather, lengths_held, scatter

__all__ = ["confirm"]

TOLERANCE = 1e-5  # of values near 1: constants of kernels are rounded to float32
CANDIDATES = ((37, 53), (41, 41), (1, 53), (1, 1), (64, 64), (128, 128))  # rows and columns to try
TRIES, MOST_ROWS = 1000, 24  # draws of lengths that tensors hold, rows that they leave
FREE = 8  # of a size that no tensor has: parts of the keys
MANY_KEYS = ((3, 777), (1, 777))  # where keys are split, so that every part has some


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs: tensors by the names of the spec, [B, heads, rows, features]; lengths of sequences (rows, columns)."""

    tensors: Mapping[str, Array]
    sizes: Mapping[str, int]
    lengths: tuple[tuple[int, int], ...]


def confirm(program: Program, found: Recognised, seed: int = 0) -> float:
    """The largest difference between the spec and either program, of outputs near 1.

    Raises VerificationError where one of them gives something else, InterpreterError where one goes wrong.
    """
    batch = _draw(program, found, np.random.default_rng(seed))
    wanted, seen = _meaning(found.spec, batch)
    worst = 0.0
    for name, each in (("the program", program), ("its canonical program", found.program)):
        raw = each is program and program is not found.program
        got = _run(each, found, batch, is_raw=raw)
        difference = np.abs(np.where(seen[..., None], got - wanted, 0.0))
        difference = np.where(np.isnan(difference), np.inf, difference)
        scale = max(1.0, float(np.abs(np.where(seen[..., None], wanted, 0.0)).max(initial=0.0)))
        error = float(difference.max(initial=0.0)) / scale
        if not error <= TOLERANCE:
            place = tuple(int(n) for n in np.unravel_index(np.argmax(difference), difference.shape))
            raise VerificationError(
                f"{name} gives {got[place]:.6g} at {list(place)} of the output where the spec {found.spec.name} gives "
                f"{wanted[place]:.6g} (sizes {dict(batch.sizes)}, sequences {list(batch.lengths)})"
            )
        worst = max(worst, error)
    return worst


def _draw(program: Program, found: Recognised, random: np.random.Generator) -> Batch:
    """Random inputs of the first sizes that the spec allows."""
    spec, places = found.spec, found.places
    heads = places.fixed_size(program, places.k, "head") or 2
    batch = places.fixed_size(program, places.q, "batch") or 2
    sizes = {"B": batch, "Hkv": heads, "Hq": heads * spec.group, "D": spec.head_dim, "Dv": spec.value_dim}
    own = {dim: 7 for tensor in spec.captured for dim in tensor.dims if isinstance(dim, str)}
    grids = sum(isinstance(s, Grid) for s in program.body)
    lengths_tried = (*(MANY_KEYS if grids > 1 else ()), *CANDIDATES)
    tried = [{**own, **sizes, "M": m, "N": n} for m, n in lengths_tried]
    sizes = next((one for one in tried if spec.allows(one)), tried[0])
    tensors = {tensor.name: _values(tensor, sizes, random) for tensor in spec.tensors}
    whole = {p.name for p in program.params if p.dtype.kind is Kind.INT}
    for name, raw in (("q", places.q), ("k", places.k), ("v", places.v)):
        if raw in whole:
            tensors[name] = np.round(3.0 * tensors[name])
    begin = spec.head_dim - sum(piece.features for piece in places.more)
    for piece in places.more:
        if piece.is_shared:  # one row of features for all heads
            tensors["k"][..., begin : begin + piece.features] = tensors["k"][:, :1, :, begin : begin + piece.features]
        begin += piece.features
    lengths = [(sizes["M"], sizes["N"])] * batch
    if places.layout != "dense":
        lengths = [(sizes["M"] if places.layout == "paged" else 11 * b + 3, 13 * b + 5) for b in range(batch)]
    if places.is_indirect or (places.layout == "ragged" and _are_rows_held(program, found)):
        lengths = _held(program, found, tensors, lengths, random)
    elif places.layout == "ragged" and _is_one_length(program, found):
        lengths = [(rows, rows) for rows, _ in lengths]
    return Batch(tensors, sizes, tuple(lengths))


def _held(
    program: Program, found: Recognised, tensors: dict[str, Array], lengths: list[tuple[int, int]],
    random: np.random.Generator,
) -> list[tuple[int, int]]:  # fmt: skip
    """Lengths of sequences that tensors hold: what `rows` and `columns` make of numbers drawn for them."""
    places, table = found.places, found.places.table
    known = {"cu_q", "" if places.start is None else str(places.start.attr)}
    known |= set() if table is None else {str(node.attr) for node in loads(table)}
    held = [p.name for p in program.params if not p.is_output and len(p.dims) == 1 and p.dtype.kind is Kind.INT]
    held = [name for name in (held if table is not None else lengths_held(program)) if name not in known]
    drawn: list[tuple[int, int]] = []
    for b, (rows, columns) in enumerate(lengths):
        for _ in range(TRIES):
            values = {name: int(random.integers(0, 40)) for name in held}
            pair = (_length(found, "rows", b, values, rows), _length(found, "columns", b, values, columns))
            if 0 < pair[0] <= MOST_ROWS and pair[1] > 0:
                break
        for name, value in values.items():
            tensors.setdefault(name, np.zeros(len(lengths), np.int64))[b] = value
        drawn.append(pair)
    return drawn


def _are_rows_held(program: Program, found: Recognised) -> bool:
    """Whether tensors of lengths say how many rows a sequence has."""
    region = next((r for r in found.reference.regions if r.name == "rows"), None)
    return region is not None and any(node.attr in lengths_held(program) for node in loads(region.body))


def _length(found: Recognised, name: str, b: int, values: Mapping[str, int], otherwise: int) -> int:
    """A number of rows or columns of sequence b; `otherwise` where it is told by where sequences start."""
    region = next((r for r in found.reference.regions if r.name == name), None)
    if region is None or any(node.attr not in values for node in loads(region.body)):
        return otherwise
    body = transform(region.body, lambda e: const(values[str(e.attr)]) if e.op is Op.LOAD else None)
    length = simplify(body)
    return int(length.attr) if length.op is Op.CONST else otherwise  # type: ignore[call-overload]


def _is_one_length(program: Program, found: Recognised) -> bool:
    """Whether queries and keys have one size, all sequences together."""
    dims = {
        p.name: p.dims[found.places.dims[p.name].index("place")] for p in program.params if p.name in found.places.dims
    }
    return dims.get(found.places.q) == dims.get(found.places.k)


def _values(tensor: TensorSpec, sizes: Mapping[str, int], random: np.random.Generator) -> Array:
    shape = tuple(dim if isinstance(dim, int) else sizes[dim] for dim in tensor.dims)
    if tensor.dtype.kind is Kind.FLOAT:
        return random.standard_normal(shape)
    return random.integers(0, 2 if tensor.dtype is DType.BOOL else 5, shape)


def _meaning(spec: AttentionSpec, batch: Batch) -> tuple[Array, Array]:
    """What the spec says, padded to the longest sequence, and which rows keep a key."""
    shape = tuple(batch.sizes[name] for name in ("B", "Hq", "M", "Dv"))
    if set(batch.lengths) == {(batch.sizes["M"], batch.sizes["N"])}:
        o, lse = reference(spec, *(batch.tensors[tensor.name] for tensor in spec.tensors))
        return o, np.isfinite(lse)
    wanted, seen = np.zeros(shape), np.zeros(shape[:3], np.bool_)
    for b, (rows, columns) in enumerate(batch.lengths):
        cut = {"B": slice(b, b + 1), "M": slice(rows), "N": slice(columns)}
        tensors = []
        for tensor in spec.tensors:
            places = tuple(cut.get(str(dim), slice(None)) for dim in tensor.dims)
            tensors.append(batch.tensors[tensor.name][places])
        o, lse = reference(spec, *tensors)
        wanted[b, :, :rows] = o[0]
        seen[b, :, :rows] = np.isfinite(lse[0])
    return wanted, seen


def _run(program: Program, found: Recognised, batch: Batch, *, is_raw: bool) -> Array:
    """A program's output, [B, Hq, M, Dv]."""
    arguments = scatter(program, found, batch.tensors, batch.lengths, is_raw=is_raw)
    sizes = {**dict.fromkeys(program.free_sizes, FREE), **batch.sizes, **program.fixed}
    got = interpret(program, arguments, float_type=np.float64, sizes=sizes)
    shape = tuple(batch.sizes[name] for name in ("B", "Hq", "M", "Dv"))
    return gather(program, found, got, shape, batch.lengths, is_raw=is_raw)
