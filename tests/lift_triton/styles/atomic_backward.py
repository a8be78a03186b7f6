"""Backward over blocks of keys in one kernel; dQ is added up atomically in zeroed memory."""

# ruff: noqa: E741  (kernels call a row's sum l)

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def pre(O, DO, D_, N, BM: tl.constexpr, HD: tl.constexpr):
    off = tl.program_id(0) * BM + tl.arange(0, BM)
    hz = tl.program_id(1)
    n = tl.arange(0, HD)
    o = tl.load(O + hz * N * HD + off[:, None] * HD + n[None, :], mask=off[:, None] < N, other=0.0).to(tl.float32)
    do = tl.load(DO + hz * N * HD + off[:, None] * HD + n[None, :], mask=off[:, None] < N, other=0.0).to(tl.float32)
    tl.store(D_ + hz * N + off, tl.sum(o * do, 1), mask=off < N)


@triton.jit
def bwd(Q, K, V, DO, DQ, DK, DV, L, D_, sc, N, BM: tl.constexpr, BN: tl.constexpr, HD: tl.constexpr):
    nb = tl.program_id(0)
    hz = tl.program_id(1)
    base = hz * N * HD
    offs_n = nb * BN + tl.arange(0, BN)
    offs_d = tl.arange(0, HD)
    k = tl.load(K + base + offs_n[:, None] * HD + offs_d[None, :], mask=offs_n[:, None] < N, other=0.0)
    v = tl.load(V + base + offs_n[:, None] * HD + offs_d[None, :], mask=offs_n[:, None] < N, other=0.0)
    dk = tl.zeros([BN, HD], tl.float32)
    dv = tl.zeros([BN, HD], tl.float32)
    lo = (nb * BN) // BM * BM
    for m0 in range(lo, N, BM):
        offs_m = m0 + tl.arange(0, BM)
        inm = offs_m < N
        q = tl.load(Q + base + offs_m[:, None] * HD + offs_d[None, :], mask=inm[:, None], other=0.0)
        do = tl.load(DO + base + offs_m[:, None] * HD + offs_d[None, :], mask=inm[:, None], other=0.0)
        l = tl.load(L + hz * N + offs_m, mask=inm, other=0.0)
        di = tl.load(D_ + hz * N + offs_m, mask=inm, other=0.0)
        s = tl.dot(q, tl.trans(k)) * sc
        keep = (offs_m[:, None] >= offs_n[None, :]) & inm[:, None]
        p = tl.where(keep, tl.exp(s - l[:, None]), 0.0)
        dv += tl.dot(tl.trans(p.to(do.dtype)), do)
        dp = tl.dot(do, tl.trans(v))
        ds = (p * (dp - di[:, None]) * sc).to(q.dtype)
        dk += tl.dot(tl.trans(ds), q)
        dq = tl.dot(ds, k)
        tl.atomic_add(DQ + base + offs_m[:, None] * HD + offs_d[None, :], dq, mask=inm[:, None])
    tl.store(DK + base + offs_n[:, None] * HD + offs_d[None, :], dk.to(DK.dtype.element_ty), mask=offs_n[:, None] < N)
    tl.store(DV + base + offs_n[:, None] * HD + offs_d[None, :], dv.to(DV.dtype.element_ty), mask=offs_n[:, None] < N)


def launch(q, k, v, o, lse, do):
    B, H, N, HD = q.shape
    dq = torch.zeros(q.shape, dtype=torch.float32, device=q.device)
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    delta = torch.empty_like(lse)
    pre[(triton.cdiv(N, 64), B * H)](o, do, delta, N, BM=64, HD=HD)
    bwd[(triton.cdiv(N, 64), B * H)](q, k, v, do, dq, dk, dv, lse, delta, HD**-0.5, N, BM=32, BN=64, HD=HD)
    return dq, dk, dv


def inputs(B=2, H=2, N=150, D=64, dtype=torch.float16):
    make = torch.Generator().manual_seed(0)
    q, k, v, do = (torch.randn(B, H, N, D, generator=make).to(dtype) for _ in range(4))
    s = q.double() @ k.double().transpose(-1, -2) * D**-0.5
    s = s.masked_fill(torch.ones(s.shape[-2:]).triu(1).bool(), float("-inf"))
    return q, k, v, (torch.softmax(s, -1) @ v.double()).to(dtype), torch.logsumexp(s, -1).float(), do


EXAMPLES = [{"B": 2, "H": 3, "N": 192}, {"B": 5, "H": 7, "N": 131}, {"B": 3, "H": 2, "N": 257}]
SMALL = [{"B": 1, "H": 2, "N": 150}]
