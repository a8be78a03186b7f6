"""Symbolic masks say what transformers' dense masks say, for every rule, offset and padding, and never form one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")

from transformers import masking_utils as hf

from tilewright.compat.huggingface import SymbolicMask, attention_forward, make_mask
from tilewright.compat.huggingface.rules import Alignment
from tilewright.ir.errors import ShapeError, UnsupportedSpec

BATCH, WINDOW = 2, 5
BLOCKS = torch.tensor([[-1, 0, 0, 0, -1, -1, 1, 1, -1, -1, 2, 2, 2, -1, -1, -1]]).repeat(BATCH, 1)
POSITIONS = torch.cat([torch.arange(9), torch.arange(7)]).repeat(BATCH, 1)
SEQUENCES = (torch.arange(16) >= 9).long().repeat(BATCH, 1)
STARTS = torch.tensor([0, 3])
RULES = {
    "causal": hf.causal_mask_function,
    "everything": hf.bidirectional_mask_function,
    "window": hf.sliding_window_causal_mask_function(WINDOW),
    "window both ways": hf.sliding_window_bidirectional_mask_function(WINDOW),
    "chunks": hf.chunked_causal_mask_function(WINDOW, STARTS),
    "blocks": hf.or_masks(hf.causal_mask_function, hf.blockwise_overlay(BLOCKS)),
    "packed": hf.packed_sequence_compatibility_function(hf.causal_mask_function, POSITIONS, SEQUENCES),
    "custom": hf.and_masks(hf.causal_mask_function, lambda b, h, i, j: (i - j) % 3 == 0),
}
# q_length, kv_length, q_offset, kv_offset
PLACES = {
    "prompt": (16, 16, 0, 0),
    "token": (1, 16, 15, 0),
    "several tokens": (4, 12, 8, 0),
    "static prompt": (6, 16, 0, 0),
    "static token": (1, 16, 9, 0),
    "sliding token": (1, 5, 11, 7),
    "sliding static": (3, 5, 1, 0),
    "sliding piece": (4, 8, 11, 7),
    "rows before keys": (2, 6, 3, 5),
}
LEFT = torch.arange(16) >= torch.tensor([[0], [6]])
PADDINGS = {
    "none": None,
    "all": torch.ones(BATCH, 16, dtype=torch.bool),
    "left": LEFT,
    "right": LEFT.flip(1),
    "short": LEFT[:, :11],
}


def values(mask: SymbolicMask) -> torch.Tensor:
    """The mask's values [B, 1, M, N], from its rule over the keys that can be seen."""
    batch, _, rows, columns = mask.shape
    shapes = ((-1, 1, 1, 1), (1, -1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1))
    index = [torch.arange(n).reshape(s) for n, s in zip((batch, 1, rows, mask.columns), shapes, strict=True)]
    kept = mask.kind.keep(mask.tensors, tuple(index), (rows, mask.columns))
    kept = torch.ones(()) if kept is None else kept
    result = torch.zeros(batch, 1, rows, columns, dtype=torch.bool)
    result[..., : mask.columns] = kept
    return result


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("rule", "place"), [(r, p) for r in RULES for p in PLACES if r != "packed" or p == "prompt"])
def test_a_mask_says_the_same(rule: str, place: str, padding: str) -> None:
    rows, columns, q_offset, kv_offset = PLACES[place]
    options: dict[str, Any] = {"q_offset": q_offset, "kv_offset": kv_offset, "mask_function": RULES[rule]}
    options["attention_mask"] = PADDINGS[padding]
    want = hf.sdpa_mask(BATCH, rows, columns, **options, allow_is_causal_skip=False)
    assert torch.equal(values(make_mask(BATCH, rows, columns, **options)), want.expand(BATCH, 1, rows, columns))


def test_older_versions_give_positions() -> None:
    options: dict[str, Any] = {"kv_length": 16, "kv_offset": 0, "mask_function": hf.causal_mask_function}
    old = make_mask(BATCH, cache_position=torch.arange(8, 12), **options)
    assert torch.equal(values(old), hf.sdpa_mask(BATCH, 4, 16, 8, allow_is_causal_skip=False))


def test_prompt_and_tokens_share_a_kind() -> None:
    """A cache that grows, static or not, stays with the kernels that it has."""
    for function in (hf.causal_mask_function, RULES["window"], RULES["chunks"]):
        places = [(8, 8, 0, 0), (1, 9, 8, 0), (1, 32, 9, 0), (3, 32, 9, 0), (1, 5, 20, 16)]
        masks = [
            make_mask(1, rows, columns, q_offset=q, kv_offset=k, mask_function=function)
            for rows, columns, q, k in places
        ]
        assert {mask.kind for mask in masks} == {masks[0].kind}
        assert masks[0].kind.alignment is Alignment.END
    assert masks[0].kind is not make_mask(1, 8, 8, mask_function=hf.causal_mask_function).kind


def test_new_tensors_are_the_same_kind() -> None:
    one, other = (
        make_mask(2, 16, 16, mask_function=hf.and_masks(hf.causal_mask_function, hf.blockwise_overlay(ids)))
        for ids in (BLOCKS, BLOCKS + 1)
    )
    assert one.kind is other.kind
    assert not torch.equal(values(one), values(other))


def test_nothing_of_its_size_is_formed() -> None:
    mask = make_mask(1, 1 << 20, 1 << 20, mask_function=RULES["window"])
    assert mask.shape == (1, 1, 1 << 20, 1 << 20)
    assert mask.dtype is torch.bool


def test_a_static_cache_moves_on_in_place() -> None:
    seen = torch.tensor(3)
    mask = make_mask(1, 1, 16, q_offset=seen, mask_function=hf.causal_mask_function)
    seen.add_(5)
    assert mask.columns == 4


def test_what_models_do_with_masks_on_the_way() -> None:
    mask = make_mask(2, 3, 16, q_offset=7, mask_function=hf.causal_mask_function, attention_mask=LEFT)
    for same in (mask[:, :, :, :12], mask[..., :16], mask.to("cpu"), mask.to(torch.bool), mask.detach(), mask.clone()):
        assert isinstance(same, SymbolicMask)
        assert torch.equal(values(same), values(mask)[..., : same.shape[3]])
    assert "causal_mask_function" in repr(mask)


COMPUTING: dict[str, Callable[[torch.Tensor], Any]] = {
    "add": lambda mask: torch.zeros(3, 16) + mask,
    "where": lambda mask: torch.where(mask, 0.0, 1.0),
    "not": lambda mask: ~mask,
    "float": lambda mask: mask.float(),
    "rows": lambda mask: mask[:, :, :2],
    "item": lambda mask: mask[0, 0, 0, 0].item(),
    "reshape": lambda mask: mask.expand(2, 4, 3, 16),
}


@pytest.mark.parametrize("how", COMPUTING)
def test_a_model_that_computes_with_its_mask_is_refused(how: str) -> None:
    mask = make_mask(2, 3, 16, q_offset=7, mask_function=hf.causal_mask_function)
    with pytest.raises(UnsupportedSpec, match="computes with its attention mask"):
        COMPUTING[how](mask)


def test_a_mask_is_not_cut_below_what_its_rows_see() -> None:
    with pytest.raises(ShapeError, match="cut to 5 keys, but its rows see 10"):
        make_mask(2, 3, 16, q_offset=7, mask_function=hf.causal_mask_function)[..., :5]


def test_custom_functions_hold_for_index_tensors() -> None:
    table = torch.arange(16) % 3
    good = hf.and_masks(hf.causal_mask_function, lambda b, h, i, j: table[i] == table[j])
    mask = make_mask(1, 16, 16, mask_function=good, use_vmap=True)
    assert torch.equal(values(mask), hf.sdpa_mask(1, 16, 16, mask_function=good, allow_is_causal_skip=False))
    rows = torch.rand(16, 16) > 0.5
    other = hf.and_masks(hf.causal_mask_function, lambda b, h, i, j: rows[i][j])
    hf.sdpa_mask(1, 16, 16, mask_function=other, use_vmap=True)
    with pytest.raises(UnsupportedSpec, match="index tensors"):
        make_mask(1, 16, 16, mask_function=other, use_vmap=True)


def test_kernels_are_verified_and_shared() -> None:
    """One kernel, verified when it is made, for a prompt and what follows; a cache's unseen keys are not read."""
    mask = make_mask(1, 6, 16, mask_function=RULES["window"])
    q, k = torch.randn(1, 2, 6, 8), torch.full((1, 1, 16, 8), float("nan"))
    k[:, :, :6] = torch.randn(1, 1, 6, 8)
    o, weights = attention_forward(torch.nn.Module(), q, k, k, mask, scaling=0.3)
    assert weights is None
    dense = hf.sdpa_mask(1, 6, 6, mask_function=RULES["window"], allow_is_causal_skip=False)
    seen = k[:, :, :6]
    want = F.scaled_dot_product_attention(q, seen, seen, dense, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(o.transpose(1, 2), want)
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, k, attn_mask=mask, scale=0.3), want)
    later = make_mask(1, 1, 16, q_offset=6, mask_function=RULES["window"])
    attention_forward(torch.nn.Module(), q[:, :, :1], k, k, later, scaling=0.3)
    (kernel,) = (made for variant, made in mask.kind.kernels.items() if variant.scaling == 0.3)
    assert kernel.report is not None
    assert kernel.report.verified
