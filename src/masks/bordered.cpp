// BorderedMask: the inner product and three blocks of ones.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/bordered.hpp>

#include "backend/elementwise.hpp"
#include "backend/state_products.hpp"
#include "masks/composition.hpp"

namespace espalier {

namespace {

template <class T>
const CompositionSource<T>& composition(const std::shared_ptr<const EntrySource<T>>& source) {
  return static_cast<const CompositionSource<T>&>(*source);
}
// A number as n x 1 weights: every row is the same element.
template <class T, class B>
MatrixView<const T, B> constant(const T& value, Index n) {
  return {&value, n, 1, 0};
}
template <class T, class B>
backend::Columns<T, B> rows_of(const backend::Columns<T, B>& m, Index first, Index count) {
  backend::Columns<T, B> r{m.matrix, m.ones, m.last};
  if (m.matrix) r.matrix = m.matrix.row_range(first, count);
  if (m.last) r.last = m.last.row_range(first, count);
  return r;
}
template <class T, class B>
VectorView<T, B> tail(VectorView<T, B> v, Index first) {
  return v ? VectorView<T, B>{v.data + first, v.size - first} : v;
}
template <class T>
T dot(MatrixView<const T, Cpu> p, MatrixView<const T, Cpu> q) {
  double sum = 0;
  for (Index i = 0; i < p.rows; ++i) {
    for (Index k = 0; k < p.cols; ++k) sum += static_cast<double>(p(i, k)) * static_cast<double>(q(i, k));
  }
  return static_cast<T>(sum);
}
// The sum of all rows, 1 x c.
template <class T, class B>
void sum_rows(MatrixView<const T, B> x, MatrixView<T, B> sum, const Context<B>& context) {
  backend::prefix_sums<T, B>(x, x.rows, sum, context);
}

// y (+)= weight P(ones; a, b, x), all pairs.
template <class T, class B>
void ones_block(const T& weight, const backend::Columns<T, B>& a, const backend::Columns<T, B>& b,
                const backend::Columns<T, B>& x, Index rows, Index cols, MatrixView<T, B> y, MatrixView<T, B> y_last,
                bool accumulate, const Context<B>& context) {
  backend::StateProduct<T, B> p{.a = a, .b = b, .x = x, .rows = rows, .cols = cols, .shift = cols};
  p.col_weight = constant<T, B>(weight, cols);
  backend::state_product(p, y, y_last, accumulate, context);
}

}  // namespace

template <class T, class B>
BorderedMask<T, B>::BorderedMask(MaskPointer<T, B> inner, Index count, BorderWeights weights, MaskOptions options)
    : Mask<T, B>(checked<T, B>(inner).rows() + std::max<Index>(0, count),
                 checked<T, B>(inner).cols() + std::max<Index>(0, count), std::move(options)),
      inner_(std::move(inner)),
      count_(count),
      weights_(weights) {
  if (count < 0) throw ValueError("BorderedMask: the number of extra tokens is negative");
  for (const double w : {weights.row, weights.column, weights.corner}) check_finite("BorderedMask: a weight", w);
  append_parameters<T, B>(inner_, parameters_);
  parameters_.insert(parameters_.end(), {weights.row, weights.column, weights.corner});
  const Entries<T, B> e = inner_->entries();
  if (e.kind != EntryKind::none && (e.causal || e.border_rows > 0 || e.border_cols > 0)) {
    source_ = std::make_shared<CompositionSource<T>>(
        std::vector<typename CompositionSource<T>::Part>{{inner_, count, count}}, T(1), count,
        std::vector<T>{static_cast<T>(weights.row), static_cast<T>(weights.column), static_cast<T>(weights.corner)});
  }
}
template <class T, class B>
BorderedMask<T, B>::~BorderedMask() = default;

// ---- entries and parameters ------------------------------------------------------------------------------------------

template <class T, class B>
Entries<T, B> BorderedMask<T, B>::entries() const {
  if (source_) return source_entries(composition<T>(source_), this->rows(), this->cols());
  Entries<T, B> e = inner_->entries();
  if (e.kind == EntryKind::none) return e;
  e.rows = this->rows();
  e.cols = this->cols();
  e.border_rows = e.border_cols = count_;
  e.border[0] = static_cast<T>(weights_.row);
  e.border[1] = static_cast<T>(weights_.column);
  e.border[2] = static_cast<T>(weights_.corner);
  return e;
}
// The inner scratch, then the border's three numbers (with a source, one unused before them).
template <class T, class B>
Index BorderedMask<T, B>::entries_gradient_size() const {
  return source_ ? composition<T>(source_).scratch_size() : inner_->entries_gradient_size() + 3;
}
template <class T, class B>
EntriesGradient<T, B> BorderedMask<T, B>::entries_gradient(T* scratch) const {
  EntriesGradient<T, B> g;
  if (source_) {
    g.source = scratch;
    return g;
  }
  g = inner_->entries_gradient(scratch);
  g.border = scratch + inner_->entries_gradient_size();
  return g;
}
template <class T, class B>
void BorderedMask<T, B>::fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar,
                                               const Context<B>& context) const {
  const Index inner = parameter_bar.size - 3;
  inner_->fold_entries_gradient(scratch, {parameter_bar.data, inner}, context);
  const T* border = scratch + entries_gradient_size() - 3;
  for (Index k = 0; k < 3; ++k) parameter_bar[inner + k] += border[k];
}
template <class T, class B>
std::span<const double> BorderedMask<T, B>::parameters() const {
  return parameters_;
}
template <class T, class B>
std::shared_ptr<const Mask<T, B>> BorderedMask<T, B>::with_parameters(std::span<const double> p) const {
  check_count(p, parameters_.size());
  std::size_t at = 0;
  const auto inner = next_mask<T, B>(inner_, p, at);
  return std::make_shared<BorderedMask>(inner, count_, BorderWeights{p[at], p[at + 1], p[at + 2]}, this->options());
}

// ---- products --------------------------------------------------------------------------------------------------------

template <class T, class B>
bool BorderedMask<T, B>::multiplies_by_tiles(Shape shape) const {
  return this->runs_by_tiles(shape) && inner_->entries().kind != EntryKind::none;
}

template <class T, class B>
void BorderedMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const {
  if (multiplies_by_tiles({.columns = x.cols})) return this->apply_by_tiles(x, y, transpose, context);
  const Index n = count_, c = x.cols;
  const auto x_rest = x.row_range(n, x.rows - n);
  const auto y_rest = y.row_range(n, y.rows - n);
  const T row = static_cast<T>(transpose ? weights_.column : weights_.row), corner = static_cast<T>(weights_.corner);
  const T column = static_cast<T>(transpose ? weights_.row : weights_.column);
  // Sums over the extra tokens and over the others.
  backend::Buffer<T, B> sums(2 * c);
  const MatrixView<T, B> extra(sums.data(), 1, c), others(sums.data() + c, 1, c);
  sum_rows<T, B>(x.row_range(0, n), extra, context);
  sum_rows<T, B>(x_rest, others, context);
  const MatrixView<const T, B> every_extra(extra.data, n, c, 0), every_other(others.data, n, c, 0);
  backend::fill(y.row_range(0, n), T(0), context);
  backend::add_scaled<T, B>(corner, every_extra, y.row_range(0, n), context);
  backend::add_scaled<T, B>(row, every_other, y.row_range(0, n), context);
  if (transpose) {
    inner_->multiply_transpose(x_rest, y_rest, context);
  } else {
    inner_->multiply(x_rest, y_rest, context);
  }
  backend::add_scaled<T, B>(column, MatrixView<const T, B>(extra.data, y_rest.rows, c, 0), y_rest, context);
}

template <class T, class B>
void BorderedMask<T, B>::add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                                VectorView<T, B> parameter_bar, const Context<B>& context) const {
  const Index n = count_, c = x.cols, inner = parameter_bar.size - 3;
  const auto x_rest = x.row_range(n, x.rows - n), y_rest = y_bar.row_range(n, y_bar.rows - n);
  if (inner > 0) {
    backend::Buffer<T, B> bar(inner);
    inner_->multiply_vjp(x_rest, y_rest, {}, {bar.data(), inner}, context);
    backend::add_scaled<T, B>(T(1), bar.matrix(1, inner), MatrixView<T, B>(parameter_bar.data, 1, inner), context);
  }
  // A block of one weight: (sum of y_bar over its rows) . (sum of x over its columns).
  backend::Buffer<T, B> sums(4 * c);
  const MatrixView<T, B> all = sums.matrix(4, c);
  sum_rows<T, B>(x.row_range(0, n), all.row_range(0, 1), context);
  sum_rows<T, B>(x_rest, all.row_range(1, 1), context);
  sum_rows<T, B>(y_bar.row_range(0, n), all.row_range(2, 1), context);
  sum_rows<T, B>(y_rest, all.row_range(3, 1), context);
  parameter_bar[inner] += dot<T>(all.row_range(2, 1), all.row_range(1, 1));
  parameter_bar[inner + 1] += dot<T>(all.row_range(3, 1), all.row_range(0, 1));
  parameter_bar[inner + 2] += dot<T>(all.row_range(2, 1), all.row_range(0, 1));
}

template <class T, class B>
void BorderedMask<T, B>::apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                        const Context<B>& context) const {
  if (multiplies_by_tiles({.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)})) {
    return this->low_rank_by_tiles(in, out, transpose, context);
  }
  const Index n = count_, rows = in.a.rows - n, cols = in.b.rows - n;
  const T row = static_cast<T>(transpose ? weights_.column : weights_.row), corner = static_cast<T>(weights_.corner);
  const T column = static_cast<T>(transpose ? weights_.row : weights_.column);
  const backend::Columns<T, B> a{in.a}, b{in.b}, x{in.x, static_cast<bool>(out.row_sum)};
  const LowRankInputs<T, B> rest{in.a.row_range(n, rows), in.b.row_range(n, cols), in.x.row_range(n, cols)};
  const LowRankOutputs<T, B> out_rest{out.y.row_range(n, rows), tail(out.row_sum, n)};
  if (transpose) {
    inner_->multiply_low_rank_transpose(rest, out_rest, context);
  } else {
    inner_->multiply_low_rank(rest, out_rest, context);
  }
  if (n == 0) return;
  const MatrixView<T, B> sums(out.row_sum.data, out.row_sum.size, 1);
  const auto block = [&](const T& w, Index i0, Index ni, Index j0, Index nj, bool accumulate) {
    ones_block<T, B>(w, rows_of(a, i0, ni), rows_of(b, j0, nj), rows_of(x, j0, nj), ni, nj, out.y.row_range(i0, ni),
                     sums ? sums.row_range(i0, ni) : sums, accumulate, context);
  };
  block(corner, 0, n, 0, n, false);
  block(row, 0, n, n, cols, true);
  block(column, n, rows, 0, n, true);
}

// The inner mask's own gradients, and those of each block of ones (ones.cpp has the formula): its weight's gradient is
// sum_i a_i . a_bar_i over the block, taken on the side of the extra tokens, where few rows are.
template <class T, class B>
void BorderedMask<T, B>::apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                            const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  const Index n = count_, m = in.a.cols, rows = in.a.rows - n, cols = in.b.rows - n, inner = parameter_count<T, B>(inner_);
  if (multiplies_by_tiles({.columns = in.x.cols, .rank = std::max<Index>(1, m)})) {
    return Mask<T, B>::apply_low_rank_vjp(in, cotangents, gradients, context);
  }
  const auto rest = [&](auto view, Index count) { return view ? view.row_range(n, count) : view; };
  const LowRankInputs<T, B> in_rest{in.a.row_range(n, rows), in.b.row_range(n, cols), in.x.row_range(n, cols)};
  LowRankGradients<T, B> out_rest{rest(gradients.a, rows), rest(gradients.b, cols), rest(gradients.x, cols)};
  if (gradients.parameters && inner > 0) out_rest.parameters = {gradients.parameters.data, inner};
  inner_->multiply_low_rank_vjp(in_rest, {rest(cotangents.y, rows), tail(cotangents.row_sum, n)}, out_rest, context);
  for (const auto& g : {gradients.a, gradients.b, gradients.x}) {
    if (g) backend::fill(g.row_range(0, n), T(0), context);
  }
  if (n == 0) return;
  const bool with_y = static_cast<bool>(cotangents.y), with_r = static_cast<bool>(cotangents.row_sum);
  const backend::Columns<T, B> a{in.a}, b{in.b};
  const backend::Columns<T, B> y_bar{cotangents.y, false,
                                     MatrixView<const T, B>(cotangents.row_sum.data, cotangents.row_sum.size, 1)};
  const backend::Columns<T, B> x{with_y ? in.x : MatrixView<const T, B>(), with_r};
  backend::Buffer<T, B> small(n * m);
  const auto block = [&](double weight, Index parameter, Index i0, Index ni, Index j0, Index nj) {
    const T w = static_cast<T>(weight);
    const auto ai = rows_of(a, i0, ni), bj = rows_of(b, j0, nj), yi = rows_of(y_bar, i0, ni), xj = rows_of(x, j0, nj);
    if (gradients.a) ones_block<T, B>(w, yi, xj, bj, ni, nj, gradients.a.row_range(i0, ni), {}, true, context);
    if (gradients.b) ones_block<T, B>(w, xj, yi, ai, nj, ni, gradients.b.row_range(j0, nj), {}, true, context);
    if (gradients.x && with_y) {
      ones_block<T, B>(w, bj, ai, {yi.matrix}, nj, ni, gradients.x.row_range(j0, nj), {}, true, context);
    }
    if (!gradients.parameters) return;
    const T one(1);
    const bool on_rows = i0 == 0;
    if (on_rows) {
      ones_block<T, B>(one, yi, xj, bj, ni, nj, small.matrix(n, m), {}, false, context);
    } else {
      ones_block<T, B>(one, xj, yi, ai, nj, ni, small.matrix(n, m), {}, false, context);
    }
    gradients.parameters[inner + parameter] += dot<T>(on_rows ? ai.matrix : bj.matrix, small.matrix(n, m));
  };
  block(weights_.row, 0, 0, n, n, cols);
  block(weights_.column, 1, n, rows, 0, n);
  block(weights_.corner, 2, 0, n, 0, n);
}

template <class T, class B>
std::vector<Report> BorderedMask<T, B>::candidates(Shape shape) const {
  std::vector<Report> all = choices<T, B>(inner_, shape);
  const std::string tiles = tile_engine_name(all);
  all = first_of(std::move(all));
  const auto length = static_cast<double>(this->rows() + this->cols()),
             columns = static_cast<double>(shape.columns * shape.heads);
  for (Report& r : all) {
    const double flops = 2 * length * columns * static_cast<double>(std::max<Index>(1, shape.rank));
    r.flops += flops;
    r.predicted_seconds += 4 * this->options().cost.call_seconds + flops / this->options().cost.tile_flops * (sizeof(T) / 4.0);
    r.extra_bytes += backend::state_product_bytes(std::max(shape.rank, shape.columns) + 1,
                                                  std::max(shape.rank, shape.columns) + 1, sizeof(T));
    r.reason += "; the border beside it";
  }
  if (inner_->entries().kind == EntryKind::none) return all;
  return with_tiles(std::move(all), this->tile_report(shape, tiles), inner_->options().engine != "auto");
}

template class ESPALIER_EXPORT BorderedMask<float, Cpu>;
template class ESPALIER_EXPORT BorderedMask<double, Cpu>;

}  // namespace espalier
