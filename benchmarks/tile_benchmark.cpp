// How much of the machine's multiply-add peak the tile products reach, forward and backward, in one run.
// SPDX-License-Identifier: Apache-2.0
//
// tile_benchmark [tokens (4096)] [features (64)] [repeats (9)]
// The peak is a loop of multiply-adds on registers with the instruction set in use, run right before each product; the table
// gives medians of the ratio. One thread, processor time, which other work on the machine disturbs little; what a second one
// gains: threads_benchmark.
#include <espalier/core/instruction_set.hpp>
#include <espalier/core/mask.hpp>
#include <espalier/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "peak.hpp"

namespace {

using namespace espalier;
using namespace espalier::benchmark;

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
  void fold_entries_gradient(const T* scratch, VectorView<T> bar, const Context<Cpu>&) const override {
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
    const Context<Cpu> context{.threads = 1};
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
      const double p0 = peak(1);
      const double f = time_of(1, forward);
      const double p1 = peak(1);
      const double g = time_of(1, backward);
      const double p2 = peak(1);
      const double width = sizeof(T) / sizeof(float);
      peaks.push_back(p1 / width);
      forward_time.push_back(f / static_cast<double>(calls));
      forward_part.push_back(2 * unit / f / ((p0 + p1) / 2 / width));
      backward_part.push_back(5 * unit / g / ((p1 + p2) / 2 / width));
      ratio.push_back(g / f);
    }
    std::printf("%-7s %-9s %13.1f %12.2f %10.3f %9.3f %8.2f   %.3f .. %.3f\n", sizeof(T) == 4 ? "float" : "double",
                kNames[static_cast<int>(form)], median(peaks) / 1e9, median(forward_time) * 1e3, median(forward_part),
                median(backward_part), median(ratio), *std::min_element(forward_part.begin(), forward_part.end()),
                *std::max_element(forward_part.begin(), forward_part.end()));
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
  std::printf("%-7s %-9s %13s %12s %10s %9s %8s   %s\n", "type", "mask", "peak GFLOP/s", "forward ms", "fwd/peak", "bwd/peak",
              "bwd/fwd", "fwd/peak least .. most");
  rows_of_table<float>(n, m, repeats);
  rows_of_table<double>(n, m, repeats);
  return 0;
}
