"""A trace's operators in order, what each of their results depends on, and a part of them made to run again."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ...errors import UnsupportedSpec
from ...expr import Expr, Op
from ..constants import is_literal
from ..location import Location
from ..sizes import Sizes

Sized = Callable[[Mapping[str, Any]], Any]
SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
REPLAYED = {torch.ops.aten.view.default: torch.ops.aten.reshape.default,
            torch.ops.aten._unsafe_view.default: torch.ops.aten.reshape.default}  # fmt: skip
"""Views that held for the contiguous tensors of a trace become what holds for any strides."""

ARITHMETIC: dict[Op, Callable[..., Any]] = {
    Op.ADD: operator.add, Op.SUB: operator.sub, Op.MUL: operator.mul, Op.FLOORDIV: operator.floordiv,
    Op.MOD: operator.mod, Op.DIV: operator.truediv, Op.NEG: operator.neg, Op.MIN: torch.sym_min,
    Op.MAX: torch.sym_max, Op.POW: operator.pow, Op.SQRT: torch.sym_sqrt, Op.LT: operator.lt, Op.LE: operator.le,
    Op.EQ: operator.eq, Op.NE: operator.ne,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operator call on fake tensors, its result (a tensor, or a tuple or list of some), and its line."""

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any
    location: Location | None

    @property
    def name(self) -> str:
        """The operator's name in aten."""
        return str(self.func._schema.name.partition("::")[2])

    @property
    def given(self) -> list[torch.Tensor]:
        """The tensors that it reads."""
        return tensors_of((self.args, self.kwargs))

    @property
    def made(self) -> list[torch.Tensor]:
        """The tensors that it gives back."""
        return tensors_of(self.out)


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def memory_of(tensor: torch.Tensor) -> int:
    """What tensors share that are views of each other."""
    return int(tensor.untyped_storage()._cdata)


class Tape:
    """The steps of a trace of a function, and the fake tensors that it was called with, by name."""

    def __init__(self, sizes: Sizes, steps: Sequence[Step], arguments: Mapping[str, torch.Tensor]) -> None:
        self.sizes = sizes
        self.steps = tuple(steps)
        self.arguments = dict(arguments)
        self.makers: dict[int, int] = {}
        memory = {memory_of(fake): frozenset({name}) for name, fake in self.arguments.items()}
        self.reads: list[frozenset[str]] = []
        for number, step in enumerate(self.steps):
            found = frozenset().union(*(memory.get(memory_of(x), frozenset()) for x in step.given))
            self.reads.append(found)
            for tensor in step.made:
                self.makers.setdefault(id(tensor), number)
                memory[memory_of(tensor)] = memory.get(memory_of(tensor), frozenset()) | found

    def maker(self, tensor: torch.Tensor) -> int | None:
        """The number of the step that a tensor comes from; None for an argument and a constant."""
        return self.makers.get(id(tensor))

    def written(self, tensor: torch.Tensor, before: int) -> int | None:
        """The step before step `before` that wrote the tensor's memory last; None for an argument or a constant."""
        memory = memory_of(tensor)
        for number in range(before - 1, -1, -1):
            step = self.steps[number]
            is_new = any(self.makers[id(x)] == number for x in step.made)
            is_made = is_new and any(x is tensor for x in step.made)
            if is_made or (not is_new and any(memory_of(x) == memory for x in step.made)):
                return number
        return None

    def read_by(self, tensor: torch.Tensor) -> frozenset[str]:
        """The arguments that a tensor depends on when it is made."""
        number = self.maker(tensor)
        if number is not None:
            return self.reads[number]
        return frozenset(name for name, fake in self.arguments.items() if fake is tensor)

    def needed(self, outputs: Sequence[torch.Tensor], given: Sequence[torch.Tensor], last: int) -> list[int]:
        """The steps up to `last` that make the outputs out of the given tensors, arguments and constants, in order."""
        known = {id(tensor) for tensor in (*given, *self.arguments.values())}
        wanted = {id(tensor) for tensor in outputs} - known
        memory = {memory_of(tensor) for tensor in outputs if id(tensor) not in known}
        found = []
        for number in range(last, -1, -1):
            step = self.steps[number]
            made = {id(tensor) for tensor in step.made}
            writes = any(self.makers[id(x)] != number and memory_of(x) in memory for x in step.made)
            if not (made & wanted) and not writes:
                continue
            found.append(number)
            inside = [x for x in step.given if id(x) not in known]
            wanted |= {id(x) for x in inside}
            memory |= {memory_of(x) for x in inside}
        return found[::-1]


class Replay:
    """Steps of a tape on real tensors of any lengths, of gradients too where grad mode is on.

    Takes the real tensors of `inputs` in order, gives those of `outputs`. Sizes are read off the inputs. Raises
    UnsupportedSpec for a size that cannot be computed from theirs.
    """

    def __init__(
        self, tape: Tape, numbers: Sequence[int], inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
    ) -> None:
        self._slots: dict[int, int] = {id(tensor): n for n, tensor in enumerate(inputs)}
        self._sizes = _places(tape.sizes, inputs)
        self._convert = tape.sizes.expr
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        for step in (tape.steps[number] for number in numbers):
            args, kwargs = self._template(step.args), self._template(dict(step.kwargs))
            made = tree_map_only(torch.Tensor, self._slot, step.out)
            self._calls.append((REPLAYED.get(step.func, step.func), args, kwargs, made))
        self._outputs = [self._slots[id(tensor)] for tensor in outputs]
        self._count = len(self._slots)
        self.locations = [step.location for step in (tape.steps[n] for n in numbers) if step.location is not None]
        del self._convert

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs for real inputs."""
        known: list[Any] = [*tensors, *[None] * (self._count - len(tensors))]
        sizes = {name: tensors[position].shape[axis] for name, (position, axis) in self._sizes.items()}
        device = tensors[0].device

        def real(leaf: Any) -> Any:
            if isinstance(leaf, _Slot):
                return known[leaf.number]
            return leaf.at(sizes) if isinstance(leaf, _Size) else device

        for func, args, kwargs, made in self._calls:
            out = func(*_filled(args, real), **_filled(kwargs, real))
            for slot, tensor in _pairs(made, out):
                known[slot.number] = tensor
        return [known[slot] for slot in self._outputs]

    def _slot(self, tensor: torch.Tensor) -> _Slot:
        return _Slot(self._slots.setdefault(id(tensor), len(self._slots)))

    def _template(self, tree: Any) -> Any:
        """Arguments with slots for fake tensors, formulas for symbolic sizes, and the call's device for any."""

        def leaf(value: Any) -> Any:
            if isinstance(value, FakeTensor) and id(value) not in self._slots:
                raise UnsupportedSpec("a tensor is needed outside of the kernel that only the kernel has")
            if isinstance(value, torch.Tensor) and id(value) in self._slots:
                return self._slot(value)
            if isinstance(value, torch.Tensor) and (value.requires_grad or not is_literal(value)):
                raise UnsupportedSpec("a tensor of the surrounding Python code is needed outside of the kernel")
            if isinstance(value, SYMBOLIC):
                return _Size(_compiled(self._convert(value), self._sizes))
            return _Device() if isinstance(value, torch.device) else value

        return tree_map_only((torch.Tensor, *SYMBOLIC, torch.device), leaf, tree)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A tensor of a replay, by number."""

    number: int


@dataclass(frozen=True, slots=True)
class _Size:
    """A number made of sizes."""

    at: Sized


@dataclass(frozen=True, slots=True)
class _Device:
    """The device of the call's tensors."""


def _filled(tree: Any, real: Callable[[Any], Any]) -> Any:
    if isinstance(tree, (_Slot, _Size, _Device)):
        return real(tree)
    if isinstance(tree, (tuple, list)):
        return [_filled(item, real) for item in tree]
    if isinstance(tree, dict):
        return {name: _filled(item, real) for name, item in tree.items()}
    return tree


def _pairs(made: Any, out: Any) -> Iterator[tuple[_Slot, torch.Tensor]]:
    if isinstance(made, _Slot):
        yield made, out
    elif isinstance(made, (tuple, list)):
        for slots, tensors in zip(made, out, strict=True):
            yield from _pairs(slots, tensors)


def _places(sizes: Sizes, inputs: Sequence[torch.Tensor]) -> dict[str, tuple[int, int]]:
    """Where each size can be read: an input's number and an axis."""
    found: dict[str, tuple[int, int]] = {}
    for number, tensor in enumerate(inputs):
        for axis, size in enumerate(tensor.shape):
            name = sizes.expr(size)
            if name.op is Op.VAR:
                found.setdefault(str(name.attr), (number, axis))
    return found


def _compiled(expr: Expr, known: Mapping[str, tuple[int, int]]) -> Sized:
    """A function of sizes by name. UnsupportedSpec for one that is not known or computed in another way."""
    if expr.op is Op.CONST:
        value = expr.attr
        return lambda sizes: value
    if expr.op is Op.VAR and str(expr.attr) in known:
        name = str(expr.attr)
        return lambda sizes: sizes[name]
    if expr.op not in ARITHMETIC:
        raise UnsupportedSpec(f"the size {expr!r} cannot be computed outside of the kernel")
    rule, parts = ARITHMETIC[expr.op], [_compiled(arg, known) for arg in expr.args]
    return lambda sizes: rule(*(part(sizes) for part in parts))
