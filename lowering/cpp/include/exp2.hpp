// Two to the power x: the one transcendental in the inner loop of attention.
#pragma once
#include "vec.hpp"

namespace tw {

// Minimax polynomials for 2^f on [0, 1), constant term 1 so that exp2 is exact at the integers.
inline vf exp2_fraction(vf f) {  // relative error 8.3e-8
    vf p = fma(f, 0.00186713073845f, 0.00901702859762f);
    p = fma(p, f, 0.0557999146725f);
    p = fma(p, f, 0.240164449574f);
    p = fma(p, f, 0.693151311875f);
    return fma(p, f, 1.0f);
}
inline vf exp2_fraction_coarse(vf f) {  // relative error 8.6e-5, a twentieth of half a bf16 ulp
    vf p = fma(f, 0.0770670465406f, 0.227644984877f);
    p = fma(p, f, 0.695116788384f);
    return fma(p, f, 1.0f);
}

#if defined(__AVX512DQ__)
// reduce gives x - floor(x) (0 at infinities) and scalef multiplies by 2^floor(x), so that -inf -> 0,
// overflow -> inf and NaN -> NaN need no instruction of their own.
inline vf fraction(vf x) { return _mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF); }
inline vf exp2(vf x) { return _mm512_scalef_ps(exp2_fraction(fraction(x)).v, x.v); }
inline vf exp2_bf16(vf x) { return _mm512_scalef_ps(exp2_fraction_coarse(fraction(x)).v, x.v); }
#else
// 2^n for integral n in [-127, 128] from its exponent bits; -127 gives 0 (results below 2^-126 flush) and
// 128 gives infinity.
inline vf power_of_two(vf n) { return as_float((to_int(n) + 127) << 23); }
inline vf clamp_exponent(vf x) { return min(128.0f, max(-127.0f, x)); }  // NaN stays
inline vf exp2(vf x) {
    x = clamp_exponent(x);
    vf n = floor(x);
    return exp2_fraction(x - n) * power_of_two(n);
}
inline vf exp2_bf16(vf x) {
    x = clamp_exponent(x);
    vf n = floor(x);
    return exp2_fraction_coarse(x - n) * power_of_two(n);
}
#endif

}  // namespace tw
