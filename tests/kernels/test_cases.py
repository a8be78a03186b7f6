"""The case list covers what the kernels get wrong first; tensors are reproducible and laid out as asked."""

from __future__ import annotations

import pytest
import torch

from tilewright.ir.dtypes import DType
from tilewright.ir.spec import AttentionSpec, TensorSpec
from tilewright.kernels.cases import Case, adapted, cases_for, split_length, tile_sizes
from tilewright.kernels.references import reference_program
from tilewright.kernels.tensors import LAYOUTS, case_tensors

PROGRAM = reference_program()  # tiles of 64 x 64
SPEC = AttentionSpec(
    "spec", DType.F32, 8, 4, 2,
    captured=(
        TensorSpec("ids", DType.I64, ("B", "N")),
        TensorSpec("bias", DType.F32, (1, "Hq", "M", "N")),
        TensorSpec("seen", DType.BOOL, ("M", "N")),
        TensorSpec("table", DType.F32, ("T",)),
    ),
)  # fmt: skip
EXAMPLE = [
    *(torch.zeros(1, 2, 4, 8), torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 4)),
    torch.tensor([[3, 5, 5, 9]]),
    torch.tensor([0.0, float("-inf")]).expand(1, 2, 4, 2).repeat(1, 1, 1, 2),
    torch.ones(4, 4, dtype=torch.bool),
    torch.linspace(7, 8, 6),
]
OWN = {"T": 6}


def test_cases_cover_the_tiles() -> None:
    assert tile_sizes(PROGRAM) == (64, 64)
    cases = cases_for(PROGRAM)
    rows, columns = {case.rows for case in cases}, {case.columns for case in cases}
    assert {0, 1, 17, 63, 64, 65} <= rows
    assert {0, 1, 17, 63, 64, 65} <= columns
    assert max(columns) > 2 * 64
    assert any(case.rows > case.columns > 0 for case in cases)
    assert any(0 < case.rows < case.columns for case in cases)
    assert {case.layout for case in cases} == set(LAYOUTS)
    assert {case.content for case in cases} == {"normal", "large", "masked_rows", "nan_row"}
    assert {case.batch for case in cases} >= {1, 2, 3}
    assert len({case.name for case in cases}) == len(cases)
    assert set(cases) < set(cases_for(PROGRAM, thorough=True))


def test_cases_cover_the_splits() -> None:
    program = reference_program("flash_decode")
    assert split_length(PROGRAM) is None
    length = split_length(program)
    assert length == 1024
    columns = {case.columns for case in cases_for(program) if case.rows < 4}
    assert {1, length, length + 1} <= columns
    assert max(columns) > 2 * length


def test_tensors_are_reproducible() -> None:
    case = Case(2, 1, 5, 6)
    first, second = (case_tensors(SPEC, case, EXAMPLE, OWN) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    shapes = [(2, 2, 5, 8), (2, 1, 6, 8), (2, 1, 6, 4), (2, 6), (1, 2, 5, 6), (5, 6), (6,)]
    assert [tuple(tensor.shape) for tensor in first] == shapes


def test_captured_tensors_take_the_example_s_values() -> None:
    _, _, _, ids, bias, seen, table = case_tensors(SPEC, Case(2, 1, 50, 60), EXAMPLE, OWN)
    assert set(ids.unique().tolist()) == {3, 5, 9}
    assert set(bias.unique().tolist()) == {0.0, float("-inf")}
    assert bool(seen.all())
    assert set(table.tolist()) <= set(EXAMPLE[6].tolist())
    _, _, _, _, bias, seen, _ = case_tensors(SPEC, Case(2, 1, 50, 60, content="masked_rows"), EXAMPLE, OWN)
    assert not seen[0].any()
    assert bool(seen[1].all())
    assert bool((bias[:, :, 3] == float("-inf")).all())


def test_without_an_example_captured_tensors_are_random() -> None:
    _, _, _, ids, bias, seen, _ = case_tensors(SPEC, Case(2, 1, 50, 60), None, OWN)
    assert set(ids.unique().tolist()) == {0, 1, 2, 3}
    assert bool(bias.isfinite().all())
    assert 0.5 < seen.float().mean() < 0.9


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_keep_the_values(layout: str) -> None:
    tensor = torch.randn(1, 3, 4, 5).expand(2, 3, 4, 5).contiguous()
    moved = LAYOUTS[layout](tensor)
    assert torch.equal(moved, tensor)
    assert (moved.stride() == tensor.stride()) == (layout == "contiguous")


def test_cases_move_to_sizes_that_are_allowed() -> None:
    own = Case(2, 3, 24, 24)
    wanted = Case(1, 1, 17, 65, content="large")
    assert adapted(wanted, own, lambda case: True) == wanted
    assert adapted(wanted, own, lambda case: case.rows == case.columns) == Case(1, 1, 17, 17, content="large")
    assert adapted(wanted, own, lambda case: case.kv_heads == 3) == Case(1, 3, 17, 65, content="large")
    assert adapted(wanted, own, lambda case: case.rows == 24) == Case(1, 1, 24, 24, content="large")
    assert adapted(wanted, own, lambda case: case.batch == 2) == Case(2, 3, 24, 24, content="large")
    assert adapted(wanted, own, lambda case: False) is None
