"""Values that go through memory and come back are read where they were stored."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.ir.interpreter import interpret
from tilewright.ir.parser import parse_program
from tilewright.ir.transfer.scratch import forward_scratch

TEXT = """
@program(D=16)
def through(
    q: f32[M, D],
    o: out(f32[M, D]),
):
    tmp = alloc(f32[M], space="global")
    for m in grid(tiles(M, 16)):
        x = load(q[m, :])
        top = reduce_max(x, axis=D)
        acc = zeros(f32[m, D])
        for step in range(0, 3):
            scale = top * 0.5
            store(tmp[m], scale)
            {between}
            back = load(tmp[m])
            acc = acc * back + x
            top = top + 1.0
        store(o[m, :], acc)
"""


def program(between: str):
    lines = [line for line in TEXT.format(between=between).splitlines() if line.strip()]
    return parse_program("\n".join(lines) + "\n")


def test_memory_between_a_store_and_its_load_goes() -> None:
    before = program("")
    after = forward_scratch(before)
    assert "tmp" not in str(after)
    assert "back = scale" in str(after)
    q = np.random.default_rng(0).standard_normal((21, 16)).astype(np.float32)
    assert np.array_equal(interpret(before, {"q": q})["o"], interpret(after, {"q": q})["o"])


@pytest.mark.parametrize("between", ["scale = top * 7.0", "store(tmp[m], top)", "m = tile(M, 16, 0)"])
def test_a_new_name_or_a_new_value_between_is_heeded(between: str) -> None:
    before = program(between)
    after = forward_scratch(before)
    if between.startswith("store"):
        assert "back = top" in str(after)
    else:
        assert "back = load(tmp[m])" in str(after)


def test_memory_that_nobody_reads_goes() -> None:
    text = str(program("")).replace("back = load(tmp[m])", "back = scale")
    assert "store(tmp[m], scale)" in text
    assert "tmp" not in str(forward_scratch(parse_program(text)))


def test_programs_without_memory_of_their_own_stay_the_same() -> None:
    text = str(program("")).replace('    tmp = alloc(f32[M], space="global")\n', "").replace("store(tmp[m], scale)", "pass_ = scale")
    same = parse_program(text.replace("back = load(tmp[m])", "back = pass_"))
    assert forward_scratch(same) is same
