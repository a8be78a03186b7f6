"""Signatures: one word per case for what a candidate did there. Equal words, equal behaviour.

A word does not depend on rounding: outputs that are off are compared with those seen before on the same case, within
the case's own budget, and named after the first one that they equal (comparing with one stand-in each, since
closeness is not transitive). So within one judge equal words mean equal behaviour, and a candidate's word is the same
whenever it is asked for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np

from ...ir.evaluate import Array
from ..oracle import Truth, distance
from .runs import Ran

__all__ = ["Words", "failure_word", "is_wrong"]

SPREAD = 4  # budgets that two candidates with the same meaning may be apart
LIKENESS = 1e-3  # or this part of how far they are off


def failure_word(ran: Ran) -> str:
    """timeout, or failed:<kind of error>."""
    return "timeout" if ran.failure == "timeout" else f"failed:{ran.failure}"


def is_wrong(ran: Ran, truths: Mapping[str, Truth]) -> bool:
    """Whether an output is further off than it may be."""
    got = ran.outputs
    return any(not truth.error(got[role]) <= truth.budget for role, truth in truths.items() if role in got)


class Words:
    """The words of one case."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[Array, str]]] = {}

    def word(self, ran: Ran, truths: Mapping[str, Truth]) -> str:
        """ok, off:<size>:<which>, nan:<where>, inf:<where>, shape, failed:<error> or timeout."""
        if ran.failure:
            return failure_word(ran)
        parts = {role: self._output(role, ran.outputs[role], truths[role]) for role in truths if role in ran.outputs}
        wrong = [word if role == "o" else f"{role}-{word}" for role, word in parts.items() if word != "ok"]
        return "+".join(wrong) or "ok"

    def _output(self, role: str, got: Array, truth: Truth) -> str:
        if got.shape != truth.exact.shape:
            return "shape"
        if truth.error(got) <= truth.budget:
            return "ok"
        for kind, test in (("nan", np.isnan), ("inf", np.isinf)):
            where = test(got) & ~test(truth.exact) & truth.is_judged
            if where.any():
                return f"{kind}:{_pattern(where)}"
        seen = self._seen.setdefault(role, [])
        error = truth.error(got)
        near = SPREAD * truth.budget + LIKENESS * (error if math.isfinite(error) else 0.0)
        judged = truth.is_judged
        for other, word in seen:
            if distance(got[judged], other[judged]) <= near:
                return word
        seen.append((got, f"off:{_decade(error, truth.budget)}:{len(seen)}"))
        return seen[-1][1]


def _pattern(where: Array) -> str:
    """All of it, or which rows."""
    if where.all():
        return "all"
    rows = where.any(axis=-1) if where.ndim == 4 else where
    return hashlib.blake2b(np.packbits(rows).tobytes(), digest_size=3).hexdigest()


def _decade(error: float, budget: float) -> str:
    """How many powers of ten the error is beyond its budget."""
    if not math.isfinite(error) or budget <= 0:
        return "far"
    return f"1e{math.floor(math.log10(error / budget))}"
