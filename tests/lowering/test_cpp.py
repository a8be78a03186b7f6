"""The cpu target: kernels of many variants against the fp64 formula, at every instruction set level of the machine."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tilewright.ir.errors import LoweringError
from tilewright.ir.parser import parse_program
from tilewright.ir.program import Program
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import Orchestration, transfer
from tilewright.kernels.references import reference_program
from tilewright.lowering.cpp.target import CpuTarget
from tilewright.lowering.toolchain import supported_isas
from tilewright.schedules.tuning import choose

from . import variants
from .variants import QUICK, SLOW, VARIANTS, Variant, check, named_sizes

SHAPES = {"B2-H4-M130-N97": (2, 4, 130, 97), "B1-H2-M1-N1": (1, 2, 1, 1), "B1-H2-M65-N200": (1, 2, 65, 200)}


def arguments(spec: AttentionSpec, shape: tuple[int, int, int, int]) -> tuple[list[torch.Tensor], dict[str, int]]:
    sizes = named_sizes(spec, *shape)
    return variants.arguments(spec, sizes), sizes


def run(spec: AttentionSpec, inputs: list[torch.Tensor], sizes: dict[str, int], isa: str,
        how: Orchestration | None = None) -> list[torch.Tensor]:  # fmt: skip
    program = transfer(reference_program(), spec, how or choose(spec, "cpu", isa))
    return launch(parse_program(str(program)), inputs, sizes, isa)


def launch(program: Program, inputs: list[torch.Tensor], sizes: dict[str, int], isa: str) -> list[torch.Tensor]:
    target = CpuTarget()
    kernel = target.load(target.lower(program, isa), program)
    outputs = []
    for param in program.params:
        if param.is_output:
            shape = [d if isinstance(d, int) else sizes[d] for d in param.dims]
            dtype = inputs[0].dtype if param.name == "o" else torch.float32
            outputs.append(torch.full(shape, torch.nan, dtype=dtype))
    kernel([*inputs, *outputs], sizes)
    return outputs


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_variant_computes_its_formula(name: str) -> None:
    spec = VARIANTS[name].spec(dv=40)
    for shape in SHAPES.values():
        inputs, sizes = arguments(spec, shape)
        check(spec, inputs, run(spec, inputs, sizes, CpuTarget().default_arch()))


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["full", "softcap", "documents", "sink"])
def test_low_precision(name: str, dtype: str) -> None:
    spec = VARIANTS[name].spec(dv=64, group=1, dtype=dtype)
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    check(spec, inputs, run(spec, inputs, sizes, CpuTarget().default_arch()))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("isa", supported_isas())
def test_every_instruction_set(isa: str, dtype: str) -> None:
    spec = VARIANTS["window"].spec(d=24, dv=24, group=1, dtype=dtype)
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    check(spec, inputs, run(spec, inputs, sizes, isa))


@pytest.mark.parametrize("tiles", [(16, 16), (32, 128), (112, 48), (100, 80)])
@pytest.mark.parametrize("is_packed", [True, False])
def test_any_tiles_packed_or_not(tiles: tuple[int, int], is_packed: bool) -> None:
    spec = VARIANTS["causal"].spec(d=32, group=1)
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    how = Orchestration((("m", tiles[0]), ("n", tiles[1])), is_packed=is_packed)
    check(spec, inputs, run(spec, inputs, sizes, CpuTarget().default_arch(), how))


@pytest.mark.parametrize("name", ["causal", "documents", "window"])
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_two_stages_and_either_order_compute_the_same(name: str, order: str) -> None:
    spec = VARIANTS[name].spec(d=32, group=1)
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    how = Orchestration((("m", 32), ("n", 16)), stages=2, is_packed=True)
    text = str(transfer(reference_program(), spec, how)).replace("stages=2", f'order="{order}", stages=2')
    check(spec, inputs, launch(parse_program(text), inputs, sizes, CpuTarget().default_arch()))


def test_stages_need_two_products_that_do_not_depend_on_each_other() -> None:
    text = str(reference_program()).replace('part="full"', 'part="full", stages=2')
    last = "            acc = gemm(p, v_tile, into=acc * rescale)\n"
    single = text.replace(last, "            acc = acc * rescale\n", 1)
    with pytest.raises(LoweringError, match="overlap two products; this loop has 1"):
        CpuTarget().lower(parse_program(single), "portable")
    tied = text.replace(last, last + "            q_tile = load(q[b, h, m, :])\n", 1)
    with pytest.raises(LoweringError, match="cannot start the next tile early because of q_tile"):
        CpuTarget().lower(parse_program(tied), "portable")


def test_indices_of_branches_not_taken_stay_inside() -> None:
    far = "where(i - j < 9, table[(i - j) * 100000000, h], 0.0)"
    spec = Variant(score=f"s * 0.2 + {far}", keep="i == j", captured="table: f32[17, Hq]").spec(d=32, group=1)
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    table = inputs[3]
    outputs = run(spec, inputs, sizes, CpuTarget().default_arch())
    scores = (inputs[0][:, :, :97] * inputs[1]).sum(-1) * 0.2 + table[0][None, :, None]
    np.testing.assert_allclose(outputs[1][:, :, :97].numpy(), scores.numpy(), rtol=1e-4, atol=1e-5)


def test_divisions_by_zero_that_nobody_uses_do_not_trap() -> None:
    part = "f32(h // width[()] + (h + 7) % width[()])"  # used twice, so computed before the choice
    score = f"s * 0.2 + where(width[()] > 0, {part} + sqrt({part}), 0.5)"
    spec = Variant(score=score, captured="width: i32[()]").spec(d=16, group=1)
    source = CpuTarget().lower(transfer(reference_program(), spec, choose(spec, "cpu", "portable")), "portable").source
    assert re.search(r"const \w+ t\d* = .*floor_mod\(h \+ 7, .*floor_div\(h, ", source)
    inputs, sizes = arguments(spec, SHAPES["B1-H2-M65-N200"])
    for width in (0, 3):
        inputs[3] = torch.tensor(width, dtype=torch.int32)
        check(spec, inputs, run(spec, inputs, sizes, CpuTarget().default_arch()))


def test_any_strides() -> None:
    spec = VARIANTS["full"].spec(d=32, group=1)
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    inputs[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    inputs[1] = inputs[1].transpose(2, 3).contiguous().transpose(2, 3)
    inputs[2] = torch.stack([inputs[2], inputs[2]], dim=-1)[..., 0]
    check(spec, inputs, run(spec, inputs, sizes, CpuTarget().default_arch()))


def test_a_tile_that_does_not_fill_vectors_is_refused() -> None:
    text = str(reference_program()).replace("tiles(N, 64", "tiles(N, 40")
    with pytest.raises(LoweringError, match="multiple of 16"):
        CpuTarget().lower(parse_program(text), "portable")


def test_roles_are_refused_by_name() -> None:
    text = str(reference_program()).replace("            j = index(n)\n", "            sync()\n            j = index(n)\n", 1)
    with pytest.raises(LoweringError, match=r"sync\(\).*no form"):
        CpuTarget().lower(parse_program(text), "portable")
