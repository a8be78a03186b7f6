"""`flash_attn_func` and `flash_attn_varlen_func`: batches of equal lengths, and sequences that lie end to end."""

from __future__ import annotations

from torch import Tensor

from ...kernels.kernel import wants_gradient
from ..operators import as_operator
from .checks import Sequences, check_tensors, options_of, refuse_training
from .forms import attend
from .pages import packed_pages
from .varlen import check_packed

__all__ = ["Window", "flash_attn_func", "flash_attn_varlen_func"]

Window = tuple[int, int]


@as_operator()
def flash_attn_func(  # noqa: PLR0913 - flash-attn's signature
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """q [B, M, Hq, D], k [B, N, Hkv, D], v [B, N, Hkv, Dv] -> o [B, M, Hq, Dv].

    softmax_scale: 1/sqrt(D) when None. window_size: keys seen to the left and right of the diagonal, -1 for no
    limit. alibi_slopes: float32 [Hq] or [B, Hq], bias -slope * |i + N - M - j|. deterministic: gradients with the
    same bits in every run, as o has anyway. Differentiable by q, k, v and the slopes. Raises UnsupportedSpec,
    TypeError, ShapeError, DTypeError or DeviceError, naming the argument.
    """
    caller = "flash_attn_func"
    refuse_training(caller, dropout_p, return_attn_probs)
    rows = (("q", q, "B M Hq D"), ("k", k, "B N Hkv D"), ("v", v, "B N Hkv Dv"))
    sizes = check_tensors(caller, rows, has_backward=True)
    of = Sequences(caller, sizes["B"], sizes["Hq"], sizes["D"], q.device)
    options = options_of(of, softmax_scale, causal, window_size, softcap, alibi_slopes)
    moved = tuple(tensor.transpose(1, 2) for tensor in (q, k, v))
    tables = options.tables(sizes["B"], q.device)
    if wants_gradient((*moved, *tables.values())):
        layout = "deterministic" if deterministic else "dense"
        return attend(layout, moved, tables, options)[0].transpose(1, 2).contiguous()
    o = q.new_empty((*q.shape[:3], sizes["Dv"]))
    attend("dense", moved, tables, options, out=o.transpose(1, 2))
    return o


@as_operator("max_seqlen_q", "max_seqlen_k")
def flash_attn_varlen_func(  # noqa: PLR0913 - flash-attn's signature
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Tensor:
    """q [Tq, Hq, D], k [Tk, Hkv, D], v [Tk, Hkv, Dv], sequences end to end -> o [Tq, Hq, Dv].

    cu_seqlens_q, cu_seqlens_k: integers [batch + 1], from 0, where each sequence ends. Rows of q after the last
    sequence give 0. block_table [batch, pages]: k and v are then pages [pages, page_size, Hkv, D]. Other
    arguments as in flash_attn_func.
    """
    caller = "flash_attn_varlen_func"
    refuse_training(caller, dropout_p, return_attn_probs)
    key_dims = "Tk Hkv" if block_table is None else "pages page_size Hkv"
    sizes = check_tensors(caller, (("q", q, "Tq Hq D"), ("k", k, f"{key_dims} D"), ("v", v, f"{key_dims} Dv")))
    starts, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    packed = check_packed(caller, (q, k), starts, longest, block_table is not None)
    of = Sequences(caller, len(packed.queries) - 1, sizes["Hq"], sizes["D"], q.device)
    options = options_of(of, softmax_scale, causal, window_size, softcap, alibi_slopes)
    if block_table is not None:
        k, v = packed_pages(caller, k, v, packed.keys, block_table)
    tables = options.tables(of.batch, q.device)
    return attend("ragged", (q, k, v), tables, options, cu_q=cu_seqlens_q, cu_k=cu_seqlens_k)[0]
