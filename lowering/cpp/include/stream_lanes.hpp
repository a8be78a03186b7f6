// Products of a few rows with a right matrix in the caller's memory, in vector registers.
//
// Rows of the right matrix are contiguous, any distance apart. Each is read once for all rows of the left one.
#pragma once
#include <type_traits>
#include "across.hpp"
#include "pack.hpp"

namespace tw {

// How far ahead of its use a row is asked for: bytes of rows that are processed in between.
constexpr int AHEAD_BYTES = 2048;
// Sums of weighted rows that stay in registers.
#if defined(__AVX512F__)
constexpr int MIX_SUMS = 16;
#else
constexpr int MIX_SUMS = 8;
#endif

// Rows of contiguous elements, the same distance apart.
template <class T> struct Spaced {
    using Element = T;
    const T* data;
    long stride;
    const T* row(long r) const { return data + r * stride; }
    const T* ahead(long r) const { return row(r); }  // where a later row will be read; it need not exist
    Spaced from(long d) const { return {data + d, stride}; }
};

// Rows of contiguous elements anywhere, from `first` on; at least one.
template <class T> struct Listed {
    using Element = T;
    const T* const* rows;
    int count;
    long first;
    const T* row(long r) const { return rows[r] + first; }
    const T* ahead(long r) const { return row(r < count ? r : count - 1); }
    Listed from(long d) const { return {rows, count, first + d}; }
};

template <int COLUMNS, int LEVEL = 3, class T> inline void prefetch_row(const T* p) {
    TW_UNROLL for (int at = 0; at < COLUMNS * int(sizeof(T)); at += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(p) + at, 0, LEVEL);
}

// What is read after the matrix at hand, row for row, brought into the second-level cache meanwhile: memory is then
// busy all the time, and not only while the product that needs it runs.
struct Nothing {
    void fetch(int) const {}
    Nothing none() const { return {}; }
};
template <int COLUMNS, class T> struct Upcoming {
    const T* data;
    long stride;
    int rows;
    void fetch(int r) const {
        if (r < rows) prefetch_row<COLUMNS, 2>(data + r * stride);
    }
    Upcoming none() const { return {data, stride, 0}; }
};
template <int COLUMNS, class T> Upcoming<COLUMNS, T> upcoming(const Rows<const T>& b, int skip, int rows) {
    return {b.row(skip), b.row_stride, b.column_stride == 1 ? rows : 0};
}

// Sums of products of vectors of STEP elements of a row q as the left matrix holds it and of a row k as it lies.
template <class E, class T> struct Dot {
    static constexpr int step = W;
    static vf of(vf sum, const E* q, const T* k) { return fma(load(q), load(k), sum); }
    static vf of(vf sum, const E* q, const T* k, int count) { return fma(load(q, count), load(k, count), sum); }
};

#if defined(__AVX512BF16__) && defined(__AVX512F__)
template <> struct Dot<bf16, bf16> {
    static constexpr int step = 32;
    static vf of(vf sum, const bf16* q, const bf16* k) {
        return _mm512_dpbf16_ps(sum.v, (__m512bh)_mm512_loadu_si512(q), (__m512bh)_mm512_loadu_si512(k));
    }
    static vf of(vf sum, const bf16* q, const bf16* k, int count) {
        const __mmask32 m = (std::uint32_t(1) << count) - 1;
        return _mm512_dpbf16_ps(sum.v, (__m512bh)_mm512_maskz_loadu_epi16(m, q), (__m512bh)_mm512_maskz_loadu_epi16(m, k));
    }
};
#endif

template <int D, class E, class T> inline vf dot_row(const E* q, const T* k) {
    using S = Dot<E, T>;
    constexpr int WHOLE = D / S::step * S::step;
    vf sum = 0.0f;
    TW_UNROLL for (int d = 0; d < WHOLE; d += S::step) sum = S::of(sum, q + d, k + d);
    if constexpr (WHOLE != D) sum = S::of(sum, q + WHOLE, k + WHOLE, D - WHOLE);
    return sum;
}

// c[rows][N] = a[rows][D] b^T for the first `have` of N rows of b; zero beyond. a has rows of LDA elements.
template <int N, int D, int LDA, class E, class X, class Next>
void stream_dots(const E* a, const X& b, int have, float* c, int rows, const Next& next) {
    constexpr int AHEAD = round_up(AHEAD_BYTES / (D * int(sizeof(typename X::Element))), W);
    for (int n = 0; n < N; n += W) {
        if (n >= have) {
            for (int r = 0; r < rows; ++r) store(c + r * N + n, vf(0.0f));
            continue;
        }
        TW_UNROLL for (int i = 0; i < W; ++i) prefetch_row<D>(b.ahead(n + AHEAD + i)), next.fetch(n + i);
        for (int r = 0; r < rows; ++r) {
            vf x[W];
            const E* q = a + r * LDA;
            if (n + W <= have) {
                TW_UNROLL for (int i = 0; i < W; ++i) x[i] = dot_row<D>(q, b.row(n + i));
            } else {
                for (int i = 0; i < W; ++i) x[i] = n + i < have ? dot_row<D>(q, b.row(n + i)) : vf(0.0f);
            }
            store(c + r * N + n, sum_across(x));
        }
    }
}

// Sums of rows of b with weights, SPAN columns of one row at a time in COUNT vectors, STEP rows of b at once.
template <class E, class T> struct Mix {
    static constexpr int step = 1, span = W, count = 1;
    struct Part { vf x; };
    static Part part(const T* b, const T*, int columns) { return {columns >= W ? load(b) : load(b, columns)}; }
    static vf weights(const E* p, int) { return *p; }
    static void add(vf* sum, vf weight, const Part& b) { sum[0] = fma(weight, b.x, sum[0]); }
    static void enter(vf*) {}
    static void leave(vf*) {}
};

#if defined(__AVX512BF16__) && defined(__AVX512F__)
// Two rows of b interleave into pairs; the instruction that does so works in quarters of the register, so that a
// sum's columns are out of order until it is complete.
template <> struct Mix<bf16, bf16> {
    static constexpr int step = 2, span = 32, count = 2;
    struct Part { __m512bh low, high; };
    static __m512i row(const bf16* b, int columns) {
        if (columns >= 32) return _mm512_loadu_si512(b);
        return _mm512_maskz_loadu_epi16((std::uint32_t(1) << columns) - 1, b);
    }
    static Part part(const bf16* b, const bf16* next, int columns) {
        const __m512i first = row(b, columns), second = next ? row(next, columns) : _mm512_setzero_si512();
        return {(__m512bh)_mm512_unpacklo_epi16(first, second), (__m512bh)_mm512_unpackhi_epi16(first, second)};
    }
    static __m512bh weights(const bf16* p, int have) {
        std::int32_t both = 0;
        std::memcpy(&both, p, have > 1 ? 4 : 2);
        return (__m512bh)_mm512_set1_epi32(both);
    }
    static void add(vf* sum, __m512bh weight, const Part& b) {
        sum[0] = _mm512_dpbf16_ps(sum[0].v, weight, b.low);
        sum[1] = _mm512_dpbf16_ps(sum[1].v, weight, b.high);
    }
    static void swap(vf* sum, __m512i low, __m512i high) {
        const __m512 first = sum[0].v, second = sum[1].v;
        sum[0] = _mm512_permutex2var_ps(first, low, second), sum[1] = _mm512_permutex2var_ps(first, high, second);
    }
    static void enter(vf* sum) {
        swap(sum, _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
             _mm512_setr_epi32(4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31));
    }
    static void leave(vf* sum) {
        swap(sum, _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23),
             _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31));
    }
};
#endif

// c[ROWS][PARTS spans] = (INTO ? c * scale[row] : 0) + p[ROWS][have] b, all sums in registers. Of the columns
// from b's first on, `columns` exist; c has rows of LDC floats, of which `vectors` vectors are written.
template <int ROWS, int PARTS, int LDP, int LDC, bool INTO, class E, class B, class Next>
inline void mix_block(const E* p, const B& b, int have, int columns, const float* scale, float* c, int vectors, const Next& next) {
    using T = typename B::Element;
    using X = Mix<E, T>;
    constexpr int SUMS = PARTS * X::count, AHEAD = AHEAD_BYTES / (PARTS * X::span * int(sizeof(T)));
    vf sum[ROWS][SUMS];
    TW_UNROLL for (int r = 0; r < ROWS; ++r) {
        TW_UNROLL for (int v = 0; v < SUMS; ++v)
            sum[r][v] = INTO && v < vectors ? load(c + r * LDC + v * W) * scale[r] : vf(0.0f);
        if (INTO) TW_UNROLL for (int d = 0; d < PARTS; ++d) X::enter(sum[r] + d * X::count);
    }
    const auto add = [&](int n, int held, auto is_whole) {  // rows n … n + held - 1 of b
        typename X::Part part[PARTS];
        const T* row = b.row(n);
        const T* next = held > 1 ? b.row(n + 1) : nullptr;
        TW_UNROLL for (int d = 0; d < PARTS; ++d)
            part[d] = X::part(row + d * X::span, next ? next + d * X::span : nullptr,
                              is_whole ? X::span : columns - d * X::span);
        TW_UNROLL for (int r = 0; r < ROWS; ++r) {
            const auto weight = X::weights(p + r * LDP + n, held);
            TW_UNROLL for (int d = 0; d < PARTS; ++d) X::add(sum[r] + d * X::count, weight, part[d]);
        }
    };
    int n = 0;
    if (columns >= PARTS * X::span)
        for (; n + X::step <= have; n += X::step) {
            TW_UNROLL for (int i = 0; i < X::step; ++i)
                prefetch_row<PARTS * X::span>(b.ahead(n + AHEAD + i)), next.fetch(n + i);
            add(n, X::step, std::true_type());
        }
    for (; n < have; n += X::step) add(n, have - n < X::step ? have - n : X::step, std::false_type());
    TW_UNROLL for (int r = 0; r < ROWS; ++r) {
        TW_UNROLL for (int d = 0; d < PARTS; ++d) X::leave(sum[r] + d * X::count);
        TW_UNROLL for (int v = 0; v < SUMS; ++v)
            if (v < vectors) store(c + r * LDC + v * W, sum[r][v]);
    }
}

// All rows for some columns, as many rows at once as there are registers for.
template <int PARTS, int LDP, int LDC, bool INTO, class E, class B, class Next>
inline void mix_columns(const E* p, const B& b, int have, int columns, const float* scale, float* c, int vectors, int rows, const Next& next) {
    constexpr int FIT = MIX_SUMS / (PARTS * Mix<E, typename B::Element>::count), ROWS = FIT >= 4 ? 4 : FIT >= 2 ? 2 : 1;
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        mix_block<ROWS, PARTS, LDP, LDC, INTO>(p + r * LDP, b, have, columns, scale + r, c + r * LDC, vectors, r ? next.none() : next);
    for (; r < rows; ++r)
        mix_block<1, PARTS, LDP, LDC, INTO>(p + r * LDP, b, have, columns, scale + r, c + r * LDC, vectors, r ? next.none() : next);
}

// c[rows][round_up(D, 16)] = (INTO ? c * scale[row] : 0) + p[rows][have] b.
template <int D, int LDP, bool INTO, class E, class B, class Next>
void stream_sums(const E* p, const B& b, int have, const float* scale, float* c, int rows, const Next& next) {
    using X = Mix<E, typename B::Element>;
    constexpr int LDC = round_up(D, 16), PARTS = round_up(D, X::span) / X::span, MOST = MIX_SUMS / X::count;
    constexpr int WHOLE = PARTS / MOST * MOST, REST = PARTS - WHOLE;
    for (int d = 0; d < WHOLE * X::span; d += MOST * X::span)
        mix_columns<MOST, LDP, LDC, INTO>(p, b.from(d), have, D - d, scale, c + d, (LDC - d) / W, rows, d ? next.none() : next);
    if constexpr (REST != 0) {
        constexpr int d = WHOLE * X::span;
        mix_columns<REST, LDP, LDC, INTO>(p, b.from(d), have, D - d, scale, c + d, (LDC - d) / W, rows, d ? next.none() : next);
    }
}

}  // namespace tw
