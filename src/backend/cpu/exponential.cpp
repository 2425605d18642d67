// Vectorised exponentials, compiled once per instruction set.
// SPDX-License-Identifier: Apache-2.0
#include "backend/exponential.hpp"

#include "backend/cpu/parallel.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/exponential.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/dispatch.hpp"

#include "backend/cpu/dispatch.hpp"

#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
void exponential_row(T* HWY_RESTRICT y, Index n, T shift, T factor) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<Index>(hn::Lanes(d));
  const auto s = hn::Set(d, shift), f = hn::Set(d, factor);
  // Highway's Exp gives 0 for NaN; NaN passes through here.
  const auto one = [&](auto x) { return hn::Mul(f, hn::IfThenElse(hn::Eq(x, x), hn::Exp(d, x), x)); };
  Index k = 0;
  for (; k + lanes <= n; k += lanes) hn::StoreU(one(hn::Sub(hn::LoadU(d, y + k), s)), d, y + k);
  if (k < n) {
    HWY_ALIGN T tail[hn::MaxLanes(hn::ScalableTag<T>())] = {};
    std::copy(y + k, y + n, tail);
    hn::Store(one(hn::Sub(hn::Load(d, tail), s)), d, tail);
    std::copy(tail, tail + (n - k), y + k);
  }
}

void exponential_row_float(float* y, Index n, float shift, float factor) {
  exponential_row(y, n, shift, factor);
}
void exponential_row_double(double* y, Index n, double shift, double factor) {
  exponential_row(y, n, shift, factor);
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(exponential_row_float);
HWY_EXPORT(exponential_row_double);

template <class T, class B>
void exponentials(MatrixView<T, B> y, VectorView<const T, B> shift, T factor, const Context<B>& context) {
  const Index block = std::max<Index>(1, 16384 / std::max<Index>(1, y.cols));
  parallel_for(context, (y.rows + block - 1) / block, [&](Index t, int) {
    for (Index i = t * block; i < std::min(y.rows, (t + 1) * block); ++i) {
      if constexpr (sizeof(T) == sizeof(float)) {
        ESPALIER_DISPATCH(exponential_row_float)(y.row(i), y.cols, shift[i], factor);
      } else {
        ESPALIER_DISPATCH(exponential_row_double)(y.row(i), y.cols, shift[i], factor);
      }
    }
  });
}

template void exponentials(MatrixView<float, Cpu>, VectorView<const float, Cpu>, float, const Context<Cpu>&);
template void exponentials(MatrixView<double, Cpu>, VectorView<const double, Cpu>, double, const Context<Cpu>&);

}  // namespace espalier::backend
#endif  // HWY_ONCE
