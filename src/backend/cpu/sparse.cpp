// The sparse recurrence on the host: a row of the operator times a panel of columns held in vector registers.
// SPDX-License-Identifier: Apache-2.0
#include "backend/sparse.hpp"

#include "backend/cpu/parallel.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/sparse.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/dispatch.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Gathers of the neighbours' rows are the bottleneck: rows this many nonzeros ahead are asked for early.
constexpr Index kAhead = 12;

template <int N, class C>
void rows_of_width(const SparseOperator<C, Cpu>& op, C alpha, C beta, C gamma, C coefficient, const C* HWY_RESTRICT current,
                   C* HWY_RESTRICT previous, C* HWY_RESTRICT y, Index first, Index last) {
  const hn::ScalableTag<C> d;
  constexpr Index kWidth = static_cast<Index>(hn::MaxLanes(hn::ScalableTag<C>()));
  constexpr Index kStride = N * kWidth;
  const auto a = hn::Set(d, alpha), g = hn::Set(d, gamma), c = hn::Set(d, coefficient);
  const Index end_of_all = op.row_start[op.nodes];
  for (Index i = first; i < last; ++i) {
    hn::Vec<hn::ScalableTag<C>> sum[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sum[n] = hn::Zero(d);
    for (Index p = op.row_start[i]; p < op.row_start[i + 1]; ++p) {
      const C* ahead = current + op.col_index[std::min(p + kAhead, end_of_all - 1)] * kStride;
      hwy::Prefetch(ahead);
      if constexpr (kStride * sizeof(C) > 64) hwy::Prefetch(ahead + 64 / sizeof(C));
      const auto w = hn::Set(d, op.weights[p]);
      const C* row = current + op.col_index[p] * kStride;
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) sum[n] = hn::MulAdd(w, hn::Load(d, row + n * kWidth), sum[n]);
    }
    const auto own = hn::Set(d, alpha * op.diagonal[i] + beta);
    const Index at = i * kStride;
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      auto next = hn::NegMulAdd(a, sum[n], hn::Mul(own, hn::Load(d, current + at + n * kWidth)));
      if (gamma != C(0)) next = hn::NegMulAdd(g, hn::Load(d, previous + at + n * kWidth), next);
      hn::Store(next, d, previous + at + n * kWidth);
      hn::Store(hn::MulAdd(c, next, hn::Load(d, y + at + n * kWidth)), d, y + at + n * kWidth);
    }
  }
}

template <class C>
void rows(const SparseOperator<C, Cpu>& op, C alpha, C beta, C gamma, C coefficient, const C* current, C* previous, C* y,
          Index stride, Index first, Index last) {
  switch (stride / static_cast<Index>(hn::MaxLanes(hn::ScalableTag<C>()))) {
    case 1:
      return rows_of_width<1>(op, alpha, beta, gamma, coefficient, current, previous, y, first, last);
    case 2:
      return rows_of_width<2>(op, alpha, beta, gamma, coefficient, current, previous, y, first, last);
    case 4:
      return rows_of_width<4>(op, alpha, beta, gamma, coefficient, current, previous, y, first, last);
    default:
      return rows_of_width<8>(op, alpha, beta, gamma, coefficient, current, previous, y, first, last);
  }
}

void rows_float(const SparseOperator<float, Cpu>& op, float alpha, float beta, float gamma, float coefficient,
                const float* current, float* previous, float* y, Index stride, Index first, Index last) {
  rows(op, alpha, beta, gamma, coefficient, current, previous, y, stride, first, last);
}
void rows_double(const SparseOperator<double, Cpu>& op, double alpha, double beta, double gamma, double coefficient,
                 const double* current, double* previous, double* y, Index stride, Index first, Index last) {
  rows(op, alpha, beta, gamma, coefficient, current, previous, y, stride, first, last);
}
Index lanes_float() {
  return static_cast<Index>(hn::MaxLanes(hn::ScalableTag<float>()));
}
Index lanes_double() {
  return static_cast<Index>(hn::MaxLanes(hn::ScalableTag<double>()));
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(rows_float);
HWY_EXPORT(rows_double);
HWY_EXPORT(lanes_float);
HWY_EXPORT(lanes_double);

namespace {

template <class C>
Index lanes() {
  if constexpr (sizeof(C) == sizeof(float)) {
    return ESPALIER_DISPATCH(lanes_float)();
  } else {
    return ESPALIER_DISPATCH(lanes_double)();
  }
}

constexpr Index kRowBlock = 2048;

}  // namespace

// 16 columns: two cache lines of doubles a gathered row, and three panels of 130,000 nodes stay within 50 MB. With vectors of
// one 16-byte block (the baseline) 8 of them are 16 doubles too.
template <class C, class B>
Index panel_columns() {
  return std::min<Index>(16, 8 * lanes<C>());
}

template <class C, class B>
Index panel_stride(Index columns) {
  Index vectors = 1;
  while (vectors * lanes<C>() < columns) vectors *= 2;
  return vectors * lanes<C>();
}

template <class C, class B>
void recurrence_step(const SparseOperator<C, B>& op, C alpha, C beta, C gamma, C coefficient, const C* current, C* previous,
                     C* y, Index stride, const Context<B>& context) {
  parallel_for(context, (op.nodes + kRowBlock - 1) / kRowBlock, [&](Index t, int) {
    const Index first = t * kRowBlock, last = std::min(op.nodes, first + kRowBlock);
    if constexpr (sizeof(C) == sizeof(float)) {
      ESPALIER_DISPATCH(rows_float)(op, alpha, beta, gamma, coefficient, current, previous, y, stride, first, last);
    } else {
      ESPALIER_DISPATCH(rows_double)(op, alpha, beta, gamma, coefficient, current, previous, y, stride, first, last);
    }
  });
}

template <class T, class C, class B>
void load_panel(MatrixView<const T, B> x, const double* factor, C* panel, Index stride, const Context<B>& context) {
  parallel_for(context, (x.rows + kRowBlock - 1) / kRowBlock, [&](Index t, int) {
    for (Index i = t * kRowBlock; i < std::min(x.rows, (t + 1) * kRowBlock); ++i) {
      C* to = panel + i * stride;
      const C f = factor != nullptr ? static_cast<C>(factor[i]) : C(1);
      for (Index k = 0; k < x.cols; ++k) to[k] = f * static_cast<C>(x(i, k));
      std::fill(to + x.cols, to + stride, C(0));
    }
  });
}

template <class T, class C, class B>
void store_panel(const C* panel, Index stride, const double* factor, MatrixView<T, B> x, const Context<B>& context) {
  parallel_for(context, (x.rows + kRowBlock - 1) / kRowBlock, [&](Index t, int) {
    for (Index i = t * kRowBlock; i < std::min(x.rows, (t + 1) * kRowBlock); ++i) {
      const C* from = panel + i * stride;
      const C f = factor != nullptr ? static_cast<C>(factor[i]) : C(1);
      for (Index k = 0; k < x.cols; ++k) x(i, k) = static_cast<T>(f * from[k]);
    }
  });
}

#define ESPALIER_INSTANTIATE(C)                                                                                           \
  template Index panel_columns<C, Cpu>();                                                                                 \
  template Index panel_stride<C, Cpu>(Index);                                                                             \
  template void recurrence_step(const SparseOperator<C, Cpu>&, C, C, C, C, const C*, C*, C*, Index, const Context<Cpu>&); \
  template void load_panel(MatrixView<const float, Cpu>, const double*, C*, Index, const Context<Cpu>&);                  \
  template void load_panel(MatrixView<const double, Cpu>, const double*, C*, Index, const Context<Cpu>&);                 \
  template void store_panel(const C*, Index, const double*, MatrixView<float, Cpu>, const Context<Cpu>&);                 \
  template void store_panel(const C*, Index, const double*, MatrixView<double, Cpu>, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
#endif  // HWY_ONCE
