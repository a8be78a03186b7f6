"""Both backward programs on every instruction set of this machine, their additions in order, and waits that end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tilewright.ir.dtypes import DType
from tilewright.ir.errors import Deadlock, LoweringError
from tilewright.ir.expr import Op, apply
from tilewright.ir.gradient import differentiate
from tilewright.ir.settings import PAIRED
from tilewright.ir.spec import COLUMN, ROW, AttentionSpec, S
from tilewright.ir.transfer import pack_operands, retile
from tilewright.ir.transfer.backward import tile_sums, transfer_backward
from tilewright.kernels.compiled import Compiled, lower_program
from tilewright.kernels.dtypes import to_torch
from tilewright.kernels.gradients.tables import Order, Tables, block_classes, make_tables
from tilewright.kernels.references import reference_program
from tilewright.lowering.toolchain import supported_isas
from tilewright.schedules.tuning import choose_backward

ROWS, KEYS = "flash_backward_rows", "flash_backward"
SIZES = {"B": 2, "Hq": 4, "Hkv": 2, "M": 150, "N": 140}
TILES = {"m": 64, "n": 32}
MOST_SPINS = 2_000_000  # of any wait here; all the work of a run takes some hundreds


def spec_of(dtype: DType, width: int, keep: bool = True) -> AttentionSpec:
    mask = apply(Op.LE, COLUMN, ROW)
    return AttentionSpec("causal", dtype, width, width, 2, score=S * 0.25, **({"keep": mask} if keep else {}))


def compiled_for(form: str, spec: AttentionSpec, isa: str | None = None, *, is_ordered: bool = True) -> Compiled:
    program = transfer_backward(reference_program(form), differentiate(spec), is_ordered=is_ordered)
    return lower_program(tile_sums(pack_operands(retile(program, TILES))), "cpu", isa, spec=spec)


def tensors_for(spec: AttentionSpec) -> list[Tensor]:
    generator, kind = torch.Generator().manual_seed(0), to_torch(spec.dtype)
    b, hq, hkv, m, n, d = *SIZES.values(), spec.head_dim
    shapes = ((b, hq, m, d), (b, hkv, n, d), (b, hkv, n, d), (b, hq, m, d))
    return [torch.randn(shape, generator=generator).to(kind) for shape in shapes]


def exact(tensors: Sequence[Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    """(o, lse) and (dq, dk, dv) of causal attention in fp64."""
    q, k, v, d_o = (tensor.double() for tensor in tensors)
    leaves = [tensor.requires_grad_() for tensor in (q, k, v)]
    scores = q @ k.repeat_interleave(2, 1).mT * 0.25
    seen = torch.arange(SIZES["N"])[None, :] <= torch.arange(SIZES["M"])[:, None]
    scores = scores.masked_fill(~seen, float("-inf"))
    o = torch.softmax(scores, -1) @ v.repeat_interleave(2, 1)
    return (o.detach(), scores.logsumexp(-1).detach()), torch.autograd.grad(o, leaves, d_o)


def tables_for(spec: AttentionSpec, mode: str = "safe") -> Tables:
    classes = block_classes(spec, (TILES["m"], TILES["n"]), SIZES, {})
    return make_tables(classes, SIZES, Order(mode))


def given(compiled: Compiled, tensors: Sequence[Tensor], tables: Tables) -> tuple[list[Tensor], dict[str, int]]:
    (o, lse), _ = exact(tensors)
    q, k, v, d_o = tensors
    named = {"q": q, "k": k, "v": v, "o": o.to(q.dtype), "lse": lse.float(), "d_o": d_o, "d_lse": torch.zeros_like(lse.float())}
    named |= {"jobs": tables.jobs, "lists": tables.lists, "visits": tables.visits}
    return [named[param.name] for param in compiled.inputs], {**SIZES, **compiled.fixed, **tables.sizes}


def gradients(compiled: Compiled, tensors: Sequence[Tensor], tables: Tables) -> list[Tensor]:
    """dq, dk and dv; waits are bounded, so that ranks which nobody keeps are an error and not a test without an end."""
    arguments, sizes = given(compiled, tensors, tables)
    outputs = {param.name: compiled.empty(param, sizes, torch.device("cpu")).fill_(float("nan")) for param in compiled.outputs}
    compiled.launch()([*arguments, *outputs.values()], sizes, most_spins=MOST_SPINS)  # type: ignore[call-arg]
    return [outputs[name] for name in ("dq", "dk", "dv")]


def assert_near(got: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float) -> None:
    for name, ours, theirs in zip(("dq", "dk", "dv"), got, wanted, strict=True):
        error = (ours.double() - theirs).abs().max().item()
        assert error <= tolerance * theirs.abs().max().item(), f"{name}: {error:.3e}"


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize(
    ("form", "dtype", "tolerance"),
    [(ROWS, DType.F32, 1e-5), (KEYS, DType.F32, 1e-5), (ROWS, DType.F16, 3e-3), (KEYS, DType.BF16, 3e-2)],
    ids=lambda value: str(getattr(value, "value", value)),
)
def test_gradients_on_every_instruction_set(form: str, dtype: DType, tolerance: float, isa: str) -> None:
    spec = spec_of(dtype, 32)
    tensors = tensors_for(spec)
    got = gradients(compiled_for(form, spec, isa), tensors, tables_for(spec))
    assert_near(got, exact(tensors)[1], tolerance)


@pytest.mark.parametrize("width", [24, 80])
@pytest.mark.parametrize("form", [ROWS, KEYS])
def test_widths_that_no_vector_divides(form: str, width: int) -> None:
    spec = spec_of(DType.F32, width)
    tensors = tensors_for(spec)
    assert_near(gradients(compiled_for(form, spec), tensors, tables_for(spec)), exact(tensors)[1], 1e-5)


@pytest.mark.parametrize("form", [ROWS, KEYS])
def test_orders_change_bits_and_nothing_else(form: str) -> None:
    """Two orders are both right; each gives its own bits of dq, in order or not."""
    spec = spec_of(DType.F32, 32)
    tensors, wanted = tensors_for(spec), None
    compiled = compiled_for(form, spec)
    found = {mode: gradients(compiled, tensors, tables_for(spec, mode)) for mode in ("ascending", "spt")}
    wanted = exact(tensors)[1]
    for got in found.values():
        assert_near(got, wanted, 1e-5)
    assert not torch.equal(found["ascending"][0], found["spt"][0])
    for mode, got in found.items():
        assert torch.equal(gradients(compiled, tensors, tables_for(spec, mode))[0], got[0])
    free = compiled_for(form, spec, is_ordered=False)
    assert_near(gradients(free, tensors, tables_for(spec)), wanted, 1e-5)


def test_a_table_of_wrong_ranks_ends_in_words() -> None:
    """Rank 1 where nobody has rank 0: the wait gives up and says what it waited for."""
    spec = spec_of(DType.F32, 32)
    compiled, tensors = compiled_for(ROWS, spec), tensors_for(spec)
    tables = tables_for(spec)
    first = (tables.visits[:, 1] == 1) & (tables.visits[:, 2] == 0)
    assert first.any()
    tables.visits[first, 2] = 9
    arguments, sizes = given(compiled, tensors, tables)
    outputs = [compiled.empty(param, sizes, torch.device("cpu")) for param in compiled.outputs]
    with pytest.raises(Deadlock, match=r"waited to add to dq_sum as rank \d+ at tile \(B \d, Hq \d, M 1\), where 0 had added"):
        compiled.launch()([*arguments, *outputs], sizes, most_spins=20_000)  # type: ignore[call-arg]
    assert_near(gradients(compiled, tensors, tables_for(spec)), exact(tensors)[1], 1e-5)


def test_half_products_in_tiles_are_refused_for_bfloat16() -> None:
    """Where products take pairs of bfloat16, operands cannot be read along either axis."""
    for isa in PAIRED:
        with pytest.raises(LoweringError, match="on the cpu a left operand has the shared axis last"):
            compiled_for(ROWS, spec_of(DType.BF16, 32), isa)


@pytest.mark.parametrize("isa", [isa for isa in supported_isas() if isa not in PAIRED])
def test_bfloat16_is_multiplied_as_float32_where_there_is_nothing_better(isa: str) -> None:
    spec = spec_of(DType.BF16, 32)
    assert choose_backward(spec, "cpu", isa).tiles == choose_backward(spec_of(DType.F32, 32), "cpu", isa).tiles
    tensors = tensors_for(spec)
    assert_near(gradients(compiled_for(ROWS, spec, isa), tensors, tables_for(spec)), exact(tensors)[1], 3e-2)


def test_weights_take_the_place_of_scores() -> None:
    """p is computed where s was; where the slope asks for s once more, ds takes that place instead."""
    plain = compiled_for(ROWS, spec_of(DType.F32, 32)).lowered.source
    assert "float* const p = s;" in plain
    assert "float* const ds = dp;" in plain
    capped = AttentionSpec("capped", DType.F32, 32, 32, 2, score=apply(Op.TANH, S * 0.25))
    source = compiled_for(ROWS, capped).lowered.source
    assert "float* const p = s;" not in source
    assert "float* const ds = " in source


def test_what_a_job_loads_once_is_not_packed_for_all() -> None:
    text = str(compiled_for(ROWS, spec_of(DType.F32, 32)).program)
    assert 'q_pack = alloc(f32[B, Hq, M, D], space="global", layout="tiles:64")' in text
    assert "k_pack" not in text
    assert "v_pack" not in text


@pytest.mark.parametrize("form", [ROWS, KEYS])
def test_what_an_earlier_run_left_in_rows_that_do_not_exist_is_not_summed(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of whole tiles leaves NaN in every row of a thread's tiles; the next has 22 rows of 64, on the same thread."""
    spec, threads = spec_of(DType.F32, 32), torch.get_num_threads()
    compiled = compiled_for(form, spec)
    torch.set_num_threads(1)
    try:
        monkeypatch.setitem(SIZES, "M", 64)
        nothing = [torch.full_like(tensor, float("nan")) for tensor in tensors_for(spec)]
        assert gradients(compiled, nothing, tables_for(spec))[0].isnan().all()
        monkeypatch.setitem(SIZES, "M", 22)
        tensors = tensors_for(spec)
        got = gradients(compiled, tensors, tables_for(spec))
    finally:
        torch.set_num_threads(threads)
    assert_near(got, exact(tensors)[1], 1e-5)


def test_rows_that_do_not_exist_are_cleared_before_products_run_along_them() -> None:
    """What an earlier tile left there may be infinite, and zero times that is no number: both such operands are cleared."""
    source = compiled_for(ROWS, spec_of(DType.F32, 32)).lowered.source
    assert source.count("clear_rows<padded_depth<float>(64)>(p, m_rows, ") == 1
    assert source.count("clear_rows<padded_depth<float>(64)>(ds, m_rows, ") == 1
