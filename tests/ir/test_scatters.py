"""scatter_add: its meaning, what it leaves out, and what is wrong with a misuse; the cpu target against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilewright.ir.errors import DataRace, LoweringError, OutOfBounds, ProgramError, UninitialisedRead
from tilewright.ir.interpreter import interpret
from tilewright.ir.parser import parse_program
from tilewright.ir.verify import verify
from tilewright.lowering.cpp.target import CpuTarget

PAIRS = """@program()
def tables(
    x: f32[H, M, N],
    place: i32[M, N],
    y: out(f32[H, T]),
    z: out(f32[3, M]),
    w: out(f32[()]),
):
    for h in grid(H):
        for t in tiles(T, 16):
            store(y[h, t], 0.0)
        for m in tiles(M, 32):
            i = index(m)
            for n in tiles(N, 16):
                j = index(n)
                s = load(x[h, m, n])
                double = s * 2.0
                scatter_add(y[h, place[i, j]], double, where=(s != 0.0) & (j != 3))
    for whole in grid(1):
        store(w[()], 0.0)
        for m in tiles(M, 32):
            for c in range(0, 3):
                store(z[c, m], 0.0)
            row = load(x[0, m, 2])
            scatter_add(z[1, index(m) // 2], row)
            scatter_add(z[2, M - 1], row, where=index(m) % 3 == 0)
            scatter_add(w[()], row)
"""


def edited(old: str, new: str) -> str:
    assert old in PAIRS, old
    return PAIRS.replace(old, new)


def arguments(h: int = 2, m: int = 41, n: int = 37, size: int = 40) -> dict[str, np.ndarray]:
    random = np.random.default_rng(m)
    x = random.integers(-3, 4, (h, m, n)).astype(np.float32)  # small integers: sums are exact in any order
    place = random.integers(0, size, (m, n)).astype(np.int32)
    place[5] = 4  # all lanes of a row at one place
    place[6], place[7] = np.arange(n), np.arange(n)[::-1]  # up and down
    place[9] = np.arange(n) // 5
    x[:, 5:8] = np.arange(1, n + 1)
    place[:, 3] = -(2**30)
    x[:, 8, 5:9] = 0.0
    place[8, 5:9] = 2**30  # what is left out may have any index
    return {"x": x, "place": place}


def expected(x: np.ndarray, place: np.ndarray, size: int = 40) -> dict[str, np.ndarray]:
    h, m, _ = x.shape
    y = np.zeros((h, size), np.float32)
    is_added = (x != 0) & (np.arange(x.shape[2]) != 3)
    for head in range(h):
        np.add.at(y[head], place[is_added[head]], 2 * x[head][is_added[head]])
    z = np.zeros((3, m), np.float32)
    row = x[0, :, 2]
    np.add.at(z[1], np.arange(m) // 2, row)
    z[2, m - 1] = row[::3].sum()
    return {"y": y, "z": z, "w": row.sum(dtype=np.float32)}


def test_text_is_the_program():
    program = parse_program(PAIRS)
    verify(program)
    assert str(program) == PAIRS


def test_means_sums_at_places():
    given = arguments(m=32)
    got = interpret(parse_program(PAIRS), given, sizes={"T": 40})
    for name, wanted in expected(**given).items():
        np.testing.assert_array_equal(got[name], wanted)


@pytest.mark.parametrize("m", [32, 17])
def test_cpu_target(m):
    given = arguments(m=m)
    program = parse_program(PAIRS)
    target = CpuTarget()
    kernel = target.load(target.lower(program, target.default_arch()), program)
    out = {"y": torch.empty(2, 40), "z": torch.empty(3, m), "w": torch.empty(())}
    named = {name: torch.from_numpy(x) for name, x in given.items()} | out
    sizes = {"H": 2, "M": m, "N": 37, "T": 40, "B": 1, "Hq": 1, "Hkv": 1, "D": 1, "Dv": 1}
    kernel([named[param.name] for param in program.params], sizes)
    for name, wanted in expected(**given).items():
        np.testing.assert_array_equal(out[name].numpy(), wanted)


def test_two_instances_at_one_place_are_a_race():
    program = parse_program(edited("scatter_add(y[h, place[i, j]]", "scatter_add(y[0, place[i, j]]"))
    with pytest.raises(DataRace, match="data race on y"):
        interpret(program, arguments(), sizes={"T": 40})


def test_places_outside():
    program = parse_program(edited(", where=(s != 0.0) & (j != 3))", ", where=s != 0.0)"))
    with pytest.raises(OutOfBounds, match=r"adds at index -1073741824 of dimension T of y.*where="):
        interpret(program, arguments(), sizes={"T": 40})


def test_adding_to_what_nobody_wrote():
    program = parse_program(edited("            store(y[h, t], 0.0)", "            store(y[h, t], 0.0, where=index(t) < 2)"))
    with pytest.raises(UninitialisedRead, match="adds to y"):
        interpret(program, arguments(), sizes={"T": 40})


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("scatter_add(y[h, place[i, j]]", "scatter_add(y[place[i, j]]", "y has 2 dimensions, but 1 indices"),
        ("y: out(f32[H, T])", "y: out(bf16[H, T])", "sums are f32"),
        ("scatter_add(w[()], row)", "scatter_add(w[()], 1.0)", "adds a tile over tile variables"),
        ("scatter_add(z[1, index(m) // 2], row)", "scatter_add(z[1, m], row)", r"write index\(m\)"),
        ("scatter_add(z[1, index(m) // 2], row)", "scatter_add(z[1, m], row, where=x[0, 0, index(t)] == 0.0)", r"write index\(m\)"),
        ("where=index(m) % 3 == 0", "where=index(n) % 3 == 0", r"places over \['n'\]"),
        ("y: out(f32[H, T])", "y: f32[H, T]", "is an input"),
    ],
)  # fmt: skip
def test_misuse(old, new, reason):
    text = edited(old, new)
    if "is an input" in reason:
        text = text.replace("            store(y[h, t], 0.0)\n", "            k = index(t)\n")
    with pytest.raises(ProgramError, match=reason):
        verify(parse_program(text))


def test_an_input_is_not_added_to():
    program = parse_program(edited("scatter_add(w[()], row)", "scatter_add(x[0, 0, 0], row)"))
    with pytest.raises(ProgramError, match="x is an input and cannot be written"):
        interpret(program, arguments(), sizes={"T": 40})


def test_cpu_scatters_rows_and_columns():
    old = "                scatter_add(y[h, place[i, j]], double, where=(s != 0.0) & (j != 3))"
    new = old + "\n                for t in tiles(T, 16):\n                    scatter_add(w[()], f32(i + j + index(t)))"
    with pytest.raises(LoweringError, match="scatters rows x columns"):
        CpuTarget().lower(parse_program(edited(old, new)), "avx2")


def test_cpu_sums_whole_tiles_only():
    text = edited("            scatter_add(w[()], row)", "            top = reduce_max(row, axis=m)\n            store(w[()], top)")
    with pytest.raises(LoweringError, match="sums whole tiles"):
        CpuTarget().lower(parse_program(text), "avx2")
