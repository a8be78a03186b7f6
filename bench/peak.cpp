// What a processor can do at most: fused multiply-adds, bf16 dot products of vectors, and of tiles, on registers
// alone; and reading memory.
//
// Each function of arithmetic runs `steps` operations on every chain of every thread and returns the floating-point
// operations done; zero where the processor or the compiler's flags lack the unit.
#include "amx.hpp"
#include "vec.hpp"

namespace {

// Independent chains per thread: enough to hide the latency of the units, few enough to stay in registers.
#if defined(__AVX2__)
constexpr int CHAINS = 12;
#else
constexpr int CHAINS = 6;
#endif

template <class Work> double on_all_threads(Work work) {
    double flops = 0;
#pragma omp parallel reduction(+ : flops)
    flops += work();
    return flops;
}

template <class Step> double chains(long steps, double flops, Step step) {
    return on_all_threads([&] {
        tw::vf chain[CHAINS];
        TW_UNROLL for (int i = 0; i < CHAINS; ++i) chain[i] = tw::vf(float(i));
        for (long s = 0; s < steps; ++s)
            TW_UNROLL for (int i = 0; i < CHAINS; ++i) chain[i] = step(chain[i]);
        float results[CHAINS * tw::W];
        TW_UNROLL for (int i = 0; i < CHAINS; ++i) tw::store(results + i * tw::W, chain[i]);
        asm volatile("" ::"r"(results) : "memory");  // the results count as used
        return flops * CHAINS * double(steps);
    });
}

}  // namespace

extern "C" double peak_fma(long steps) {
    volatile float factor = 0.999f, addend = 1e-3f;  // volatile: unknown to the compiler
    tw::vf a(factor), b(addend);
    return chains(steps, 2.0 * tw::W, [&](tw::vf x) { return tw::fma(x, a, b); });
}

extern "C" double peak_dot(long steps) {
#if defined(__AVX512BF16__)
    volatile float factor = 1e-3f;
    __m512 both = _mm512_set1_ps(factor);
    __m512bh a = _mm512_cvtne2ps_pbh(both, both);
    return chains(steps, 4.0 * tw::W, [&](tw::vf x) { return tw::vf(_mm512_dpbf16_ps(x.v, a, a)); });
#else
    return steps * 0.0;
#endif
}

extern "C" double peak_tile(long steps) {
#if defined(__AMX_BF16__)
    if (!tw::amx_permitted()) return 0;
    return on_all_threads([&] {
        alignas(64) static const unsigned char zeros[16 * 64] = {};
        tw::TileScope scope;
        tw::tile_load<4>(zeros, 64), tw::tile_load<5>(zeros, 64);
        tw::tile_load<6>(zeros, 64), tw::tile_load<7>(zeros, 64);
        tw::tile_zero<0>(), tw::tile_zero<1>(), tw::tile_zero<2>(), tw::tile_zero<3>();
        for (long s = 0; s < steps; ++s) {  // two by two accumulators, as a matrix product has them
            tw::tile_dot<0, 4, 6>(), tw::tile_dot<1, 4, 7>();
            tw::tile_dot<2, 5, 6>(), tw::tile_dot<3, 5, 7>();
        }
        return 4 * 2.0 * 16 * 16 * 32 * double(steps);
    });
#else
    return steps * 0.0;
#endif
}

// Reads memory once with every thread, in pieces that go to whoever is free, as kernels hand out their work; the
// bytes read. What was read is combined, so that no load can be left out.
extern "C" double read_memory(const char* data, long bytes) {
    constexpr long PIECE = 1 << 17, STEP = 4 * tw::W * sizeof(float), AHEAD = 4096;
    const long pieces = bytes / PIECE;
#pragma omp parallel for schedule(dynamic, 1)
    for (long p = 0; p < pieces; ++p) {
        tw::vi all[4] = {0, 0, 0, 0};
        for (long at = p * PIECE; at < (p + 1) * PIECE; at += STEP) {
            TW_UNROLL for (long line = 0; line < STEP; line += 64) __builtin_prefetch(data + at + AHEAD + line);
            TW_UNROLL for (int i = 0; i < 4; ++i)
                all[i] = all[i] | tw::load(reinterpret_cast<const std::int32_t*>(data + at) + i * tw::W);
        }
        std::int32_t found[tw::W];
        tw::store(found, (all[0] | all[1]) | (all[2] | all[3]));
        asm volatile("" ::"r"(found) : "memory");  // what was found counts as used
    }
    return double(pieces * PIECE);
}
