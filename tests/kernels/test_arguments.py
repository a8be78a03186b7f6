"""Arguments that do not fit are refused with what, where, got and wanted, before anything runs."""

from __future__ import annotations

import pytest
import torch

import tilewright as tw
from tilewright.ir.dtypes import DType
from tilewright.ir.spec import TensorSpec
from tilewright.kernels.arguments import bind_sizes, check_attention, check_device, signature_of


def qkv(hq: int = 4, hkv: int = 2, d: int = 8, dv: int = 8) -> list[torch.Tensor]:
    return [torch.zeros(2, hq, 5, d), torch.zeros(2, hkv, 7, d), torch.zeros(2, hkv, 7, dv)]


def changed(position: int, tensor: object) -> list[object]:
    tensors: list[object] = list(qkv())
    tensors[position] = tensor
    return tensors


@pytest.mark.parametrize(
    ("tensors", "error", "text"),
    [
        (qkv()[:2], tw.ShapeError, "takes q, k, v and the captured tensors; got 2 tensors"),
        (changed(0, torch.zeros(4, 5, 8)), tw.ShapeError, r"q: rank 3, shape \(4, 5, 8\); wanted rank 4"),
        (changed(1, torch.zeros(3, 2, 7, 8)), tw.ShapeError, r"k: size 3 for B in .*; wanted B=2"),
        (changed(1, torch.zeros(2, 2, 7, 9)), tw.ShapeError, r"k: size 9 for D in .*; wanted D=8"),
        (changed(2, torch.zeros(2, 2, 6, 8)), tw.ShapeError, r"v: size 6 for N in .*; wanted N=7"),
        (changed(2, torch.zeros(2, 1, 7, 8)), tw.ShapeError, r"v: size 1 for Hkv in .*; wanted Hkv=2"),
        (qkv(hq=5), tw.ShapeError, "Hq=5 heads and k has Hkv=2; wanted Hq a multiple of Hkv"),
        (qkv(d=0), tw.ShapeError, "q has D=0; wanted at least 1"),
        (qkv(dv=0), tw.ShapeError, "v has Dv=0; wanted at least 1"),
        (
            changed(1, torch.zeros(2, 2, 7, 8).half()),
            tw.DTypeError,
            "k: got torch.float16, wanted torch.float32",
        ),
        ([t.double() for t in qkv()], tw.DTypeError, "q: got torch.float64, wanted one of torch.float32"),
        ([t.long() for t in qkv()], tw.DTypeError, "q: got torch.int64, wanted one of"),
        (
            [*qkv(), torch.zeros(2, dtype=torch.complex64)],
            tw.DTypeError,
            r"captured\[0\]: got torch.complex64",
        ),
        (
            [*qkv(), 0.5],
            tw.DTypeError,
            r"captured\[0\]: got float, wanted a torch.Tensor; .*functools.partial",
        ),
        (
            changed(0, torch.zeros(2, 4, 5, 8).to_sparse()),
            tw.DTypeError,
            "q: got a tensor of layout torch.sparse_coo",
        ),
        (changed(2, torch.zeros(2, 2, 7, 8, device="meta")), tw.DeviceError, "v: on meta, but q is on cpu"),
    ],
)
def test_refusals(tensors: list[object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        check_attention(tensors)


def test_sizes_are_bound_by_name() -> None:
    specs = [
        TensorSpec("q", DType.F32, ("B", "Hq", "M", "D")),
        TensorSpec("k", DType.F32, ("B", "Hkv", "N", "D")),
        TensorSpec("v", DType.F32, ("B", "Hkv", "N", "Dv")),
        TensorSpec("table", DType.I64, (1, "T")),
    ]
    tensors = [*qkv(dv=3), torch.zeros(1, 9, dtype=torch.int64)]
    sizes = {"B": 2, "Hq": 4, "Hkv": 2, "M": 5, "N": 7, "D": 8, "Dv": 3, "T": 9}
    assert bind_sizes(specs, tensors) == sizes
    with pytest.raises(tw.ShapeError, match=r"got 3 tensors; this kernel takes 4: q, k, v, table"):
        bind_sizes(specs, tensors[:3])
    with pytest.raises(tw.ShapeError, match=r"table: size 2 for 1 in \(2, 9\)"):
        bind_sizes(specs, [*tensors[:3], torch.zeros(2, 9, dtype=torch.int64)])
    with pytest.raises(tw.DTypeError, match=r"table: got torch.int32; this kernel was made for torch.int64"):
        bind_sizes(specs, [*tensors[:3], torch.zeros(1, 9, dtype=torch.int32)])


def test_device_of_a_target() -> None:
    check_device("cpu", qkv())
    with pytest.raises(tw.DeviceError, match="q: on cpu; target 'triton' computes on cuda"):
        check_device("triton", qkv())


def test_signature_tells_apart_what_specialises() -> None:
    base = signature_of(qkv())
    longer = [torch.zeros(5, 6, 50, 8), torch.zeros(5, 3, 70, 8), torch.zeros(5, 3, 70, 8)]
    assert signature_of(longer) == base  # B, H, M, N do not
    assert signature_of(qkv(hq=2)) != base
    assert signature_of(qkv(d=16, dv=8)) != base
    assert signature_of([*qkv(), torch.zeros(2, 5)]) != signature_of([*qkv(), torch.zeros(1, 5)])
