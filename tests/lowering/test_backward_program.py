"""The backward program's meaning: safe plans under adversarial interleavings and few workers, wrong ones caught."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilewright.ir.errors import BarrierPhaseError, Deadlock
from tilewright.ir.interpreter import explore, interpret
from tilewright.ir.parser import parse_program
from tilewright.ir.program import Program
from tilewright.kernels.dtypes import as_array

from .backward import CASES, ORDERS, Plan, Problem, distance, plan_of, problem_of, program_of
from .variants import VARIANTS

TILES = (16, 16)
NAMES = ("causal", "documents", "blocks")


def arguments_of(program: Program, problem: Problem, plan: Plan | tuple[()] = ()) -> dict[str, np.ndarray]:
    names = [param.name for param in program.params if not param.is_output]
    return {name: as_array(x) for name, x in zip(names, [*problem.inputs, *plan], strict=True)}


def small(name: str) -> tuple[Program, Problem]:
    spec = CASES[name].variant.spec(d=8, dv=8)
    problem = problem_of(CASES[name], spec, heads=2, rows=37, columns=37)
    return program_of(spec, TILES), problem


def check(problem: Problem, found: dict[str, np.ndarray]) -> None:
    """Exact but for o and lse, which come rounded to float32."""
    for name, exact in zip(("dq", "dk", "dv"), problem.exact, strict=True):
        assert distance(torch.from_numpy(found[name]), exact) < 1e-6


@pytest.mark.parametrize("resident", [1, 2, None])
@pytest.mark.parametrize("name", NAMES)
def test_safe_plans_have_the_same_bits_in_every_interleaving(name: str, resident: int | None) -> None:
    """No race, no deadlock, one result: with one worker, with few, with one for each job."""
    program, problem = small(name)
    found = explore(program, arguments_of(program, problem, plan_of(problem, TILES, "shuffled")), seeds=range(4), resident=resident)
    assert found.is_deterministic
    assert found.unordered == ()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NAMES)
def test_exact_gradients(name: str, order: str) -> None:
    program, problem = small(name)
    plan = plan_of(problem, TILES, order)
    check(problem, interpret(program, arguments_of(program, problem, plan), float_type=np.float64))


@pytest.mark.parametrize("name", NAMES)
def test_the_form_without_sums_of_several_instances(name: str) -> None:
    spec = CASES[name].variant.spec(d=8, dv=8)
    problem = problem_of(CASES[name], spec, heads=2, rows=37, columns=37)
    program = program_of(spec, TILES, form="flash_backward_split")
    check(problem, interpret(program, arguments_of(program, problem), float_type=np.float64))
    assert explore(program, arguments_of(program, problem), seeds=range(3)).is_deterministic


def test_additions_in_any_order_have_other_bits_in_another_interleaving() -> None:
    spec = CASES["full"].variant.spec(d=8, dv=8)
    problem = problem_of(CASES["full"], spec, heads=2, rows=64, columns=100)
    program = program_of(spec, TILES, is_ordered=False)
    found = explore(program, arguments_of(program, problem, plan_of(problem, TILES)), seeds=range(3))
    assert {difference.output for difference in found.differences} == {"dq"}
    assert found.unordered


def reversed_ranks(problem: Problem) -> Plan:
    """A plan that adds in the order opposite to that of the jobs: it needs all its jobs at work at once."""
    jobs, lists, visits = plan_of(problem, TILES)
    counts: dict[tuple[int, ...], int] = {}
    places = []
    for b, g, _, line in jobs.tolist():
        for row in visits[lists[line] : lists[line + 1]].tolist():
            places.append((b, g, row[0], row[1]))
            counts[places[-1]] = counts.get(places[-1], 0) + 1
    ranks = torch.tensor([counts[place] - 1 for place in places], dtype=torch.int32)
    return jobs, lists, torch.cat([visits[:, :2], (ranks - visits[:, 2])[:, None], visits[:, 3:]], 1)


def test_a_plan_that_needs_many_workers_stalls_with_few() -> None:
    program, problem = small("causal")
    given = arguments_of(program, problem, reversed_ranks(problem))
    check(problem, interpret(program, given, float_type=np.float64))
    with pytest.raises(Deadlock, match="its turn 1 to add to dq_sum"):
        interpret(program, given, resident=1)


def test_ranks_that_come_twice_and_ranks_that_never_come() -> None:
    program, problem = small("causal")
    jobs, lists, visits = plan_of(problem, TILES)
    twice, never = visits.clone(), visits.clone()
    twice[lists[1], 2] = 0
    never[0, 2] = 9
    with pytest.raises((BarrierPhaseError, Deadlock)):
        interpret(program, arguments_of(program, problem, (jobs, lists, twice)))
    with pytest.raises(Deadlock, match="its turn 9 to add to dq_sum"):
        interpret(program, arguments_of(program, problem, (jobs, lists, never)))


@pytest.mark.parametrize("form", ["flash_backward", "flash_backward_rows", "flash_backward_split"])
@pytest.mark.parametrize("name", ["sigmoid", "relu", "share-question", "row-sum", "powers"])
def test_the_text_of_every_form_is_a_program(name: str, form: str) -> None:
    """Weights that need no sums of rows leave a grid with nothing to do, which goes as a whole."""
    program = program_of(VARIANTS[name].spec(d=8, dv=8), TILES, form=form)
    assert parse_program(str(program)) == program
