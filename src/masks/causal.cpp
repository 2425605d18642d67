// CausalMask: tiles with the future set to zero; where the inner mask has no tiles, its matrix is formed once.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/causal.hpp>
#include <espalier/masks/ones.hpp>

#include "backend/elementwise.hpp"
#include "masks/composition.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <optional>
#include <vector>

namespace espalier {

namespace {

// 8192² floats are 256 MiB; forming them takes 8192 columns of the inner product.
constexpr Index kFormedLimit = 8192;
// Unit columns multiplied at once: 64 reach the engines' column panels, at 8192 rows 2 MiB of float.
constexpr Index kUnitColumns = 64;

// Calls f(first column, unit columns first .. first + kUnitColumns - 1 of size rows x kUnitColumns; past the last column
// zeros): one shape, so that one engine makes them all.
template <class T, class B, class F>
void over_unit_columns(Index size, const F& f) {
  backend::Buffer<T, B> unit(size * kUnitColumns);
  for (Index j = 0; j < size; j += kUnitColumns) {
    const MatrixView<T, B> u = unit.matrix(size, kUnitColumns);
    backend::fill(u, T(0), Context<B>{});
    for (Index k = 0; k < std::min(kUnitColumns, size - j); ++k) u(j + k, k) = T(1);
    f(j, u);
  }
}

// What an inner certificate says of a formed matrix M~ of which the entries with j - i <= shift are kept, E = M~ - M. It bounds
// E before anything is left out: ||E||_2 by norm, each |E_ij| by norm or entry, each row's sum of |E_ij| by all of them. The
// bounds are taken relative to what is kept of M, at least that of M~ less E and less `rounding` of the whole. Leaving out a
// triangle multiplies a spectral norm by at most 1 + ceil(log2 n) (halves: the blocks on the diagonal by recursion, the one
// beside them as it is); n counts the shift.
template <class T>
Certificate kept_certificate(const Certificate& inner, double rounding, const T* values, Index rows, Index cols, Index shift) {
  shift = std::clamp(shift, -rows - cols, rows + cols);
  constexpr double kNone = std::numeric_limits<double>::infinity();
  double largest = 0, row_sum = 0;
  std::vector<double> column_sum(static_cast<std::size_t>(cols), 0.0);
  for (Index i = 0; i < rows; ++i) {
    double sum = 0;
    for (Index j = 0; j < cols; ++j) {
      const double m = std::abs(static_cast<double>(values[i * cols + j]));
      largest = std::max(largest, m);
      sum += m;
      column_sum[static_cast<std::size_t>(j)] += m;
    }
    row_sum = std::max(row_sum, sum);
  }
  const double most_in_column = cols > 0 ? *std::max_element(column_sum.begin(), column_sum.end()) : 0;
  // A relative bound as an absolute one: |E| <= r |M| <= r |M~| / (1 - r).
  const auto absolute = [](const std::optional<double>& r, double size) { return r && *r < 1 ? *r / (1 - *r) * size : kNone; };
  const double whole = std::sqrt(row_sum * most_in_column);  // ||M~||_2 at most
  const double spectral = absolute(inner.norm, whole), lost = rounding * whole;
  const double entry = std::min(spectral, absolute(inner.entry, largest));

  double kept_largest = 0, row_norm = 0, worst_row = 0, ones = 0;  // ones: ||K 1||^2, K what is kept of M~
  for (Index i = 0; i < rows; ++i) {
    const Index count = std::clamp<Index>(i + shift + 1, 0, cols);
    double sum = 0, all = 0, squares = 0, with_signs = 0;
    for (Index j = 0; j < cols; ++j) {
      const double value = static_cast<double>(values[i * cols + j]), m = std::abs(value);
      all += m;
      if (j >= count) continue;
      with_signs += value;
      kept_largest = std::max(kept_largest, m);
      sum += m;
      squares += m * m;
    }
    row_norm = std::max(row_norm, std::sqrt(squares));
    ones += with_signs * with_signs;
    const auto n = static_cast<double>(count);
    const double error = std::min({std::sqrt(n) * spectral, n * entry, absolute(inner.row, all)});
    const double size = sum - error - std::sqrt(n) * lost;
    if (error > 0) worst_row = std::max(worst_row, size > 0 ? error / size : kNone);
  }
  const auto relative = [](double error, double size) {
    return size > 0 && error / size < 1 ? std::optional(error / size) : std::nullopt;
  };
  Certificate kept;
  kept.estimated = inner.estimated;
  kept.entry = relative(entry, kept_largest - entry - lost);
  if (worst_row < 1) kept.row = worst_row;
  if (spectral < kNone) {
    const double reach = static_cast<double>(std::max(rows, cols) + std::abs(shift));
    const double triangle = 1 + std::ceil(std::log2(std::max(1.0, reach)));
    // A matrix is as large as any of its rows, and as its product with the vector of ones of length 1.
    const double by_row = row_norm - spectral - lost;
    const double by_ones = std::sqrt(ones / static_cast<double>(std::max<Index>(1, cols))) - triangle * (spectral + lost);
    kept.norm = relative(triangle * spectral, std::max(by_row, by_ones));
  }
  return kept;
}

}  // namespace

template <class T, class B>
class CausalMask<T, B>::Formed {
 public:
  // The inner matrix, rows x cols; formed by the first who asks.
  const T* values(const Mask<T, B>& inner, Index shift) {
    std::call_once(once_, [&] {
      const Index rows = inner.rows(), cols = inner.cols();
      const Report one = inner.report({.columns = kUnitColumns});
      backend::Buffer<T, B> all(rows * cols), some(rows * kUnitColumns);
      over_unit_columns<T, B>(cols, [&](Index j, MatrixView<T, B> unit) {
        const MatrixView<T, B> made = some.matrix(rows, kUnitColumns);
        inner.multiply(unit, made);
        const Index n = std::min(kUnitColumns, cols - j);
        backend::copy<T, B>(made.columns(0, n), all.matrix(rows, cols).columns(j, n), Context<B>{});
      });
      values_ = std::move(all);
      if (one.certificate) {
        certificate_ = kept_certificate(*one.certificate, one.rounding_estimate, values_.data(), rows, cols, shift);
      }
      known_.store(true, std::memory_order_release);
    });
    return values_.data();
  }
  // Empty until the matrix is formed.
  std::optional<Certificate> certificate() const {
    return known_.load(std::memory_order_acquire) ? certificate_ : std::nullopt;
  }

 private:
  std::once_flag once_;
  std::atomic<bool> known_{false};
  backend::Buffer<T, B> values_;
  std::optional<Certificate> certificate_;
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
    e.values = formed_->values(*inner_, shift_);
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
    const Index n = std::min(kUnitColumns, this->cols() - j);
    inner_->multiply_vjp(unit.columns(0, n), c.columns(j, n), {}, {bar.data(), count}, context);
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
    if (one.front().certificate) {
      r.certificate = formed_->certificate();
      if (!r.certificate) {
        r.certificate = Certificate{};
        r.reason += " (its error bounds are known from then on)";
      } else if (!(r.certificate->norm.value_or(1) <= this->tolerance() ||
                   r.certificate->row.value_or(1) <= this->tolerance())) {
        r.warnings.push_back("the bounds of what is kept are above the tolerance: use a smaller one for the inner mask");
      }
    }
    r.extra_bytes += one.front().extra_bytes;
    r.extra_bytes +=
        sizeof(T) * static_cast<std::size_t>(this->rows() * this->cols() * 2 + (this->rows() + this->cols()) * kUnitColumns);
  }
  return {r};
}

template class ESPALIER_EXPORT CausalMask<float, Cpu>;
template class ESPALIER_EXPORT CausalMask<double, Cpu>;

}  // namespace espalier
