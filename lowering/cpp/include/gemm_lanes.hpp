// Matrix products of one tile in vector registers: blocks of ROWS rows by VECS vectors of columns.
//
// One lane multiplies a 32-bit unit at a time: one float, or a pair of bf16 (AVX512-BF16 dot product).
// The left matrix is row-major [M][K]; the right one is packed in panels, each [K/unit][columns][unit].
#pragma once
#include "vec.hpp"

namespace tw {

// How many accumulators stay in registers beside VECS right-hand vectors and one broadcast.
#if defined(__AVX512F__)
constexpr int ACCUMULATORS = 24, MAX_VECS = 4;
#elif defined(__AVX2__)
constexpr int ACCUMULATORS = 12, MAX_VECS = 2;
#else
constexpr int ACCUMULATORS = 6, MAX_VECS = 2;  // a portable vector is two or more machine registers
#endif
constexpr int MAX_ROWS = 12;
constexpr int PANEL = MAX_VECS * W;

template <class E> struct Unit;

template <> struct Unit<float> {
    static constexpr int elements = 1;
    static vf broadcast(const float* p) { return *p; }
    static vf row(const float* p) { return load(p); }
    static vf accumulate(vf sum, vf left, vf right) { return fma(left, right, sum); }
};

#if defined(__AVX512BF16__) && defined(__AVX512F__)
template <> struct Unit<bf16> {
    static constexpr int elements = 2;
    static vf broadcast(const bf16* p) {
        float pair;
        std::memcpy(&pair, p, 4);
        return pair;
    }
    static vf row(const bf16* p) { return _mm512_loadu_ps(p); }
    static vf accumulate(vf sum, vf left, vf right) {
        return _mm512_dpbf16_ps(sum.v, (__m512bh)left.v, (__m512bh)right.v);
    }
};
#endif

// Where operands lie: element (r, k) of the left one at r * row + k * step, row k of the right one at k * right.
template <int ROW, int STEP, int RIGHT> struct Lie {
    static constexpr int row = ROW, step = STEP, right = RIGHT;
};
enum Start { FROM_ZERO, SCALED, ADDED };  // what a product begins with: nothing, c * scale[row], c

// c[ROWS][VECS*W] = a[ROWS][K] b[K][VECS*W] + what it begins with
template <int ROWS, int VECS, int K, Start START, class L, class E>
inline void block(const E* a, const E* b, const float* scale, float* c, int ldc) {
    using U = Unit<E>;
    vf acc[ROWS][VECS];
    TW_UNROLL for (int r = 0; r < ROWS; ++r)
        TW_UNROLL for (int v = 0; v < VECS; ++v) {
            if constexpr (START == FROM_ZERO) acc[r][v] = vf(0.0f);
            else if constexpr (START == ADDED) acc[r][v] = load(c + r * ldc + v * W);
            else acc[r][v] = load(c + r * ldc + v * W) * scale[r];
        }
    for (int k = 0; k < K; k += U::elements) {
        vf right[VECS];
        TW_UNROLL for (int v = 0; v < VECS; ++v) right[v] = U::row(b + k * L::right + v * W * U::elements);
        TW_UNROLL for (int r = 0; r < ROWS; ++r) {
            vf left = U::broadcast(a + r * L::row + k * L::step);
            TW_UNROLL for (int v = 0; v < VECS; ++v) acc[r][v] = U::accumulate(acc[r][v], left, right[v]);
        }
    }
    TW_UNROLL for (int r = 0; r < ROWS; ++r)
        TW_UNROLL for (int v = 0; v < VECS; ++v) store(c + r * ldc + v * W, acc[r][v]);
}

// The first `rows` of M rows of one panel of VECS vectors, rounded up to whole register blocks.
template <int M, int VECS, int K, Start START, class L, class E>
inline void panel(const E* a, const E* b, const float* scale, float* c, int ldc, int rows) {
    constexpr int FIT = ACCUMULATORS / VECS, ROWS = FIT < MAX_ROWS ? FIT : MAX_ROWS, WHOLE = M / ROWS * ROWS;
    for (int m = 0; m < WHOLE && m < rows; m += ROWS)
        block<ROWS, VECS, K, START, L>(a + m * L::row, b, scale + m, c + m * ldc, ldc);
    if constexpr (WHOLE != M)
        if (rows > WHOLE)
            block<M - WHOLE, VECS, K, START, L>(a + WHOLE * L::row, b, scale + WHOLE, c + WHOLE * ldc, ldc);
}

// The N columns as panels of PANEL columns and one narrower panel, each packed for itself; the left operand as L says.
template <int M, int N, int K, Start START, class L, class E>
inline void packed_panels(const E* a, const E* b, const float* scale, float* c, int rows) {
    static_assert(N % W == 0 && K % Unit<E>::elements == 0, "pad columns to vectors and depth to units");
    constexpr int REST = N % PANEL / W;
    using Whole = Lie<L::row, L::step, PANEL>;
    using Narrow = Lie<L::row, L::step, REST * W>;
    int n = 0;
    for (; n + PANEL <= N; n += PANEL) panel<M, MAX_VECS, K, START, Whole>(a, b + n * K, scale, c + n, N, rows);
    if constexpr (REST != 0) panel<M, REST, K, START, Narrow>(a, b + n * K, scale, c + n, N, rows);
}
template <int M, int N, int K, Start START, class E>
inline void panels(const E* a, const E* b, const float* scale, float* c, int rows) {
    packed_panels<M, N, K, START, Lie<K, 1, 0>>(a, b, scale, c, rows);
}

// The same for a right operand in plain rows, L::right apart.
template <int M, int N, int K, Start START, class L>
inline void plain_panels(const float* a, const float* b, const float* scale, float* c, int rows) {
    static_assert(N % W == 0, "pad columns to vectors");
    constexpr int REST = N % PANEL / W;
    int n = 0;
    for (; n + PANEL <= N; n += PANEL) panel<M, MAX_VECS, K, START, L>(a, b + n, scale, c + n, N, rows);
    if constexpr (REST != 0) panel<M, REST, K, START, L>(a, b + n, scale, c + n, N, rows);
}

}  // namespace tw
