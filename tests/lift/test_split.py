"""Functions whose steps around the attention have no expression: operators are run again, a kernel does the rest."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import tilewright as tw
from tilewright.ir.lift.around import Split, lift_with_steps, split_function


def projected(q, k, v, w):
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k @ w, v))
    return F.scaled_dot_product_attention(q @ w, k, v, is_causal=True)


def merged(q, k, v, w):
    o = (q @ k.mT * 0.25).softmax(-1) @ v
    return F.linear(o.transpose(1, 2).flatten(2), w)


def complex_rotation(q, k, v, angles):
    def rotated(x):
        turn = torch.polar(torch.ones_like(angles), angles)[: x.shape[2]]
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turn).flatten(3)

    return (rotated(q) @ rotated(k).mT).softmax(-1) @ v


def written_in_place(q, k, v, w):
    q = q @ w
    q[..., :4] *= 2.0
    o = torch.zeros(q.shape)
    o += (q @ (k @ w).mT * 0.25).softmax(-1) @ v
    o[:, :, 0] = 0.0
    return o @ w


def filtered(q, k, v, kernel):
    """A convolution along the rows, as some models have before their products."""
    b, h, m, d = q.shape
    q = F.conv1d(q.transpose(2, 3).reshape(b * h, d, m), kernel, padding=1, groups=d).view(b, h, d, m).transpose(2, 3)
    return (q @ k.mT * 0.25).softmax(-1) @ v


CASES = {
    "projected": (projected, (4, 2), (16, 16)), "wider": (projected, (4, 2), (16, 24)),
    "merged": (merged, (2, 2), (20, 32)), "complex": (complex_rotation, (2, 2), (40, 8)),
    "in place": (written_in_place, (2, 2), (16, 16)), "filtered": (filtered, (2, 2), (16, 1, 3)),
}  # fmt: skip


def example(name: str, m: int = 9, n: int = 9) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    _, (heads, kv_heads), shape = CASES[name]
    q, k, v = (torch.randn(2, h, rows, 16) for h, rows in ((heads, m), (kv_heads, n), (kv_heads, n)))
    return q, k, v, torch.randn(shape) * 0.3


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients(name: str) -> None:
    """One kernel serves other lengths; gradients go through the steps. Against autograd in fp64."""
    function = CASES[name][0]
    assert isinstance(lift_with_steps(function, example(name)), Split)
    kernel = tw.compile(function, target="cpu", backward=True, verify=False)
    for m, n in ((9, 9), (21, 21)) if name == "projected" else ((9, 9), (21, 33)):
        leaves = [x.requires_grad_() for x in example(name, m, n)]
        wide = [x.detach().double().requires_grad_() for x in leaves]
        exact = double(function, wide)
        o = kernel(*leaves)
        weights = torch.linspace(-1, 1, o.numel()).view(o.shape)
        got = torch.autograd.grad((o * weights).sum(), leaves)
        wanted = torch.autograd.grad((exact * weights).sum(), wide)
        for one, two in zip((o, *got), (exact, *wanted), strict=True):
            assert (one - two).abs().max() <= 2e-5 * two.abs().max().clamp(min=1)


def double(function, given):
    """The function in fp64, also where it makes tensors without naming a type."""
    torch.set_default_dtype(torch.float64)
    try:
        return function(*given)
    finally:
        torch.set_default_dtype(torch.float32)


class Block(torch.nn.Module):
    """Attention with its layers, on heads that are split already."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turn, self.out = torch.nn.Linear(16, 16), torch.nn.Linear(32, 32)

    def forward(self, q, k, v):
        o = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.out(o.transpose(1, 2).flatten(2))


def test_weights_of_layers_are_trained() -> None:
    """Parameters are read at every call and have gradients."""
    block = Block()
    kernel = tw.compile(block, target="cpu", backward=True, verify=False)
    tensors = [torch.randn(2, 2, 9, 16) for _ in range(3)]
    for _ in range(2):
        found, wanted = (torch.autograd.grad(f(*tensors).square().sum(), list(block.parameters())) for f in (kernel, block))
        for one, two in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.mul_(0.9)


def test_another_width_of_a_projection_is_another_kernel() -> None:
    kernel = tw.compile(projected, target="cpu", verify=False)
    for width in (24, 16, 24):
        q, k, v, _ = example("projected")
        w = torch.randn(16, width) * 0.3
        torch.testing.assert_close(kernel(q, k, v, w), projected(q, k, v, w), rtol=1e-4, atol=1e-4)
        assert kernel.spec is not None
        assert kernel.spec.head_dim == width


def scores_are_needed(q, k, v, w):
    s = q @ k.mT
    return s.softmax(-1) @ v @ w + s.sum(-1, keepdim=True)


def keeps_the_largest(q, k, v, w):
    s = (q @ w) @ k.mT
    return s.masked_fill(s < s.topk(2).values[..., -1:], float("-inf")).softmax(-1) @ v


def raw_query(q, k, v, w):
    return ((q @ w) @ (k @ w).mT + q[..., :1]).softmax(-1) @ v


@pytest.mark.parametrize("function", [scores_are_needed, keeps_the_largest, raw_query])
def test_what_is_no_attention_between_steps_is_not_split(function) -> None:
    assert split_function(function, example("projected", 9, 9)[:1] * 3 + (torch.randn(16, 16),)) is None


def test_what_torch_does_is_told() -> None:
    found = split_function(merged, example("merged"))
    assert found is not None
    assert found.told.startswith("torch changes the result (line")
