// Sixteen-lane vectors for AVX-512 (F, DQ, BW, VL; BF16 conversions where the compiler may use them).
#pragma once
#include <immintrin.h>
#include "scalar.hpp"

namespace tw {

constexpr int W = 16;

struct vm { __mmask16 m; };

struct vf {
    __m512 v;
    vf() = default;
    vf(__m512 x) : v(x) {}
    vf(float x) : v(_mm512_set1_ps(x)) {}
};

struct vi {
    __m512i v;
    vi() = default;
    vi(__m512i x) : v(x) {}
    vi(int x) : v(_mm512_set1_epi32(x)) {}
};

// masks
inline vm operator&(vm a, vm b) { return {__mmask16(a.m & b.m)}; }
inline vm operator|(vm a, vm b) { return {__mmask16(a.m | b.m)}; }
inline vm operator^(vm a, vm b) { return {__mmask16(a.m ^ b.m)}; }
inline vm operator!(vm a) { return {__mmask16(~a.m)}; }
inline vm mask_of(bool x) { return {__mmask16(x ? 0xffff : 0)}; }
inline vm lanes_below(int n) { return {__mmask16(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1u)}; }
inline bool any(vm a) { return a.m != 0; }
inline vf select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m.m, b.v, a.v); }
inline vi select(vm m, vi a, vi b) { return _mm512_mask_blend_epi32(m.m, b.v, a.v); }

// floats
inline vf operator+(vf a, vf b) { return _mm512_add_ps(a.v, b.v); }
inline vf operator-(vf a, vf b) { return _mm512_sub_ps(a.v, b.v); }
inline vf operator*(vf a, vf b) { return _mm512_mul_ps(a.v, b.v); }
inline vf operator/(vf a, vf b) { return _mm512_div_ps(a.v, b.v); }
inline vm operator<(vf a, vf b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline vm operator<=(vf a, vf b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline vm operator==(vf a, vf b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline vm operator!=(vf a, vf b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)}; }
inline vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
inline vf min(vf a, vf b) { return _mm512_min_ps(a.v, b.v); }  // b where either is NaN, as the hardware does
inline vf max(vf a, vf b) { return _mm512_max_ps(a.v, b.v); }
inline vf sqrt(vf a) { return _mm512_sqrt_ps(a.v); }
inline vf floor(vf a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline vf rint(vf a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// ints
inline vi operator+(vi a, vi b) { return _mm512_add_epi32(a.v, b.v); }
inline vi operator-(vi a, vi b) { return _mm512_sub_epi32(a.v, b.v); }
inline vi operator*(vi a, vi b) { return _mm512_mullo_epi32(a.v, b.v); }
inline vi operator&(vi a, vi b) { return _mm512_and_si512(a.v, b.v); }
inline vi operator|(vi a, vi b) { return _mm512_or_si512(a.v, b.v); }
inline vi operator^(vi a, vi b) { return _mm512_xor_si512(a.v, b.v); }
inline vi operator<<(vi a, vi n) { return _mm512_sllv_epi32(a.v, n.v); }
inline vi operator>>(vi a, vi n) { return _mm512_srav_epi32(a.v, n.v); }
inline vi shift_bits(vi a, int n) { return _mm512_srli_epi32(a.v, unsigned(n)); }  // zeros come in from the left
inline vm operator<(vi a, vi b) { return {_mm512_cmplt_epi32_mask(a.v, b.v)}; }
inline vm operator<=(vi a, vi b) { return {_mm512_cmple_epi32_mask(a.v, b.v)}; }
inline vm operator==(vi a, vi b) { return {_mm512_cmpeq_epi32_mask(a.v, b.v)}; }
inline vm operator!=(vi a, vi b) { return {_mm512_cmpneq_epi32_mask(a.v, b.v)}; }
inline vi min(vi a, vi b) { return _mm512_min_epi32(a.v, b.v); }
inline vi max(vi a, vi b) { return _mm512_max_epi32(a.v, b.v); }
inline vi iota() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
inline vf to_float(vi a) { return _mm512_cvtepi32_ps(a.v); }
inline vi to_int(vf a) { return _mm512_cvttps_epi32(a.v); }  // towards zero
inline vf as_float(vi a) { return _mm512_castsi512_ps(a.v); }
inline vi as_int(vf a) { return _mm512_castps_si512(a.v); }

// The quotient of two 32-bit ints is at least 2^-31 (relative) from an integer it is not, so the double
// quotient rounds to the right side of it and floor is exact.
inline vi floor_div(vi a, vi b) {
    auto half = [](__m256i x, __m256i y) {
        __m512d q = _mm512_div_pd(_mm512_cvtepi32_pd(x), _mm512_cvtepi32_pd(y));
        return _mm512_cvttpd_epi32(_mm512_roundscale_pd(q, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    };
    __m256i low = half(_mm512_castsi512_si256(a.v), _mm512_castsi512_si256(b.v));
    __m256i high = half(_mm512_extracti32x8_epi32(a.v, 1), _mm512_extracti32x8_epi32(b.v, 1));
    return _mm512_inserti32x8(_mm512_castsi256_si512(low), high, 1);
}

// loads and stores; with a count, lanes from count on read as zero and are not written
inline vf load(const float* p) { return _mm512_loadu_ps(p); }
inline vf load(const float* p, int count) { return _mm512_maskz_loadu_ps(lanes_below(count).m, p); }
inline void store(float* p, vf a) { _mm512_storeu_ps(p, a.v); }
inline void store(float* p, vf a, int count) { _mm512_mask_storeu_ps(p, lanes_below(count).m, a.v); }
inline vi load(const std::int32_t* p) { return _mm512_loadu_si512(p); }
inline vi load(const std::int32_t* p, int count) { return _mm512_maskz_loadu_epi32(lanes_below(count).m, p); }
inline void store(std::int32_t* p, vi a) { _mm512_storeu_si512(p, a.v); }

inline __m256i half_words(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256i half_words(const void* p, int count) { return _mm256_maskz_loadu_epi16(lanes_below(count).m, p); }

inline vf widen_bf16(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline vf load(const bf16* p) { return widen_bf16(half_words(p)); }
inline vf load(const bf16* p, int count) { return widen_bf16(half_words(p, count)); }
inline vf load(const f16* p) { return _mm512_cvtph_ps(half_words(p)); }
inline vf load(const f16* p, int count) { return _mm512_cvtph_ps(half_words(p, count)); }

// Nearest, ties to even. The BF16 instruction also flushes subnormals to zero.
inline __m256i narrow_bf16(vf a) {
#ifdef __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(a.v);
#else
    vi u = as_int(a);
    vi odd = vi(_mm512_srli_epi32(u.v, 16)) & 1;
    vi rounded = select(a != a, u | 0x400000, u + 0x7fff + odd);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded.v, 16));
#endif
}
inline __m256i narrow_f16(vf a) { return _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline void store(bf16* p, vf a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(a)); }
inline void store(bf16* p, vf a, int count) { _mm256_mask_storeu_epi16(p, lanes_below(count).m, narrow_bf16(a)); }
inline void store(f16* p, vf a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_f16(a)); }
inline void store(f16* p, vf a, int count) { _mm256_mask_storeu_epi16(p, lanes_below(count).m, narrow_f16(a)); }

// gathers of 32-bit words; lanes outside the mask read nothing and are zero
inline vf gather(const float* p, vi at, vm m) { return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), m.m, at.v, p, 4); }
inline vi gather(const std::int32_t* p, vi at, vm m) {
    return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), m.m, at.v, p, 4);
}

}  // namespace tw
