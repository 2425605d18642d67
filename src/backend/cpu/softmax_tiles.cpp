// Softmax attention forward on the host: rows along the lanes, a running maximum and sum in each lane, one pass over the keys.
// SPDX-License-Identifier: Apache-2.0
#include "backend/softmax_tiles.hpp"

#include "backend/cpu/parallel.hpp"
#include "backend/cpu/softmax_head.hpp"
#include "backend/cpu/targets.hpp"
#include "backend/cpu/tile_geometry.hpp"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/softmax_tiles.cpp"
#include <hwy/foreach_target.h>
// After foreach_target:
#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/packing-inl.hpp"
#include "backend/cpu/softmax_scores-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {

// A block of rows against all keys. With m the running maximum of a lane's scores, z the running sum of 2^(s - m) and o that
// of 2^(s - m) v, each block of keys raises m and scales z and o by 2^(m_old - m): no horizontal operation anywhere.
template <class T>
class SoftmaxForward {
 public:
  explicit SoftmaxForward(const SoftmaxRows<T>& rows)
      : rows_(rows),
        head_(rows.head),
        depth_(head_.q.cols),
        values_(head_.v.cols),
        value_rows_(padded_rows(values_)),
        panels_((rows.count + kPanel<T> - 1) / kPanel<T>),
        block_(key_block<T>(head_.k.rows)),
        own_values_(own_columns(head_.q.rows, head_.v, value_rows_)),
        queries_(panels_ * depth_ * kPanel<T>),
        sums_(panels_ * value_rows_ * kPanel<T>),
        maxima_(panels_ * kPanel<T>),
        weights_(panels_ * kPanel<T>),
        keys_(padded_rows(block_) * depth_),
        packed_values_(own_values_ ? 0 : value_rows_ * block_),
        scores_(padded_rows(block_) * kPanel<T>),
        entries_(2 * kTileScratch) {}

  void run() {
    std::fill_n(sums_.data(), sums_.size(), T(0));
    std::fill_n(weights_.data(), weights_.size(), T(0));
    std::fill_n(maxima_.data(), maxima_.size(), -std::numeric_limits<T>::infinity());
    pack_lanes(head_.q, rows_.first, rows_.count, static_cast<T>(head_.scale * kLog2E), queries_.data());
    for (Index j0 = 0; j0 < head_.k.rows; j0 += block_) {
      const Index nj = head_.visible(rows_.first + rows_.count - 1, j0, std::min(block_, head_.k.rows - j0));
      if (nj == 0) break;
      packed_keys_ = nj, first_key_ = j0;
      if (own_values_) prefetch_rows<false>(head_.v, j0, nj);
      pack_rows(head_.k, j0, nj, keys_.data());
      if (!own_values_) pack_columns(head_.v, j0, nj, T(1), packed_values_.data());
      for (Index i = 0; i < rows_.count; i += kTileLanes) strip(i, std::min(kTileLanes, rows_.count - i), j0, nj);
    }
    prefetch_rows<true>(rows_.out, rows_.first, rows_.count);
    for (Index p = 0; p < panels_; ++p) finish(p);
  }

 private:
  // Rows i .. i + ni - 1 of the block share one tile of entries.
  void strip(Index i, Index ni, Index j0, Index nj) {
    const Index row = rows_.first + i;
    EntryTile<T> bias, mask;
    if (head_.bias) bias = entry_tile(*head_.bias, row, ni, j0, nj, entries_.data());
    if (head_.mask) mask = entry_tile(*head_.mask, row, ni, j0, nj, entries_.data() + kTileScratch);
    if (mask.zero) return;
    const bool ones = head_.bias && !bias.zero && bias.data == nullptr;
    if (ones) {
      // A bias of 1 everywhere: rare, so it is written out.
      std::fill_n(entries_.data(), kTileLanes * kTileSources, T(1));
      bias = {entries_.data(), kTileLanes, false};
    }
    for (Index lane = 0; lane < ni; lane += kPanel<T>) {
      const Index last = row + std::min(lane + kPanel<T>, ni) - 1, n = head_.visible(last, j0, nj);
      if (n == 0) continue;
      PanelRules<T> rules;
      if (bias.data != nullptr) rules.bias = bias.data + lane, rules.bias_step = bias.j_step;
      if (mask.data != nullptr) rules.mask = mask.data + lane, rules.mask_step = mask.j_step;
      rules.causal = head_.causal && j0 + n - 1 > row + lane + head_.causal_shift;
      rules.first_lane = j0 - head_.causal_shift - row - lane;
      const Index p = (i + lane) / kPanel<T>;
      with_panel_vectors<T>(ni - lane, [&](auto vectors) HWY_ATTR {
        constexpr int V = vectors;
        if (rules.general()) {
          rules.bias ? panel<V, true, true>(p, n, rules) : panel<V, false, true>(p, n, rules);
        } else {
          rules.bias ? panel<V, true, false>(p, n, rules) : panel<V, false, false>(p, n, rules);
        }
      });
    }
  }

  // The first V vectors of panel p against n keys.
  template <int V, bool kBias, bool kGeneral>
  HWY_NOINLINE void panel(Index p, Index n, const PanelRules<T>& rules) {
    const Wide<T> d;
    hn::Vec<Wide<T>> most[V], before[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) before[v] = most[v] = hn::LoadU(d, maxima_.data() + p * kPanel<T> + v * kLanes<T>);
    for (Index j = 0; j < n; j += kRows) {
      // The tile's height is the one that the whole block was packed with; this panel may see fewer keys.
      with_tile_rows(packed_keys_ - j,
                     [&](auto height) HWY_ATTR { score_tile<height(), V, kBias, kGeneral>(p, j, n, rules, most); });
    }
    hn::Vec<Wide<T>> factor[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* m = maxima_.data() + p * kPanel<T> + v * kLanes<T>;
      hn::StoreU(most[v], d, m);
      // A lane without any pair so far has m = -inf; 0 in its place gives 2^(-inf - 0) = 0 instead of NaN.
      const auto none = hn::Eq(most[v], hn::Set(d, -std::numeric_limits<T>::infinity()));
      most[v] = hn::IfThenZeroElse(none, most[v]);
      factor[v] = exp2<false, T>(hn::Sub(before[v], most[v]));
    }
    exponentials<V, kGeneral>(p, n, rules, most, factor);
    T* sums = sums_.data() + p * value_rows_ * kPanel<T>;
    const T* values = own_values_ ? head_.v.row(first_key_) : packed_values_.data();
    for (Index c = 0; c < values_; c += kRows) {
      with_tile_rows(values_ - c, [&](auto height) HWY_ATTR {
        constexpr int R = height();
        Accumulator<T, R, V> acc;
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) {
            acc.c[r][v] = hn::Mul(factor[v], hn::LoadU(d, sums + (c + r) * kPanel<T> + v * kLanes<T>));
          }
        }
        if (own_values_) {
          multiply_accumulate<T, R, V>(n, values, 1, head_.v.row_stride, scores_.data(), kPanel<T>, acc);
          values += R;
        } else {
          multiply_accumulate<T, R, V>(n, values, 1, R, scores_.data(), kPanel<T>, acc);
          values += R * packed_keys_;
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) hn::StoreU(acc.c[r][v], d, sums + (c + r) * kPanel<T> + v * kLanes<T>);
        }
      });
    }
  }

  template <int R, int V, bool kBias, bool kGeneral>
  HWY_INLINE void score_tile(Index p, Index j, Index n, const PanelRules<T>& rules, hn::Vec<Wide<T>> (&most)[V]) {
    const Wide<T> d;
    Accumulator<T, R, V> acc;
    clear(acc);
    multiply_accumulate<T, R, V>(depth_, keys_.data() + j * depth_, 1, R, queries_.data() + p * depth_ * kPanel<T>, kPanel<T>,
                                 acc);
    const Index rows = std::min<Index>(R, n - j);
    T* to = scores_.data() + j * kPanel<T>;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      if (r < rows) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          const auto s = apply_rules<kBias, kGeneral>(rules, j + r, v * kLanes<T>, acc.c[r][v]);
          most[v] = hn::Max(most[v], s);
          hn::StoreU(s, d, to + r * kPanel<T> + v * kLanes<T>);
        }
      }
    }
  }

  // scores = mask 2^(scores - m) in place; their sum goes into the running sum.
  template <int V, bool kGeneral>
  HWY_INLINE void exponentials(Index p, Index n, const PanelRules<T>& rules, const hn::Vec<Wide<T>> (&most)[V],
                               const hn::Vec<Wide<T>> (&factor)[V]) {
    const Wide<T> d;
    hn::Vec<Wide<T>> sum[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[v] = hn::Zero(d);
#pragma GCC unroll 4
    for (Index j = 0; j < n; ++j) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        T* s = scores_.data() + j * kPanel<T> + v * kLanes<T>;
        auto w = exp2<false, T>(hn::Sub(hn::LoadU(d, s), most[v]));
        if constexpr (kGeneral) {
          if (rules.mask != nullptr) w = hn::Mul(w, hn::LoadU(d, rules.mask + j * rules.mask_step + v * kLanes<T>));
        }
        sum[v] = hn::Add(sum[v], w);
        hn::StoreU(w, d, s);
      }
    }
    T* z = weights_.data() + p * kPanel<T>;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      hn::StoreU(hn::MulAdd(hn::LoadU(d, z + v * kLanes<T>), factor[v], sum[v]), d, z + v * kLanes<T>);
    }
  }

  void finish(Index p) {
    const Wide<T> d;
    const Index first = p * kPanel<T>, n = std::min(kPanel<T>, rows_.count - first);
    T* sums = sums_.data() + first * value_rows_;
    for (Index half = 0; half < kPanel<T>; half += kLanes<T>) {
      const auto z = hn::LoadU(d, weights_.data() + first + half);
      const auto inverse = hn::IfThenZeroElse(hn::Eq(z, hn::Zero(d)), hn::Div(hn::Set(d, T(1)), z));
      for (Index c = 0; c < values_; ++c) {
        T* at = sums + c * kPanel<T> + half;
        hn::StoreU(hn::Mul(hn::LoadU(d, at), inverse), d, at);
      }
    }
    transpose(sums, kPanel<T>, values_, n, rows_.out.row(rows_.first + first), rows_.out.row_stride);
    if (!rows_.log_sum_exp) return;
    for (Index i = first; i < first + n; ++i) {
      const auto z = static_cast<double>(weights_.data()[i]);
      // log 0 = -inf is the answer for a row without pairs, whatever m.
      const double value =
          z == 0 ? -std::numeric_limits<double>::infinity() : kLn2 * static_cast<double>(maxima_.data()[i]) + std::log(z);
      rows_.log_sum_exp(rows_.first + i, 0) = static_cast<T>(value);
    }
  }

  const SoftmaxRows<T>& rows_;
  const SoftmaxHead<T>& head_;
  Index depth_, values_, value_rows_, panels_, block_;
  bool own_values_;
  Index packed_keys_ = 0, first_key_ = 0;
  Buffer<T, Cpu> queries_, sums_, maxima_, weights_, keys_, packed_values_, scores_, entries_;
};

void softmax_rows_float(const SoftmaxRows<float>& rows) {
  SoftmaxForward<float>(rows).run();
}
void softmax_rows_double(const SoftmaxRows<double>& rows) {
  SoftmaxForward<double>(rows).run();
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

namespace {

HWY_EXPORT(softmax_rows_float);
HWY_EXPORT(softmax_rows_double);
void softmax_rows(const SoftmaxRows<float>& rows) {
  ESPALIER_DISPATCH(softmax_rows_float)(rows);
}
void softmax_rows(const SoftmaxRows<double>& rows) {
  ESPALIER_DISPATCH(softmax_rows_double)(rows);
}

}  // namespace

template <class T, class B>
void tile_softmax(const SoftmaxInputs<T, B>& in, TensorView<T, B> out, TensorView<T, B> log_sum_exp,
                  const Context<B>& context) {
  const Index batch = in.q.batch(), heads = in.q.heads(), rows = in.q.length();
  if (batch * heads * rows == 0) return;
  const SoftmaxHeads<T> all(in);
  // 256 rows make packing the keys and values 3 % of the work and keep their state in the second-level cache; 128 where
  // there would be fewer than 16 tasks.
  const Index step = batch * heads * rows >= 16 * 256 ? 256 : 128, blocks = (rows + step - 1) / step;
  parallel_for(
      context, batch * heads * blocks,
      [&](Index task, int) {
        const Index b = task / (heads * blocks), h = task / blocks % heads;
        // Last rows first: under a causal rule they have the most work.
        const Index i0 = (blocks - 1 - task % blocks) * step, end = std::min(rows, i0 + step);
        SoftmaxRows<T> r;
        r.head = all.head(b, h);
        r.first = i0;
        r.count = std::clamp<Index>(r.head.q.rows - i0, 0, end - i0);
        r.out = out.matrix(b, h);
        if (log_sum_exp) r.log_sum_exp = log_sum_exp.matrix(b, h);
        if (r.count > 0) softmax_rows(r);
        for (Index i = i0 + r.count; i < end; ++i) {
          std::fill_n(r.out.row(i), r.out.cols, T(0));
          if (r.log_sum_exp) r.log_sum_exp(i, 0) = -std::numeric_limits<T>::infinity();
        }
      },
      "softmax attention");
}

template void tile_softmax(const SoftmaxInputs<float, Cpu>&, TensorView<float, Cpu>, TensorView<float, Cpu>,
                           const Context<Cpu>&);
template void tile_softmax(const SoftmaxInputs<double, Cpu>&, TensorView<double, Cpu>, TensorView<double, Cpu>,
                           const Context<Cpu>&);

}  // namespace espalier::backend
#endif  // HWY_ONCE
