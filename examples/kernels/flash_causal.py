"""An expert's kernel to lift: causal attention in Triton, whole tiles of keys first, then those on the diagonal."""

import torch
import triton
import triton.language as tl


@triton.jit
def _attend(acc, m_i, l_i, q, K, V, stride_n, lo, hi, length, offs_m, scale, MASK: tl.constexpr, BN: tl.constexpr):
    """Keys lo to hi for one tile of rows."""
    for start in range(lo, hi, BN):
        offs_n = start + tl.arange(0, BN)
        dims = tl.arange(0, q.shape[1])
        rows = offs_n[:, None] * stride_n + dims[None, :]
        k = tl.load(K + rows, mask=offs_n[:, None] < length, other=0.0)
        qk = tl.dot(q, tl.trans(k)) * scale
        if MASK:
            qk = tl.where((offs_m[:, None] >= offs_n[None, :]) & (offs_n[None, :] < length), qk, float("-inf"))
        m_new = tl.maximum(m_i, tl.max(qk, 1))
        p = tl.exp2(qk - m_new[:, None])
        alpha = tl.exp2(m_i - m_new)
        v = tl.load(V + rows, mask=offs_n[:, None] < length, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None])
        l_i = l_i * alpha + tl.sum(p, 1)
        m_i = m_new
    return acc, m_i, l_i


@triton.jit
def flash_causal_kernel(
    Q, K, V, Out, Lse, stride_b, stride_h, stride_n, heads, length, scale,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One tile of BM rows of one head."""
    tile, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    base = batch.to(tl.int64) * stride_b + head * stride_h
    offs_m = tile * BM + tl.arange(0, BM)
    rows = base + offs_m[:, None] * stride_n + tl.arange(0, D)[None, :]
    q = tl.load(Q + rows, mask=offs_m[:, None] < length, other=0.0)
    acc = tl.zeros([BM, D], tl.float32)
    m_i = tl.full([BM], float("-inf"), tl.float32)
    l_i = tl.zeros([BM], tl.float32)
    qk_scale = scale * 1.4426950408889634
    first = tile * BM
    last = tl.minimum(first + BM, length)
    acc, m_i, l_i = _attend(
        acc, m_i, l_i, q, K + base, V + base, stride_n, 0, first, length, offs_m, qk_scale, MASK=False, BN=BN
    )
    acc, m_i, l_i = _attend(
        acc, m_i, l_i, q, K + base, V + base, stride_n, first, last, length, offs_m, qk_scale, MASK=True, BN=BN
    )
    tl.store(Out + rows, (acc / l_i[:, None]).to(Out.dtype.element_ty), mask=offs_m[:, None] < length)
    lse = (m_i + tl.log2(l_i)) * 0.6931471805599453
    tl.store(Lse + (batch * heads + head) * length + offs_m, lse, mask=offs_m < length)


def flash_causal(q, k, v):
    """Causal attention of q, k, v [B, H, N, D], contiguous: o, and lse [B, H, N]."""
    batch, heads, length, dim = q.shape
    o = torch.empty_like(q)
    lse = torch.empty(batch, heads, length, dtype=torch.float32, device=q.device)
    flash_causal_kernel[(triton.cdiv(length, 128), heads, batch)](
        q, k, v, o, lse, q.stride(0), q.stride(1), q.stride(2), heads, length, dim**-0.5,
        BM=128, BN=64, D=dim, num_warps=8, num_stages=3,
    )  # fmt: skip
    return o, lse


def inputs(B=2, H=3, N=200, D=64):
    """q, k, v of any sizes; lifting varies them to learn what every number of a launch is."""
    return tuple(torch.randn(B, H, N, D).to(torch.bfloat16) for _ in range(3))
