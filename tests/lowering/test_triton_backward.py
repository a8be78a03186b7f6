"""Backward on the triton target: gradients in Triton's interpreter, orders of sums, waits, what a launch is told."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from tilewright.ir.errors import Deadlock, LoweringError, ScheduleError
from tilewright.ir.parser import parse_program
from tilewright.ir.program import Program
from tilewright.ir.transfer import retile, transfer
from tilewright.kernels.references import reference_program
from tilewright.lowering import TARGETS
from tilewright.lowering.triton.interpreter import interpret
from tilewright.lowering.triton.target import TritonLaunch, import_source
from tilewright.lowering.triton.tuning import TABLES

from .backward import CASES, ORDERS, TILES, Case, Problem, check, plan_of, problem_of, program_of

CAUSAL = CASES["causal"]


def outputs_of(program: Program, problem: Problem, order: str = "ascending", **options: int) -> tuple[torch.Tensor, ...]:
    return interpret(program, [*problem.inputs, *plan_of(problem, order=order)], **options)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, order: str) -> None:
    spec = CASES[name].variant.spec()
    problem = problem_of(CASES[name], spec, batch=2 if name == "documents" else 1)
    check(CASES[name], problem, outputs_of(program_of(spec), problem, order), name)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["causal", "softcap", "blocks"])
def test_low_precision(name: str, dtype: str) -> None:
    spec = CASES[name].variant.spec(dtype=dtype)
    problem = problem_of(CASES[name], spec)
    check(CASES[name], problem, outputs_of(program_of(spec), problem, "shuffled"), name)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (16, 32), (17, 33), (33, 31), (64, 1), (1, 64)])
@pytest.mark.parametrize("name", ["full", "causal"])
def test_ragged_ends(name: str, rows: int, columns: int) -> None:
    """Nothing is read past an end, and nothing that lies there counts."""
    spec = CASES[name].variant.spec(d=16, dv=16, group=1)
    problem = problem_of(CASES[name], spec, heads=2, rows=rows, columns=columns)
    check(CASES[name], problem, outputs_of(program_of(spec), problem, "descending"), name)


@pytest.mark.parametrize(("heads", "group"), [(4, 4), (6, 3), (3, 1)])
def test_groups_of_query_heads(heads: int, group: int) -> None:
    spec = CAUSAL.variant.spec(d=16, dv=32, group=group)
    problem = problem_of(CAUSAL, spec, batch=2, heads=heads)
    check(CAUSAL, problem, outputs_of(program_of(spec), problem, "shuffled"))


def test_any_strides() -> None:
    spec = CAUSAL.variant.spec()
    problem = problem_of(CAUSAL, spec, batch=2)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) if x.dim() == 4 else x for x in problem.inputs]
    assert not turned[0].is_contiguous()
    check(CAUSAL, Problem(turned, problem.mask, problem.exact), outputs_of(program_of(spec), problem))


@pytest.mark.parametrize("name", ["causal", "documents"])
def test_additions_in_any_order(name: str) -> None:
    spec = CASES[name].variant.spec()
    problem = problem_of(CASES[name], spec)
    check(CASES[name], problem, outputs_of(program_of(spec, is_ordered=False), problem, "shuffled"), name)


@pytest.mark.parametrize("name", CASES)
def test_gradients_without_sums_of_several_instances(name: str) -> None:
    """The form with a kernel for dK and dV and one for dQ: no tables, nothing to wait for."""
    spec = CASES[name].variant.spec()
    problem = problem_of(CASES[name], spec, batch=2 if name == "documents" else 1)
    program = program_of(spec, form="flash_backward_split")
    assert "atomic" not in TARGETS["triton"].lower(program, "sm_90").source
    check(CASES[name], problem, interpret(program, problem.inputs), name)


def test_bits_do_not_depend_on_how_many_programs_there_are() -> None:
    spec = CAUSAL.variant.spec()
    problem = problem_of(CAUSAL, spec, batch=2)
    first, *others = (outputs_of(program_of(spec), problem, "shuffled", workers=n) for n in (1, 2, 5, 1000))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_bits_do_not_depend_on_the_place_in_a_batch() -> None:
    spec = CAUSAL.variant.spec()
    problem = problem_of(CAUSAL, spec, batch=3)
    turned = Problem([x.roll(1, 0) for x in problem.inputs], problem.mask, problem.exact)
    here, there = outputs_of(program_of(spec), problem), outputs_of(program_of(spec), turned)
    assert all(torch.equal(a.roll(1, 0), b) for a, b in zip(here, there, strict=True))


def test_the_order_of_visits_is_not_that_of_sums() -> None:
    """A job's visits in another order, with their ranks: dq has the same bits."""
    spec = CASES["full"].variant.spec()
    problem = problem_of(CASES["full"], spec, rows=80, columns=100)
    jobs, lists, visits = plan_of(problem)
    turned = torch.cat([part.flip(0) for part in visits.split(lists.diff().tolist())])
    assert not torch.equal(visits, turned)
    one, other = (interpret(program_of(spec), [*problem.inputs, jobs, lists, table]) for table in (visits, turned))
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])  # dk is a sum in the order of visits


def _with_wrong_ranks(problem: Problem) -> tuple[tuple[torch.Tensor, ...], list[int]]:
    """A plan in which the first visit of the first job takes the rank of a later one; [instance, rank, b, h, m]."""
    jobs, lists, visits = plan_of(problem)
    wrong = visits.clone()
    wrong[0, 2] += 1
    return (jobs, lists, wrong), [0, 1, int(jobs[0, 0]), int(jobs[0, 1]) * 2 + int(wrong[0, 0]), int(wrong[0, 1])]


@pytest.mark.parametrize("most_spins", [0, 1, 7])
def test_a_wait_that_cannot_end_is_reported(most_spins: int) -> None:
    spec = CASES["full"].variant.spec()
    problem = problem_of(CASES["full"], spec)
    plan, (instance, rank, *tile) = _with_wrong_ranks(problem)
    with pytest.raises(Deadlock) as caught:
        interpret(program_of(spec), [*problem.inputs, *plan], most_spins=most_spins)
    wait = f"instance {instance} waited for turn {rank} to add to tile {[*tile, 0]} of dq_sum, where 0 additions had been made"
    assert str(caught.value) == f"variant_backward: {wait}, and gave up after {max(most_spins, 1)} looks"


def test_a_rank_that_comes_twice_is_reported() -> None:
    """The second one finds its turn over."""
    spec = CASES["full"].variant.spec()
    problem = problem_of(CASES["full"], spec)
    jobs, lists, visits = plan_of(problem)
    visits[lists[1], 2] = 0
    with pytest.raises(Deadlock, match=r"instance 1 waited for turn 0 to add to tile .* of dq_sum, where 1 additions"):
        interpret(program_of(spec), [*problem.inputs, jobs, lists, visits])


def test_a_plan_that_needs_many_workers_is_refused_where_they_do_not_run_at_once() -> None:
    spec = CAUSAL.variant.spec()
    problem = problem_of(CAUSAL, spec)
    wanted = r"1 of its programs run at once \(1 have room\), wanted 2; use a plan that is safe for any number"
    with pytest.raises(ScheduleError, match=wanted):
        outputs_of(program_of(spec), problem, least_workers=2)
    few = problem_of(CAUSAL, spec, heads=2, columns=20)  # one job, so that one worker is all that can be needed
    check(CAUSAL, few, outputs_of(program_of(spec), few, least_workers=2))


TWO_TARGETS = """\
@program(D=16)
def added(
    x: f32[J, R, D],
    ranks: i32[J],
    total: out(f32[R, D]),
    count: out(f32[R]),
):
    for r in grid(tiles(R, 16)):
        store(total[r, :], 0.0)
        store(count[r], 0.0)
    for job in grid(J):
        rank = ranks[job]
        for step in range(0, (R + 15) // 16):
            r2 = tile(R, 16, step)
            y = load(x[job, r2, :])
            reduce_add(total[r2, :], y, after=rank)
            z = reduce_sum(y, axis=D)
            reduce_add(count[r2], z, after=rank)
"""


def test_sums_of_two_targets_have_the_bits_of_their_order() -> None:
    x = torch.randn(7, 37, 16)
    total, count = interpret(parse_program(TWO_TARGETS), [x, torch.arange(7, dtype=torch.int32)])
    expected = torch.zeros(37, 16)
    for part in x:
        expected += part
    assert torch.equal(total, expected)
    torch.testing.assert_close(count, x.sum((0, 2)), rtol=1e-5, atol=1e-5)


def test_each_target_has_turns_of_its_own() -> None:
    text = TWO_TARGETS.replace("z, after=rank", "z, after=rank + 1")
    ranks = torch.arange(3, dtype=torch.int32)
    with pytest.raises(Deadlock, match=r"instance 0 waited for turn 1 to add to tile \[0\] of count"):
        interpret(parse_program(text), [torch.randn(3, 37, 16), ranks])
    with pytest.raises(Deadlock, match=r"instance 1 waited for turn 2 to add to tile \[0, 0\] of total"):
        interpret(parse_program(TWO_TARGETS), [torch.randn(3, 37, 16), ranks * 2])


OVERHANGING = """\
@program(D=16)
def overhanging(
    x: f32[J, C, R, D],
    ranks: i32[J],
    total: out(f32[C, R, D]),
):
    for c, r in grid(C, tiles(R, 16)):
        store(total[c, r, :], 0.0)
    for job in grid(J):
        for c2 in range(0, C):
            for step in range(0, (R + 15) // 16):
                r2 = tile(R, 16, step)
                y = load(x[job, c2, r2, :])
                reduce_add(total[c2, r2, :], y + 1.0, after=ranks[job])
"""


@pytest.mark.parametrize("is_ordered", [True, False])
def test_nothing_is_added_past_an_end(is_ordered: bool) -> None:
    """Rows past the end of one matrix are the first ones of the next."""
    x = torch.randn(3, 2, 37, 16)
    text = OVERHANGING if is_ordered else OVERHANGING.replace(", after=ranks[job]", "")
    (total,) = interpret(parse_program(text), [x, torch.arange(3, dtype=torch.int32)])
    torch.testing.assert_close(total, (x + 1).sum(0), rtol=1e-5, atol=1e-5)


REBOUND = """\
@program(D=16)
def rebound(
    x: f32[R, D],
    first: out(f32[D]),
    second: out(f32[D]),
):
    for t in grid(1):
        r = tile(R, 32, 0)
        a = load(x[r, :])
        one = reduce_sum(a, axis=r)
        store(first[:], one)
        r = tile(R, 32, 1)
        b = load(x[r, :])
        two = reduce_sum(b, axis=r)
        store(second[:], two)
"""


def test_a_tile_that_is_chosen_anew_is_loaded_anew() -> None:
    """And has another number of rows before the end."""
    x = torch.full((64, 16), torch.nan)
    x[:40] = torch.randn(40, 16)
    first, second = interpret(parse_program(REBOUND), [x[:40]])
    torch.testing.assert_close(first, x[:32].sum(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second, x[32:40].sum(0), rtol=1e-5, atol=1e-5)


REFUSED = {
    "additions to tiles of total of two sizes": ("reduce_add(count[r2], z", "r3 = tile(R, 32, 0)\n            w = load(x[job, r3, :])\n            reduce_add(total[r3, :], w, after=rank)\n            reduce_add(count[r2], z"),
    "in a grid whose tiles differ from instance to instance": ("for job in grid(J):", "for job, t in grid(J, tiles(ranks[job], 16, most=R)):"),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_orders_that_cannot_be_kept_are_refused(reason: str) -> None:
    old, new = REFUSED[reason]
    assert old in TWO_TARGETS
    with pytest.raises(LoweringError, match=reason):
        TARGETS["triton"].lower(parse_program(TWO_TARGETS.replace(old, new)), "sm_90")


def source_of(case: Case, dtype: str = "bf16", tiles: tuple[int, int] = (64, 64)) -> str:
    program = program_of(case.variant.spec(d=64, dv=64, dtype=dtype), tiles)
    return TARGETS["triton"].lower(program, "sm_90").source


def test_a_whole_file(golden: Callable[[str, str], None]) -> None:
    golden("triton-backward-causal", source_of(CAUSAL))


def test_tuning_never_decides_bits() -> None:
    """One row for each architecture, so nothing is timed; forward kernels, which have two products, are."""
    for form in ("flash_backward", "flash_backward_split"):
        program = program_of(CAUSAL.variant.spec(d=64, dv=64, dtype="bf16"), form=form)
        module = import_source(TARGETS["triton"].lower(program, "sm_90").source)
        assert {len(rows) for rows in module.CONFIGS.values()} == {1}
    forward = transfer(reference_program(), CAUSAL.variant.spec(d=64, dv=64, dtype="bf16"))
    assert import_source(TARGETS["triton"].lower(forward, "sm_90").source).CONFIGS["sm_90"] == list(TABLES[0][2]["sm_90"])


class FakeKernel:
    """Stands for a kernel of 4 and of 8 warps: `warmup` gives what was compiled."""

    def __init__(self, registers: int, shared: int) -> None:
        self.built = [
            SimpleNamespace(n_regs=registers, metadata=SimpleNamespace(num_warps=n, shared=shared), run=None) for n in (4, 8)
        ]

    def warmup(self, *_: object, grid: tuple[int, ...]) -> list[SimpleNamespace]:
        assert grid == (1,)
        return self.built


GPU = SimpleNamespace(
    multi_processor_count=132, max_threads_per_multi_processor=2048, shared_memory_per_multiprocessor=228 << 10
)


@pytest.mark.parametrize(
    ("registers", "shared", "blocks"), [(32, 0, 8), (255, 0, 1), (128, 0, 2), (32, 100 << 10, 2), (32, 200 << 10, 1)]
)
def test_how_many_programs_run_at_once(
    registers: int, shared: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all rows of the tuning table, the one with the least room."""
    module = import_source(source_of(CAUSAL))
    monkeypatch.setattr(module, "RESIDENT", {})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: GPU)
    kernel, device = FakeKernel(registers, shared), torch.device("cuda", 0)
    assert module.resident_programs(kernel, (), device) == 132 * blocks
    assert module.check_workers(kernel, (), device, 10_000, None, 132) == 132 * blocks
    assert module.check_workers(kernel, (), device, 10, None, 132) == 10
    with pytest.raises(module.TooFewWorkers, match="100 of its programs run at once"):
        module.check_workers(kernel, (), device, 10_000, 100, 132)


def test_other_errors_of_a_launch_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(CAUSAL.variant.spec(), TILES)
    launch = TARGETS["triton"].load(TARGETS["triton"].lower(program, "sm_90"), program)
    assert isinstance(launch, TritonLaunch)
    problem = problem_of(CAUSAL, CAUSAL.variant.spec())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    jobs, lists, visits = plan_of(problem)
    with pytest.raises(ValueError, match=r"visits is torch\.int64"):
        launch([*problem.inputs, jobs, lists, visits.long(), *map(torch.zeros_like, problem.inputs[:3])], {})


def test_tiles_of_one_row_of_products_hold_no_turned_copy() -> None:
    """Weights and their gradients lie as both products along queries take them; loads come once."""
    source = source_of(CASES["softcap"])
    assert "dv_acc = tl.dot(p_low, do_tile" in source.replace("do_rows", "do_tile")
    assert "tl.trans(p" not in source
    assert source.count("tl.load(\n                q + ") == 1
    retiled = retile(program_of(CAUSAL.variant.spec(d=64, dv=64, dtype="bf16")), {"m": 32})
    assert "TILE_M = tl.constexpr(32)" in TARGETS["triton"].lower(retiled, "sm_90").source
