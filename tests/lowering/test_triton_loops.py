"""Counted loops on the triton target: what they count, how far they load ahead, and how wide their integers are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilewright.ir.interpreter import interpret as meaning
from tilewright.ir.parser import parse_program
from tilewright.lowering.triton.interpreter import interpret
from tilewright.lowering.triton.module import write_module

TEXT = """@program(D=16)
def steps(
    x: f32[N, D],
    t: f32[G],
    o: out(f32[G, D]),
    p: out(f32[G]),
):
    for g in grid(G):
        acc = zeros(f32[D])
        number = 0.0
        for step in range(g, (N + 15) // 16):
            n = tile(N, 16, step)
            y = load(x[n, :])
            part = reduce_sum(y, axis=n)
            acc = acc + part
        store(o[g, :], acc)
        store(p[g], number)
"""
LOOP, LOAD, SUM = "range(g, (N + 15) // 16)", "load(x[n, :])", "            acc = acc + part\n"
END = "min(g * 32 + 32, N)"


def edited(*edits: tuple[str, str]) -> str:
    text = TEXT
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return text


def source_of(text: str) -> str:
    return write_module(parse_program(text), "sm_90").source


EDITS = {
    "elements": (),
    "stages": ((LOOP, "range(g, (N + 15) // 16, stages=3)"),),
    "numbers": ((SUM, SUM + "            number = number + f32(step * step)\n"),),
    "tile's number": ((SUM, SUM + "            number = number + f32(n)\n"),),
    "whole tiles": ((LOOP, "range(g, N // 16)"),),
    "a product below": ((LOOP, "range(g * 2, (N + 15) // 16)"),),
    "two tiles": ((SUM, SUM + "            m = tile(N, 4, step)\n            z = load(x[m, 3])\n"
                   "            more = reduce_sum(z, axis=m)\n            number = number + more\n"),),
    "a tile of another number": (("tile(N, 16, step)", "tile(N, 16, (N + 15) // 16 - 1 - step + g)"),),
    "rows of a part": ((LOOP, f"range(g * 2, ({END} + 15) // 16)"), (LOAD, f"load(x[n, :], where=index(n) < {END})")),
    "rows beyond a part": ((LOAD, "load(x[n, :], where=index(n) < max(g * 32 + 32, N - 3))"),),
    "tiles": (("for step in range(g, (N + 15) // 16):\n            n = tile(N, 16, step)", "for n in tiles(N, 16, stages=2):"),),
    "tiles with numbers": (
        ("for step in range(g, (N + 15) // 16):\n            n = tile(N, 16, step)", "for n in tiles(N, 16):"),
        (SUM, SUM + "            number = number + f32(n + 1)\n"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_loops_mean_what_the_text_says(name: str) -> None:
    """Generated source in Triton's interpreter against the program's meaning, with one row in the last tile."""
    program = parse_program(edited(*EDITS[name]))
    torch.manual_seed(0)
    x, t = torch.randn(65, 16), torch.zeros(3)
    found = interpret(program, [x, t])
    wanted = meaning(program, {"x": x.numpy(), "t": t.numpy()}, float_type=np.float64)
    for got, (output, exact) in zip(found, wanted.items(), strict=True):
        np.testing.assert_allclose(got.numpy(), exact, rtol=0, atol=2e-5, err_msg=output)


def test_loops_count_elements() -> None:
    """Numbers are computed where the body uses them; a loop of two tiles counts numbers."""
    plain = source_of(edited())
    assert "for n_first in tl.range(g * 16, N, TILE_N):" in plain
    assert "// TILE_N" not in plain
    assert "step = n_first // TILE_N" in source_of(edited(*EDITS["numbers"]))
    assert "for n_first in tl.range(g * 16, N // 16 * 16, TILE_N):" in source_of(edited(*EDITS["whole tiles"]))
    assert "for step in tl.range(g, (N + 15) // 16):" in source_of(edited(*EDITS["two tiles"]))


def test_rows_that_end_before_the_last_are_masked_once() -> None:
    assert "mask=(index_n < tl.minimum(g * 32 + 32, N))[:, None]," in source_of(edited(*EDITS["rows of a part"]))
    beyond = source_of(edited(*EDITS["rows beyond a part"]))
    assert "mask=(index_n[:, None] < N) & (index_n < tl.maximum(g * 32 + 32, N - 3))[:, None]," in beyond


def test_counted_loops_load_ahead() -> None:
    """`stages=` is that of the loop, with and without tiles to count."""
    source = source_of(edited(*EDITS["stages"]))
    assert "in tl.range(g * 16, N, TILE_N, num_stages=3):" in source
    assert "num_stages" not in source_of(edited()).split("def size_class")[0].split("def steps_kernel")[1]
    source = source_of(edited((LOOP, "range(g, (N + 15) // 16, stages=2)"), *EDITS["two tiles"]))
    assert "for step in tl.range(g, (N + 15) // 16, num_stages=2):" in source


def test_integers_have_32_bits_and_offsets_64() -> None:
    """Names of grids and loops are as the text says; rows, and products that are places, are not cut off."""
    flat = edited((LOAD, "load(x[g * G + index(n), :])"), ("t: f32[G]", "t: f32[G], w: f32[N, D]"))
    source = source_of(flat)
    assert "    g = pid\n" in source
    assert "rows_n = index_n.to(tl.int64)" in source
    assert "x + g.to(tl.int64) * G * stride_x_n + rows_n[:, None] * stride_x_n" in source
    assert "index_n = n_first + span_n" in source
