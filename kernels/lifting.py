"""Lift of what a command line names: a PyTorch function to its spec, a launcher of Triton kernels to their program.

A launcher is an ordinary function that allocates outputs and launches kernels. It is called once for each of several
sizes with the launches recorded and not run; what the kernels do is read off Triton's own IR.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..ir.errors import ScheduleError, TilewrightError, UnsupportedKernel, UnsupportedSpec, VerificationError
from ..ir.printer import print_program, print_spec
from .compiled import Stages
from .launchers import is_launcher, launchers_of, lifting_examples, scaled
from .spec_source import SpecSource, example_tensors, load_module, load_source
from .specialisers import trace

if TYPE_CHECKING:
    from ..ir.lift.triton import Lifted
    from ..ir.program import Program
    from ..ir.spec import AttentionSpec
    from .commands import Example

MOST_VERIFIED = 2  # examples that kernels are interpreted on

__all__ = ["LiftedKernel", "LiftedText", "lift", "lift_source"]


@dataclass(frozen=True, slots=True)
class LiftedKernel:
    """What was lifted of Triton kernels. raw: the program as they say it; program: the same with its parts recognised,
    or `raw` again where `spec`, what it computes, could not be told. ttir: Triton's IR of each kernel."""

    program: Program
    raw: Program
    spec: AttentionSpec | None
    notes: tuple[str, ...] = ()
    ttir: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LiftedText:
    """What was lifted. kind: "spec" or "program"; computes: the text of the spec that a program computes, if known."""

    name: str
    kind: str
    text: str
    notes: tuple[str, ...] = ()
    computes: str | None = None
    seconds: float = 0.0


def lift_source(source: str, example: Example, *, is_raw: bool = False, verify: bool = False) -> LiftedText:
    """`file.py:function` or `module:function`, or a `file.py` with one launcher of Triton kernels.

    verify: run the kernels in Triton's interpreter and compare.
    Raises UnsupportedSpec or UnsupportedKernel for what cannot be lifted, naming its line, and VerificationError where
    kernel and program differ.
    """
    named = _named(source)
    begin = time.perf_counter()
    if is_launcher(named.function):
        found = _lift_launcher(named, is_raw=is_raw, verify=verify)
    else:
        spec = trace(named.function, example_tensors(named, example.shape, example.dtype), Stages()).spec
        found = LiftedText(spec.name, "spec", print_spec(spec))
    return LiftedText(found.name, found.kind, found.text, found.notes, found.computes, time.perf_counter() - begin)


def _named(source: str) -> SpecSource:
    """The function that a command line names, or a module's only launcher."""
    if ":" in source or not source.endswith(".py"):
        if Path(source).suffix in (".cu", ".cuh"):
            raise UnsupportedKernel(
                f"{source}: CUDA C++ is lifted by language models, which need to be told what it computes: "
                f"tilewright transfer {source} SPEC --engine llm --model NAME"
            )
        return load_source(source)
    module = load_module(source)
    names = launchers_of(module)
    if len(names) != 1:
        found = ", ".join(f"{source}:{name}" for name in names)
        what = f"has several launchers of Triton kernels: {found}" if names else "launches no Triton kernels"
        raise UnsupportedSpec(f"{source} {what}; wanted path/to/file.py:function")
    return SpecSource(getattr(module, names[0]), module, names[0])


def lift(
    function: Callable[..., Any], example: Sequence[Any] | None = None, *, verify: bool = False
) -> AttentionSpec | LiftedKernel:
    """What a PyTorch function computes, or how the Triton kernels of a launcher do.

    function: f(q, k, v, *captured) -> o, traced with the `example` tensors, or a function that launches Triton kernels;
    that one is called for several sizes (from `<name>_inputs()` or `inputs()` beside it, or made of the example) with
    its launches recorded and not run. No GPU is needed.
    verify: run the kernels in Triton's interpreter as well and compare them with the program, on the smallest of those
    sizes; a spec is always compared with its function.
    Raises VerificationError where they differ; UnsupportedSpec or UnsupportedKernel, naming the line or the operation
    that stopped it.
    """
    if not is_launcher(function):
        if example is None:
            raise UnsupportedSpec("lift of a PyTorch function needs example=(q, k, v, *captured)")
        return trace(function, example, Stages()).spec
    named = SpecSource(function, sys.modules[function.__module__], function.__name__)
    return _understood(named, None if example is None else [scaled(tuple(example))], verify=verify)


def _lift_launcher(named: SpecSource, *, is_raw: bool, verify: bool) -> LiftedText:
    """The program of a launcher's kernels as text."""
    found = _understood(named, verify=verify)
    program = found.raw if is_raw else found.program
    computes = None if found.spec is None else print_spec(found.spec)
    return LiftedText(program.name, "program", print_program(program), found.notes, computes)


def _understood(
    named: SpecSource, rows: list[list[tuple[Any, ...]]] | None = None, *, verify: bool = False
) -> LiftedKernel:
    """Lifted with the first examples of which a program comes that can be recognised.

    Where there are none such, the first program; where there is none, what was wrong with the first examples.
    """
    from ..ir.lift.triton import lift_triton

    known: list[tuple[LiftedKernel, Lifted, list[tuple[Any, ...]]]] = []
    failures: list[UnsupportedKernel] = []
    for examples in rows or lifting_examples(named):
        try:
            raw = lift_triton(named.function, examples, named.name)
            known.append((_recognised(raw), raw, examples))
        except UnsupportedKernel as error:
            failures.append(error)
            continue
        if known[-1][0].spec is not None:
            break
    if not known:
        raise failures[0]
    best = next((item for item in known if item[0].spec is not None), known[0])
    return _verified(*best, named) if verify else best[0]


def _verified(found: LiftedKernel, raw: Lifted, examples: list[tuple[Any, ...]], named: SpecSource) -> LiftedKernel:
    """The lifted kernel with a note that it agrees with what was lifted. Raises VerificationError where it does not."""
    from ..ir.lift.triton.selfcheck import verify_lift

    smallest = sorted(examples, key=_elements)[:MOST_VERIFIED]
    compared = verify_lift(raw, named.function, smallest)
    worst = max((item.error / item.budget for item in compared if item.budget), default=0.0)
    note = f"verified: kernel and program agree on {len(smallest)} examples (at worst {worst:.2f} of the error allowed)"
    return replace(found, notes=(*found.notes, note))


def _elements(example: tuple[Any, ...]) -> int:
    return sum(item.numel() for item in example if isinstance(item, torch.Tensor))


def _recognised(lifted: Lifted) -> LiftedKernel:
    """Recognised where it can be and running confirms it, as it stands with a note where not."""
    from ..ir.transfer.confirm import confirm
    from ..ir.transfer.recognise import recognise

    raw, notes = lifted.program, tuple(lifted.notes)
    try:
        found = recognise(raw)
    except ScheduleError as error:
        return LiftedKernel(raw, raw, None, (*notes, f"not recognised: {error}"), tuple(lifted.ttir))
    notes = (*notes, *found.notes)
    try:
        confirm(raw, found)
    except VerificationError as error:
        return LiftedKernel(raw, raw, None, (*notes, f"not recognised: {error}"), tuple(lifted.ttir))
    except (TilewrightError, LookupError, ValueError) as error:  # arguments that confirm cannot make
        notes = (*notes, f"what it computes is read off and not confirmed by running: {error}")
    return LiftedKernel(found.program, raw, found.spec, notes, tuple(lifted.ttir))
