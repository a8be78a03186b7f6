"""The planner: a deterministic schedule for any block mask, costs and number of workers.

A plan is a pure function of the arguments: never of the machine, of time, or of where a sequence stands in a batch. The
unit is one sequence, all heads of one batch element.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd

from numpy.typing import ArrayLike

from ..ir.errors import ScheduleError
from .bound import lower_bound
from .greedy import to_plan
from .masks import Tiles, parse_mask
from .named import NAMED, STATIC, least_end, named_plan, reason_missing
from .plan import Frame, Plan, assemble, replicated, spread
from .safe import quick_safe, safe_candidates
from .search import best_reserved
from .simulate import resident_workers, simulate
from .work import Work, check_workers

__all__ = ["MODES", "plan_backward", "plan_work"]

MODES = ("safe", "greedy")
LARGE_VISITS = 800_000  # above which heads are planned in step even where some workers then have nothing to do
IDLE_SHARE = 0.02  # of the workers, at most
RESIDENT_VISITS = 1 << 15  # up to which min_resident is the least, above it may be more
NEAR = 1 + 1e-9
CLOSE = 1.001  # to the bound: such a safe plan is better than a greedy one, which needs resident workers


@dataclass(frozen=True, slots=True)
class _Found:
    """A plan, and a time in which it can be carried out."""

    plan: Plan
    makespan: float


def plan_backward(  # noqa: PLR0913 - one parameter per choice, most by keyword only
    mask: ArrayLike | str,
    heads: int = 1,
    workers: int = 132,
    *,
    compute: ArrayLike = 1.0,
    reduce: float = 0.25,
    latency: float = 0.0,
    mode: str = "safe",
    tiles: Tiles | None = None,
    search: bool = True,
) -> Plan:
    """A deterministic backward schedule of one sequence.

    mask: bool [NQ, NK] for all heads or [heads, NQ, NK], True where a tile is visited; or `causal`, `full`, `window:W`,
    `document:L1,L2,…`, `FILE.npy` with tiles=(NQ, NK). workers: a virtual number, part of what bits depend on.
    compute: a visit's cost, one number or an array like the mask; reduce, latency: of a reduction, and between two.
    mode: `safe`, `greedy`, or a named order. search=False takes the first safe plan without comparing.
    Raises ScheduleError for a mask, sizes or costs that make no sense, or an order that does not exist for them.
    """
    if isinstance(mask, str):
        if tiles is None:
            raise ScheduleError(f"mask {mask!r} by name: wanted tiles=(NQ, NK) as well")
        mask = parse_mask(mask, tiles)
    return plan_work(Work.of(mask, heads, compute, reduce, latency), workers, mode, search=search)


def plan_work(work: Work, workers: int, mode: str = "safe", *, search: bool = True) -> Plan:
    """As plan_backward, of work that is put together already."""
    check_workers(workers)
    if mode in NAMED:
        return named_plan(mode, work, workers)
    if mode not in MODES:
        raise ScheduleError(f"mode {mode!r}: wanted one of {', '.join((*MODES, *NAMED))}")
    small, *places = work.compressed()
    if not small.mask.size:
        return assemble(Frame(work.mask.shape, mode, workers), [], [])
    plan = _planned(small, workers, mode, search)
    return spread(replace(plan, mode=mode, workers=workers), work.mask.shape, places)


def _planned(work: Work, workers: int, mode: str, search: bool) -> Plan:
    ticks, is_exact = work.in_ticks()
    if mode == "safe" and not search:
        return quick_safe(ticks, workers) if ticks.twins() else next(safe_candidates(ticks, workers, 0.0))
    bound = lower_bound(ticks, workers)
    best = _best_safe(ticks, workers, bound)
    if mode == "greedy" and best.makespan > bound * CLOSE:
        best = min(best, _best_greedy(ticks, workers, bound), key=lambda found: found.makespan)
    judge = ticks if is_exact else work
    if not is_exact:
        best = replace(best, makespan=simulate(best.plan, work, workers).makespan)
    return _against_named(best, judge, workers, mode).plan


def _against_named(best: _Found, work: Work, workers: int, mode: str) -> _Found:
    """The best named order where it is better; for `safe`, of those that run on any number of workers."""
    for name in NAMED:
        if (mode == "safe" and name in STATIC) or reason_missing(name, work):
            continue
        if least_end(name, work, workers) * NEAR >= best.makespan:
            continue
        plan = named_plan(name, work, workers)
        makespan = simulate(plan, work, workers).makespan
        if makespan * NEAR < best.makespan:
            best = _Found(plan, makespan)
    return best


def _in_step_times(work: Work, workers: int) -> int:
    """How many heads run in step, as copies of one: the most that divide heads and workers, if heads are alike.

    Large work takes more of them, even if a few workers then have nothing to do.
    """
    if not work.twins():
        return 1
    even = gcd(work.heads, workers)
    if work.num_visits // even > LARGE_VISITS:
        for times in range(min(work.heads, workers), even, -1):
            if work.heads % times == 0 and workers % times <= IDLE_SHARE * workers:
                return times
    return even


def _in_step(work: Work, workers: int, times: int) -> tuple[Work, int]:
    return work.first_heads(work.heads // times), workers // times


def _best_safe(work: Work, workers: int, bound: float) -> _Found:
    times = _in_step_times(work, workers)
    part, share = _in_step(work, workers, times)
    best: _Found | None = None
    for plan in safe_candidates(part, share, bound):
        makespan = simulate(plan, part, share).makespan
        if best is None or makespan < best.makespan:
            best = _Found(plan, makespan)
        if makespan <= bound * NEAR:
            break
    assert best is not None
    return replace(best, plan=replicated(best.plan, times))


def _best_greedy(work: Work, workers: int, bound: float) -> _Found:
    """Heads in step where that costs nothing, so that they share rows and the search is short."""
    times = _in_step_times(work, workers)
    part, share = _in_step(work, workers, times)
    reserved = best_reserved(part, share, bound)
    plan = to_plan(reserved, part, share, "greedy")
    return _Found(_with_residency(plan, times, workers), reserved.makespan)


def _with_residency(plan: Plan, times: int, workers: int) -> Plan:
    """Heads in step need as many workers as one of them, times their number; fewer may do, which is worth knowing."""
    whole = replicated(plan, times)
    if whole.num_visits <= RESIDENT_VISITS:
        return replace(whole, min_resident=resident_workers(whole))
    return replace(whole, min_resident=min(workers, times * resident_workers(plan)))
