// Scalar types of the kernels: bf16 and f16 as stored bits, and their conversions from and to float.
#pragma once
#include <cstdint>
#include <cstring>

namespace tw {

struct bf16 { std::uint16_t bits; };
struct f16 { std::uint16_t bits; };

inline std::uint32_t bits_of(float x) { std::uint32_t u; std::memcpy(&u, &x, 4); return u; }
inline float float_of(std::uint32_t u) { float x; std::memcpy(&x, &u, 4); return x; }

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return float_of(std::uint32_t(x.bits) << 16); }

// A half's exponent and mantissa fit a float's; multiplying by 2^112 rebiases, also for subnormals.
inline float to_float(f16 x) {
    std::uint32_t sign = std::uint32_t(x.bits & 0x8000u) << 16;
    std::uint32_t magnitude = std::uint32_t(x.bits & 0x7fffu) << 13;
    if (magnitude >= 0x0f800000u) return float_of(sign | magnitude | 0x70000000u);  // infinity, NaN
    return float_of(sign | bits_of(float_of(magnitude) * 0x1p112f));
}

// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
inline bf16 to_bf16(float x) {
    std::uint32_t u = bits_of(x);
    if (x != x) return {std::uint16_t((u >> 16) | 0x40u)};
    return {std::uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

// Round to nearest, ties to even. Adding a power of two 2^13 (normal) or 2^24 units (subnormal) above the
// last kept bit lets the float adder do the rounding.
inline f16 to_f16(float x) {
    std::uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {std::uint16_t(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {std::uint16_t(sign | 0x7c00u)};  // rounds to 65520 or more
    if (magnitude < 0x38800000u)
        return {std::uint16_t(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)))};
    magnitude += 0xc8000000u + 0xfffu + ((magnitude >> 13) & 1u);
    return {std::uint16_t(sign | (magnitude >> 13))};
}

template <class T> T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline bf16 from_float<bf16>(float x) { return to_bf16(x); }
template <> inline f16 from_float<f16>(float x) { return to_f16(x); }

}  // namespace tw
