"""The cpu target on rows at computed places: gathers, scatters, rows that do not exist, packed sequences and pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tilewright.ir.errors import LoweringError
from tilewright.ir.interpreter import interpret
from tilewright.ir.parser import parse_program
from tilewright.ir.program import Program
from tilewright.kernels.dtypes import as_array, to_torch
from tilewright.lowering.cpp.kernel import render
from tilewright.lowering.cpp.target import CpuTarget

PACKED = (Path(__file__).parents[1] / "ir" / "programs" / "packed_splits.txt").read_text(encoding="utf-8")
SIZES = {"B": 2, "Hq": 6, "Hkv": 2, "M": 29, "N": 200, "C": 1, "S": 3, "D": 64, "Dv": 64}
K_LOAD = "k_tile = load(k[b, g, j, :], where=j < (c + 1) * cut[0])"
MOVED = """@program(D=40)
def moved(
    x: f32[N, D],
    t: i32[N],
    o: out(f32[N, D]),
    p: out(f32[N]),
):
    for n in grid(tiles(N, 32)):
        j = index(n)
        y = load(x[t[j], :], where=t[j] % 3 != 0)
        z = load(x[N - 1 - j, 5])
        store(o[t[j], :], y * 2.0)
        store(p[t[j]], z)
"""


def edited(text: str, old: str, new: str) -> str:
    assert old in text, old
    return text.replace(old, new)


def compare(program: Program, inputs: dict[str, torch.Tensor], sizes: dict[str, int]) -> None:
    """The kernel's outputs against the interpreter's, in exact arithmetic."""
    target = CpuTarget()
    kernel = target.load(target.lower(program, target.default_arch()), program)
    named = dict(inputs)
    for param in program.params:
        if param.is_output:
            shape = [dim if isinstance(dim, int) else sizes[dim] for dim in param.dims]
            named[param.name] = torch.full(shape, torch.nan, dtype=to_torch(param.dtype))
    kernel([named[param.name] for param in program.params], sizes)
    arrays = {name: as_array(tensor) for name, tensor in inputs.items()}
    exact = interpret(program, arrays, float_type=np.float64, sizes=sizes)
    for name, wanted in exact.items():
        got = as_array(named[name].double())
        assert (np.isneginf(got) == np.isneginf(wanted)).all(), name
        finite = np.isfinite(wanted)
        np.testing.assert_allclose(got[finite], wanted[finite], rtol=0, atol=2e-5, err_msg=name)


def packed_inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (2, 6, 29, 64), "k": (2, 2, 200, 64), "v": (2, 2, 200, 64)}
    drawn = {name: torch.randn(shape, generator=generator) / 2 for name, shape in shapes.items()}
    return drawn | {"cut": torch.tensor([80], dtype=torch.int32)}


GATHERED = K_LOAD.replace("j,", "j // 4 * 4 + j % 4,")
PLACES = {
    "rows of several heads": (),
    "gathered keys": ((K_LOAD, GATHERED),),
    "keys that do not exist": ((K_LOAD, GATHERED.replace("where=j < (c + 1) * cut[0]", "where=(j % 7 != 0) & (j < (c + 1) * cut[0])")),),
    "few rows, keys where they lie": (("M, 64)", "M, 16)"), (K_LOAD, GATHERED)),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_packed_heads_and_splits(name: str) -> None:
    text = PACKED
    for old, new in PLACES[name]:
        text = edited(text, old, new)
    compare(parse_program(text), packed_inputs(), dict(SIZES))


def test_rows_are_gathered_and_scattered_by_a_table() -> None:
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(77, 40, generator=generator), torch.randperm(77, generator=generator).to(torch.int32)
    compare(parse_program(MOVED), {"x": x, "t": t}, {"N": 77, "D": 40, **dict.fromkeys(("B", "Hq", "Hkv", "M", "Dv"), 1)})


def test_strides_are_used_where_rows_follow_each_other() -> None:
    plain = render(parse_program(PACKED.replace(K_LOAD, "k_tile = load(k[b, g, j + 0, :])")))
    assert "Places<const float>{k_rows" not in plain
    assert "Places<const float>{k_rows" in render(parse_program(PACKED))


PACKING = """@program(D=64)
def packing(
    q: f32[M, D],
    k: f32[N, D],
    o: out(f32[M, N]),
):
    k_pack = alloc(f32[N, D], layout="columns:32")
    for n in grid(tiles(N, 32)):
        k_block = load(k[index(n), :], where=index(n) < 40)
        store(k_pack[n, :], k_block, where=index(n) < 40)
    for m in grid(tiles(M, 32)):
        q_tile = load(q[m, :])
        for n in tiles(N, 32):
            k_tile = load(k_pack[n, :], where=index(n) < 40)
            s = gemm(q_tile, k_tile)
            store(o[m, n], s)
"""
REFUSED = {
    "another condition": (("load(k_pack[n, :], where=index(n) < 40)", "load(k_pack[n, :], where=index(n) < 41)"), "another where="),
    "stored otherwise": (("store(k_pack[n, :], k_block, where=index(n) < 40)", "store(k_pack[n, :], k_block, where=index(n) < 41)"), "where="),
    "not whole blocks": (("load(k_pack[n, :], where=index(n) < 40)", "load(k_pack[index(n) + 8, :], where=index(n) < 40)"), "in other pieces"),
}  # fmt: skip


def test_packed_rows_that_do_not_exist_are_zero() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = {"q": torch.randn(50, 64, generator=generator), "k": torch.randn(70, 64, generator=generator)}
    compare(parse_program(PACKING), inputs, {"M": 50, "N": 70, "D": 64, **dict.fromkeys(("B", "Hq", "Hkv", "Dv"), 1)})


@pytest.mark.parametrize("name", REFUSED)
def test_packed_memory_is_read_as_it_was_written(name: str) -> None:
    (old, new), reason = REFUSED[name]
    with pytest.raises(LoweringError, match=reason):
        render(parse_program(edited(PACKING, old, new)))
