// Reductions across lanes, W rows at a time: lane r of the result reduces all lanes of vector r.
//
// Halving trees: each step combines the halves of two vectors into one, so W rows cost W - 1 operations
// and two shuffles each, against log2(W) dependent ones per row for a reduction of its own.
#pragma once
#include "vec.hpp"

namespace tw {

struct Max { vf operator()(vf a, vf b) const { return max(a, b); } };
struct Sum { vf operator()(vf a, vf b) const { return a + b; } };

#if defined(__AVX512F__)

// Rows r, r+4, r+8, r+12 reduced to one 128-bit quarter each.
template <class Op> vf quarters(const vf* x, Op op) {
    auto halves = [&](vf a, vf b) {
        return op(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xee));
    };
    vf low = halves(x[0], x[4]), high = halves(x[8], x[12]);
    return op(_mm512_shuffle_f32x4(low.v, high.v, 0x88), _mm512_shuffle_f32x4(low.v, high.v, 0xdd));
}
template <class Op> vf across(const vf* x, Op op) {
    auto pairs = [&](vf a, vf b) { return op(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v)); };
    __m512d even = _mm512_castps_pd(pairs(quarters(x, op), quarters(x + 1, op)).v);
    __m512d odd = _mm512_castps_pd(pairs(quarters(x + 2, op), quarters(x + 3, op)).v);
    return op(_mm512_castpd_ps(_mm512_unpacklo_pd(even, odd)), _mm512_castpd_ps(_mm512_unpackhi_pd(even, odd)));
}

#elif defined(__AVX2__)

template <class Op> vf across(const vf* x, Op op) {
    auto halves = [&](vf a, vf b) {
        return op(_mm256_permute2f128_ps(a.v, b.v, 0x20), _mm256_permute2f128_ps(a.v, b.v, 0x31));
    };
    auto pairs = [&](vf a, vf b) { return op(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v)); };
    __m256d even = _mm256_castps_pd(pairs(halves(x[0], x[4]), halves(x[1], x[5])).v);
    __m256d odd = _mm256_castps_pd(pairs(halves(x[2], x[6]), halves(x[3], x[7])).v);
    return op(_mm256_castpd_ps(_mm256_unpacklo_pd(even, odd)), _mm256_castpd_ps(_mm256_unpackhi_pd(even, odd)));
}

#else

template <class Op> vf across(const vf* x, Op op) {
    float lanes[W][W], columns[W][W];
    for (int r = 0; r < W; ++r) store(lanes[r], x[r]);
    for (int r = 0; r < W; ++r)
        for (int i = 0; i < W; ++i) columns[i][r] = lanes[r][i];
    vf total = load(columns[0]);
    for (int i = 1; i < W; ++i) total = op(total, load(columns[i]));
    return total;
}

#endif

inline vf max_across(const vf (&rows)[W]) { return across(rows, Max()); }
inline vf sum_across(const vf (&rows)[W]) { return across(rows, Sum()); }

}  // namespace tw
