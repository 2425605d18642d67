// Self-test of the checkers: a mask broken on purpose breaks the law that it should, a correct one breaks none.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/masks/dense.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "support/law_run.hpp"
#include "support/mask_laws.hpp"
#include "support/rejection.hpp"

namespace es = espalier;
using es::Index;
using es::test::DenseMatrix;

namespace {

enum class Bug {
  none,
  wrong_size,
  off_by_one,
  transpose_ignored,
  transpose_slightly_different,
  low_rank_factor,
  low_rank_transpose_factor,
  row_sums_forgotten,
  row_sums_always_written,
  not_linear,
  input_gradient,
  plain_parameter_gradient,
  low_rank_parameter_gradient,
  last_parameter_gradient,
  gradient_needs_all,
  parameters_ignored,
  parameters_change_old,
  nan_parameter_accepted,
  count_not_checked,
  writes_past_row,
  writes_before_output,
  reads_gap,
  drifts,
  depends_on_threads,
  ignores_cancel,
  throws_when_empty,
  rank_zero_garbage,
  swallows_nan,
  wrong_entries,
  entries_write_past_tile,
  wrong_fold,
  unnamed_engine,
  no_engine,
};

// M_ij = p_0 exp(-0.2 |i - j|) + p_1 sin(i - 2 j), 6 x 5 by default.
DenseMatrix formula(std::span<const double> p, Index rows = 6, Index cols = 5) {
  return es::test::dense_matrix(rows, cols, [&](Index i, Index j) {
    const auto d = static_cast<double>(i - j);
    return p[0] * std::exp(-0.2 * std::abs(d)) + p[1] * std::sin(d - static_cast<double>(j));
  });
}

template <class T>
class BrokenMask final : public es::Mask<T>, public es::EntrySource<T> {
 public:
  explicit BrokenMask(Bug bug, std::vector<double> p = {0.7, -0.4})
      : es::Mask<T>(bug == Bug::wrong_size ? 5 : 6, 5), bug_(bug), p_(std::move(p)), m_(formula(p_)) {}

  std::span<const double> parameters() const override { return p_; }
  std::shared_ptr<const es::Mask<T>> with_parameters(std::span<const double> p) const override {
    if (p.size() != 2 && bug_ != Bug::count_not_checked) throw es::ShapeError("parameters", static_cast<Index>(p.size()), 2);
    std::vector<double> q(p.begin(), p.end());
    q.resize(2);
    for (const double v : q) {
      if (!std::isfinite(v) && bug_ != Bug::nan_parameter_accepted) throw es::ValueError("a parameter is not finite");
    }
    if (bug_ == Bug::parameters_ignored) q = p_;
    if (bug_ == Bug::parameters_change_old) m_ = formula(q);
    return std::make_shared<BrokenMask>(bug_, q);
  }
  es::Entries<T> entries() const override {
    es::Entries<T> e;
    e.kind = es::EntryKind::source;
    e.rows = 6, e.cols = 5;
    e.source = this;
    e.parameter_count = 2;
    return e;
  }
  Index entries_gradient_size() const override { return 2; }
  es::EntriesGradient<T> entries_gradient(T* scratch) const override {
    es::EntriesGradient<T> g;
    g.source = scratch;
    return g;
  }
  void fold_entries_gradient(const T* scratch, es::VectorView<T> bar, const es::Context<es::Cpu>&) const override {
    for (Index p = 0; p < 2; ++p) bar[p] += scratch[bug_ == Bug::wrong_fold ? 1 - p : p];
  }
  void fill(Index row0, Index rows, Index col0, Index cols, T* out, Index stride) const override {
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) out[i * stride + j] = static_cast<T>(m_(row0 + i, col0 + j));
    }
    if (bug_ == Bug::wrong_entries && row0 > 0) out[0] += T(0.01);
    if (bug_ == Bug::entries_write_past_tile) out[cols] = T(0);
  }
  void add_gradient(Index row0, Index rows, Index col0, Index cols, const T* bar, Index stride, T* out) const override {
    for (Index p = 0; p < 2; ++p) {
      const DenseMatrix d = formula(std::vector<double>{p == 0 ? 1.0 : 0.0, p == 1 ? 1.0 : 0.0});
      for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < cols; ++j) out[p] += bar[i * stride + j] * static_cast<T>(d(row0 + i, col0 + j));
      }
    }
  }

 protected:
  void apply(es::MatrixView<const T> x, es::MatrixView<T> y, bool transpose,
             const es::Context<es::Cpu>& context) const override {
    if (bug_ != Bug::ignores_cancel && context.progress && context.progress->stop.stop_requested()) throw es::Cancelled();
    if (bug_ == Bug::throws_when_empty && x.cols != 3) throw es::ValueError("three columns or nothing");
    const T drift = bug_ == Bug::drifts ? static_cast<T>(++calls_) * std::numeric_limits<T>::epsilon() : T(0);
    for (Index i = 0; i < y.rows; ++i) {
      for (Index k = 0; k < y.cols; ++k) {
        T sum = drift;
        for (Index j = 0; j < x.rows; ++j) {
          Index r = transpose ? j : i, c = transpose ? i : j;
          if (transpose && bug_ == Bug::transpose_ignored) r = i % 6, c = j % 5;
          T w = static_cast<T>(m_(r, c));
          if (bug_ == Bug::off_by_one && j + 1 == x.rows) w = T(0);
          if (bug_ == Bug::transpose_slightly_different && transpose) w *= T(1.001);
          T v = x(j, k);
          if (bug_ == Bug::swallows_nan && std::isnan(v)) v = T(0);
          sum += w * v;
        }
        if (bug_ == Bug::not_linear) sum += T(1e-4) * std::abs(sum);
        if (bug_ == Bug::depends_on_threads) sum *= T(1) + T(context.threads) * std::numeric_limits<T>::epsilon();
        y(i, k) = sum;
      }
    }
    // A stride above the columns: the caller's array (not scratch memory), with gaps and margins that are safe to touch.
    const bool in_gaps = x.row_stride > x.cols, out_gaps = y.row_stride > y.cols;
    if (bug_ == Bug::reads_gap && in_gaps) y(0, 0) += x.data[x.cols] * T(0);
    if (bug_ == Bug::writes_past_row && out_gaps) y.data[y.cols] = T(0);
    if (bug_ == Bug::writes_before_output && out_gaps) y.data[-1] = T(0);
  }
  void add_parameter_gradient(es::MatrixView<const T> x, es::MatrixView<const T> y_bar, es::VectorView<T> bar,
                              const es::Context<es::Cpu>& context) const override {
    es::Mask<T>::add_parameter_gradient(x, y_bar, bar, context);
    if (bug_ == Bug::plain_parameter_gradient) bar[0] *= T(1.01);
    if (bug_ == Bug::last_parameter_gradient) bar[1] = T(0);
  }
  void apply_low_rank(const es::LowRankInputs<T>& in, const es::LowRankOutputs<T>& out, bool transpose,
                      const es::Context<es::Cpu>& context) const override {
    if (bug_ == Bug::row_sums_always_written && !out.row_sum) throw es::ValueError("row sums are not optional");
    this->low_rank_by_panels(in, out, transpose, context);
    if (bug_ == Bug::low_rank_factor && !transpose) out.y(0, 0) *= T(1.01);
    if (bug_ == Bug::low_rank_transpose_factor && transpose) out.y(0, 0) *= T(1.01);
    if (bug_ == Bug::row_sums_forgotten && out.row_sum) out.row_sum[out.row_sum.size - 1] = T(0);
    if (bug_ == Bug::rank_zero_garbage && in.a.cols == 0 && in.x.cols > 0) out.y(0, 0) = T(1);
  }
  void apply_low_rank_vjp(const es::LowRankInputs<T>& in, const es::LowRankCotangents<T>& bars,
                          const es::LowRankGradients<T>& out, const es::Context<es::Cpu>& context) const override {
    es::Mask<T>::apply_low_rank_vjp(in, bars, out, context);
    if (bug_ == Bug::input_gradient && out.b && in.a.cols > 0) out.b(0, 0) = T(0);
    if (bug_ == Bug::low_rank_parameter_gradient && out.parameters) out.parameters[1] *= T(1.01);
    if (bug_ == Bug::gradient_needs_all && !out.a && out.x && in.x.cols > 0) out.x(0, 0) = T(0);
  }
  std::vector<es::Report> candidates(es::Shape shape) const override {
    es::Report r;
    r.engine = bug_ == Bug::unnamed_engine ? "" : "product";
    r.reason = "the only one";
    if (bug_ == Bug::no_engine && shape.rank == 33) return {};
    return {r};
  }

 private:
  Bug bug_;
  std::vector<double> p_;
  mutable DenseMatrix m_;
  mutable std::atomic<int> calls_{0};
};

template <class T>
std::vector<std::string> broken_by(Bug bug) {
  return es::test::broken_laws<T>({.name = "broken",
                                   .mask = std::make_shared<BrokenMask<T>>(bug),
                                   .reference = [](std::span<const double> p) { return formula(p); }});
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& n : names) text += n + "; ";
  return text;
}

}  // namespace

TEST_CASE_TEMPLATE("each planted bug breaks the law that names it", T, float, double) {
  const std::pair<Bug, const char*> planted[] = {
      {Bug::wrong_size, "size"},
      {Bug::off_by_one, "product"},
      {Bug::transpose_ignored, "transpose"},
      {Bug::transpose_slightly_different, "adjointness"},
      {Bug::low_rank_factor, "low-rank product"},
      {Bug::low_rank_transpose_factor, "low-rank transpose"},
      {Bug::row_sums_forgotten, "row sums"},
      {Bug::row_sums_always_written, "low-rank product"},
      {Bug::not_linear, "linearity"},
      {Bug::input_gradient, "input gradient"},
      {Bug::plain_parameter_gradient, "parameter gradient"},
      {Bug::low_rank_parameter_gradient, "parameter gradient"},
      {Bug::last_parameter_gradient, "parameter gradient"},
      {Bug::gradient_needs_all, "gradient subsets"},
      {Bug::parameters_ignored, "parameters"},
      {Bug::parameters_change_old, "parameters"},
      {Bug::nan_parameter_accepted, "bad parameters"},
      {Bug::count_not_checked, "bad parameters"},
      {Bug::writes_past_row, "bounds"},
      {Bug::writes_before_output, "bounds"},
      {Bug::reads_gap, "gaps"},
      {Bug::drifts, "repeatability"},
      {Bug::depends_on_threads, "threads"},
      {Bug::ignores_cancel, "cancellation"},
      {Bug::throws_when_empty, "product"},
      {Bug::rank_zero_garbage, "empty"},
      {Bug::swallows_nan, "nan"},
      {Bug::wrong_entries, "entries"},
      {Bug::entries_write_past_tile, "entries"},
      {Bug::wrong_fold, "entries gradient"},
      {Bug::unnamed_engine, "engines"},
      {Bug::no_engine, "engines"},
  };
  for (const auto& plant : planted) {
    const Bug bug = plant.first;
    const std::string law = plant.second;
    const auto names = broken_by<T>(bug);
    CAPTURE(static_cast<int>(bug));
    CAPTURE(law);
    CAPTURE(joined(names));
    CHECK(std::find(names.begin(), names.end(), law) != names.end());
  }
}

TEST_CASE_TEMPLATE("the same mask without a bug breaks no law", T, float, double) {
  CHECK(joined(broken_by<T>(Bug::none)) == "");
}

TEST_CASE_TEMPLATE("a bug in one forced engine is found under its name", T, float, double) {
  es::test::MaskCase<T> c{.name = "forced",
                          .mask = std::make_shared<BrokenMask<T>>(Bug::none),
                          .reference = [](std::span<const double> p) { return formula(p); }};
  c.with_engine = [](const std::string& engine) {
    CHECK(engine == "product");
    return std::make_shared<BrokenMask<T>>(Bug::off_by_one);
  };
  const auto names = es::test::broken_laws(c);
  CHECK(std::find(names.begin(), names.end(), "product") != names.end());
}

// Shapes and overlaps are refused by the public calls, which no mask can override: their checker is tested by itself.
TEST_CASE("a refusal must come with the right exception and before anything is written") {
  es::test::Guarded<double> y(2, 3);
  std::vector<es::test::Guarded<double>*> outputs = {&y};
  using es::test::rejection_failure;
  CHECK(rejection_failure<es::ShapeError, double>([] { throw es::ShapeError("x", 1, 2); }, outputs).empty());
  CHECK(rejection_failure<es::ShapeError, double>([] {}, outputs) == "accepted");
  CHECK_FALSE(rejection_failure<es::ShapeError, double>([] { throw es::ValueError("other"); }, outputs).empty());
  const auto write_and_throw = [&] {
    y.view()(0, 0) = 1;
    throw es::ShapeError("x", 1, 2);
  };
  CHECK_FALSE(rejection_failure<es::ShapeError, double>(write_and_throw, outputs).empty());
}

TEST_CASE_TEMPLATE("a correct DenseMask breaks no law", T, float, double) {
  for (const Index n : es::test::law_sizes()) {
    for (const Index cols : {n, n + 4}) {
      const DenseMatrix m = formula(std::vector<double>{1, 0.3}, n, cols);
      const auto make = [&](const std::string& engine) {
        return std::make_shared<es::DenseMask<T>>(es::MatrixView<const double>(m.values.data(), n, cols),
                                                  es::MaskOptions{.engine = engine});
      };
      es::test::check_mask_laws<T>({.name = "dense " + std::to_string(n) + " x " + std::to_string(cols),
                                    .mask = make("auto"),
                                    .reference =
                                        [&](std::span<const double> p) {
                                          DenseMatrix r(n, cols);
                                          r.values.assign(p.begin(), p.end());
                                          return r;
                                        },
                                    .with_engine = make});
    }
  }
}

TEST_CASE_TEMPLATE("a mask without rows breaks no law", T, float, double) {
  for (const auto& [rows, cols] : {std::pair<Index, Index>{0, 0}, {0, 3}, {3, 0}}) {
    es::test::check_mask_laws<T>({.name = "empty",
                                  .mask = std::make_shared<es::DenseMask<T>>(es::MatrixView<const double>(nullptr, rows, cols)),
                                  .reference = [r = rows, c = cols](std::span<const double>) { return DenseMatrix(r, c); }});
  }
}
