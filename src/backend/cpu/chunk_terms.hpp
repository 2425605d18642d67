// Gradients by parameters that act on the terms of a sum of exponentials, from what gradients by a and b read anyway.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>

#include "backend/chunked.hpp"
#include "backend/cpu/tile_geometry.hpp"

#include <algorithm>
#include <complex>
#include <vector>

namespace espalier::backend {

// With G_ij = y_bar_i . x_j + r_bar_i and P = A Bᵀ, one term's far entries Z_ij = c exp(-s |i - j|) and a parameter that
// changes them by (u + v |i - j|) Z_ij, its gradient is Re (u E + v D), where over far pairs
//   E = sum Z_ij G_ij P_ij,    D = sum |i - j| Z_ij G_ij P_ij.
// What a row reads from its states is its part of E, and so is, the other way round, what a source reads from states of rows:
// with i = I C + a, j = J C + b, j < i, and A_I, B_J the parts of a chunk of rows and of one of sources,
//   D = C sum_k F_k + sum a Z G P - sum b Z G P,    F_k = sum_{J < k} B_J - sum_{I < k} A_I,
// F_k what crosses the border before chunk k: a pair of chunks crosses I - J of them. On the other side of the diagonal signs
// and parts change places. A and B are dot products of a_i, b_j with vectors that a_bar_i, b_bar_j are summed from: no further
// products, where states of derivatives would take more moments than the mask itself.
template <class T>
class TermGradients {
 public:
  // Who reads: rows the states of sources, or sources those of rows.
  enum Reader { kRows = 0, kSources = 1 };
  // Sums over the rows of a chunk: times one of a pair's two weights, or these times the position in the chunk.
  static constexpr Index kKinds = 4;

  explicit TermGradients(const ChunkedToeplitz<T>& m) : m_(&m) {
    const TileGeometry g = tile_geometry(sizeof(T));
    stride_ = g.padded_rows(m.chunk);
    chunks_ = m.chunk > 0 ? (m.length + m.chunk - 1) / m.chunk : 0;
    for (const bool upper : {false, true}) {
      const ChunkSide<T>& side = side_of(upper);
      if (side.term_value.empty()) continue;
      for (const Reader reader : {kRows, kSources}) make_weights(side, reader, weights_[upper][reader]);
      for (auto& sums : sums_[upper]) sums.assign(static_cast<std::size_t>(chunks_ * side.basis * kKinds), 0.0);
    }
  }
  static bool wanted(const ChunkedToeplitz<T>& m) { return !m.lower.term_value.empty() || !m.upper.term_value.empty(); }
  bool wanted(bool upper) const { return !side_of(upper).term_value.empty(); }

  // [kKinds, stride()] for basis vector p.
  const T* weights(bool upper, Reader reader, Index p) const { return weights_[upper][reader].data() + p * kKinds * stride_; }
  Index stride() const { return stride_; }
  // [R, kKinds] of one chunk.
  double* sums(bool upper, Reader reader, Index chunk) {
    return sums_[upper][reader].data() + chunk * side_of(upper).basis * kKinds;
  }

  // Adds the gradients by parameter.
  void add_to(std::vector<double>& far) const {
    for (const bool upper : {false, true}) {
      const ChunkSide<T>& side = side_of(upper);
      for (Index p = 0; p < side.basis && !side.term_value.empty(); p += width(side, p)) add_term(upper, p, far);
    }
  }

 private:
  using Complex = std::complex<double>;

  const ChunkSide<T>& side_of(bool upper) const { return upper ? m_->upper : m_->lower; }
  // Basis vectors of a term: its real part, and its imaginary part where it turns.
  static Index width(const ChunkSide<T>& side, Index p) { return side.term_turns[static_cast<std::size_t>(p)] != 0 ? 2 : 1; }

  void make_weights(const ChunkSide<T>& side, Reader reader, std::vector<T>& to) const {
    const std::vector<T>& from = reader == kRows ? side.row : side.source;
    const Index size = m_->chunk;
    to.assign(static_cast<std::size_t>(side.basis * kKinds * stride_), T(0));
    for (Index p = 0; p < side.basis; p += width(side, p)) {
      for (Index member = 0; member < width(side, p); ++member) {
        T* w = to.data() + (p + member) * kKinds * stride_;
        for (Index a = 0; a < size; ++a) {
          const T position = static_cast<T>(static_cast<double>(a) - 0.5 * static_cast<double>(size));
          for (Index part = 0; part < width(side, p); ++part) {
            const T weight = from[static_cast<std::size_t>((p + part) * size + a)];
            w[part * stride_ + a] = weight;
            w[(2 + part) * stride_ + a] = position * weight;
          }
        }
      }
    }
  }

  // sum (weight)(value), complex, over a chunk, and the same times the position.
  struct Part {
    Complex all, by_position;
  };
  Part part(bool upper, Reader reader, Index chunk, Index p) const {
    const ChunkSide<T>& side = side_of(upper);
    const double* s = sums_[upper][reader].data() + (chunk * side.basis + p) * kKinds;
    if (width(side, p) == 1) return {s[0], s[2]};
    // Of the lower side rows hold (Re, -Im) and their states (Re, Im); its sources, and the upper side's rows, the other way
    // round; the upper side's sources as the lower side's rows.
    const double sign = (reader == kRows) != upper ? 1 : -1;
    const double* z = s + kKinds;  // of the second member of states
    const auto product = [&](Index k) { return Complex(s[k] + z[k + 1], sign * (z[k] - s[k + 1])); };
    return {product(0), product(2)};
  }

  void add_term(bool upper, Index p, std::vector<double>& far) const {
    const ChunkSide<T>& side = side_of(upper);
    // Of the lower side sources come first.
    const Reader enters = upper ? kRows : kSources, leaves = upper ? kSources : kRows;
    Complex all = 0, inside = 0, balance = 0;
    double size = 0;
    for (Index k = 0; k < chunks_; ++k) {
      const Part in = part(upper, enters, k, p), out = part(upper, leaves, k, p);
      all += out.all;
      inside += out.by_position - in.by_position;
      balance += in.all - out.all;
      size += std::abs(in.all) + std::abs(out.all);
    }
    // What enters leaves. Where rounding says otherwise, the difference is spread as what it comes from is.
    Complex crossing = 0, crossings = 0;
    double so_far = 0;
    for (Index k = 0; k + 1 < chunks_; ++k) {
      const Part in = part(upper, enters, k, p), out = part(upper, leaves, k, p);
      crossing += in.all - out.all;
      so_far += std::abs(in.all) + std::abs(out.all);
      crossings += crossing - (size > 0 ? so_far / size : 0.0) * balance;
    }
    const Complex by_distance = static_cast<double>(m_->chunk) * crossings + inside;
    const Index r = side.basis;
    for (std::size_t d = 0; d < far.size(); ++d) {
      const auto of = [&](const std::vector<double>& terms) {
        const auto at = d * static_cast<std::size_t>(r) + static_cast<std::size_t>(p);
        return Complex(terms[at], width(side, p) == 2 ? terms[at + 1] : 0.0);
      };
      far[d] += (of(side.term_value) * all + of(side.term_slope) * by_distance).real();
    }
  }

  const ChunkedToeplitz<T>* m_;
  Index stride_ = 0, chunks_ = 0;
  std::vector<T> weights_[2][2];  // [side][reader]
  std::vector<double> sums_[2][2];
};

}  // namespace espalier::backend
