"""Every argument of flash-attn's functions and its state."""

from __future__ import annotations

from ..arguments import REFUSED, WORKS, Argument, rows

__all__ = ["ARGUMENTS"]

INTERFACE = "flash_attn"
LIKE = (WORKS, "as in flash_attn_func")
NO_WEIGHTS = (REFUSED, "weights are never in memory; flash_attn_with_kvcache and tilewright.attention return lse")

_OPTIONS = {
    "dropout_p": (REFUSED, "0.0 only; tilewright.dropout in a function for tilewright.compile drops weights"),
    "softmax_scale": (WORKS, "1/sqrt(D) when None; all other numbers share one kernel"),
    "causal": (WORKS, "aligned to the bottom right, as in flash-attn since 2.1"),
    "window_size": (WORKS, "negative for no limit; all windows share one kernel"),
    "softcap": (WORKS, "0.0 for none; all caps share one kernel"),
    "alibi_slopes": (WORKS, "float32 [H] or [B, H]; bias -slope * |i + N - M - j| also where causal"),
    "deterministic": (WORKS, "gradients with the same bits in every run; the forward always has them"),
    "return_attn_probs": NO_WEIGHTS,
}
_LIKE_DENSE = {name: state if state[0] == REFUSED else LIKE for name, state in _OPTIONS.items()}
_CU_SEQLENS = (WORKS, "int32 or int64 [batch + 1], ascending from 0; on a GPU read once per tensor and version")
_MAX_SEQLEN = (WORKS, "refused where it is less than the longest sequence; kernels do not need it")

_DENSE = {
    "q": (WORKS, "[B, M, Hq, D]; float32, bfloat16, float16; any strides; differentiable, not yet in torch.compile"),
    "k": (WORKS, "[B, N, Hkv, D]; any whole ratio Hq / Hkv"),
    "v": (WORKS, "[B, N, Hkv, Dv]; Dv may differ from D"),
}
_ENDS = {
    "cu_seqlens_q": _CU_SEQLENS,
    "cu_seqlens_k": _CU_SEQLENS,
    "max_seqlen_q": _MAX_SEQLEN,
    "max_seqlen_k": _MAX_SEQLEN,
}
_VARLEN = {
    "q": (WORKS, "[Tq, Hq, D]; rows after the last sequence give 0; no grad yet"),
    "k": (WORKS, "[Tk, Hkv, D], or pages [pages, page_size, Hkv, D] with block_table"),
    "v": (WORKS, "[Tk, Hkv, Dv], or pages likewise"),
}
_PAGES = (WORKS, "int32 or int64 [batch, pages]; any page size; entries that are used are checked")
_CACHE = {
    "q": (WORKS, "[B, M, Hq, D]"),
    "k_cache": (WORKS, "[B, S, Hkv, D], or pages [pages, page_size, Hkv, D] with block_table; written in place"),
    "v_cache": (WORKS, "likewise, Dv may differ from D"),
    "k": (WORKS, "[B, new, Hkv, D]; any number of new tokens"),
    "v": (WORKS, "[B, new, Hkv, Dv]"),
    "rotary_cos": (WORKS, "[positions, rotated / 2], q's type or float32; needs k, as in flash-attn; plain PyTorch"),
    "rotary_sin": (WORKS, "likewise"),
    "cache_seqlens": (WORKS, "an integer, or int32 or int64 [B]; on a GPU read once per tensor and version"),
    "cache_batch_idx": (WORKS, "[B]; not with block_table: index the table instead"),
    "cache_leftpad": (WORKS, "[B]; with block_table too"),
    "block_table": _PAGES,
    "softmax_scale": LIKE,
    "causal": LIKE,
    "window_size": LIKE,
    "softcap": LIKE,
    "rotary_interleaved": (WORKS, "neighbouring pairs when True, halves when False"),
    "alibi_slopes": LIKE,
    "num_splits": (WORKS, "ignored: splits depend on shapes alone, so that bits never depend on the batch"),
    "return_softmax_lse": (WORKS, "float32 [B, Hq, M], natural logarithm; -inf for rows that see nothing"),
}

ARGUMENTS: tuple[Argument, ...] = (
    *rows(INTERFACE, "flash_attn_func", _DENSE | _OPTIONS),
    *rows(INTERFACE, "flash_attn_qkvpacked_func", {"qkv": (WORKS, "[B, N, 3, H, D]")} | _LIKE_DENSE),
    *rows(INTERFACE, "flash_attn_kvpacked_func", {"q": LIKE, "kv": (WORKS, "[B, N, 2, Hkv, D]")} | _LIKE_DENSE),
    *rows(INTERFACE, "flash_attn_varlen_func", _VARLEN | _ENDS | _LIKE_DENSE | {"block_table": _PAGES}),
    *rows(
        INTERFACE,
        "flash_attn_varlen_qkvpacked_func",
        {"qkv": (WORKS, "[T, 3, H, D]"), "cu_seqlens": _CU_SEQLENS, "max_seqlen": _MAX_SEQLEN} | _LIKE_DENSE,
    ),
    *rows(
        INTERFACE,
        "flash_attn_varlen_kvpacked_func",
        {"q": _VARLEN["q"], "kv": (WORKS, "[Tk, 2, Hkv, D]")} | _ENDS | _LIKE_DENSE,
    ),
    *rows(INTERFACE, "flash_attn_with_kvcache", _CACHE),
)
