// Online softmax state of a tile of rows: running peak (base 2) and mass, updated W rows at a time.
#pragma once
#include "across.hpp"
#include "exp2.hpp"

namespace tw {

// What W rows need to turn scores into probabilities: p = exp2(score - base).
// An all -inf row has base 0, so that its p are 0 and not NaN.
struct Step {
    alignas(64) float base[W];
    vf rescale;  // exp2(old peak - base): what earlier mass and accumulators count for
};

// peak = max(peak, tops across lanes), for the W rows whose lane-wise maxima are `tops`.
inline Step raise_peak(const vf (&tops)[W], float* peak) {
    Step step;
    vf old = load(peak), next = max(max_across(tops), old);
    vf base = select(next > vf(-__builtin_inff()), next, 0.0f);
    store(peak, next);
    store(step.base, base);
    step.rescale = exp2(old - base);
    return step;
}

// mass = mass * rescale + sums across lanes.
inline void add_mass(const vf (&sums)[W], vf rescale, float* mass) {
    store(mass, fma(load(mass), rescale, sum_across(sums)));
}

}  // namespace tw
