// How much of the machine's multiply-add peak the tile products reach, forward and backward, in one run.
// SPDX-License-Identifier: Apache-2.0
//
// tile_benchmark [tokens (4096)] [features (64)] [repeats (9)]
// The peak is a loop of multiply-adds on registers with the instruction set in use, run right before each product; the table
// gives medians of the ratio. One thread: processor time, which other work on the machine disturbs little. Two: wall time.
#include <espalier/core/instruction_set.hpp>
#include <espalier/core/mask.hpp>
#include <espalier/core/random.hpp>

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using namespace espalier;

double seconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// ---- peak ------------------------------------------------------------------------------------------------------------

constexpr int kSteps = 400000;
volatile double keep;  // results go here, so that the loops stay

#if defined(__x86_64__)
#define ESPALIER_PEAK(name, target_name, vector, set, fma, add)                                                     \
  __attribute__((target(target_name))) void name() {                                                                \
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

void peak_loop() {
  if (instruction_set() == "avx512") return peak_avx512();
  if (instruction_set() == "avx2") return peak_avx2();
  peak_baseline();
}
double peak_flops_of_loop() {
  const double lanes = instruction_set() == "avx512" ? 16 : instruction_set() == "avx2" ? 8 : 4;
  return 2.0 * kSteps * 10 * lanes;
}
#else
void peak_loop() {}
double peak_flops_of_loop() {
  return 0;
}
#endif

// Runs `work` once on the clock that suits the number of threads.
double time_of(int threads, const std::function<void()>& work) {
  const clockid_t clock = threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
  const double start = seconds(clock);
  work();
  return seconds(clock) - start;
}

// float flop/s.
double peak(int threads) {
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

// ---- masks -----------------------------------------------------------------------------------------------------------

enum class Form { ones, toeplitz, grid, decay };
constexpr const char* kNames[] = {"ones", "toeplitz", "grid", "decay"};

// By the tile engine: all ones; 1 / (1 + d / 16) of a one-dimensional distance; the same of the distance |dx| + |dy| on a
// square grid; exp(-0.1 d), most of which is subnormal or 0 in float.
template <class T>
class BenchmarkMask final : public Mask<T> {
 public:
  BenchmarkMask(Index n, Form form) : Mask<T>(n, n, {.engine = "direct"}) {
    if (form == Form::ones) return;
    const bool grid = form == Form::grid;
    const Index w = grid ? std::max<Index>(1, static_cast<Index>(std::lround(std::sqrt(static_cast<double>(n))))) : n;
    const Index h = (n + w - 1) / w, line = 2 * w - 1;
    for (Index i = 0; i < n; ++i) {
      row_key_.push_back(static_cast<std::int32_t>((i / w + h - 1) * line + i % w + w - 1));
      col_key_.push_back(static_cast<std::int32_t>(i / w * line + i % w));
    }
    for (Index dy = 1 - h; dy < h; ++dy) {
      for (Index dx = 1 - w; dx < w; ++dx) {
        const double d = static_cast<double>(std::abs(dx) + std::abs(dy));
        parameters_.push_back(form == Form::decay ? std::exp(-0.1 * d) : 1 / (1 + d / 16));
        table_.push_back(static_cast<T>(parameters_.back()));
      }
    }
  }
  Entries<T> entries() const override {
    Entries<T> e;
    e.kind = table_.empty() ? EntryKind::ones : EntryKind::offset_table;
    e.rows = e.cols = this->rows();
    e.table = table_.data();
    e.table_size = static_cast<Index>(table_.size());
    e.row_key = row_key_.data();
    e.col_key = col_key_.data();
    return e;
  }
  Index entries_gradient_size() const override { return static_cast<Index>(table_.size()); }
  EntriesGradient<T> entries_gradient(T* scratch) const override {
    EntriesGradient<T> g;
    g.table = scratch;
    return g;
  }
  void fold_entries_gradient(const T* scratch, VectorView<T> bar) const override {
    for (Index p = 0; p < bar.size; ++p) bar[p] += scratch[p];
  }
  std::span<const double> parameters() const override { return parameters_; }

 protected:
  void apply(MatrixView<const T> x, MatrixView<T> y, bool transpose, const Context<Cpu>& context) const override {
    this->apply_by_tiles(x, y, transpose, context);
  }

 private:
  std::vector<double> parameters_;
  std::vector<T> table_;
  std::vector<std::int32_t> row_key_, col_key_;
};

// ---- table -----------------------------------------------------------------------------------------------------------

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

template <class T>
std::vector<T> random_numbers(Index count, std::uint64_t stream) {
  std::vector<T> v(static_cast<std::size_t>(count));
  const Random random(1, stream);
  for (Index i = 0; i < count; ++i) v[static_cast<std::size_t>(i)] = static_cast<T>(random.uniform(i));
  return v;
}

template <class T>
void rows_of_table(Index n, Index m, int repeats) {
  const std::vector<T> a = random_numbers<T>(n * m, 1), b = random_numbers<T>(n * m, 2), x = random_numbers<T>(n * m, 3);
  std::vector<T> y(a.size()), a_bar(a.size()), b_bar(a.size()), x_bar(a.size()), r(static_cast<std::size_t>(n));
  const Index calls = std::max<Index>(1, (Index(1) << 23) / (n * n));
  const double unit =
      2.0 * static_cast<double>(calls) * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(m);
  for (const Form form : {Form::ones, Form::toeplitz, Form::grid, Form::decay}) {
    const BenchmarkMask<T> mask(n, form);
    std::vector<T> table_bar(mask.parameters().size());
    const LowRankInputs<T> in{{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, m}};
    for (const int threads : {1, 2}) {
      const Context<Cpu> context{.threads = threads};
      const auto forward = [&] {
        for (Index k = 0; k < calls; ++k) mask.multiply_low_rank(in, {{y.data(), n, m}, {r.data(), n}}, context);
      };
      const auto backward = [&] {
        LowRankGradients<T> g{{a_bar.data(), n, m}, {b_bar.data(), n, m}, {x_bar.data(), n, m}};
        if (!table_bar.empty()) g.parameters = {table_bar.data(), static_cast<Index>(table_bar.size())};
        for (Index k = 0; k < calls; ++k) mask.multiply_low_rank_vjp(in, {{a.data(), n, m}, {r.data(), n}}, g, context);
      };
      std::vector<double> peaks, forward_part, backward_part, ratio, forward_time;
      for (int k = 0; k < repeats; ++k) {
        // The peak right before and after, so that a change of clock speed in between shows in neither alone.
        const double p0 = peak(threads);
        const double f = time_of(threads, forward);
        const double p1 = peak(threads);
        const double g = time_of(threads, backward);
        const double p2 = peak(threads);
        const double width = sizeof(T) / sizeof(float);
        peaks.push_back(p1 / width);
        forward_time.push_back(f / static_cast<double>(calls));
        forward_part.push_back(2 * unit / f / ((p0 + p1) / 2 / width));
        backward_part.push_back(5 * unit / g / ((p1 + p2) / 2 / width));
        ratio.push_back(g / f);
      }
      std::printf("%-7s %-9s %7d %13.1f %12.2f %10.3f %9.3f %8.2f   %.3f .. %.3f\n", sizeof(T) == 4 ? "float" : "double",
                  kNames[static_cast<int>(form)], threads, median(peaks) / 1e9, median(forward_time) * 1e3,
                  median(forward_part), median(backward_part), median(ratio),
                  *std::min_element(forward_part.begin(), forward_part.end()),
                  *std::max_element(forward_part.begin(), forward_part.end()));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const espalier::Index n = argc > 1 ? std::atol(argv[1]) : 4096, m = argc > 2 ? std::atol(argv[2]) : 64;
  const int repeats = argc > 3 ? std::atoi(argv[3]) : 9;
  if (n < 1 || m < 1 || repeats < 1) {
    std::fprintf(stderr, "usage: tile_benchmark [tokens] [features] [repeats], all at least 1\n");
    return 2;
  }
  std::printf("%td tokens, m = c = %td, %s, median of %d\n", n, m, espalier::instruction_set().c_str(), repeats);
  std::printf("%-7s %-9s %7s %13s %12s %10s %9s %8s   %s\n", "type", "mask", "threads", "peak GFLOP/s", "forward ms",
              "fwd/peak", "bwd/peak", "bwd/fwd", "fwd/peak least .. most");
  rows_of_table<float>(n, m, repeats);
  rows_of_table<double>(n, m, repeats);
  return 0;
}
