// SumMask: the terms' products one after the other, or one pass over the sum of their tiles.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/sum.hpp>

#include "backend/elementwise.hpp"
#include "masks/composition.hpp"

namespace espalier {

namespace {

template <class T>
const CompositionSource<T>& composition(const std::shared_ptr<const EntrySource<T>>& source) {
  return static_cast<const CompositionSource<T>&>(*source);
}
template <class T, class B>
const Mask<T, B>& first_of(const std::vector<MaskPointer<T, B>>& terms) {
  if (terms.empty()) throw ValueError("SumMask: no terms");
  for (const auto& t : terms) checked<T, B>(t);
  return *terms.front();
}

}  // namespace

template <class T, class B>
SumMask<T, B>::SumMask(std::vector<MaskPointer<T, B>> terms, MaskOptions options)
    : Mask<T, B>(first_of<T, B>(terms).rows(), first_of<T, B>(terms).cols(), std::move(options)), terms_(std::move(terms)) {
  std::vector<typename CompositionSource<T>::Part> parts;
  bool entries = true;
  for (const auto& t : terms_) {
    if (t->rows() != this->rows() || t->cols() != this->cols()) {
      throw ShapeError("SumMask: a term", std::to_string(t->rows()) + " x " + std::to_string(t->cols()),
                       std::to_string(this->rows()) + " x " + std::to_string(this->cols()) + " as the first");
    }
    append_parameters<T, B>(t, parameters_);
    entries = entries && t->entries().kind != EntryKind::none;
    parts.push_back({t, 0, 0});
  }
  if (entries) source_ = std::make_shared<CompositionSource<T>>(std::move(parts));
}
template <class T, class B>
SumMask<T, B>::~SumMask() = default;

template <class T, class B>
Entries<T, B> SumMask<T, B>::entries() const {
  return source_ ? source_entries(composition<T>(source_), this->rows(), this->cols()) : Entries<T, B>();
}
template <class T, class B>
Index SumMask<T, B>::entries_gradient_size() const {
  return source_ ? composition<T>(source_).scratch_size() : 0;
}
template <class T, class B>
EntriesGradient<T, B> SumMask<T, B>::entries_gradient(T* scratch) const {
  EntriesGradient<T, B> g;
  g.source = scratch;
  return g;
}
template <class T, class B>
void SumMask<T, B>::fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>& context) const {
  Index at = 0;
  for (std::size_t k = 0; k < terms_.size(); ++k) {
    const Index count = parameter_count<T, B>(terms_[k]);
    terms_[k]->fold_entries_gradient(scratch + composition<T>(source_).offset(k), {parameter_bar.data + at, count}, context);
    at += count;
  }
}
template <class T, class B>
std::span<const double> SumMask<T, B>::parameters() const {
  return parameters_;
}
template <class T, class B>
std::shared_ptr<const Mask<T, B>> SumMask<T, B>::with_parameters(std::span<const double> p) const {
  check_count(p, parameters_.size());
  std::vector<MaskPointer<T, B>> terms;
  std::size_t at = 0;
  for (const auto& t : terms_) terms.push_back(next_mask<T, B>(t, p, at));
  return std::make_shared<SumMask>(std::move(terms), this->options());
}

template <class T, class B>
bool SumMask<T, B>::by_tiles(Shape shape) const {
  return source_ && this->runs_by_tiles(shape);
}

template <class T, class B>
void SumMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const {
  if (by_tiles({.columns = x.cols})) return this->apply_by_tiles(x, y, transpose, context);
  backend::Buffer<T, B> other(terms_.size() > 1 ? y.rows * y.cols : 0);
  for (std::size_t k = 0; k < terms_.size(); ++k) {
    const MatrixView<T, B> to = k == 0 ? y : other.matrix(y.rows, y.cols);
    if (transpose) {
      terms_[k]->multiply_transpose(x, to, context);
    } else {
      terms_[k]->multiply(x, to, context);
    }
    if (k > 0) backend::add_scaled<T, B>(T(1), to, y, context);
  }
}

template <class T, class B>
void SumMask<T, B>::add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                           VectorView<T, B> parameter_bar, const Context<B>& context) const {
  backend::Buffer<T, B> bar(parameter_bar.size);
  Index at = 0;
  for (const auto& t : terms_) {
    const Index count = parameter_count<T, B>(t);
    if (count > 0) t->multiply_vjp(x, y_bar, {}, {bar.data() + at, count}, context);
    at += count;
  }
  const MatrixView<T, B> all(parameter_bar.data, 1, parameter_bar.size);
  backend::add_scaled<T, B>(T(1), bar.matrix(1, parameter_bar.size), all, context);
}

template <class T, class B>
void SumMask<T, B>::apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                   const Context<B>& context) const {
  if (by_tiles({.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)})) {
    return this->low_rank_by_tiles(in, out, transpose, context);
  }
  const Index rows = out.y.rows, c = out.y.cols;
  const bool more = terms_.size() > 1;
  backend::Buffer<T, B> y(more ? rows * c : 0), row_sum(more && out.row_sum ? rows : 0);
  const MatrixView<T, B> sums(out.row_sum.data, out.row_sum.size, 1);
  for (std::size_t k = 0; k < terms_.size(); ++k) {
    LowRankOutputs<T, B> one = out;
    if (k > 0) {
      one.y = y.matrix(rows, c);
      if (out.row_sum) one.row_sum = {row_sum.data(), rows};
    }
    if (transpose) {
      terms_[k]->multiply_low_rank_transpose(in, one, context);
    } else {
      terms_[k]->multiply_low_rank(in, one, context);
    }
    if (k == 0) continue;
    backend::add_scaled<T, B>(T(1), one.y, out.y, context);
    if (out.row_sum) backend::add_scaled<T, B>(T(1), row_sum.matrix(rows, 1), sums, context);
  }
}

template <class T, class B>
void SumMask<T, B>::apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                       const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  if (by_tiles({.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)})) {
    return Mask<T, B>::apply_low_rank_vjp(in, cotangents, gradients, context);
  }
  const MatrixView<T, B> wanted[] = {gradients.a, gradients.b, gradients.x};
  backend::Buffer<T, B> buffers[3];
  MatrixView<T, B> others[3];
  for (int g = 0; g < 3 && terms_.size() > 1; ++g) {
    if (!wanted[g]) continue;
    buffers[g] = backend::Buffer<T, B>(std::max<Index>(1, wanted[g].rows * wanted[g].cols));
    others[g] = buffers[g].matrix(wanted[g].rows, wanted[g].cols);
  }
  Index at = 0;
  for (std::size_t k = 0; k < terms_.size(); ++k) {
    LowRankGradients<T, B> one = gradients;
    if (k > 0) one.a = others[0], one.b = others[1], one.x = others[2];
    const Index count = parameter_count<T, B>(terms_[k]);
    one.parameters =
        gradients.parameters && count > 0 ? VectorView<T, B>{gradients.parameters.data + at, count} : VectorView<T, B>();
    at += count;
    terms_[k]->multiply_low_rank_vjp(in, cotangents, one, context);
    for (int g = 0; g < 3 && k > 0; ++g) {
      if (wanted[g]) backend::add_scaled<T, B>(T(1), others[g], wanted[g], context);
    }
  }
}

template <class T, class B>
std::vector<Report> SumMask<T, B>::candidates(Shape shape) const {
  std::vector<Report> all = chosen_together<T, B>(terms_, shape);
  bool forced = false, dense = !terms_.empty();
  for (const auto& t : terms_) {
    forced = forced || t->options().engine != "auto";
    dense = dense && tile_engine_name(choices<T, B>(t, shape)) == "dense";
  }
  for (Report& r : all) {
    r.extra_bytes += sizeof(T) * static_cast<std::size_t>((this->rows() + this->cols()) * (shape.columns + shape.rank + 1));
    // Terms may cancel, their errors do not.
    if (r.certificate && terms_.size() > 1) r.certificate->estimated = true;
  }
  if (!source_) return all;
  return with_tiles(std::move(all), this->tile_report(shape, dense ? "dense" : "direct"), forced);
}

template class ESPALIER_EXPORT SumMask<float, Cpu>;
template class ESPALIER_EXPORT SumMask<double, Cpu>;

}  // namespace espalier
