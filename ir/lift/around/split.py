"""Functions that change q, k, v or the result around an attention: PyTorch keeps the changes, a kernel gets the rest.

A rotation of q and k, a norm, a projection, a gate of the result cannot be part of a spec. But what is between them
can, once the changed tensors count as q, k and v. So the function is traced with every operator on a tape; the products
with q, k and v are found by what their operands depend on; the tensors that enter the products are cut off, the trace
is made again as if they were the arguments, and the tape's other steps are replayed by PyTorch at every call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ...algebra import simplify
from ...dtypes import Kind
from ...errors import TilewrightError, UnsupportedSpec
from ...evaluate import Array
from ...expr import Expr, Op, apply, const
from ...spec import AttentionSpec
from ..arguments import ASSUMPTIONS, Arguments, Assumption, check_arguments, make_fakes
from ..location import user_file
from ..reduce import CONTRACTIONS
from ..selfcheck import TOLERANCE, ExactFloats, holds
from ..sizes import Sizes
from ..torch_function import first_tensor, identifier, read_result, run_traced, spec_of
from ..tracer import Cell, Tracer
from ..value import DTYPES, Value
from .composite import Attend, Composite
from .lift import exact_output, lift_around, worst_error
from .tape import Replay, Step, Tape

__all__ = ["Split", "lift_with_steps", "split_function"]

LAYOUT = frozenset({"view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze",
                    "clone", "contiguous", "alias", "_to_copy", "detach"})  # fmt: skip
SCALINGS = frozenset({"mul", "div"})
NAMES = ("q", "k", "v")
MOST_RESULTS = 6  # tensors behind the product with v that are tried as what the kernel gives


@dataclass(frozen=True, slots=True)
class Split:
    """A function as a kernel with steps of PyTorch around it.

    spec: what the kernel computes of what `before` gives for (q, k, v, *captured). after: from (o, q, k, v, *captured)
    to the function's result. outer: a spec with the dims and types of the function's own arguments. told: in words.
    """

    spec: AttentionSpec
    outer: AttentionSpec
    before: Replay
    after: Replay | None
    told: str

    @property
    def specs(self) -> tuple[AttentionSpec, ...]:
        """The one of the kernel."""
        return (self.spec,)

    def fits(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether the function was split for tensors of such sizes and types."""
        wanted = self.outer.tensors
        types, ranks = [DTYPES.get(x.dtype) for x in tensors], [x.dim() for x in tensors]
        if types != [one.dtype for one in wanted] or ranks != [len(one.dims) for one in wanted]:
            return False
        q, k, v = tensors[:3]
        fixed = self.outer.head_dim, self.outer.value_dim, self.outer.group * k.shape[1]
        return fixed == (q.shape[3], v.shape[3], q.shape[1]) and holds(self.outer, tensors)

    def takes(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether the function was split for tensors of such sizes, in any precision."""
        return holds(self.outer, tensors)

    def __call__(self, tensors: Sequence[torch.Tensor], attend: Attend, dtype: torch.dtype) -> torch.Tensor:
        """The function's result. attend(0, inputs): the kernel's output. Steps run in the types that they name."""
        del dtype
        o = attend(0, [*self.before(tensors), *tensors[3:]])
        return o if self.after is None else self.after([o, *tensors])[0]


def lift_with_steps(function: Callable[..., Any], example: Sequence[Any]) -> Composite | Split:
    """The function read as expressions, where that is refused split at its tensors. Raises the first refusal."""
    try:
        return lift_around(function, example)
    except UnsupportedSpec:
        found = split_function(function, example)
        if found is None:
            raise
        return found


def split_function(function: Callable[..., Any], example: Sequence[Any], name: str | None = None) -> Split | None:
    """The function split around its attention; None where none is found that can be compiled.

    The arguments are those of `lift`, which refused the function. Raises ShapeError and DTypeError for a bad example.
    """
    arguments = check_arguments(function, example)
    title = identifier(str(name or getattr(function, "__name__", type(function).__name__)))
    for assumption in ASSUMPTIONS:
        try:
            first = _trace(function, arguments, assumption)
            cuts = list(itertools.islice(_cuts(first), 2 * MOST_RESULTS))
        except UnsupportedSpec:
            continue
        for cut in cuts:
            try:
                found = _split_at(function, arguments, title, assumption, cut)
            except UnsupportedSpec:
                continue
            if holds(found.outer, arguments.tensors) and _agrees(function, arguments.tensors, found):
                return found
    return None


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of a trace: the step that makes it, and the last one that writes to it before it is used."""

    made: int
    written: int


@dataclass(eq=False)
class TapeTracer(Tracer):  # type: ignore[no-untyped-call]
    """A tracer that keeps its steps, takes results of some for arguments, and refuses only what is asked for."""

    cuts: Mapping[str, Place] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def _interpret(self, name: str, func: Any, out: Any, args: Any, kwargs: Any) -> None:
        """Keep the step, and give its result its elements, or a refusal in their place."""
        step = Step(func, tuple(args), kwargs, out, self.last)
        number = len(self.steps)
        self.steps.append(step)
        try:
            super()._interpret(name, func, out, args, kwargs)
        except UnsupportedSpec as refusal:
            for tensor in step.made:
                self._refuse_later(tensor, refusal)
        for argument, place in self.cuts.items():
            if place.written == number:
                self.bind_argument(self.steps[place.made].made[0], argument)

    def _refuse_later(self, tensor: torch.Tensor, refusal: UnsupportedSpec) -> None:
        def refused(index: Any) -> Any:
            raise refusal

        self.cells[id(tensor)] = Cell(Value(tuple(tensor.shape), Kind.FLOAT, refused), tensor)


@dataclass(frozen=True)
class Traced:
    """A trace with everything it needs to be read."""

    tracer: TapeTracer
    fakes: tuple[torch.Tensor, ...]
    result: torch.Tensor
    tape: Tape


@dataclass(frozen=True)
class Cut:
    """What the kernel takes for q, k, v (None: the argument itself), and the step whose result it gives as o."""

    inputs: tuple[Place | None, Place | None, Place | None]
    result: int | None

    @property
    def changed(self) -> list[str]:
        """Which of q, k and v are changed."""
        return [name for name, place in zip(NAMES, self.inputs, strict=True) if place is not None]


def _trace(
    function: Callable[..., Any], arguments: Arguments, assumption: Assumption, cut: Cut | None = None
) -> Traced:
    sizes = Sizes()
    fakes = make_fakes(sizes, arguments, assumption)
    cuts = {name: place for name, place in zip(NAMES, cut.inputs if cut else (), strict=False) if place is not None}
    tracer = TapeTracer(sizes, user_file(function), cuts=cuts)
    hidden = cut.changed if cut else []
    for fake, name in zip(fakes, arguments.names, strict=True):
        tracer.bind_argument(fake, _hidden(name) if name in hidden else name)
    result = first_tensor(run_traced(function, tracer, fakes), tracer.last)
    return Traced(tracer, fakes, result, Tape(sizes, tracer.steps, dict(zip(arguments.names, fakes, strict=True))))


def _hidden(name: str) -> str:
    """What an argument is called where a changed one has its name: a spec that still reads it has no such tensor."""
    return f"@{name}"


# Where to cut


def _cuts(traced: Traced) -> Iterator[Cut]:
    """Ways to cut, those first that leave PyTorch the least: heads of k and v as they are, no change of the result."""
    tape = traced.tape
    scores = _product(tape, 0, lambda a, b: "q" in a and "k" not in a and "k" in b and "q" not in b)
    if scores is None:
        return
    values = _product(tape, scores[0] + 1, lambda a, b: {"q", "k"} <= a and "v" in b and "q" not in b)
    if values is None:
        return
    q, k = traced.fakes[:2]
    q_side = list(_ancestors(traced, scores[1], q.shape[:3]))
    for heads in (k.shape[1], q.shape[1]):
        k_side, v_side = (list(_ancestors(traced, x, (k.shape[0], heads, k.shape[2]))) for x in (scores[2], values[2]))
        sides = ((q_side, scores[0]), (k_side, scores[0]), (v_side, values[0]))
        if not all(side for side, _ in sides):
            continue
        places = [_place(tape, side[-1], product) for side, product in sides]
        inputs = (places[0], places[1], places[2])
        yield Cut(inputs, None)
        for number in itertools.islice(_results(traced, values[0], v_side[-1]), MOST_RESULTS):
            yield Cut(inputs, number)


def _place(tape: Tape, tensor: torch.Tensor, used: int) -> Place | None:
    """Where a tensor that step `used` needs comes from; None for an argument that nothing has written to."""
    made, written = tape.maker(tensor), tape.written(tensor, used)
    if made is None and written is not None:
        raise UnsupportedSpec("an argument is written to")
    return None if made is None or written is None else Place(made, written)


def _product(
    tape: Tape, start: int, fits: Callable[[frozenset[str], frozenset[str]], bool]
) -> tuple[int, torch.Tensor, torch.Tensor] | None:
    """The first product from step `start` on whose operands depend on the right arguments, in either order."""
    for number, step in enumerate(tape.steps[start:], start):
        if step.name not in CONTRACTIONS:
            continue
        a, b = step.given[-2:]
        for left, right in ((a, b), (b, a)):
            if fits(tape.read_by(left), tape.read_by(right)):
                return number, left, right
    return None


def _ancestors(traced: Traced, tensor: torch.Tensor, wanted: Sequence[Any]) -> Iterator[torch.Tensor]:
    """Tensors of B, heads and length `wanted` that an operand is a view, cast or multiple of, the farthest last."""
    tracer = traced.tracer
    current: torch.Tensor | None = tensor
    while current is not None:
        if current.dim() == 4:
            same = zip(current.shape, wanted, strict=False)
            if all(tracer.same(tracer.size(a), tracer.size(b)) for a, b in same):
                yield current
        current = _parent(traced.tape, current)


def _parent(tape: Tape, tensor: torch.Tensor) -> torch.Tensor | None:
    """What a tensor is a view, a cast or a multiple of; None where it is more than that, or an argument."""
    number = tape.maker(tensor)
    if number is None:
        return None
    step = tape.steps[number]
    is_plain = step.name in LAYOUT or (step.name in SCALINGS and len(step.given) == 1)
    return step.given[0] if is_plain and step.given else None


def _results(traced: Traced, product: int, values: torch.Tensor) -> Iterator[int]:
    """Steps behind the product with v whose result is [B, Hq, M, Dv], the last first."""
    tracer, q = traced.tracer, traced.fakes[0]
    wanted = [tracer.size(size) for size in (*q.shape[:3], values.shape[3])]
    for number in range(len(traced.tape.steps) - 1, product - 1, -1):
        made = traced.tape.steps[number].made
        if len(made) != 1 or made[0].dim() != 4 or not traced.tape.reads[number] >= {"q", "k", "v"}:
            continue
        if all(tracer.same(tracer.size(a), b) for a, b in zip(made[0].shape, wanted, strict=True)):
            yield number


# The parts


def _split_at(function: Callable[..., Any], arguments: Arguments, name: str, assumption: Assumption, cut: Cut) -> Split:
    """The parts of a function that is cut there. Raises UnsupportedSpec where what is between is no attention."""
    traced = _trace(function, arguments, assumption, cut)
    tape, fakes = traced.tape, traced.fakes
    inner = tuple(
        fake if place is None else tape.steps[place.made].made[0]
        for fake, place in zip(fakes[:3], cut.inputs, strict=True)
    )
    last = max((place.written for place in cut.inputs if place is not None), default=-1)
    before = Replay(tape, tape.needed(inner, (), last), fakes, inner)
    result = traced.result if cut.result is None else tape.steps[cut.result].made[0]
    after = None
    if result is not traced.result:
        after = _after(traced, result, cut)
    with torch.no_grad():
        given = (*before(arguments.tensors), *arguments.tensors[3:])
    if given[0].shape[3] != given[1].shape[3] or given[0].dtype != given[1].dtype or given[0].dtype != given[2].dtype:
        raise UnsupportedSpec("q and k have different widths or types where they meet")
    known = Arguments(tuple(given), arguments.names)
    all_fakes = (*inner, *fakes[3:])
    found = read_result(traced.tracer, known, all_fakes, result, traced.tracer.last)
    spec = spec_of(name, traced.tracer, known, all_fakes, found)
    q, _, v = arguments.tensors[:3]
    outer = replace(
        spec, head_dim=q.shape[3], value_dim=v.shape[3], group=arguments.group, dtype=DTYPES[q.dtype],
        requires=_with_widths(spec.requires, traced.tracer, inner, given),
    )  # fmt: skip
    return Split(spec, outer, before, after, _told(cut, before, after))


def _with_widths(requires: Expr, tracer: Tracer, inner: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> Expr:
    """The requirements, and that widths which follow from sizes of captured tensors are those of the example."""
    for fake, real in zip(inner, given[:3], strict=True):
        width = tracer.size(fake.shape[3])
        if width.op is not Op.CONST:
            requires = apply(Op.AND, requires, apply(Op.EQ, width, const(real.shape[3])))
    return simplify(requires)


def _after(traced: Traced, result: torch.Tensor, cut: Cut) -> Replay:
    """The steps from the kernel's result to the function's."""
    tape, number = traced.tape, cut.result
    assert number is not None
    numbers = tape.needed([traced.result], [result], len(tape.steps) - 1)
    for n in numbers:
        if n < number and tape.reads[n] >= {"q", "k"}:
            raise UnsupportedSpec("the scores are needed after the kernel")
    return Replay(tape, numbers, (result, *traced.fakes), [traced.result])


def _told(cut: Cut, before: Replay, after: Replay | None) -> str:
    """What PyTorch does, and on which lines."""
    changed = " and ".join(filter(None, [", ".join(cut.changed[:-1]), *cut.changed[-1:]]))
    parts = [f"{changed} {_lines(before)}"] if changed else []
    parts += [f"the result {_lines(after)}"] if after is not None else []
    return f"torch changes {', and '.join(parts)} around the kernel"


def _lines(replay: Replay) -> str:
    lines = sorted({location.line for location in replay.locations})
    if not lines:
        return "(in a library)"
    return f"(line {lines[0]})" if len(lines) == 1 else f"(lines {lines[0]} to {lines[-1]})"


# The check


def _agrees(function: Callable[..., Any], example: Sequence[torch.Tensor], found: Split) -> bool:
    """Whether the parts, with the spec's formula for the kernel, give what the function does, in fp64."""
    error = worst_error(function, example, found.outer, found.takes, lambda tensors: _composed(found, tensors))
    return error is not None and error <= TOLERANCE


def _composed(found: Split, tensors: Sequence[torch.Tensor]) -> Array | None:
    """The parts' result as `run_function` has the function's, in fp64 or, where they only take that, fp32."""
    for dtype in (torch.float64, torch.float32):
        given = [x.to(dtype) if x.is_floating_point() else x for x in tensors]
        try:
            with torch.no_grad(), ExactFloats():  # type: ignore[no-untyped-call]
                result = found(given, lambda _, inputs: exact_output(found.spec, inputs).to(inputs[0].dtype), dtype)
        except (RuntimeError, TilewrightError):
            continue
        return np.asarray(result.double().numpy())
    return None
