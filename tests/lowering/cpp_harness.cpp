// Exports the building blocks of generated kernels with C linkage, for test_cpp_include.py.
#include "across.hpp"
#include "frame.hpp"
#include "gemm.hpp"
#include "gemm_stream.hpp"
#include "pack.hpp"
#include "vec_math.hpp"

using namespace tw;

namespace {

// How many elements of the last vector exist.
int count_of(int i, int n) { return n - i < W ? n - i : W; }

// One product of scores and one of values, as a kernel does them: pieces with any strides and any number
// of valid rows and columns, packed with zeros around them.
template <class T, int M, int N, int D>
void scores(const Rows<const T>& q, const Rows<const T>& k, int rows, int columns, float* out, int wanted) {
    constexpr int DEPTH = padded_depth<T>(D);
    alignas(64) static operand<T> left[M * DEPTH], right[N * DEPTH];
    load_rows<M, DEPTH>(q, rows, D, left);
    pack_columns<N, DEPTH>(k, columns, D, right);
    gemm<M, N, DEPTH>(left, right, out, wanted);
}

template <class T, int M, int N, int D>
void values(const Rows<const T>& p, const Rows<const T>& v, int rows, int columns, const float* scale, float* out) {
    constexpr int DEPTH = padded_depth<T>(N), WIDTH = round_up(D, 16);
    alignas(64) static operand<T> left[M * DEPTH], right[DEPTH * WIDTH];
    load_rows<M, DEPTH>(p, rows, columns, left);
    pack_rows<DEPTH, WIDTH>(v, columns, D, right);
    gemm_into<M, WIDTH, DEPTH>(left, right, scale, out);
}

// The same with few rows, and right matrices read where they lie: in order, as a list of rows in order, or as a
// list of rows in reverse.
template <class T, int N, class Multiply> void where_it_lies(const Rows<const T>& b, int have, int order, Multiply multiply) {
    if (order == 0) return multiply(b);
    const T* list[N];
    for (int n = 0; n < have; ++n) list[n] = b.row(order == 1 ? n : have - 1 - n);
    multiply(Places<const T>{list, b.column_stride});
}

template <class T, int N, int D>
void few_scores(const Rows<const T>& q, const Rows<const T>& k, int rows, int columns, int order, float* out) {
    constexpr int DEPTH = padded_depth<T>(D);
    alignas(64) static operand<T> left[16 * DEPTH];
    load_rows<16, DEPTH>(q, rows, D, left);
    where_it_lies<T, N>(k, columns, order, [&](const auto& b) { multiply_columns<16, N, D, T>(left, b, columns, out, rows); });
}

template <class T, int N, int D>
void few_values(const Rows<const T>& p, const Rows<const T>& v, int rows, int columns, int order, const float* scale, float* out) {
    constexpr int DEPTH = padded_depth<T>(N);
    alignas(64) static operand<T> left[16 * DEPTH];
    load_rows<16, DEPTH>(p, rows, columns, left);
    where_it_lies<T, N>(v, columns, order, [&](const auto& b) {
        if (scale) multiply_rows<16, N, D, T, true>(left, b, columns, scale, out, rows);
        else multiply_rows<16, N, D, T, false>(left, b, columns, ones<16>(), out, rows);
    });
}

}  // namespace

extern "C" {

int width() { return W; }

void start() {
#if defined(__AMX_BF16__)
    amx_permitted();
#endif
}

#define UNARY(name)                                                                        \
    void vector_##name(const float* x, float* y, int n) {                                  \
        for (int i = 0; i < n; i += W) store(y + i, tw::name(load(x + i, count_of(i, n))), count_of(i, n)); \
    }
UNARY(exp2) UNARY(exp2_bf16) UNARY(exp) UNARY(log) UNARY(log2) UNARY(tanh) UNARY(sigmoid) UNARY(erf)
UNARY(sqrt) UNARY(rsqrt) UNARY(sin) UNARY(cos) UNARY(floor) UNARY(ceil) UNARY(trunc) UNARY(rint) UNARY(abs)

#define SCALAR(name)                                                \
    void scalar_##name(const float* x, float* y, int n) {           \
        for (int i = 0; i < n; ++i) y[i] = tw::name(x[i]);              \
    }
SCALAR(exp2) SCALAR(exp) SCALAR(log) SCALAR(log2) SCALAR(tanh) SCALAR(sigmoid) SCALAR(erf) SCALAR(rsqrt)

#define BINARY(name)                                                                       \
    void vector_##name(const float* x, const float* y, float* z, int n) {                  \
        for (int i = 0; i < n; i += W) store(z + i, tw::name(load(x + i), load(y + i)));       \
    }
BINARY(pow) BINARY(maximum) BINARY(minimum)

#define NARROW(T)                                                                          \
    void vector_to_##T(const float* x, T* y, int n) {                                      \
        for (int i = 0; i < n; i += W)                                                     \
            if (count_of(i, n) == W) store(y + i, load(x + i));                            \
            else store(y + i, load(x + i, count_of(i, n)), count_of(i, n));                \
    }                                                                                      \
    void vector_from_##T(const T* x, float* y, int n) {                                    \
        for (int i = 0; i < n; i += W)                                                     \
            if (count_of(i, n) == W) store(y + i, load(x + i));                            \
            else store(y + i, load(x + i, count_of(i, n)), count_of(i, n));                \
    }                                                                                      \
    void scalar_to_##T(const float* x, T* y, int n) {                                      \
        for (int i = 0; i < n; ++i) y[i] = from_float<T>(x[i]);                            \
    }                                                                                      \
    void scalar_from_##T(const T* x, float* y, int n) {                                    \
        for (int i = 0; i < n; ++i) y[i] = to_float(x[i]);                                 \
    }                                                                                      \
    void gather_##T(const T* base, const int* at, float* y, int count) {                   \
        store(y, gather(base, load(at), lanes_below(count)));                              \
    }
NARROW(bf16) NARROW(f16)

void gather_float(const float* base, const int* at, float* y, int count) {
    store(y, gather(base, load(at), lanes_below(count)));
}
void gather_bool(const bool* base, const int* at, int* y, int count) {
    store(y, select(gather(base, load(at), lanes_below(count)), vi(1), vi(0)));
}
void gather_long(const std::int64_t* base, const int* at, int* y, int count) {
    store(y, gather(base, load(at), lanes_below(count)));
}

void int_divide(const int* a, const int* b, int* quotient, int* rest, int n) {
    for (int i = 0; i < n; i += W) {
        store(quotient + i, floor_div(load(a + i), load(b + i)));
        store(rest + i, floor_mod(load(a + i), load(b + i)));
    }
}

void across_rows(const float* x, float* largest, float* sums) {
    vf rows[W];
    for (int r = 0; r < W; ++r) rows[r] = load(x + r * W);
    store(largest, max_across(rows));
    store(sums, sum_across(rows));
}

#define PRODUCTS(T, M, N, D)                                                                                      \
    void scores_##T##_##M##_##N##_##D(const T* q, const long* qs, const T* k, const long* ks, int rows,           \
                                      int columns, float* out, int wanted) {                                      \
        TileScope tiles;                                                                                          \
        scores<T, M, N, D>({q, qs[0], qs[1]}, {k, ks[0], ks[1]}, rows, columns, out, wanted);                     \
    }                                                                                                             \
    void values_##T##_##M##_##N##_##D(const T* p, const long* ps, const T* v, const long* vs, int rows,           \
                                      int columns, const float* scale, float* out) {                              \
        TileScope tiles;                                                                                          \
        values<T, M, N, D>({p, ps[0], ps[1]}, {v, vs[0], vs[1]}, rows, columns, scale, out);                      \
    }
PRODUCTS(float, 96, 64, 64) PRODUCTS(float, 16, 32, 40) PRODUCTS(float, 32, 80, 7)
PRODUCTS(bf16, 32, 128, 64) PRODUCTS(bf16, 48, 48, 40) PRODUCTS(bf16, 16, 80, 97)
PRODUCTS(f16, 32, 64, 40)

#define FEW(T, N, D)                                                                                              \
    void few_scores_##T##_##N##_##D(const T* q, const long* qs, const T* k, const long* ks, int rows,             \
                                    int columns, int order, float* out) {                                         \
        TileScope tiles;                                                                                          \
        few_scores<T, N, D>({q, qs[0], qs[1]}, {k, ks[0], ks[1]}, rows, columns, order, out);                     \
    }                                                                                                             \
    void few_values_##T##_##N##_##D(const T* p, const long* ps, const T* v, const long* vs, int rows,             \
                                    int columns, int order, const float* scale, float* out) {                     \
        TileScope tiles;                                                                                          \
        few_values<T, N, D>({p, ps[0], ps[1]}, {v, vs[0], vs[1]}, rows, columns, order, scale, out);              \
    }
FEW(float, 64, 64) FEW(float, 32, 40) FEW(float, 48, 7) FEW(float, 16, 272) FEW(f16, 32, 72)
FEW(bf16, 64, 64) FEW(bf16, 96, 80) FEW(bf16, 32, 97) FEW(bf16, 64, 256)
}
