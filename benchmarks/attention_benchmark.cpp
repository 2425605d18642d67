// How much of the machine's multiply-add peak softmax attention and the top-k search reach, in one run.
// SPDX-License-Identifier: Apache-2.0
//
// attention_benchmark [repeats (9)] [largest length (4096)] [keys of the search (100000)]
// Each ratio is taken against the peak measured right before and after it; the table gives medians. Counted: 4 L^2 d flops
// forward, 10 L^2 d backward, 2 L N d for the search; exponentials are not counted. One thread, processor time.
#include <espalier/attention/softmax.hpp>
#include <espalier/attention/top_k.hpp>
#include <espalier/core/random.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "peak.hpp"

namespace {

using namespace espalier;
using namespace espalier::benchmark;

// A free table of offsets on a grid, with `border` extra tokens before it, by its entries alone.
class TableMask final : public Mask<float> {
 public:
  TableMask(Index height, Index width, Index border)
      : Mask<float>(height * width + border, height * width + border), border_(border) {
    const Index line = 2 * width - 1;
    for (Index i = 0; i < height * width; ++i) {
      row_key_.push_back(static_cast<std::int32_t>((i / width + height - 1) * line + i % width + width - 1));
      col_key_.push_back(static_cast<std::int32_t>(i / width * line + i % width));
    }
    for (Index t = 0; t < (2 * height - 1) * line; ++t) {
      table_.push_back(static_cast<float>(Random(7).normal(static_cast<std::uint64_t>(t))));
      parameters_.push_back(static_cast<double>(table_.back()));
    }
  }
  Entries<float> entries() const override {
    Entries<float> e;
    e.kind = EntryKind::offset_table;
    e.rows = e.cols = rows();
    e.border_rows = e.border_cols = border_;
    e.table = table_.data();
    e.table_size = static_cast<Index>(table_.size());
    e.row_key = row_key_.data();
    e.col_key = col_key_.data();
    return e;
  }
  Index entries_gradient_size() const override { return static_cast<Index>(table_.size()); }
  EntriesGradient<float> entries_gradient(float* scratch) const override {
    EntriesGradient<float> g;
    g.table = scratch;
    return g;
  }
  void fold_entries_gradient(const float* scratch, VectorView<float> bar, const Context<Cpu>&) const override {
    for (Index p = 0; p < bar.size; ++p) bar[p] += scratch[p];
  }
  std::span<const double> parameters() const override { return parameters_; }

 protected:
  void apply(MatrixView<const float> x, MatrixView<float> y, bool transpose, const Context<Cpu>& context) const override {
    apply_by_tiles(x, y, transpose, context);
  }

 private:
  Index border_;
  std::vector<double> parameters_;
  std::vector<float> table_;
  std::vector<std::int32_t> row_key_, col_key_;
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

void row(const std::string& name, int repeats, double flops, const std::function<void()>& work) {
  work();
  std::vector<double> part, time;
  for (int r = 0; r < repeats; ++r) {
    const double before = peak(1), t = time_of(1, work), after = peak(1);
    time.push_back(t);
    part.push_back(flops / t / ((before + after) / 2));
  }
  std::printf("%-44s %10.2f ms %8.1f GFLOP/s %7.3f of peak   %.3f .. %.3f\n", name.c_str(), median(time) * 1e3,
              flops / median(time) * 1e-9, median(part), *std::min_element(part.begin(), part.end()),
              *std::max_element(part.begin(), part.end()));
  std::fflush(stdout);
}

struct Data {
  Index batch, heads, length, width;
  std::vector<float> q, k, v, out, out_bar, q_bar, k_bar, v_bar, lse;

  Data(Index b, Index h, Index l, Index d) : batch(b), heads(h), length(l), width(d) {
    std::uint64_t seed = 1;
    for (auto* x : {&q, &k, &v, &out, &out_bar, &q_bar, &k_bar, &v_bar}) {
      x->resize(static_cast<std::size_t>(b * h * l * d));
      const Random random(seed++);
      for (std::size_t i = 0; i < x->size(); ++i) (*x)[i] = static_cast<float>(random.normal(i));
    }
    lse.resize(static_cast<std::size_t>(b * h * l));
  }
  TensorView<float> view(std::vector<float>& x) { return {x.data(), batch, heads, length, width}; }
  TensorView<float> lse_view() { return {lse.data(), batch, heads, length, 1}; }
};

void softmax_rows(const std::string& name, Data& x, const HeadMasks<float>& bias, Index parameters, int repeats,
                  const SoftmaxOptions& options = {}) {
  const Context<Cpu> context{.threads = 1};
  const double pairs = static_cast<double>(x.batch * x.heads * x.length * x.length * x.width);
  const double part = options.causal == Causal::none ? 1 : 0.5;
  std::vector<float> table_bar(static_cast<std::size_t>(bias.count() * parameters));
  const auto forward = [&] {
    softmax_attention(x.view(x.q), x.view(x.k), x.view(x.v), x.view(x.out), x.lse_view(), bias, {}, options, context);
  };
  const auto backward = [&] {
    AttentionGradients<float> g{.q = x.view(x.q_bar), .k = x.view(x.k_bar), .v = x.view(x.v_bar)};
    if (!bias.empty()) g.bias_parameters = MatrixView<float>(table_bar.data(), bias.count(), parameters);
    softmax_attention_vjp(x.view(x.q), x.view(x.k), x.view(x.v), x.view(x.out), x.lse_view(), x.view(x.out_bar), g, bias, {},
                          options, context);
  };
  row("softmax " + name + ", forward", repeats, 4 * pairs * part, forward);
  row("softmax " + name + ", backward", repeats, 10 * pairs * part, backward);
}

void search_row(Index queries, Index keys, Index count, int repeats) {
  Data q(1, 1, queries, 64), k(1, 1, keys, 64);
  std::vector<std::int32_t> indices(static_cast<std::size_t>(queries * count));
  std::vector<float> scores(indices.size());
  const Context<Cpu> context{.threads = 1};
  row("top-" + std::to_string(count) + " search, " + std::to_string(queries) + " x " + std::to_string(keys), repeats,
      2.0 * static_cast<double>(queries * keys * 64), [&] {
        top_k_search(q.view(q.q), k.view(k.k), TensorView<std::int32_t>(indices.data(), 1, 1, queries, count),
                     TensorView<float>(scores.data(), 1, 1, queries, count), {}, context);
      });
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 9;
  const Index longest = argc > 2 ? std::atoll(argv[2]) : 4096, keys = argc > 3 ? std::atoll(argv[3]) : 100000;
  std::printf("instruction set: %s; float, d = 64, one thread\n", instruction_set().c_str());
  for (Index n = 1024; n <= longest; n *= 4) {
    Data x(1, 1, n, 64);
    const TableMask line(1, n, 0);
    softmax_rows("L = " + std::to_string(n), x, {}, 0, repeats);
    softmax_rows("L = " + std::to_string(n) + ", causal", x, {}, 0, repeats, {.causal = Causal::top_left});
    softmax_rows("L = " + std::to_string(n) + ", Toeplitz bias", x, line, 2 * n - 1, repeats);
  }
  {
    Data x(16, 6, 197, 64);
    std::vector<MaskPointer<float>> tables;
    for (int h = 0; h < 6; ++h) tables.push_back(std::make_shared<TableMask>(14, 14, 1));
    softmax_rows("B = 16, H = 6, L = 197", x, {}, 0, repeats);
    softmax_rows("B = 16, H = 6, L = 197, 14 x 14 table", x, tables, 27 * 27, repeats);
  }
  search_row(4096, 4096, 16, repeats);
  search_row(4096, keys, 16, std::max(1, repeats / 3));
}
