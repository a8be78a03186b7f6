"""Every argument of the FlexAttention interface and its state."""

from __future__ import annotations

from ..arguments import REFUSED, WORKS, Argument, rows
from .options import HINTS

__all__ = ["ARGUMENTS"]

INTERFACE = "flex_attention"
HINT = (WORKS, "accepted as a hint, without effect")

_CALL = {
    "query": (WORKS, "[B, Hq, M, D]; float32, bfloat16, float16; any strides; no grad yet"),
    "key": (WORKS, "[B or 1, Hkv, N, D], of the query's type"),
    "value": (WORKS, "[B or 1, Hkv, N, Dv]; Dv may differ from D"),
    "score_mod": (WORKS, "any callable of elementwise PyTorch and table look-ups; what cannot be compiled is refused"),
    "block_mask": (WORKS, "ours or PyTorch's; lengths must be those of query and key, as in PyTorch"),
    "scale": (WORKS, "1/sqrt(D) when None; all other numbers share one kernel"),
    "enable_gqa": (WORKS, "any whole ratio Hq / Hkv"),
    "return_lse": (WORKS, "float32, natural logarithm; -inf for rows that keep nothing"),
    "kernel_options": (WORKS, "the keys below; any other key is refused by name"),
    "return_aux": (WORKS, "the fields of AuxRequest below"),
}
_BLOCK_MASK = {
    "mask_mod": (WORKS, "kept, never evaluated over Q_LEN x KV_LEN"),
    "B": (WORKS, "leading size of the blocks that are reported"),
    "H": (WORKS, "likewise"),
    "Q_LEN": (WORKS, ""),
    "KV_LEN": (WORKS, ""),
    "device": (WORKS, "the accelerator's, else the CPU, when None"),
    "BLOCK_SIZE": (WORKS, "of the blocks that are reported; kernels choose their own tiles"),
    "_compile": (WORKS, "accepted without effect: there is nothing to compile"),
    "separate_full_blocks": (WORKS, "of the blocks that are reported"),
    "compute_dq_write_order": (REFUSED, "the backward orders itself; use_deterministic_algorithms fixes its bits"),
    "dq_kv_order": (WORKS, "accepted without effect: the backward orders itself"),
}
_FROM_BLOCKS = {
    "kv_num_blocks": (WORKS, "[B or 1, H or 1, blocks of queries]"),
    "kv_indices": (WORKS, "checked against the lengths before anything runs; blocks not listed are skipped"),
    "full_kv_num_blocks": (WORKS, "mask_mod is not asked there"),
    "full_kv_indices": (WORKS, "likewise"),
    "BLOCK_SIZE": (WORKS, "any; blocks that tiles divide, or the reverse, are skipped without looking inside"),
    "mask_mod": (WORKS, "asked inside the listed blocks"),
    "seq_lengths": (WORKS, ""),
    "compute_q_blocks": (WORKS, "for those who look at them; kernels do not"),
    "dq_write_order": (WORKS, "accepted without effect: the backward orders itself"),
    "dq_write_order_full": (WORKS, "likewise"),
    "dq_kv_order": (WORKS, "likewise"),
}
_MASK = dict.fromkeys(
    ("mod_fn", "B", "H", "Q_LEN", "KV_LEN", "device"), (WORKS, "PyTorch's own: a dense mask was asked for")
)
_NESTED = {"*": (REFUSED, "nested tensors; compare document ids in a mask_mod instead")}
_AUX = {
    "lse": (WORKS, "as return_lse"),
    "max_scores": (REFUSED, "kernels do not keep the rows' maxima; PyTorch refuses it on the CPU too"),
}

ARGUMENTS: tuple[Argument, ...] = (
    *rows(INTERFACE, "flex_attention", _CALL),
    *rows(INTERFACE, "AuxRequest", _AUX),
    *rows(INTERFACE, "kernel_options", dict.fromkeys(sorted(HINTS), HINT)),
    *rows(INTERFACE, "create_block_mask", _BLOCK_MASK),
    *rows(INTERFACE, "BlockMask.from_kv_blocks", _FROM_BLOCKS),
    *rows(INTERFACE, "create_mask", _MASK),
    *rows(INTERFACE, "create_nested_block_mask", _NESTED),
)
