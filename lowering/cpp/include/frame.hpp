// What generated kernels stand on: tensors with strides, workspace, grids over threads, tile summaries.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include "vec.hpp"

namespace tw {

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
// Dividing by zero gives 0: it happens only where the result is not used, and must not trap there.
inline int floor_div(int a, int b) { return b == 0 ? 0 : a / b - (a % b != 0 && (a < 0) != (b < 0)); }
inline int floor_mod(int a, int b) { return a - b * floor_div(a, b); }
inline int shift_bits(int a, int n) { return int(unsigned(a) >> n); }

// While it lives, numbers below 2^-126 are zero in this thread: weights that small change no sum, and cost a hundred times
// as much as others.
class FlushScope {
#if defined(__SSE__)
    unsigned before = __builtin_ia32_stmxcsr();

public:
    FlushScope() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~FlushScope() { __builtin_ia32_ldmxcsr(before); }
#else
public:
    FlushScope() {}
#endif
    FlushScope(const FlushScope&) = delete;
    FlushScope& operator=(const FlushScope&) = delete;
};

// A tensor of RANK dimensions; strides count elements.
template <class T, int RANK> struct Tensor {
    T* data;
    std::int64_t stride[RANK > 0 ? RANK : 1];
    int size[RANK > 0 ? RANK : 1];

    // A computed index kept inside dimension d: what lies outside is never used, but must not be read either.
    int inside(int d, int index) const { return std::max(0, std::min(index, size[d] - 1)); }
    vi inside(int d, vi index) const { return max(vi(0), min(index, vi(size[d] - 1))); }

    template <class... I> T* at(I... index) const {
        static_assert(sizeof...(I) == RANK, "one index per dimension");
        std::int64_t offset = 0;
        int d = 0;
        ((offset += std::int64_t(index) * stride[d++]), ...);
        return data + offset;
    }
};

// Packed blocks of SIZE elements: the last of RANK indices counts blocks.
template <class E, int SIZE, int RANK> struct Blocks {
    E* data;
    std::int64_t count[RANK];

    template <class... I> E* block(I... index) const {
        static_assert(sizeof...(I) == RANK, "one index per dimension");
        std::int64_t number = 0;
        int d = 0;
        ((number = number * count[d++] + index), ...);
        return data + number * SIZE;
    }
};

// Workspace handed out piece by piece, each aligned to a cache line; without memory it only counts.
class Arena {
    std::uintptr_t base, used = 0;

public:
    explicit Arena(std::int64_t address) : base(std::uintptr_t(address)) {}
    template <class E> E* take(std::int64_t elements) {
        auto at = base + used;
        used += (std::uintptr_t(elements) * sizeof(E) + 63) / 64 * 64;
        return reinterpret_cast<E*>(at);
    }
    std::int64_t bytes() const { return std::int64_t(used); }
};

// Reads the arguments: for each tensor its address, strides and sizes, then sizes by name.
class Reader {
    const std::int64_t* next;

public:
    explicit Reader(const std::int64_t* values) : next(values) {}
    int size() { return int(*next++); }
    template <class T, int RANK> Tensor<T, RANK> tensor() {
        Tensor<T, RANK> x;
        x.data = reinterpret_cast<T*>(std::uintptr_t(*next++));
        for (int d = 0; d < RANK; ++d) x.stride[d] = *next++;
        for (int d = 0; d < RANK; ++d) x.size[d] = int(*next++);
        return x;
    }
};

// Row-major tensor of the given sizes in workspace.
template <class T, int RANK> Tensor<T, RANK> plain(Arena& arena, const std::int64_t (&sizes)[RANK]) {
    Tensor<T, RANK> x;
    std::int64_t total = 1;
    for (int d = RANK - 1; d >= 0; --d) x.stride[d] = total, total *= sizes[d], x.size[d] = int(sizes[d]);
    x.data = arena.take<T>(total);
    return x;
}
template <class E, int SIZE, int RANK> Blocks<E, SIZE, RANK> packed(Arena& arena, const std::int64_t (&counts)[RANK]) {
    Blocks<E, SIZE, RANK> x;
    std::int64_t total = SIZE;
    for (int d = 0; d < RANK; ++d) x.count[d] = counts[d], total *= counts[d];
    x.data = arena.take<E>(total);
    return x;
}

// Elements by value, as the kind of number the kernel computes with.
inline float value_of(float x) { return x; }
inline float value_of(double x) { return float(x); }
inline float value_of(bf16 x) { return to_float(x); }
inline float value_of(f16 x) { return to_float(x); }
inline bool value_of(bool x) { return x; }
template <class T> inline std::enable_if_t<std::is_integral<T>::value, int> value_of(T x) { return int(x); }

template <class T, int RANK, class... I> auto element(const Tensor<T, RANK>& x, I... index) {
    std::int64_t offset = 0;
    int d = 0;
    ((offset += x.inside(d, int(index)) * x.stride[d], ++d), ...);
    return value_of(x.data[offset]);
}

// W elements that lie `stride` apart; with a count, lanes from it on read nothing and are zero.
template <class T> auto lanes(const T* p, std::int64_t stride, int count = W) {
    using V = decltype(load(p, count));
    if (count <= 0) return V(gather(p, vi(0), mask_of(false)));
    if (stride == 1) return count >= W ? V(load(p)) : V(load(p, count));
    return V(gather(p, iota() * int(stride), lanes_below(count)));
}

// Writes lanes `stride` apart; lanes from count on are not written.
template <class T> void store_lanes(T* p, std::int64_t stride, vf x, int count) {
    if (stride == 1) {
        if (count >= W) store(p, x);
        else store(p, x, count);
        return;
    }
    float values[W];
    store(values, x);
    for (int i = 0; i < std::min(count, W); ++i) p[i * stride] = from_float<T>(values[i]);
}

// Writes a row of vectors; bfloat16 in whole cache lines, which tile registers read back without a stall.
template <int N> void store_row(float* p, const vf (&x)[N]) {
    TW_UNROLL for (int c = 0; c < N; ++c) store(p + c * W, x[c]);
}
template <int N> void store_row(bf16* p, const vf (&x)[N]) {
    int c = 0;
#if defined(__AVX512BF16__) && defined(__AVX512F__)
    TW_UNROLL for (; c + 2 <= N; c += 2) _mm512_storeu_si512(p + c * W, (__m512i)_mm512_cvtne2ps_pbh(x[c + 1].v, x[c].v));
#endif
    for (; c < N; ++c) store(p + c * W, x[c]);
}

// One factor per row where nothing is to be scaled.
template <int M> const float* ones() {
    alignas(64) static const struct Ones {
        float x[M];
        Ones() { std::fill(x, x + M, 1.0f); }
    } all;
    return all.x;
}

// Runs body(indices of instance i) for all points of a grid, one at a time per thread, in order; to be called by
// every thread of a parallel region, which meets at its end.
template <int RANK, class Body> void for_each(const int (&extents)[RANK], Body body) {
    std::int64_t total = 1;
    for (int extent : extents) total *= extent;
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t i = 0; i < total; ++i) {
        int at[RANK];
        std::int64_t rest = i;
        for (int d = RANK - 1; d >= 0; --d) at[d] = int(rest % extents[d]), rest /= extents[d];
        body(at);
    }
}

// The least (or greatest) element of each tile of up to two dimensions, NaN where there is one; called by every
// thread of a parallel region, which meets at its end. tile[d] is 1 for dimensions that stay.
template <class T, class R, int RANK>
void summarise(const Tensor<T, RANK>& x, const int (&sizes)[RANK], const int (&tile)[RANK], bool greatest, const Tensor<R, RANK>& out) {
    int counts[RANK];
    for (int d = 0; d < RANK; ++d) counts[d] = ceil_div(sizes[d], tile[d]);
    for_each(counts, [&](const int (&at)[RANK]) {
        std::int64_t offset = 0, to = 0, total = 1;
        int span[RANK], from[RANK] = {};
        for (int d = 0; d < RANK; ++d) {
            offset += std::int64_t(at[d]) * tile[d] * x.stride[d], to += at[d] * out.stride[d];
            span[d] = std::min(tile[d], sizes[d] - at[d] * tile[d]), total *= span[d];
        }
        const int inner = span[RANK - 1];
        R best = R(value_of(x.data[offset]));
        for (std::int64_t done = 0; done < total; done += inner) {
            std::int64_t start = offset;
            for (int d = 0; d < RANK - 1; ++d) start += from[d] * x.stride[d];
            for (int e = 0; e < inner; ++e) {
                R y = R(value_of(x.data[start + e * x.stride[RANK - 1]]));
                best = (greatest ? y > best : y < best) || y != y ? y : best;
            }
            for (int d = RANK - 2; d >= 0 && ++from[d] == span[d]; --d) from[d] = 0;
        }
        out.data[to] = best;
    });
}

}  // namespace tw
