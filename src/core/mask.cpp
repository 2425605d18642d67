// Mask: argument checks, engine choice, and the defaults of every hook.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/core/mask.hpp>

#include "backend/elementwise.hpp"
#include "backend/tiles.hpp"
#include "core/checks.hpp"
#include "core/compiled_backend.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier {

namespace {

// In every report: texts of reports, closures, lists of threads, plans.
constexpr std::size_t kBookkeeping = 1u << 16;

}  // namespace

template <class T, class B>
Mask<T, B>::Mask(Index rows, Index cols, MaskOptions options) : rows_(rows), cols_(cols), options_(std::move(options)) {
  if (rows < 0 || cols < 0) throw ValueError("a mask's size must not be negative");
  if (std::isnan(options_.tolerance) || options_.tolerance >= 1) {
    throw ValueError("tolerance must lie in [0, 1) (negative: the type's default)");
  }
  if (options_.cost == CostModel{}) options_.cost = backend::cost_model<B>();
}
template <class T, class B>
Mask<T, B>::~Mask() = default;

template <class T, class B>
double Mask<T, B>::tolerance() const {
  if (options_.tolerance >= 0) return options_.tolerance;
  return sizeof(T) == sizeof(float) ? 1e-6 : 1e-12;
}

// ---- checked entry points --------------------------------------------------------------------------------------------

template <class T, class B>
void Mask<T, B>::multiply(MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) const {
  check_matrix<T, B>("x", x, cols_, x.cols);
  check_matrix<const T, B>("y", y, rows_, x.cols);
  check_overlap("y", y, "x", x);
  if (rows_ > 0 && x.cols > 0) apply(x, y, false, context);
}

template <class T, class B>
void Mask<T, B>::multiply_transpose(MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) const {
  check_matrix<T, B>("x", x, rows_, x.cols);
  check_matrix<const T, B>("y", y, cols_, x.cols);
  check_overlap("y", y, "x", x);
  if (cols_ > 0 && x.cols > 0) apply(x, y, true, context);
}

template <class T, class B>
void Mask<T, B>::multiply_vjp(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, MatrixView<T, B> x_bar,
                              VectorView<T, B> parameter_bar, const Context<B>& context) const {
  check_matrix<T, B>("x", x, cols_, x.cols);
  check_matrix<T, B>("y_bar", y_bar, rows_, x.cols);
  if (x_bar) {
    check_matrix<const T, B>("x_bar", x_bar, cols_, x.cols);
    check_overlap("x_bar", x_bar, "x", x);
    check_overlap("x_bar", x_bar, "y_bar", y_bar);
  }
  check_parameter_bar("parameter_bar", parameter_bar, static_cast<Index>(parameters().size()));
  if (parameter_bar) {
    backend::fill(MatrixView<T, B>(parameter_bar.data, 1, parameter_bar.size), T(0), context);
    if (rows_ > 0 && cols_ > 0 && x.cols > 0) add_parameter_gradient(x, y_bar, parameter_bar, context);
  }
  if (x_bar && cols_ > 0 && x.cols > 0) apply(y_bar, x_bar, true, context);
}

template <class T, class B>
void Mask<T, B>::multiply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out,
                                   const Context<B>& context) const {
  check_low_rank(in, out, rows_, cols_);
  if (rows_ > 0) apply_low_rank(in, out, false, context);
}

template <class T, class B>
void Mask<T, B>::multiply_low_rank_transpose(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out,
                                             const Context<B>& context) const {
  check_low_rank(in, out, cols_, rows_);
  if (cols_ > 0) apply_low_rank(in, out, true, context);
}

template <class T, class B>
void Mask<T, B>::multiply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                       const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  check_low_rank_vjp(in, cotangents, gradients, rows_, cols_, static_cast<Index>(parameters().size()));
  if (gradients.parameters) {
    backend::fill(MatrixView<T, B>(gradients.parameters.data, 1, gradients.parameters.size), T(0), context);
  }
  if (rows_ > 0 && cols_ > 0) {
    apply_low_rank_vjp(in, cotangents, gradients, context);
    return;
  }
  for (const auto& g : {gradients.a, gradients.b, gradients.x}) {
    if (g) backend::fill(g, T(0), context);
  }
}

// ---- engines ---------------------------------------------------------------------------------------------------------

template <class T, class B>
std::vector<Report> Mask<T, B>::engines(Shape shape) const {
  if (shape.columns < 0 || shape.rank < 0 || shape.heads < 1)
    throw ValueError("shape: columns and rank must be >= 0, heads >= 1");
  std::vector<Report> all = candidates(shape);
  std::stable_sort(all.begin(), all.end(),
                   [](const Report& p, const Report& q) { return p.predicted_seconds < q.predicted_seconds; });
  const bool exact_only = options_.tolerance == 0;
  std::string names, inexact;
  std::vector<Report> kept;
  for (Report& r : all) {
    if (exact_only && r.certificate) {
      inexact += (inexact.empty() ? "'" : ", '") + r.engine + "'";
      continue;
    }
    names += (names.empty() ? "" : ", ") + r.engine;
    r.extra_bytes += kBookkeeping;
    if (options_.engine == "auto" || options_.engine == r.engine) kept.push_back(std::move(r));
  }
  if (kept.empty() && names.empty() && !inexact.empty()) {
    throw ValueError("no exact engine can run this product; " + inexact + " would, with a tolerance above 0");
  }
  if (kept.empty()) {
    throw ValueError("engine '" + options_.engine + "' cannot run this product" +
                     (exact_only ? std::string(" at tolerance 0 (exact engines only)") : std::string()) +
                     (names.empty() ? std::string(": no engine can") : "; engines that would: " + names));
  }
  return kept;
}

template <class T, class B>
Report Mask<T, B>::report(Shape shape) const {
  return engines(shape).front();
}

template <class T, class B>
std::vector<Report> Mask<T, B>::candidates(Shape shape) const {
  std::vector<Report> all;
  const bool tiles = entries().kind != EntryKind::none;
  const double columns = static_cast<double>(std::max<Index>(1, shape.rank) * shape.columns * shape.heads);
  Report product;
  product.engine = "product";
  product.reason = shape.rank > 0 ? "the mask's own product, in panels of features" : "the mask's own product";
  product.flops = 2.0 * static_cast<double>(rows_ + cols_) * columns;
  // The class says nothing of its cost: taken as one pass over memory a column with a factor for its inner work.
  product.predicted_seconds = options_.cost.call_seconds + 20 * product.flops / options_.cost.tile_flops;
  product.extra_bytes = panel_bytes(shape);
  product.rounding_estimate = std::numeric_limits<T>::epsilon() * 8;
  all.push_back(std::move(product));
  if (shape.rank > 0 && tiles) all.push_back(tile_report(shape, "direct"));
  return all;
}

template <class T, class B>
Report Mask<T, B>::tile_report(Shape shape, const std::string& engine) const {
  Report r;
  r.engine = engine;
  const double pairs = static_cast<double>(rows_) * static_cast<double>(cols_) * static_cast<double>(shape.heads);
  r.flops = 2 * pairs * static_cast<double>(shape.rank + shape.columns);
  r.bytes = sizeof(T) * static_cast<double>(shape.heads) *
            (static_cast<double>(rows_) * static_cast<double>(shape.rank + shape.columns) * 2 +
             static_cast<double>(cols_) * static_cast<double>(shape.rank + shape.columns));
  const double speed = options_.cost.tile_flops * (4.0 / sizeof(T));
  r.predicted_seconds = static_cast<double>(shape.heads) * options_.cost.call_seconds + r.flops / speed;
  r.reason = std::to_string(rows_) + " x " + std::to_string(cols_) + " entries by tiles, " +
             std::to_string(shape.rank + shape.columns) + " multiply-adds each";
  r.extra_bytes = backend::tile_low_rank_bytes<B>(rows_, cols_, shape.rank, shape.columns, sizeof(T));
  r.rounding_estimate = std::numeric_limits<T>::epsilon() * 8;
  r.row_wise = true;
  return r;
}

namespace {

bool is_tile_engine(const std::string& engine) {
  return engine == "direct" || engine == "dense";
}

}  // namespace

template <class T, class B>
bool Mask<T, B>::multiplies_by_tiles(Shape) const {
  return false;
}

template <class T, class B>
bool Mask<T, B>::runs_by_tiles(Shape shape) const {
  constexpr std::uint64_t kKnown = std::uint64_t{1} << 63, kTiles = std::uint64_t{1} << 62;
  constexpr Index kLimit = Index{1} << 31;
  const bool keeps = shape.heads == 1 && shape.columns >= 0 && shape.columns < kLimit && shape.rank >= 0 && shape.rank < kLimit;
  const std::uint64_t key = kKnown | static_cast<std::uint64_t>(shape.columns) << 31 | static_cast<std::uint64_t>(shape.rank);
  const std::uint64_t last = last_choice_.word.load(std::memory_order_relaxed);
  if (keeps && (last & ~kTiles) == key) return (last & kTiles) != 0;
  const bool tiles = is_tile_engine(report(shape).engine);
  if (keeps) last_choice_.word.store(tiles ? key | kTiles : key, std::memory_order_relaxed);
  return tiles;
}

// ---- default hooks ---------------------------------------------------------------------------------------------------

template <class T, class B>
Entries<T, B> Mask<T, B>::entries() const {
  return {};
}
template <class T, class B>
Index Mask<T, B>::entries_gradient_size() const {
  return 0;
}
template <class T, class B>
EntriesGradient<T, B> Mask<T, B>::entries_gradient(T*) const {
  return {};
}
template <class T, class B>
void Mask<T, B>::fold_entries_gradient(const T*, VectorView<T, B>, const Context<B>&) const {}

template <class T, class B>
std::span<const double> Mask<T, B>::parameters() const {
  return {};
}

template <class T, class B>
std::shared_ptr<const Mask<T, B>> Mask<T, B>::with_parameters(std::span<const double>) const {
  throw ValueError("this mask has no parameters");
}

template <class T, class B>
void Mask<T, B>::apply_by_tiles(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const {
  backend::tile_multiply(entries(), x, y, transpose, context);
}

template <class T, class B>
void Mask<T, B>::low_rank_by_tiles(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                   const Context<B>& context) const {
  backend::tile_low_rank(entries(), in, out, transpose, context);
}

template <class T, class B>
void Mask<T, B>::low_rank_vjp_by_tiles(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                       const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  const Index size = gradients.parameters ? entries_gradient_size() : 0;
  backend::Buffer<T, B> scratch(size, context);
  EntriesGradient<T, B> sink;
  if (gradients.parameters) {
    backend::fill(scratch.matrix(1, size), T(0), context);
    sink = entries_gradient(scratch.data());
  }
  backend::tile_low_rank_vjp(entries(), in, cotangents, gradients, sink, size, context);
  if (gradients.parameters) fold_entries_gradient(scratch.data(), gradients.parameters, context);
}

template <class T, class B>
void Mask<T, B>::add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                                        const Context<B>& context) const {
  if (parameters().empty()) return;
  const Entries<T, B> e = entries();
  if (e.kind == EntryKind::none) {
    throw ValueError("this mask has parameters but neither entries nor its own add_parameter_gradient");
  }
  const Index size = entries_gradient_size();
  backend::Buffer<T, B> scratch(size, context);
  backend::fill(scratch.matrix(1, size), T(0), context);
  backend::tile_multiply_entries_gradient(e, x, y_bar, entries_gradient(scratch.data()), size, context);
  fold_entries_gradient(scratch.data(), parameter_bar, context);
}

template <class T, class B>
void Mask<T, B>::apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                const Context<B>& context) const {
  if (runs_by_tiles({.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)})) {
    low_rank_by_tiles(in, out, transpose, context);
  } else {
    low_rank_by_panels(in, out, transpose, context);
  }
}

template <class T, class B>
std::size_t Mask<T, B>::panel_bytes(Shape shape) const {
  if (shape.rank == 0) return 0;
  const std::size_t column = sizeof(T) * static_cast<std::size_t>(rows_ + cols_);
  const std::size_t wanted = column * static_cast<std::size_t>(shape.rank * (shape.columns + 1));
  return std::max(column, std::min(wanted, Context<Cpu>{}.scratch_bytes));
}

template <class T, class B>
void Mask<T, B>::low_rank_by_panels(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                    const Context<B>& context) const {
  const Index from = in.b.rows, to = in.a.rows, c = in.x.cols, m = in.a.cols;
  const Index wanted = m * (c + (out.row_sum ? 1 : 0));
  // Two panels are alive at once; at least one feature's columns must fit, whatever the bound says.
  const Index per_column = static_cast<Index>(sizeof(T)) * (from + to);
  const Index fits = std::max<Index>(1, static_cast<Index>(context.scratch_bytes) / std::max<Index>(1, per_column));
  backend::fill(out.y, T(0), context);
  const auto run = [&](MatrixView<const T, B> x, MatrixView<T, B> y) {
    const Index width = x ? x.cols : 1;
    if (width == 0) return;
    // Panels of whole features; when one feature's columns do not fit, its columns are cut instead.
    const Index features = std::max<Index>(1, std::min(m, fits / width));
    const Index columns = x ? std::max<Index>(1, std::min(width, fits)) : 1;
    backend::Buffer<T, B> source(from * features * columns, context), result(to * features * columns, context);
    for (Index r = 0; r < m; r += features) {
      const Index nr = std::min(features, m - r);
      for (Index k = 0; k < width; k += columns) {
        const Index nk = std::min(columns, width - k);
        const MatrixView<T, B> s(source.data(), from, nr * nk), p(result.data(), to, nr * nk);
        backend::expand_panel<T, B>(in.b.columns(r, nr), x ? x.columns(k, nk) : x, s, context);
        apply(s, p, transpose, context);
        backend::contract_panel<T, B>(in.a.columns(r, nr), p, y.columns(k, nk), context);
      }
    }
  };
  if (wanted > 0) run(in.x, out.y);
  if (out.row_sum) {
    const MatrixView<T, B> r(out.row_sum.data, to, 1);
    backend::fill(r, T(0), context);
    if (m > 0) run({}, r);
  }
}

// With W_ij = y_bar_i . x_j + r_bar_i (core/mask.hpp): each gradient is the primitive itself with its arguments turned,
//   x_bar = P(Mᵀ; b, a, y_bar),  a_bar = P(M; y_bar, x, b) + r_bar ∘ (M b),  b_bar = P(Mᵀ; x, y_bar, a) + Mᵀ (r_bar ∘ a).
template <class T, class B>
void Mask<T, B>::apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                    const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  const Index m = in.a.cols, c = in.x.cols;
  const bool tiles = runs_by_tiles({.columns = c, .rank = std::max<Index>(1, m)});
  if (tiles) return low_rank_vjp_by_tiles(in, cotangents, gradients, context);
  const bool with_y = static_cast<bool>(cotangents.y), with_r = static_cast<bool>(cotangents.row_sum);
  if (gradients.x) {
    if (with_y) {
      apply_low_rank({in.b, in.a, cotangents.y}, {gradients.x}, true, context);
    } else {
      backend::fill(gradients.x, T(0), context);
    }
  }
  if (gradients.a) {
    if (with_y) {
      apply_low_rank({cotangents.y, in.x, in.b}, {gradients.a}, false, context);
    } else {
      backend::fill(gradients.a, T(0), context);
    }
    if (with_r) {
      backend::Buffer<T, B> t(rows_ * m, context);
      apply(in.b, t.matrix(rows_, m), false, context);
      backend::add_row_scaled<T, B>(cotangents.row_sum, t.matrix(rows_, m), gradients.a, context);
    }
  }
  if (gradients.b) {
    if (with_y) {
      apply_low_rank({in.x, cotangents.y, in.a}, {gradients.b}, true, context);
    } else {
      backend::fill(gradients.b, T(0), context);
    }
    if (with_r) {
      backend::Buffer<T, B> s(rows_ * m, context), t(cols_ * m, context);
      backend::fill(s.matrix(rows_, m), T(0), context);
      backend::add_row_scaled<T, B>(cotangents.row_sum, in.a, s.matrix(rows_, m), context);
      apply(s.matrix(rows_, m), t.matrix(cols_, m), true, context);
      backend::add_scaled<T, B>(T(1), t.matrix(cols_, m), gradients.b, context);
    }
  }
  if (!gradients.parameters || m == 0) return;
  // M'_ij = (a_i . b_j)(y_bar_i . x_j + r_bar_i) = sum over pairs (r, k) of (a_ir y_bar_ik)(b_jr x_jk): the plain product's
  // parameter gradient on expanded panels.
  const auto gather = [&](MatrixView<const T, B> x, MatrixView<const T, B> y_bar) {
    const Index width = x ? x.cols : 1;
    const Index per_column = static_cast<Index>(sizeof(T)) * (rows_ + cols_);
    const Index fits = std::max<Index>(1, static_cast<Index>(context.scratch_bytes) / std::max<Index>(1, per_column));
    const Index features = std::max<Index>(1, std::min(m, fits / std::max<Index>(1, width)));
    const Index columns = x ? std::max<Index>(1, std::min(width, fits)) : 1;
    backend::Buffer<T, B> source(cols_ * features * columns, context), result(rows_ * features * columns, context);
    for (Index r = 0; r < m; r += features) {
      const Index nr = std::min(features, m - r);
      for (Index k = 0; k < width; k += columns) {
        const Index nk = std::min(columns, width - k);
        const MatrixView<T, B> s(source.data(), cols_, nr * nk), p(result.data(), rows_, nr * nk);
        backend::expand_panel<T, B>(in.b.columns(r, nr), x ? x.columns(k, nk) : x, s, context);
        backend::expand_panel<T, B>(in.a.columns(r, nr), y_bar.columns(k, nk), p, context);
        add_parameter_gradient(s, p, gradients.parameters, context);
      }
    }
  };
  if (with_y && c > 0) gather(in.x, cotangents.y);
  if (with_r) gather({}, MatrixView<const T, B>(cotangents.row_sum.data, rows_, 1));
}

template class ESPALIER_EXPORT Mask<float, CompiledBackend>;
template class ESPALIER_EXPORT Mask<double, CompiledBackend>;

}  // namespace espalier
