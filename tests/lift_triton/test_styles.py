"""Kernels of further styles are lifted as they stand; the slow half runs them in Triton's interpreter."""

from __future__ import annotations

import pytest

from tilewright.ir.parser import parse_program
from tilewright.ir.program import Grid, If, ReduceAdd, statements

from .kernels import STYLES, lifted, module


@pytest.mark.parametrize("name", STYLES)
def test_lifted(name: str) -> None:
    program = lifted(name).program
    assert parse_program(str(program)) == program
    assert any(isinstance(statement, Grid) for statement in program.body)


@pytest.mark.slow
@pytest.mark.parametrize("name", STYLES)
def test_kernel_and_program_agree(name: str) -> None:
    from tilewright.ir.lift.triton.selfcheck import verify_lift

    fixture = module(name)
    found = verify_lift(lifted(name), fixture.launch, [fixture.inputs(**sizes) for sizes in fixture.SMALL])
    assert found
    assert all(item.is_equal for item in found)


def test_what_their_programs_say() -> None:
    """Signs of each style in the text."""
    texts = {name: str(lifted(name).program) for name in STYLES}
    assert "full(f32[m], sink_2)" in texts["sink_window"]
    assert "slopes[h]" in texts["alibi_key_mask"]
    assert "n = tile(N, 32, cols[step])" in texts["block_lists"]
    assert any(isinstance(s, If) for s in statements(lifted("block_lists").program.body))
    assert "ids[b, index(m)] == ids[b, index(n)]" in texts["document_prefix"]
    assert "index(m) % M, g * (Hq // Hkv) + index(m) // M" in texts["packed_groups"]
    assert "for b, h, m in grid(B, Hq, tiles(N, 64)):" in texts["persistent_tiles"]
    assert "for b, h, m in grid(B, Hq, tiles(M, 64)):" in texts["turns_window"]
    assert "range(max((m * 64 + N - M - 49) // 32, 0), " in texts["turns_window"]
    assert "tiles(N, 32):" in texts["loaded_ahead"]
    assert texts["loaded_ahead"].count("load(k[") == 1
    assert "key = load(k[b, n, h // 2, :])" in texts["gated_rows"]
    assert "key = load(k[table[b, n], index(n) - n * 16, g, :])" in texts["whole_pages"]
    assert any(isinstance(s, ReduceAdd) for s in statements(lifted("atomic_backward").program.body))
    assert "store(dq[z0, z1, z2, :], 0.0)" in texts["atomic_backward"]
    assert "query = load(q[b, h, m, :])" in texts["identity_aligned"]
    assert "x = gemm(query, key)" in texts["identity_aligned"]
    assert "index(n) <= N + index(m) - M" in texts["identity_aligned"]
    assert "l = alloc(f32[B * Hq, M], space=\"global\")" in texts["identity_aligned"]
    assert "store(l[b * Hq + h, m], mass)" in texts["identity_aligned"]
