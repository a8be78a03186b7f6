"""Planted bugs: one of each kind that parallel programs have, caught by name and with both program lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tilewright.ir.errors import (
    BarrierPhaseError,
    DataRace,
    Deadlock,
    InterpreterError,
    OutOfBounds,
    UninitialisedRead,
)  # fmt: skip
from tilewright.ir.interpreter import interpret
from tilewright.ir.parser import parse_program

PROGRAMS = Path(__file__).parent / "programs"
SEEDS = range(10)

COPY_K = "copy_async(k_ring[step % 2, n, :], k[b, g, n, :], signal=filled[step % 2])"
COPY_V = "copy_async(v_ring[step % 2, n, :], v[b, g, n, :], signal=filled[step % 2])"
GEMM_K = "s = gemm_async(q_tile, k_ring[step % 2, n, :])"
GEMM_V = "acc = gemm_async(p, v_ring[step % 2, n, :], into=acc * rescale)"
WAIT_FREED = "wait(freed[step % 2], phase=(step // 2 + 1) % 2)"
WAIT_FILLED = "wait(filled[step % 2], phase=step // 2 % 2)"
ARRIVE = "arrive(freed[step % 2])"
K_RING = 'k_ring = alloc(bf16[2, 8, D], space="shared", layout="swizzle:128")'
INDENT = "\n                "


def run(name: str, edits: list[tuple[str, str]], seed: int) -> None:
    """Run a program with edits on small inputs. The unedited text runs clean (test_interpreter.py)."""
    text = (PROGRAMS / f"{name}.txt").read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    random = np.random.default_rng(0)
    shapes = {
        "hopper_forward": {"q": (1, 1, 25, 16), "k": (1, 1, 45, 16), "v": (1, 1, 45, 16)},
        "column_sums": {"x": (24, 4), "y": (16, 4)},
        "staged": {"x": (10, 8)},
        "prefetched": {"x": (10, 8)},
    }[name]
    interpret(parse_program(text), {key: random.standard_normal(shape) for key, shape in shapes.items()}, seed=seed)


def fault(name: str, edits: list[tuple[str, str]], seed: int) -> InterpreterError:
    """The error that an edited program ends in."""
    with pytest.raises(InterpreterError) as caught:
        run(name, edits, seed)
    return caught.value


def line_texts(error: InterpreterError) -> set[str]:
    return {line.text for line in error.lines}


HOPPER_FAULTS = {
    "missing arrive": ([(INDENT + ARRIVE, "")], Deadlock, {WAIT_FREED, WAIT_FILLED}),
    "arrive before the last wait_group": (
        [(f"{INDENT}commit(){INDENT}wait_group(0){INDENT}{ARRIVE}", f"{INDENT}{ARRIVE}{INDENT}commit(){INDENT}wait_group(0)")],
        DataRace, {COPY_V, GEMM_V},
    ),
    "arrive before the last product": (
        [(INDENT + ARRIVE, ""), (INDENT + GEMM_V, INDENT + ARRIVE + INDENT + GEMM_V)], DataRace, {COPY_V, GEMM_V},
    ),
    "missing wait for the ring": ([(INDENT + WAIT_FILLED, "")], DataRace, {COPY_K, GEMM_K}),
    "producer waits for the wrong phase": (
        [("phase=(step // 2 + 1) % 2", "phase=step // 2 % 2")], Deadlock, {"wait(freed[step % 2], phase=step // 2 % 2)", WAIT_FILLED},
    ),
    "phase that is no parity": (
        [("phase=step // 2 % 2", "phase=step // 2")], BarrierPhaseError, {"wait(filled[step % 2], phase=step // 2)"},
    ),
    "too many arrivals expected": (
        [("freed = barriers(2, arrivals=2)", "freed = barriers(2, arrivals=3)")], Deadlock, {WAIT_FREED, WAIT_FILLED},
    ),
    "dropped load": (
        [(INDENT + COPY_K, ""), ("filled = barriers(2, arrivals=2)", "filled = barriers(2, arrivals=1)")],
        UninitialisedRead, {GEMM_K, K_RING},
    ),
    "tile beyond the last": (
        [("(N + 7) // 8", "(N + 15) // 8")], OutOfBounds, {COPY_K, "k: bf16[B, Hkv, N, D],"},
    ),
    "index beyond the ring": ([("alloc(bf16[2, 8, D]", "alloc(bf16[1, 8, D]")], OutOfBounds, {COPY_K, K_RING.replace("[2", "[1")}),
    "barrier beyond the last": ([("freed = barriers(2", "freed = barriers(1")], OutOfBounds, {WAIT_FREED}),
    "negative index": ([("k[b, g, n, :]", "k[b, g - 1, n, :]")], OutOfBounds, {COPY_K.replace("g,", "g - 1,"), "k: bf16[B, Hkv, N, D],"}),
    "result read before wait_group": (
        [(f"commit(){INDENT}wait_group(0){INDENT}x = ", f"commit(){INDENT}x = ")],
        DataRace, {GEMM_K, "x = where(j < N, s * 0.36067376022224085, -inf)"},
    ),
    "missing commit": (
        [(f"commit(){INDENT}wait_group(0){INDENT}x = ", f"wait_group(0){INDENT}x = ")],
        DataRace, {GEMM_K, "x = where(j < N, s * 0.36067376022224085, -inf)"},
    ),
    "operand overwritten under a product": (
        [(f"commit(){INDENT}wait_group(0){INDENT}{ARRIVE}", f"p = exp2(x){INDENT}commit(){INDENT}wait_group(0){INDENT}{ARRIVE}")],
        DataRace, {GEMM_V, "p = exp2(x)"},
    ),
    "register assigned on no way": (
        [(INDENT + "rescale = exp2(peak - peak_next)", f"{INDENT}if step < 0:{INDENT}    rescale = exp2(peak - peak_next)")],
        UninitialisedRead, {"mass = mass * rescale + total", "rescale = exp2(peak - peak_next)"},
    ),
    "two consumers store one tile": (
        [("2 * block + w", "2 * block"), ("(M + 15) // 16", "(M + 15) // 32")],
        DataRace, {"store(o[b, h, m, :], acc / mass)"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", HOPPER_FAULTS)
def test_hopper_fault_is_caught_with_both_lines(bug: str) -> None:
    edits, kind, lines = HOPPER_FAULTS[bug]
    for seed in SEEDS:
        error = fault("hopper_forward", edits, seed)
        assert type(error) is kind, f"seed {seed}: {error}"
        assert line_texts(error) == lines, f"seed {seed}: {error}"
        assert all(str(line) in str(error) for line in error.lines)


# What these end in depends on who comes first; each way is an error, and no interleaving passes.
HOPPER_FAULTS_OF_TIMING = {
    "missing wait for space": ([(INDENT + WAIT_FREED, "")], {COPY_K, COPY_V, GEMM_K, GEMM_V}),
    "consumer waits for the wrong phase": (
        [("phase=step // 2 % 2", "phase=(step // 2 + 1) % 2")],
        {COPY_K, COPY_V, GEMM_K, GEMM_V, "wait(filled[step % 2], phase=(step // 2 + 1) % 2)"},
    ),
    "producer's phase never changes": (
        [("phase=(step // 2 + 1) % 2", "phase=1")],
        {COPY_K, COPY_V, GEMM_K, GEMM_V, ARRIVE, "wait(freed[step % 2], phase=1)"},
    ),
    "too few arrivals expected": (
        [("filled = barriers(2, arrivals=2)", "filled = barriers(2, arrivals=1)")],
        {COPY_K, COPY_V, GEMM_K, GEMM_V},
    ),
    "one consumer frees for both": (
        [("freed = barriers(2, arrivals=2)", "freed = barriers(2, arrivals=1)")],
        {COPY_K, COPY_V, GEMM_K, GEMM_V, ARRIVE},
    ),
}


@pytest.mark.parametrize("bug", HOPPER_FAULTS_OF_TIMING)
def test_hopper_fault_is_a_race_or_a_phase_error_under_every_interleaving(bug: str) -> None:
    edits, lines = HOPPER_FAULTS_OF_TIMING[bug]
    for seed in range(30):
        error = fault("hopper_forward", edits, seed)
        assert isinstance(error, (DataRace, BarrierPhaseError)), f"seed {seed}: {error}"
        assert len(error.lines) == 2
        assert line_texts(error) <= lines, f"seed {seed}: {error}"


def test_surplus_arrival_and_wait_for_a_phase_long_over_are_phase_errors() -> None:
    surplus = [("filled = barriers(2, arrivals=2)", "filled = barriers(2, arrivals=1)")]
    late = [("phase=step // 2 % 2", "phase=(step // 2 + 1) % 2")]
    messages = [str(fault("hopper_forward", edits, seed)) for edits in (surplus, late) for seed in SEEDS]
    assert any("too many arrivals: phase 0 takes 1" in message for message in messages)
    assert any("waits for parity 1, which to this worker means phase -1" in message for message in messages)


def test_deadlock_names_every_worker_its_line_and_what_it_waits_for() -> None:
    error = fault("hopper_forward", [(INDENT + ARRIVE, "")], 0)
    assert "producer 0 of instance (b=0, h=0, block=0) (and 1 more) waits on line 18 for phase 0 of freed[0]" in str(
        error
    )
    assert "consumer 1 of instance (b=0, h=0, block=0) (and 1 more) waits on line 30 for phase 1 of filled[0]" in str(
        error
    )
    assert "0 of 2 arrivals" in str(error)


STORE_STAGE, LOAD_STAGE = "store(stage[n, :], x_tile * 2.0)", "y_tile = load(stage[n, :])"
OTHER_FAULTS = {
    "missing sync": (
        "staged", [("            sync()\n", "")], DataRace, {STORE_STAGE, LOAD_STAGE},
    ),
    "sync that one worker never reaches": (
        "staged", [("            sync()\n            y_tile", "            y_tile")], DataRace, {STORE_STAGE, LOAD_STAGE},
    ),
    "sync alone": (
        "staged", [("            sync()\n            y_tile = load(stage[n, :])", "            y_tile = load(x[n, :])")],
        Deadlock, {"sync()"},
    ),
    "two instances store one tile": (
        "staged", [("store(y[n, :]", "first = tile(N, 4, 0)\n            z_tile = load(x[first, :])\n            store(y[first, :]"), ("y_tile)\n", "z_tile)\n")],
        DataRace, {"store(y[first, :], z_tile)"},
    ),
    "group not waited for": (
        "prefetched", [("wait_group(1)", "wait_group(2)")],
        DataRace, {"copy_async(ring[0, first, :], x[first, :])", "now = load(ring[step % 2, n, :])"},
    ),
    "copy into a buffer in use": (
        "prefetched", [("ring[(step + 1) % 2, ahead, :]", "ring[step % 2, ahead, :]")],
        DataRace, {"copy_async(ring[0, first, :], x[first, :])", "copy_async(ring[step % 2, ahead, :], x[ahead, :])"},
    ),
    "rank that is missing": (
        "column_sums", [("after=n", "after=n + 1")], Deadlock, {"reduce_add(total[m, :], part, after=n + 1)"},
    ),
    "rank that comes twice": (
        "column_sums", [("after=n", "after=n // 2")], BarrierPhaseError, {"reduce_add(total[m, :], part, after=n // 2)"},
    ),
    "sum that starts from nothing": (
        "column_sums", [("store(total[m, :], zero)", "less = zero * 2.0")],
        UninitialisedRead, {"reduce_add(total[m, :], part, after=n)", "total: out(f32[M, D]),"},
    ),
    "addition beside a plain read": (
        "column_sums", [("part = gemm", "seen = load(total[m, :])\n            part = gemm")],
        DataRace, {"seen = load(total[m, :])", "reduce_add(total[m, :], part, after=n)"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", OTHER_FAULTS)
def test_fault_is_caught_with_both_lines(bug: str) -> None:
    name, edits, kind, lines = OTHER_FAULTS[bug]
    for seed in SEEDS:
        error = fault(name, edits, seed)
        assert type(error) is kind, f"seed {seed}: {error}"
        assert line_texts(error) == lines, f"seed {seed}: {error}"


def test_ranks_against_the_issue_order_deadlock_when_few_instances_are_resident() -> None:
    text = (PROGRAMS / "column_sums.txt").read_text(encoding="utf-8").replace("after=n", "after=2 - n")
    arguments = {"x": np.ones((24, 4)), "y": np.ones((16, 4))}
    interpret(parse_program(text), arguments)
    interpret(parse_program(text), arguments, resident=3)
    with pytest.raises(Deadlock, match=r"instance \(n=0\).*for its turn 2 to add to total \(next is 0\)"):
        interpret(parse_program(text), arguments, resident=2)
