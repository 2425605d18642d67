// GridMask: d-level block-Toeplitz masks on a grid, from a free table of offsets or a function of the distance.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>
#include <espalier/functions/distance_function.hpp>

#include <memory>
#include <span>
#include <vector>

namespace espalier {

// Of the offset o = i - j between two grid points: l1 = sum |o_t|, l2 = sqrt(sum o_t^2), max = max |o_t|;
// offset = o_1 itself, signed (one level only).
enum class Distance { l1, l2, max, offset };

struct GridOptions : MaskOptions {
  bool causal = false;  // raster order: entries with j > i (row-major index) are 0; exact, half of the table is zeroed
};

// M_ij = t[i_1 - j_1, ..., i_d - j_d], i and j row-major (last index fastest) on a grid n_1 x ... x n_d, L = prod n_t.
//
//   table   (2 n_1 - 1) x ... x (2 n_d - 1), row-major, element [o_1 + n_1 - 1, ..., o_d + n_d - 1]; any values, not
//           necessarily symmetric.
//   parameters()   the table (free table), or the function's parameters (function of a distance).
//
// Engines, docs/masks.md has them all:
//   direct         tiles computed on the fly, O(L^2); exact up to rounding, row by row
//   fft            circulant embedding, padded to 2-3-5-7-smooth lengths p_t >= 2 n_t - 1, O(P log P) a column; normwise
//   piecewise      one axis, few pieces of one value: exact tiles at their ends, sliding sums between; O(L)
//   exponentials   one axis, smooth away from the diagonal: within the tolerance, certified; O(L)
//   band           one axis, entries that die out: within the tolerance; O(L width)
//   separable      several axes, a short sum of products of tables by axis, plain products: certified; O(L terms sum n_t)
//   far-field      up to three axes, smooth away from the diagonal: certified; O(L)
// Gradient: the table's is the correlation g[o] = sum_{i - j = o} M'_ij, by tiles or by FFT; a function's is contracted with
// df/dp.  Cost of set-up: O(table), spectra on first need. Table entries below 1e-30 of the largest are stored as 0.
// Errors: ValueError for sizes < 1, an empty grid list, NaN or infinite table values, sizes whose product overflows;
// ShapeError for a table of another size.
template <class T, class B = Cpu>
class ESPALIER_EXPORT GridMask final : public Mask<T, B> {
 public:
  GridMask(std::vector<Index> sizes, DistanceFunction function, Distance distance = Distance::l1, GridOptions options = {});
  GridMask(std::vector<Index> sizes, std::span<const double> table, GridOptions options = {});
  ~GridMask() override;

  const std::vector<Index>& sizes() const;
  // The offset table as applied (after causal zeroing), in double.
  std::vector<double> table() const;

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>& context) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;
  bool multiplies_by_tiles(Shape shape) const override { return this->runs_by_tiles(shape); }

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                              const Context<B>& context) const override;
  void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                      const Context<B>& context) const override;
  void apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                          const LowRankGradients<T, B>& gradients, const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  class State;  // structure shared by with_parameters: sizes, keys, FFT plans
  struct Values;
  Report fft_report(Shape shape) const;
  // progress: null, or what a set-up that the choice takes is watched by.
  std::vector<Report> watched_candidates(Shape shape, const Progress* progress) const;
  // Before a product: what its choice of an engine takes (fits, bases) is set up under the call's context.
  void set_up(Shape shape, const Context<B>& context) const;
  void low_rank_vjp_by_fft(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                           const LowRankGradients<T, B>& gradients, const Context<B>& context) const;
  GridMask(std::shared_ptr<const State> state, std::shared_ptr<Values> values, const MaskOptions& options);
  std::shared_ptr<const State> state_;
  std::shared_ptr<Values> values_;
};

}  // namespace espalier
