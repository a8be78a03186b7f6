"""The cpu target: kernels of many variants against the fp64 formula, at every instruction set level of the machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tilewright.ir.dtypes import DType
from tilewright.ir.errors import LoweringError
from tilewright.ir.parser import parse_program, parse_spec
from tilewright.ir.program import Program
from tilewright.ir.reference import reference
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import Orchestration, transfer
from tilewright.kernels.references import reference_program
from tilewright.lowering.cpp.target import CpuTarget
from tilewright.lowering.toolchain import supported_isas
from tilewright.schedules.tuning import choose

TEXT = """\
@attention(D={d}, Dv={dv}, group={group})
def variant(q: {t}[B, Hq, M, D], k: {t}[B, Hkv, N, D], v: {t}[B, Hkv, N, Dv]{captured}):
    def score(s: float, b: int, h: int, i: int, j: int):
        return {score}

    def keep(b: int, h: int, i: int, j: int):
        return {keep}

{weight}    return {normaliser}
"""


@dataclass(frozen=True)
class Variant:
    """One spec and the tensors it captures, as functions of the sizes."""

    score: str = "s * 0.2"
    keep: str = "True"
    captured: str = ""
    normaliser: str = "softmax()"
    weight: str = ""

    def spec(self, d: int = 32, dv: int = 32, group: int = 1, dtype: str = "f32") -> AttentionSpec:
        weight = ""
        if self.weight:
            weight = f"    def weight(s: float, b: int, h: int, i: int, j: int):\n        return {self.weight}\n\n"
        captured = f", {self.captured}" if self.captured else ""
        return parse_spec(
            TEXT.format(d=d, dv=dv, group=group, t=dtype, captured=captured, score=self.score, keep=self.keep,
                        weight=weight, normaliser=self.normaliser)
        )  # fmt: skip


VARIANTS = {
    "full": Variant(),
    "causal": Variant(keep="j <= i"),
    "causal-bottom-right": Variant(keep="j <= i + N - M"),
    "window": Variant(keep="(j <= i) & (i - j < 40)"),
    "softcap": Variant(score="20.0 * tanh(s * 0.05)", keep="j <= i"),
    "alibi": Variant(score="s * 0.2 - slopes[h] * f32(i - j)", keep="j <= i", captured="slopes: f32[Hq]"),
    "bias": Variant(score="s * 0.2 + bias[h, i, j]", captured="bias: f32[Hq, M, N]"),
    "bias-bf16": Variant(score="s * 0.2 + bias[0, i, j]", captured="bias: bf16[1, M, N]"),
    "relative-table": Variant(score="s * 0.2 + table[min(max(i - j, 0 - 8), 8) + 8, h]", captured="table: f32[17, Hq]"),
    "documents": Variant(keep="(doc[b, i] == doc[b, j]) & (j <= i)", captured="doc: i32[B, N]"),
    "captured-mask": Variant(keep="mask[b, 0, i, j]", captured="mask: bool[B, 1, M, N]"),
    "padding": Variant(keep="j < lengths[b]", captured="lengths: i64[B]"),
    "prefix": Variant(keep="(j <= i) | (j < prefix[b])", captured="prefix: i32[B]"),
    "dilated": Variant(keep="(j <= i) & ((i - j) % 3 == 0)"),
    "sink": Variant(normaliser="softmax(sink=sinks[h])", keep="j <= i", captured="sinks: f32[Hq]"),
    "sigmoid": Variant(normaliser="elementwise()", weight="sigmoid(s - log(f32(N)))", keep="j <= i"),
    "relu2": Variant(normaliser="elementwise()", weight="max(s, 0.0) * max(s, 0.0) / f32(N)"),
    "row-sum": Variant(normaliser="row_sum(epsilon=0.001)", weight="exp(s)"),
    "nothing-kept": Variant(keep="(j <= i) & (i % 2 == 0)"),
}
SHAPES = {"B2-H4-M130-N97": (2, 4, 130, 97), "B1-H2-M1-N1": (1, 2, 1, 1), "B1-H2-M65-N200": (1, 2, 65, 200)}


def tensor(name: str, dims: tuple[object, ...], dtype: DType, sizes: dict[str, int]) -> torch.Tensor:
    shape = [d if isinstance(d, int) else sizes[str(d)] for d in dims]
    if name == "doc":
        return (torch.arange(shape[-1]) // 37).expand(shape).to(torch.int32).contiguous()
    if dtype is DType.BOOL:
        return torch.rand(shape) < 0.6
    if dtype in (DType.I32, DType.I64):
        return torch.randint(1, sizes["N"] + 1, shape, dtype=torch.int32 if dtype is DType.I32 else torch.int64)
    return torch.randn(shape).to(torch.bfloat16 if dtype is DType.BF16 else torch.float32)


def arguments(spec: AttentionSpec, shape: tuple[int, int, int, int]) -> tuple[list[torch.Tensor], dict[str, int]]:
    torch.manual_seed(0)
    b, h, m, n = shape
    if any(d in ("M", "N") for t in spec.captured for d in t.dims) and "doc" in {t.name for t in spec.captured}:
        m = n
    sizes = {"B": b, "Hq": h, "Hkv": h // spec.group, "M": m, "N": n, "D": spec.head_dim, "Dv": spec.value_dim}
    dtype = {DType.F32: torch.float32, DType.BF16: torch.bfloat16, DType.F16: torch.float16}[spec.dtype]
    tensors = [torch.randn([sizes[str(d)] for d in t.dims]).to(dtype) for t in spec.tensors[:3]]
    return tensors + [tensor(t.name, t.dims, t.dtype, sizes) for t in spec.captured], sizes


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


def check(spec: AttentionSpec, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
    arrays = [x.float().numpy() if x.dtype.is_floating_point else x.numpy() for x in inputs]
    exact, lse = reference(spec, *arrays)
    unit = 2.0**-8 if spec.dtype is DType.BF16 else 2.0**-11 if spec.dtype is DType.F16 else 2.0**-18
    np.testing.assert_allclose(outputs[0].double().numpy(), exact, atol=unit * max(1.0, np.abs(exact).max()), rtol=0)
    if len(outputs) > 1:
        finite = np.isfinite(lse)
        assert np.array_equal(np.isfinite(outputs[1].numpy()), finite)
        np.testing.assert_allclose(outputs[1].numpy()[finite], lse[finite], atol=unit, rtol=unit)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_computes_its_formula(name: str) -> None:
    spec = VARIANTS[name].spec(dv=40, group=2)
    for shape in SHAPES.values():
        inputs, sizes = arguments(spec, shape)
        check(spec, inputs, run(spec, inputs, sizes, CpuTarget().default_arch()))


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["full", "softcap", "documents", "sink"])
def test_low_precision(name: str, dtype: str) -> None:
    spec = VARIANTS[name].spec(d=40, dv=64, dtype=dtype)
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    check(spec, inputs, run(spec, inputs, sizes, CpuTarget().default_arch()))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("isa", supported_isas())
def test_every_instruction_set(isa: str, dtype: str) -> None:
    spec = VARIANTS["window"].spec(d=24, dv=24, dtype=dtype)
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    check(spec, inputs, run(spec, inputs, sizes, isa))


@pytest.mark.parametrize("tiles", [(16, 16), (32, 128), (112, 48), (100, 80)])
@pytest.mark.parametrize("is_packed", [True, False])
def test_any_tiles_packed_or_not(tiles: tuple[int, int], is_packed: bool) -> None:
    spec = VARIANTS["causal"].spec()
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    how = Orchestration((("m", tiles[0]), ("n", tiles[1])), is_packed=is_packed)
    check(spec, inputs, run(spec, inputs, sizes, CpuTarget().default_arch(), how))


@pytest.mark.parametrize("name", ["causal", "documents", "window"])
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_two_stages_and_either_order_compute_the_same(name: str, order: str) -> None:
    spec = VARIANTS[name].spec()
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
    spec = Variant(score=f"s * 0.2 + {far}", keep="i == j", captured="table: f32[17, Hq]").spec()
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    table = inputs[3]
    outputs = run(spec, inputs, sizes, CpuTarget().default_arch())
    scores = (inputs[0][:, :, :97] * inputs[1]).sum(-1) * 0.2 + table[0][None, :, None]
    np.testing.assert_allclose(outputs[1][:, :, :97].numpy(), scores.numpy(), rtol=1e-4, atol=1e-5)


def test_any_strides() -> None:
    spec = VARIANTS["full"].spec()
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
