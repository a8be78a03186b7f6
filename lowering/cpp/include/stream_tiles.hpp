// The products of stream_lanes.hpp in AMX: up to 16 rows at the price of one.
//
// Rows of keys are the left matrix of the first product, read where they lie, so that scores come out transposed;
// rows of values are interleaved in pairs for the second one.
#pragma once
#include "gemm_tiles.hpp"
#include "stream_lanes.hpp"

namespace tw {

template <int N, int D, int LDA, class X, class Next>
void tile_dots(const bf16* a, const X& b, int have, float* c, int rows, const Next& next);
template <int D, int LDP, bool INTO, class X, class Next>
void tile_sums(const bf16* p, const X& b, int have, const float* scale, float* c, int rows, const Next& next);

#if defined(__AMX_BF16__)

// 32 columns of one row from column d on, zero where there is no such row or column.
template <int D, class R> inline __m512i row_part(const R& b, long n, int have, int d) {
    if (n >= have) return _mm512_setzero_si512();
    if (d + 32 <= D) return _mm512_loadu_si512(b.row(n) + d);
    return _mm512_maskz_loadu_epi16((std::uint32_t(1) << (D - d)) - 1, b.row(n) + d);
}

// The left matrix's 16 rows as the right operand of tiles: [D/2][16 rows] pairs.
template <int D, int LDA> inline void turn_rows(const bf16* a, float* turned) {
    for (int u = 0; u < round_up(D, 32) / 2; u += W) {
        vf x[W];
        TW_UNROLL for (int r = 0; r < W; ++r) x[r] = _mm512_loadu_ps(a + r * LDA + 2 * u);
        transpose(x);
        TW_UNROLL for (int i = 0; i < W; ++i) store(turned + (u + i) * W, x[i]);
    }
}

// The distance of 16 rows from n on; 0 where it is not the same for all of them.
inline long even_stride(const Spaced<bf16>& b, long) { return b.stride; }
inline long even_stride(const Listed<bf16>& b, long n) {
    const long stride = b.row(n + 1) - b.row(n);
    bool is_even = true;
    for (int i = 1; i < 15; ++i) is_even &= b.row(n + i + 1) - b.row(n + i) == stride;
    return is_even ? stride : 0;
}

// c[rows][N] = a[16][D] b^T for the first `have` of N rows of b.
template <int N, int D, int LDA, class X, class Next>
void tile_dots(const bf16* a, const X& b, int have, float* c, int rows, const Next& next) {
    static_assert(N % 16 == 0 && LDA % 32 == 0, "pad keys to 16, depth to 32");
    constexpr int CHUNKS = LDA / 32, HELD = CHUNKS < 4 ? CHUNKS : 4, WHOLE = D / 32;
    constexpr int AHEAD = round_up(AHEAD_BYTES / (D * 2), 16);
    alignas(64) float turned[LDA / 2 * W], sums[2][16 * 16];
    alignas(64) bf16 edge[CHUNKS * 16 * 32];
    turn_rows<D, LDA>(a, turned);
    const auto hold = [&](auto t) { if constexpr (t < HELD) tile_load<4 + t>(turned + t * 16 * W, 64); };
    hold(Tile<0>()), hold(Tile<1>()), hold(Tile<2>()), hold(Tile<3>());
    const auto chunk = [&](const bf16* from, long stride, auto t, int k) {
        tile_load<1>(from, stride);
        if constexpr (t < HELD) tile_dot<0, 1, 4 + t>();
        else tile_load<2>(turned + k * 16 * W, 64), tile_dot<0, 1, 2>();
    };
    const auto finish = [&](int n) {  // scores of keys n … n + 15, turned
        vf x[W];
        TW_UNROLL for (int i = 0; i < W; ++i) x[i] = load(sums[n / 16 % 2] + i * 16);
        transpose(x);
        TW_UNROLL for (int r = 0; r < W; ++r)
            if (r < rows) store(c + r * N + n, x[r]);
    };
    for (int n = 0; n < N; n += 16) {
        if (n < have) {
            const long stride = n + 16 <= have ? even_stride(b, n) : 0;
            TW_UNROLL for (int i = 0; i < 16; ++i) prefetch_row<D>(b.ahead(n + AHEAD + i)), next.fetch(n + i);
            const auto copy = [&](int k) {
                for (int i = 0; i < 16; ++i) _mm512_store_si512(edge + (k * 16 + i) * 32, row_part<D>(b, n + i, have, k * 32));
                return edge + k * 16 * 32;
            };
            tile_zero<0>();
            const auto at = [&](auto t) {
                if constexpr (t < CHUNKS && t < HELD) {
                    if (stride && t < WHOLE) chunk(b.row(n) + t * 32, stride * 2, t, t);
                    else chunk(copy(t), 64, t, t);
                }
            };
            at(Tile<0>()), at(Tile<1>()), at(Tile<2>()), at(Tile<3>());
            for (int k = HELD; k < CHUNKS; ++k) {
                if (stride && k < WHOLE) chunk(b.row(n) + k * 32, stride * 2, Tile<HELD>(), k);
                else chunk(copy(k), 64, Tile<HELD>(), k);
            }
            tile_store<0>(sums[n / 16 % 2], 64);
        } else {
            std::memset(sums[n / 16 % 2], 0, sizeof sums[0]);
        }
        if (n) finish(n - 16);
    }
    finish(N - 16);
}

// 64 columns from b's first on: c[rows][64] = (INTO ? c * scale[row] : 0) + p[16][have] b; `columns` exist, and c
// has rows of LDC floats, of which `vectors` vectors are written.
template <int COLS, int LDP, int LDC, bool INTO, class X, class Next>
void tile_sums_block(const bf16* p, const X& b, int have, int columns, const float* scale, float* c, int vectors, int rows, const Next& next) {
    constexpr int AHEAD = AHEAD_BYTES / (COLS * 32), PARTS = COLS / 2;
    alignas(64) bf16 pairs[2][COLS * 16 * 32];
    alignas(64) float sums[COLS][16 * 16];
    const auto each = [&](auto work) {
        work(Tile<0>());
        if constexpr (COLS > 1) work(Tile<1>());
        if constexpr (COLS > 2) work(Tile<2>());
        if constexpr (COLS > 3) work(Tile<3>());
    };
    const auto interleave = [&](int n) {  // 32 rows of b from n on, two and two
        bf16* to = pairs[n / 32 % 2];
        if (n + 32 <= have && columns >= PARTS * 32)
            for (int i = 0; i < 16; ++i) {
                TW_UNROLL for (int r = n + 2 * i; r < n + 2 * i + 2; ++r)
                    prefetch_row<PARTS * 32>(b.ahead(r + AHEAD)), next.fetch(r);
                TW_UNROLL for (int d = 0; d < PARTS; ++d) {
                    const __m512i first = _mm512_loadu_si512(b.row(n + 2 * i) + d * 32);
                    const __m512i second = _mm512_loadu_si512(b.row(n + 2 * i + 1) + d * 32);
                    _mm512_store_si512(to + (2 * d * 16 + i) * 32, _mm512_unpacklo_epi16(first, second));
                    _mm512_store_si512(to + ((2 * d + 1) * 16 + i) * 32, _mm512_unpackhi_epi16(first, second));
                }
            }
        else
            for (int i = 0; i < 16; ++i)
                for (int d = 0; d < PARTS; ++d) {
                    const int width = columns - d * 32 < 32 ? columns - d * 32 : 32;
                    const __mmask32 m = width == 32 ? ~std::uint32_t(0) : (std::uint32_t(1) << width) - 1;
                    const auto row = [&](int k) {
                        return k < have ? _mm512_maskz_loadu_epi16(m, b.row(k) + d * 32) : _mm512_setzero_si512();
                    };
                    const __m512i first = row(n + 2 * i), second = row(n + 2 * i + 1);
                    _mm512_store_si512(to + (2 * d * 16 + i) * 32, _mm512_unpacklo_epi16(first, second));
                    _mm512_store_si512(to + ((2 * d + 1) * 16 + i) * 32, _mm512_unpackhi_epi16(first, second));
                }
    };
    each([](auto t) { tile_zero<t>(); });
    interleave(0);
    for (int n = 0; n < have; n += 32) {
        if (n + 32 < have) interleave(n + 32);
        tile_load<4>(p + n, LDP * 2);
        each([&](auto t) {
            tile_load<5 + t % 3>(pairs[n / 32 % 2] + t * 16 * 32, 64);
            tile_dot<t, 4, 5 + t % 3>();
        });
    }
    each([&](auto t) { tile_store<t>(sums[t], 64); });
    for (int r = 0; r < rows; ++r)
        TW_UNROLL for (int d = 0; d < PARTS; ++d) {
            vf both[2] = {load(sums[2 * d] + r * 16), load(sums[2 * d + 1] + r * 16)};
            Mix<bf16, bf16>::leave(both);
            float* to = c + r * LDC + 2 * d * W;
            TW_UNROLL for (int v = 0; v < 2; ++v)
                if (2 * d + v < vectors) store(to + v * W, INTO ? fma(load(to + v * W), scale[r], both[v]) : both[v]);
        }
}

template <int D, int LDP, bool INTO, class X, class Next>
void tile_sums(const bf16* p, const X& b, int have, const float* scale, float* c, int rows, const Next& next) {
    constexpr int LDC = round_up(D, 16), WHOLE = D / 64 * 64;
    for (int d = 0; d < WHOLE; d += 64) tile_sums_block<4, LDP, LDC, INTO>(p, b.from(d), have, 64, scale, c + d, 4, rows, d ? next.none() : next);
    if constexpr (WHOLE != D)
        tile_sums_block<(D - WHOLE > 32 ? 4 : 2), LDP, LDC, INTO>(p, b.from(WHOLE), have, D - WHOLE, scale, c + WHOLE, (LDC - WHOLE) / W, rows, WHOLE ? next.none() : next);
}

#endif

}  // namespace tw
