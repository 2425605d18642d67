// Mask<T, B>: a matrix that is never formed, with its plain and its masked low-rank product and their derivatives.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/backend.hpp>
#include <espalier/core/context.hpp>
#include <espalier/core/entries.hpp>
#include <espalier/core/export.hpp>
#include <espalier/core/low_rank.hpp>
#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>
#include <espalier/core/views.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace espalier {

// A mask M, rows x cols, immutable. All products are const, safe to call from several threads at once, deterministic, and
// bit-equal for every thread count. Public functions check shapes (ShapeError) and overlap of outputs with inputs
// (ValueError) before anything is written; the private hooks behind them do not check again.
//
// Deriving your own mask: override `apply`; `entries` if entries can be had by tile (then products with features run on
// the library's tile kernels, and the mask serves as a softmax bias); `parameters`, `with_parameters` and
// `add_parameter_gradient` if it learns. Everything else has a default. See docs/adding_a_mask.md.
template <class T, class B = Cpu>
class ESPALIER_EXPORT Mask {
 public:
  virtual ~Mask();
  Mask(const Mask&) = default;
  Mask& operator=(const Mask&) = delete;

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  const MaskOptions& options() const { return options_; }

  // y = M x: y_ic = sum_j M_ij x_jc.  x: cols x c, y: rows x c.
  void multiply(MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context = {}) const;
  // y = Mᵀ x.  x: rows x c, y: cols x c.
  void multiply_transpose(MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context = {}) const;
  // Gradients of s = sum_ic y_bar_ic (M x)_ic:  x_bar = Mᵀ y_bar (cols x c);
  // parameter_bar_p = sum_ij (sum_c y_bar_ic x_jc) dM_ij / dp. Either may be empty; both are overwritten.
  void multiply_vjp(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, MatrixView<T, B> x_bar,
                    VectorView<T, B> parameter_bar, const Context<B>& context = {}) const;

  // Y = (M ∘ A Bᵀ) X:  y_ic = sum_j M_ij (a_i . b_j) x_jc,  row_sum_i = sum_j M_ij (a_i . b_j).
  // Extra memory: report().extra_bytes; panels of features keep within context.scratch_bytes (never L x m c).
  void multiply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, const Context<B>& context = {}) const;
  // The same with Mᵀ in the place of M.
  void multiply_low_rank_transpose(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out,
                                   const Context<B>& context = {}) const;
  // Gradients of sum y_bar . Y + sum row_sum_bar . row_sum; with W_ij = y_bar_i . x_j + row_sum_bar_i:
  //   a_bar_i = sum_j M_ij W_ij b_j    b_bar_j = sum_i M_ij W_ij a_i    x_bar_j = sum_i M_ij (a_i . b_j) y_bar_i
  //   parameter_bar_p = sum_ij (a_i . b_j) W_ij dM_ij / dp.            Those wanted are overwritten.
  void multiply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                             const LowRankGradients<T, B>& gradients, const Context<B>& context = {}) const;

  // Entries by tile; kind none where they cannot be had.
  virtual Entries<T, B> entries() const;
  // Adds what a kernel gathered for these entries' gradient into the mask's parameters: the sink that kernels write to is
  // made by `entries_gradient`, over `scratch` of `entries_gradient_size` elements, zeroed; `fold_entries_gradient` turns
  // it into parameter_bar (added to). A mask whose parameters are its table has nothing to fold.
  virtual Index entries_gradient_size() const;
  virtual EntriesGradient<T, B> entries_gradient(T* scratch) const;
  virtual void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>& context) const;

  // The learnable numbers, in the order that the class documents; none by default.
  virtual std::span<const double> parameters() const;
  // The same mask with other parameters: shares plans and structure, costs O(parameters) plus spectra. This object is
  // untouched. Errors: ShapeError for a wrong count, ValueError for NaN or infinity.
  virtual std::shared_ptr<const Mask> with_parameters(std::span<const double> parameters) const;

  // Every engine that could run this shape, cheapest first; and the one that will. Pure functions of the mask, its options
  // and the shape. Errors: ValueError when the options leave no engine; the text names those that would run.
  std::vector<Report> engines(Shape shape) const;
  Report report(Shape shape) const;
  // Whether multiply_low_rank of this shape is nothing but the tile kernel over entries(), so that a caller may run that kernel
  // itself (attention makes features while tiles read their rows, and writes entries out that many heads share). Default:
  // false, since a class may have a product of its own.
  virtual bool multiplies_by_tiles(Shape shape) const;

 protected:
  Mask(Index rows, Index cols, MaskOptions options = {});

  // The tolerance with its default put in.
  double tolerance() const;

  // Hooks. Arguments are checked; outputs are overwritten unless said otherwise; context.threads may be 1 inside a
  // parallel region.
  // y = M x, or Mᵀ x.
  virtual void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const = 0;
  // parameter_bar_p += sum_ij (sum_c y_bar_ic x_jc) dM_ij / dp. Default: by tiles of `entries`, nothing without parameters;
  // a mask with parameters and without entries must override it.
  virtual void add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                                      const Context<B>& context) const;
  // Masked low-rank product. Default: tiles where the chosen engine is a tile engine ("direct", "dense"), otherwise feature
  // panels through `apply`: columns b_jr x_jc, contracted with a_ir.
  virtual void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                              const Context<B>& context) const;
  // Its gradients. Default: the fused tile kernel for a tile engine, otherwise composed from apply_low_rank, apply and
  // add_parameter_gradient.
  virtual void apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                  const LowRankGradients<T, B>& gradients, const Context<B>& context) const;
  // The engines this class has for a shape, in any order. Default: "product" (apply, and feature panels over it), and
  // "direct" for shape.rank > 0 where entries() has tiles.
  virtual std::vector<Report> candidates(Shape shape) const;

  // Whether report(shape) names a tile engine ("direct", "dense"). The last answer is kept: a report with its texts takes 3 us,
  // a twentieth of a product of 197 tokens.
  bool runs_by_tiles(Shape shape) const;
  // For derived classes: the report of the tile engine for a shape, under the given name.
  Report tile_report(Shape shape, const std::string& engine) const;
  // What low_rank_by_panels takes for a shape, apart from `apply` itself, with the default scratch memory.
  std::size_t panel_bytes(Shape shape) const;
  // The same product by feature panels, whatever engine is chosen.
  void low_rank_by_panels(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                          const Context<B>& context) const;
  // Products by the tile kernels over entries(). Errors: ValueError where entries() has none.
  void apply_by_tiles(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const;
  void low_rank_by_tiles(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                         const Context<B>& context) const;
  void low_rank_vjp_by_tiles(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                             const LowRankGradients<T, B>& gradients, const Context<B>& context) const;

 private:
  // A shape with its answer in one word, so that threads may share it; a copy starts without.
  struct LastChoice {
    LastChoice() = default;
    LastChoice(const LastChoice&) {}
    mutable std::atomic<std::uint64_t> word{0};
  };
  Index rows_, cols_;
  MaskOptions options_;
  LastChoice last_choice_;
};

template <class T, class B = Cpu>
using MaskPointer = std::shared_ptr<const Mask<T, B>>;

}  // namespace espalier
