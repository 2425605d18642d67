// The machine's multiply-add peak and the clocks that benchmarks compare with it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/instruction_set.hpp>

#include <time.h>

#include <functional>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace espalier::benchmark {

inline double seconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

inline constexpr int kSteps = 400000;
inline volatile double keep;  // results go here, so that the loops stay

#if defined(__x86_64__)
#define ESPALIER_PEAK(name, target_name, vector, set, fma, add)                                                     \
  __attribute__((target(target_name))) inline void name() {                                                         \
    const vector x = set(0.999f), y = set(0.001f);                                                                  \
    /* Different starts: equal ones would be one chain. */                                                          \
    vector c0 = set(.0f), c1 = set(.1f), c2 = set(.2f), c3 = set(.3f), c4 = set(.4f), c5 = set(.5f), c6 = set(.6f), \
           c7 = set(.7f), c8 = set(.8f), c9 = set(.9f);                                                             \
    for (int i = 0; i < kSteps; ++i) {                                                                              \
      c0 = fma(c0, x, y), c1 = fma(c1, x, y), c2 = fma(c2, x, y), c3 = fma(c3, x, y);                               \
      c4 = fma(c4, x, y), c5 = fma(c5, x, y), c6 = fma(c6, x, y), c7 = fma(c7, x, y);                               \
      c8 = fma(c8, x, y), c9 = fma(c9, x, y);                                                                       \
    }                                                                                                               \
    const vector sum = add(add(add(add(c0, c1), add(c2, c3)), add(add(c4, c5), add(c6, c7))), add(c8, c9));         \
    keep = static_cast<double>(sum[0]);                                                                             \
  }
#define ESPALIER_MULTIPLY_ADD(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
ESPALIER_PEAK(peak_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps)
ESPALIER_PEAK(peak_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps)
ESPALIER_PEAK(peak_baseline, "sse2", __m128, _mm_set1_ps, ESPALIER_MULTIPLY_ADD, _mm_add_ps)
#undef ESPALIER_PEAK

inline void peak_loop() {
  if (instruction_set() == "avx512") return peak_avx512();
  if (instruction_set() == "avx2") return peak_avx2();
  peak_baseline();
}
inline double peak_flops_of_loop() {
  const double lanes = instruction_set() == "avx512" ? 16 : instruction_set() == "avx2" ? 8 : 4;
  return 2.0 * kSteps * 10 * lanes;
}
#else
inline void peak_loop() {}
inline double peak_flops_of_loop() {
  return 0;
}
#endif

// Runs `work` once on the clock that suits the number of threads.
inline double time_of(int threads, const std::function<void()>& work) {
  const clockid_t clock = threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
  const double start = seconds(clock);
  work();
  return seconds(clock) - start;
}

// float flop/s.
inline double peak(int threads) {
  const auto all = [&] {
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t)
      others.emplace_back([] {
        for (int r = 0; r < 8; ++r) peak_loop();
      });
    for (int r = 0; r < 8; ++r) peak_loop();
    for (std::thread& t : others) t.join();
  };
  return peak_flops_of_loop() * 8 * threads / time_of(threads, all);
}

}  // namespace espalier::benchmark
