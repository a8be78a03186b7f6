// Elementary functions on vectors and, under the same names, on floats.
//
// All carry a NaN through. Errors are in units in the last place over the whole range unless said
// otherwise; the polynomials are minimax fits of the functions written beside them.
#pragma once
#include <cmath>
#include "exp2.hpp"

namespace tw {

// Horner's rule, lowest coefficient first.
template <int N> inline vf polynomial(vf x, const float (&c)[N]) {
    vf p = c[N - 1];
    TW_UNROLL for (int i = N - 2; i >= 0; --i) p = fma(p, x, c[i]);
    return p;
}

template <class Op> inline vf lane_by_lane(vf a, vf b, Op op) {
    float x[W], y[W];
    store(x, a);
    store(y, b);
    for (int i = 0; i < W; ++i) x[i] = op(x[i], y[i]);
    return load(x);
}

// e^x = 2^n e^rest with |rest| < ln 2; n times the high part of ln 2 is exact. 3 ulp.
inline vf exp(vf x) {
    constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0.693145752f, LN2_LOW = 1.42860677e-6f;
    vf bounded = min(128.0f, max(-128.0f, x));
    vf n = floor(bounded * LOG2E);
    vf rest = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, bounded));
    return scale_by_power(exp2_fraction(rest * LOG2E), n);
}

// x = 2^exponent (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and ln(1 + f) = f + f^2 q(f).
struct LogParts { vf exponent, f, tail; };
inline LogParts log_parts(vf x) {
    static constexpr float Q[] = {-0.4999998845f, 0.3333332597f, -0.2500157278f, 0.2000194692f, -0.166093272f,
                                  0.1418255034f, -0.1324156454f, 0.1289882545f, -0.07618315553f};
    constexpr int ROOT_HALF = 0x3f3504f3;
    vm is_tiny = x < vf(0x1p-126f);
    vi bits = as_int(select(is_tiny, x * 0x1p23f, x)) - ROOT_HALF;
    vf exponent = to_float(bits >> 23) - select(is_tiny, vf(23.0f), vf(0.0f));
    vf f = as_float((bits & 0x007fffff) + ROOT_HALF) - 1.0f;
    return {exponent, f, f * f * polynomial(f, Q)};
}
inline vf log_special(vf x, vf y) {
    constexpr float INF = __builtin_inff();
    y = select(x == vf(0.0f), -INF, select(x < vf(0.0f), __builtin_nanf(""), y));
    return select((x == vf(INF)) | is_nan(x), x, y);
}

inline vf log(vf x) {  // 1 ulp
    constexpr float LN2_HIGH = 0.693145752f, LN2_LOW = 1.42860677e-6f;
    LogParts p = log_parts(x);
    return log_special(x, fma(p.exponent, LN2_HIGH, p.f + fma(p.exponent, LN2_LOW, p.tail)));
}

inline vf log2(vf x) {  // 3 ulp
    constexpr float LOG2E_HIGH = 1.4375f, LOG2E_LOW = 0.00519504089f;
    LogParts p = log_parts(x);
    vf low = fma(p.f, LOG2E_LOW, p.tail * (LOG2E_HIGH + LOG2E_LOW));
    return log_special(x, p.exponent + fma(p.f, LOG2E_HIGH, low));
}

// 1 / x for x >= 1, infinity and NaN included: an estimate of 14 bits and one step of Newton's, where there is one.
inline vf reciprocal(vf x) {
#if defined(__AVX512F__)
    __m512 guess = _mm512_rcp14_ps(x.v);
    __m512 miss = _mm512_fnmadd_ps(x.v, guess, _mm512_set1_ps(1.0f));
    return _mm512_mask_fmadd_ps(guess, (x < vf(__builtin_inff())).m, miss, guess);
#else
    return vf(1.0f) / x;
#endif
}

// Below 0.625 a polynomial in x^2, above 1 - 2 / (e^2|x| + 1). 2 ulp.
inline vf tanh(vf x) {
    static constexpr float P[] = {-0.3333328204f, 0.1333144502f, -0.05373996372f, 0.02063993712f, -0.005705976678f};
    vf square = x * x, size = abs(x);
    vf near_zero = x * fma(square, polynomial(square, P), 1.0f);
    vf far = fma(vf(-2.0f), reciprocal(exp2(size * 2.88539008f) + 1.0f), 1.0f);
    return select(size < vf(0.625f), near_zero, copysign(far, x));
}

inline vf sigmoid(vf x) { return reciprocal(exp(-x) + 1.0f); }  // 5 ulp; 0 below -88

// Below 1 a polynomial in x^2 (erf(x) / x), above 1 - 2^p(|x|) where p fits log2(erfc). 3 ulp.
inline vf erf(vf x) {
    static constexpr float NEAR[] = {1.128379166f, -0.3761262572f, 0.1128358449f, -0.02685379494f,
                                     0.005188308523f, -0.0008010111308f, 7.853821348e-5f};
    static constexpr float FAR[] = {-0.0004965992613f, -1.626030741f, -0.9206728256f, -0.1487311257f,
                                    0.03149621598f, -0.004250295713f, 0.0002686649051f};
    vf size = abs(x);
    vf far = vf(1.0f) - exp2(polynomial(min(4.0f, size), FAR));
    return select(size < vf(1.0f), x * polynomial(x * x, NEAR), copysign(far, x));
}

inline vf rsqrt(vf x) { return vf(1.0f) / sqrt(x); }

// x = quarter pi/2 + angle, to 1e-7 while fused multiply-adds keep the product with pi/2 exact and
// |x| <= ANGLE_LIMIT; beyond that (and at infinities) the C library's reduction, lane by lane.
#if defined(__FMA__) || defined(__AVX512F__)
constexpr float ANGLE_LIMIT = 1e5f;
#else
constexpr float ANGLE_LIMIT = 0.0f;
#endif
struct Angle { vi quarter; vf angle; };
inline Angle reduce_angle(vf x) {
    constexpr float TWO_OVER_PI = 0.636619772f, HALF_PI = 1.57079637f, HALF_PI_REST = -4.37113883e-8f;
    vf n = rint(x * TWO_OVER_PI);
    return {to_int(n), fma(n, -HALF_PI_REST, fma(n, -HALF_PI, x))};
}
inline vf sine_of(Angle a) {
    static constexpr float SIN[] = {-0.1666665462f, 0.00833216174f, -0.0001951541872f};
    static constexpr float COS[] = {0.04166664571f, -0.001388731758f, 2.443331199e-5f};
    vf square = a.angle * a.angle;
    vf sine = fma(a.angle * square, polynomial(square, SIN), a.angle);
    vf cosine = fma(square * square, polynomial(square, COS), fma(square, -0.5f, 1.0f));
    vf y = select((a.quarter & 1) == vi(0), sine, cosine);
    return as_float(as_int(y) ^ ((a.quarter & 2) << 30));
}
inline vf sin(vf x) {
    if (any(abs(x) > vf(ANGLE_LIMIT))) return lane_by_lane(x, x, [](float a, float) { return std::sin(a); });
    return sine_of(reduce_angle(x));
}
inline vf cos(vf x) {
    if (any(abs(x) > vf(ANGLE_LIMIT))) return lane_by_lane(x, x, [](float a, float) { return std::cos(a); });
    Angle a = reduce_angle(x);
    a.quarter = a.quarter + 1;
    return sine_of(a);
}

// Rare in scores and costly to do well in floats: the C library's, lane by lane.
inline vf pow(vf a, vf b) {
    return lane_by_lane(a, b, [](float x, float y) { return std::pow(x, y); });
}

inline float exp2(float x) { return std::exp2(x); }
inline float exp(float x) { return std::exp(x); }
inline float log(float x) { return std::log(x); }
inline float log2(float x) { return std::log2(x); }
inline float tanh(float x) { return std::tanh(x); }
inline float sigmoid(float x) { return 1.0f / (std::exp(-x) + 1.0f); }
inline float erf(float x) { return std::erf(x); }
inline float sqrt(float x) { return std::sqrt(x); }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline float sin(float x) { return std::sin(x); }
inline float cos(float x) { return std::cos(x); }
inline float pow(float x, float y) { return std::pow(x, y); }
inline float abs(float x) { return std::fabs(x); }
inline float floor(float x) { return std::floor(x); }
inline float ceil(float x) { return std::ceil(x); }
inline float trunc(float x) { return std::trunc(x); }
inline float rint(float x) { return std::nearbyint(x); }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float maximum(float a, float b) { return a != a || a > b ? a : b; }
inline float minimum(float a, float b) { return a != a || a < b ? a : b; }

}  // namespace tw
