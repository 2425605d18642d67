// Sliding windows on the host, for any instruction set.
// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/chunk_windows.hpp"

#include "backend/cpu/chunked_call.hpp"

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/chunk_windows.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// f(tag, u) for whole vectors of [0, n), then for single elements.
template <class T, class F>
HWY_INLINE void for_vectors(Index n, const F& f) {
  Index u = 0;
  for (; u + kLanes<T> <= n; u += kLanes<T>) f(Wide<T>(), u);
  for (; u < n; ++u) f(hn::CappedTag<T, 1>(), u);
}

// One window over a block of elements; everything points at the block's first element.
template <class T>
struct WindowBlock {
  Index elements, step;
  T* sum;   // of the arrivals' block so far
  T* low;   // what rounding left out of it
  T* ends;  // ends[e - 1]: the sum from position e to the end of the block before
};

// sum := p, low := 0.
template <class T>
HWY_INLINE void begin_sum(Index n, const T* HWY_RESTRICT p, T* HWY_RESTRICT sum, T* HWY_RESTRICT low) {
  for_vectors<T>(n, [&](auto d, Index u) HWY_ATTR {
    hn::StoreU(hn::LoadU(d, p + u), d, sum + u);
    hn::StoreU(hn::Zero(d), d, low + u);
  });
}

// to := from + p with what rounding leaves out in low; `to` may be `from`.
template <class T>
HWY_INLINE void add_compensated(Index n, const T* p, const T* from, T* to, T* HWY_RESTRICT low) {
  for_vectors<T>(n, [&](auto d, Index u) HWY_ATTR {
    const auto old = hn::LoadU(d, from + u), more = hn::Add(hn::LoadU(d, p + u), hn::LoadU(d, low + u));
    const auto sum = hn::Add(old, more);
    hn::StoreU(hn::Sub(more, hn::Sub(sum, old)), d, low + u);
    hn::StoreU(sum, d, to + u);
  });
}

// The window's sum for one step goes to `value`. s: the newest arrival in it; moments_at(s): its vector.
template <class T, class F>
HWY_INLINE void window_sum(const ChunkWindow<T>& w, Index s, Index position, const WindowBlock<T>& at, const F& moments_at,
                           T* HWY_RESTRICT value) {
  const Index n = at.elements;
  const T* newest = moments_at(s);
  if (w.last == kOpenWindow) {
    if (s == 0) {
      begin_sum(n, newest, at.sum, at.low);
    } else {
      add_compensated(n, newest, at.sum, at.sum, at.low);
    }
    for_vectors<T>(n, [&](auto d, Index u) HWY_ATTR { hn::StoreU(hn::LoadU(d, at.sum + u), d, value + u); });
    return;
  }
  const Index length = w.last - w.first + 1;
  if (length <= WindowPlan<T>::kDirect) {
    for_vectors<T>(n, [&](auto d, Index u) HWY_ATTR { hn::StoreU(hn::LoadU(d, newest + u), d, value + u); });
    for (Index k = 1; k < length && k <= s; ++k) {
      const T* p = moments_at(s - k);
      for_vectors<T>(n, [&](auto d, Index u)
                            HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, value + u), hn::LoadU(d, p + u)), d, value + u); });
    }
    return;
  }
  if (position == 0) {
    begin_sum(n, newest, at.sum, at.low);
  } else {
    add_compensated(n, newest, at.sum, at.sum, at.low);
  }
  const bool older = s >= length && position < length - 1;
  const T* end = at.ends + position * at.step;
  for_vectors<T>(n, [&](auto d, Index u) HWY_ATTR {
    auto v = hn::LoadU(d, at.sum + u);
    if (older) v = hn::Add(v, hn::Add(hn::LoadU(d, at.low + u), hn::LoadU(d, end + u)));
    hn::StoreU(v, d, value + u);
  });
  if (position < length - 1) return;
  // The block is complete: its ends' sums, the last first. The block's own sum is done with.
  begin_sum(n, newest, at.ends + (length - 2) * at.step, at.low);
  for (Index e = length - 2; e >= 1; --e) {
    add_compensated(n, moments_at(s - (length - 1 - e)), at.ends + e * at.step, at.ends + (e - 1) * at.step, at.low);
  }
}

template <class T>
void windows_of_elements(const WindowSteps<T>& steps, Index first, Index last) {
  const Index n = last - first, step = steps.step;
  for (Index t = steps.from; t < steps.to; ++t) std::fill_n(steps.out + (t - steps.from) * step + first, n, T(0));
  const auto moments_at = [&](Index t) { return steps.moments + t % steps.ring * step + first; };
  HWY_ALIGN T value[kScanBlock];
  for (std::size_t k = 0; k < steps.plan->windows->size(); ++k) {
    const ChunkWindow<T>& w = (*steps.plan->windows)[k];
    T* state = steps.state + steps.plan->places[k] * step + first;
    const WindowBlock<T> at{n, step, state, state + step, state + 2 * step};
    const Index length = w.last == kOpenWindow ? kOpenWindow : w.last - w.first + 1;
    const Index begin = std::max(steps.from, w.first);
    Index position = (begin - w.first) % length;
    for (Index t = begin; t < steps.to; ++t) {
      window_sum(w, t - w.first, position, at, moments_at, value);
      if (++position == length) position = 0;
      T* out = steps.out + (t - steps.from) * step + first;
      for_vectors<T>(n, [&](auto d, Index u) HWY_ATTR {
        hn::StoreU(hn::MulAdd(hn::Set(d, w.weight), hn::LoadU(d, value + u), hn::LoadU(d, out + u)), d, out + u);
      });
      if (steps.rows == nullptr) continue;
      const T* rows = steps.rows + (t - steps.from) * step + first;
      const Wide<T> d;
      auto dot = hn::Zero(d);
      Index u = 0;
      for (; u + kLanes<T> <= n; u += kLanes<T>) dot = hn::MulAdd(hn::LoadU(d, rows + u), hn::LoadU(d, value + u), dot);
      T sum = hn::GetLane(hn::SumOfLanes(d, dot));
      for (; u < n; ++u) sum += rows[u] * value[u];
      steps.dots[k] += static_cast<double>(sum);
    }
  }
}

void windows_float(const WindowSteps<float>& steps, Index first, Index last) {
  windows_of_elements(steps, first, last);
}
void windows_double(const WindowSteps<double>& steps, Index first, Index last) {
  windows_of_elements(steps, first, last);
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(windows_float);
HWY_EXPORT(windows_double);

template <>
void run_windows(const WindowSteps<float>& steps, Index first, Index last) {
  ESPALIER_DISPATCH(windows_float)(steps, first, last);
}
template <>
void run_windows(const WindowSteps<double>& steps, Index first, Index last) {
  ESPALIER_DISPATCH(windows_double)(steps, first, last);
}

}  // namespace espalier::backend
#endif  // HWY_ONCE
