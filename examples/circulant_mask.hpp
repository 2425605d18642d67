// A mask of your own: circulant, with a learnable first column, products by its own FFT in O(L log L).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/error.hpp>
#include <espalier/core/mask.hpp>

#include <cmath>
#include <complex>
#include <memory>
#include <numbers>
#include <span>
#include <string>
#include <utility>
#include <vector>

// M_ij = column[(i - j) mod L], L x L, L a power of two. parameters(): the column. Only `apply` is required of a mask; the rest
// here makes it learn (parameters, with_parameters, add_parameter_gradient) and gives kernels its entries (entries and the
// EntrySource).
template <class T>
class CirculantMask final : public espalier::Mask<T>, public espalier::EntrySource<T> {
  using Index = espalier::Index;
  using Complex = std::complex<double>;

 public:
  explicit CirculantMask(std::span<const double> column)
      : espalier::Mask<T>(static_cast<Index>(column.size()), static_cast<Index>(column.size())),
        column_(column.begin(), column.end()),
        values_(column.begin(), column.end()),
        spectrum_(column.begin(), column.end()) {
    if (column.empty() || (column.size() & (column.size() - 1)) != 0) {
      throw espalier::ShapeError("CirculantMask", std::to_string(column.size()) + " entries", "a power of two");
    }
    for (const double c : column) {
      if (!std::isfinite(c)) throw espalier::ValueError("CirculantMask: a parameter is not finite");
    }
    transform(spectrum_, -1);
  }

  std::span<const double> parameters() const override { return column_; }
  std::shared_ptr<const espalier::Mask<T>> with_parameters(std::span<const double> p) const override {
    if (p.size() != column_.size()) throw espalier::ShapeError("parameters", static_cast<Index>(p.size()), this->rows());
    return std::make_shared<CirculantMask>(p);
  }

  // Entries by tile, and the way back: a tile's gradient is added to the parameters it came from.
  espalier::Entries<T> entries() const override {
    espalier::Entries<T> e;
    e.kind = espalier::EntryKind::source;
    e.rows = e.cols = e.parameter_count = this->rows();
    e.source = this;
    return e;
  }
  Index entries_gradient_size() const override { return this->rows(); }
  espalier::EntriesGradient<T> entries_gradient(T* scratch) const override {
    espalier::EntriesGradient<T> g;
    g.source = scratch;
    return g;
  }
  void fold_entries_gradient(const T* scratch, espalier::VectorView<T> parameter_bar,
                             const espalier::Context<espalier::Cpu>&) const override {
    for (Index p = 0; p < parameter_bar.size; ++p) parameter_bar[p] += scratch[p];
  }
  void fill(Index row0, Index rows, Index col0, Index cols, T* out, Index stride) const override {
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) out[i * stride + j] = values_[at(row0 + i, col0 + j)];
    }
  }
  void add_gradient(Index row0, Index rows, Index col0, Index cols, const T* bar, Index stride,
                    T* parameter_bar) const override {
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) parameter_bar[at(row0 + i, col0 + j)] += bar[i * stride + j];
    }
  }

 protected:
  // A product is a multiplication of spectra, with the conjugate for the transpose; two real columns make one complex one.
  void apply(espalier::MatrixView<const T> x, espalier::MatrixView<T> y, bool transpose,
             const espalier::Context<espalier::Cpu>& context) const override {
    const double scale = 1 / static_cast<double>(this->rows());
    for (Index k = 0; k < x.cols; k += 2) {
      check_stop(context);
      std::vector<Complex> z = pair_of_columns(x, k);
      transform(z, -1);
      for (std::size_t f = 0; f < z.size(); ++f) z[f] *= scale * (transpose ? std::conj(spectrum_[f]) : spectrum_[f]);
      transform(z, 1);
      for (Index i = 0; i < y.rows; ++i) {
        y(i, k) = static_cast<T>(z[static_cast<std::size_t>(i)].real());
        if (k + 1 < y.cols) y(i, k + 1) = static_cast<T>(z[static_cast<std::size_t>(i)].imag());
      }
    }
  }
  // parameter_bar_d += sum_jk y_bar_(j + d)k x_jk: a correlation; the real part of a pair's is the sum of both columns'.
  void add_parameter_gradient(espalier::MatrixView<const T> x, espalier::MatrixView<const T> y_bar,
                              espalier::VectorView<T> parameter_bar,
                              const espalier::Context<espalier::Cpu>& context) const override {
    std::vector<Complex> sum(column_.size());
    for (Index k = 0; k < x.cols; k += 2) {
      check_stop(context);
      std::vector<Complex> from = pair_of_columns(x, k), to = pair_of_columns(y_bar, k);
      transform(from, -1);
      transform(to, -1);
      for (std::size_t f = 0; f < sum.size(); ++f) sum[f] += to[f] * std::conj(from[f]);
    }
    transform(sum, 1);
    const double scale = 1 / static_cast<double>(this->rows());
    for (Index d = 0; d < parameter_bar.size; ++d) {
      parameter_bar[d] += static_cast<T>(scale * sum[static_cast<std::size_t>(d)].real());
    }
  }

 private:
  // Long loops look at the caller's stop token; the library's own primitives do so by themselves.
  static void check_stop(const espalier::Context<espalier::Cpu>& context) {
    if (context.progress != nullptr && context.progress->stop.stop_requested()) throw espalier::Cancelled();
  }
  std::size_t at(Index i, Index j) const { return static_cast<std::size_t>(i - j) & (column_.size() - 1); }
  static std::vector<Complex> pair_of_columns(espalier::MatrixView<const T> x, Index k) {
    std::vector<Complex> z(static_cast<std::size_t>(x.rows));
    for (Index i = 0; i < x.rows; ++i) {
      z[static_cast<std::size_t>(i)] = {static_cast<double>(x(i, k)), k + 1 < x.cols ? static_cast<double>(x(i, k + 1)) : 0.0};
    }
    return z;
  }
  // z_f = sum_j z_j exp(sign 2 pi i f j / L): bits of the index reversed, then butterflies of doubling length.
  static void transform(std::vector<Complex>& z, int sign) {
    const std::size_t n = z.size();
    for (std::size_t i = 1, j = 0; i < n; ++i) {
      std::size_t bit = n >> 1;
      for (; (j & bit) != 0; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) std::swap(z[i], z[j]);
    }
    for (std::size_t half = 1; half < n; half *= 2) {
      for (std::size_t k = 0; k < half; ++k) {
        const Complex w = std::polar(1.0, sign * std::numbers::pi * static_cast<double>(k) / static_cast<double>(half));
        for (std::size_t i = k; i < n; i += 2 * half) {
          const Complex odd = w * z[i + half];
          z[i + half] = z[i] - odd;
          z[i] += odd;
        }
      }
    }
  }

  std::vector<double> column_;
  std::vector<T> values_;          // what kernels get
  std::vector<Complex> spectrum_;  // the column's transform
};
