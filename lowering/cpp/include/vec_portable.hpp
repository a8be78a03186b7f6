// Eight-lane vectors from the compiler's own vector types: any processor, no intrinsics.
#pragma once
#include <cmath>
#include "scalar.hpp"

namespace tw {

constexpr int W = 8;

typedef float floats __attribute__((vector_size(4 * W)));
typedef std::int32_t ints __attribute__((vector_size(4 * W)));

struct vm { ints m; };  // a lane is all ones or all zeros

struct vf {
    floats v;
    vf() = default;
    vf(floats x) : v(x) {}
    vf(float x) : v(x - floats{}) {}
};

struct vi {
    ints v;
    vi() = default;
    vi(ints x) : v(x) {}
    vi(int x) : v(x - ints{}) {}
};

inline vf as_float(vi a) { return (floats)a.v; }
inline vi as_int(vf a) { return (ints)a.v; }
inline vi iota() { return ints{0, 1, 2, 3, 4, 5, 6, 7}; }
template <class Op> vf each(vf a, Op op) {
    for (int i = 0; i < W; ++i) a.v[i] = op(a.v[i]);
    return a;
}

// masks
inline vm operator&(vm a, vm b) { return {a.m & b.m}; }
inline vm operator|(vm a, vm b) { return {a.m | b.m}; }
inline vm operator^(vm a, vm b) { return {a.m ^ b.m}; }
inline vm operator!(vm a) { return {~a.m}; }
inline vm mask_of(bool x) { return {vi(x ? -1 : 0).v}; }
inline vm lanes_below(int n) { return {iota().v < n}; }
inline bool any(vm a) {
    int bits = 0;
    for (int i = 0; i < W; ++i) bits |= a.m[i];
    return bits != 0;
}
inline vi select(vm m, vi a, vi b) { return (a.v & m.m) | (b.v & ~m.m); }
inline vf select(vm m, vf a, vf b) { return as_float(select(m, as_int(a), as_int(b))); }

// floats
inline vf operator+(vf a, vf b) { return a.v + b.v; }
inline vf operator-(vf a, vf b) { return a.v - b.v; }
inline vf operator*(vf a, vf b) { return a.v * b.v; }
inline vf operator/(vf a, vf b) { return a.v / b.v; }
inline vm operator<(vf a, vf b) { return {a.v < b.v}; }
inline vm operator<=(vf a, vf b) { return {a.v <= b.v}; }
inline vm operator==(vf a, vf b) { return {a.v == b.v}; }
inline vm operator!=(vf a, vf b) { return {a.v != b.v}; }
inline vf fma(vf a, vf b, vf c) { return a.v * b.v + c.v; }  // rounds once or twice, as the processor has it
inline vf min(vf a, vf b) { return select(a < b, a, b); }    // b where either is NaN, as x86 does
inline vf max(vf a, vf b) { return select(b < a, a, b); }
inline vf sqrt(vf a) { return each(a, [](float x) { return std::sqrt(x); }); }
inline vf floor(vf a) { return each(a, [](float x) { return std::floor(x); }); }
inline vf rint(vf a) { return each(a, [](float x) { return std::nearbyint(x); }); }

// ints
inline vi operator+(vi a, vi b) { return a.v + b.v; }
inline vi operator-(vi a, vi b) { return a.v - b.v; }
inline vi operator*(vi a, vi b) { return a.v * b.v; }
inline vi operator&(vi a, vi b) { return a.v & b.v; }
inline vi operator|(vi a, vi b) { return a.v | b.v; }
inline vi operator^(vi a, vi b) { return a.v ^ b.v; }
inline vi operator<<(vi a, vi n) { return a.v << n.v; }
inline vi operator>>(vi a, vi n) { return a.v >> n.v; }
inline vi shift_bits(vi a, int n) { return (a.v >> n) & ints(vi(int((1u << (32 - n)) - 1u)).v); }  // zeros come in
inline vm operator<(vi a, vi b) { return {a.v < b.v}; }
inline vm operator<=(vi a, vi b) { return {a.v <= b.v}; }
inline vm operator==(vi a, vi b) { return {a.v == b.v}; }
inline vm operator!=(vi a, vi b) { return {a.v != b.v}; }
inline vi min(vi a, vi b) { return select(a < b, a, b); }
inline vi max(vi a, vi b) { return select(b < a, a, b); }
inline vf to_float(vi a) { return __builtin_convertvector(a.v, floats); }
inline vi to_int(vf a) { return __builtin_convertvector(a.v, ints); }  // towards zero
inline vi floor_div(vi a, vi b) {
    for (int i = 0; i < W; ++i) {
        int quotient = a.v[i] / b.v[i], rest = a.v[i] % b.v[i];
        a.v[i] = quotient - (rest != 0 && (rest < 0) != (b.v[i] < 0));
    }
    return a;
}

// loads and stores; with a count, lanes from count on read as zero and are not written
inline vf load(const float* p) {
    vf x;
    std::memcpy(&x.v, p, sizeof x.v);
    return x;
}
inline void store(float* p, vf a) { std::memcpy(p, &a.v, sizeof a.v); }
inline vi load(const std::int32_t* p) {
    vi x;
    std::memcpy(&x.v, p, sizeof x.v);
    return x;
}
inline vi load(const std::int32_t* p, int count) {
    vi x = 0;
    for (int i = 0; i < W && i < count; ++i) x.v[i] = p[i];
    return x;
}
inline void store(std::int32_t* p, vi a) { std::memcpy(p, &a.v, sizeof a.v); }
template <class T> vf load(const T* p, int count) {
    vf x = 0.0f;
    for (int i = 0; i < W && i < count; ++i) x.v[i] = to_float(p[i]);
    return x;
}
template <class T> void store(T* p, vf a, int count) {
    for (int i = 0; i < W && i < count; ++i) p[i] = from_float<T>(a.v[i]);
}
inline vf load(const bf16* p) { return load(p, W); }
inline vf load(const f16* p) { return load(p, W); }
inline void store(bf16* p, vf a) { store(p, a, W); }
inline void store(f16* p, vf a) { store(p, a, W); }

// gathers of 32-bit words; lanes outside the mask read nothing and are zero
inline vf gather(const float* p, vi at, vm m) {
    vf x = 0.0f;
    for (int i = 0; i < W; ++i)
        if (m.m[i]) x.v[i] = p[at.v[i]];
    return x;
}
inline vi gather(const std::int32_t* p, vi at, vm m) {
    vi x = 0;
    for (int i = 0; i < W; ++i)
        if (m.m[i]) x.v[i] = p[at.v[i]];
    return x;
}

}  // namespace tw
