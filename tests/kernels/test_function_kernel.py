"""Kernels of functions with steps around their attention: results and gradients against autograd in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import tilewright as tw
from tilewright.ir.errors import UnsupportedSpec


def rotated_and_gated(q, k, v, cos, sin, gate):
    def rotate(x):
        a, b = x.chunk(2, -1)
        return x * cos[: x.shape[2]] + torch.cat((-b, a), -1) * sin[: x.shape[2]]

    o = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True) * torch.sigmoid(gate)
    return o.transpose(1, 2).reshape(q.shape[0], q.shape[2], -1)


class Layer(torch.nn.Module):
    """Biases of distances that are learned, and a scale per head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = torch.nn.Parameter(torch.randn(15, 2))
        self.scale = torch.nn.Parameter(torch.rand(2, 1, 1))

    def forward(self, q, k, v):
        distance = (torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])).clamp(-7, 7) + 7
        return (q @ k.mT * self.scale + self.table[distance].permute(2, 0, 1)).softmax(-1) @ v


def tensors(m=21, n=21, d=16, seed=0):
    torch.manual_seed(seed)
    return torch.randn(2, 2, m, d), torch.randn(2, 2, n, d), torch.randn(2, 2, n, d)


def gradients(function, given):
    """The result, and gradients of a weighted sum of it."""
    leaves = [x.detach().requires_grad_() for x in given]
    o = function(*leaves)
    weights = torch.linspace(-1, 1, o.numel(), dtype=torch.float64).view(o.shape).to(o.dtype)
    return [o.detach(), *torch.autograd.grad((o * weights).sum(), leaves)]


@pytest.fixture(scope="module")
def rotated():
    return tw.compile(rotated_and_gated, backward=True, target="cpu", verify=False)


@pytest.mark.parametrize(("m", "n"), [(21, 21), (33, 40)])
def test_steps_before_and_after(rotated, m, n):
    """One reading serves all lengths; gradients go through the steps, to tables and gates as well."""
    given = (*tensors(m, n), torch.randn(40, 16), torch.randn(40, 16), torch.randn(2, 2, m, 16))
    got = gradients(rotated, given)
    wanted = gradients(rotated_and_gated, [x.double() for x in given])
    for one, two in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-4)
    assert len(rotated._found) == 1


def test_parameters_of_a_module_are_arguments():
    """Their values are those of the call, and they have gradients."""
    layer, given = Layer(), tensors()
    kernel = tw.compile(layer, backward=True, target="cpu", verify=False)
    for _ in range(2):
        with torch.no_grad():
            layer.table.add_(0.5)
            layer.scale.mul_(0.7)
        layer.zero_grad()
        kernel(*given).square().sum().backward()
        got = kernel(*given).detach(), layer.table.grad, layer.scale.grad
        layer.zero_grad()
        layer(*given).square().sum().backward()
        for one, two in zip(got, (layer(*given), layer.table.grad, layer.scale.grad), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype):
    """Steps are computed in float32 and rounded once, as the kernel's arguments are."""
    given = [x.to(dtype) for x in (*tensors(), torch.randn(40, 16), torch.randn(40, 16), torch.randn(2, 2, 21, 16))]
    o = tw.compile(rotated_and_gated, target="cpu", verify=False)(*given)
    assert o.dtype == dtype
    torch.testing.assert_close(o.double(), rotated_and_gated(*(x.double() for x in given)), rtol=0.05, atol=0.05)


def test_autocast_and_compile(rotated):
    """Under autocast steps keep the arguments' type; torch.compile breaks its graph and is right."""
    given = (*tensors(), torch.randn(40, 16), torch.randn(40, 16), torch.randn(2, 2, 21, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rotated(*given).dtype == torch.float32
    doubled = torch.compile(lambda *x: rotated(*x) * 2, backend="eager")
    torch.testing.assert_close(doubled(*given), rotated_and_gated(*given) * 2, rtol=1e-4, atol=1e-4)


def test_what_steps_around_exclude(rotated, tmp_path):
    given = (*tensors(), torch.randn(40, 16), torch.randn(40, 16), torch.randn(2, 2, 21, 16))
    with pytest.raises(UnsupportedSpec, match="return_lse"):
        rotated(*given, return_lse=True)
    with pytest.raises(UnsupportedSpec, match="before or after its attention"):
        rotated.save(tmp_path)


def test_a_kernel_without_backward_says_so():
    """The refusal of gradients is that of the kernel inside, not of the reading."""
    kernel = tw.compile(rotated_and_gated, target="cpu", verify=False)
    given = [*tensors(), torch.randn(40, 16), torch.randn(40, 16), torch.randn(2, 2, 21, 16)]
    given[0].requires_grad_()
    with pytest.raises(UnsupportedSpec, match="no backward"):
        kernel(*given)


def test_what_cannot_be_read_is_refused_as_before():
    def keeps_the_largest(q, k, v):
        s = q @ k.mT
        return s.masked_fill(s < s.topk(2, dim=-1).values[..., -1:], float("-inf")).softmax(-1) @ v

    with pytest.raises(UnsupportedSpec, match="topk"):
        tw.compile(keeps_the_largest, target="cpu")(*tensors())


def test_kernels_inside_are_verified():
    kernel = tw.compile(rotated_and_gated, target="cpu")
    kernel.prepare(*tensors(), torch.randn(40, 16), torch.randn(40, 16), torch.randn(2, 2, 21, 16))
    assert kernel.report is not None
    assert kernel.report.verified
    assert kernel.report.notes == ("torch computes q, k, the result in every call, around 1 kernel",)


@pytest.mark.parametrize("layout", ["rows before heads", "no heads"])
def test_other_layouts_of_the_arguments(layout):
    """Functions of [B, N, H, D] and of [B, N, D] are compiled as they are; gradients have the arguments' layout."""

    def of_rows_before_heads(q, k, v):
        s = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.3
        return torch.einsum("bhqk,bkhd->bqhd", s.softmax(-1), v)

    def without_heads(q, k, v):
        return torch.bmm((torch.bmm(q, k.transpose(1, 2)) * 0.3).softmax(-1), v)

    function = of_rows_before_heads if layout == "rows before heads" else without_heads
    heads = (3,) if layout == "rows before heads" else ()
    torch.manual_seed(0)
    given = [torch.randn(2, n, *heads, 16) for n in (20, 31, 31)]
    kernel = tw.compile(function, backward=True, target="cpu", verify=False)
    for one, two in zip(gradients(kernel, given), gradients(function, [x.double() for x in given]), strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-5)
