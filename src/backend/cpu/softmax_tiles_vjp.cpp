// Gradients of softmax attention on the host, all in one pass over the tiles, from the forward's log-sum-exp.
// SPDX-License-Identifier: Apache-2.0
//
// With P_ij = mask_ij exp(s_ij) / Z_i, delta_i = out_bar_i . out_i, S_ij = P_ij (out_bar_i . v_j - delta_i), for each tile:
//   v_bar_j += sum_i P_ij out_bar_i     k_bar_j += scale sum_i S_ij q_i     q_bar_i += scale sum_j S_ij k_j
// Two products make P and S, three use them. A task is a stripe of keys of one key head, with all query heads that share it: it
// owns k_bar and v_bar there; q_bar and the entries' gradients are kept per stripe and added in the stripes' order.
#include "backend/cpu/softmax_stripe.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/softmax_tiles_vjp.cpp"
#include <hwy/foreach_target.h>
// After foreach_target:
#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/entry_gradients-inl.hpp"
#include "backend/cpu/packing-inl.hpp"
#include "backend/cpu/softmax_scores-inl.hpp"
#include "backend/cpu/source_sums-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {

template <class T>
class SoftmaxBackward {
 public:
  explicit SoftmaxBackward(const SoftmaxStripe<T>& stripe)
      : stripe_(stripe),
        depth_(first().q.cols),
        values_(first().v.cols),
        depth_lanes_(padded_lanes<T>(depth_)),
        value_lanes_(padded_lanes<T>(values_)),
        depth_rows_(padded_rows(depth_)),
        block_(key_block<T>(first().k.rows)),
        chunk_(std::max<Index>(1, 768 / block_) * block_),
        q_lanes_(kTileLanes * depth_),
        q_padded_(kTileLanes * depth_lanes_),
        o_lanes_(kTileLanes * values_),
        o_padded_(kTileLanes * value_lanes_),
        log_sums_(kTileLanes),
        deltas_(kTileLanes),
        k_rows_(padded_rows(chunk_) * depth_),
        k_columns_(chunk_ * depth_rows_),
        v_rows_(padded_rows(chunk_) * values_),
        k_sums_(chunk_ * depth_lanes_),
        v_sums_(chunk_ * value_lanes_),
        q_sums_(kTileLanes * depth_rows_),
        q_row_(kPanel<T> * depth_),
        p_(kTileLanes * kTileSources),
        s_(kTileLanes * kTileSources) {
    bool bias_gradient = false, mask_gradient = false;
    for (Index g = 0; g < stripe.head_count; ++g) {
      bias_gradient |= static_cast<bool>(stripe.heads[g].bias_sink);
      mask_gradient |= static_cast<bool>(stripe.heads[g].mask_sink);
    }
    if (first().bias || first().mask) entries_ = Buffer<T, Cpu>(2 * kTileScratch);
    if (bias_gradient) bias_bar_ = Buffer<T, Cpu>(kGradientTile);
    if (mask_gradient) mask_bar_ = Buffer<T, Cpu>(kGradientTile);
    if (bias_gradient || mask_gradient) gradient_block_ = Buffer<T, Cpu>(kGradientTile);
    // Rows past a block's last key are read by whole register tiles; their products are never used, but must not be slow.
    zero(p_.data(), p_.size());
    zero(s_.data(), s_.size());
  }

  void run() {
    // 768 keys at a time keep what belongs to them (5 arrays, 1 MB at d = 64) in the second-level cache.
    for (Index j0 = stripe_.begin; j0 < stripe_.end; j0 += chunk_) chunk(j0, std::min(chunk_, stripe_.end - j0));
  }

 private:
  const SoftmaxHead<T>& first() const { return stripe_.heads[0].head; }

  void chunk(Index j0, Index n) {
    for (Index j = 0; j < n; j += block_) {
      const Index nj = std::min(block_, n - j);
      pack_rows(first().k, j0 + j, nj, k_rows_.data() + j * depth_);
      pack_columns(first().k, j0 + j, nj, first().scale, k_columns_.data() + j * depth_rows_);
      pack_rows(first().v, j0 + j, nj, v_rows_.data() + j * values_);
    }
    zero(k_sums_.data(), n * depth_lanes_);
    zero(v_sums_.data(), n * value_lanes_);
    for (Index g = 0; g < stripe_.head_count; ++g) {
      const SoftmaxStripeHead<T>& h = stripe_.heads[g];
      for (Index i0 = 0; i0 < h.head.q.rows; i0 += kTileLanes) {
        strip(h, i0, std::min(kTileLanes, h.head.q.rows - i0), j0, n);
      }
    }
    for (Index j = 0; j < n; ++j) {
      if (stripe_.k_bar) write(k_sums_.data() + j * depth_lanes_, depth_, stripe_.k_bar.row(j0 + j), stripe_.accumulate);
      if (stripe_.v_bar) write(v_sums_.data() + j * value_lanes_, values_, stripe_.v_bar.row(j0 + j), stripe_.accumulate);
    }
  }
  static void write(const T* HWY_RESTRICT from, Index n, T* HWY_RESTRICT to, bool add) {
    if (!add) return copy_lanes(from, n, to);
    for (Index k = 0; k < n; ++k) to[k] += from[k];
  }

  // Rows i0 .. i0 + ni - 1 of one head against the keys of a chunk.
  void strip(const SoftmaxStripeHead<T>& h, Index i0, Index ni, Index j0, Index n) {
    const bool adds = h.add_q || j0 > stripe_.begin;
    const bool visible = h.head.visible(i0 + ni - 1, j0, n) > 0;
    if (visible) {
      pack_strip(h, i0, ni);
      for (Index j = 0; j < n; j += block_) tile(h, i0, ni, j0, j, std::min(block_, n - j));
    }
    if (!h.q_bar || (!visible && adds)) return;
    for (Index i = 0; i < ni; i += kPanel<T>) {
      const Index rows = std::min(kPanel<T>, ni - i);
      if (visible) transpose(q_sums_.data() + i * depth_rows_, kPanel<T>, depth_, rows, q_row_.data(), depth_);
      if (!visible) zero(q_row_.data(), q_row_.size());
      for (Index r = 0; r < rows; ++r) write(q_row_.data() + r * depth_, depth_, h.q_bar.row(i0 + i + r), adds);
    }
  }

  void pack_strip(const SoftmaxStripeHead<T>& h, Index i0, Index ni) {
    pack_lanes(h.head.q, i0, ni, static_cast<T>(h.head.scale * kLog2E), q_lanes_.data());
    pack_lanes(h.out_bar, i0, ni, T(1), o_lanes_.data());
    if (stripe_.k_bar) pack_padded(h.head.q, i0, ni, h.head.scale, q_padded_.data());
    if (stripe_.v_bar) pack_padded(h.out_bar, i0, ni, T(1), o_padded_.data());
    if (h.q_bar) zero(q_sums_.data(), q_sums_.size());
    constexpr T infinity = std::numeric_limits<T>::infinity();
    for (Index i = 0; i < kTileLanes; ++i) {
      // Rows without a pair, and lanes past the last row: 2^(s - inf) = 0 leaves them out of everything.
      T sum = infinity, delta = 0;
      if (i < ni) {
        const T z = h.log_sum_exp(i0 + i, 0);
        sum = z == -infinity ? infinity : static_cast<T>(kLog2E * static_cast<double>(z));
        const T *a = h.out.row(i0 + i), *b = h.out_bar.row(i0 + i);
        for (Index c = 0; c < values_; ++c) delta += a[c] * b[c];
      }
      log_sums_.data()[i] = sum;
      deltas_.data()[i] = delta;
    }
  }

  void tile(const SoftmaxStripeHead<T>& h, Index i0, Index ni, Index j0, Index j, Index nj) {
    if (h.head.visible(i0 + ni - 1, j0 + j, nj) == 0) return;
    EntryTile<T> bias, mask;
    if (h.head.bias) bias = entry_tile(*h.head.bias, i0, ni, j0 + j, nj, entries_.data());
    if (h.head.mask) mask = entry_tile(*h.head.mask, i0, ni, j0 + j, nj, entries_.data() + kTileScratch);
    // Entries that are 0 by structure (causal, sparse) still have a gradient where they are parameters; those kinds have none.
    if (mask.zero) return;
    if (h.head.bias && !bias.zero && bias.data == nullptr) {
      std::fill_n(entries_.data(), kTileLanes * kTileSources, T(1));
      bias = {entries_.data(), kTileLanes, false};
    }
    for (Index i = 0; i < ni; i += kPanel<T>) {
      PanelRules<T> rules;
      if (bias.data != nullptr) rules.bias = bias.data + i, rules.bias_step = bias.j_step;
      if (mask.data != nullptr) rules.mask = mask.data + i, rules.mask_step = mask.j_step;
      // An entry that is 0 by value weighs nothing, but the output depends on it: its gradient needs exp(s) / Z.
      rules.hide_zeros = !h.mask_sink;
      const Index first_row = i0 + i + h.head.causal_shift;
      rules.causal = h.head.causal && j0 + j + nj - 1 > first_row;
      rules.first_lane = j0 + j - first_row;
      with_panel_vectors<T>(ni - i, [&](auto vectors) HWY_ATTR {
        constexpr int V = vectors;
        if (rules.mask || h.mask_sink || h.bias_sink) {
          panel<V, true>(h, i, j, nj, rules);
        } else {
          panel<V, false>(h, i, j, nj, rules);
        }
      });
    }
    if (stripe_.k_bar) add_sources(ni, nj, s_.data(), q_padded_.data(), depth_lanes_, k_sums_.data() + j * depth_lanes_);
    if (stripe_.v_bar) add_sources(ni, nj, p_.data(), o_padded_.data(), value_lanes_, v_sums_.data() + j * value_lanes_);
    if (h.bias_sink) add_entries(*h.head.bias, i0, ni, j0 + j, nj, bias_bar_, h.bias_sink);
    if (h.mask_sink) add_entries(*h.head.mask, i0, ni, j0 + j, nj, mask_bar_, h.mask_sink);
  }
  void add_entries(const EntryPlan<T>& plan, Index i0, Index ni, Index j0, Index nj, Buffer<T, Cpu>& bar,
                   const EntriesGradient<T, Cpu>& sink) {
    T* d = bar.data() + kGradientPad;
    for (Index j = 0; j < nj; ++j) {  // both pads, and what the last panel wrote past its rows
      zero(d + j * kGradientStride - kGradientPad, kGradientPad);
      zero(d + j * kGradientStride + ni, kTileLanes + kGradientPad - ni);
    }
    add_entry_gradient(plan, i0, ni, j0, nj, d, sink, gradient_block_.data());
  }

  // P and S of the first V vectors of the panel that starts at lane i of the strip, and q_bar's product.
  template <int V, bool kEntries>
  HWY_NOINLINE void panel(const SoftmaxStripeHead<T>& h, Index i, Index j, Index nj, const PanelRules<T>& rules) {
    T* p = p_.data() + i * kTileSources;
    T* s = s_.data() + i * kTileSources;
    const T* k = k_rows_.data() + j * depth_;
    const T* v = v_rows_.data() + j * values_;
    for (Index r = 0; r < nj; r += kRows) {
      with_tile_rows(nj - r, [&](auto height) HWY_ATTR {
        constexpr int R = height;
        if (rules.bias) {
          rules.general() ? score_tile<R, V, true, true>(i, r, nj, rules, k, p)
                          : score_tile<R, V, true, false>(i, r, nj, rules, k, p);
        } else {
          rules.general() ? score_tile<R, V, false, true>(i, r, nj, rules, k, p)
                          : score_tile<R, V, false, false>(i, r, nj, rules, k, p);
        }
        weight_tile<R, V, kEntries>(h, i, r, nj, rules, v, p, s);
        k += R * depth_;
        v += R * values_;
      });
    }
    if (h.q_bar) {
      add_columns<V>(nj, Columns<T>{k_columns_.data() + j * depth_rows_}, depth_, s, kPanel<T>,
                     q_sums_.data() + i * depth_rows_);
    }
  }

  template <int R, int V, bool kBias, bool kGeneral>
  HWY_INLINE void score_tile(Index i, Index j, Index nj, const PanelRules<T>& rules, const T* HWY_RESTRICT k,
                             T* HWY_RESTRICT p) {
    const Wide<T> d;
    Accumulator<T, R, V> acc;
    clear(acc);
    multiply_accumulate<T, R, V>(depth_, k, 1, R, q_lanes_.data() + i * depth_, kPanel<T>, acc);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      if (j + r < nj) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          hn::Store(apply_rules<kBias, kGeneral>(rules, j + r, v * kLanes<T>, acc.c[r][v]), d,
                    p + (j + r) * kPanel<T> + v * kLanes<T>);
        }
      }
    }
  }

  // p: scores in, P out. The exponentials run on results that wait in memory while this tile's product is in registers.
  template <int R, int V, bool kEntries>
  HWY_INLINE void weight_tile(const SoftmaxStripeHead<T>& h, Index i, Index j, Index nj, const PanelRules<T>& rules,
                              const T* HWY_RESTRICT v_rows, T* HWY_RESTRICT p, T* HWY_RESTRICT s) {
    const Wide<T> d;
    Accumulator<T, R, V> acc;
    clear(acc);
    multiply_accumulate<T, R, V>(values_, v_rows, 1, R, o_lanes_.data() + i * values_, kPanel<T>, acc);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      if (j + r < nj) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          const Index l = v * kLanes<T>, at = (j + r) * kPanel<T> + l;
          auto w = exp2<true, T>(hn::Sub(hn::Load(d, p + at), hn::Load(d, log_sums_.data() + i + l)));
          const auto u = hn::Sub(acc.c[r][v], hn::Load(d, deltas_.data() + i + l));
          if constexpr (kEntries) {
            if (h.mask_sink) {
              // exp(s) / Z may overflow where the entry is 0, as Z leaves that pair out. Cut at 2^64 (double: 2^512), which
              // leaves room for products and sums.
              const auto most = hn::Set(d, std::ldexp(T(1), sizeof(T) == sizeof(float) ? 64 : 512));
              w = hn::IfThenElse(hn::Gt(w, most), most, w);  // NaN stays
              store_gradient(mask_bar_, i + l, j + r, hn::Mul(w, u));
            }
            if (rules.mask) {
              const auto m = hn::LoadU(d, rules.mask + (j + r) * rules.mask_step + l);
              w = hn::IfThenElse(hn::Eq(m, hn::Zero(d)), m, hn::Mul(w, m));  // 0 also where the score is NaN
            }
          }
          const auto g = hn::Mul(w, u);
          hn::Store(w, d, p + at);
          hn::Store(g, d, s + at);
          if constexpr (kEntries) {
            if (h.bias_sink) store_gradient(bias_bar_, i + l, j + r, g);
          }
        }
      }
    }
  }
  HWY_INLINE void store_gradient(Buffer<T, Cpu>& bar, Index lane, Index j, hn::Vec<Wide<T>> x) {
    hn::StoreU(x, Wide<T>(), bar.data() + kGradientPad + j * kGradientStride + lane);
  }

  const SoftmaxStripe<T>& stripe_;
  Index depth_, values_, depth_lanes_, value_lanes_, depth_rows_, block_, chunk_;
  Buffer<T, Cpu> q_lanes_, q_padded_, o_lanes_, o_padded_, log_sums_, deltas_, k_rows_, k_columns_, v_rows_, k_sums_, v_sums_;
  Buffer<T, Cpu> q_sums_, q_row_, p_, s_, entries_, bias_bar_, mask_bar_, gradient_block_;
};

void softmax_stripe_float(const SoftmaxStripe<float>& stripe) {
  SoftmaxBackward<float>(stripe).run();
}
void softmax_stripe_double(const SoftmaxStripe<double>& stripe) {
  SoftmaxBackward<double>(stripe).run();
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(softmax_stripe_float);
HWY_EXPORT(softmax_stripe_double);
void softmax_stripe(const SoftmaxStripe<float>& stripe) {
  ESPALIER_DISPATCH(softmax_stripe_float)(stripe);
}
void softmax_stripe(const SoftmaxStripe<double>& stripe) {
  ESPALIER_DISPATCH(softmax_stripe_double)(stripe);
}

}  // namespace espalier::backend
#endif  // HWY_ONCE
