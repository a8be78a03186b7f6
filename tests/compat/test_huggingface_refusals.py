"""What the Hugging Face interface cannot honour is refused by name, with what to do, before anything is compiled."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from torch.nn.attention.flex_attention import create_block_mask
from transformers import masking_utils as hf

from tilewright.compat import huggingface
from tilewright.compat.huggingface import ARGUMENTS, attention_forward, make_mask
from tilewright.compat.huggingface.arguments import NOT_HONOURED
from tilewright.ir.errors import DTypeError, MissingExtra, ShapeError, TilewrightError, UnsupportedSpec

from .hf_models import TEXT

ROWS, KEYS = 3, 9


def call(mask: Any = None, rows: int = ROWS, **options: Any) -> torch.Tensor:
    q, k = torch.zeros(1, 4, rows, 16), torch.zeros(1, 2, KEYS, 16)
    return attention_forward(torch.nn.Module().eval(), q, k, k, mask, **options)[0]


@pytest.mark.parametrize("name", NOT_HONOURED)
def test_an_argument_that_would_change_the_result(name: str) -> None:
    with pytest.raises(UnsupportedSpec, match=name):
        call(make_mask(1, ROWS, KEYS, 6), **{name: torch.ones(2)})


def refused(**options: Any) -> dict[str, Any]:
    return options


@pytest.mark.parametrize(
    ("error", "told", "options"),
    [
        (UnsupportedSpec, "dropout=0.1", refused(dropout=0.1)),
        (UnsupportedSpec, "attention_mask=None with is_causal, M=3 and N=9", refused()),
        (UnsupportedSpec, "sliding_window=4 with attention_mask=None", refused(is_causal=False, sliding_window=4)),
        (ShapeError, r"rank 2, shape \(1, 9\)", refused(mask=torch.ones(1, KEYS))),
        (ShapeError, "5 keys, and key has N=9", refused(mask=torch.ones(1, 1, ROWS, 5))),
        (DTypeError, "attention_mask: got torch.int64", refused(mask=torch.ones(1, 1, ROWS, KEYS).long())),
        (UnsupportedSpec, "attention_mask of type dict", refused(mask={"full_attention": None})),
        (ShapeError, "attention_mask is for 20 keys, and key has N=9", refused(mask=make_mask(1, ROWS, 20, 17))),
    ],
    ids=str,
)
def test_bad_calls(error: type[TilewrightError], told: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=told):
        call(**options)


def test_a_block_mask() -> None:
    mask = create_block_mask(lambda b, h, i, j: j <= i, None, None, ROWS, KEYS, device="cpu")
    with pytest.raises(UnsupportedSpec, match="BlockMask"):
        call(mask)


def test_dropped_weights_are_refused() -> None:
    import transformers

    huggingface.register()
    config = transformers.LlamaConfig(**TEXT, attention_dropout=0.5)
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="tilewright")
    tokens = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(UnsupportedSpec, match=r"dropout=0.5(?s:.*)model.eval"):
        model.train()(tokens)
    model.eval()(tokens).logits.sum().backward()


def test_falcon_with_biases_in_its_mask() -> None:
    import transformers

    huggingface.register()
    config = transformers.FalconConfig(**TEXT, alibi=True)
    with pytest.raises(UnsupportedSpec, match="alibi"):
        transformers.FalconForCausalLM._from_config(config, attn_implementation="tilewright")


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"tilewright\[hf\]"):
        huggingface.register()


def test_every_argument_has_a_state() -> None:
    import inspect

    listed = {(row.function, row.name) for row in ARGUMENTS}
    assert len(listed) == len(ARGUMENTS)
    for function, called in (
        ("attention", attention_forward),
        ("mask", make_mask),
        ("mask", hf.sdpa_mask),
        ("mask", hf.eager_mask),
    ):
        names = [p.name for p in inspect.signature(called).parameters.values() if p.kind is not p.VAR_KEYWORD]
        assert [name for name in names if (function, name) not in listed] == []
