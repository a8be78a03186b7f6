"""The decode program: against the fp64 formula at every instruction set level, and the same bits in any company."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilewright.ir.interpreter import interpret
from tilewright.ir.parser import parse_program
from tilewright.ir.program import Program
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import retile, transfer
from tilewright.ir.verify import verify
from tilewright.kernels.dtypes import as_array
from tilewright.kernels.references import reference_program
from tilewright.lowering.cpp.target import CpuTarget
from tilewright.lowering.toolchain import supported_isas

from .test_cpp import launch
from .variants import VARIANTS, arguments, check, named_sizes

SPLIT, COLUMNS = 64, 32  # short ones, so that small tensors have several
NATIVE = CpuTarget().default_arch()
QUICK = ("causal-bottom-right", "alibi", "documents", "captured-mask", "sink", "row-sum", "dropout")
SLOW = tuple(name for name in VARIANTS if name not in QUICK)
# batch, heads of keys, rows, columns: no columns, one, whole and ragged splits, more rows than a tile
SHAPES = [(1, 1, 1, 0), (2, 1, 1, 1), (1, 2, 1, 300), (2, 2, 3, 64), (1, 1, 5, 129), (1, 1, 23, 97)]


def decode_program(spec: AttentionSpec, split: int = SPLIT, columns: int = COLUMNS) -> Program:
    text = str(reference_program("flash_decode")).replace("1024", str(split)).replace("1023", str(split - 1))
    return retile(transfer(parse_program(text), spec), {"n": columns})


def drawn(spec: AttentionSpec, shape: tuple[int, int, int, int]) -> tuple[list[torch.Tensor], dict[str, int]]:
    batch, kv_heads, rows, columns = shape
    sizes = named_sizes(spec, batch, kv_heads * spec.group, rows, columns)
    return arguments(spec, sizes), sizes


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_variant_computes_its_formula(name: str) -> None:
    spec = VARIANTS[name].spec(dv=40, group=3)
    program = decode_program(spec)
    verify(program)
    for shape in SHAPES[1:]:
        tensors, sizes = drawn(spec, shape)
        check(spec, tensors, launch(parse_program(str(program)), tensors, sizes, NATIVE))


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize(
    ("dtype", "d", "dv", "group"),
    [
        ("f32", 80, 96, 7),
        ("bf16", 80, 128, 1),
        ("f16", 96, 64, 2),
        pytest.param("bf16", 64, 64, 4, marks=pytest.mark.slow),
        pytest.param("bf16", 256, 96, 16, marks=pytest.mark.slow),
        pytest.param("f32", 64, 64, 1, marks=pytest.mark.slow),
    ],
)
def test_every_level_computes_the_formula(isa: str, dtype: str, d: int, dv: int, group: int) -> None:
    spec = VARIANTS["causal-bottom-right"].spec(d, dv, group, dtype)
    program = decode_program(spec, split=128, columns=64)
    for shape in SHAPES[1:]:
        tensors, sizes = drawn(spec, shape)
        check(spec, tensors, launch(program, tensors, sizes, isa))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("layout", ["keys-before-heads", "strided-columns", "expanded"])
def test_keys_may_lie_anyhow(layout: str, dtype: str) -> None:
    spec = VARIANTS["full"].spec(64, 64, 2, dtype)
    (q, k, v), sizes = drawn(spec, (2, 2, 2, 150))
    lie = {
        "keys-before-heads": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "strided-columns": lambda x: torch.stack([x, x + torch.nan], -1)[..., 0],
        "expanded": lambda x: x[:, :, :1].expand(x.shape),
    }[layout]
    tensors = [lie(x) for x in (q, k, v)]
    check(spec, tensors, launch(decode_program(spec), tensors, sizes, NATIVE))


@pytest.mark.parametrize("name", ["window", "padding"])
def test_splits_that_keep_nothing_add_nothing(name: str) -> None:
    spec = VARIANTS[name].spec()
    for shape in [(1, 1, 1, 400), (1, 2, 2, 333)]:
        tensors, sizes = drawn(spec, shape)
        check(spec, tensors, launch(decode_program(spec), tensors, sizes, NATIVE))


@pytest.mark.parametrize("name", ["full", "sink", "row-sum"])
def test_no_keys_give_nothing(name: str) -> None:
    spec = VARIANTS[name].spec()
    tensors, sizes = drawn(spec, (2, 1, 2, 0))
    o, *lse = launch(decode_program(spec), tensors, sizes, NATIVE)
    assert not o.any()
    if name == "full":
        assert torch.isneginf(lse[0]).all()
    if name == "sink":
        torch.testing.assert_close(lse[0], tensors[3][None, :, None].expand(lse[0].shape))


@pytest.mark.parametrize("name", ["causal-bottom-right", "sink", "sigmoid", "row-sum", "alibi"])
def test_the_interpreter_agrees(name: str) -> None:
    spec = VARIANTS[name].spec(8, 8, 2)
    program = decode_program(spec)
    for shape in [(1, 2, 1, 131), (2, 1, 9, 65)]:
        tensors, _ = drawn(spec, shape)
        named = dict(zip((p.name for p in program.params if not p.is_output), map(as_array, tensors), strict=True))
        found = interpret(program, named)
        check(spec, tensors, [torch.from_numpy(found[p.name]) for p in program.params if p.is_output])


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_sequence_gives_the_same_bits_anywhere_in_a_batch_and_on_any_number_of_threads(dtype: str) -> None:
    spec = VARIANTS["softcap"].spec(64, 64, 3, dtype)
    program = decode_program(spec)
    (q, k, v), sizes = drawn(spec, (1, 2, 2, 300))
    threads = torch.get_num_threads()
    (alone, lse) = launch(program, [q, k, v], sizes, NATIVE)
    others = [torch.randn(5, *x.shape[1:]).to(x.dtype) for x in (q, k, v)]
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            for position in (0, 3, 5):
                batch = [torch.cat([y[:position], x, y[position:]]) for x, y in zip((q, k, v), others, strict=True)]
                o, both = launch(program, batch, sizes | {"B": 6}, NATIVE)
                np.testing.assert_array_equal(o[position].float(), alone[0].float())
                np.testing.assert_array_equal(both[position], lse[0])
    finally:
        torch.set_num_threads(threads)
