"""Tensors are found wherever a function keeps them; equal code with other tensors has an equal key."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from tilewright.kernels.closures import Captures

TABLE = torch.arange(4.0)
FACTOR = 2.0


def uses_global(x: torch.Tensor) -> torch.Tensor:
    return x * TABLE * FACTOR


def calls_another(x: torch.Tensor) -> torch.Tensor:
    return uses_global(x) + 1


def scaled_by(bias: torch.Tensor, factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return x * factor + bias

    return inner


def both(*functions: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def sum_of(x: torch.Tensor) -> torch.Tensor:
        return sum(function(x) for function in functions)

    return sum_of


def rebuilt(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    captures = Captures([function])
    assert len(captures.tensors) == len(tensors)
    return captures.rebuild(function, tensors)(torch.ones(4))


def test_where_tensors_hide() -> None:
    one, two = torch.ones(4), torch.full((4,), 2.0)
    assert torch.equal(rebuilt(scaled_by(one, 3.0), two), torch.full((4,), 5.0))
    assert torch.equal(rebuilt(uses_global, two), torch.full((4,), 4.0))
    assert torch.equal(rebuilt(calls_another, two), torch.full((4,), 5.0))
    assert torch.equal(rebuilt(both(scaled_by(one, 1.0), scaled_by(two, 1.0)), two, one), torch.full((4,), 5.0))
    assert torch.equal(rebuilt(functools.partial(torch.add, other=one), two), torch.full((4,), 3.0))
    assert torch.equal(rebuilt(functools.partial(torch.add, one), two), torch.full((4,), 3.0))
    assert torch.equal(rebuilt(lambda x, b=one: x + b, two), torch.full((4,), 3.0))
    assert torch.equal(uses_global(torch.ones(4)), TABLE * 2)  # the user's own function is as it was


def test_the_same_tensor_counts_once() -> None:
    one = torch.ones(4)
    captures = Captures([scaled_by(one, 1.0), None, scaled_by(one, 2.0)])
    assert captures.tensors == [one]


def test_keys() -> None:
    one, two = torch.ones(4), torch.ones(4)
    key = Captures([scaled_by(one, 3.0)]).key
    assert key == Captures([scaled_by(two, 3.0)]).key
    assert hash(key) == hash(Captures([scaled_by(two, 3.0)]).key)
    assert key != Captures([scaled_by(one, 4.0)]).key
    assert key != Captures([scaled_by(one, 3)]).key
    assert Captures([both(scaled_by(one, 1.0), scaled_by(one, 1.0))]).key != (
        Captures([both(scaled_by(one, 1.0), scaled_by(two, 1.0))]).key
    )


def test_recursion_ends() -> None:
    def loop(x: torch.Tensor) -> torch.Tensor:
        return x if x.numel() else loop(x)

    captures = Captures([loop])
    assert captures.tensors == []
    assert torch.equal(captures.rebuild(loop, ())(torch.ones(2)), torch.ones(2))
