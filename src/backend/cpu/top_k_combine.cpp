// Attention over the keys that the top-k search selected, and its gradients: O(L k) work, rows gathered, no atomics.
// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"
#include "backend/top_k.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier::backend {

namespace {

constexpr Index kRowBlock = 64;  // rows a task: at k = 16, d = 64 about 50 us

// weights[r] = softmax(scale scores) over the places with an index; returns how many there are (they come first).
template <class T, class I>
Index softmax_weights(const I* indices, const T* scores, Index count, T scale, T* weights) {
  Index n = 0;
  while (n < count && indices[n] >= 0) ++n;
  if (n == 0) return 0;
  // Scores descend; a negative scale turns the order round.
  const T largest = std::max(scale * scores[0], scale * scores[n - 1]);
  T sum = 0;
  for (Index r = 0; r < n; ++r) {
    // Equal infinities give 1 each, where their difference would be NaN.
    const T s = scale * scores[r];
    weights[r] = s == largest ? T(1) : std::exp(s - largest);
    sum += weights[r];
  }
  for (Index r = 0; r < n; ++r) weights[r] /= sum;
  return n;
}

template <class T>
T dot(const T* __restrict a, const T* __restrict b, Index n) {
  T sum[8] = {};
  Index t = 0;
  for (; t + 8 <= n; t += 8) {
    for (Index u = 0; u < 8; ++u) sum[u] += a[t + u] * b[t + u];
  }
  for (; t < n; ++t) sum[0] += a[t] * b[t];
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}
template <class T>
void add(T factor, const T* __restrict x, T* __restrict y, Index n) {
  for (Index t = 0; t < n; ++t) y[t] += factor * x[t];
}
template <class T>
void clear(T* y, Index n, bool accumulate) {
  if (!accumulate) std::fill_n(y, n, T(0));
}

}  // namespace

template <class T, class I, class B>
void top_k_combine(TensorView<const T, B> v, TensorView<const I, B> indices, TensorView<const T, B> scores, T scale,
                   TensorView<T, B> out, const Context<B>& context) {
  const Index heads = out.heads(), rows = out.length(), count = indices.width(), blocks = (rows + kRowBlock - 1) / kRowBlock;
  if (out.batch() * heads * rows == 0) return;
  const Index group = heads / v.heads();
  parallel_for(
      context, out.batch() * heads * blocks,
      [&](Index task, int) {
        const Index b = task / (heads * blocks), h = task / blocks % heads, i0 = task % blocks * kRowBlock;
        const auto index = indices.matrix(b, h);
        const auto score = scores.matrix(b, h), value = v.matrix(b, h / group);
        const auto y = out.matrix(b, h);
        Buffer<T, Cpu> weights(count);
        for (Index i = i0; i < std::min(rows, i0 + kRowBlock); ++i) {
          std::fill_n(y.row(i), y.cols, T(0));
          const Index n = softmax_weights(index.row(i), score.row(i), count, scale, weights.data());
          for (Index r = 0; r < n; ++r) add(weights.data()[r], value.row(static_cast<Index>(index(i, r))), y.row(i), y.cols);
        }
      },
      "top-k attention");
}

namespace {

// The gradients of some key heads (b, hk) = first .. last - 1 of B * Hk: weights and score gradients of all their query
// rows, then for every key the list of (query row, place) that selected it, in ascending order.
template <class T, class I>
class CombineVjp {
 public:
  CombineVjp(const TopKCombineVjp<T, I, Cpu>& in, Index first, Index last, const Context<Cpu>& context)
      : in_(in),
        context_(context),
        first_(first),
        heads_(last - first),
        group_(in.q.heads() / in.k.heads()),
        rows_(in.q.length()),
        keys_(in.k.length()),
        count_(in.indices.width()),
        places_(group_ * rows_ * count_),
        weights_(heads_ * places_),
        score_bars_(heads_ * places_) {}
  static std::size_t bytes_per_head(const TopKCombineVjp<T, I, Cpu>& in) {
    const Index places = in.q.heads() / in.k.heads() * in.q.length() * in.indices.width();
    return static_cast<std::size_t>(places) * (2 * sizeof(T) + sizeof(Index)) +
           static_cast<std::size_t>(in.k.length() + 1) * sizeof(Index);
  }

  void run() {
    const Index blocks = (rows_ + kRowBlock - 1) / kRowBlock;
    parallel_for(
        context_, heads_ * group_ * blocks,
        [&](Index task, int) {
          const Index head = task / (group_ * blocks), g = task / blocks % group_, i0 = task % blocks * kRowBlock;
          for (Index i = i0; i < std::min(rows_, i0 + kRowBlock); ++i) query_row(head, g, i);
        },
        "top-k gradients");
    if (!in_.k_bar && !in_.v_bar) return;
    starts_ = Buffer<std::int64_t, Cpu>(heads_ * (keys_ + 1));
    order_ = Buffer<std::int64_t, Cpu>(heads_ * places_);
    parallel_for(context_, heads_, [&](Index head, int) { sort_by_key(head); });
    const Index key_blocks = (keys_ + kRowBlock - 1) / kRowBlock;
    parallel_for(
        context_, heads_ * key_blocks,
        [&](Index task, int) {
          const Index head = task / key_blocks, j0 = task % key_blocks * kRowBlock;
          for (Index j = j0; j < std::min(keys_, j0 + kRowBlock); ++j) key_row(head, j);
        },
        "top-k gradients");
  }

 private:
  Index batch_of(Index head) const { return (first_ + head) / in_.k.heads(); }
  Index key_head_of(Index head) const { return (first_ + head) % in_.k.heads(); }

  void query_row(Index head, Index g, Index i) {
    const Index b = batch_of(head), hk = key_head_of(head), h = hk * group_ + g;
    const I* index = in_.indices.matrix(b, h).row(i);
    T* weight = weights_.data() + head * places_ + (g * rows_ + i) * count_;
    T* bar = score_bars_.data() + head * places_ + (g * rows_ + i) * count_;
    const Index n = softmax_weights(index, in_.scores.matrix(b, h).row(i), count_, in_.scale, weight);
    const T* out_bar = in_.out_bar.matrix(b, h).row(i);
    const T delta = dot(out_bar, in_.out.matrix(b, h).row(i), in_.v.width());
    const auto v = in_.v.matrix(b, hk), k = in_.k.matrix(b, hk);
    T* q_bar = in_.q_bar ? in_.q_bar.matrix(b, h).row(i) : nullptr;
    if (q_bar) clear(q_bar, in_.q.width(), in_.accumulate);
    for (Index r = 0; r < n; ++r) {
      const auto j = static_cast<Index>(index[r]);
      bar[r] = in_.scale * weight[r] * (dot(out_bar, v.row(j), v.cols) - delta);
      if (q_bar) add(bar[r], k.row(j), q_bar, k.cols);
    }
  }
  // Counting sort of the places g * rows * count + i * count + r by their key; stable, so sums have one order.
  void sort_by_key(Index head) {
    const Index b = batch_of(head), hk = key_head_of(head);
    std::int64_t* start = starts_.data() + head * (keys_ + 1);
    std::int64_t* order = order_.data() + head * places_;
    std::fill_n(start, keys_ + 1, 0);
    const auto over_places = [&](const auto& visit) {
      for (Index g = 0; g < group_; ++g) {
        const auto index = in_.indices.matrix(b, hk * group_ + g);
        for (Index i = 0; i < rows_; ++i) {
          for (Index r = 0; r < count_ && index(i, r) >= 0; ++r)
            visit(static_cast<Index>(index(i, r)), (g * rows_ + i) * count_ + r);
        }
      }
    };
    over_places([&](Index j, Index) { ++start[j + 1]; });
    for (Index j = 0; j < keys_; ++j) start[j + 1] += start[j];
    // start[j] walks through the list of key j and ends at the start of the next; one step back puts it right again.
    over_places([&](Index j, Index place) { order[start[j]++] = place; });
    for (Index j = keys_; j > 0; --j) start[j] = start[j - 1];
    start[0] = 0;
  }
  void key_row(Index head, Index j) {
    const Index b = batch_of(head), hk = key_head_of(head);
    const std::int64_t* start = starts_.data() + head * (keys_ + 1);
    T* k_bar = in_.k_bar ? in_.k_bar.matrix(b, hk).row(j) : nullptr;
    T* v_bar = in_.v_bar ? in_.v_bar.matrix(b, hk).row(j) : nullptr;
    if (k_bar) clear(k_bar, in_.q.width(), in_.accumulate);
    if (v_bar) clear(v_bar, in_.v.width(), in_.accumulate);
    for (std::int64_t p = start[j]; p < start[j + 1]; ++p) {
      const Index place = order_.data()[head * places_ + p], g = place / (rows_ * count_), i = place / count_ % rows_;
      if (k_bar) add(score_bars_.data()[head * places_ + place], in_.q.matrix(b, hk * group_ + g).row(i), k_bar, in_.q.width());
      if (v_bar)
        add(weights_.data()[head * places_ + place], in_.out_bar.matrix(b, hk * group_ + g).row(i), v_bar, in_.v.width());
    }
  }

  const TopKCombineVjp<T, I, Cpu>& in_;
  const Context<Cpu>& context_;
  Index first_, heads_, group_, rows_, keys_, count_, places_;
  Buffer<T, Cpu> weights_, score_bars_;
  Buffer<std::int64_t, Cpu> starts_, order_;
};

}  // namespace

template <class T, class I, class B>
void top_k_combine_vjp(const TopKCombineVjp<T, I, B>& in, const Context<B>& context) {
  const Index heads = in.k.batch() * in.k.heads();
  if (heads == 0) return;
  // As many heads at a time as the scratch memory holds; every head's result is the same in any company.
  const std::size_t each = std::max<std::size_t>(1, CombineVjp<T, I>::bytes_per_head(in));
  const Index step = std::clamp<Index>(static_cast<Index>(context.scratch_bytes / each), 1, heads);
  for (Index first = 0; first < heads; first += step) CombineVjp<T, I>(in, first, std::min(heads, first + step), context).run();
}

#define ESPALIER_INSTANTIATE(T, I)                                                                             \
  template void top_k_combine(TensorView<const T, Cpu>, TensorView<const I, Cpu>, TensorView<const T, Cpu>, T, \
                              TensorView<T, Cpu>, const Context<Cpu>&);                                        \
  template void top_k_combine_vjp(const TopKCombineVjp<T, I, Cpu>&, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float, std::int32_t)
ESPALIER_INSTANTIATE(float, std::int64_t)
ESPALIER_INSTANTIATE(double, std::int32_t)
ESPALIER_INSTANTIATE(double, std::int64_t)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
