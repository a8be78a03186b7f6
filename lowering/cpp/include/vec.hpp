// The vector layer: one vocabulary (vf floats, vi ints, vm masks of W lanes) over the instruction set the
// compiler was told to use. This file picks the implementation and adds what is written once for all.
#pragma once
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "vec_avx512.hpp"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "vec_avx2.hpp"
#else
#include "vec_portable.hpp"
#endif

#if defined(__clang__)
#define TW_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TW_UNROLL _Pragma("GCC unroll 64")
#endif

namespace tw {

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

inline vf operator-(vf a) { return vf(-0.0f) - a; }
inline vf& operator+=(vf& a, vf b) { return a = a + b; }
inline vf& operator-=(vf& a, vf b) { return a = a - b; }
inline vf& operator*=(vf& a, vf b) { return a = a * b; }
inline vm operator>(vf a, vf b) { return b < a; }
inline vm operator>=(vf a, vf b) { return b <= a; }
inline vi operator-(vi a) { return vi(0) - a; }
inline vm operator>(vi a, vi b) { return b < a; }
inline vm operator>=(vi a, vi b) { return b <= a; }
inline vm operator&&(vm a, vm b) { return a & b; }
inline vm operator||(vm a, vm b) { return a | b; }
inline vm operator==(vm a, vm b) { return !(a ^ b); }
inline vm operator!=(vm a, vm b) { return a ^ b; }
inline vm select(vm m, vm a, vm b) { return (m & a) | ((!m) & b); }

inline vi floor_mod(vi a, vi b) { return a - b * floor_div(a, b); }
inline vi abs(vi a) { return max(a, -a); }
inline vf abs(vf a) { return as_float(as_int(a) & 0x7fffffff); }
inline vf copysign(vf a, vf sign) {
    return as_float((as_int(a) & 0x7fffffff) | (as_int(sign) & int(0x80000000u)));
}
inline vm is_nan(vf a) { return a != a; }
inline vf ceil(vf a) { return -floor(-a); }
inline vf trunc(vf a) { return copysign(floor(abs(a)), a); }
inline vf maximum(vf a, vf b) { return select(is_nan(a), a, max(a, b)); }  // NaN where either is NaN
inline vf minimum(vf a, vf b) { return select(is_nan(a), a, min(a, b)); }

// Gathers of narrower types read the aligned 32-bit word that holds the element: it never crosses a page.
template <class T> vi gather_word(const T* p, vi at, vm m) {
    auto address = reinterpret_cast<std::uintptr_t>(p);
    auto words = reinterpret_cast<const std::int32_t*>(address & ~std::uintptr_t(3));
    vi byte = at * int(sizeof(T)) + int(address & 3);
    return gather(words, byte >> 2, m) >> ((byte & 3) << 3);
}
inline vf gather(const bf16* p, vi at, vm m) { return as_float(gather_word(p, at, m) << 16); }
inline vf gather(const f16* p, vi at, vm m) {
    std::int32_t words[W];
    f16 halves[W];
    store(words, gather_word(p, at, m));
    for (int i = 0; i < W; ++i) halves[i].bits = std::uint16_t(words[i]);
    return load(halves);
}
inline vm gather(const bool* p, vi at, vm m) { return m & ((gather_word(p, at, m) & 0xff) != 0); }
inline vi gather(const std::uint8_t* p, vi at, vm m) { return gather_word(p, at, m) & 0xff; }
inline vi gather(const std::int8_t* p, vi at, vm m) { return (gather_word(p, at, m) << 24) >> 24; }
inline vi gather(const std::int16_t* p, vi at, vm m) { return (gather_word(p, at, m) << 16) >> 16; }
inline vi gather(const std::int64_t* p, vi at, vm m) {  // the low 32 bits
    return gather(reinterpret_cast<const std::int32_t*>(p), at * 2, m);
}
template <class T> auto gather(const T* p, vi at) { return gather(p, at, mask_of(true)); }

inline vm load(const bool* p, int count = W) { return gather(p, iota(), lanes_below(count)); }
inline vi load(const std::uint8_t* p, int count = W) { return gather(p, iota(), lanes_below(count)); }
inline vi load(const std::int8_t* p, int count = W) { return gather(p, iota(), lanes_below(count)); }
inline vi load(const std::int16_t* p, int count = W) { return gather(p, iota(), lanes_below(count)); }
inline vi load(const std::int64_t* p, int count = W) { return gather(p, iota(), lanes_below(count)); }

}  // namespace tw
