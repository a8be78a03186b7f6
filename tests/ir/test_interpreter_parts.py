"""The interpreter's parts: happens-before against brute force, barriers, and each way work is handed on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.ir.errors import (
    BarrierPhaseError,
    DataRace,
    OutOfBounds,
    ProgramLine,
    UninitialisedRead,
)  # fmt: skip
from tilewright.ir.evaluate import Array
from tilewright.ir.interpreter import interpret
from tilewright.ir.interpreter.barriers import Barrier
from tilewright.ir.interpreter.clocks import Threads
from tilewright.ir.interpreter.races import CONFLICTS, History, Mode
from tilewright.ir.parser import parse_program

SEEDS = range(20)
X = np.arange(32, dtype=np.float32).reshape(4, 8)


def line(number: int) -> ProgramLine:
    return ProgramLine(number, f"statement {number}")


def run(body: str, seed: int, header: str = "x: f32[N, D], y: out(f32[N, D])", **arguments: Array) -> dict[str, Array]:
    text = f"@program(D=8)\ndef p({header}):\n{body}"
    return interpret(parse_program(text), {"x": X, **arguments}, seed=seed)


actions = st.one_of(
    st.tuples(st.just("access"), st.integers(0, 3), st.integers(0, 2), st.integers(0, 5), st.integers(1, 4)),
    st.tuples(st.just("hand on"), st.integers(0, 3), st.integers(0, 3)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(actions, max_size=14))
def test_races_are_found_exactly_where_no_chain_of_hand_overs_orders_two_accesses(
    script: list[tuple[object, ...]],
) -> None:
    """Boxes and clocks against every element and every event, held in full."""
    threads = Threads()
    first = threads.first()
    workers = [threads.fork(first) for _ in range(4)]
    history = History("memory", 1)
    known: list[set[int]] = [set() for _ in workers]
    done: list[tuple[int, Mode, set[int]]] = []
    modes = list(Mode)
    for number, action in enumerate(script):
        if action[0] == "hand on":
            _, giver, taker = action
            clock: dict[int, int] = {}
            workers[giver].release(clock)  # type: ignore[call-overload]
            workers[taker].acquire(clock)  # type: ignore[call-overload]
            known[taker] |= known[giver]  # type: ignore[call-overload]
            continue
        _, worker, mode_number, low, length = action
        mode, elements = modes[mode_number], set(range(low, low + length))  # type: ignore[call-overload, operator, arg-type]
        conflicts = [
            event for event, (_, earlier, touched) in enumerate(done)
            if earlier in CONFLICTS[mode] and touched & elements and event not in known[worker]  # type: ignore[call-overload]
        ]  # fmt: skip
        box = ((low, low + length),)  # type: ignore[operator]
        if conflicts:
            with pytest.raises(DataRace):
                history.access(box, mode, workers[worker], line(number))  # type: ignore[arg-type, call-overload]
            return
        history.access(box, mode, workers[worker], line(number))  # type: ignore[arg-type, call-overload]
        known[worker].add(len(done))  # type: ignore[call-overload]
        done.append((number, mode, elements))


def test_a_thread_number_is_used_again_only_by_someone_who_knows_its_user_to_be_over() -> None:
    threads = Threads()
    parent = threads.first()
    child = threads.fork(parent)
    threads.end(child)
    stranger = threads.fork(parent)
    assert stranger.number != child.number
    parent.acquire(child.clock)
    heir = threads.fork(parent)
    assert heir.number == child.number
    assert not stranger.knows(heir.event(line(1)))
    assert not parent.knows(heir.event(line(1)))


def test_barrier_counts_phases_and_passes_on_what_its_arrivals_knew() -> None:
    threads = Threads()
    parent = threads.first()
    first, second, waiter = (threads.fork(parent) for _ in range(3))
    barrier = Barrier("bar[0]", arrivals=2)
    assert barrier.awaited(1, waiter, line(1)) == -1
    assert barrier.has_completed(-1)
    assert barrier.awaited(0, waiter, line(1)) == 0
    written = first.event(line(2))
    assert not barrier.arrive(first, line(2))
    assert not barrier.has_completed(0)
    assert barrier.arrive(second, line(3))
    assert barrier.has_completed(0)
    with pytest.raises(BarrierPhaseError, match="parity 1, which to this worker means phase -1"):
        barrier.awaited(1, waiter, line(1))
    with pytest.raises(BarrierPhaseError, match="too many arrivals: phase 0 takes 2"):
        barrier.arrive(waiter, line(4))
    waiter.acquire(barrier.released)
    assert waiter.knows(written)
    assert barrier.awaited(1, waiter, line(1)) == 1


def test_work_goes_from_a_worker_to_the_next_in_rank() -> None:
    body = """
    for n in grid(tiles(N, 4)):
        zero = zeros(f32[n, D])
        store(y[n, :], zero)
    mail = alloc(f32[N, D])
    for w in grid(2):
        n = tile(N, 4, 0)
        x_tile = load(x[n, :])
        if w == 0:
            store(mail[n, :], x_tile)
        reduce_add(y[n, :], x_tile, after=w)
        if w == 1:
            z_tile = load(mail[n, :])
            reduce_add(y[n, :], z_tile, after=2)
"""
    for seed in SEEDS:
        np.testing.assert_array_equal(run(body, seed)["y"], 3 * X)
        with pytest.raises(DataRace):
            run(body.replace("after=w", "after=1 - w"), seed)


def test_work_goes_from_roles_to_what_follows_them_and_registers_are_private() -> None:
    body = """
    for n in grid(tiles(N, 2)):
        stage = alloc(f32[2, 2, D], space="shared")
        own = alloc(f32[2, D], space="register")
        with role("half", count=2) as w:
            x_tile = load(x[n, :])
            store(own[n, :], x_tile * f32(w + 1))
            own_tile = load(own[n, :])
            store(stage[w, n, :], own_tile)
        one = load(stage[0, n, :])
        two = load(stage[1, n, :])
        store(y[n, :], one + two)
"""
    for seed in SEEDS:
        np.testing.assert_array_equal(run(body, seed)["y"], 3 * X)


def test_source_of_a_copy_must_stay_until_the_copy_is_done() -> None:
    body = """
    for n in grid(tiles(N, 4)):
        a = alloc(f32[4, D], space="shared")
        c = alloc(f32[4, D], space="shared")
        x_tile = load(x[n, :])
        store(a[n, :], x_tile)
        copy_async(c[n, :], a[n, :])
        commit()
        store(a[n, :], x_tile * 2.0)
        wait_group(0)
        copy(y[n, :], c[n, :])
"""
    right = body.replace("        store(a[n, :], x_tile * 2.0)\n        wait_group(0)\n", "        wait_group(0)\n")
    for seed in SEEDS:
        np.testing.assert_array_equal(run(right, seed)["y"], X)
        with pytest.raises(DataRace) as caught:
            run(body, seed)
        assert [at.text for at in caught.value.lines] == [
            "copy_async(c[n, :], a[n, :])",
            "store(a[n, :], x_tile * 2.0)",
        ]


def test_result_of_a_product_that_has_finished_may_still_not_be_read_before_the_wait() -> None:
    body = """
    for n in grid(tiles(N, 4)):
        m = tile(N, 4, 0)
        x_tile = load(x[n, :])
        z_tile = load(x[m, :])
        s = gemm_async(x_tile, z_tile)
        s = gemm_async(x_tile, z_tile, into=s)
        commit()
        for step in range(0, 60):
            idle = step + 1
        wait_group(0)
        store(y[n, m], s)
"""
    header = "x: f32[N, D], y: out(f32[N, N])"
    for seed in SEEDS:
        np.testing.assert_allclose(run(body, seed, header)["y"], 2 * X @ X.T)
        with pytest.raises(DataRace, match="race on register s"):
            run(body.replace("        wait_group(0)\n", ""), seed, header)


def test_read_of_unwritten_memory_is_reported_rather_than_what_becomes_of_it() -> None:
    body = """
    for n in grid(tiles(N, 4)):
        table = alloc(i32[2], space="shared")
        row = table[1]
        m = tile(N, 1, row)
        x_tile = load(x[m, :])
        store(y[m, :], x_tile)
"""
    with pytest.raises(UninitialisedRead, match=r"line 8 reads table\[1\]") as caught:
        run(body, 0)
    assert [at.text for at in caught.value.lines] == ["row = table[1]", 'table = alloc(i32[2], space="shared")']


def test_domain_of_a_row_tile_beyond_the_last_is_out_of_bounds() -> None:
    body = """
    def keep(i: int, j: int):
        return i >= j

    for block in grid(1):
        m = tile(N, 2, block + 2)
        for n in tiles(N, 2, where=keep(m, n)):
            x_tile = load(x[n, :])
            store(y[n, :], x_tile)
"""
    with pytest.raises(OutOfBounds, match="domain of row tile 2 of 2"):
        run(body, 0)


def test_scalars_of_no_dimension_and_worker_numbers() -> None:
    body = """
    for block in grid((N + 3) // 4):
        with role("row", count=4) as w:
            if 4 * block + w < N:
                n = tile(N, 1, 4 * block + w)
                x_tile = load(x[n, :])
                store(y[n, :], x_tile * scale[()] + f32(n) + f32(index(n)))
"""
    header = "x: f32[N, D], scale: f32[()], y: out(f32[N, D])"
    got = run(body, 0, header, scale=np.asarray(0.5, np.float32))["y"]
    np.testing.assert_array_equal(got, X / 2 + 2 * np.arange(4)[:, None])


def test_several_products_share_one_accumulator_in_order() -> None:
    body = """
    for n in grid(tiles(N, 4)):
        m = tile(N, 4, 0)
        x_tile = load(x[n, :])
        z_tile = load(x[m, :])
        s = gemm(x_tile, z_tile)
        for step in range(0, 3):
            s = gemm_async(x_tile, z_tile, into=s)
            commit()
        wait_group(1)
        wait_group(0)
        store(y[n, m], s)
"""
    for seed in SEEDS:
        np.testing.assert_allclose(run(body, seed, "x: f32[N, D], y: out(f32[N, N])")["y"], 4 * X @ X.T)


def test_boxes_that_overlap_conflict_whichever_was_first() -> None:
    threads = Threads()
    parent = threads.first()
    one, two = threads.fork(parent), threads.fork(parent)
    history = History("memory", 2)
    history.access(((0, 4), (0, 4)), Mode.WRITE, one, line(1))
    two.acquire(one.clock)
    history.access(((3, 9), (3, 9)), Mode.WRITE, two, line(2))
    history.access(((0, 3), (4, 9)), Mode.WRITE, one, line(3))
    with pytest.raises(DataRace, match=r"memory\[0:4, 0:4\]: line 2 writes it, line 4 reads it"):
        history.access(((0, 4), (0, 4)), Mode.READ, one, line(4))


def test_what_a_worker_does_after_arriving_is_not_part_of_the_arrival() -> None:
    body = """
    for n in grid(tiles(N, 4)):
        stage = alloc(f32[4, D], space="shared")
        ready = barriers(1, arrivals=1)
        with role("writer"):
            x_tile = load(x[n, :])
            store(stage[n, :], x_tile)
            arrive(ready[0])
        with role("reader"):
            wait(ready[0], phase=0)
            copy(y[n, :], stage[n, :])
"""
    arrive, store = "            arrive(ready[0])\n", "            store(stage[n, :], x_tile)\n"
    late = body.replace(store + arrive, store + arrive + store)
    for seed in SEEDS:
        np.testing.assert_array_equal(run(body, seed)["y"], X)
        with pytest.raises(DataRace):
            run(late, seed)
