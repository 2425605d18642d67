// Masks made of masks: bordered (extra tokens), sum, scaled, block diagonal, causal.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/export.hpp>
#include <espalier/core/mask.hpp>

#include <memory>
#include <vector>

namespace espalier {

// Weights between extra tokens (CLS, registers) and the others.
struct BorderWeights {
  double row = 1;     // i an extra token, j not
  double column = 1;  // j an extra token, i not
  double corner = 1;  // both
};

// M with `count` extra tokens put first: (count + rows) x (count + cols).
// parameters(): those of the inner mask, then row, column, corner. Cost: the inner product plus O(L) a column.
template <class T, class B = Cpu>
class ESPALIER_EXPORT BorderedMask final : public Mask<T, B> {
 public:
  BorderedMask(MaskPointer<T, B> inner, Index count, BorderWeights weights = {}, MaskOptions options = {});

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                              const Context<B>& context) const override;
  void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                      const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  MaskPointer<T, B> inner_;
  Index count_;
  BorderWeights weights_;
  std::vector<double> parameters_;
};

// sum_k M_k, all of one size. parameters(): those of the terms, in order.
template <class T, class B = Cpu>
class ESPALIER_EXPORT SumMask final : public Mask<T, B> {
 public:
  explicit SumMask(std::vector<MaskPointer<T, B>> terms, MaskOptions options = {});
  ~SumMask() override;

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                              const Context<B>& context) const override;
  void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                      const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  std::vector<MaskPointer<T, B>> terms_;
  std::vector<double> parameters_;
  std::shared_ptr<const EntrySource<T>> source_;
};

// factor M. parameters(): those of the inner mask, then the factor.
template <class T, class B = Cpu>
class ESPALIER_EXPORT ScaledMask final : public Mask<T, B> {
 public:
  ScaledMask(MaskPointer<T, B> inner, double factor, MaskOptions options = {});

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                              const Context<B>& context) const override;
  void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                      const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  MaskPointer<T, B> inner_;
  double factor_;
  std::vector<double> parameters_;
};

// diag(M_1, M_2, ...): (sum rows) x (sum cols), 0 outside the blocks. parameters(): those of the blocks, in order.
template <class T, class B = Cpu>
class ESPALIER_EXPORT BlockDiagonalMask final : public Mask<T, B> {
 public:
  explicit BlockDiagonalMask(std::vector<MaskPointer<T, B>> blocks, MaskOptions options = {});
  ~BlockDiagonalMask() override;

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                              const Context<B>& context) const override;
  void apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                      const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  std::vector<MaskPointer<T, B>> blocks_;
  std::vector<double> parameters_;
  std::shared_ptr<const EntrySource<T>> source_;
};

// The inner mask with M_ij = 0 where j - i > shift (0: top-left; cols - rows: bottom-right). parameters(): the inner ones.
// Runs on tiles of the inner entries ("direct"); where there are none, "dense": the L x L matrix is formed by products with
// unit columns, up to 8192 columns, beyond that a ValueError that names the limit.
template <class T, class B = Cpu>
class ESPALIER_EXPORT CausalMask final : public Mask<T, B> {
 public:
  explicit CausalMask(MaskPointer<T, B> inner, Index shift = 0, MaskOptions options = {});
  ~CausalMask() override;

  Entries<T, B> entries() const override;
  Index entries_gradient_size() const override;
  EntriesGradient<T, B> entries_gradient(T* scratch) const override;
  void fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar) const override;
  std::span<const double> parameters() const override;
  std::shared_ptr<const Mask<T, B>> with_parameters(std::span<const double> parameters) const override;

 protected:
  void apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const override;
  void add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, VectorView<T, B> parameter_bar,
                              const Context<B>& context) const override;
  std::vector<Report> candidates(Shape shape) const override;

 private:
  class State;
  MaskPointer<T, B> inner_;
  Index shift_;
  std::shared_ptr<State> state_;
};

}  // namespace espalier
