// Matrix products of one tile in AMX: blocks of up to 2 x 2 tiles of 16 x 16 sums, 32 bf16 deep.
#pragma once
#include <type_traits>
#include "amx.hpp"
#include "gemm_lanes.hpp"

namespace tw {

#if defined(__AMX_BF16__)

template <int T> using Tile = std::integral_constant<int, T>;

// One block of ROWS x COLS tiles (1 or 2 each): sums in tiles 0..3, left in 4, 5, right in 6, 7.
// The sums stay in their tiles: the previous block's, which belong at `waiting`, are stored while this
// block's products run, which keeps the multiplier busy.
template <int ROWS, int COLS, int K, bool INTO>
inline void tile_block(const bf16* a, const bf16* b, int columns, float* c, int ldc, float* waiting) {
    const long left = K * sizeof(bf16), right = columns * 2 * sizeof(bf16), out = ldc * sizeof(float);
    auto begin = [&](auto t) {
        const long at = t / 2 * 16 * ldc + t % 2 * 16;
        if (waiting) tile_store<t>(waiting + at, out);
        if constexpr (INTO) tile_load<t>(c + at, out);
        else tile_zero<t>();
    };
    TW_UNROLL for (int k = 0; k < K; k += 32) {
        const bf16* pairs = b + k * columns;
        tile_stream<6>(pairs, right);
        tile_load<4>(a + k, left);
        if (k == 0) begin(Tile<0>());
        tile_dot<0, 4, 6>();
        if constexpr (COLS == 2) {
            tile_stream<7>(pairs + 32, right);
            if (k == 0) begin(Tile<1>());
            tile_dot<1, 4, 7>();
        }
        if constexpr (ROWS == 2) {
            tile_load<5>(a + 16 * K + k, left);
            if (k == 0) begin(Tile<2>());
            tile_dot<2, 5, 6>();
        }
        if constexpr (ROWS == 2 && COLS == 2) {
            if (k == 0) begin(Tile<3>());
            tile_dot<3, 5, 7>();
        }
    }
}

// Stores the sums of the last block.
template <int ROWS, int COLS> inline void tile_flush(float* c, int ldc) {
    const long out = ldc * sizeof(float);
    tile_store<0>(c, out);
    if constexpr (COLS == 2) tile_store<1>(c + 16, out);
    if constexpr (ROWS == 2) tile_store<2>(c + 16 * ldc, out);
    if constexpr (ROWS == 2 && COLS == 2) tile_store<3>(c + 16 * ldc + 16, out);
}

// All blocks of one shape that hold the first `rows` rows and N columns; the right matrix is a panel of
// `columns`.
template <int ROWS, int COLS, int N, int K, bool INTO>
inline void tile_blocks(const bf16* a, const bf16* b, int columns, float* c, int ldc, int rows) {
    float* waiting = nullptr;
    for (int m = 0; m < rows; m += 16 * ROWS)
        for (int n = 0; n < N; n += 16 * COLS) {
            float* to = c + m * ldc + n;
            tile_block<ROWS, COLS, K, INTO>(a + m * K, b + n * 2, columns, to, ldc, waiting);
            waiting = to;
        }
    if (waiting) tile_flush<ROWS, COLS>(waiting, ldc);
}

// One panel: pairs of tiles in both directions, then what an odd number of tiles leaves.
template <int M, int COLUMNS, int K, bool INTO>
inline void tile_panel(const bf16* a, const bf16* b, float* c, int ldc, int rows) {
    constexpr int M2 = M / 32 * 32, N2 = COLUMNS / 32 * 32, N1 = COLUMNS - N2;
    const int paired = rows < M2 ? rows : M2, single = rows - paired;
    if constexpr (M2 > 0 && N2 > 0) tile_blocks<2, 2, N2, K, INTO>(a, b, COLUMNS, c, ldc, paired);
    if constexpr (M2 > 0 && N1 > 0) tile_blocks<2, 1, N1, K, INTO>(a, b + N2 * 2, COLUMNS, c + N2, ldc, paired);
    if constexpr (M2 < M) {
        const bf16* last = a + M2 * K;
        float* to = c + M2 * ldc;
        if constexpr (N2 > 0) tile_blocks<1, 2, N2, K, INTO>(last, b, COLUMNS, to, ldc, single);
        if constexpr (N1 > 0) tile_blocks<1, 1, N1, K, INTO>(last, b + N2 * 2, COLUMNS, to + N2, ldc, single);
    }
}

template <int M, int N, int K, bool INTO>
inline void tile_panels(const bf16* a, const bf16* b, float* c, int rows) {
    static_assert(M % 16 == 0 && N % 16 == 0 && K % 32 == 0, "pad rows and columns to 16, depth to 32");
    constexpr int REST = N % PANEL;
    int n = 0;
    for (; n + PANEL <= N; n += PANEL) tile_panel<M, PANEL, K, INTO>(a, b + n * K, c + n, N, rows);
    if constexpr (REST != 0) tile_panel<M, REST, K, INTO>(a, b + n * K, c + n, N, rows);
}

// Scales the rows of c in groups of W, and only the groups with a factor other than one.
template <int M, int N> inline void scale_rows(const float* scale, float* c, int rows) {
    for (int m = 0; m < M && m < rows; m += W) {
        if (!any(load(scale + m) != vf(1.0f))) continue;
        for (int r = m; r < m + W; ++r)
            for (int n = 0; n < N; n += W) store(c + r * N + n, load(c + r * N + n) * scale[r]);
    }
}

#endif

}  // namespace tw
