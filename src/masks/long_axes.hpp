// Sums of Kronecker products on two long axes, each factor a mask of its own on one axis: linear time along both.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>
#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>
#include <espalier/masks/grid.hpp>

#include <memory>
#include <string>
#include <vector>

#include "backend/planes.hpp"
#include "masks/offset_train.hpp"
#include "masks/set_up_watch.hpp"

namespace espalier {

// M = sum_k U_k ⊗ V_k by  y = sum_k V_k (U_k x)ᵀ ...: a column of x is a plane, U_k runs over its rows, the plane is turned,
// V_k runs over what were its columns. The factors choose their engines (exponentials, band, tiles, FFT) for the columns they
// see.
template <class T>
class LongAxes {
 public:
  // train: of two axes, met. Factors get `tolerance` each, row kind.
  LongAxes(const std::vector<Index>& sizes, const OffsetTrain<T>& train, double tolerance, const MaskOptions& options,
           const SetUpWatch& watch);

  // Whether every factor runs in linear time.
  bool linear() const { return linear_; }
  // The train's certificate with the factors' own.
  const Certificate& certificate() const { return certificate_; }
  // Of a product of `columns` columns.
  double seconds(Index columns) const;
  double flops(Index columns) const;
  std::size_t bytes(Index columns) const;
  // "exponentials and fft": the engines of the factors, each named once.
  const std::string& engines() const { return engines_; }

  void multiply(MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose, const Context<Cpu>& context) const;

 private:
  struct Factor {
    std::unique_ptr<const GridMask<T>> mask;
    Report report;
  };
  Factor factor(const backend::TrainAxis<T>& axis, Index k, Index columns, const MaskOptions& options);
  Index group_size(Index columns) const;

  std::vector<Factor> rows_, columns_;  // U_k, V_k
  backend::PlaneShape plane_, turned_;
  CostModel cost_;
  Certificate certificate_;
  std::string engines_;
  bool linear_ = true;
};

// Axes shorter than this are multiplied faster whole, and from five terms on an FFT of the whole grid is faster.
inline constexpr Index kLongAxis = 384, kMostLongTerms = 4;

}  // namespace espalier
