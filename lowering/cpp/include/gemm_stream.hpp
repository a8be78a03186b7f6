// Matrix products of a few rows with a right matrix that is read where it lies, once, in no packed copy.
//
// For decoding: the left matrix has so few rows that copying the right one into panels would cost more than the
// product. Where a row of the right matrix is not contiguous or not there, it is packed after all.
#pragma once
#include "gemm.hpp"
#include "stream_lanes.hpp"
#include "stream_tiles.hpp"

namespace tw {

// From how many rows on the tile registers multiply; never where they do not know the type.
constexpr int NEVER = 1 << 30;
template <class E, class T> constexpr int TILED_ROWS = NEVER;
#if defined(__AMX_BF16__)
template <> constexpr int TILED_ROWS<bf16, bf16> = 2;
#endif

// Calls work with the rows of a piece in a form that can be streamed; false where it has none.
template <class T, class Work> bool streamed(const Rows<const T>& b, int, Work work) {
    if (b.column_stride != 1) return false;
    work(Spaced<T>{b.data, b.row_stride});
    return true;
}
template <class T, class Work> bool streamed(const Places<const T>& b, int have, Work work) {
    bool is_whole = b.column_stride == 1 && have > 0;
    for (int n = 0; n < have && is_whole; ++n) is_whole = b.has(n);
    if (is_whole) work(Listed<T>{b.rows, have, 0});
    return is_whole;
}

// c[M][N] = a[M][D] b^T for a right matrix of N rows in the caller's memory, of which `have` exist. The first
// `rows` rows of c are wanted. The left matrix has rows of padded_depth<P>(D) elements. `next`: what is read next.
template <int M, int N, int D, class P, class E, class X, class Next = Nothing>
void multiply_columns(const E* a, const X& b, int have, float* c, int rows, const Next& next = {}) {
    static_assert(M == 16, "few rows");
    constexpr int DEPTH = padded_depth<P>(D);
    const auto stream = [&](const auto& lies) {
        using T = typename std::decay_t<decltype(lies)>::Element;
        if constexpr (TILED_ROWS<E, T> != NEVER)
            if (rows >= TILED_ROWS<E, T>) return tile_dots<N, D, DEPTH>(a, lies, have, c, rows, next);
        stream_dots<N, D, DEPTH>(a, lies, have, c, rows, next);
    };
    if (streamed(b, have, stream)) return;
    alignas(64) E panels[DEPTH * N];
    pack_columns<N, DEPTH>(b, have, D, panels);
    gemm<M, N, DEPTH>(a, panels, c, rows);
}

// c[M][D] = (INTO ? c * scale[row] : 0) + p[M][N] b for a right matrix in the caller's memory.
template <int M, int N, int D, class P, bool INTO, class E, class X, class Next = Nothing>
void multiply_rows(const E* p, const X& b, int have, const float* scale, float* c, int rows, const Next& next = {}) {
    static_assert(M == 16, "few rows");
    constexpr int DEPTH = padded_depth<P>(N), WIDTH = round_up(D, 16);
    const auto stream = [&](const auto& lies) {
        using T = typename std::decay_t<decltype(lies)>::Element;
        if constexpr (TILED_ROWS<E, T> != NEVER)
            if (rows >= TILED_ROWS<E, T>) return tile_sums<D, DEPTH, INTO>(p, lies, have, scale, c, rows, next);
        stream_sums<D, DEPTH, INTO>(p, lies, have, scale, c, rows, next);
    };
    if (streamed(b, have, stream)) return;
    alignas(64) E panels[DEPTH * WIDTH];
    pack_rows<DEPTH, WIDTH>(b, have, D, panels);
    if constexpr (INTO) gemm_into<M, WIDTH, DEPTH>(p, panels, scale, c, rows);
    else gemm<M, WIDTH, DEPTH>(p, panels, c, rows);
}

}  // namespace tw
