// Masked linear attention: one masked low-rank product a head, then a division by its row sums.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/error.hpp>
#include <espalier/masks/ones.hpp>

#include "attention/heads.hpp"
#include "backend/tiles.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <vector>

namespace espalier {

namespace {

void check_options(const LinearOptions& o, const AttentionSizes& s) {
  if (!(o.weight_epsilon >= 0) || !std::isfinite(o.weight_epsilon)) throw ValueError("weight_epsilon must be finite and >= 0");
  if (!(o.denominator_floor >= 0) || !std::isfinite(o.denominator_floor)) {
    throw ValueError("denominator_floor must be finite and >= 0");
  }
  check_key_counts(o.key_counts, s);
  if (!o.weight_log_shift) return;
  const Index rows = s.batch * s.heads * s.queries;
  if (o.weight_log_shift.size != rows) throw ShapeError("weight_log_shift", o.weight_log_shift.size, rows);
  for (Index i = 0; i < rows; ++i) {
    if (!std::isfinite(o.weight_log_shift[i])) throw ValueError("weight_log_shift must be finite");
  }
}

// weight_epsilon in the scale of each of `rows` query rows. exp(log epsilon - shift): epsilon alone may be out of range.
template <class T>
std::vector<T> row_weights(const LinearOptions& o, Index first, Index rows) {
  std::vector<T> weights;
  weights.reserve(static_cast<std::size_t>(rows));
  for (Index i = first; i < first + rows; ++i) {
    weights.push_back(static_cast<T>(std::exp(std::log(o.weight_epsilon) - o.weight_log_shift[i])));
  }
  return weights;
}

// The product of one head, whatever its mask: the mask's own (without a mask: that of ones), or tiles over causal entries.
template <class T, class B>
class HeadProduct {
 public:
  HeadProduct(const Mask<T, B>* mask, const AttentionSizes& s, Causal causal) : mask_(mask) {
    if (mask == nullptr) {
      ones_ = std::make_shared<OnesMask<T, B>>(s.queries, s.keys, causal != Causal::none, causal_shift(causal, s));
      mask_ = ones_.get();
      return;
    }
    if (causal == Causal::none) return;
    entries_ = mask->entries();
    if (entries_.kind == EntryKind::none) {
      throw ValueError("causal attention over a mask whose entries cannot be had by tile; wrap the mask in CausalMask");
    }
    own_ = true;
    const Index shift = causal_shift(causal, s);
    entries_.causal_shift = entries_.causal ? std::min(entries_.causal_shift, shift) : shift;
    entries_.causal = true;
  }

  void forward(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, const Context<B>& context) const {
    if (own_) {
      backend::tile_low_rank(entries_, in, out, false, context);
    } else {
      mask_->multiply_low_rank(in, out, context);
    }
  }

  void backward(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& bars, const LowRankGradients<T, B>& out,
                const Context<B>& context) const {
    if (!own_) {
      mask_->multiply_low_rank_vjp(in, bars, out, context);
      return;
    }
    const Index size = out.parameters ? mask_->entries_gradient_size() : 0;
    backend::Buffer<T, B> scratch(size);
    EntriesGradient<T, B> sink;
    if (out.parameters) {
      backend::fill(scratch.matrix(1, size), T(0), context);
      backend::fill(MatrixView<T, B>(out.parameters.data, 1, out.parameters.size), T(0), context);
      sink = mask_->entries_gradient(scratch.data());
    }
    backend::tile_low_rank_vjp(entries_, in, bars, out, sink, size, context);
    if (out.parameters) mask_->fold_entries_gradient(scratch.data(), out.parameters);
  }

 private:
  std::shared_ptr<const Mask<T, B>> ones_;
  const Mask<T, B>* mask_;
  Entries<T, B> entries_;
  bool own_ = false;
};

// Keys and values of one (batch, key head): the caller's memory, or copies with rows from `count` on set to zero (their values
// may be anything, NaN included).
template <class T, class B>
struct HeadKeys {
  MatrixView<const T, B> k, v;
  backend::Buffer<T, B> copy_k, copy_v;

  HeadKeys(MatrixView<const T, B> keys, MatrixView<const T, B> values, Index count, const Context<B>& context)
      : k(keys), v(values) {
    if (count == keys.rows) return;
    copy_k = backend::Buffer<T, B>(keys.rows * keys.cols);
    copy_v = backend::Buffer<T, B>(values.rows * values.cols);
    k = cleared(keys, copy_k, count, context);
    v = cleared(values, copy_v, count, context);
  }

  static MatrixView<const T, B> cleared(MatrixView<const T, B> m, backend::Buffer<T, B>& memory, Index count,
                                        const Context<B>& context) {
    const MatrixView<T, B> r = memory.matrix(m.rows, m.cols);
    backend::copy<T, B>(m.row_range(0, count), r.row_range(0, count), context);
    backend::fill(r.row_range(count, m.rows - count), T(0), context);
    return r;
  }
};

// Sums over the keys that query i may see: what weight_epsilon multiplies. Without causal order it is one sum for all rows.
struct Visible {
  bool causal;
  Index shift, keys;
  // Keys visible to query i: 0 .. count(i) - 1.
  Index count(Index i) const { return causal ? std::clamp<Index>(i + shift + 1, 0, keys) : keys; }
};

// numerator_i += epsilon sum_j v_j, denominator_i += epsilon count over visible keys; sums carried in double.
template <class T, class B>
void add_weight_epsilon(double epsilon, const Visible& visible, MatrixView<const T, B> v, MatrixView<T, B> y,
                        MatrixView<T, B> denominator) {
  std::vector<double> sum(static_cast<std::size_t>(v.cols));
  Index done = 0;
  for (Index i = 0; i < y.rows; ++i) {
    for (const Index end = visible.count(i); done < end; ++done) {
      for (Index c = 0; c < v.cols; ++c) sum[static_cast<std::size_t>(c)] += v(done, c);
    }
    for (Index c = 0; c < v.cols; ++c) y(i, c) += static_cast<T>(epsilon * sum[static_cast<std::size_t>(c)]);
    denominator(i, 0) += static_cast<T>(epsilon * static_cast<double>(done));
  }
}

// v_bar_j += epsilon sum over the queries i that see key j of y_bar_i.
template <class T, class B>
void add_weight_epsilon_gradient(double epsilon, const Visible& visible, MatrixView<const T, B> y_bar, MatrixView<T, B> v_bar) {
  std::vector<double> sum(static_cast<std::size_t>(v_bar.cols));
  Index i = y_bar.rows;
  for (Index j = visible.keys; j-- > 0;) {
    // Later queries see more keys: key j is seen by the queries from the first with count(i) > j on.
    while (i > 0 && visible.count(i - 1) > j) {
      --i;
      for (Index c = 0; c < v_bar.cols; ++c) sum[static_cast<std::size_t>(c)] += y_bar(i, c);
    }
    for (Index c = 0; c < v_bar.cols; ++c) v_bar(j, c) += static_cast<T>(epsilon * sum[static_cast<std::size_t>(c)]);
  }
}

template <class T>
bool floored(T denominator, double floor) {
  return std::abs(static_cast<double>(denominator)) <= floor;
}

template <class T, class B>
Index divide_rows(MatrixView<T, B> y, MatrixView<const T, B> denominator, double floor) {
  Index count = 0;
  for (Index i = 0; i < y.rows; ++i) {
    T* row = y.row(i);
    const T d = denominator(i, 0);
    if (floored(d, floor)) {
      ++count;
      std::fill_n(row, y.cols, T(0));
      continue;
    }
    const T inverse = T(1) / d;
    for (Index c = 0; c < y.cols; ++c) row[c] *= inverse;
  }
  return count;
}

template <class T, class B>
void check_call(TensorView<const T, B> q, TensorView<const T, B> k, TensorView<const T, B> v, const HeadMasks<T, B>& masks,
                const LinearOptions& options, AttentionSizes& s) {
  s = check_qkv<T, B>(q, k, v);
  check_head_masks("masks", masks, s);
  check_options(options, s);
}

}  // namespace

template <class U, class B>
LinearResult masked_linear_attention(TensorView<U, B> q, In<U, B> k, In<U, B> v, Masks<U, B> masks, Out<U, B> out,
                                     Out<U, B> normaliser, const LinearOptions& options, const ContextOf<U, B>& context) {
  using T = std::remove_const_t<U>;
  const TensorView<const T, B> queries = q;
  AttentionSizes s{};
  check_call<T, B>(queries, k, v, masks, options, s);
  check_tensor("out", out, s.batch, s.heads, s.queries, s.values);
  if (normaliser) check_tensor("normaliser", normaliser, s.batch, s.heads, s.queries, 1);
  for (const auto& [name, input] : {std::pair{"q", queries}, std::pair{"k", k}, std::pair{"v", v}}) {
    check_tensor_overlap("out", out, name, input);
    check_tensor_overlap("normaliser", normaliser, name, input);
  }
  check_tensor_overlap("normaliser", normaliser, "out", out);
  std::vector<HeadProduct<T, B>> products;
  for (Index i = 0; i < std::max<Index>(1, masks.count()); ++i) {
    products.emplace_back(masks.empty() ? nullptr : &masks[i], s, options.causal);
  }

  std::atomic<Index> floored_rows{0};
  const Visible everything{options.causal != Causal::none, causal_shift(options.causal, s), s.keys};
  over_tasks(s.batch * s.heads, context, "linear attention", [&](Index t, const Context<B>& inner) {
    const Index b = t / s.heads, h = t % s.heads;
    const Index count = keys_of(options.key_counts, b, s), rows = queries_of(options.key_counts, b, s);
    const HeadKeys<T, B> keys(k.matrix(b, h / s.group()), v.matrix(b, h / s.group()), count, inner);
    const MatrixView<T, B> y = out.matrix(b, h);
    backend::Buffer<T, B> denominator(s.queries);
    const MatrixView<T, B> d = denominator.matrix(s.queries, 1);
    const auto& product = products[static_cast<std::size_t>(masks.empty() ? 0 : masks.index(b, h, s.heads))];
    product.forward({queries.matrix(b, h), keys.k, keys.v}, {y, {denominator.data(), s.queries}}, inner);
    if (options.weight_epsilon > 0) {
      Visible visible = everything;
      visible.keys = count;
      if (!options.weight_log_shift) {
        add_weight_epsilon<T, B>(options.weight_epsilon, visible, keys.v, y, d);
      } else {
        // Each row's own weight: the sums with weight 1 first.
        backend::Buffer<T, B> memory(s.queries * (s.values + 1));
        const MatrixView<T, B> sums = memory.matrix(s.queries, s.values);
        const MatrixView<T, B> counts(memory.data() + s.queries * s.values, s.queries, 1);
        backend::fill(memory.matrix(s.queries, s.values + 1), T(0), inner);
        add_weight_epsilon<T, B>(1, visible, keys.v, sums, counts);
        const std::vector<T> weights = row_weights<T>(options, (b * s.heads + h) * s.queries, s.queries);
        backend::add_row_scaled<T, B>({weights.data(), s.queries}, sums, y, inner);
        backend::add_row_scaled<T, B>({weights.data(), s.queries}, counts, d, inner);
      }
    }
    Index floored_here = 0;
    if (options.normalize)
      floored_here = divide_rows<T, B>(y.row_range(0, rows), d.row_range(0, rows), options.denominator_floor);
    if (rows < s.queries) {
      backend::fill(y.row_range(rows, s.queries - rows), T(0), inner);
      backend::fill(d.row_range(rows, s.queries - rows), T(0), inner);
    }
    if (normaliser) backend::copy<T, B>(d, normaliser.matrix(b, h), inner);
    floored_rows.fetch_add(floored_here, std::memory_order_relaxed);
  });
  return {floored_rows.load()};
}

template <class U, class B>
void masked_linear_attention_vjp(TensorView<U, B> q, In<U, B> k, In<U, B> v, Masks<U, B> masks, In<U, B> out,
                                 In<U, B> normaliser, In<U, B> out_bar,
                                 std::type_identity_t<AttentionGradients<std::remove_const_t<U>, B>> gradients,
                                 const LinearOptions& options, const ContextOf<U, B>& context) {
  using T = std::remove_const_t<U>;
  const TensorView<const T, B> queries = q;
  AttentionSizes s{};
  check_call<T, B>(queries, k, v, masks, options, s);
  check_tensor("out", out, s.batch, s.heads, s.queries, s.values);
  check_tensor("normaliser", normaliser, s.batch, s.heads, s.queries, 1);
  check_tensor("out_bar", out_bar, s.batch, s.heads, s.queries, s.values);
  check_gradients<T, B>(gradients, s, masks, {},
                        {{"q", queries}, {"k", k}, {"v", v}, {"out", out}, {"normaliser", normaliser}, {"out_bar", out_bar}});
  std::vector<HeadProduct<T, B>> products;
  for (Index i = 0; i < std::max<Index>(1, masks.count()); ++i) {
    products.emplace_back(masks.empty() ? nullptr : &masks[i], s, options.causal);
  }
  const Index parameters = gradients.parameters ? gradients.parameters.cols : 0;
  // Each (batch, head) gathers its parameters' gradient in a row of its own, added up in order at the end, so that the bits do
  // not depend on threads. Where these rows would not fit, heads run one after the other through one row.
  const bool fits = static_cast<std::size_t>(s.batch * s.heads * parameters) * sizeof(T) <= context.scratch_bytes;
  backend::Buffer<T, B> rows(parameters * (fits ? s.batch * s.heads : 1));
  if (gradients.parameters && !gradients.accumulate) backend::fill(gradients.parameters, T(0), context);
  const auto add_parameters = [&](Index b, Index h, const T* row) {
    const MatrixView<T, B> to = gradients.parameters.row_range(masks.index(b, h, s.heads), 1);
    backend::add_scaled<T, B>(T(1), MatrixView<const T, B>(row, 1, parameters), to, Context<B>{.threads = 1});
  };
  const Visible everything{options.causal != Causal::none, causal_shift(options.causal, s), s.keys};

  // One task a key head: its query heads add to the same gradients of k and v, in order.
  const auto work = [&](Index t, const Context<B>& inner) {
    const Index b = t / s.key_heads, hk = t % s.key_heads, group = s.group();
    const Index count = keys_of(options.key_counts, b, s), used = queries_of(options.key_counts, b, s);
    const HeadKeys<T, B> keys(k.matrix(b, hk), v.matrix(b, hk), count, inner);
    backend::Buffer<T, B> y_bar(s.queries * s.values), r_bar(s.queries);
    backend::Buffer<T, B> q_used(used < s.queries ? s.queries * s.width : 0);
    backend::Buffer<T, B> q_new(gradients.q ? s.queries * s.width : 0);
    backend::Buffer<T, B> k_new(gradients.k ? s.keys * s.width : 0), v_new(gradients.v ? s.keys * s.values : 0);
    const MatrixView<T, B> y_bars = y_bar.matrix(s.queries, s.values);
    for (Index h = hk * group; h < (hk + 1) * group; ++h) {
      const auto o = out.matrix(b, h), g = out_bar.matrix(b, h), d = normaliser.matrix(b, h);
      for (Index i = 0; i < s.queries; ++i) {
        T inverse = T(1), dot = T(0);
        const bool dead = i >= used || (options.normalize && floored(d(i, 0), options.denominator_floor));
        if (options.normalize && !dead) inverse = T(1) / d(i, 0);
        for (Index c = 0; c < s.values; ++c) {
          y_bars(i, c) = dead ? T(0) : g(i, c) * inverse;
          if (options.normalize && !dead) dot += y_bars(i, c) * o(i, c);
        }
        r_bar.data()[i] = -dot;
      }
      // Padding queries may hold anything, and 0 times NaN is NaN.
      const MatrixView<const T, B> qs =
          used < s.queries ? HeadKeys<T, B>::cleared(queries.matrix(b, h), q_used, used, inner) : queries.matrix(b, h);
      LowRankGradients<T, B> wanted;
      if (gradients.q) wanted.a = q_new.matrix(s.queries, s.width);
      if (gradients.k) wanted.b = k_new.matrix(s.keys, s.width);
      if (gradients.v) wanted.x = v_new.matrix(s.keys, s.values);
      if (parameters > 0) wanted.parameters = {rows.data() + (fits ? (b * s.heads + h) * parameters : 0), parameters};
      LowRankCotangents<T, B> bars{y_bars, {}};
      if (options.normalize) bars.row_sum = {r_bar.data(), s.queries};
      const auto& product = products[static_cast<std::size_t>(masks.empty() ? 0 : masks.index(b, h, s.heads))];
      product.backward({qs, keys.k, keys.v}, bars, wanted, inner);
      if (gradients.v && options.weight_epsilon > 0) {
        Visible visible = everything;
        visible.keys = count;
        if (!options.weight_log_shift) {
          add_weight_epsilon_gradient<T, B>(options.weight_epsilon, visible, y_bars, wanted.x);
        } else {
          const std::vector<T> weights = row_weights<T>(options, (b * s.heads + h) * s.queries, s.queries);
          backend::Buffer<T, B> memory(s.queries * s.values);
          const MatrixView<T, B> weighted = memory.matrix(s.queries, s.values);
          backend::fill(weighted, T(0), inner);
          backend::add_row_scaled<T, B>({weights.data(), s.queries}, y_bars, weighted, inner);
          add_weight_epsilon_gradient<T, B>(1, visible, weighted, wanted.x);
        }
      }
      // Keys beyond the count are zeros here: what reaches them has no meaning to the caller.
      for (const auto& m : {wanted.b, wanted.x}) {
        if (m && count < s.keys) backend::fill(m.row_range(count, s.keys - count), T(0), inner);
      }
      const bool add = gradients.accumulate || h > hk * group;
      if (gradients.q) {
        if (used < s.queries) backend::fill(wanted.a.row_range(used, s.queries - used), T(0), inner);
        store_gradient<T, B>(wanted.a, gradients.q.matrix(b, h), gradients.accumulate, inner);
      }
      if (gradients.k) store_gradient<T, B>(wanted.b, gradients.k.matrix(b, hk), add, inner);
      if (gradients.v) store_gradient<T, B>(wanted.x, gradients.v.matrix(b, hk), add, inner);
      if (parameters > 0 && !fits) add_parameters(b, h, rows.data());
    }
  };
  over_tasks(s.batch * s.key_heads, context, "linear attention, backward", work, !fits);
  if (parameters > 0 && fits) {
    for (Index t = 0; t < s.batch * s.heads; ++t) add_parameters(t / s.heads, t % s.heads, rows.data() + t * parameters);
  }
}

#define ESPALIER_INSTANTIATE(U, T)                                                                                         \
  template ESPALIER_EXPORT LinearResult masked_linear_attention(                                                           \
      TensorView<U, Cpu>, TensorView<const T, Cpu>, TensorView<const T, Cpu>, HeadMasks<T, Cpu>, TensorView<T, Cpu>,       \
      TensorView<T, Cpu>, const LinearOptions&, const Context<Cpu>&);                                                      \
  template ESPALIER_EXPORT void masked_linear_attention_vjp(                                                               \
      TensorView<U, Cpu>, TensorView<const T, Cpu>, TensorView<const T, Cpu>, HeadMasks<T, Cpu>, TensorView<const T, Cpu>, \
      TensorView<const T, Cpu>, TensorView<const T, Cpu>, AttentionGradients<T, Cpu>, const LinearOptions&,                \
      const Context<Cpu>&);
ESPALIER_INSTANTIATE(float, float)
ESPALIER_INSTANTIATE(const float, float)
ESPALIER_INSTANTIATE(double, double)
ESPALIER_INSTANTIATE(const double, double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
