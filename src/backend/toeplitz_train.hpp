// Backend primitive: products with a sum of Kronecker products of Toeplitz matrices, one axis of a grid after the other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/views.hpp>

#include <cstddef>
#include <vector>

namespace espalier::backend {

// One axis of a train (d >= 2 of them): left x right tables of offsets. The first has left = 1, the last right = 1, and the
// left of each is the right of the one before.
template <class T>
struct TrainAxis {
  Index axis = 0;             // of the grid
  Index size = 1;             // n
  Index left = 1, right = 1;  // P and Q
  Index first = 0, last = 0;  // offsets outside first .. last are 0 in every table; first <= last
  bool folded = false;        // every table is even, and halves of the axis are multiplied instead (below)
  std::vector<T> values;      // [P, Q, 2 n - 1], the entry of offset o at o + n - 1
};

// Whether folding an even axis with this many tables saves time: not where a band does as much, nor where the halves of the
// last axis fill no whole panels, nor on few short tables; and up to 512 points, since the halves' matrices are formed.
bool folding_pays(Index size, Index tables, Index first, Index last, bool is_last_axis);

// M_ij = sum over k_1 ... k_{d-1} of prod_t values_t[k_{t-1}, k_t](i_t - j_t), t in the order of `axes`, i and j row-major on
// the grid's own order of axes. (A tensor train, or matrix product, of Toeplitz matrices; for d = 2 a sum of Kronecker
// products.)
//
// A column of x is one array over the grid. Its last axis is multiplied from the right, the others from the left, 32 places of
// the last axis at a time, so that what lies between the axes (P rows of 32 numbers a point) stays in the caches.
// A folded axis becomes e_j = x_j + x_{n-1-j} and o_j = x_j - x_{n-1-j}; the even table u multiplies them apart,
//   E_ij = (u(i - j) + u(n - 1 - i - j)) / 2,   O_ij = (u(i - j) - u(n - 1 - i - j)) / 2,   y_i = (E e)_i + (O o)_i,
//   y_{n-1-i} = (E e)_i - (O o)_i:   half the arithmetic. E and O are formed (n^2 / 2 numbers a table); other axes' matrices
//   are
// not, but for small inner ones.
// Cost, flops a column: 2 L sum_t P_t Q_t w_t, w_t = n_t / 2 where folded, else min(n_t, offsets first .. last), all by the
// register tile. Memory: `bytes`. Accuracy: row by row. Folded, a row's error is relative to the sum of its entries, not to
// each: rounding E and O moves M_ij by up to eps / 2 max(|u(i - j)|, |u(n - 1 - i - j)|) an axis, in a row at most eps times
// its sum.
template <class T>
class ToeplitzTrain {
 public:
  ToeplitzTrain(const std::vector<Index>& sizes, std::vector<TrainAxis<T>> axes);

  // y = M x, or Mᵀ x.
  void multiply(MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose, const Context<Cpu>& context) const;

  // Flops that a column takes; with `executed` those of lanes that are padding too.
  double flops(bool executed) const;
  // Block products of one column.
  double calls() const;
  // How often each number moves: into planes and out of them, to fold and unfold, between axes.
  double passes() const;
  // Bound on the memory of a call; and what the train keeps.
  std::size_t bytes(Index columns) const;
  std::size_t kept_bytes() const;

 private:
  struct Scratch;
  // What one direction reads of one axis, or of one half of a folded axis.
  struct Tables {
    Index size = 0;         // points
    std::vector<T> values;  // Toeplitz. Last axis: [P] of `table_stride_` numbers, zeros behind; others: [P, Q, 2 n - 1]
    std::vector<T> formed;  // instead. Last axis: [P, panels, size, 32]; others: [P] matrices size x (Q size)
    Index first = 0, last = 0;
  };
  // The halves, one an axis, that are multiplied together.
  struct Block {
    std::vector<int> half;       // 0: whole or even, 1: odd
    std::vector<Index> row;      // of a plane, for every row of the block
    Index column = 0, step = 1;  // along a row of a plane
  };
  struct Piece {
    Index block, panel;
  };
  void make_tables(bool transpose);
  void make_blocks();
  const Tables& tables(bool transpose, std::size_t t, const Block& block) const {
    return tables_[transpose ? 1 : 0][2 * t + static_cast<std::size_t>(block.half[t])];
  }
  Index group_size(Index columns) const;
  bool by_panels(Index columns) const;
  void gather(MatrixView<const T, Cpu> x, Index first, Index count, T* planes) const;
  void scatter(const T* planes, Index first, Index count, Index row0, Index rows, MatrixView<T, Cpu> y) const;
  void fold(T* plane) const;  // the same forward and back
  void make_piece(const Piece& piece, bool transpose, const T* x_plane, T* y_plane, Scratch& scratch) const;
  void last_axis(const Piece& piece, bool transpose, const T* x_plane, T* out) const;
  void inner_axis(std::size_t t, const Piece& piece, bool transpose, const T* in, T* out) const;

  std::vector<TrainAxis<T>> axes_;
  std::vector<Tables> tables_[2];  // as they are, transposed; two an axis
  std::vector<Block> blocks_;
  std::vector<Piece> pieces_;
  std::vector<Index> token_;      // of the first point of every row of a plane
  Index token_step_ = 1;          // between points of a row
  Index length_ = 1, rows_ = 1;   // points, and those of all axes but the last
  Index stride_ = 1, plane_ = 1;  // between rows of a plane, between planes
  Index table_stride_ = 1;        // between tables of the last axis
  Index between_ = 0;             // the most numbers between two axes
};

}  // namespace espalier::backend
