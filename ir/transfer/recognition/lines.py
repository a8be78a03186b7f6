"""The lines of canonical programs: an online softmax over a tile of keys, what closes it, the merging of splits."""

from __future__ import annotations

import math

from ...dtypes import Kind
from ...expr import Expr, Op, apply, call, const, select, var
from ...parser import parse_program
from ...program import Alloc, Grid, Let, Reduce, Statement

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
ROLES = frozenset(
    [
        "q",
        "k",
        "v",
        "o",
        "lse",
        "q_tile",
        "k_tile",
        "v_tile",
        "s",
        "x",
        "top",
        "peak_next",
        "base",
        "rescale",
        "p",
        "total",
        "mass",
        "peak",
        "acc",
        "share",
        "g",
        "b",
        "h",
        "i",
        "j",
        "m",
        "n",
        "score",
        "keep",
        "piece",
        "part",
        "weight",
        "after",
        "kept",
        "o_split",
        "peak_split",
        "mass_split",
        "peak_here",
        "mass_here",
        "sums",
        "peak_both",
        "origin",
        "rows",
        "columns",
        "split",
        "t",
        "sums_there",
        "peak_there",
        "mass_there",
        "rescale_here",
        "rescale_there",
        "length",
        "head",
        "row",
    ]
)
MINUS = const(-math.inf)


def f(name: str) -> Expr:
    """A float tile by name."""
    return var(name, Kind.FLOAT)


def softmax_lines(kept: Expr | None, carried: tuple[str, str], place: tuple[str, str]) -> tuple[Statement, ...]:
    """The step of an online softmax over a tile of keys. `carried`: maximum and sum. `place`: head and row."""
    peak, mass = carried
    score = call("score", (f("s"), *(var(name) for name in ("b", *place, "j"))), Kind.FLOAT) * LOG2E
    x = score if kept is None else select(kept, score, MINUS)
    return (
        Let("x", x),
        Reduce("top", "max", "x", "n"),
        Let("peak_next", apply(Op.MAX, f(peak), f("top"))),
        Let("base", select(apply(Op.EQ, f("peak_next"), MINUS), 0.0, f("peak_next"))),
        Let("rescale", apply(Op.EXP2, f(peak) - f("base"))),
        Let("p", apply(Op.EXP2, f("x") - f("base"))),
        Reduce("total", "sum", "p", "n"),
        Let(mass, f(mass) * f("rescale") + f("total")),
        Let(peak, f("peak_next")),
    )


def closing_lines() -> tuple[Statement, ...]:
    """What a row's sums are multiplied by."""
    return (Let("share", select(apply(Op.EQ, f("mass"), 0.0), 0.0, 1.0 / f("mass"))),)


LSE = select(apply(Op.EQ, f("mass"), 0.0), MINUS, (f("peak") + apply(Op.LOG2, f("mass"))) * LN2)


MERGING = """@program(D={d}, Dv={dv}{free})
def merging(q: f32[B, Hq, M, D], o: out(f32[{o_dims}]), lse: out(f32[B, Hq, M])):
    o_split = alloc(f32[B, Hq, {count}, M, Dv], space="global")
    peak_split = alloc(f32[B, Hq, {count}, M], space="global")
    mass_split = alloc(f32[B, Hq, {count}, M], space="global")
    for b, h, t in grid(B, Hq, tiles(M, {tile})):
        sums = zeros(f32[t, Dv])
        peak = full(f32[t], -inf)
        mass = zeros(f32[t])
        for split in range(0, {count}):
            sums_there = load(o_split[b, h, split, t, :])
            peak_there = load(peak_split[b, h, split, t])
            mass_there = load(mass_split[b, h, split, t])
            peak_both = max(peak, peak_there)
            origin = where(peak_both == -inf, 0.0, peak_both)
            rescale_here = exp2(peak - origin)
            rescale_there = exp2(peak_there - origin)
            mass = mass * rescale_here + mass_there * rescale_there
            sums = sums * rescale_here + sums_there * rescale_there
            peak = peak_both
        share = where(mass == 0.0, 0.0, 1.0 / mass)
        store(o[{o_place}, :], sums * share)
        store(lse[b, h, t], where(mass == 0.0, -inf, (peak + log2(mass)) * 0.6931471805599453))
"""  # the second grid of kernels/programs/flash_decode.txt


def merging(
    count: str, tile: int, sizes: tuple[int, int], free: tuple[str, ...] = (), *, rows_first: bool
) -> tuple[tuple[Alloc, ...], Grid]:
    """The buffers of splits, and the grid that merges them. `rows_first`: the output is [B, M, Hq, Dv].

    `free`: names in the count of splits that no tensor has.
    """
    dims, place = ("B, M, Hq, Dv", "b, t, h") if rows_first else ("B, Hq, M, Dv", "b, h, t")
    named = "".join(f", {name}=size" for name in free)
    text = MERGING.format(free=named, d=sizes[0], dv=sizes[1], count=count, tile=tile, o_dims=dims, o_place=place)
    body = parse_program(text).body
    return tuple(s for s in body if isinstance(s, Alloc)), next(s for s in body if isinstance(s, Grid))
