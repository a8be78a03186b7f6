"""A candidate on one input: its outputs under several interleavings, or what went wrong, within limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...ir.errors import InterpreterError, LimitExceeded, ProgramError, ProgramLine, TilewrightError
from ...ir.evaluate import Array
from ...ir.interpreter import Limits, interpret
from ...ir.program import Copy, Gemm, Program, ReduceAdd, Role, ScatterAdd, statements
from ..dtypes import as_array
from .inputs import Inputs
from .limits import JudgeLimits

__all__ = ["Candidate", "Ran", "is_concurrent", "output_roles", "run"]

SCORES_A_STEP = 16  # of a program that does its work in tiles; the limit on statements grows with them
BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program did. outputs: by role, "o" and "lse". failure: the kind of error or ""; lines: where it is."""

    outputs: Mapping[str, Array] = field(default_factory=dict)
    failure: str = ""
    reason: str = ""
    lines: tuple[ProgramLine, ...] = ()


def output_roles(program: Program) -> dict[str, str]:
    """Which output is o [B, Hq, M, Dv] and which lse [B, Hq, M]: by name, else by rank.

    Raises ProgramError for a program without o, or with an output that is neither.
    """
    roles: dict[str, str] = {}
    for param in program.params:
        if not param.is_output:
            continue
        role = param.name if param.name in ("o", "lse") else {4: "o", 3: "lse"}.get(len(param.dims), "")
        wanted = {"o": 4, "lse": 3}.get(role)
        if len(param.dims) != wanted or role in roles.values():
            reason = f"output {param.name} is neither o [B, Hq, M, Dv] nor lse [B, Hq, M]"
            raise ProgramError("outputs", reason)
        roles[param.name] = role
    if "o" not in roles.values():
        raise ProgramError("outputs", "no output o [B, Hq, M, Dv]")
    return roles


def is_concurrent(program: Program) -> bool:
    """Whether anything depends on an interleaving beyond independent instances of a grid."""
    return any(
        isinstance(s, (Role, ReduceAdd, ScatterAdd)) or (isinstance(s, (Copy, Gemm)) and s.is_async)
        for s in statements(program.body)
    )


def run(program: Program, roles: Mapping[str, str], inputs: Inputs, limits: Limits, seed: int = 0) -> Ran:
    """Interpret under limits. Never raises for what the program says."""
    names = [param.name for param in program.params if not param.is_output]
    arguments = {name: as_array(tensor) for name, tensor in zip(names, inputs.tensors, strict=True)}
    sizes = inputs.main_sizes
    scores = sizes["B"] * sizes["Hq"] * sizes["M"] * sizes["N"]
    limits = replace(limits, steps=limits.steps + scores // SCORES_A_STEP)
    free = {name: inputs.sizes.get(name, 1) for name in program.free_sizes}
    try:
        found = interpret(program, arguments, seed=seed, sizes=free, limits=limits)
    except LimitExceeded as error:
        kind = "memory" if error.what == "elements" else "timeout"
        return Ran({}, kind, error.reason, error.lines)
    except InterpreterError as error:
        return Ran({}, type(error).__name__, error.reason, error.lines)
    except ProgramError as error:
        return Ran({}, "ProgramError", error.reason, (error.line,) if error.line else ())
    except TilewrightError as error:
        return Ran({}, type(error).__name__, str(error).splitlines()[0])
    except BUGS as error:  # a program that no rule refused and that the interpreter has no word for
        text = (str(error).strip() or "no message").splitlines()[0]
        return Ran({}, f"internal {type(error).__name__}", text)
    return Ran({role: np.asarray(found[name], np.float64) for name, role in roles.items()})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid program of the claim's tensors, ready to run."""

    program: Program
    roles: Mapping[str, str]
    seeds: tuple[int, ...]
    limits: JudgeLimits

    def run(self, inputs: Inputs, wrong: Callable[[Ran], bool] | None = None) -> Ran:
        """Under every interleaving that matters; the first that fails, or that is `wrong`, else the first."""
        first: Ran | None = None
        for seed in self.seeds:
            ran = run(self.program, self.roles, inputs, self.limits.run, seed)
            if ran.failure or (wrong is not None and wrong(ran)):
                return ran
            first = first or ran
        assert first is not None
        return first
