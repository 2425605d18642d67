// Exact top-k search on the host: register tiles of scores, compared with the queries' thresholds while still in registers.
// SPDX-License-Identifier: Apache-2.0
#include "backend/top_k.hpp"

#include "backend/cpu/parallel.hpp"
#include "backend/cpu/targets.hpp"
#include "backend/cpu/top_k_lists.hpp"

#include <bit>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/top_k.cpp"
#include <hwy/foreach_target.h>
// After foreach_target:
#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/packing-inl.hpp"
#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {

// Queries lie along the lanes, keys along the rows of the register tile: one comparison of two vectors a key with the
// thresholds of 2 x lanes queries, 1 instruction in 32 at d = 64.
template <class T>
class TopKScan {
 public:
  TopKScan(const TopKBlock<T>& block, TopKLists<T>& lists)
      : block_(block),
        lists_(lists),
        depth_(block.q.cols),
        panels_((block.q.rows + kPanel<T> - 1) / kPanel<T>),
        tiles_(std::max<Index>(1, 16384 / (kRows * std::max<Index>(1, depth_) * static_cast<Index>(sizeof(T))))),
        queries_(panels_ * depth_ * kPanel<T>),
        keys_(tiles_ * depth_ * kRows) {}

  void run() {
    pack_lanes(block_.q, 0, block_.q.rows, T(1), queries_.data());
    // 16 KiB of keys at a time stay in the first-level cache while all queries of the block pass by.
    const Index step = tiles_ * kRows;
    for (Index j0 = 0; j0 < block_.k.rows; j0 += step) {
      const Index end = std::min(block_.k.rows, j0 + step);
      if (block_.causal && j0 > block_.first_query + block_.q.rows - 1 + block_.causal_shift) break;
      pack_rows(block_.k, j0, end - j0, keys_.data());
      for (Index p = 0; p < panels_; ++p) scan(p, j0, end);
    }
  }

 private:
  void scan(Index panel, Index j0, Index end) {
    const Index last = block_.first_query + (panel + 1) * kPanel<T> - 1 + block_.causal_shift;
    for (Index j = j0; j < end; j += kRows) {
      if (block_.causal && j > last) break;
      const Index rows = std::min<Index>(kRows, end - j);
      const T* keys = keys_.data() + (j - j0) * depth_;
      with_tile_rows(rows, [&](auto height) HWY_ATTR { scan_tile<height()>(panel * kPanel<T>, j, rows, keys); });
    }
  }
  template <int R>
  HWY_INLINE void scan_tile(Index first, Index j, Index rows, const T* keys) {
    const Wide<T> d;
    Accumulator<T, R, 2> acc;
    clear(acc);
    multiply_accumulate(depth_, keys, 1, R, queries_.data() + first * depth_, kPanel<T>, acc);
    const auto limit0 = hn::LoadU(d, lists_.thresholds() + first);
    const auto limit1 = hn::LoadU(d, lists_.thresholds() + first + kLanes<T>);
    auto hit = hn::Or(hn::Ge(acc.c[0][0], limit0), hn::Ge(acc.c[0][1], limit1));
#pragma GCC unroll 12
    for (int r = 1; r < R; ++r) hit = hn::Or(hit, hn::Or(hn::Ge(acc.c[r][0], limit0), hn::Ge(acc.c[r][1], limit1)));
    if (HWY_LIKELY(hn::AllFalse(d, hit))) return;
    T scores[static_cast<std::size_t>(R * kPanel<T>)];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      hn::StoreU(acc.c[r][0], d, scores + r * kPanel<T>);
      hn::StoreU(acc.c[r][1], d, scores + r * kPanel<T> + kLanes<T>);
    }
    offer(first, j, rows, scores);
  }
  // Keys j .. j + rows - 1 in ascending order, which the lists rely on. Over a search a query accepts about k log(keys / k)
  // keys, so with 32 queries side by side most tiles hold one: rows without are passed over by one test.
  void offer(Index first, Index j, Index rows, const T* scores) {
    const Wide<T> d;
    for (Index r = 0; r < rows; ++r) {
      for (Index half = 0; half < kPanel<T>; half += kLanes<T>) {
        const T* s = scores + r * kPanel<T> + half;
        const auto hit = hn::Ge(hn::LoadU(d, s), hn::LoadU(d, lists_.thresholds() + first + half));
        if (HWY_LIKELY(hn::AllFalse(d, hit))) continue;
        std::uint8_t bytes[8] = {};
        hn::StoreMaskBits(d, hit, bytes);
        std::uint64_t bits;
        std::memcpy(&bits, bytes, sizeof(bits));
        for (; bits != 0; bits &= bits - 1) {
          const Index lane = std::countr_zero(bits), i = block_.first_query + first + half + lane;
          if (block_.causal && j + r - i > block_.causal_shift) continue;
          if (block_.exclude_self && j + r == i) continue;
          lists_.add(first + half + lane, s[lane], j + r);
        }
      }
    }
  }

  const TopKBlock<T>& block_;
  TopKLists<T>& lists_;
  Index depth_, panels_, tiles_;
  Buffer<T, Cpu> queries_, keys_;
};

void scan_float(const TopKBlock<float>& block, TopKLists<float>& lists) {
  TopKScan<float>(block, lists).run();
}
void scan_double(const TopKBlock<double>& block, TopKLists<double>& lists) {
  TopKScan<double>(block, lists).run();
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

namespace {

HWY_EXPORT(scan_float);
HWY_EXPORT(scan_double);
void scan(const TopKBlock<float>& block, TopKLists<float>& lists) {
  ESPALIER_DISPATCH(scan_float)(block, lists);
}
void scan(const TopKBlock<double>& block, TopKLists<double>& lists) {
  ESPALIER_DISPATCH(scan_double)(block, lists);
}

// Queries a task: 512 make packing the keys 3 % of the work (d = 64); fewer where there are few rows, so that several
// threads find work, and where long lists would need more than 32 MiB. The widest panel is 32.
template <class T>
Index block_queries(Index rows, Index heads, Index count, Index keys) {
  const Index list = TopKLists<T>::capacity(count, keys) * static_cast<Index>(sizeof(Candidate<T>));
  const Index fair = (rows * heads / 16 + 31) / 32 * 32;
  return std::clamp<Index>(std::min(fair, (Index{32} << 20) / list / 32 * 32), 32, 512);
}

}  // namespace

template <class T, class I, class B>
void top_k(const TopKInputs<T, B>& in, TensorView<I, B> indices, TensorView<T, B> scores, const Context<B>& context) {
  const Index batch = in.q.batch(), heads = in.q.heads(), rows = in.q.length(), count = indices.width();
  if (batch * heads * rows == 0) return;
  const Index group = heads / in.k.heads();
  const Index step = block_queries<T>(rows, batch * heads, count, in.k.length());
  const Index blocks = (rows + step - 1) / step;
  parallel_for(
      context, batch * heads * blocks,
      [&](Index task, int) {
        const Index b = task / (heads * blocks), h = task / blocks % heads, i0 = task % blocks * step;
        const Index keys = in.key_counts ? in.key_counts[b] : in.k.length();
        const Index valid = in.key_counts && rows == in.k.length() ? keys : rows;
        const Index end = std::min(rows, i0 + step), n = std::clamp<Index>(valid - i0, 0, end - i0);
        Index limits[512];
        for (Index i = 0; i < n; ++i) limits[i] = in.counts ? std::min<Index>(count, in.counts[i0 + i]) : count;
        TopKBlock<T> block;
        block.q = in.q.matrix(b, h).row_range(i0, n);
        block.k = in.k.matrix(b, h / group).row_range(0, keys);
        block.first_query = i0;
        block.causal = in.causal;
        block.causal_shift = in.causal_shift;
        block.exclude_self = in.exclude_self;
        block.limits = {limits, n};
        // Whole panels of the widest kind, so that every lane has a threshold.
        TopKLists<T> lists((n + 31) / 32 * 32, block.limits, keys);
        if (n > 0) scan(block, lists);
        const auto index_rows = indices.matrix(b, h);
        const auto score_rows = scores.matrix(b, h);
        for (Index i = i0; i < i0 + n; ++i) lists.write(i - i0, index_rows.row(i), score_rows.row(i), count);
        for (Index i = i0 + n; i < end; ++i) {
          std::fill_n(index_rows.row(i), count, I(-1));
          std::fill_n(score_rows.row(i), count, -std::numeric_limits<T>::infinity());
        }
      },
      "top-k");
}

#define ESPALIER_INSTANTIATE(T, I) \
  template void top_k(const TopKInputs<T, Cpu>&, TensorView<I, Cpu>, TensorView<T, Cpu>, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float, std::int32_t)
ESPALIER_INSTANTIATE(float, std::int64_t)
ESPALIER_INSTANTIATE(double, std::int32_t)
ESPALIER_INSTANTIATE(double, std::int64_t)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
#endif  // HWY_ONCE
