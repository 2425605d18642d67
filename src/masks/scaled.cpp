// ScaledMask: the inner mask's work, then the factor.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/scaled.hpp>

#include "backend/elementwise.hpp"
#include "masks/composition.hpp"

namespace espalier {

namespace {

template <class T>
const CompositionSource<T>& composition(const std::shared_ptr<const EntrySource<T>>& source) {
  return static_cast<const CompositionSource<T>&>(*source);
}

// Kinds whose entries are single stored values: there sum_p value_p value_bar_p is factor times the factor's gradient, and the
// kernels' own gradient suffices. Number of stored values; 0 for other kinds.
template <class T, class B>
Index stored_values(const Entries<T, B>& e) {
  if (e.kind == EntryKind::dense) return (e.rows - e.border_rows) * e.values_stride;
  if (e.kind == EntryKind::offset_table) return e.table_size;
  if (e.kind == EntryKind::sparse) return e.row_start[e.rows - e.border_rows];
  return 0;
}

}  // namespace

template <class T, class B>
ScaledMask<T, B>::ScaledMask(MaskPointer<T, B> inner, double factor, MaskOptions options)
    : Mask<T, B>(checked<T, B>(inner).rows(), checked<T, B>(inner).cols(), std::move(options)),
      inner_(std::move(inner)),
      factor_(factor) {
  check_finite("ScaledMask: the factor", factor);
  append_parameters<T, B>(inner_, parameters_);
  parameters_.push_back(factor);
  const Entries<T, B> e = inner_->entries();
  if (e.kind == EntryKind::none) return;
  // Every entry's value must come back through the inner gradient: the table's or the matrix's, and the border's.
  T probe[1];
  const EntriesGradient<T, B> g = inner_->entries_gradient(probe);
  const bool all_come_back =
      stored_values(e) > 0 && (g.values || g.table) && (g.border || (e.border_rows == 0 && e.border_cols == 0));
  if (factor == 0 || !all_come_back) {
    source_ = std::make_shared<CompositionSource<T>>(std::vector<typename CompositionSource<T>::Part>{{inner_, 0, 0}},
                                                     static_cast<T>(factor));
  }
}
template <class T, class B>
ScaledMask<T, B>::~ScaledMask() = default;

template <class T, class B>
Entries<T, B> ScaledMask<T, B>::entries() const {
  if (source_) return source_entries(composition<T>(source_), this->rows(), this->cols());
  Entries<T, B> e = inner_->entries();
  e.scale *= static_cast<T>(factor_);
  for (T& w : e.border) w *= static_cast<T>(factor_);
  return e;
}
template <class T, class B>
Index ScaledMask<T, B>::entries_gradient_size() const {
  return source_ ? composition<T>(source_).scratch_size() : inner_->entries_gradient_size();
}
template <class T, class B>
EntriesGradient<T, B> ScaledMask<T, B>::entries_gradient(T* scratch) const {
  if (!source_) return inner_->entries_gradient(scratch);
  EntriesGradient<T, B> g;
  g.source = scratch;
  return g;
}
template <class T, class B>
void ScaledMask<T, B>::fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar,
                                             const Context<B>& context) const {
  const VectorView<T, B> inner_bar{parameter_bar.data, parameter_bar.size - 1};
  if (source_) {
    inner_->fold_entries_gradient(scratch, inner_bar, context);
    parameter_bar[parameter_bar.size - 1] += scratch[composition<T>(source_).inner_size()];
    return;
  }
  // The kernel has applied the factor inside, but not to the border, whose values it takes as they are.
  std::vector<T> copy(scratch, scratch + inner_->entries_gradient_size());
  const Entries<T, B> e = inner_->entries();
  const EntriesGradient<T, B> g = inner_->entries_gradient(copy.data());
  const T *values = g.table ? e.table : e.values, *bar = g.table ? g.table : g.values;
  double inside = 0, border = 0;
  for (Index p = 0; p < stored_values(e); ++p) inside += static_cast<double>(values[p]) * static_cast<double>(bar[p]);
  for (int k = 0; g.border && k < 3; ++k) {
    border += static_cast<double>(e.border[k]) * static_cast<double>(g.border[k]);
    g.border[k] *= static_cast<T>(factor_);
  }
  inner_->fold_entries_gradient(copy.data(), inner_bar, context);
  // bar carries scale * factor, inside needs the inner mask's own scale alone.
  parameter_bar[parameter_bar.size - 1] += static_cast<T>(inside / factor_ + border);
}
template <class T, class B>
std::span<const double> ScaledMask<T, B>::parameters() const {
  return parameters_;
}
template <class T, class B>
std::shared_ptr<const Mask<T, B>> ScaledMask<T, B>::with_parameters(std::span<const double> p) const {
  check_count(p, parameters_.size());
  std::size_t at = 0;
  const auto inner = next_mask<T, B>(inner_, p, at);
  return std::make_shared<ScaledMask>(inner, p[at], this->options());
}

template <class T, class B>
bool ScaledMask<T, B>::multiplies_by_tiles(Shape shape) const {
  return this->runs_by_tiles(shape) && inner_->entries().kind != EntryKind::none;
}

template <class T, class B>
void ScaledMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const {
  if (multiplies_by_tiles({.columns = x.cols})) return this->apply_by_tiles(x, y, transpose, context);
  if (transpose) {
    inner_->multiply_transpose(x, y, context);
  } else {
    inner_->multiply(x, y, context);
  }
  backend::scale(static_cast<T>(factor_), y, context);
}

// The factor's gradient is y_bar . (M x) = x . (Mᵀ y_bar), M the inner mask: the input gradient that the same call gives.
template <class T, class B>
void ScaledMask<T, B>::add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                              VectorView<T, B> parameter_bar, const Context<B>& context) const {
  const Index inner = parameter_bar.size - 1;
  backend::Buffer<T, B> bar(inner), x_bar(std::max<Index>(1, x.rows * x.cols));
  const MatrixView<T, B> turned = x_bar.matrix(x.rows, x.cols);
  inner_->multiply_vjp(x, y_bar, turned, inner > 0 ? VectorView<T, B>{bar.data(), inner} : VectorView<T, B>(), context);
  if (inner > 0) {
    const MatrixView<T, B> to(parameter_bar.data, 1, inner);
    backend::add_scaled<T, B>(static_cast<T>(factor_), bar.matrix(1, inner), to, context);
  }
  double sum = 0;
  for (Index i = 0; i < x.rows; ++i) {
    for (Index k = 0; k < x.cols; ++k) sum += static_cast<double>(x(i, k)) * static_cast<double>(turned(i, k));
  }
  parameter_bar[inner] += static_cast<T>(sum);
}

template <class T, class B>
void ScaledMask<T, B>::apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                      const Context<B>& context) const {
  if (multiplies_by_tiles({.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)})) {
    return this->low_rank_by_tiles(in, out, transpose, context);
  }
  if (transpose) {
    inner_->multiply_low_rank_transpose(in, out, context);
  } else {
    inner_->multiply_low_rank(in, out, context);
  }
  backend::scale(static_cast<T>(factor_), out.y, context);
  if (out.row_sum) backend::scale(static_cast<T>(factor_), MatrixView<T, B>(out.row_sum.data, 1, out.row_sum.size), context);
}

// The factor's gradient is sum_i a_i . a_bar_i with the inner mask's a_bar.
template <class T, class B>
void ScaledMask<T, B>::apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                          const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  if (multiplies_by_tiles({.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)})) {
    return Mask<T, B>::apply_low_rank_vjp(in, cotangents, gradients, context);
  }
  const Index inner = parameter_count<T, B>(inner_);
  LowRankGradients<T, B> out = gradients;
  backend::Buffer<T, B> a_bar(gradients.parameters && !gradients.a ? std::max<Index>(1, in.a.rows * in.a.cols) : 0);
  if (a_bar.size() > 0) out.a = a_bar.matrix(in.a.rows, in.a.cols);
  out.parameters = gradients.parameters && inner > 0 ? VectorView<T, B>{gradients.parameters.data, inner} : VectorView<T, B>();
  inner_->multiply_low_rank_vjp(in, cotangents, out, context);
  if (gradients.parameters) {
    double sum = 0;
    for (Index i = 0; i < in.a.rows; ++i) {
      for (Index k = 0; k < in.a.cols; ++k) sum += static_cast<double>(in.a(i, k)) * static_cast<double>(out.a(i, k));
    }
    gradients.parameters[inner] += static_cast<T>(sum);
  }
  const T factor = static_cast<T>(factor_);
  for (const auto& g : {gradients.a, gradients.b, gradients.x}) {
    if (g) backend::scale(factor, g, context);
  }
  if (out.parameters) backend::scale(factor, MatrixView<T, B>(out.parameters.data, 1, inner), context);
}

template <class T, class B>
std::vector<Report> ScaledMask<T, B>::candidates(Shape shape) const {
  std::vector<Report> all = choices<T, B>(inner_, shape);
  const std::string tiles = tile_engine_name(all);
  all = first_of(std::move(all));
  for (Report& r : all) {
    r.bytes += 2.0 * sizeof(T) * static_cast<double>(this->rows() * shape.columns * shape.heads);
    r.extra_bytes += sizeof(T) * static_cast<std::size_t>(this->rows() * shape.rank + this->cols() * shape.columns);
  }
  if (inner_->entries().kind == EntryKind::none) return all;
  return with_tiles(std::move(all), this->tile_report(shape, tiles), inner_->options().engine != "auto");
}

template class ESPALIER_EXPORT ScaledMask<float, Cpu>;
template class ESPALIER_EXPORT ScaledMask<double, Cpu>;

}  // namespace espalier
