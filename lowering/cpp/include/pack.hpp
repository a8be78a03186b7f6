// Tiles between strided tensors and the layouts of gemm.hpp, with conversion and zero padding.
//
// Panels: [columns/PANEL][depth/unit][PANEL][unit], the last panel as narrow as what is left of whole
// vectors. One unit is 32 bits: a float or two bf16 that follow each other along the depth.
#pragma once
#include <type_traits>
#include "gemm_lanes.hpp"

namespace tw {

// Where a two-dimensional piece of a tensor lies; strides count elements.
template <class T> struct Rows {
    T* data;
    long row_stride, column_stride;
    T* row(long r) const { return data + r * row_stride; }
    bool has(long) const { return true; }
};

// A piece whose rows lie anywhere; a null row does not exist and reads as zero.
template <class T> struct Places {
    T* const* rows;
    long column_stride;
    T* row(long r) const { return rows[r]; }
    bool has(long r) const { return rows[r] != nullptr; }
};

// The same piece with rows and columns exchanged.
template <class T> Rows<T> turned(Rows<T> x) { return {x.data, x.column_stride, x.row_stride}; }

// Element of a row as a vector of W from column d on; zero from `columns` on.
template <class X> inline vf load_strided(const X& x, long r, int d, int columns) {
    if (!x.has(r)) return 0.0f;
    int count = columns - d < W ? columns - d : W;
    if (x.column_stride == 1) return count == W ? load(x.row(r) + d) : load(x.row(r) + d, count);
    float lanes[W] = {};
    for (int i = 0; i < count; ++i) lanes[i] = to_float(x.row(r)[(d + i) * x.column_stride]);
    return load(lanes);
}

#if defined(__AVX512F__)
// Sixteen vectors become their transpose: 32-bit pairs, 64-bit pairs, then quarters of the register.
inline void transpose(vf (&x)[W]) {
    __m512 pairs[W], quads[W];
    TW_UNROLL for (int i = 0; i < W; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(x[i].v, x[i + 1].v);
        pairs[i + 1] = _mm512_unpackhi_ps(x[i].v, x[i + 1].v);
    }
    TW_UNROLL for (int i = 0; i < W; i += 4) TW_UNROLL for (int j = 0; j < 2; ++j) {
        __m512d low = _mm512_castps_pd(pairs[i + j]), high = _mm512_castps_pd(pairs[i + j + 2]);
        quads[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
        quads[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
    TW_UNROLL for (int j = 0; j < 4; ++j) {
        __m512 even_low = _mm512_shuffle_f32x4(quads[j], quads[4 + j], 0x88);
        __m512 odd_low = _mm512_shuffle_f32x4(quads[j], quads[4 + j], 0xdd);
        __m512 even_high = _mm512_shuffle_f32x4(quads[8 + j], quads[12 + j], 0x88);
        __m512 odd_high = _mm512_shuffle_f32x4(quads[8 + j], quads[12 + j], 0xdd);
        x[j] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        x[4 + j] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        x[8 + j] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
        x[12 + j] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
    }
}
#else
inline void transpose(vf (&x)[W]) {
    float rows[W][W], columns[W][W];
    for (int i = 0; i < W; ++i) store(rows[i], x[i]);
    for (int i = 0; i < W; ++i)
        for (int j = 0; j < W; ++j) columns[j][i] = rows[i][j];
    for (int i = 0; i < W; ++i) x[i] = load(columns[i]);
}
#endif

// W rows of a piece whose rows are next to each other in memory: columns are read as vectors and transposed.
template <class T, class E>
inline void load_turned(const Rows<T>& x, int r, int rows, int columns, int K, E* out) {
    const int count = rows - r < W ? rows - r : W;
    for (int d = 0; d < K; d += W) {
        vf block[W];
        for (int i = 0; i < W; ++i) {
            const T* at = x.data + r + (d + i) * x.column_stride;
            block[i] = d + i >= columns || count <= 0 ? vf(0.0f) : count == W ? load(at) : load(at, count);
        }
        transpose(block);
        for (int i = 0; i < W; ++i) {
            if (K - d >= W) store(out + (r + i) * K + d, block[i]);
            else store(out + (r + i) * K + d, block[i], K - d);
        }
    }
}

// The first `wanted` rows of out [M][K], row-major, from a [rows][columns] piece; zero outside of it.
template <int M, int K, class X, class E>
void load_rows(const X& x, int rows, int columns, E* out, int wanted = M) {
    constexpr int WHOLE = K / W * W;
    if constexpr (M % W == 0 && std::is_same<X, Rows<std::remove_pointer_t<decltype(x.row(0))>>>::value)
        if (x.row_stride == 1 && x.column_stride != 1) {
            for (int r = 0; r < wanted; r += W) load_turned(x, r, rows, columns, K, out);
            return;
        }
    for (int r = 0; r < wanted; ++r) {
        for (int d = 0; d < WHOLE; d += W)
            store(out + r * K + d, r < rows && d < columns ? load_strided(x, r, d, columns) : vf(0.0f));
        if constexpr (WHOLE != K)
            store(out + r * K + WHOLE, r < rows ? load_strided(x, r, WHOLE, columns) : vf(0.0f), K - WHOLE);
    }
}

// Panels with the N rows of a piece as columns (K of attention): out is K deep and N wide.
template <int N, int K, class X, class E>
void pack_columns(const X& x, int rows, int columns, E* out) {
    using U = Unit<E>;
    constexpr int UNITS = K / U::elements;
    alignas(64) E staged[N * K + W * U::elements];
    load_rows<N, K>(x, rows, columns, staged);
    for (int n = 0; n < N; n += W) {
        int left = n / PANEL * PANEL, width = N - left < PANEL ? N - left : PANEL;
        E* to = out + left * K + (n - left) * U::elements;
        for (int u = 0; u < UNITS; u += W) {
            vf x_block[W];
            TW_UNROLL for (int i = 0; i < W; ++i) x_block[i] = U::row(staged + (n + i) * K + u * U::elements);
            transpose(x_block);
            int count = UNITS - u < W ? UNITS - u : W;
            for (int i = 0; i < count; ++i)
                store(reinterpret_cast<float*>(to + (u + i) * width * U::elements), x_block[i]);
        }
    }
}


// Panels with the rows of a piece as depth (V of attention): out is K deep and N wide.
template <int K, int N, class X, class E>
void pack_rows(const X& x, int rows, int columns, E* out) {
    constexpr int DEEP = Unit<E>::elements;
    auto row = [&](int k, int d) { return k < rows && d < columns ? load_strided(x, k, d, columns) : vf(0.0f); };
    for (int d = 0; d < N; d += W) {
        int left = d / PANEL * PANEL, width = N - left < PANEL ? N - left : PANEL;
        E* to = out + left * K + (d - left) * DEEP;
        for (int k = 0; k < K; k += DEEP, to += width * DEEP) {
            if constexpr (DEEP == 1) store(to, row(k, d));
            else {
                vi even = as_int(row(k, d)), odd = as_int(row(k + 1, d));
                store(reinterpret_cast<float*>(to), as_float(((even >> 16) & 0xffff) | odd));
            }
        }
    }
}

// A row-major tile [K][STRIDE] of which N columns count, as the right operand of a product, K deep and N wide; rows from
// `rows` on become zero. Where panels are rows as they lie, it stays where it is.
template <class E, int K, int N, int STRIDE> constexpr bool is_panel() {
    return Unit<E>::elements == 1 && N <= PANEL && N == STRIDE;
}
template <class E, int K, int N, int STRIDE> constexpr int right_operand_size() {
    return is_panel<E, K, N, STRIDE>() ? 1 : K * N;
}
template <int K, int N, int STRIDE, class E> const E* right_operand(E* tile, int rows, E* spare) {
    if constexpr (is_panel<E, K, N, STRIDE>()) {
        for (int r = rows; r < K; ++r)
            for (int c = 0; c < N; c += W) store(tile + r * STRIDE + c, vf(0.0f));
        return tile;
    } else {
        pack_rows<K, N>(Rows<const E>{tile, STRIDE, 1}, rows, N, spare);
        return spare;
    }
}

}  // namespace tw
