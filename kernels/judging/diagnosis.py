"""What a wrong output means: keys kept or left out by mistake, the head that is read, how far weights are off.

The output is linear in v, so values that are one in a single place show the weights: of the candidate by running it, of
the function by asking the oracle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ...ir.evaluate import Array
from ..oracle import Truth
from .inputs import Inputs

__all__ = ["Weights", "diagnosis", "difference", "weights"]

Output = Callable[[Inputs], Array | None]
MOST_PASSES = 16
MOST_KEYS = 4
LIKE = 1e-2  # relative spread of a factor that is called the same


@dataclass(frozen=True, slots=True)
class Weights:
    """What one row of queries takes of every key: [B, Hkv, N], and how far that may be off."""

    values: Array
    tolerance: float


def diagnosis(
    candidate: Output, truth: Callable[[Inputs], Truth | None], inputs: Inputs, place: tuple[int, ...]
) -> str:
    """One sentence; empty where the weights agree or cannot be had."""
    tolerance = 0.0

    def exactly(given: Inputs) -> Array | None:
        nonlocal tolerance
        found = truth(given)
        tolerance = max(tolerance, found.budget if found else 0.0)
        return None if found is None else found.exact

    wanted = weights(exactly, inputs, place[:3])
    got = weights(candidate, inputs, place[:3])
    if wanted is None or got is None:
        return ""
    group = inputs.sizes["Hq"] // max(inputs.sizes["Hkv"], 1)
    return difference(got, wanted, tolerance, (place[0], place[1] // group, *place[1:3]), ("", "the function"))


def weights(output: Output, inputs: Inputs, row: tuple[int, ...]) -> Array | None:
    """What row (b, h, i) takes of every key [B, Hkv, N]; None where it is too much to ask or goes wrong."""
    v = inputs.tensors[2]
    batch, heads, keys, width = v.shape
    chunks = math.ceil(keys / width)
    if not keys or batch * heads * chunks > MOST_PASSES:
        return None
    found = np.zeros((batch, heads, keys))
    for b, g, c in np.ndindex(batch, heads, chunks):
        told = torch.zeros_like(v)
        count = min(width, keys - c * width)
        ones = torch.arange(count)
        told[b, g, c * width + ones, ones] = 1
        o = output(inputs.holding([*inputs.tensors[:2], told, *inputs.tensors[3:]]))
        if o is None or o.ndim != 4 or o.shape[3] < count:
            return None
        found[b, g, c * width : c * width + count] = o[row][:count]
    return found


def difference(got: Array, wanted: Array, tolerance: float, place: tuple[int, ...], names: tuple[str, str]) -> str:
    """A sentence on two weights [B, Hkv, N] of a row, place = (b, kv head, h, i); empty where they agree.

    names: of what gives the first (empty: the sentence's subject is the row) and the second.
    """
    b, g, h, i = place
    ours, theirs = f" in {names[0]}" if names[0] else "", names[1]
    if got.shape != wanted.shape:
        return ""
    takes, should = (np.abs(np.nan_to_num(w, nan=1.0)) > tolerance for w in (got, wanted))
    foreign = [tuple(map(int, at)) for at in np.argwhere((takes & ~should).any(axis=-1)) if tuple(at) != (b, g)]
    if foreign and not should[foreign[0]].any():
        where = f"batch entry {foreign[0][0]}" if foreign[0][0] != b else f"key head {foreign[0][1]}"
        own = f"batch entry {b}" if foreign[0][0] != b else f"key head {g}"
        return f"head h={h}{ours} of batch entry b={b} reads values of {where}, {theirs} those of {own}"
    more, less = (np.flatnonzero(x) for x in ((takes & ~should)[b, g], (should & ~takes)[b, g]))
    if np.isnan(got[b, g]).any():
        return f"the weights of row i={i} (h={h}){ours} are nan"
    parts = []
    if more.size:
        parts.append(f"row i={i}{ours} keeps {_keys(more)}, which {theirs} leaves out")
    if less.size:
        parts.append(f"row i={i}{ours} leaves out {_keys(less)}, which {theirs} keeps")
    return "; ".join(parts) or _factor(got[b, g], wanted[b, g], tolerance, i, (ours, theirs))


def _factor(got: Array, wanted: Array, tolerance: float, i: int, names: tuple[str, str]) -> str:
    """How weights of the same keys differ."""
    ours, theirs = names
    off = np.abs(got - wanted)
    if not (off > tolerance).any():
        return ""
    there = np.abs(wanted) > tolerance
    ratios = got[there] / wanted[there]
    if there.sum() > 1 and np.ptp(ratios) <= LIKE * np.abs(ratios).max():
        return f"all weights of row i={i}{ours} are {ratios.mean():.4g} times those of {theirs}"
    j = int(off.argmax())
    return f"row i={i}{ours} weighs key j={j} with {got[j]:.4g}, {theirs} with {wanted[j]:.4g}"


def _keys(found: Array) -> str:
    """key j=4, keys j=4, 5 or keys j=4 to 9."""
    if len(found) == 1:
        return f"key j={found[0]}"
    if len(found) > 2 and found[-1] - found[0] == len(found) - 1:
        return f"keys j={found[0]} to {found[-1]}"
    told = ", ".join(str(j) for j in found[:MOST_KEYS])
    return f"keys j={told}" + (f" and {len(found) - MOST_KEYS} more" if len(found) > MOST_KEYS else "")
