// Advanced Matrix Extensions: permission, tile configuration of a thread, and the four tile instructions.
#pragma once
#if defined(__AMX_BF16__) && defined(__x86_64__)
#include <cstdint>
#include <cstring>
#include <sys/syscall.h>
#include <unistd.h>

namespace tw {

// Asks the kernel once per process for the tile registers; false where machine or kernel has none.
inline bool amx_permitted() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    static const bool granted = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    return granted;
}

// Gives this thread eight tiles of 16 rows of 64 bytes, and back what it had before: the framework's own
// kernels assume that the configuration they loaded stays.
class TileScope {
    struct alignas(64) Config {
        std::uint8_t palette, start_row, reserved[14];
        std::uint16_t row_bytes[16];
        std::uint8_t rows[16];
    };
    Config before;

public:
    TileScope() {
        amx_permitted();
        asm volatile("sttilecfg %0" : "=m"(before));
        Config ours = {};
        ours.palette = 1;
        for (int t = 0; t < 8; ++t) ours.row_bytes[t] = 64, ours.rows[t] = 16;
        asm volatile("ldtilecfg %0" : : "m"(ours));
    }
    ~TileScope() {
        if (before.palette == 0) asm volatile("tilerelease");
        else asm volatile("ldtilecfg %0" : : "m"(before));
    }
    TileScope(const TileScope&) = delete;
    TileScope& operator=(const TileScope&) = delete;
};

// The clobbers tell the compiler that tiles read and write memory behind these pointers.
template <int T> void tile_zero() { asm volatile("tilezero %%tmm%c0" : : "i"(T)); }
template <int T> void tile_load(const void* p, long stride_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride_bytes), "i"(T) : "memory");
}
// A load of data that is used once: leaves the first-level cache to what is used again.
template <int T> void tile_stream(const void* p, long stride_bytes) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride_bytes), "i"(T) : "memory");
}
template <int T> void tile_store(void* p, long stride_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride_bytes), "i"(T) : "memory");
}
template <int C, int A, int B> void tile_dot() {  // C += A B over 32 bf16
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

}  // namespace tw
#else
namespace tw {
struct TileScope {
    TileScope() {}
};
}  // namespace tw
#endif
