"""The smallest input on which a candidate is wrong or fails: sizes first, then what the tensors hold.

Greedy: every step keeps an input on which the candidate is still wrong, further off than the case's budget. Sizes
shrink by taking the first rows, keys, heads, batch entries; tensors become zero or one where that is enough, else keep
as few elements as possible, of simple values. All of it within an allowance of runs and seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ...ir.evaluate import Array
from ...ir.transfer.engine import CounterExample
from ..oracle import Truth
from .claims import Claim, Unanswered
from .diagnosis import diagnosis
from .inputs import Inputs
from .limits import Allowance, JudgeLimits
from .runs import Candidate, Ran
from .wording import contents, lines_of
from .words import is_wrong

__all__ = ["Finding", "Oracle", "counter_example", "least", "least_failure", "probe"]

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 32, 33, 48, 64, 65, 96, 128, 129, 192, 256, 257, 384, 512, 768, 1024)
MOST_STARTS = 4
MOST_ATTEMPTS = 200  # to empty parts of one tensor
TOGETHER = (("M", "N"), ("B",), ("Hkv",), ("M",), ("N",))
Fails = Callable[[Inputs], bool]


class Oracle(Protocol):
    """What knows the truth: the judge."""

    @property
    def claim(self) -> Claim:
        """What is to be computed."""

    @property
    def limits(self) -> JudgeLimits:
        """How much may be taken."""

    def expect(self, inputs: Inputs) -> dict[str, Truth]:
        """What should come out. Raises Unanswered."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Where an output is furthest beyond its budget."""

    output: str
    place: tuple[int, ...]
    got: float
    wanted: float
    budget: float


def counter_example(
    oracle: Oracle, candidate: Candidate, failing: Sequence[Inputs]
) -> tuple[CounterExample | None, str]:
    """The smallest input found, starting with the smallest of those that fail, and one line that says what is wrong."""
    allowance = Allowance(oracle.limits.runs, oracle.limits.seconds_to_shrink)

    start, first = _start(oracle, candidate, failing)
    if first is None:  # a budget that was less by a hair
        return None, f"wrong on {start.name}"
    role = first.output

    def fails(inputs: Inputs) -> bool:
        finding = probe(oracle, candidate, inputs) if allowance.spend() else None
        return finding is not None and finding.output == role

    found = least(start, oracle.claim, fails)
    finding = probe(oracle, candidate, found) or first
    told = diagnosis(lambda given: _output(candidate, given), lambda given: _truth(oracle, given), found, finding.place)
    example = CounterExample(
        sizes=found.main_sizes, inputs=contents(found), output=finding.output, place=finding.place, got=finding.got,
        wanted=finding.wanted, budget=finding.budget, diagnosis=told,
    )  # fmt: skip
    return example, str(example)


def _start(oracle: Oracle, candidate: Candidate, failing: Sequence[Inputs]) -> tuple[Inputs, Finding | None]:
    """The smallest of the inputs that fail, if possible one on which o itself is wrong."""
    ordered = sorted(failing, key=lambda inputs: (sum(x.numel() for x in inputs.tensors), inputs.name))
    found = [(inputs, probe(oracle, candidate, inputs)) for inputs in ordered[:MOST_STARTS]]
    told = [(inputs, finding) for inputs, finding in found if finding is not None]
    return next(((one, finding) for one, finding in told if finding.output == "o"), (told or found)[0])


def least_failure(oracle: Oracle, candidate: Candidate, start: Inputs, ran: Ran) -> str:
    """The error with its program lines, and the smallest sizes at which it happens."""
    allowance = Allowance(min(oracle.limits.runs, 60), oracle.limits.seconds_to_shrink)
    last = ran

    def fails(inputs: Inputs) -> bool:
        nonlocal last
        found = candidate.run(inputs) if allowance.spend() else None
        if found is None or found.failure != ran.failure:
            return False
        last = found
        return True

    is_quick = ran.failure != "timeout"
    found = smallest(start, oracle.claim, fails) if is_quick else start
    sizes = ", ".join(f"{name}={size}" for name, size in found.main_sizes.items())
    return f"{last.failure} at {sizes}: {last.reason}{lines_of(candidate.program, last)}"


def probe(oracle: Oracle, candidate: Candidate, inputs: Inputs) -> Finding | None:
    """Where the candidate is wrong on this input; None where it is right, or fails, or the function refuses."""
    try:
        truths = oracle.expect(inputs)
    except Unanswered:
        return None
    ran = candidate.run(inputs, lambda ran: is_wrong(ran, truths))
    return None if ran.failure else worst(ran, truths)


def worst(ran: Ran, truths: dict[str, Truth]) -> Finding | None:
    """The place that is furthest beyond its budget, of o where o is wrong."""
    for role, truth in truths.items():
        got = ran.outputs.get(role)
        if got is None or truth.error(got) <= truth.budget or not got.size:
            continue
        with np.errstate(all="ignore"):
            off = np.where(got == truth.exact, 0.0, np.abs(got - truth.exact))
        off = np.where(np.isnan(got) & np.isnan(truth.exact), 0.0, np.where(np.isnan(off), np.inf, off))
        off = np.where(truth.is_judged, off, 0.0)
        place = tuple(int(n) for n in np.unravel_index(int(off.argmax()), off.shape))
        return Finding(role, place, float(got[place]), float(truth.exact[place]), truth.budget)
    return None


def least(inputs: Inputs, claim: Claim, fails: Fails) -> Inputs:
    """Small sizes, then plain tensors, then smaller sizes where plain tensors allow them."""
    return _smaller(simplest(_together(smallest(inputs, claim, fails), fails), fails), claim, fails)


def smallest(inputs: Inputs, claim: Claim, fails: Fails) -> Inputs:
    """The same input cut to the least sizes that still fail."""
    for names in TOGETHER:
        inputs = _least(inputs, names, LADDER, claim, fails) or inputs
    return _smaller(inputs, claim, fails)


def _smaller(inputs: Inputs, claim: Claim, fails: Fails) -> Inputs:
    """What became smaller may let the rest become so too: one size at a time, to one, half, or one less."""
    while True:
        for names in TOGETHER:
            sizes = inputs.main_sizes
            ladder = (1, *(size for name in names for size in (sizes[name] // 2, sizes[name] - 1)))
            less = _least(inputs, names, ladder, claim, fails)
            if less is not None:
                inputs = less
                break
        else:
            return inputs


def _least(inputs: Inputs, names: tuple[str, ...], ladder: Sequence[int], claim: Claim, fails: Fails) -> Inputs | None:
    """The least size of a ladder that fails, then the least between it and the step below."""
    sizes = inputs.main_sizes
    largest = max(sizes[name] for name in names)

    def cut(size: int) -> Inputs | None:
        wanted = {**sizes, **{name: min(size, sizes[name]) for name in names}}
        wanted["Hq"] = claim.group * wanted["Hkv"]
        smaller = inputs.cut(wanted)
        return smaller if claim.allows(smaller) and fails(smaller) else None

    low = 0  # an input without rows or keys says little
    for step in sorted({size for size in ladder if low < size < largest}):
        found, high = cut(step), step
        if found is None:
            low = step
            continue
        while high - low > 1:
            middle = (low + high) // 2
            between = cut(middle)
            found, low, high = (found, middle, high) if between is None else (between, low, middle)
        return found
    return None


def _together(inputs: Inputs, fails: Fails) -> Inputs:
    """q of ones, values of ones or of the last key alone, and k that makes one key stand out: often enough at once."""
    q, k, v, *rest = inputs.tensors
    if not k.numel() or not v.numel():
        return inputs
    last = torch.zeros_like(v)
    last[:, :, -1] = 1
    for row, value in ((-1, 1.0), (0, 1.0), (-1, -1.0), (-1, 8.0)):
        outstanding = torch.zeros_like(k)
        outstanding[:, :, row, -1] = value
        for values in (torch.ones_like(v), last):
            plain = inputs.holding([torch.ones_like(q), outstanding, values, *rest])
            if fails(plain):
                return plain
    return inputs


def simplest(inputs: Inputs, fails: Fails) -> Inputs:
    """The same input with tensors as plain as they can be: captured ones first, then q, k and v."""
    for position in (*range(3, len(inputs.tensors)), 0, 1, 2):
        inputs = _plain(inputs, position, fails)
    for position in (2, 1, 0):  # what is left of the others may be enough now
        inputs = _plain(inputs, position, fails)
    return inputs


def _plain(inputs: Inputs, position: int, fails: Fails) -> Inputs:
    tensor = inputs.tensors[position]
    if not tensor.numel():
        return inputs
    for value in (1, 0) if position == 2 else (0, 1):  # values of zero hide everything but nan
        constant = torch.full_like(tensor, value)
        if torch.equal(constant, tensor):
            return inputs
        if fails(_with(inputs, position, constant)):
            return _with(inputs, position, constant)
    if not tensor.is_floating_point():
        return inputs if tensor.dtype is torch.bool else _sparse(inputs, position, fails)
    for guess in _guesses(tensor):
        if fails(_with(inputs, position, guess)):
            return _with(inputs, position, guess)
    inputs = _sparse(inputs, position, fails)
    for simpler in _rounder(inputs.tensors[position]):
        if not torch.equal(simpler, inputs.tensors[position]) and fails(_with(inputs, position, simpler)):
            return _with(inputs, position, simpler)
    return inputs


def _guesses(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Tensors with a single element that is not zero, or a single column."""
    if not bool((tensor != 0).any()):
        return
    largest = torch.unravel_index(tensor.abs().nan_to_num(0.0).argmax(), tensor.shape)
    first = torch.unravel_index(torch.nonzero(tensor.reshape(-1))[0, 0], tensor.shape)
    ends = tuple(size - 1 for size in tensor.shape)
    for place in (ends, largest, first):
        for value in (1.0, 8.0):
            single = torch.zeros_like(tensor)
            single[place] = value
            yield single
    if tensor.dim() > 1:
        column = torch.zeros_like(tensor)
        column[..., 0] = tensor[..., 0]
        yield column


def _with(inputs: Inputs, position: int, tensor: torch.Tensor) -> Inputs:
    return inputs.holding([*inputs.tensors[:position], tensor, *inputs.tensors[position + 1 :]])


def _rounder(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Simpler values in the same places."""
    finite = torch.isfinite(tensor)
    there = (tensor != 0) & finite
    for value in (1.0, 4.0):
        yield torch.where(there, torch.full_like(tensor, value), tensor)
    yield torch.where(there, tensor.sign(), tensor)
    yield torch.where(there, tensor.round(), tensor)
    yield torch.where(there, (tensor * 10).round() / 10, tensor)


def _sparse(inputs: Inputs, position: int, fails: Fails) -> Inputs:
    """Fewer elements that are not zero: chunks of halving size become zero where the input still fails."""
    tensor = inputs.tensors[position]
    places = torch.nonzero(tensor.reshape(-1)).reshape(-1)
    size = math.ceil(len(places) / 2)
    attempts = 0
    while size >= 1 and len(places) and attempts < MOST_ATTEMPTS:
        start = 0
        while start < len(places) and attempts < MOST_ATTEMPTS:
            attempts += 1
            fewer = inputs.tensors[position].clone().reshape(-1)
            fewer[places[start : start + size]] = 0
            attempt = _with(inputs, position, fewer.reshape(tensor.shape))
            if fails(attempt):
                inputs = attempt
                places = torch.cat([places[:start], places[start + size :]])
            else:
                start += size
        size = size // 2 if size > 1 else 0
    return inputs


def _output(candidate: Candidate, inputs: Inputs) -> Array | None:
    ran = candidate.run(inputs)
    return None if ran.failure else ran.outputs["o"]


def _truth(oracle: Oracle, inputs: Inputs) -> Truth | None:
    try:
        return oracle.expect(inputs)["o"]
    except Unanswered:
        return None
