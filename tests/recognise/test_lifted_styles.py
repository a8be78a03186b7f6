"""Kernels of further styles, lifted: what they compute, confirmed by running, and other specs put into them."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import pytest
from foreign import TARGETS

from tilewright.ir.printer import print_expr
from tilewright.ir.program import Program
from tilewright.ir.transfer import recognise, transfer
from tilewright.ir.transfer.confirm import confirm
from tilewright.ir.verify import verify

pytest.importorskip("triton")

STYLES = Path(__file__).parents[1] / "lift_triton" / "styles"
COMPUTED = {  # score, mask, sink, layout
    "token_table": ("s * 0.17677669529663687", "j <= cached[b] + i", None, "ragged"),
    "token_rows": ("s * 0.17677669529663687", "True", None, "paged"),
    "two_products": ("s * 0.125", "j <= cached[b] + i", None, "ragged"),
    "sink_window": ("s * 0.125", "(M + j <= N + i) & (N + i < M + j + 50)", "sinks[h]", "dense"),
    "whole_pages": ("s * 0.17677669529663687", "True", None, "paged"),
    "parts_by_length": ("s * 0.17677669529663687", "True", None, "paged"),
    "turns_window": (
        "s * 0.17677669529663687 + slopes[h] * (N + i - M - j) * -1.0", "(M + j <= N + i) & (N + i < M + j + 50)",
        "sinks[h]", "dense",
    ),
    "loaded_ahead": ("s * 0.17677669529663687", "True", None, "dense"),
    "block_pointers": ("s * 0.17677669529663687", "True", None, "dense"),
    "gated_rows": (
        "s * 0.17677669529663687 + g_in[b, i, h] * 0.6931471805599453 + g_in[b, j, h] * -0.6931471805599453",
        "j <= i", "sinks[h] * 0.6931471805599453", "dense",
    ),
}  # fmt: skip


@cache
def lifted(name: str) -> Program:
    from tilewright.ir.lift.triton import lift_triton

    spec = importlib.util.spec_from_file_location(f"style_{name}", STYLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lift_triton(module.launch, [module.inputs(**sizes) for sizes in module.EXAMPLES], name).program


@pytest.mark.parametrize("name", COMPUTED)
def test_what_they_compute(name: str) -> None:
    found = recognise(lifted(name))
    spec, sink = found.spec, found.spec.normaliser.sink
    computed = (print_expr(spec.score), print_expr(spec.keep), None if sink is None else print_expr(sink))
    assert (*computed, found.places.layout) == COMPUTED[name]
    assert confirm(lifted(name), found) < 1e-5


@pytest.mark.parametrize("name", COMPUTED)
def test_they_take_other_specs(name: str) -> None:
    made = transfer(recognise(lifted(name)).reference, TARGETS["softcap-window-alibi"])
    verify(made)
    assert "tanh(" in str(made)


def test_one_row_at_a_time_becomes_tiles() -> None:
    found = recognise(lifted("token_rows"))
    assert "one row at a time becomes tiles of 16 rows" in found.notes
    assert "k_tile = load(k[places[start[b] + index(n)], g, :])" in str(found.reference)
    assert "s = gemm(q_tile, k_tile)" in str(found.reference)


def test_two_products_are_one_of_heads_side_by_side() -> None:
    found = recognise(lifted("two_products"))
    assert (found.spec.head_dim, found.spec.value_dim) == (48, 32)
    assert str(found.reference).count("gemm(q_tile, k_tile)") == 1
    assert any("are the last 16 features of q and k" in note for note in found.notes)


def test_tiles_that_begin_at_any_row_are_tiles_of_the_mask() -> None:
    raw, found = str(lifted("sink_window")), recognise(lifted("sink_window"))
    assert "max(m * 64 + N - M - 49, 0) + index(n)" in raw
    assert "for n in tiles(N, 32, where=keep(b, h, m, n)" in str(found.reference)


def test_parts_are_as_many_as_the_longest_sequence_has() -> None:
    text = str(recognise(lifted("parts_by_length")).reference)
    assert "piece(b, h, i, n, split)" in text
    assert "if " not in text


def test_confirm_sees_a_wrong_table() -> None:
    """A program that reads other rows of the cache than the table says is found out."""
    from tilewright.ir.errors import VerificationError
    from tilewright.ir.parser import parse_program

    text = str(lifted("token_table"))
    found = recognise(lifted("token_table"))
    broken = parse_program(text.replace("table[request[e], index(n)]", "table[request[e] * 0, index(n)]"))
    with pytest.raises(VerificationError, match="the program gives"):
        confirm(broken, found)
