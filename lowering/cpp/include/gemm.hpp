// The two matrix products of attention on one tile, in the fastest form the instruction set has.
#pragma once
#include <algorithm>
#include "gemm_lanes.hpp"
#include "gemm_tiles.hpp"

namespace tw {

// What a matrix operand of stored type T is multiplied as: f16 as float everywhere, bf16 as bf16 only
// where there is an instruction for it. DEPTH is what the inner dimension is zero-padded to a multiple of.
template <class T> struct Operand { using type = float; static constexpr int depth = 1; };
#if defined(__AMX_BF16__)
template <> struct Operand<bf16> { using type = bf16; static constexpr int depth = 32; };
#elif defined(__AVX512BF16__) && defined(__AVX512F__)
template <> struct Operand<bf16> { using type = bf16; static constexpr int depth = 2; };
#endif
template <class T> using operand = typename Operand<T>::type;
template <class T> constexpr int padded_depth(int d) { return round_up(d, Operand<T>::depth); }

// c = a b, for row-major a [M][K] and c [M][N], and b [K][N] packed in panels (pack.hpp). With `rows`, only
// the first rows of c are wanted; the others hold anything.
template <int M, int N, int K> void gemm(const float* a, const float* b, float* c, int rows = M) {
    panels<M, N, K, FROM_ZERO>(a, b, nullptr, c, rows);
}

// c = c * scale + a b, with one factor per row of c.
template <int M, int N, int K>
void gemm_into(const float* a, const float* b, const float* scale, float* c, int rows = M) {
    panels<M, N, K, SCALED>(a, b, scale, c, rows);
}

// c = c + a b.
template <int M, int N, int K> void gemm_add(const float* a, const float* b, float* c, int rows = M) {
    panels<M, N, K, ADDED>(a, b, nullptr, c, rows);
}

// The same with operands that lie as L says: the right one in plain rows, or packed in panels.
template <int M, int N, int K, Start START, class L>
void gemm_plain(const float* a, const float* b, const float* scale, float* c, int rows) {
    plain_panels<M, N, K, START, L>(a, b, scale, c, rows);
}
template <int M, int N, int K, Start START, class L>
void gemm_packed(const float* a, const float* b, const float* scale, float* c, int rows) {
    packed_panels<M, N, K, START, L>(a, b, scale, c, rows);
}

// Rows of a left operand that its products read along: those that do not exist must be zero.
template <int K, class E> void clear_rows(E* tile, int rows, int stride) {
    if (rows < K) std::fill(tile + rows * stride, tile + K * stride, E(0.0f));
}

#if defined(__AMX_BF16__)
template <int M, int N, int K> void gemm(const bf16* a, const bf16* b, float* c, int rows = M) {
    tile_panels<M, N, K, false>(a, b, c, rows);
}
template <int M, int N, int K>
void gemm_into(const bf16* a, const bf16* b, const float* scale, float* c, int rows = M) {
    scale_rows<M, N>(scale, c, rows);
    tile_panels<M, N, K, true>(a, b, c, rows);
}
template <int M, int N, int K> void gemm_add(const bf16* a, const bf16* b, float* c, int rows = M) {
    tile_panels<M, N, K, true>(a, b, c, rows);
}
#elif defined(__AVX512BF16__) && defined(__AVX512F__)
template <int M, int N, int K> void gemm(const bf16* a, const bf16* b, float* c, int rows = M) {
    panels<M, N, K, FROM_ZERO>(a, b, nullptr, c, rows);
}
template <int M, int N, int K>
void gemm_into(const bf16* a, const bf16* b, const float* scale, float* c, int rows = M) {
    panels<M, N, K, SCALED>(a, b, scale, c, rows);
}
template <int M, int N, int K> void gemm_add(const bf16* a, const bf16* b, float* c, int rows = M) {
    panels<M, N, K, ADDED>(a, b, nullptr, c, rows);
}
#endif

}  // namespace tw
