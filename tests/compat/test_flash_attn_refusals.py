"""What flash-attn's functions refuse: by the argument's name, before anything is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tilewright.compat import flash_attn as fa
from tilewright.ir.errors import DeviceError, DTypeError, ShapeError, UnsupportedSpec

Q = torch.zeros(2, 5, 4, 16)
K = torch.zeros(2, 7, 2, 16)
CU_Q, CU_K = torch.tensor([0, 4, 10]), torch.tensor([0, 7, 14], dtype=torch.int32)
LENGTHS = torch.tensor([3, 4])
TABLE = torch.tensor([[0, 1], [2, 3]])
POOL = torch.zeros(4, 8, 2, 16)
NEW = torch.ones(2, 1, 2, 16)


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


DENSE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"dropout_p": 0.1}, UnsupportedSpec, "flash_attn_func: dropout_p=0.1 is not supported; pass dropout_p=0.0"),
    ({"return_attn_probs": True}, UnsupportedSpec, "return_attn_probs=True .* pass False"),
    ({"softmax_scale": "1"}, TypeError, "softmax_scale is a str; wanted a number or None"),
    ({"softcap": -1.0}, TypeError, "softcap=-1.0; wanted a number that is at least 0"),
    ({"window_size": 5}, TypeError, "window_size=5; wanted .left, right."),
    ({"window_size": (1, 2.5)}, TypeError, "wanted .left, right., two integers, -1 for no limit"),
    ({"alibi_slopes": [1.0] * 4}, TypeError, "alibi_slopes is a list; wanted a float32 tensor"),
    ({"alibi_slopes": torch.zeros(4).double()}, DTypeError, "alibi_slopes: got torch.float64, wanted torch.float32"),
    ({"alibi_slopes": torch.zeros(3)}, ShapeError, r"alibi_slopes: shape \(3,\); wanted \(4,\) or \(2, 4\)"),
    ({"q": Q[0]}, ShapeError, r"q: shape \(5, 4, 16\); wanted 4 dimensions, \[B, M, Hq, D\]"),
    ({"q": None}, TypeError, "q is a NoneType"),
    ({"k": K.double()}, DTypeError, "k: got torch.float64, wanted torch.float32"),
    ({"v": K[:, :6]}, ShapeError, r"v: size 6 for N in .* wanted 7"),
    ({"k": K[:, :, :, :8]}, ShapeError, "k: size 8 for D in .* wanted 16"),
    ({"q": Q[:, :, :3]}, ShapeError, "q has 3 heads and k has 2; wanted a multiple"),
    ({"q": Q.double(), "k": K.double(), "v": K.double()}, DTypeError, "got torch.float64, wanted one of"),
]
VARLEN: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"cu_seqlens_q": [0, 4, 10]}, TypeError, "cu_seqlens_q is a list; wanted an int32 tensor"),
    ({"cu_seqlens_q": CU_Q.float()}, DTypeError, "cu_seqlens_q: got torch.float32, wanted torch.int32"),
    ({"cu_seqlens_k": CU_K[None]}, ShapeError, r"cu_seqlens_k: shape \(1, 3\); wanted \(any\)"),
    ({"cu_seqlens_q": ints(1, 4, 10)}, ShapeError, "cu_seqlens_q: starts at 1; wanted 0"),
    ({"cu_seqlens_q": ints()}, ShapeError, "cu_seqlens_q: starts at nothing"),
    ({"cu_seqlens_k": ints(0, 9, 8)}, ShapeError, "cu_seqlens_k: does not ascend: 9, then 8 at position 2"),
    ({"cu_seqlens_k": ints(0, 9, 15)}, ShapeError, "cu_seqlens_k: ends at 15, beyond the 14 tokens"),
    ({"cu_seqlens_k": ints(0, 14)}, ShapeError, "cu_seqlens_q has 3 entries and cu_seqlens_k 2"),
    ({"max_seqlen_q": 5}, ShapeError, "max_seqlen_q=5: the longest sequence has 6 tokens"),
    ({"max_seqlen_k": 7.0}, TypeError, "max_seqlen_k is a float; wanted an integer"),
    ({"dropout_p": 0.5}, UnsupportedSpec, "flash_attn_varlen_func: dropout_p=0.5"),
    ({"alibi_slopes": torch.zeros(3, 4)}, ShapeError, r"wanted \(4,\) or \(2, 4\)"),
    ({"k": POOL, "v": POOL, "block_table": TABLE[:1]}, ShapeError, r"block_table: shape \(1, 2\); wanted \(2, any\)"),
    ({"k": POOL, "v": POOL, "block_table": TABLE[:, :0]}, ShapeError, "7 tokens, 1 pages of 8; the table has 0"),
    ({"k": POOL, "v": POOL, "block_table": TABLE * 2}, ShapeError, "page 4 of sequence 1 is outside the cache"),
]
CACHE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"v": None}, TypeError, "k and v are appended together; got k alone"),
    ({"cache_seqlens": None}, TypeError, "cache_seqlens is None, but k is given"),
    ({"cache_seqlens": 3.0}, TypeError, "cache_seqlens is a float"),
    ({"cache_seqlens": LENGTHS[:1]}, ShapeError, r"cache_seqlens: shape \(1,\); wanted \(2\)"),
    ({"cache_seqlens": LENGTHS.float()}, DTypeError, "cache_seqlens: got torch.float32"),
    ({"cache_seqlens": 7}, ShapeError, "sequence 0 has length 7 and 1 new tokens; the cache has room for 7"),
    ({"cache_seqlens": ints(0, -1)}, ShapeError, "sequence 1 has length -1 and 1 new"),
    ({"cache_batch_idx": ints(0, 2)}, ShapeError, "cache_batch_idx: 2 for sequence 1; wanted 0 to 1"),
    ({"cache_leftpad": ints(0, 6)}, ShapeError, "cache_leftpad: 6 for sequence 1; wanted 0 to 5"),
    ({"k": NEW.half(), "v": NEW.half()}, DTypeError, "k: got torch.float16, wanted torch.float32"),
    ({"v_cache": K[:, :5]}, ShapeError, "v_cache: size 5 for S"),
    ({"k_cache": K[:1], "v_cache": K[:1]}, ShapeError, "k_cache: size 1 for B"),
    ({"rotary_cos": torch.ones(9, 8)}, TypeError, "rotary_sin is a NoneType"),
    ({"rotary_cos": torch.ones(9, 9), "rotary_sin": torch.ones(9, 9)}, ShapeError, "rotary_cos: shape .9, 9."),
    ({"rotary_cos": torch.ones(4, 8), "rotary_sin": torch.ones(4, 8)}, ShapeError, "4 positions; the longest .* 5"),
    ({"rotary_cos": torch.ones(9, 8).int(), "rotary_sin": torch.ones(9, 8)}, DTypeError, "rotary_cos: got torch.int32"),
    ({"q": Q[:, :1].clone().requires_grad_()}, UnsupportedSpec, "no backward"),
    ({"q": Q[:, :1].double()}, DTypeError, "q: got torch.float64, wanted one of torch.float32, "),
    ({"softcap": None}, TypeError, "softcap=None"),
]
PAGED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"block_table": TABLE.float()}, DTypeError, "block_table: got torch.float32"),
    ({"block_table": TABLE[0]}, ShapeError, r"block_table: shape \(2,\); wanted \(any, any\)"),
    ({"block_table": TABLE - 1}, ShapeError, "block_table: page -1 of sequence 0 is outside the cache of 4 pages"),
    ({"block_table": TABLE * 2}, ShapeError, "block_table: page 4 of sequence 1 is outside the cache of 4 pages"),
    ({"cache_seqlens": 16}, ShapeError, "sequence 0 has length 16 and 1 new tokens; the cache has room for 16"),
    ({"cache_batch_idx": ints(0, 1)}, UnsupportedSpec, "cache_batch_idx with block_table; wanted block_table"),
]


@pytest.mark.parametrize(("changes", "error", "told"), DENSE)
def test_dense(changes: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        fa.flash_attn_func(**{"q": Q, "k": K, "v": K} | changes)


@pytest.mark.parametrize(("changes", "error", "told"), VARLEN)
def test_varlen(changes: dict[str, Any], error: type[Exception], told: str) -> None:
    given: dict[str, Any] = {"q": Q.flatten(0, 1), "k": K.flatten(0, 1), "v": K.flatten(0, 1)}
    given |= {"cu_seqlens_q": CU_Q, "cu_seqlens_k": CU_K, "max_seqlen_q": 6, "max_seqlen_k": 9}
    with pytest.raises(error, match=told):
        fa.flash_attn_varlen_func(**given | changes)


@pytest.mark.parametrize(("changes", "error", "told"), [*CACHE, *PAGED])
def test_cache(changes: dict[str, Any], error: type[Exception], told: str) -> None:
    is_paged = any(changes is row[0] for row in PAGED)
    cache = (POOL if is_paged else K).clone()
    given = {"q": Q[:, :1], "k_cache": cache, "v_cache": cache, "k": NEW, "v": NEW, "cache_seqlens": LENGTHS}
    given |= {"block_table": TABLE} if is_paged else {}
    with pytest.raises(error, match=told):
        fa.flash_attn_with_kvcache(**given | changes)
    assert not cache.any(), "something was appended"


def test_rotary_needs_new_keys() -> None:
    tables: dict[str, Any] = {"rotary_cos": torch.ones(9, 8), "rotary_sin": torch.ones(9, 8)}
    with pytest.raises(UnsupportedSpec, match="rotary_cos without k"):
        fa.flash_attn_with_kvcache(Q, K, K, cache_seqlens=LENGTHS, **tables)


@pytest.mark.parametrize(
    ("function", "given", "told"),
    [
        (fa.flash_attn_qkvpacked_func, (torch.zeros(2, 5, 2, 4, 16),), r"qkv: shape .* wanted \[B, N, 3, H, D\]"),
        (fa.flash_attn_kvpacked_func, (Q, torch.zeros(2, 5, 3, 2, 16)), r"kv: shape .* wanted \[B, N, 2, Hkv, D\]"),
        (fa.flash_attn_varlen_qkvpacked_func, (torch.zeros(5, 3, 4), CU_Q, 6), r"wanted \[T, 3, H, D\]"),
        (fa.flash_attn_varlen_kvpacked_func, (Q, torch.zeros(5, 4), CU_Q, CU_K, 6, 7), r"wanted \[Tk, 2, Hkv, D\]"),
    ],
)
def test_packed(function, given: tuple[Any, ...], told: str) -> None:
    with pytest.raises(ShapeError, match=told):
        function(*given)


def test_packed_takes_tensors() -> None:
    with pytest.raises(
        TypeError, match=r"flash_attn_kvpacked_func: kv is a tuple; wanted a tensor \[B, N, 2, Hkv, D\]"
    ):
        fa.flash_attn_kvpacked_func(Q, (K, K))  # type: ignore[arg-type]


def test_devices_must_agree() -> None:
    with pytest.raises(DeviceError, match="k: on meta, but q is on cpu"):
        fa.flash_attn_func(Q, K.to("meta"), K)
    with pytest.raises(DeviceError, match="alibi_slopes: on meta"):
        fa.flash_attn_func(Q, K, K, alibi_slopes=torch.zeros(4, device="meta"))
    with pytest.raises(DeviceError, match="cache_seqlens: on meta"):
        fa.flash_attn_with_kvcache(Q, K, K, cache_seqlens=LENGTHS.to("meta"))
