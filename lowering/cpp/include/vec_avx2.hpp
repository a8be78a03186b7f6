// Eight-lane vectors for AVX2 with FMA and F16C.
#pragma once
#include <immintrin.h>
#include "scalar.hpp"

namespace tw {

constexpr int W = 8;

struct vm { __m256i m; };  // a lane is all ones or all zeros

struct vf {
    __m256 v;
    vf() = default;
    vf(__m256 x) : v(x) {}
    vf(float x) : v(_mm256_set1_ps(x)) {}
};

struct vi {
    __m256i v;
    vi() = default;
    vi(__m256i x) : v(x) {}
    vi(int x) : v(_mm256_set1_epi32(x)) {}
};

inline vi iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }

// masks
inline vm operator&(vm a, vm b) { return {_mm256_and_si256(a.m, b.m)}; }
inline vm operator|(vm a, vm b) { return {_mm256_or_si256(a.m, b.m)}; }
inline vm operator^(vm a, vm b) { return {_mm256_xor_si256(a.m, b.m)}; }
inline vm operator!(vm a) { return {_mm256_xor_si256(a.m, _mm256_set1_epi32(-1))}; }
inline vm mask_of(bool x) { return {_mm256_set1_epi32(x ? -1 : 0)}; }
inline vm lanes_below(int n) { return {_mm256_cmpgt_epi32(_mm256_set1_epi32(n), iota().v)}; }
inline int mask_bits(vm a) { return _mm256_movemask_ps(_mm256_castsi256_ps(a.m)); }
inline bool any(vm a) { return mask_bits(a) != 0; }
inline vf select(vm m, vf a, vf b) { return _mm256_blendv_ps(b.v, a.v, _mm256_castsi256_ps(m.m)); }
inline vi select(vm m, vi a, vi b) { return _mm256_blendv_epi8(b.v, a.v, m.m); }

// floats
inline vm float_mask(__m256 x) { return {_mm256_castps_si256(x)}; }
inline vf operator+(vf a, vf b) { return _mm256_add_ps(a.v, b.v); }
inline vf operator-(vf a, vf b) { return _mm256_sub_ps(a.v, b.v); }
inline vf operator*(vf a, vf b) { return _mm256_mul_ps(a.v, b.v); }
inline vf operator/(vf a, vf b) { return _mm256_div_ps(a.v, b.v); }
inline vm operator<(vf a, vf b) { return float_mask(_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)); }
inline vm operator<=(vf a, vf b) { return float_mask(_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)); }
inline vm operator==(vf a, vf b) { return float_mask(_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)); }
inline vm operator!=(vf a, vf b) { return float_mask(_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)); }
inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
inline vf min(vf a, vf b) { return _mm256_min_ps(a.v, b.v); }  // b where either is NaN, as the hardware does
inline vf max(vf a, vf b) { return _mm256_max_ps(a.v, b.v); }
inline vf sqrt(vf a) { return _mm256_sqrt_ps(a.v); }
inline vf floor(vf a) { return _mm256_floor_ps(a.v); }
inline vf rint(vf a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }


// ints
inline vi operator+(vi a, vi b) { return _mm256_add_epi32(a.v, b.v); }
inline vi operator-(vi a, vi b) { return _mm256_sub_epi32(a.v, b.v); }
inline vi operator*(vi a, vi b) { return _mm256_mullo_epi32(a.v, b.v); }
inline vi operator&(vi a, vi b) { return _mm256_and_si256(a.v, b.v); }
inline vi operator|(vi a, vi b) { return _mm256_or_si256(a.v, b.v); }
inline vi operator^(vi a, vi b) { return _mm256_xor_si256(a.v, b.v); }
inline vi operator<<(vi a, vi n) { return _mm256_sllv_epi32(a.v, n.v); }
inline vi operator>>(vi a, vi n) { return _mm256_srav_epi32(a.v, n.v); }
inline vi shift_bits(vi a, int n) { return _mm256_srli_epi32(a.v, n); }  // zeros come in from the left
inline vm operator<(vi a, vi b) { return {_mm256_cmpgt_epi32(b.v, a.v)}; }
inline vm operator<=(vi a, vi b) { return !(b < a); }
inline vm operator==(vi a, vi b) { return {_mm256_cmpeq_epi32(a.v, b.v)}; }
inline vm operator!=(vi a, vi b) { return !(a == b); }
inline vi min(vi a, vi b) { return _mm256_min_epi32(a.v, b.v); }
inline vi max(vi a, vi b) { return _mm256_max_epi32(a.v, b.v); }
inline vf to_float(vi a) { return _mm256_cvtepi32_ps(a.v); }
inline vi to_int(vf a) { return _mm256_cvttps_epi32(a.v); }  // towards zero
inline vf as_float(vi a) { return _mm256_castsi256_ps(a.v); }
inline vi as_int(vf a) { return _mm256_castps_si256(a.v); }

// The quotient of two 32-bit ints is at least 2^-31 (relative) from an integer it is not, so the double
// quotient rounds to the right side of it and floor is exact.
inline vi floor_div(vi a, vi b) {
    auto half = [](__m128i x, __m128i y) {
        return _mm256_cvttpd_epi32(_mm256_floor_pd(_mm256_div_pd(_mm256_cvtepi32_pd(x), _mm256_cvtepi32_pd(y))));
    };
    __m128i low = half(_mm256_castsi256_si128(a.v), _mm256_castsi256_si128(b.v));
    __m128i high = half(_mm256_extracti128_si256(a.v, 1), _mm256_extracti128_si256(b.v, 1));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

// loads and stores; with a count, lanes from count on read as zero and are not written
inline vf load(const float* p) { return _mm256_loadu_ps(p); }
inline vf load(const float* p, int count) { return _mm256_maskload_ps(p, lanes_below(count).m); }
inline void store(float* p, vf a) { _mm256_storeu_ps(p, a.v); }
inline void store(float* p, vf a, int count) { _mm256_maskstore_ps(p, lanes_below(count).m, a.v); }
inline vi load(const std::int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline vi load(const std::int32_t* p, int count) { return _mm256_maskload_epi32(p, lanes_below(count).m); }
inline void store(std::int32_t* p, vi a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v); }

inline __m128i half_words(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m128i half_words(const void* p, int count) {
    std::uint16_t words[W] = {};
    if (count > 0) std::memcpy(words, p, 2 * (count < W ? count : W));
    return half_words(words);
}
inline void store_half_words(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }
inline void store_half_words(void* p, __m128i x, int count) {
    std::uint16_t words[W];
    store_half_words(words, x);
    if (count > 0) std::memcpy(p, words, 2 * (count < W ? count : W));
}

inline vf widen_bf16(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
inline vf load(const bf16* p) { return widen_bf16(half_words(p)); }
inline vf load(const bf16* p, int count) { return widen_bf16(half_words(p, count)); }
inline vf load(const f16* p) { return _mm256_cvtph_ps(half_words(p)); }
inline vf load(const f16* p, int count) { return _mm256_cvtph_ps(half_words(p, count)); }

// Nearest, ties to even.
inline __m128i narrow_bf16(vf a) {
    vi u = as_int(a);
    vi odd = _mm256_srli_epi32(_mm256_slli_epi32(u.v, 15), 31);
    vi rounded = select(a != a, u | 0x400000, u + 0x7fff + odd);
    __m256i high = _mm256_srli_epi32(rounded.v, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
inline __m128i narrow_f16(vf a) { return _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline void store(bf16* p, vf a) { store_half_words(p, narrow_bf16(a)); }
inline void store(bf16* p, vf a, int count) { store_half_words(p, narrow_bf16(a), count); }
inline void store(f16* p, vf a) { store_half_words(p, narrow_f16(a)); }
inline void store(f16* p, vf a, int count) { store_half_words(p, narrow_f16(a), count); }

// gathers of 32-bit words; lanes outside the mask read nothing and are zero
inline vf gather(const float* p, vi at, vm m) {
    return _mm256_mask_i32gather_ps(_mm256_setzero_ps(), p, at.v, _mm256_castsi256_ps(m.m), 4);
}
inline vi gather(const std::int32_t* p, vi at, vm m) {
    return _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), p, at.v, m.m, 4);
}

}  // namespace tw
