// Sums that several threads add to: each in its turn, or alone at it in any order.
#pragma once
#include <atomic>
#include <cstdint>
#include <sched.h>
#include "frame.hpp"

namespace tw {

using Turn = std::atomic<std::int32_t>;

// Waits poll at most `most` times where that is not 0. The first that gives up says what it waited for, and nobody
// waits any more: the results of that run mean nothing, and `run` says so.
struct Waits {
    std::int64_t most = 0;
    std::atomic<bool> has_failed{false};
    const char* tensor = "";
    std::int64_t tile = 0, wanted = 0, seen = 0;

    void give_up(const char* name, std::int64_t at, int rank, int found) {
        if (!has_failed.exchange(true)) tensor = name, tile = at, wanted = rank, seen = found;
    }
};
inline Waits waits;

inline void pause_briefly(std::int64_t polls) {
    if (polls % 64 == 63) sched_yield();  // more threads than cores: let the one we wait for run
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
}

// Returns when all lower ranks have added to the tile of a turn; `first` is the turn of the tensor's tile 0.
inline void wait_for_turn(Turn& turn, int rank, const Turn* first, const char* tensor) {
    for (std::int64_t polls = 0; turn.load(std::memory_order_acquire) != rank; ++polls) {
        if (waits.most != 0 && polls >= waits.most) waits.give_up(tensor, &turn - first, rank, turn.load());
        if (waits.most != 0 && waits.has_failed.load(std::memory_order_relaxed)) return;
        pause_briefly(polls);
    }
}
inline void pass_turn(Turn& turn) { turn.fetch_add(1, std::memory_order_release); }

// Any order: a lock.
inline void enter(Turn& turn) {
    for (std::int64_t polls = 0;; ++polls) {
        std::int32_t free = 0;
        if (turn.compare_exchange_weak(free, 1, std::memory_order_acquire)) return;
        pause_briefly(polls);
    }
}
inline void leave(Turn& turn) { turn.store(0, std::memory_order_release); }

// target[r * row_step + c * column_step] += tile[r][c]
inline void add_tile(float* target, std::int64_t row_step, std::int64_t column_step, const float* tile, int stride, int rows, int columns) {
    for (int r = 0; r < rows; ++r) {
        float* to = target + r * row_step;
        const float* from = tile + r * stride;
        if (column_step == 1) {
            int c = 0;
            for (; c + W <= columns; c += W) store(to + c, load(to + c) + load(from + c));
            for (; c < columns; ++c) to[c] += from[c];
        } else {
            for (int c = 0; c < columns; ++c) to[c * column_step] += from[c];
        }
    }
}

// Turns all at 0; to be called by every thread of a parallel region, which meets at its end.
template <int RANK> void reset(const Tensor<Turn, RANK>& turns) {
    std::int64_t total = 1;
    for (int size : turns.size) total *= size;
#pragma omp for
    for (std::int64_t i = 0; i < total; ++i) new (turns.data + i) Turn(0);
}

// As for_each, but an instance starts only after all earlier ones have been started, whatever the scheduler likes:
// who waits for an earlier one then waits for somebody that runs. `next` is a turn of its own, at 0.
template <int RANK, class Body> void for_each_in_order(const int (&extents)[RANK], Turn& next, Body body) {
    std::int64_t total = 1;
    for (int extent : extents) total *= extent;
    for (std::int64_t i = next.fetch_add(1); i < total; i = next.fetch_add(1)) {
        int at[RANK];
        std::int64_t rest = i;
        for (int d = RANK - 1; d >= 0; --d) at[d] = int(rest % extents[d]), rest /= extents[d];
        body(at);
    }
#pragma omp barrier
}

}  // namespace tw
