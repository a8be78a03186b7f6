"""What cannot be compiled is refused with the line of the user's function and the reason."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tilewright.ir.errors import DTypeError, ShapeError, UnsupportedSpec
from tilewright.ir.lift import lift

CASES: list[tuple[Callable[..., Tensor], str, str, tuple[Tensor, ...]]] = []


def refused(line: str, reason: str, *captured: Tensor):
    """The function is refused at the line that contains `line`, with `reason` in the message."""

    def register(function):
        CASES.append((function, line, reason, captured))
        return function

    return register


@refused("if scores.max() > 10", "depends on the data in a tensor")
def branch_on_data(q, k, v):
    scores = q @ k.mT
    if scores.max() > 10:
        scores = scores / 2
    return scores.softmax(-1) @ v


@refused("length = int(", "depends on the data in a tensor", torch.tensor([5, 6]))
def reads_a_number(q, k, v, lengths):
    length = int(lengths.max())
    return (q @ k.mT)[..., :length].softmax(-1) @ v[:, :, :length]


@refused("F.dropout(w, p=0.1)", "draws random numbers")
def drops_out(q, k, v):
    w = (q @ k.mT).softmax(-1)
    w = F.dropout(w, p=0.1)
    return w @ v


@refused("dropout_p=0.1", "draws random numbers")
def drops_out_inside(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)


@refused("top = scores.topk(2", "topk")
def keeps_the_largest(q, k, v):
    scores = q @ k.mT
    top = scores.topk(2, dim=-1).values[..., -1:]
    return scores.masked_fill(scores < top, -math.inf).softmax(-1) @ v


@refused("return out.transpose(1, 2)", "[B, Hq, M, Dv]")
def wrong_layout(q, k, v):
    out = (q @ k.mT).softmax(-1) @ v
    return out.transpose(1, 2)


@refused("return out.transpose(1, 2).flatten(2)", "[B, Hq, M, Dv]")
def merged_heads(q, k, v):
    out = (q @ k.mT).softmax(-1) @ v
    return out.transpose(1, 2).flatten(2)


@refused("(q * cos + rotated * sin)", "q or k is changed before their product", torch.randn(6, 8), torch.randn(6, 8))
def rotates_inside(q, k, v, cos, sin):
    rotated = torch.cat((-q[..., 4:], q[..., :4]), -1)
    s = (q * cos + rotated * sin) @ k.mT
    return s.softmax(-1) @ v


@refused("p * torch.tanh(s)", "depends on scores")
def weighs_by_scores_after_softmax(q, k, v):
    s = q @ k.mT
    p = s.softmax(-1)
    p = p * torch.tanh(s)
    return p @ v


@refused("p / (p * keep).sum", "divide", torch.rand(6, 6) > 0.5)
def normalises_by_another_sum(q, k, v, keep):
    p = (q @ k.mT).softmax(-1)
    p = p / (p * keep).sum(-1, keepdim=True)
    return p @ v


@refused("return q + p @ v", "adds something to the weighted sum of v")
def adds_a_residual(q, k, v):
    p = (q @ k.mT).softmax(-1)
    return q + p @ v


@refused("return F.relu(p @ v)", "not a sum over j of a weight times v")
def changes_the_result(q, k, v):
    p = (q @ k.mT).softmax(-1)
    return F.relu(p @ v)


@refused("p @ torch.tanh(v)", "v is changed before it is summed")
def changes_v(q, k, v):
    p = (q @ k.mT).softmax(-1)
    return p @ torch.tanh(v)


@refused("return q * 2", "does not depend on v")
def forgets_v(q, k, v):
    return q * 2


@refused("BIAS_OF_MODULE[:n, :n]", "pass it to the function as a further argument")
def uses_a_constant(q, k, v):
    s = q @ k.mT
    n = k.shape[2]
    s = s + BIAS_OF_MODULE[:n, :n]
    return s.softmax(-1) @ v


BIAS_OF_MODULE = torch.arange(1000.0).view(25, 40)


@refused("return (p1 - 0.5 * p2) @ v", "normalised on their own")
def differential(q, k, v):
    p1 = (q @ k.mT).softmax(-1)
    p2 = (q @ k.mT * 0.5).softmax(-1)
    return (p1 - 0.5 * p2) @ v


@refused("s - s.mean(-1, keepdim=True)", "enters the score other than in the normaliser")
def centres_and_caps(q, k, v):
    s = q @ k.mT
    s = torch.tanh(s - s.mean(-1, keepdim=True))
    return s.softmax(-1) @ v


@refused("raise NotImplementedError", "the function raised NotImplementedError: no long sequences")
def raises(q, k, v):
    raise NotImplementedError("no long sequences")


@refused("torch.sigmoid(q @ k.mT) @ v * w", "scaled each in its own way", torch.rand(8))
def scales_elements(q, k, v, w):
    return torch.sigmoid(q @ k.mT) @ v * w


@refused("return (q @ k.mT).softmax(-2) @ v", "over the queries of a key")
def normalises_over_queries(q, k, v):
    return (q @ k.mT).softmax(-2) @ v


@refused("return q @ kv", "not a sum over j of a weight times v")
def linear_attention(q, k, v):
    kv = k.mT @ v
    return q @ kv


@refused("* w.expand(q.shape[0], q.shape[1], -1, -1) @ v", "do not depend on the product of q and k")
def averages_the_past(q, k, v):
    w = torch.ones(q.shape[2], k.shape[2]).tril()
    w = w / w.sum(-1, keepdim=True)
    return 1.0 * w.expand(q.shape[0], q.shape[1], -1, -1) @ v


@refused(".cumsum(-1)", "a running sum of a tensor", torch.randint(0, 2, (2, 6)))
def counts_documents(q, k, v, starts):
    ids = starts.cumsum(-1)
    s = (q @ k.mT).masked_fill(ids[:, None, :, None] != ids[:, None, None, :], -math.inf)
    return s.softmax(-1) @ v


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_refused_at_its_line(case):
    function, line, reason, captured = case
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    with pytest.raises(UnsupportedSpec) as refusal:
        lift(function, (q, k, v, *captured))
    assert reason in refusal.value.reason + " " + (refusal.value.hint or "")
    assert refusal.value.source is not None
    assert line in refusal.value.source
    lines, first = inspect.getsourcelines(function)
    path, _, number = refusal.value.location.rpartition(":")
    assert path == __file__
    assert line in lines[int(number) - first]


def test_tiled_heads_are_refused_with_a_hint():
    def tiled(q, k, v):
        g = q.shape[1] // k.shape[1]
        return (q @ k.repeat(1, g, 1, 1).mT).softmax(-1) @ v.repeat(1, g, 1, 1)

    with pytest.raises(UnsupportedSpec, match="h % Hkv") as refusal:
        lift(tiled, (torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)))
    assert "repeat_interleave" in refusal.value.hint


def test_the_line_of_the_called_library_is_named():
    def through_library(q, k, v):
        layer = torch.nn.MultiheadAttention(8, 2, bias=False)
        return layer(q[:, 0], k[:, 0], v[:, 0])[0]

    with pytest.raises(UnsupportedSpec) as refusal:
        lift(through_library, (torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)))
    assert refusal.value.location.startswith(__file__)


def plain(q, k, v):
    return (q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8)), r"q has shape \(2, 6, 8\), wanted 4 dims"),
        (((2, 3, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8)), "q has 3 heads, which is no multiple of the 2 heads of k"),
        (((2, 2, 6, 8), (2, 2, 6, 4), (2, 2, 6, 8)), "q and k: head_dim differs: 8 and 4"),
        (((2, 2, 6, 8), (2, 2, 5, 8), (2, 2, 6, 8)), "k and v: length differs: 5 and 6"),
        (((2, 2, 6, 8), (1, 2, 6, 8), (1, 2, 6, 8)), "q and k: batch differs: 2 and 1"),
    ],
)
def test_examples_that_do_not_fit(shapes, message):
    with pytest.raises(ShapeError, match=message):
        lift(plain, [torch.randn(shape) for shape in shapes])


def test_integer_example():
    q = torch.ones(2, 2, 6, 8, dtype=torch.long)
    with pytest.raises(DTypeError, match=r"q is torch.int64, wanted one floating type"):
        lift(plain, (q, q, q))


def test_example_that_is_no_tensor():
    with pytest.raises(UnsupportedSpec, match=r"must be tensors \(q, k, v, \*captured\)"):
        lift(plain, (torch.ones(1), 3, None))
