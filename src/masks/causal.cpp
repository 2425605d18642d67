// CausalMask: tiles with the future set to zero; where the inner mask has no tiles, its matrix is formed once.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/causal.hpp>
#include <espalier/masks/ones.hpp>

#include "backend/elementwise.hpp"
#include "masks/composition.hpp"

#include <mutex>

namespace espalier {

namespace {

// 8192² floats are 256 MiB; forming them takes 8192 columns of the inner product.
constexpr Index kFormedLimit = 8192;
// Unit columns multiplied at once: 64 reach the engines' column panels, at 8192 rows 2 MiB of float.
constexpr Index kUnitColumns = 64;

// Calls f(first column, unit columns first .. first + n - 1 of size rows x n).
template <class T, class B, class F>
void over_unit_columns(Index size, const F& f) {
  backend::Buffer<T, B> unit(size * kUnitColumns);
  for (Index j = 0; j < size; j += kUnitColumns) {
    const Index n = std::min(kUnitColumns, size - j);
    const MatrixView<T, B> u = unit.matrix(size, n);
    backend::fill(u, T(0), Context<B>{});
    for (Index k = 0; k < n; ++k) u(j + k, k) = T(1);
    f(j, u);
  }
}

}  // namespace

template <class T, class B>
class CausalMask<T, B>::Formed {
 public:
  // The inner matrix, rows x cols; formed by the first who asks.
  const T* values(const Mask<T, B>& inner) {
    std::call_once(once_, [&] {
      const Index rows = inner.rows(), cols = inner.cols();
      backend::Buffer<T, B> all(rows * cols);
      over_unit_columns<T, B>(
          cols, [&](Index j, MatrixView<T, B> unit) { inner.multiply(unit, all.matrix(rows, cols).columns(j, unit.cols)); });
      values_ = std::move(all);
    });
    return values_.data();
  }

 private:
  std::once_flag once_;
  backend::Buffer<T, B> values_;
};

template <class T, class B>
CausalMask<T, B>::CausalMask(MaskPointer<T, B> inner, Index shift, MaskOptions options)
    : Mask<T, B>(checked<T, B>(inner).rows(), checked<T, B>(inner).cols(), std::move(options)),
      inner_(std::move(inner)),
      shift_(shift) {
  if (const auto* ones = dynamic_cast<const OnesMask<T, B>*>(inner_.get())) {
    const Entries<T, B> e = ones->entries();
    ones_ = std::make_shared<OnesMask<T, B>>(this->rows(), this->cols(), true,
                                             e.causal ? std::min(shift, e.causal_shift) : shift, this->options());
  } else if (inner_->entries().kind == EntryKind::none) {
    if (std::max(this->rows(), this->cols()) > kFormedLimit) {
      throw ValueError("CausalMask: the inner mask's entries cannot be had by tile, and at " + std::to_string(this->rows()) +
                       " x " + std::to_string(this->cols()) +
                       " its matrix is not formed (limit: " + std::to_string(kFormedLimit) + " rows and columns)");
    }
    formed_ = std::make_shared<Formed>();
  }
}
template <class T, class B>
CausalMask<T, B>::~CausalMask() = default;

template <class T, class B>
Entries<T, B> CausalMask<T, B>::entries() const {
  Entries<T, B> e;
  if (formed_) {
    e.kind = EntryKind::dense;
    e.rows = this->rows();
    e.cols = this->cols();
    e.values = formed_->values(*inner_);
    e.values_stride = this->cols();
  } else {
    e = inner_->entries();
  }
  // Zero wherever either of the two says so.
  e.causal_shift = e.causal ? std::min(e.causal_shift, shift_) : shift_;
  e.causal = true;
  return e;
}
template <class T, class B>
Index CausalMask<T, B>::entries_gradient_size() const {
  return formed_ ? this->rows() * this->cols() : inner_->entries_gradient_size();
}
template <class T, class B>
EntriesGradient<T, B> CausalMask<T, B>::entries_gradient(T* scratch) const {
  if (!formed_) return inner_->entries_gradient(scratch);
  EntriesGradient<T, B> g;
  g.values = scratch;
  return g;
}
template <class T, class B>
void CausalMask<T, B>::fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar,
                                             const Context<B>& context) const {
  if (!formed_) return inner_->fold_entries_gradient(scratch, parameter_bar, context);
  const Index count = parameter_bar.size;
  if (count == 0) return;
  // sum_ij C_ij dM_ij / dp, C the entries' gradient: the plain product's parameter gradient for unit columns x and y_bar = C.
  backend::Buffer<T, B> bar(count);
  const MatrixView<const T, B> c(scratch, this->rows(), this->cols());
  over_unit_columns<T, B>(this->cols(), [&](Index j, MatrixView<T, B> unit) {
    inner_->multiply_vjp(unit, c.columns(j, unit.cols), {}, {bar.data(), count}, context);
    backend::add_scaled<T, B>(T(1), bar.matrix(1, count), MatrixView<T, B>(parameter_bar.data, 1, count), context);
  });
}
template <class T, class B>
std::span<const double> CausalMask<T, B>::parameters() const {
  return inner_->parameters();
}
template <class T, class B>
std::shared_ptr<const Mask<T, B>> CausalMask<T, B>::with_parameters(std::span<const double> p) const {
  check_count(p, inner_->parameters().size());
  std::size_t at = 0;
  return std::make_shared<CausalMask>(next_mask<T, B>(inner_, p, at), shift_, this->options());
}

template <class T, class B>
void CausalMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const {
  if (!ones_) return this->apply_by_tiles(x, y, transpose, context);
  if (transpose) {
    ones_->multiply_transpose(x, y, context);
  } else {
    ones_->multiply(x, y, context);
  }
}
template <class T, class B>
void CausalMask<T, B>::apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                      const Context<B>& context) const {
  if (!ones_) return this->low_rank_by_tiles(in, out, transpose, context);
  if (transpose) {
    ones_->multiply_low_rank_transpose(in, out, context);
  } else {
    ones_->multiply_low_rank(in, out, context);
  }
}
template <class T, class B>
void CausalMask<T, B>::apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                          const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  if (ones_) return ones_->multiply_low_rank_vjp(in, cotangents, gradients, context);
  Mask<T, B>::apply_low_rank_vjp(in, cotangents, gradients, context);
}

template <class T, class B>
std::vector<Report> CausalMask<T, B>::candidates(Shape shape) const {
  if (ones_) return ones_->engines(shape);
  Report r = this->tile_report(shape, formed_ ? "dense" : "direct");
  if (formed_) {
    r.reason += "; the inner mask has no entries by tile, its matrix is formed once";
    const auto one = chosen<T, B>(inner_, {.columns = kUnitColumns});
    if (one.empty()) return {};  // nothing that the matrix could be made by
    // The matrix is what the inner engine computes: its bounds on entries hold, those on rows and norms do not.
    r.certificate = one.front().certificate;
    if (r.certificate) r.certificate->row.reset(), r.certificate->norm.reset();
    r.extra_bytes += one.front().extra_bytes;
    r.extra_bytes += sizeof(T) * static_cast<std::size_t>(this->rows() * this->cols() * 2 + this->cols() * kUnitColumns);
  }
  return {r};
}

template class ESPALIER_EXPORT CausalMask<float, Cpu>;
template class ESPALIER_EXPORT CausalMask<double, Cpu>;

}  // namespace espalier
