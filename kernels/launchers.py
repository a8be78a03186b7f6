"""Launchers of Triton kernels: telling them from PyTorch functions, and example tensors of several sizes for them.

What an integer of a launch stands for is found by agreement over examples, so sizes must differ from one example to the
next, and apart: heads of queries and of keys keep their ratio, head dimensions stay.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

from ..ir.errors import UnsupportedKernel
from .spec_source import SpecSource

__all__ = ["is_launcher", "launchers_of", "lifting_examples"]

Tensors = tuple[Any, ...]
KERNEL_TYPES = ("triton.runtime", "triton.experimental.gluon")
MAKERS = ("inputs",)
LIBRARIES = ("torch", "numpy", "triton", "math", "typing", "functools")  # not searched for launches
MOST_NAMES = 2000
TURNS = 4
FACTORS = ((1, 2, 3, 5), (1, 3, 2, 7), (1, 5, 4, 3), (1, 4, 7, 6))  # of a dimension, by its place: no two grow alike
SMALL, SMALL_STEPS = 16, (3, 5, 7)  # what is added to sizes that are no heads, by their place among the keywords:
STEPS = (149, 211, 277, 331)  # more than a tile, so that counts of tiles change as well
KEPT_WORDS = ("seed", "dim", "block", "page_size", "dtype")
KEPT_NAMES = ("d", "dv", "dk", "e", "ev", "page")
HEAD_WORDS = ("head", "group")
DEFAULT, SQUARE = (2, 4, 2, 90, 75, 64), (2, 4, 4, 128, 128, 64)  # B, Hq, Hkv, M, N, D where there are no examples


def is_launcher(function: Callable[..., Any]) -> bool:
    """Whether a function launches a Triton kernel: itself, or through functions and classes that it names."""
    return _launches(function, set())


def _launches(value: Any, seen: set[int]) -> bool:
    if id(value) in seen or len(seen) > MOST_NAMES:
        return False
    seen.add(id(value))
    if isinstance(value, type) and value.__module__.partition(".")[0] not in LIBRARIES:
        methods = [getattr(member, "__func__", member) for member in vars(value).values()]
        return any(_launches(method, seen) for method in methods if isinstance(method, FunctionType))
    if isinstance(value, MethodType):
        return _launches(value.__func__, seen) or _launches(value.__self__, seen)
    if not isinstance(value, FunctionType) or value.__module__.partition(".")[0] in LIBRARIES:
        return False
    names = list(_names(value.__code__))
    named = [value.__globals__.get(name) for name in names]
    modules = [m for m in named if isinstance(m, ModuleType) and m.__name__.partition(".")[0] not in LIBRARIES]
    named += [vars(module).get(name) for module in modules for name in names]
    named += [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
    return any(_is_kernel(one) or _launches(one, seen) for one in named)


def _names(code: CodeType) -> Iterator[str]:
    """Global names that code uses, and the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_kernel(value: object) -> bool:
    return any(kind.__module__.startswith(KERNEL_TYPES) for kind in type(value).__mro__) and hasattr(value, "run")


def launchers_of(module: ModuleType) -> list[str]:
    """A module's own public functions that launch kernels, without those that others of them call."""
    own = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    found = {name: value for name, value in own.items() if is_launcher(value)}
    called = {used for name, value in found.items() for used in _names(value.__code__) if used != name}
    return [name for name in found if name not in called]


def lifting_examples(named: SpecSource) -> list[list[Tensors]]:
    """Arguments of some calls, of different sizes; several such lists where the first may not suit the launcher.

    From the module's `<launcher>_inputs()` or `inputs()`: by its keywords where it has any for sizes (odd ones first,
    then multiples of its own), else by scaling its tensors. Without such a function: q, k, v of [B, Hq, M, D],
    [B, Hkv, N, D], then with M = N.
    Raises UnsupportedKernel where no such examples can be made.
    """
    make = next((f for f in _makers(named) if callable(f)), None)
    if make is None:
        _check_three(named)
        return [scaled(_plain(*DEFAULT)), scaled(_plain(*SQUARE))]
    found = []
    for keywords in (size_keywords(make), size_keywords(make, is_scaled=True)):
        if keywords:
            turns = [{name: row[turn] for name, row in keywords.items()} for turn in range(TURNS)]
            found.append([tuple(make(**turn)) for turn in turns])
    return found or [scaled(tuple(make()))]


def _plain(b: int, hq: int, hkv: int, m: int, n: int, d: int) -> Tensors:
    shapes = ((b, hq, m, d), (b, hkv, n, d), (b, hkv, n, d))
    return tuple(torch.randn(shape).to(torch.float16) for shape in shapes)


def _makers(named: SpecSource) -> Iterator[Any]:
    for name in (f"{named.name}_inputs", *MAKERS):
        yield getattr(named.module, name, None)


def _check_three(named: SpecSource) -> None:
    try:
        inspect.signature(named.function).bind(0, 1, 2)
    except TypeError:
        raise UnsupportedKernel(
            f"{named.name}{inspect.signature(named.function)} takes more than (q, k, v), with no inputs() beside "
            "it; write inputs(B=2, H=4, …) that returns its arguments"
        ) from None


def size_keywords(make: Callable[..., Any], *, is_scaled: bool = False) -> dict[str, tuple[Any, ...]]:
    """Values of the calls for keywords with integer defaults (or tuples of them) that are sizes.

    Head counts grow by factors, so that their ratios stay; other sizes are made odd, or grow by factors as well; head
    dimensions, page sizes and seeds stay.
    """
    few, many, rows = itertools.cycle(SMALL_STEPS), itertools.cycle(STEPS), itertools.cycle(FACTORS[1:])
    found: dict[str, tuple[Any, ...]] = {}
    for name, param in inspect.signature(make).parameters.items():
        value, word = param.default, name.lower()
        if word in KEPT_NAMES or any(kept in word for kept in KEPT_WORDS):
            continue
        if type(value) is int:
            is_heads = word.startswith("h") or any(part in word for part in HEAD_WORDS)
            if is_heads or is_scaled:
                found[name] = tuple(value * factor for factor in (FACTORS[0] if is_heads else next(rows)))
            else:
                found[name] = _odd(value, next(few if value < SMALL else many))
        elif isinstance(value, (tuple, list)) and value and all(type(item) is int for item in value):
            more = [*value, *(value[turn % len(value)] + next(many) for turn in range(TURNS - 1))]
            found[name] = tuple(type(value)(more[: len(value) + turn]) for turn in range(TURNS))
    return found


def _odd(value: int, step: int) -> tuple[int, ...]:
    """A size and larger ones; odd where it is no small count, so that kernels see uneven sizes in every call."""
    grown = [value + turn * (step + turn) for turn in range(TURNS)]
    return tuple(grown if value < SMALL else [size | 1 for size in grown])


def scaled(example: Tensors) -> list[Tensors]:
    """The example and others like it with all dimensions but the last of floating tensors grown.

    Dimensions at one place of several tensors grow alike where their sizes are the same or multiples; those of other
    tensors as the dimension of q, k, v that has their size.
    """
    tensors = [(place, item) for place, item in enumerate(example) if isinstance(item, torch.Tensor) and item.ndim]
    integers = [place for place, item in tensors if not item.is_floating_point()]
    if integers:
        raise UnsupportedKernel(
            f"argument {integers[0]} holds integers, which are not known to hold for other sizes; "
            "let inputs() take the sizes as keywords: inputs(B=2, H=4, M=90, N=75)"
        )
    growth = _growth(example[:3])
    return [tuple(_grown(item, turn, growth, place) for place, item in enumerate(example)) for turn in range(TURNS)]


Growth = dict[tuple[int, int], int]  # (place of the dimension, its size) -> row of FACTORS


def _growth(leading: Sequence[Any]) -> Growth:
    """Which factors a dimension of q, k and v grows by; sizes at one place that are no multiples get rows apart."""
    rows, known = itertools.count(), Growth()
    depth = max((x.ndim for x in leading if isinstance(x, torch.Tensor)), default=0)
    for place in range(depth - 1):
        sizes = sorted({x.shape[place] for x in leading if isinstance(x, torch.Tensor) and place < x.ndim - 1})
        for size in sizes:
            like = next((known[place, s] for s in sizes if (place, s) in known and size % s == 0), None)
            known[place, size] = next(rows) % len(FACTORS) if like is None else like
    return known


def _grown(item: Any, turn: int, growth: Growth, argument: int) -> Any:
    """A tensor with its dimensions grown, in the memory order of the one given."""
    if not isinstance(item, torch.Tensor) or not item.ndim:
        return item
    last = item.ndim - (1 if argument < 3 else 0)
    sizes = list(item.shape)
    for place in range(last):
        size = item.shape[place]
        row = growth.get((place, size)) if argument < 3 else _like(size, place, item.ndim, growth)
        sizes[place] = size * FACTORS[row][turn] if row is not None else size
    strides = item.stride()
    order = sorted(range(item.ndim), key=lambda place: (-strides[place], place))
    made = torch.randn([sizes[place] for place in order]).to(item.dtype)
    return made.permute([order.index(place) for place in range(item.ndim)])


def _like(size: int, place: int, ndim: int, growth: Growth) -> int | None:
    """The row of the dimension of q, k, v that has this size; by preference at the same place, then from behind."""
    if size == 1:
        return None
    same = [row for (there, known), row in growth.items() if known == size]
    if (place, size) in growth:
        return growth[place, size]
    if not same:
        return None
    return same[-1] if place >= ndim - 2 else same[0]
