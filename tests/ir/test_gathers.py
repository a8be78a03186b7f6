"""Rows at computed places: sequences of any length, pages, packed heads and splits mean what the formula means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.ir.errors import TilewrightError
from tilewright.ir.evaluate import Array
from tilewright.ir.interpreter import explore, interpret
from tilewright.ir.parser import parse_program
from tilewright.ir.verify import verify
from tilewright.kernels.references import reference_program

PACKED = (Path(__file__).parent / "programs" / "packed_splits.txt").read_text(encoding="utf-8")
RAGGED, PAGED = (str(reference_program(name)) for name in ("flash_ragged", "flash_paged"))
CAUSAL = "j <= i + columns(b) - rows(b)"


def edited(text: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return text


def bottom_right(rows: int, columns: int) -> Array:
    return np.arange(columns)[None] <= np.arange(rows)[:, None] + columns - rows


def dense(q: Array, k: Array, v: Array, keep: Array) -> tuple[Array, Array]:
    """Attention of one sequence, heads first, in fp64; rows that keep nothing give zero and -inf."""
    k, v = (np.repeat(x, q.shape[0] // x.shape[0], axis=0) for x in (k, v))
    s = np.where(keep, q @ k.swapaxes(-1, -2), -np.inf)
    peak = s.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(s - np.where(np.isneginf(peak), 0, peak))
    mass = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        lse = np.where(mass == 0, -np.inf, peak + np.log(mass))[..., 0]
    return weights @ v / np.where(mass == 0, 1, mass), lse


def starts(lengths: list[int]) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def ragged_arguments(rows: list[int], columns: list[int], heads: int, groups: int) -> dict[str, Array]:
    random = np.random.default_rng(sum(rows) + 31 * sum(columns))
    total, keys = sum(rows), sum(columns)
    return {
        "q": random.standard_normal((total, heads, 64)) / 8, "k": random.standard_normal((keys, groups, 64)),
        "v": random.standard_normal((keys, groups, 64)), "cu_q": starts(rows), "cu_k": starts(columns),
    }  # fmt: skip


def run_ragged(text: str, given: dict[str, Array], **options: object) -> dict[str, Array]:
    longest = {"M": int(np.diff(given["cu_q"]).max()), "N": int(np.diff(given["cu_k"]).max())}
    sizes = {"B": len(given["cu_q"]) - 1, **longest}
    return interpret(parse_program(text), given, float_type=np.float64, sizes=sizes, **options)  # type: ignore[arg-type]


MASKS: dict[str, Callable[..., Array]] = {
    "True": lambda i, j, rows, columns: np.ones_like(i + j, np.bool_),
    CAUSAL: lambda i, j, rows, columns: j <= i + columns - rows,
    f"({CAUSAL}) & (i + columns(b) - rows(b) - j < 40)": lambda i, j, rows, columns: (
        (j <= i + columns - rows) & (i + columns - rows - j < 40)
    ),
}


@pytest.mark.parametrize("keep", MASKS)
@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (6, 2)])
def test_ragged_is_dense_attention_of_each_sequence(keep: str, heads: int, groups: int) -> None:
    rows, columns = [5, 0, 130, 64, 3], [7, 3, 131, 0, 65]
    given = ragged_arguments(rows, columns, heads, groups)
    out = run_ragged(edited(RAGGED, ("return True", f"return {keep}")), given)
    for b, (m, n) in enumerate(zip(rows, columns, strict=True)):
        q_rows, k_rows = slice(*given["cu_q"][b : b + 2]), slice(*given["cu_k"][b : b + 2])
        mask = MASKS[keep](np.arange(m)[:, None], np.arange(n)[None], m, n)
        o, lse = dense(*(given[x][at].swapaxes(0, 1) for x, at in (("q", q_rows), ("k", k_rows), ("v", k_rows))), mask)
        np.testing.assert_allclose(out["o"][q_rows].swapaxes(0, 1), o, rtol=0, atol=1e-12)
        np.testing.assert_allclose(out["lse"][:, q_rows], lse, rtol=0, atol=1e-11)


def test_a_sequence_has_the_same_bits_wherever_it_is_in_the_batch() -> None:
    given = ragged_arguments([70, 9], [66, 5], 2, 1)
    program = parse_program(RAGGED)
    alone = {**given, "q": given["q"][:70], "k": given["k"][:66], "v": given["v"][:66]}
    alone |= {"cu_q": starts([70]), "cu_k": starts([66])}
    last = {name: np.concatenate([given[name][n:], given[name][:n]]) for name, n in (("q", 70), ("k", 66), ("v", 66))}
    last |= {"cu_q": starts([9, 70]), "cu_k": starts([5, 66])}
    first = interpret(program, alone, sizes={"B": 1, "M": 70, "N": 66})
    other = interpret(program, last, sizes={"B": 2, "M": 200, "N": 66})
    assert (first["o"] == other["o"][9:]).all()
    assert (first["lse"] == other["lse"][:, 9:]).all()


def test_pages_past_a_sequence_are_never_looked_at() -> None:
    random = np.random.default_rng(0)
    lengths, page = np.array([37, 0, 150], np.int32), 16
    table = random.permutation(30).reshape(3, 10).astype(np.int32)
    used = {(b, p) for b, n in enumerate(lengths) for p in range(-(-int(n) // page))}
    table = np.array([[table[b, p] if (b, p) in used else -7 for p in range(10)] for b in range(3)], np.int32)
    q, k, v = (random.standard_normal(shape) for shape in ((3, 9, 4, 64), (30, page, 2, 64), (30, page, 2, 64)))
    given = {"q": q / 8, "k": k, "v": v, "block_table": table, "lengths": lengths}
    out = interpret(parse_program(edited(PAGED, ("return True", "return j <= i + columns(b) - M"))), given, float_type=np.float64,
                    sizes={"N": 160})  # fmt: skip
    for b, n in enumerate(lengths):
        keys, values = (x[table[b, : -(-int(n) // page)]].reshape(-1, 2, 64)[:n].swapaxes(0, 1) for x in (k, v))
        o, lse = dense(q[b].swapaxes(0, 1) / 8, keys, values, bottom_right(9, int(n)))
        np.testing.assert_allclose(out["o"][b].swapaxes(0, 1), o, rtol=0, atol=1e-12)
        np.testing.assert_allclose(out["lse"][b], lse, rtol=0, atol=1e-11)


def packed_arguments() -> dict[str, Array]:
    random = np.random.default_rng(1)
    shapes = {"q": (2, 6, 29, 64), "k": (2, 2, 200, 64), "v": (2, 2, 200, 64)}
    return {name: random.standard_normal(shape) / 3 for name, shape in shapes.items()} | {"cut": np.array([80], np.int32)}


def run_packed(text: str) -> dict[str, Array]:
    program = parse_program(text)
    verify(program)
    return explore(program, packed_arguments(), sizes={"S": 3}, float_type=np.float64, seeds=range(2)).outputs


def test_packed_heads_of_any_ratio_and_splits() -> None:
    given, out = packed_arguments(), run_packed(PACKED)
    total = np.logaddexp.reduce(out["lse"], axis=0)
    o = (np.exp(out["lse"] - total)[..., None] * out["o"]).sum(axis=0)
    for b in range(2):
        expected, _ = dense(given["q"][b], given["k"][b], given["v"][b], bottom_right(29, 200))
        np.testing.assert_allclose(o[b], expected, rtol=0, atol=1e-12)


K_LOAD = "load(k[b, g, j, :], where=j < (c + 1) * cut[0])"
FAULTS = {
    "a row outside": ((K_LOAD, "load(k[b, g, j + 1, :], where=j < (c + 1) * cut[0])"), "touches index 200 of dimension N of k"),
    "a negative row": ((K_LOAD, "load(k[b, g, j - 1, :], where=j >= 0)"), "touches index -1 of dimension N of k"),
    "a row left out": (("where=i < M)", "where=i < M - 1)"), "never writes 2304 of the 66816 elements of output o"),
    "two rows at one place": (("store(o[c, b, h, i,", "store(o[c, b, h, i // 2,"), "rows 0 and 1 of the tile .* lie at the same place"),
    "tiles that overlap": (("tiles(Hq // Hkv * M, 64)", "tiles(Hq // Hkv * M + M, 64)"), "touches index 6 of dimension Hq of q"),
    "both splits write": (("store(lse[c, b,", "store(lse[c * 0, b,"), "data race on lse"),
    "a tile variable too": (("load(q[b, h, i, :])", "load(q[b, h, m, :])"), r"computed over m: write index\(m\) for m too"),
    "rows of another axis": ((K_LOAD, "load(k[b, g, j, :], where=i < 3)"), "must be truth values over n"),
    "two axes": ((K_LOAD, "load(k[b, i % 2, j, :])"), r"computed over axes \['m', 'n'\]"),
    "where is no condition": ((K_LOAD, "load(k[b, g, j, :], where=j)"), "where= of kind int"),
    "an index that is no integer": (("load(q[b, h, i, :])", "load(q[b, 0.5, i, :])"), "an index of kind float"),
    "a domain without its loop": (("part(b, h, i, n, c))", "part(b, h, i, 5, c))"), "does not depend on 'n'"),
    "a domain of the tile's number": (("part(b, h, i, n, c))", "part(b, h, i, n + 1, c))"), r"use index\(n\)"),
    "a domain of no single meaning": (("part(b, h, i, n, c))", "part(b, h, i, n, i32(peak)))"), "'peak', which is no index"),
    "an extent that is a tile": (("tiles(N, 64", "tiles(N + i, 64"), "must be a single integer"),
    "an extent without a limit": (("tiles(Hq // Hkv * M, 64)", "tiles(cut[0] + b, 64)"), "say most="),
    "an extent over its limit": (("tiles(Hq // Hkv * M, 64)", "tiles(87, 64, most=60)"), "87 is 87, more than most=60"),
    "a size that is not there": (("S=size", "S=size, X=size"), "size X is missing"),
    "a size of zero": (("S=size", "S=0"), "NAME=size for one of the run"),
    "where without rows": (("    for b, g, c, m", "    for b in grid(B):\n        z = load(k[b, 0, 0, :], where=b < 1)\n    for b, g, c, m"), "needs rows"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str) -> None:
    edit, reason = FAULTS[fault]
    with pytest.raises(TilewrightError, match=reason):
        run_packed(edited(PACKED, edit))


def test_a_read_of_what_nobody_wrote_is_found_through_a_gather() -> None:
    text = """@program(D=16)
def half(
    x: f32[N, D],
    o: out(f32[N, D]),
):
    held = alloc(f32[N, D])
    for n in grid(tiles(N, 16)):
        t = load(x[n, :])
        store(held[N - 1 - index(n), :], t, where=index(n) > 0)
    for n in grid(tiles(N, 16)):
        t = load(held[index(n), :])
        store(o[n, :], t)
"""
    x = np.arange(20 * 16, dtype=np.float32).reshape(20, 16)
    with pytest.raises(TilewrightError, match=r"reads held\[19, 0\], which nobody has written"):
        interpret(parse_program(text), {"x": x})
    whole = interpret(parse_program(edited(text, (", where=index(n) > 0", ""))), {"x": x})
    np.testing.assert_array_equal(whole["o"], x[::-1])


@settings(max_examples=60, deadline=None)
@given(
    index=st.sampled_from(["j", "j // 3 * 2", "t[j % 4]", "t[0] + j", "(j + 1) % N", "n * 4 + j"]),
    where=st.sampled_from([None, "j < 3", "0 < t[j % 4]", "(j < N) & (t[1] == 0)", "t[0] < 1"]),
    most=st.booleans(),
    free=st.booleans(),
)
def test_text_reads_back(index: str, where: str | None, most: bool, free: bool) -> None:
    option = "" if where is None else f", where={where}"
    text = f"""@program(D=16{", S=size" if free else ""})
def gathered(
    x: f32[N, D],
    t: i32[4],
    o: out(f32[N, D]),
):
    for b, n in grid(4, tiles(t[b] + 1, 16{", most=N" if most else ""})):
        j = index(n)
        y = load(x[{index}, :]{option})
        store(o[{index}, :], y{option})
"""
    program = parse_program(text)
    assert str(program) == text
    assert parse_program(str(program)) == program
