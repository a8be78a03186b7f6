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


class Layer:
    """Tensors in attributes, reached through methods, properties of others left alone."""

    def __init__(self, bias: torch.Tensor, gain: float = 1.0) -> None:
        self.bias = bias
        self.gain = gain
        self.unused = torch.zeros(1)

    def shifted(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.shifted(x) * self.gain


def test_attributes_that_methods_name() -> None:
    one, two = torch.ones(4), torch.full((4,), 2.0)
    for function in (Layer(one), Layer(one).shifted, functools.partial(Layer.shifted, Layer(one))):
        assert torch.equal(rebuilt(function, two), torch.full((4,), 3.0))
    module = torch.nn.Linear(4, 1, bias=False)
    assert rebuilt(module, torch.full((1, 4), 2.0)).item() == 8.0


def test_attributes_are_part_of_the_key() -> None:
    layer = Layer(torch.ones(4))
    key = Captures([layer.shifted]).key
    layer.bias = torch.zeros(4)
    assert Captures([layer.shifted]).key == key  # only a tensor is another
    called = Captures([layer]).key
    layer.gain = 2.0
    assert Captures([layer]).key != called
    assert Captures([Layer(torch.ones(4)).shifted]).key != key  # another object may differ in what no code names


def test_code_inside_code_and_containers() -> None:
    tables = {"a": torch.ones(4), "b": [torch.full((4,), 2.0)]}

    def outer(x: torch.Tensor) -> torch.Tensor:
        def inner(y: torch.Tensor) -> torch.Tensor:
            return y * TABLE + tables["a"] * tables["b"][0]

        return inner(x)

    two, three, four = (torch.full((4,), float(n)) for n in (2, 3, 4))
    assert torch.equal(rebuilt(outer, two, three, four), torch.full((4,), 10.0))


def test_a_name_that_is_not_bound_yet() -> None:
    def outer() -> Callable[[torch.Tensor], torch.Tensor]:
        def inner(x: torch.Tensor) -> torch.Tensor:
            return x if x.numel() else later

        found = Captures([inner])
        later = torch.ones(1)
        assert found.tensors == []
        return inner

    assert len(Captures([outer()]).tensors) == 1
