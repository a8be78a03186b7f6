"""What the project wants to reach, as data, and how a run stands against it. No test depends on it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .backward import MEMORY_LENGTHS, VARIED, backward_cases, memory_case
from .circumstances import KINDS
from .decode import LENGTHS as DECODE_LENGTHS
from .decode import decode_case
from .determinism import bits_cases, determinism_cases
from .differentiated import UNORDERED
from .families import family_cases, is_against_flex
from .forward import case_of
from .huggingface import model_case
from .implementations import TILEWRIGHT
from .long import LENGTHS, long_case
from .mask_build import MASK_VARIANTS, mask_case
from .rows import PEAK, VECTOR_PEAK, Row
from .varlen import PADDED, varlen_batches

__all__ = ["GOALS", "Goal", "Results", "Verdict", "verdicts"]

SIZE = (1, 8, 2048)  # B, H, N
SDPA_GOALS = {("f32", "full"): 1.35, ("f32", "causal"): 1.5, ("bf16", "full"): 2.3, ("bf16", "causal"): 2.6}
FLEX_GOALS = {"f32": 2.0, "bf16": 5.0}
PEAK_GOALS = {"f32": 0.78, "bf16": 0.70}
EAGER_GOAL = 5.0
PADDED_GOAL = 3.0
EXPONENT_GOALS = {"full": 2.1, "window": 1.1}  # 2 and 1, and room for what noise adds to a fit of two points
RESIDENT_GOAL_MB = 200.0
OVERHEAD_GOAL_US = 30.0
MASK_BUILD_GOAL_MS = 5.0
DECODE_BANDWIDTH_GOAL = 0.8  # of reading the keys and values alone
DECODE_SDPA_GOALS = {16: 1.0, 256: 1.0, 1024: 1.0, 4096: 1.0, 32768: 1.5}
MODEL_GOALS = {"prefill": 1.3, "decode": 1.0}  # a whole model through transformers, against its sdpa
TRAINING_GOALS = {("f32", "causal"): 1.6, ("bf16", "causal"): 2.0}  # forward and backward against SDPA
TRAINING_EAGER_GOAL = 8.0
TRAINING_MEMORY_GOAL_MB = 200.0  # scores alone would be 1024
ORDERED_GOAL = 0.97  # of the speed of sums that are added as they come
STARTUP_GOALS_S = {"generate-cold": 8.0, "generate-cached": 4.0}


class Results:
    """Rows of one run, found by suite, case and implementation."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {(row.suite, row.case, row.impl): row for row in rows}

    def median_ms(self, suite: str, case: str, impl: str) -> float | None:
        """Median of an implementation, or None where it was not measured."""
        row = self._rows.get((suite, case, impl))
        return row.median_ms if row else None

    def gflops(self, suite: str, case: str, impl: str) -> float | None:
        """GFLOP/s of an implementation, or None."""
        row = self._rows.get((suite, case, impl))
        return row.gflops if row else None

    def extra(self, suite: str, case: str, impl: str, name: str) -> float | None:
        """A suite's own measurement, or None."""
        row = self._rows.get((suite, case, impl))
        return row.extra.get(name) if row else None

    def extras(self, suite: str, impl: str, name: str) -> list[float]:
        """A suite's own measurement over all of its cases."""
        rows = (row for (of, _, by), row in self._rows.items() if (of, by) == (suite, impl))
        return [row.extra[name] for row in rows if name in row.extra]


Measure = Callable[[Results], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """A number to reach: at least (is_floor) or at most `wanted`, in `unit`."""

    name: str
    unit: str
    wanted: float
    is_floor: bool
    measure: Measure


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what was measured."""

    goal: Goal
    measured: float

    @property
    def is_reached(self) -> bool:
        """Whether the measured number is on the right side of the wanted one."""
        wanted = self.goal.wanted
        return self.measured >= wanted if self.goal.is_floor else self.measured <= wanted


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every goal that these rows measured, in the order of GOALS."""
    results = Results(rows)
    measured = ((goal, goal.measure(results)) for goal in GOALS)
    return [Verdict(goal, value) for goal, value in measured if value is not None]


def _ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top is not None and bottom else None


def _speedup(case: str, peer: str, suite: str = "forward") -> Measure:
    return lambda r: _ratio(r.median_ms(suite, case, peer), r.median_ms(suite, case, TILEWRIGHT))


def _share_of_vector_peak(case: str) -> Measure:
    def measure(results: Results) -> float | None:
        peak = results.gflops("forward", case, VECTOR_PEAK) or results.gflops("forward", case, PEAK)
        return _ratio(results.gflops("forward", case, TILEWRIGHT), peak)

    return measure


def _exponent(variant: str, dtype: str) -> Measure:
    """p of time = c N^p, through the second shortest and the longest length (fixed costs weigh less)."""
    short, longest = LENGTHS[1], LENGTHS[-1]
    cases = [str(long_case(variant, dtype, length)) for length in (short, longest)]

    def measure(results: Results) -> float | None:
        before, after = (results.median_ms("long", case, TILEWRIGHT) for case in cases)
        growth = _ratio(after, before)
        return math.log(growth) / math.log(longest / short) if growth else None

    return measure


def _forward_goals() -> Iterator[Goal]:
    for (dtype, variant), wanted in SDPA_GOALS.items():
        for head_dim in (64, 128):
            case = str(case_of(variant, dtype, SIZE, head_dim))
            yield Goal(f"{case} against SDPA", "x", wanted, True, _speedup(case, "sdpa"))
    for dtype, wanted in PEAK_GOALS.items():
        case = str(case_of("full", dtype, SIZE, 128))
        yield Goal(f"{case} of vector peak", "", wanted, True, _share_of_vector_peak(case))
    for dtype, wanted in FLEX_GOALS.items():
        for variant in ("window", "softcap", "alibi", "documents"):
            case = str(case_of(variant, dtype, SIZE, 64))
            yield Goal(f"{case} against flex", "x", wanted, True, _speedup(case, "flex"))


def _variants_goals() -> Iterator[Goal]:
    for case in family_cases():
        peer = "flex" if is_against_flex(case.variant) else "eager"
        wanted = FLEX_GOALS[case.dtype] if peer == "flex" else EAGER_GOAL
        yield Goal(f"variants {case} against {peer}", "x", wanted, True, _speedup(str(case), peer, "variants"))


def _long_goals() -> Iterator[Goal]:
    for variant, wanted in EXPONENT_GOALS.items():
        case = str(long_case(variant, "f32", LENGTHS[-1]))
        yield Goal(f"{variant}: exponent of N", "", wanted, False, _exponent(variant, "f32"))
        yield Goal(f"{case} memory", "MB", RESIDENT_GOAL_MB, False, _extra("memory", case, "resident_mb"))


def _backward_goals() -> Iterator[Goal]:
    for case in backward_cases("cpu"):
        name = case.variant.name
        if (case.dtype, name) in TRAINING_GOALS:
            wanted, measure = TRAINING_GOALS[case.dtype, name], _speedup(str(case), "sdpa", "backward")
            yield Goal(f"backward {case} against SDPA", "x", wanted, True, measure)
        if name in VARIED:
            measure = _speedup(str(case), "eager", "backward")
            yield Goal(f"backward {case} against eager", "x", TRAINING_EAGER_GOAL, True, measure)
    for variant in ("full", "causal", "alibi-captured"):
        longest = str(memory_case(variant, MEMORY_LENGTHS[-1]))
        measure = _extra("backward-memory", longest, "resident_mb")
        yield Goal(f"backward {longest} memory", "MB", TRAINING_MEMORY_GOAL_MB, False, measure)


def _determinism_goals() -> Iterator[Goal]:
    for target in ("cpu", "triton"):
        for case in determinism_cases(target):
            measure = _speedup(str(case), TILEWRIGHT + UNORDERED, "determinism")
            yield Goal(f"determinism {case} against as they come", "x", ORDERED_GOAL, True, measure)
    for case in bits_cases("cpu"):
        yield Goal(f"bits {case}: equal", "", 1.0, True, _equal_share(str(case)))


def _equal_share(case: str) -> Measure:
    """The smallest share of equal results among the circumstances that were compared."""

    def measure(results: Results) -> float | None:
        extra = functools.partial(results.extra, "bits", case, TILEWRIGHT)
        pairs = [(extra(kind), extra(f"equal_{kind}")) for kind in KINDS]
        shares = [equal / tried for tried, equal in pairs if tried and equal is not None]
        return min(shares) if shares else None

    return measure


def _decode_goals() -> Iterator[Goal]:
    case = str(decode_case("bf16", DECODE_LENGTHS[-1]))
    yield Goal(f"decode {case} of bandwidth", "", DECODE_BANDWIDTH_GOAL, True, _share_of_bandwidth(case))
    for length, wanted in DECODE_SDPA_GOALS.items():
        case = str(decode_case("bf16", length))
        yield Goal(f"decode {case} against SDPA", "x", wanted, True, _speedup(case, "sdpa", "decode"))


def _share_of_bandwidth(case: str) -> Measure:
    return lambda r: _ratio(r.gflops("decode", case, TILEWRIGHT), r.gflops("decode", case, PEAK))


def _extra(suite: str, case: str, name: str) -> Measure:
    return lambda r: r.extra(suite, case, TILEWRIGHT, name)


def _model_goals() -> Iterator[Goal]:
    for phase, wanted in MODEL_GOALS.items():
        for dtype in PEAK_GOALS:
            case = model_case(phase, dtype)
            yield Goal(f"{case} against sdpa", "x", wanted, True, _speedup(case, "sdpa", "huggingface"))


def _varlen_goals() -> Iterator[Goal]:
    for batch in varlen_batches()[:4]:  # the long ones
        measure = _speedup(str(batch), PADDED, "varlen")
        yield Goal(f"varlen {batch} against padded SDPA", "x", PADDED_GOAL, True, measure)


def _startup_goals() -> Iterator[Goal]:
    for case, wanted in STARTUP_GOALS_S.items():
        yield Goal(case, "s", wanted, False, _seconds(case))


def _seconds(case: str) -> Measure:
    return lambda r: _ratio(r.median_ms("startup", case, TILEWRIGHT), 1e3)


def _resource_goals() -> Iterator[Goal]:
    yield Goal("Triton kernels: instructions that spill", "", 0.0, False, _over_resources(max, "spills"))
    fewest = _over_resources(min, "tensor_core_instructions")
    yield Goal("Triton kernels: tensor-core instructions", "", 1.0, True, fewest)


def _over_resources(worst: Callable[[list[float]], float], name: str) -> Measure:
    def measure(results: Results) -> float | None:
        values = results.extras("resources", TILEWRIGHT, name)
        return worst(values) if values else None

    return measure


def _mask_goals() -> Iterator[Goal]:
    for variant in MASK_VARIANTS:
        case = str(mask_case(variant))
        yield Goal(f"{case} mask", "ms", MASK_BUILD_GOAL_MS, False, _mask_ms(case))


def _mask_ms(case: str) -> Measure:
    return lambda r: r.median_ms("mask-build", case, TILEWRIGHT)


def _overhead_goal() -> Goal:
    case = str(case_of("causal", "f32", (1, 8, 16), 64))
    return Goal(f"{case} call over SDPA's", "us", OVERHEAD_GOAL_US, False, _extra("overhead", case, "over_sdpa_us"))


GOALS: tuple[Goal, ...] = (
    *_forward_goals(), *_variants_goals(), *_backward_goals(), *_determinism_goals(), *_long_goals(),
    *_decode_goals(), *_varlen_goals(),
    *_model_goals(), *_mask_goals(), _overhead_goal(), *_startup_goals(), *_resource_goals(),
)  # fmt: skip
