"""Every reference has an index for each dimension, and sizes of buffers are integers; what is not so names its line."""

from __future__ import annotations

import pytest

from tilewright.ir.errors import ProgramError
from tilewright.ir.parser import parse_program
from tilewright.ir.verify import verify

TEXT = """@program(D=64)
def staged(
    q: f32[M, D],
    o: out(f32[M, D]),
):
    for m in grid(tiles(M, 16)):
        for step in range(0, {stop}):
            t = tile(M, 16, {number})
        ring = alloc(f32[2, {rows}, D], space="shared")
        bar = barriers(2, arrivals=1)
        copy_async({target}, q[m, :], signal={signal})
        wait({waited}, phase={phase})
        q_tile = load(q[m, :])
        store(o[m, :], q_tile)
"""
RIGHT = {"rows": "16", "target": "ring[0, m, :]", "signal": "bar[0]", "waited": "bar[0]"}
RIGHT |= {"stop": "M // 16", "number": "step", "phase": "0"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "ring[0]"}, "ring has 3 dimensions, but 1 indices are given\n    line 11: copy_async"),
        ({"target": "ring[0, 1, m, :]"}, "ring has 3 dimensions, but 4 indices are given"),
        ({"signal": "bar[0, 1]"}, "bar has 1 dimensions, but 2 indices are given"),
        ({"waited": "bar[0, 1]"}, "bar has 1 dimensions, but 2 indices are given\n    line 12: wait"),
        ({"rows": "inf"}, "a dimension of ring is inf, of kind float; wanted an integer\n    line 9: ring"),
        ({"stop": "M / 16"}, "a bound of range is M / 16, of kind float; wanted an integer\n    line 7: for step"),
        ({"stop": "inf"}, "a bound of range is inf, of kind float"),
        ({"number": "step * 1.0"}, "the number of a tile is step * 1.0, of kind float"),
        ({"phase": "0.0"}, "a phase is 0.0, of kind float"),
    ],
)
def test_references_and_sizes(change: dict[str, str], message: str) -> None:
    verify(parse_program(TEXT.format(**RIGHT)))
    with pytest.raises(ProgramError) as error:
        verify(parse_program(TEXT.format(**RIGHT | change)))
    assert message in str(error.value)
