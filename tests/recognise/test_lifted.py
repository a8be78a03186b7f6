"""The whole chain on kernels written in Triton: lift, recognise, transfer, lower."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from foreign import TARGETS

from tilewright.ir.printer import print_expr
from tilewright.ir.program import Program, TileLoop, statements
from tilewright.ir.spec import NormaliserKind
from tilewright.ir.transfer import recognise, transfer
from tilewright.ir.transfer.confirm import confirm
from tilewright.ir.verify import verify
from tilewright.kernels.compiled import lower_program
from tilewright.kernels.verification import Subject, verify_program

pytest.importorskip("triton")

FIXTURES = Path(__file__).parents[1] / "lift_triton" / "fixtures"
COMPUTED = {  # score, mask, group (1 where the kernel takes any)
    "tutorial_stages": ("s * 0.125", "j <= i", 1),
    "window_helper": ("s * 0.125", "(j <= i) & (i <= j + 100)", 1),
    "bias_lazy": ("s * 0.125 + bias[h, i, j]", "True", 1),
    "sigmoid_bnhd": ("s * 0.125 - 4.0", "True", 1),
    "softcap_pointers": ("tanh(s * 0.00625) * 20.0", "True", 1),
    "varlen_packed": ("s * 0.125", "j <= i", 1),
    "paged_decode": ("s * 0.125", "True", 1),
    "split_decode": ("s * 0.125", "True", 1),
}
DENSE = ("tutorial_stages", "window_helper", "bias_lazy", "sigmoid_bnhd", "softcap_pointers")


def fixture(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fixture_{name}", FIXTURES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def lifted(name: str) -> Program:
    from tilewright.ir.lift.triton import lift_triton

    module = fixture(name)
    return lift_triton(module.launch, [module.inputs(**sizes) for sizes in module.EXAMPLES]).program


@pytest.mark.parametrize("name", COMPUTED)
def test_lifted_kernels_are_understood(name: str) -> None:
    found = recognise(lifted(name))
    spec = found.spec
    assert (print_expr(spec.score), print_expr(spec.keep), spec.group) == COMPUTED[name]
    is_sigmoid = spec.normaliser.kind is NormaliserKind.ELEMENTWISE
    assert is_sigmoid == (name == "sigmoid_bnhd")
    assert confirm(lifted(name), found) < 1e-5


@pytest.mark.parametrize("name", COMPUTED)
def test_lifted_kernels_take_other_specs(name: str) -> None:
    reference = recognise(lifted(name)).reference
    for spec in TARGETS.values():
        made = transfer(reference, spec)
        verify(made)
        assert "tl.dot" in lower_program(made, "triton", spec=spec).lowered.source


@pytest.mark.parametrize(("name", "stages"), [("tutorial_stages", 3), ("sigmoid_bnhd", 3), ("split_decode", 2)])
def test_transfer_keeps_the_stages_of_loops(name: str, stages: int) -> None:
    made = transfer(lifted(name), TARGETS["softcap-window-alibi"])
    loops = [s for s in statements(made.body) if isinstance(s, TileLoop) and s.name == "n"]
    assert {loop.stages for loop in loops} == {stages}


@pytest.mark.parametrize("name", DENSE)
def test_transferred_lifted_kernels_compute_the_spec(name: str) -> None:
    spec = TARGETS["softcap-window-alibi"]
    report = verify_program(transfer(lifted(name), spec), Subject(spec))
    assert report.verified, str(report)
