// Sums of elements that lie at places of their own, and sums of whole tiles of one element a row.
#pragma once
#include "frame.hpp"

namespace tw {

// x[0] + … + x[W - 1]
inline float sum_of_lanes(vf x) {
    alignas(64) float part[W];
    store(part, x);
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) part[i] += part[i + half];
    return part[0];
}

// x[0] + … + x[count - 1]: lane by lane, then across
inline float sum_of_rows(const float* x, int count) {
    vf total = 0.0f;
    int r = 0;
    for (; r + W <= count; r += W) total = total + load(x + r);
    if (r < count) total = total + load(x + r, count - r);
    return sum_of_lanes(total);
}

inline vf reversed(vf x) {
    alignas(64) float in[W], out[W];
    store(in, x);
    for (int i = 0; i < W; ++i) out[i] = in[W - 1 - i];
    return load(out);
}

// base[at[i]] += x[i] for the lanes of m. Where all lanes mean one place, they are added across; where they follow each
// other, up or down, they are added as a vector; else neighbours at one place are added up first, so that none waits for
// the store of the one before.
inline void scatter_add(float* base, vi at, vf x, vm m) {
    alignas(64) std::int32_t place[W];
    alignas(64) float value[W];
    if (!any(m)) return;
    store(place, at);
    if (!any(!m)) {
        const vi step = at - vi(place[0]);
        if (!any(step != vi(0))) {
            base[place[0]] += sum_of_lanes(x);
            return;
        }
        if (!any(step != iota())) {
            store(base + place[0], load(base + place[0]) + x);
            return;
        }
        if (!any(step != -iota())) {
            float* low = base + place[W - 1];
            store(low, load(low) + reversed(x));
            return;
        }
        store(value, x);
        float run = value[0];
        for (int i = 1; i < W; ++i) {
            if (place[i] == place[i - 1]) {
                run += value[i];
                continue;
            }
            base[place[i - 1]] += run;
            run = value[i];
        }
        base[place[W - 1]] += run;
        return;
    }
    alignas(64) std::int32_t is_there[W];
    store(is_there, select(m, vi(1), vi(0)));
    store(value, x);
    for (int i = 0; i < W; ++i)
        if (is_there[i]) base[place[i]] += value[i];
}

}  // namespace tw
