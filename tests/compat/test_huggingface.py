"""Models of transformers compute and generate the same with attn_implementation="tilewright" as with eager."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from tilewright.bench import smollm2
from tilewright.compat import huggingface
from tilewright.compat.huggingface import kernels
from tilewright.kernels import specialisers
from tilewright.kernels.options import Options

from . import hf_models
from .hf_models import CLIP, DECODERS, ENCODERS, SPEECH, TWO_SIDED, VIT, Architecture, load, ragged, worst

NEW_TOKENS = 10


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """Models are compared here, so kernels are not verified one by one as well; that they are is tested with the masks."""
    huggingface.register()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "Options", functools.partial(Options, verify=False))
        yield


def generated(model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **options}
    tokens: list[list[int]] = model.generate(**inputs, **options).tolist()
    return tokens


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_a_decoder(architecture: Architecture) -> None:
    pair = load(architecture)
    inputs = ragged()
    for padded in (inputs, ragged(left=False)):
        error, budget = worst(pair, padded["attention_mask"].bool(), **padded)
        assert error <= budget
    want = generated(pair.eager, inputs)
    assert len({tuple(row) for row in want}) > 1
    assert generated(pair.ours, inputs) == want
    assert generated(pair.ours, inputs, cache_implementation="static") == want


@pytest.mark.parametrize("architecture", TWO_SIDED, ids=str)
def test_an_encoder_and_decoder(architecture: Architecture) -> None:
    pair = load(architecture)
    for padded in (ragged(left=False), ragged()):
        error, budget = worst(pair, **padded, decoder_input_ids=ragged((7, 7))["input_ids"])
        assert error <= budget
        assert generated(pair.ours, padded) == generated(pair.eager, padded)
    assert generated(pair.ours, padded, cache_implementation="static") == generated(pair.eager, padded)


@pytest.mark.parametrize("architecture", ENCODERS, ids=str)
def test_an_encoder(architecture: Architecture) -> None:
    pair = load(architecture)
    for padded in (ragged((33, 21), left=False), ragged((33, 33))):
        error, budget = worst(pair, padded["attention_mask"].bool(), **padded)
        assert error <= budget


def test_images() -> None:
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    error, budget = worst(load(VIT), pixel_values=pixels)
    assert error <= budget
    pair = load(CLIP)
    for output in ("logits_per_image", "logits_per_text"):
        error, budget = worst(pair, output=output, pixel_values=pixels, **ragged(left=False))
        assert error <= budget


@pytest.mark.slow
def test_speech() -> None:
    pair = load(SPEECH)
    features = torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(3))
    error, budget = worst(pair, input_features=features, decoder_input_ids=ragged((7, 7))["input_ids"])
    assert error <= budget
    assert generated(pair.ours, {"input_features": features}) == generated(pair.eager, {"input_features": features})


@pytest.fixture(scope="module")
def llama() -> hf_models.Pair:
    return load(DECODERS[0])


def test_whole_rows(llama: hf_models.Pair) -> None:
    error, budget = worst(llama, input_ids=ragged()["input_ids"])
    assert error <= budget


@pytest.mark.parametrize(
    "options", [{"num_beams": 3}, {"use_cache": False}, {"num_beams": 2, "num_return_sequences": 2}], ids=str
)
def test_ways_to_generate(llama: hf_models.Pair, options: dict[str, Any]) -> None:
    inputs = ragged((9, 5))
    assert generated(llama.ours, inputs, **options) == generated(llama.eager, inputs, **options)


def test_a_prompt_in_pieces(llama: hf_models.Pair) -> None:
    """A cache that has seen tokens, then several at once: rows start after the cached keys."""
    tokens = ragged((17, 17))["input_ids"]
    with torch.no_grad():
        cache = llama.ours(tokens[:, :6], use_cache=True).past_key_values
        parts = llama.ours(tokens[:, 6:], past_key_values=cache).logits
        whole = llama.ours(tokens).logits[:, 6:]
    torch.testing.assert_close(parts, whole)


def test_packed_sequences(llama: hf_models.Pair) -> None:
    """Two texts in one row, told by positions that start anew: each computes as if it were alone."""
    tokens = ragged((17,))["input_ids"]
    positions = torch.cat([torch.arange(10), torch.arange(7)])[None]
    error, budget = worst(llama, input_ids=tokens, position_ids=positions)
    assert error <= budget
    with torch.no_grad():
        packed = llama.ours(tokens, position_ids=positions, use_cache=False).logits[:, 10:]
        torch.testing.assert_close(packed, llama.ours(tokens[:, 10:]).logits)


@pytest.mark.parametrize("additive", [False, True])
def test_a_mask_that_the_user_made(llama: hf_models.Pair, additive: bool) -> None:
    tokens = ragged((17, 17))["input_ids"]
    position = torch.arange(17)
    mask = (position[:, None] >= position) & ((position < 4) | (position[:, None] - position < 3))
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min).expand(2, 1, 17, 17)
    with torch.no_grad():
        want = llama.eager(tokens, attention_mask=added).logits
        got = llama.ours(tokens, attention_mask=added if additive else mask.expand(2, 1, 17, 17)).logits
    torch.testing.assert_close(got, want)


def test_lengths_share_their_kernels(llama: hf_models.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of many lengths, padded on either side, and their tokens: nothing is traced again."""
    generated(llama.ours, ragged())
    generated(llama.ours, ragged((9, 9)))
    traced: list[object] = []
    trace = specialisers.trace

    def counted(function: Callable[..., Any], *rest: Any) -> Any:
        traced.append(function)
        return trace(function, *rest)

    monkeypatch.setattr(specialisers, "trace", counted)
    for length in (2, 7, 16, 33, 60):
        for inputs in (
            ragged((length, length // 2)),
            ragged((length, length)),
            ragged((length, length // 2), left=False),
        ):
            with torch.no_grad():
                llama.ours(**inputs)
            generated(llama.ours, inputs, cache_implementation="static")
    assert traced == []


def test_real_weights() -> None:
    """SmolLM2-135M-Instruct goes on token for token as with eager."""
    model = smollm2.load_smollm2()
    prompt = model.encode("<|im_start|>user\nName three colours of the rainbow.<|im_end|>\n<|im_start|>assistant\n")
    model.model.set_attn_implementation("eager")
    want = generated(model.model, {"input_ids": prompt}, max_new_tokens=12)
    model.model.set_attn_implementation("tilewright")
    assert generated(model.model, {"input_ids": prompt}, max_new_tokens=12) == want
    assert "Red" in model.decode(torch.tensor(want[0]))


def test_training_gives_the_models_own_gradients() -> None:
    """A Llama-shaped model in training mode: every parameter's gradient as with eager attention."""
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=97,
    )  # fmt: skip
    tokens = torch.randint(0, 97, (2, 33), generator=torch.Generator().manual_seed(1))
    found = {}
    for implementation in ("eager", "tilewright"):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation=implementation).train()
        model(input_ids=tokens, labels=tokens).loss.backward()
        found[implementation] = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, wanted in found["eager"].items():
        torch.testing.assert_close(found["tilewright"][name], wanted, rtol=1e-4, atol=1e-6, msg=lambda t, n=name: f"{n}: {t}")
