// Two to the power x, to 3 ulp: the one transcendental in the inner loop of attention.
#pragma once
#include "vec.hpp"

namespace tw {

// Minimax polynomials for 2^f on [0, 1), constant term 1 so that exp2 is exact at the integers.
inline vf exp2_fraction(vf f) {  // error 1 ulp
    vf p = fma(f, 0.001885020745f, 0.008973986812f);
    p = fma(p, f, 0.05583547155f);
    p = fma(p, f, 0.2401529399f);
    p = fma(p, f, 0.6931524598f);
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
inline vf scale_by_power(vf x, vf n) { return _mm512_scalef_ps(x.v, n.v); }
inline vf fraction(vf x) { return _mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF); }
inline vf exp2(vf x) { return scale_by_power(exp2_fraction(fraction(x)), x); }
inline vf exp2_bf16(vf x) { return scale_by_power(exp2_fraction_coarse(fraction(x)), x); }
#else
// x 2^n from the exponent bits of an integral n: -127 gives 0 (results below 2^-126 flush), 128 infinity.
inline vf clamp_exponent(vf x) { return min(128.0f, max(-127.0f, x)); }  // NaN stays
inline vf scale_by_power(vf x, vf n) { return x * as_float((to_int(clamp_exponent(n)) + 127) << 23); }
inline vf exp2(vf x) {
    x = clamp_exponent(x);
    vf n = floor(x);
    return scale_by_power(exp2_fraction(x - n), n);
}
inline vf exp2_bf16(vf x) {
    x = clamp_exponent(x);
    vf n = floor(x);
    return scale_by_power(exp2_fraction_coarse(x - n), n);
}
#endif

}  // namespace tw
