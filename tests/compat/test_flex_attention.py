"""The drop-in gives what PyTorch's FlexAttention gives, for modifications as their users write them.

All are lifted and compared as formulas; kernels of a few are built here, of all in the slow tests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention as peer

import tilewright as tw
from tilewright.compat import flex_attention as ours
from tilewright.ir.lift import lift
from tilewright.ir.reference import reference
from tilewright.kernels.attention import Formula, Pair

from .flex_gallery import BATCH, GALLERY, HEADS
from .flex_gallery import Pair as Mods

WIDTH = 16
EXPONENTIALS = {torch.float32: 0.0, torch.bfloat16: 2.0**-14}  # relative error of weights, docs/architecture.md
LENGTHS = (60, 70)
BUILT = ("relative_buckets", "row_bias", "bias_row_by_row", "bound_method", "jagged", "natten", "tree", "paged",
         "none_of_odd_rows")  # fmt: skip


@pytest.fixture(autouse=True)
def peer_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def qkv(rows: int = LENGTHS[0], columns: int = LENGTHS[1], heads: int = HEADS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((BATCH, HEADS, rows, WIDTH), (BATCH, heads, columns, WIDTH), (BATCH, heads, columns, WIDTH))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def theirs(tensors: list[torch.Tensor], mods: Mods, **others: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """o and lse of PyTorch's own, without a kernel."""
    score_mod, mask_mod = mods
    rows, columns = tensors[0].shape[2], tensors[1].shape[2]
    mask = mask_mod and peer.create_block_mask(mask_mod, BATCH, HEADS, rows, columns, device="cpu")
    o, aux = peer.flex_attention(*tensors, score_mod, mask, return_aux=peer.AuxRequest(lse=True), **others)
    return o, aux.lse


def assert_within_rounding(got: torch.Tensor, single: torch.Tensor, exact: torch.Tensor, own: float = 0.0) -> None:
    """At most twice the error of PyTorch's in the same type, a few roundings, and `own` of the kernel's arithmetic."""
    kept = exact.isfinite()
    assert torch.equal(got.isfinite(), kept)
    rounding = torch.finfo(got.dtype).eps * exact[kept].abs().max()
    budget = 2 * (single[kept].double() - exact[kept]).abs().max() + 4 * rounding + own
    assert (got[kept].double() - exact[kept]).abs().max() <= budget


def check_kernel(mods: Mods, dtype: torch.dtype = torch.float32) -> None:
    tensors = [x.to(dtype) for x in qkv()]
    score_mod, mask_mod = mods
    mask = mask_mod and ours.create_block_mask(mask_mod, BATCH, HEADS, *LENGTHS, device="cpu")
    o, aux = ours.flex_attention(*tensors, score_mod, mask, return_aux=ours.AuxRequest(lse=True))
    exact = theirs([x.double() for x in tensors], mods)
    single = theirs(tensors, mods)
    assert_within_rounding(o, single[0], exact[0])
    assert_within_rounding(aux.lse, single[1], exact[1], EXPONENTIALS[dtype])


@pytest.mark.parametrize("name", GALLERY)
def test_formula(name: str) -> None:
    mods = GALLERY[name](*LENGTHS)
    pair = Pair(mods)
    tensors = qkv()
    spec = lift(Formula(pair, True), (*tensors, *pair.captures.tensors))
    exact, exact_lse = theirs([x.double() for x in tensors], mods)
    captured = [x.numpy() for x in pair.captures.tensors]
    o, lse = reference(spec, *(x.double().numpy() for x in tensors), *captured)
    np.testing.assert_allclose(o, exact, rtol=1e-6, atol=1e-6)  # some callables make constants in float32
    np.testing.assert_allclose(lse, exact_lse, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", BUILT)
def test_kernel(name: str) -> None:
    check_kernel(GALLERY[name](*LENGTHS))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", GALLERY)
def test_every_kernel(name: str, dtype: torch.dtype) -> None:
    check_kernel(GALLERY[name](*LENGTHS), dtype)


@functools.cache
def slopes_by_head() -> torch.Tensor:
    return torch.tensor([0.5, 0.25, 0.125, 0.1])


def with_slopes(score: torch.Tensor, b: Any, h: Any, q_idx: Any, kv_idx: Any, t: torch.Tensor) -> torch.Tensor:
    return score + t[h] * (kv_idx - q_idx)


def test_new_values_are_seen() -> None:
    """Values changed in place, attributes and globals bound anew, another tensor in a partial: never the old result."""
    tensors = qkv()
    table = slopes_by_head().clone()
    mod = functools.partial(with_slopes, t=table)
    before = ours.flex_attention(*tensors, mod)
    table.mul_(3)
    after = ours.flex_attention(*tensors, mod)
    torch.testing.assert_close(after, theirs(tensors, (mod, None))[0], rtol=1e-5, atol=1e-5)
    assert not torch.equal(before, after)

    class Layer:
        bias = torch.zeros(HEADS)
        gain = 1.0

        def score_mod(self, score: torch.Tensor, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> torch.Tensor:
            return score * self.gain + self.bias[h] * kv_idx

    layer = Layer()
    for gain, bias in ((1.0, torch.zeros(HEADS)), (1.0, slopes_by_head()), (2.0, slopes_by_head())):
        layer.gain, layer.bias = gain, bias
        o = ours.flex_attention(*tensors, layer.score_mod)
        torch.testing.assert_close(o, theirs(tensors, (layer.score_mod, None))[0], rtol=1e-5, atol=1e-5)


def test_shared_heads_scale_and_one_batch_of_keys() -> None:
    q, k, v = qkv(heads=2)
    o = ours.flex_attention(q, k, v, scale=0.5, enable_gqa=True)
    wanted, _ = theirs([q, k, v], (None, None), scale=0.5, enable_gqa=True)
    torch.testing.assert_close(o, wanted, rtol=1e-5, atol=1e-5)
    mask_mod = GALLERY["prefix_lm"](*LENGTHS)[1]
    assert mask_mod is not None
    mask = ours.create_block_mask(mask_mod, BATCH, None, *LENGTHS, device="cpu")
    o = ours.flex_attention(q, k[:1], v[:1], block_mask=mask, enable_gqa=True)
    wanted = ours.flex_attention(q, *(x[:1].expand(BATCH, -1, -1, -1) for x in (k, v)), block_mask=mask, enable_gqa=True)
    assert torch.equal(o, wanted)


def test_what_is_returned() -> None:
    tensors = qkv()
    o = ours.flex_attention(*tensors)
    also, lse = ours.flex_attention(*tensors, return_lse=True)
    third, aux = ours.flex_attention(*tensors, return_aux=ours.AuxRequest())
    assert torch.equal(o, also)
    assert torch.equal(o, third)
    assert aux == ours.AuxOutput(None, None)
    assert lse.shape == (BATCH, HEADS, LENGTHS[0])
    assert lse.dtype == torch.float32


def data_dependent(score: torch.Tensor, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> torch.Tensor:
    return score if q_idx > kv_idx else -score


def reads_other_scores(score: torch.Tensor, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> torch.Tensor:
    return score + torch.rand(())


MASK = ours.create_block_mask(lambda b, h, i, j: i >= j, None, None, *LENGTHS, device="cpu")
NARROW = ours.create_block_mask(lambda b, h, i, j: i >= j, None, 3, *LENGTHS, device="cpu")
ELSEWHERE = ours.create_block_mask(lambda b, h, i, j: i >= j, None, None, *LENGTHS, device="meta")
REFUSALS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "control-flow": ({"score_mod": data_dependent}, tw.UnsupportedSpec,
                     r"(?s)test_flex_attention\.py:\d+: .* depends on the data.*score if q_idx > kv_idx.*torch\.where"),
    "random": ({"score_mod": reads_other_scores}, tw.UnsupportedSpec, r"(?s)rand.*random"),
    "max-scores": ({"return_aux": ours.AuxRequest(max_scores=True)}, tw.UnsupportedSpec, "max_scores=True: .* lse=True"),
    "both-returns": ({"return_lse": True, "return_aux": ours.AuxRequest(lse=True)}, tw.UnsupportedSpec, "one of them"),
    "option": ({"kernel_options": {"FAST": True}}, tw.UnsupportedSpec, r"kernel_options\['FAST'\]: not an option"),
    "backend": ({"kernel_options": {"BACKEND": "CUDNN"}}, tw.UnsupportedSpec, "'CUDNN': wanted one of AUTO, TRITON"),
    "options": ({"kernel_options": ["BACKEND"]}, tw.UnsupportedSpec, "got list, wanted a dict"),
    "mask": ({"block_mask": torch.ones(2, 2)}, tw.DTypeError, "block_mask: got Tensor, wanted a BlockMask"),
    "lengths": ({"block_mask": MASK._adjust(60, 64)}, tw.ShapeError, r"\(60, 64\) .* have \(60, 70\).*_adjust\(60, 70\)"),
    "heads": ({"block_mask": NARROW}, tw.ShapeError, "made for H=3 and query has H=4; wanted 4 or 1"),
    "device": ({"block_mask": ELSEWHERE}, tw.DeviceError, "block_mask is on meta and query on cpu"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    given, error, message = REFUSALS[case]
    with pytest.raises(error, match=message):
        ours.flex_attention(*qkv(), **given)


def test_hints_change_nothing() -> None:
    tensors = qkv()
    hints = {"BLOCK_M": 32, "bwd_BLOCK_N1": 64, "BACKEND": "TRITON", "PRESCALE_QK": True}
    assert torch.equal(ours.flex_attention(*tensors, kernel_options=hints), ours.flex_attention(*tensors))
    whole = peer._create_empty_block_mask(*tensors[:2])
    assert torch.equal(ours.flex_attention(*tensors, block_mask=whole), ours.flex_attention(*tensors))


MASKS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no-callable": (lambda: ours.create_block_mask(3, 1, 1, 8, 8, "cpu"), tw.UnsupportedSpec, "mask_mod: got int"),
    "five-arguments": (lambda: ours.create_block_mask(data_dependent, 1, 1, 8, 8, "cpu"), tw.UnsupportedSpec,
                       "mask_mod: .*kv_idx.*wanted mask_mod"),
    "numbers": (lambda: ours.create_block_mask(lambda b, h, i, j: i - j, 1, 1, 8, 8, "cpu"), tw.DTypeError,
                "torch.int64, wanted torch.bool"),
    "a-row": (lambda: ours.create_block_mask(lambda b, h, i, j: torch.ones(8) > i, 1, 1, 8, 8, "cpu"), tw.ShapeError,
              r"gives shape \(8,\)"),
    "control-flow": (lambda: ours.create_block_mask(lambda b, h, i, j: i > 0 and i > j, 1, 1, 8, 8, "cpu"),
                     tw.UnsupportedSpec, r"depends on the data"),
    "length": (lambda: ours.create_block_mask(MASK.mask_mod, 1, 1, -8, 8, "cpu"), tw.ShapeError, "Q_LEN=-8"),
    "block": (lambda: ours.create_block_mask(MASK.mask_mod, 1, 1, 8, 8, "cpu", 0), tw.ShapeError, "BLOCK_SIZE=0"),
    "order": (lambda: ours.create_block_mask(MASK.mask_mod, 1, 1, 8, 8, "cpu", compute_dq_write_order=True),
              tw.UnsupportedSpec, "compute_dq_write_order=True"),
    "nested": (lambda: ours.create_nested_block_mask(MASK.mask_mod, 1, 1, None), tw.UnsupportedSpec, "document ids"),
}  # fmt: skip


@pytest.mark.parametrize("case", MASKS)
def test_masks_that_are_refused(case: str) -> None:
    make, error, message = MASKS[case]
    with pytest.raises(error, match=message):
        make()
