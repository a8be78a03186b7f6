"""What becomes of every argument that transformers passes to its attention and mask functions."""

from __future__ import annotations

from ..arguments import REFUSED, WORKS, Argument, rows

__all__ = ["ARGUMENTS", "NOT_HONOURED"]

USE_SDPA = "use attn_implementation='sdpa' or 'eager' for it"
PACKED = "packed sequences are told by position_ids that start anew at 0, without attention_mask and cache"

# Keyword arguments that would change the result and cannot be honoured, and what to do.
NOT_HONOURED = {
    "output_attentions": "no kernel forms the attention weights; use attn_implementation='eager' to look at them",
    "head_mask": "heads are not weighted; scale the columns of the output projection instead",
    "cu_seq_lens_q": PACKED,
    "cu_seq_lens_k": PACKED,
    "seq_idx": PACKED,
    "cache": f"continuous batching keeps its keys in pages; {USE_SDPA}",
    "indices": f"sparse attention over chosen keys; {USE_SDPA}",
    "block_indices": f"sparse attention over chosen blocks; {USE_SDPA}",
    "sinks": "pass the logits per head as s_aux",
}

_ATTENTION = {
    "module": (WORKS, "asked for is_causal where there is neither a mask nor the argument"),
    "query": (WORKS, "[B, Hq, M, D], float32, bfloat16 or float16; refused where a gradient is wanted"),
    "key": (WORKS, "[B, Hkv, N, D], Hq a multiple of Hkv; keys of a static cache that no row sees are not read"),
    "value": (WORKS, "[B, Hkv, N, Dv], Dv may differ from D"),
    "attention_mask": (WORKS, "the symbolic mask of the mask function; a dense one, bool or added; None"),
    "dropout": (REFUSED, "unless 0: attention weights are not dropped; model.eval(), or attention_dropout=0.0"),
    "scaling": (WORKS, "1/sqrt(D) when None"),
    "is_causal": (WORKS, "read when attention_mask is None; then M = N, or every row sees every key"),
    "sliding_window": (WORKS, "part of the mask; read when attention_mask is None"),
    "softcap": (WORKS, ""),
    "s_aux": (WORKS, "a sink per head [Hq]"),
    "position_bias": (WORKS, "[B or 1, Hq or 1, M or 1, N or 1], added before the mask"),
    **{name: (REFUSED, f"unless None: {instead}") for name, instead in NOT_HONOURED.items()},
    "position_ids": (WORKS, "part of the mask: the mask function has seen them"),
    "max_length_q": (WORKS, "sizes of tensors say it"),
    "max_length_k": (WORKS, "sizes of tensors say it"),
    "deterministic": (WORKS, "not read: the forward always is, gradients are under use_deterministic_algorithms"),
    "other keyword arguments": (WORKS, "not read, as in transformers' eager attention"),
}
_MASK = {
    "batch_size": (WORKS, ""),
    "q_length": (WORKS, "any length with one kernel"),
    "kv_length": (WORKS, "any length with one kernel"),
    "q_offset": (WORKS, "a number, or a static cache's tensor, read when the mask is made"),
    "kv_offset": (WORKS, ""),
    "cache_position": (WORKS, "of versions without q_length and q_offset: its length and first element"),
    "mask_function": (WORKS, "any composition of transformers' own, and custom ones that hold for index tensors"),
    "attention_mask": (WORKS, "padding [B, positions], left, right or in between"),
    "use_vmap": (WORKS, "custom functions: checked on a few points, refused where index tensors give another mask"),
    "local_size": (WORKS, "part of mask_function"),
    "allow_is_causal_skip": (WORKS, "there is nothing to skip: no mask is ever formed"),
    "allow_is_bidirectional_skip": (WORKS, "there is nothing to skip: no mask is ever formed"),
    "dtype": (WORKS, "not read: the mask has no values"),
    "config": (WORKS, "not read"),
    "device": (WORKS, ""),
}

ARGUMENTS: tuple[Argument, ...] = (
    *rows("huggingface", "attention", _ATTENTION),
    *rows("huggingface", "mask", _MASK),
)
