// Small masks with their references, for tests of masks made of masks: one with entries by tile, one without.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/error.hpp>
#include <espalier/masks/dense.hpp>

#include "support/mask_laws.hpp"

#include <cmath>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace espalier::test {

// A mask beside its reference; parameters are those of the mask, in its order.
template <class T>
struct Sample {
  std::shared_ptr<const Mask<T>> mask;
  std::function<DenseMatrix(std::span<const double>)> reference;
  std::span<const double> split(std::span<const double> p, std::size_t& at) const {
    at += mask->parameters().size();
    return p.subspan(at - mask->parameters().size(), mask->parameters().size());
  }
};

// rows x cols numbers as a DenseMask: every entry is a parameter.
template <class T>
Sample<T> dense_sample(Index rows, Index cols) {
  const DenseMatrix m = dense_matrix(rows, cols, [](Index i, Index j) {
    return 0.5 + std::exp(-0.1 * std::abs(static_cast<double>(i - j))) * std::cos(static_cast<double>(i + 3 * j));
  });
  return {std::make_shared<DenseMask<T>>(MatrixView<const double>(m.values.data(), rows, cols)),
          [rows, cols](std::span<const double> p) {
            return dense_matrix(rows, cols, [&](Index i, Index j) { return p[static_cast<std::size_t>(i * cols + j)]; });
          }};
}

// A mask without entries by tile: M_ij = s + t u_i v_j, u_i = 1 / (1 + i), v_j = 1 + j % 3; parameters s, t. O(rows + cols) a
// column.
template <class T>
class OuterMask final : public Mask<T> {
 public:
  OuterMask(Index rows, Index cols, double s, double t) : Mask<T>(rows, cols), p_{s, t} {}
  static double left(Index i) { return 1 / (1 + static_cast<double>(i)); }
  static double right(Index j) { return 1 + static_cast<double>(j % 3); }
  std::span<const double> parameters() const override { return p_; }
  std::shared_ptr<const Mask<T>> with_parameters(std::span<const double> p) const override {
    if (p.size() != 2) throw ShapeError("parameters", static_cast<Index>(p.size()), 2);
    for (const double v : p) {
      if (!std::isfinite(v)) throw ValueError("OuterMask: a parameter is not finite");
    }
    return std::make_shared<OuterMask>(this->rows(), this->cols(), p[0], p[1]);
  }

 protected:
  void apply(MatrixView<const T> x, MatrixView<T> y, bool transpose, const Context<Cpu>& context) const override {
    if (context.progress && context.progress->stop.stop_requested()) throw Cancelled();
    for (Index k = 0; k < y.cols; ++k) {
      const auto [sum, weighted] = sums(x, k, transpose);
      for (Index i = 0; i < y.rows; ++i) {
        y(i, k) = static_cast<T>(p_[0] * sum + p_[1] * (transpose ? right(i) : left(i)) * weighted);
      }
    }
  }
  void add_parameter_gradient(MatrixView<const T> x, MatrixView<const T> y_bar, VectorView<T> bar,
                              const Context<Cpu>&) const override {
    for (Index k = 0; k < x.cols; ++k) {
      const auto [sum, weighted] = sums(x, k, false);
      const auto [sum_bar, weighted_bar] = sums(y_bar, k, true);
      bar[0] += static_cast<T>(sum * sum_bar);
      bar[1] += static_cast<T>(weighted * weighted_bar);
    }
  }

 private:
  static std::pair<double, double> sums(MatrixView<const T> x, Index k, bool rows) {
    double sum = 0, weighted = 0;
    for (Index j = 0; j < x.rows; ++j) {
      sum += static_cast<double>(x(j, k));
      weighted += (rows ? left(j) : right(j)) * static_cast<double>(x(j, k));
    }
    return {sum, weighted};
  }
  std::vector<double> p_;
};

template <class T>
Sample<T> outer_sample(Index rows, Index cols) {
  return {std::make_shared<OuterMask<T>>(rows, cols, 0.3, 0.8), [rows, cols](std::span<const double> p) {
            return dense_matrix(rows, cols,
                                [&](Index i, Index j) { return p[0] + p[1] * OuterMask<T>::left(i) * OuterMask<T>::right(j); });
          }};
}

// The laws for a mask made of samples: `reference` gets the parameters.
template <class T>
void check_sample(const std::string& name, const Sample<T>& s) {
  check_mask_laws<T>({.name = name + " " + std::to_string(s.mask->rows()) + " x " + std::to_string(s.mask->cols()),
                      .mask = s.mask,
                      .reference = s.reference});
}

}  // namespace espalier::test
