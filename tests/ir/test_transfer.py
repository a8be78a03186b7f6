"""Transfer by rules: what each pass changes, as golden text, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.errors import ScheduleError
from tilewright.ir.expr import Op, apply, load
from tilewright.ir.parser import parse_program
from tilewright.ir.program import Program
from tilewright.ir.spec import BATCH, COLUMN, HEAD, ROW, AttentionSpec, Normaliser, NormaliserKind, S, TensorSpec
from tilewright.ir.transfer import Orchestration, pack_operands, retile, set_launch, transfer, transfer_semantics
from tilewright.ir.verify import verify
from tilewright.kernels.references import reference_program

SINKS = TensorSpec("sinks", DType.F32, ("Hq",))
DOCUMENTS = TensorSpec("doc", DType.I32, ("B", "N"))


def document(axis: object) -> object:
    return load("doc", (BATCH, axis), Kind.INT)  # type: ignore[arg-type]


SPECS = {
    "softcap-window": AttentionSpec(
        "softcap_window", DType.BF16, 64, 64, group=4,
        score=50.0 * apply(Op.TANH, S * 0.0025), keep=(COLUMN <= ROW) & (ROW - COLUMN < 512),
    ),
    "sink": AttentionSpec(
        "sink", DType.F32, 64, 64, captured=(SINKS,), score=S * 0.125, keep=COLUMN <= ROW,
        normaliser=Normaliser(sink=load("sinks", (HEAD,), Kind.FLOAT)),
    ),
    "sigmoid": AttentionSpec(
        "sigmoid", DType.F32, 64, 80,
        normaliser=Normaliser(NormaliserKind.ELEMENTWISE, weight=apply(Op.SIGMOID, S)),
    ),
    "row-sum": AttentionSpec(
        "row_sum", DType.F16, 64, 64, keep=COLUMN <= ROW,
        normaliser=Normaliser(NormaliserKind.ROW_SUM, weight=apply(Op.MAX, S, 0.0), epsilon=1e-6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_transferred_programs(name: str, golden: Callable[[str, str], None]) -> None:
    program = transfer(reference_program(), SPECS[name])
    verify(program)
    assert parse_program(str(program)) == program
    golden(f"transfer-{name}", str(program))


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.BF16])
def test_a_reference_that_rounds_its_weights_rounds_to_the_type_of_the_spec(dtype: DType) -> None:
    spec = AttentionSpec("plain", dtype, 64, 64, score=S * 0.125)
    once = transfer(reference_program(), AttentionSpec("low", DType.BF16, 64, 64))
    assert str(once).count("p_low = bf16(p)") == 2
    assert transfer(once, spec) == transfer(reference_program(), spec)


def test_orchestration(golden: Callable[[str, str], None]) -> None:
    how = Orchestration((("m", 128), ("n", 32)), warps=8, stages=3, is_packed=True)
    program = transfer(reference_program(), SPECS["softcap-window"], how)
    verify(program)
    golden("transfer-orchestrated", str(program))


def test_retile_names_an_unknown_tile_variable() -> None:
    with pytest.raises(ScheduleError, match=r"'rows' is not a tile variable.*\['m', 'n'\]"):
        retile(reference_program(), {"rows": 32})


def test_launch_settings_reach_every_grid_and_loop() -> None:
    text = str(set_launch(reference_program(), 4, 2))
    assert text.count("warps=4") == 1
    assert text.count("stages=2") == 2


def test_packing_leaves_a_program_without_products_alone() -> None:
    text = """@program(D=64)
def copy(q: f32[B, Hq, M, D], o: out(f32[B, Hq, M, D])):
    for b, h, m in grid(B, Hq, tiles(M, 64)):
        x = load(q[b, h, m, :])
        store(o[b, h, m, :], x)
"""
    program = parse_program(text)
    assert pack_operands(program) == program


RENAMINGS = [
    ("v: f32", "w: f32", "sigmoid", "q, k, v and o are needed"),
    ("score(", "points(", "sigmoid", "no region 'score'"),
    ("peak", "highest", "sink", "no tiles peak and mass"),
]


def renamed(old: str, new: str) -> Program:
    text = str(reference_program()).replace(old, new)
    return parse_program(text.replace("load(v[", "load(w[") if old == "v: f32" else text)


@pytest.mark.parametrize(("old", "new", "spec", "reason"), RENAMINGS)
def test_the_passes_refuse_a_reference_that_lacks_something(old: str, new: str, spec: str, reason: str) -> None:
    with pytest.raises(ScheduleError, match=reason):
        transfer_semantics(renamed(old, new), SPECS[spec])


@pytest.mark.parametrize(("old", "new", "spec", "reason"), RENAMINGS)
def test_a_reference_in_other_words_is_recognised_first(old: str, new: str, spec: str, reason: str) -> None:
    assert str(transfer(renamed(old, new), SPECS[spec])) == str(transfer(reference_program(), SPECS[spec]))


def test_a_captured_tensor_may_not_hide_a_name_of_the_program() -> None:
    spec = AttentionSpec("clash", DType.F32, 64, 64, captured=(TensorSpec("acc", DType.F32, ("Hq",)),))
    with pytest.raises(ScheduleError, match=r"\['acc'\] would hide"):
        transfer(reference_program(), spec)
