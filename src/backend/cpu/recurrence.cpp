// One token at a time on the host: every state is read and written once.
// SPDX-License-Identifier: Apache-2.0
#include "backend/recurrence.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/recurrence.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/parallel.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void recurrence_kernel(const RecurrenceStep& step, const double* HWY_RESTRICT a, const double* HWY_RESTRICT b,
                       const double* HWY_RESTRICT x, double* HWY_RESTRICT state, double* HWY_RESTRICT y) {
  const hn::ScalableTag<double> d;
  const auto lanes = static_cast<Index>(hn::Lanes(d));
  const Index size = step.m * step.width;
  for (Index i = 0; i < step.m; ++i) {
    for (Index c = 0; c < step.width; c += lanes) {
      const auto bx = hn::Mul(hn::Set(d, b[i]), hn::LoadU(d, x + c));
      auto sum = hn::Zero(d);
      double* at = state + i * step.width + c;
      for (Index q = 0; q < step.count; ++q) {
        double* own = at + q * size;
        const auto old = hn::LoadU(d, own);
        auto s = hn::MulAdd(hn::Set(d, step.decay[q]), old, old);
        for (Index k = step.couple_start ? step.couple_start[q] : 0; step.couple_start && k < step.couple_start[q + 1]; ++k) {
          s = hn::MulAdd(hn::Set(d, step.couple_weight[k]), hn::LoadU(d, at + step.couple_state[k] * size), s);
        }
        s = hn::MulAdd(hn::Set(d, step.in[q]), bx, s);
        hn::StoreU(s, d, own);
        sum = hn::MulAdd(hn::Set(d, step.out[q]), s, sum);
      }
      if (y != nullptr) hn::StoreU(hn::MulAdd(hn::Set(d, a[i]), sum, hn::LoadU(d, y + c)), d, y + c);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(recurrence_kernel);

void recurrence_step(const RecurrenceStep& step, const double* a, const double* b, const double* x, double* state, double* y) {
  const FlushSubnormals flush;
  if (y != nullptr) std::fill_n(y, step.width, 0.0);
  ESPALIER_DISPATCH(recurrence_kernel)(step, a, b, x, state, y);
}

}  // namespace espalier::backend
#endif  // HWY_ONCE
