// Softmax gradients on the host: cuts a call into stripes of keys, runs them in waves and adds up what stripes keep apart.
// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/parallel.hpp"
#include "backend/cpu/sink_parts.hpp"
#include "backend/cpu/softmax_head.hpp"
#include "backend/cpu/softmax_stripe.hpp"
#include "backend/softmax_tiles.hpp"

#include <algorithm>
#include <memory>
#include <vector>

namespace espalier::backend {

namespace {

// The gradients of one call, by waves of key heads.
template <class T>
class SoftmaxVjp {
 public:
  SoftmaxVjp(const SoftmaxInputs<T, Cpu>& in, TensorView<const T, Cpu> out, TensorView<const T, Cpu> log_sum_exp,
             TensorView<const T, Cpu> out_bar, const SoftmaxGradients<T, Cpu>& gradients, const Context<Cpu>& context)
      : in_(in),
        out_(out),
        log_sum_exp_(log_sum_exp),
        out_bar_(out_bar),
        gradients_(gradients),
        context_(context),
        heads_(in),
        key_heads_(in.k.batch() * in.k.heads()),
        stripes_(stripe_count()) {}

  void run() {
    zero_padding();
    const std::size_t each = std::max<std::size_t>(1, bytes_per_key_head());
    const Index wave = std::clamp<Index>(static_cast<Index>(context_.scratch_bytes / each), 1, key_heads_);
    for (Index first = 0; first < key_heads_; first += wave) run_wave(first, std::min(wave, key_heads_ - first));
  }

 private:
  // Enough tasks for a few threads; stripes at least 512 keys wide, as rows are packed again for each. Shape alone decides.
  Index stripe_count() const {
    return std::clamp<Index>(in_.k.length() / 512, 1, std::max<Index>(1, 16 / std::max<Index>(1, key_heads_)));
  }
  Index stripe_width(Index keys) const { return std::max<Index>(1, (keys + stripes_ - 1) / stripes_); }
  std::size_t bytes_per_key_head() const {
    Index n = gradients_.q && stripes_ > 1 ? heads_.group() * in_.q.length() * in_.q.width() : 0;
    const auto sinks = [&](std::span<const Index> sizes) {
      Index most = 0;
      for (const Index s : sizes) most = std::max(most, s);
      return sizes.size() == 1 ? most : most * heads_.group();
    };
    n += sinks(gradients_.bias_sizes) + sinks(gradients_.mask_sizes);
    return static_cast<std::size_t>(n * stripes_) * sizeof(T);
  }

  // Rows past the key counts, and everything where there is no key or no query at all.
  void zero_padding() const {
    if (gradients_.accumulate) return;
    const auto clear_rows = [&](TensorView<T, Cpu> t, auto&& valid) {
      if (!t) return;
      parallel_for(context_, t.batch() * t.heads(), [&](Index task, int) {
        const Index b = task / t.heads();
        const auto m = t.matrix(b, task % t.heads());
        for (Index i = valid(b); i < m.rows; ++i) std::fill_n(m.row(i), m.cols, T(0));
      });
    };
    const auto none = [&](Index b) { return heads_.keys(b) == 0 || heads_.queries(b) == 0 || in_.q.heads() == 0; };
    clear_rows(gradients_.q, [&](Index b) { return none(b) ? 0 : heads_.queries(b); });
    clear_rows(gradients_.k, [&](Index b) { return none(b) ? 0 : heads_.keys(b); });
    clear_rows(gradients_.v, [&](Index b) { return none(b) ? 0 : heads_.keys(b); });
  }

  // The sinks of one set of masks for the key heads of a wave: which part of which mask a (key head, stripe, head of the
  // group) writes to. A mask that all heads of the group share has one part a task.
  class WaveSinks {
   public:
    WaveSinks(const SoftmaxVjp& vjp, std::span<const EntriesGradient<T, Cpu>> sinks, std::span<const Index> sizes,
              std::span<const Entries<T, Cpu>> entries, Index first, Index count)
        : vjp_(vjp), count_(sinks.size()), next_(sinks.size(), 0) {
      std::vector<Index> parts(count_, 0), users(count_, 0);
      for (Index k = first; k < first + count && count_ > 0; ++k) {
        for (Index g = 0; g < (count_ == 1 ? 1 : vjp.heads_.group()); ++g) {
          parts[at(k, g)] += vjp.stripes_;
          ++users[at(k, g)];
        }
      }
      for (std::size_t m = 0; m < count_; ++m) {
        parts_.push_back(std::make_unique<SinkParts<T>>(sinks[m], sizes[m], entries[m].kind, parts[m], users[m] == 1));
      }
    }
    // To be asked in the order of key heads, stripes, heads of the group.
    EntriesGradient<T, Cpu> next(Index key_head, Index g) {
      if (count_ == 0) return {};
      const std::size_t m = at(key_head, g);
      if (count_ == 1 && g > 0) return parts_[m]->of(next_[m] - 1);
      return parts_[m]->of(next_[m]++);
    }
    void add_up() const {
      for (const auto& p : parts_) p->add_up();
    }

   private:
    std::size_t at(Index key_head, Index g) const {
      const Index b = key_head / vjp_.in_.k.heads(), h = key_head % vjp_.in_.k.heads() * vjp_.heads_.group() + g;
      return static_cast<std::size_t>(vjp_.heads_.position(count_, b, h));
    }
    const SoftmaxVjp& vjp_;
    std::size_t count_;
    std::vector<Index> next_;
    std::vector<std::unique_ptr<SinkParts<T>>> parts_;
  };

  void run_wave(Index first, Index count) const {
    const Index group = heads_.group(), rows = in_.q.length(), width = in_.q.width(), tasks = count * stripes_;
    const bool parts = gradients_.q && stripes_ > 1;
    Buffer<T, Cpu> q_parts(parts ? tasks * group * rows * width : 0);
    WaveSinks bias(*this, gradients_.bias, gradients_.bias_sizes, in_.bias, first, count);
    WaveSinks mask(*this, gradients_.mask, gradients_.mask_sizes, in_.mask, first, count);
    std::vector<SoftmaxStripeHead<T>> stripe_heads(static_cast<std::size_t>(tasks * group));
    for (Index at = 0; at < tasks * group; ++at) {
      const Index key_head = first + at / (stripes_ * group), g = at % group;
      const Index b = key_head / in_.k.heads(), h = key_head % in_.k.heads() * group + g;
      SoftmaxStripeHead<T>& s = stripe_heads[static_cast<std::size_t>(at)];
      s.head = heads_.head(b, h);
      s.out = out_.matrix(b, h);
      s.out_bar = out_bar_.matrix(b, h);
      s.log_sum_exp = log_sum_exp_.matrix(b, h);
      if (gradients_.q)
        s.q_bar = parts ? MatrixView<T, Cpu>(q_parts.data() + at * rows * width, rows, width) : gradients_.q.matrix(b, h);
      s.add_q = !parts && gradients_.accumulate;
      s.bias_sink = bias.next(key_head, g);
      s.mask_sink = mask.next(key_head, g);
    }
    parallel_for(
        context_, tasks,
        [&](Index task, int) {
          const Index key_head = first + task / stripes_, b = key_head / in_.k.heads(), h = key_head % in_.k.heads();
          const Index step = stripe_width(heads_.keys(b)), keys = heads_.keys(b);
          SoftmaxStripe<T> stripe;
          stripe.heads = stripe_heads.data() + task * group;
          stripe.head_count = group;
          stripe.begin = std::min(keys, task % stripes_ * step);
          stripe.end = std::min(keys, stripe.begin + step);
          stripe.accumulate = gradients_.accumulate;
          if (gradients_.k) stripe.k_bar = gradients_.k.matrix(b, h);
          if (gradients_.v) stripe.v_bar = gradients_.v.matrix(b, h);
          if (stripe.end > stripe.begin && heads_.queries(b) > 0) softmax_stripe(stripe);
        },
        "softmax gradients");
    if (parts) add_query_parts(q_parts.data(), first, count);
    bias.add_up();
    mask.add_up();
  }

  void add_query_parts(const T* parts, Index first, Index count) const {
    const Index group = heads_.group(), rows = in_.q.length(), width = in_.q.width();
    const Index step = 128, blocks = (rows + step - 1) / step;
    parallel_for(context_, count * group * blocks, [&](Index task, int) {
      const Index head = task / (group * blocks), g = task / blocks % group, key_head = first + head;
      const Index b = key_head / in_.k.heads(), h = key_head % in_.k.heads() * group + g, keys = heads_.keys(b);
      const auto q_bar = gradients_.q.matrix(b, h);
      for (Index i = task % blocks * step; i < std::min(heads_.queries(b), (task % blocks + 1) * step) && keys > 0; ++i) {
        T* __restrict to = q_bar.row(i);
        bool adds = gradients_.accumulate;
        for (Index s = 0; s < stripes_ && s * stripe_width(keys) < keys; ++s, adds = true) {
          const T* __restrict from = parts + (((head * stripes_ + s) * group + g) * rows + i) * width;
          for (Index k = 0; k < width; ++k) to[k] = adds ? to[k] + from[k] : from[k];
        }
      }
    });
  }

  const SoftmaxInputs<T, Cpu>& in_;
  TensorView<const T, Cpu> out_, log_sum_exp_, out_bar_;
  const SoftmaxGradients<T, Cpu>& gradients_;
  const Context<Cpu>& context_;
  SoftmaxHeads<T> heads_;
  Index key_heads_, stripes_;
};

}  // namespace

template <class T, class B>
void tile_softmax_vjp(const SoftmaxInputs<T, B>& in, TensorView<const T, B> out, TensorView<const T, B> log_sum_exp,
                      TensorView<const T, B> out_bar, const SoftmaxGradients<T, B>& gradients, const Context<B>& context) {
  if (in.k.batch() * in.k.heads() == 0) return;
  SoftmaxVjp<T>(in, out, log_sum_exp, out_bar, gradients, context).run();
}

template void tile_softmax_vjp(const SoftmaxInputs<float, Cpu>&, TensorView<const float, Cpu>, TensorView<const float, Cpu>,
                               TensorView<const float, Cpu>, const SoftmaxGradients<float, Cpu>&, const Context<Cpu>&);
template void tile_softmax_vjp(const SoftmaxInputs<double, Cpu>&, TensorView<const double, Cpu>, TensorView<const double, Cpu>,
                               TensorView<const double, Cpu>, const SoftmaxGradients<double, Cpu>&, const Context<Cpu>&);

}  // namespace espalier::backend
