// Masks made of masks, with references made of references.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/masks/combinators.hpp>

#include "support/sample_masks.hpp"

namespace espalier::test {

template <class T>
Sample<T> bordered(const Sample<T>& inner, Index n, BorderWeights w = {0.7, 1.3, -0.4}, MaskOptions options = {}) {
  return {std::make_shared<BorderedMask<T>>(inner.mask, n, w, options), [inner, n](std::span<const double> p) {
            const DenseMatrix m = inner.reference(p.first(p.size() - 3));
            const auto border = p.last(3);
            return dense_matrix(m.rows + n, m.cols + n, [&](Index i, Index j) {
              if (i >= n && j >= n) return m(i - n, j - n);
              return i < n ? (j < n ? border[2] : border[0]) : border[1];
            });
          }};
}
template <class T>
Sample<T> sum_of(const std::vector<Sample<T>>& terms) {
  std::vector<MaskPointer<T>> masks;
  for (const auto& t : terms) masks.push_back(t.mask);
  return {std::make_shared<SumMask<T>>(masks), [terms](std::span<const double> p) {
            std::size_t at = 0;
            DenseMatrix total = terms[0].reference(terms[0].split(p, at));
            for (std::size_t k = 1; k < terms.size(); ++k) total = sum(1, total, 1, terms[k].reference(terms[k].split(p, at)));
            return total;
          }};
}
template <class T>
Sample<T> scaled(const Sample<T>& inner, double factor) {
  return {std::make_shared<ScaledMask<T>>(inner.mask, factor), [inner](std::span<const double> p) {
            const DenseMatrix m = inner.reference(p.first(p.size() - 1));
            return sum(p.back(), m, 0, m);
          }};
}
template <class T>
Sample<T> block_diagonal(const std::vector<Sample<T>>& blocks) {
  std::vector<MaskPointer<T>> masks;
  for (const auto& b : blocks) masks.push_back(b.mask);
  const auto mask = std::make_shared<BlockDiagonalMask<T>>(masks);
  return {mask, [blocks, rows = mask->rows(), cols = mask->cols()](std::span<const double> p) {
            DenseMatrix m(rows, cols);
            std::size_t at = 0;
            Index row = 0, col = 0;
            for (const auto& b : blocks) {
              const DenseMatrix one = b.reference(b.split(p, at));
              for (Index i = 0; i < one.rows; ++i) {
                for (Index j = 0; j < one.cols; ++j) m(row + i, col + j) = one(i, j);
              }
              row += one.rows;
              col += one.cols;
            }
            return m;
          }};
}
template <class T>
Sample<T> causal(const Sample<T>& inner, Index shift = 0) {
  return {std::make_shared<CausalMask<T>>(inner.mask, shift), [inner, shift](std::span<const double> p) {
            const DenseMatrix m = inner.reference(p);
            return dense_matrix(m.rows, m.cols, [&](Index i, Index j) { return j - i > shift ? 0.0 : m(i, j); });
          }};
}

}  // namespace espalier::test
