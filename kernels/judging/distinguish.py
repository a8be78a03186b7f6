"""Inputs that tell programs apart: where two candidates that look alike, or that disagree, differ beyond rounding.

Tried in order: the cases there are, sizes around the tiles and constants of each program, then drawn at random from a
seed: sizes, contents, and captured tensors with other values than the example has. What is found is made as small as a
counter-example; only inputs that the function takes are found, so that a judge can have them as a case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

import numpy as np
import torch

from ...ir.evaluate import Array
from ...ir.parser import parse_program
from ...ir.program import Program
from ..cases import Case
from ..oracle import Truth, distance
from .claims import Unanswered
from .diagnosis import difference, weights
from .inputs import Inputs
from .judge import ProgramJudge
from .limits import Allowance
from .runs import Candidate, Ran
from .shrink import least
from .trials import own_inputs
from .wording import contents
from .words import SPREAD, failure_word

__all__ = ["Distinction", "search_distinguishing", "varied"]

SIZES = (1, 2, 3, 4, 5, 6, 8, 11, 16, 17, 18, 24, 31, 33, 40, 64, 65, 70, 129, 131)
CONTENTS = ("normal", "normal", "indicator", "masked_rows", "rising", "sunken", "large")


@dataclass(frozen=True, slots=True)
class Distinction:
    """An input on which two programs differ, by their places in what was given, and a sentence on how."""

    inputs: Inputs
    places: tuple[int, int]
    sentence: str


def search_distinguishing(
    judge: ProgramJudge, programs: Sequence[Program | str], *, names: Sequence[str] = (), runs: int = 300,
    seconds: float = 120.0, seed: int = 0,
) -> Distinction | None:  # fmt: skip
    """The first input found on which any two of the programs differ, made small; None within the budget.

    names: of the programs in the sentence. Texts that do not parse and programs that are not valid raise their errors.
    """
    candidates = [judge.candidate(parse_program(p) if isinstance(p, str) else p) for p in programs]
    names = names or [f"program {number + 1}" for number in range(len(candidates))]
    allowance = Allowance(runs, seconds)
    for inputs in _tried(judge, candidates, seed):
        if not allowance.spend():
            return None
        pair = _differing(judge, candidates, inputs)
        if pair is not None:
            return _told(judge, candidates, names, (inputs, pair))
    return None


def _tried(judge: ProgramJudge, candidates: Sequence[Candidate], seed: int) -> Iterator[Inputs]:
    """Inputs without end."""
    cases = list(judge.cases)
    yield from cases
    for candidate in candidates:
        yield from own_inputs(judge.claim, candidate.program, cases)
    random = Random(seed)
    while True:
        case = Case(
            random.choice((1, 1, 2)), random.choice((1, 1, 2, 3)), random.choice(SIZES), random.choice(SIZES),
            content=random.choice(CONTENTS),
        )  # fmt: skip
        yield varied(judge.claim.draw(case), random)


def varied(inputs: Inputs, random: Random) -> Inputs:
    """The captured tensors with other values: in another order, all alike, scaled, beyond what the example holds."""
    generator = torch.Generator().manual_seed(random.randrange(1 << 30))
    tensors = list(inputs.tensors)
    for position in range(3, len(tensors)):
        tensors[position] = _other(tensors[position], random, generator)
    return inputs.holding(tensors, f"{inputs.name}-varied{random.randrange(1 << 16)}")


def _other(tensor: torch.Tensor, random: Random, generator: torch.Generator) -> torch.Tensor:
    flat = tensor.reshape(-1)
    if not flat.numel():
        return tensor
    order = torch.randperm(flat.numel(), generator=generator)
    permuted = flat[order].reshape(tensor.shape)
    if tensor.dtype is torch.bool:
        share = random.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        return torch.rand(tensor.shape, generator=generator) < share
    one = flat[random.randrange(flat.numel())]
    if tensor.is_floating_point():
        wide = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        return random.choice((tensor, permuted, tensor * 8, -tensor, wide, torch.full_like(tensor, float(one))))
    low, high = min(int(flat.min()), 0), int(flat.max())
    most = random.choice((high, high + 1 + (high - low) // 2))  # beyond what the example has: the function may refuse
    drawn = torch.randint(low, most + 1, tensor.shape, generator=generator).to(tensor.dtype)
    in_order = torch.sort(drawn, dim=-1).values if drawn.dim() else drawn
    return random.choice((tensor, permuted, drawn, in_order, torch.full_like(tensor, int(one))))


def _differing(judge: ProgramJudge, candidates: Sequence[Candidate], inputs: Inputs) -> tuple[int, int] | None:
    """Two programs that do not do the same on this input; None as well where the function does not take it."""
    try:
        truths = judge.expect(inputs)
    except Unanswered:
        return None
    ran = [candidate.run(inputs) for candidate in candidates]
    pairs = combinations(range(len(candidates)), 2)
    return next((pair for pair in pairs if not alike(ran[pair[0]], ran[pair[1]], truths)), None)


def alike(left: Ran, right: Ran, truths: dict[str, Truth]) -> bool:
    """Whether two runs gave the same, up to rounding, where both have an output and it is judged."""
    if left.failure or right.failure:
        return failure_word(left) == failure_word(right)
    for role in left.outputs.keys() & right.outputs.keys():
        a, b = left.outputs[role], right.outputs[role]
        truth = truths.get(role)
        if a.shape != b.shape:
            return False
        if truth is None or truth.exact.shape != a.shape:
            continue
        if distance(a[truth.is_judged], b[truth.is_judged]) > SPREAD * truth.budget:
            return False
    return True


def _told(
    judge: ProgramJudge, candidates: Sequence[Candidate], names: Sequence[str], found: tuple[Inputs, tuple[int, int]]
) -> Distinction:
    """The input made small, and what is different on it."""
    start, (first, second) = found
    pair = (candidates[first], candidates[second])
    allowance = Allowance(judge.limits.runs, judge.limits.seconds_to_shrink)

    def fails(inputs: Inputs) -> bool:
        return allowance.spend() and _differing(judge, pair, inputs) is not None

    inputs = least(start, judge.claim, fails)
    sentence = _sentence(judge, pair, inputs, (names[first], names[second]))
    return Distinction(inputs.holding(inputs.tensors, f"{inputs.name}-distinguishing"), (first, second), sentence)


def _sentence(judge: ProgramJudge, pair: tuple[Candidate, Candidate], inputs: Inputs, names: tuple[str, str]) -> str:
    sizes = ", ".join(f"{name}={size}" for name, size in inputs.main_sizes.items())
    where = f"({sizes}; {contents(inputs)})"
    left, right = (candidate.run(inputs) for candidate in pair)
    truths = judge.expect(inputs)
    agrees = [name for name, ran in zip(names, (left, right), strict=True) if _is_true(ran, truths)]
    told = f"; the function agrees with {agrees[0]}" if len(agrees) == 1 else "; the function agrees with neither"
    if left.failure or right.failure:
        how = " and ".join(f"{name} {failure_word(ran) if ran.failure else 'runs'}"
                           for name, ran in zip(names, (left, right), strict=True))  # fmt: skip
        return f"{how} {where}{told}"
    return f"{_how(pair, inputs, (left, right), truths, names)} {where}{told}"


def _is_true(ran: Ran, truths: dict[str, Truth]) -> bool:
    return not ran.failure and all(t.error(ran.outputs[r]) <= t.budget for r, t in truths.items() if r in ran.outputs)


def _how(
    pair: tuple[Candidate, Candidate], inputs: Inputs, ran: tuple[Ran, Ran], truths: dict[str, Truth],
    names: tuple[str, str],
) -> str:  # fmt: skip
    """Where the outputs are furthest apart, in weights if that can be told."""
    for role in ("o", "lse"):
        if role not in truths or any(role not in one.outputs for one in ran):
            continue
        a, b = ran[0].outputs[role], ran[1].outputs[role]
        with np.errstate(all="ignore"):
            off = np.where(a == b, 0.0, np.abs(a - b))
        off = np.where(np.isnan(a) & np.isnan(b), 0.0, np.where(np.isnan(off), np.inf, off))
        off = np.where(truths[role].is_judged, off, 0.0)
        if not off.size or off.max() <= SPREAD * truths[role].budget:
            continue
        place = tuple(int(n) for n in np.unravel_index(int(off.argmax()), off.shape))
        return _by_weights(pair, inputs, place, names) or (
            f"{role}[{', '.join(map(str, place))}] is {a[place]:.6g} in {names[0]} and {b[place]:.6g} in {names[1]}"
        )
    return f"{names[0]} and {names[1]} differ"


def _by_weights(
    pair: tuple[Candidate, Candidate], inputs: Inputs, place: tuple[int, ...], names: tuple[str, str]
) -> str:
    group = inputs.sizes["Hq"] // max(inputs.sizes["Hkv"], 1)

    def ask(candidate: Candidate) -> Array | None:
        return weights(lambda given: candidate.run(given).outputs.get("o"), inputs, place[:3])

    got, wanted = ask(pair[0]), ask(pair[1])
    if got is None or wanted is None:
        return ""
    tolerance = 1e-3 * float(np.nanmax(np.abs(wanted), initial=0.0)) or 1e-6
    return difference(got, wanted, tolerance, (place[0], place[1] // group, *place[1:3]), names)
