"""Attention with steps around it: read, and equal to the function in fp64 at sizes it was not read with."""

from __future__ import annotations

import pytest
import torch

from tilewright.ir.errors import UnsupportedSpec
from tilewright.ir.lift import lift
from tilewright.ir.lift.around import lift_around
from tilewright.ir.reference import reference

from .around import AROUND

SIZES = [(2, 3, 6, 6), (1, 2, 5, 8)]


def tensors(b, h, m, n, captured, dtype=torch.float64):
    torch.manual_seed(b + 10 * m + 100 * n)
    given = torch.randn(b, h, m, 8), torch.randn(b, h, n, 8), torch.randn(b, h, n, 8)
    made = captured(B=b, Hq=h, Hkv=h, M=m, N=n, D=8, Dv=8)
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in (*given, *made))


def exact(spec, inputs):
    return torch.from_numpy(reference(spec, *(x.detach().numpy() for x in inputs))[0])


@pytest.mark.parametrize("name", AROUND)
def test_read_as_kernels_with_steps_around(name):
    function, captured = AROUND[name]
    example = tensors(2, 3, 6, 6, captured, torch.float32)
    composite = lift_around(function, example)
    done = 0
    for sizes in SIZES:
        args = tensors(*sizes, captured)
        if not composite.fits([x.float() if x.is_floating_point() else x for x in args]):
            continue
        got = composite(args, lambda n, inputs: exact(composite.cores[n].spec, inputs), torch.float64)
        torch.testing.assert_close(got, function(*args), rtol=1e-6, atol=1e-6)
        done += 1
    assert done


@pytest.mark.parametrize("name", ["rotated", "merged_heads", "forgetting"])
def test_plain_lift_refuses(name):
    """These functions are not kernels alone: none may slip into the plain way unnoticed."""
    function, captured = AROUND[name]
    with pytest.raises(UnsupportedSpec):
        lift(function, tensors(2, 3, 6, 6, captured, torch.float32))


def test_a_wrong_step_is_noticed(monkeypatch):
    """The check in fp64 sees a factor that is lost."""
    from tilewright.ir.lift.around import products

    monkeypatch.setattr(products, "by_key_head", lambda e, group: products.substitute(e, {"h": products.const(0)}))
    function, captured = AROUND["rotated"]
    with pytest.raises(UnsupportedSpec, match="differs from the function"):
        lift_around(function, tensors(2, 3, 6, 6, captured, torch.float32))


def test_no_attention_at_all():
    with pytest.raises(UnsupportedSpec, match="no sum over keys"):
        lift_around(lambda q, k, v: q + v, tensors(2, 3, 6, 6, lambda **_: (), torch.float32))


def test_a_matrix_of_rows_and_columns_is_refused():
    def skewed(q, k, v, table):
        return (q @ k.mT + q @ table.mT[..., : k.shape[2]]).softmax(-1) @ v

    given = tensors(2, 3, 6, 6, lambda **_: (torch.randn(3, 9, 8),), torch.float32)
    with pytest.raises(UnsupportedSpec, match="rows x columns"):
        lift_around(skewed, given)


def test_keys_of_groups_stay_shared():
    """Rotated keys are made once per key head, not once per query head."""
    torch.manual_seed(0)
    q, k, v, table = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(6, 8)

    def rotated(q, k, v, cos):
        k, v = (x.repeat_interleave(2, 1) for x in (k, v))
        return ((q * cos) @ (k * cos).mT).softmax(-1) @ v

    (core,) = lift_around(rotated, (q, k, v, table)).cores
    assert core.spec.group == 2
    assert core.inputs[1].axes[1] == "@g"
    assert core.inputs[2].given == "v"


def test_heads_in_another_order_have_keys_of_their_own():
    q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)

    def tiled(q, k, v):
        return (q @ k.repeat(1, 2, 1, 1).mT).softmax(-1) @ v.repeat(1, 2, 1, 1)

    (core,) = lift_around(tiled, (q, k, v)).cores
    assert core.spec.group == 1


def test_tensors_of_the_surroundings_are_no_constants_of_the_steps():
    weight = torch.nn.Parameter(torch.ones(8))

    def scaled(q, k, v):
        return ((q.square() * weight) @ k.mT).softmax(-1) @ v

    with pytest.raises(UnsupportedSpec, match="surrounding Python code"):
        lift_around(scaled, tensors(2, 3, 6, 6, lambda **_: (), torch.float32))


@pytest.mark.parametrize("name", ["heads_one_by_one", "heads_side_by_side", "batches_one_by_one"])
def test_a_loop_is_one_kernel_of_the_arguments_as_they_are(name):
    function, captured = AROUND[name]
    (core,) = lift_around(function, tensors(2, 3, 6, 6, captured, torch.float32)).cores
    assert [made.given for made in core.inputs] == ["q", "k", "v"]
