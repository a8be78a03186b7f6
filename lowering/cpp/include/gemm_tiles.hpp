// Matrix products of one tile in AMX: blocks of up to 2 x 2 tiles of 16 x 16 sums, 32 bf16 deep.
#pragma once
#include <type_traits>
#include "amx.hpp"
#include "gemm_lanes.hpp"

namespace tw {

#if defined(__AMX_BF16__)

// One block of ROWS x COLS tiles (1 or 2 each): sums in tiles 0..3, left in 4, 5, right in 6, 7.
template <int ROWS, int COLS, int K, bool INTO>
inline void tile_block(const bf16* a, const bf16* b, int panel_columns, float* c, int ldc) {
    const long left = K * sizeof(bf16), right = panel_columns * 2 * sizeof(bf16), out = ldc * sizeof(float);
    auto each = [&](auto one) {
        one(std::integral_constant<int, 0>(), c);
        if constexpr (COLS == 2) one(std::integral_constant<int, 1>(), c + 16);
        if constexpr (ROWS == 2) one(std::integral_constant<int, 2>(), c + 16 * ldc);
        if constexpr (ROWS == 2 && COLS == 2) one(std::integral_constant<int, 3>(), c + 16 * ldc + 16);
    };
    each([&](auto t, float* p) {
        if constexpr (INTO) tile_load<t>(p, out);
        else tile_zero<t>();
    });
    TW_UNROLL for (int k = 0; k < K; k += 32) {
        const bf16* pairs = b + k * panel_columns;
        tile_load<6>(pairs, right);
        tile_load<4>(a + k, left);
        tile_dot<0, 4, 6>();
        if constexpr (COLS == 2) tile_load<7>(pairs + 32, right), tile_dot<1, 4, 7>();
        if constexpr (ROWS == 2) tile_load<5>(a + 16 * K + k, left), tile_dot<2, 5, 6>();
        if constexpr (ROWS == 2 && COLS == 2) tile_dot<3, 5, 7>();
    }
    each([&](auto t, float* p) { tile_store<t>(p, out); });
}

template <int M, int COLUMNS, int K, bool INTO>
inline void tile_panel(const bf16* a, const bf16* b, float* c, int ldc) {
    for (int m = 0; m + 32 <= M; m += 32) {
        int n = 0;
        for (; n + 32 <= COLUMNS; n += 32)
            tile_block<2, 2, K, INTO>(a + m * K, b + n * 2, COLUMNS, c + m * ldc + n, ldc);
        if constexpr (COLUMNS % 32 != 0) tile_block<2, 1, K, INTO>(a + m * K, b + n * 2, COLUMNS, c + m * ldc + n, ldc);
    }
    if constexpr (M % 32 != 0) {
        constexpr int m = M / 32 * 32;
        for (int n = 0; n < COLUMNS; n += 16)
            tile_block<1, 1, K, INTO>(a + m * K, b + n * 2, COLUMNS, c + m * ldc + n, ldc);
    }
}

template <int M, int N, int K, bool INTO>
inline void tile_panels(const bf16* a, const bf16* b, float* c) {
    static_assert(M % 16 == 0 && N % 16 == 0 && K % 32 == 0, "pad rows and columns to 16, depth to 32");
    constexpr int REST = N % PANEL;
    int n = 0;
    for (; n + PANEL <= N; n += PANEL) tile_panel<M, PANEL, K, INTO>(a, b + n * K, c + n, N);
    if constexpr (REST != 0) tile_panel<M, REST, K, INTO>(a, b + n * K, c + n, N);
}

// Scales the rows of c in groups of W, and only the groups with a factor other than one.
template <int M, int N> inline void scale_rows(const float* scale, float* c) {
    for (int m = 0; m < M; m += W) {
        if (!any(load(scale + m) != vf(1.0f))) continue;
        for (int r = m; r < m + W; ++r)
            for (int n = 0; n < N; n += W) store(c + r * N + n, load(c + r * N + n) * scale[r]);
    }
}

#endif

}  // namespace tw
