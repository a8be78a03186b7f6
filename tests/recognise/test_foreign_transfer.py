"""Transfer from foreign programs: new semantics in the expert's orchestration, verified, lowered, run."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import pytest
from foreign import COMPUTED, TARGETS, program

from tilewright.ir.program import Grid, TileLoop, Tiles, statements
from tilewright.ir.transfer import recognise, transfer
from tilewright.ir.verify import verify
from tilewright.kernels.compiled import compile_spec, lower_program
from tilewright.kernels.layout_arguments import LAYOUTS
from tilewright.kernels.layout_verification import verify_layout
from tilewright.kernels.verification import Subject, verify_compiled, verify_program

DENSE = [name for name in COMPUTED if not name.startswith("varlen")]
NAMES = list(TARGETS)
PAIRS = [(name, target) for name in DENSE for target in NAMES]
FEW = [(name, NAMES[(n + k) % len(NAMES)]) for n, name in enumerate(DENSE) for k in (0, 3)]


def test_every_program_takes_every_spec() -> None:
    for name in COMPUTED:
        reference = recognise(program(name)).reference
        for target in TARGETS.values():
            made = transfer(reference, target)
            verify(made)
            wanted = {"q", "k", "v", *(t.name for t in target.captured)}
            assert wanted <= {p.name for p in made.params}
            assert not {"Bias", "slopes", "shift", "sinks"} & {p.name for p in made.params}


@pytest.mark.parametrize(("name", "target"), FEW)
def test_transferred_programs_compute_the_spec(name: str, target: str) -> None:
    spec = TARGETS[target]
    report = verify_program(transfer(program(name), spec), Subject(spec))
    assert report.verified, str(report)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [pair for pair in PAIRS if pair not in FEW])
def test_all_transferred_programs_compute_the_spec(name: str, target: str) -> None:
    spec = TARGETS[target]
    report = verify_program(transfer(program(name), spec), Subject(spec))
    assert report.verified, str(report)


@pytest.mark.parametrize("name", DENSE)
def test_transferred_programs_lower_to_triton(name: str) -> None:
    for spec in (TARGETS["softcap-window-alibi"], TARGETS["sigmoid"]):
        assert "tl.dot" in lower_program(transfer(program(name), spec), "triton", spec=spec).lowered.source


@pytest.mark.parametrize(("name", "target"), [("causal_two_loops", "softcap-window-alibi"), ("split_lse", "sink")])
def test_transferred_programs_run_on_the_cpu(name: str, target: str) -> None:
    spec = TARGETS[target]
    report = verify_compiled(compile_spec(spec, "cpu", reference=program(name)), Subject(spec))
    assert report.verified, str(report)


def test_a_transferred_ragged_program_runs_on_the_cpu() -> None:
    spec = TARGETS["softcap-window-alibi"]
    compiled = lower_program(transfer(program("varlen_causal"), spec), "cpu", spec=spec)
    report = verify_layout(compiled, Subject(spec), LAYOUTS["ragged"], few=False)
    assert report.verified, str(report)


@pytest.mark.parametrize("name", COMPUTED)
def test_tiles_loops_and_order_are_the_experts(name: str) -> None:
    raw, spec = program(name), TARGETS["documents"]
    made = transfer(raw, spec)
    grids = [[s for s in p.body if isinstance(s, Grid)] for p in (raw, made)]
    assert [(g.order, g.warps) for g in grids[0]] == [(g.order, g.warps) for g in grids[1]]
    tiles = [{e.tile for e in g[0].extents if isinstance(e, Tiles)} for g in grids]
    assert tiles[0] == tiles[1]
    loops = [s for s in statements(made.body) if isinstance(s, TileLoop)]
    text = str(raw)
    assert {f"{loop.tiles.tile}, " in text or f"{loop.tiles.tile})" in text for loop in loops} == {True}
    assert len(loops) == {"causal_two_loops": 2, "two_pass": 2, "window_three": 2}.get(name, 1)


def test_the_descending_loop_stays_descending() -> None:
    made = transfer(program("bias_descending"), TARGETS["prefix"])
    (loop,) = (s for s in statements(made.body) if isinstance(s, TileLoop))
    assert (loop.order, loop.tiles.tile) == ("descending", 32)


def test_the_stages_of_a_loop_stay() -> None:
    made = transfer(program("sigmoid_bnhd"), TARGETS["full"])
    (loop,) = (s for s in statements(made.body) if isinstance(s, TileLoop))
    assert loop.stages == 3


def test_what_a_transfer_changes(golden: Callable[[str, str], None]) -> None:
    own = str(recognise(program("causal_two_loops")).program)
    new = str(transfer(program("causal_two_loops"), TARGETS["softcap-window-alibi"]))
    lines = difflib.unified_diff(own.splitlines(), new.splitlines(), "own", "transferred", lineterm="", n=0)
    golden("recognise-causal-diff", "\n".join(lines))


def test_the_canonical_text_of_a_split_kernel(golden: Callable[[str, str], None]) -> None:
    golden("recognise-split", str(recognise(program("split_lse")).reference))
