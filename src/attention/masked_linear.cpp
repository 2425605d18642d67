// Masked linear attention: one masked low-rank product a head, then a division by its row sums.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/error.hpp>
#include <espalier/masks/ones.hpp>

#include "attention/elementwise_features.hpp"
#include "attention/heads.hpp"
#include "backend/rows.hpp"
#include "backend/tiles.hpp"
#include "backend/transfers.hpp"
#include "core/compiled_backend.hpp"

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
  if (o.features == FeatureKind::positive_softmax) {
    throw ValueError("LinearOptions::features: positive_softmax draws random features; apply a FeatureMap to q and k instead");
  }
  if (!(o.feature_epsilon >= 0) || !std::isfinite(o.feature_epsilon))
    throw ValueError("feature_epsilon must be finite and >= 0");
  check_key_counts(o.key_counts, s);
  if (!o.weight_log_shift) return;
  const Index rows = s.batch * s.heads * s.queries;
  if (o.weight_log_shift.size != rows) throw ShapeError("weight_log_shift", o.weight_log_shift.size, rows);
  for (Index i = 0; i < rows; ++i) {
    if (!std::isfinite(o.weight_log_shift[i])) throw ValueError("weight_log_shift must be finite");
  }
}

// weight_epsilon in the scale of each of `rows` query rows. exp(log epsilon - shift): epsilon alone may be out of range.
template <class T, class B>
backend::Buffer<T, B> row_weights(const LinearOptions& o, Index first, Index rows) {
  std::vector<double> weights;
  weights.reserve(static_cast<std::size_t>(rows));
  for (Index i = first; i < first + rows; ++i) weights.push_back(std::exp(std::log(o.weight_epsilon) - o.weight_log_shift[i]));
  return backend::uploaded<T, B>(weights);
}

// The product of one head, whatever its mask: the mask's own (without a mask: that of ones), or tiles over causal entries.
template <class T, class B>
class HeadProduct {
 public:
  // `products`: products will be taken, else only gradients.
  HeadProduct(const Mask<T, B>* mask, const AttentionSizes& s, Causal causal, bool products) : mask_(mask) {
    if (mask == nullptr) {
      ones_ = std::make_shared<OnesMask<T, B>>(s.queries, s.keys, causal != Causal::none, causal_shift(causal, s));
      mask_ = ones_.get();
    }
    if (mask == nullptr || causal == Causal::none) {
      if (products && mask_->multiplies_by_tiles({.columns = s.values, .rank = std::max<Index>(1, s.width)})) {
        entries_ = mask_->entries();
        tiles_ = entries_.kind != EntryKind::none;
      }
      return;
    }
    entries_ = mask->entries();
    if (entries_.kind == EntryKind::none) {
      throw ValueError("causal attention over a mask whose entries cannot be had by tile; wrap the mask in CausalMask");
    }
    own_ = tiles_ = true;
    const Index shift = causal_shift(causal, s);
    entries_.causal_shift = entries_.causal ? std::min(entries_.causal_shift, shift) : shift;
    entries_.causal = true;
  }

  // Whether the product is that of tiles over entries, which can do what HeadTiles says.
  bool by_tiles() const { return backend::tiles_by_head<B> && tiles_; }
  // head: for products by_tiles() alone.
  void forward(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, backend::HeadTiles<T, B> head,
               const Context<B>& context) const {
    if constexpr (backend::tiles_by_head<B>) {
      if (tiles_) {
        head.transpose = written_;
        return backend::tile_low_rank(entries_, head, in, out, context);
      }
    }
    if (own_) {  // on a device
      backend::tile_low_rank(entries_, in, out, false, context);
    } else {
      mask_->multiply_low_rank(in, out, context);
    }
  }

  // Elements of the mask's entries where forward products gain by write(), else 0. Beyond 384 KiB a core's own cache does not
  // hold them beside a head.
  Index written_size() const {
    if constexpr (backend::tiles_by_head<B>) {
      constexpr Index kMost = (384 << 10) / sizeof(T);
      if (!tiles_ || entries_.rows > kMost / std::max<Index>(1, entries_.cols)) return 0;
      const Index size = backend::written_entries_size(entries_);
      return size <= kMost ? size : 0;
    }
    return 0;
  }
  // Forward products read the mask's entries from `memory` from now on.
  void write(T* memory, const Context<B>& context) {
    if constexpr (backend::tiles_by_head<B>) {
      entries_ = backend::write_entries(entries_, memory, context);
      written_ = true;
    }
  }

  void backward(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& bars, const LowRankGradients<T, B>& out,
                const Context<B>& context) const {
    if (!own_) {
      mask_->multiply_low_rank_vjp(in, bars, out, context);
      return;
    }
    const Index size = out.parameters ? mask_->entries_gradient_size() : 0;
    backend::Buffer<T, B> scratch(size, context);
    EntriesGradient<T, B> sink;
    if (out.parameters) {
      backend::fill(scratch.matrix(1, size), T(0), context);
      backend::fill(MatrixView<T, B>(out.parameters.data, 1, out.parameters.size), T(0), context);
      sink = mask_->entries_gradient(scratch.data());
    }
    backend::tile_low_rank_vjp(entries_, in, bars, out, sink, size, context);
    if (out.parameters) mask_->fold_entries_gradient(scratch.data(), out.parameters, context);
  }

 private:
  std::shared_ptr<const Mask<T, B>> ones_;
  const Mask<T, B>* mask_;
  Entries<T, B> entries_;
  bool own_ = false;      // products over entries_, in both directions
  bool tiles_ = false;    // entries_ are all that a forward product needs
  bool written_ = false;  // they are those of Mᵀ, for forward products alone
};

// Writes out the entries of masks that three heads or more share (on average), as far as they fit in scratch_bytes: from the
// third product on it is gained. The memory they lie in.
template <class T, class B>
backend::Buffer<T, B> write_shared(std::vector<HeadProduct<T, B>>& products, Index heads, const Context<B>& context) {
  if (heads < 3 * static_cast<Index>(products.size())) return {};
  const Index room = static_cast<Index>(context.scratch_bytes / sizeof(T));
  Index size = 0;
  std::vector<HeadProduct<T, B>*> chosen;
  for (auto& p : products) {
    const Index n = p.written_size();
    if (n == 0 || n > room - size) continue;
    size += n;
    chosen.push_back(&p);
  }
  backend::Buffer<T, B> memory(size, context);
  T* next = memory.data();
  for (HeadProduct<T, B>* p : chosen) {
    const Index n = p->written_size();
    p->write(next, context);
    next += n;
  }
  return memory;
}

bool maps_elements(const LinearOptions& o) {
  return o.features != FeatureKind::identity || o.feature_epsilon > 0;
}

// What the product reads for a matrix of one head: the caller's memory, or a copy in `memory` where rows from `count` on are
// set to zero (they may hold anything, NaN included) or q and k go through a feature map.
template <class T, class B>
MatrixView<const T, B> product_rows(MatrixView<const T, B> m, Index count, const LinearOptions* features,
                                    backend::Buffer<T, B>& memory, const Context<B>& context) {
  const bool map = features != nullptr && maps_elements(*features);
  if (!map && count == m.rows) return m;
  memory = backend::Buffer<T, B>(m.rows * m.cols, context);
  const MatrixView<T, B> r = memory.matrix(m.rows, m.cols);
  const MatrixView<T, B> kept = r.row_range(0, count);
  if (map) {
    backend::map_elements<T, B>(elementwise(features->features), static_cast<T>(features->feature_epsilon),
                                m.row_range(0, count), kept, context);
  } else {
    backend::copy<T, B>(m.row_range(0, count), kept, context);
  }
  if (count < m.rows) backend::fill(r.row_range(count, m.rows - count), T(0), context);
  return r;
}

// Keys and values of one (batch, key head).
template <class T, class B>
struct HeadKeys {
  backend::Buffer<T, B> memory_k, memory_v;
  MatrixView<const T, B> k, v;

  HeadKeys(MatrixView<const T, B> keys, MatrixView<const T, B> values, Index count, const LinearOptions* features,
           const Context<B>& context)
      : k(product_rows<T, B>(keys, count, features, memory_k, context)),
        v(product_rows<T, B>(values, count, nullptr, memory_v, context)) {}
};

// The gradient of features as that of what they were made from, in place; `m`: the rows before the map.
template <class T, class B>
void pull_features(const LinearOptions& o, MatrixView<const T, B> m, Index count, MatrixView<T, B> bar,
                   const Context<B>& context) {
  if (!bar || o.features == FeatureKind::identity) return;
  const MatrixView<T, B> kept = bar.row_range(0, count);
  backend::map_elements_vjp<T, B>(elementwise(o.features), m.row_range(0, count), kept, false, kept, context);
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
    products.emplace_back(masks.empty() ? nullptr : &masks[i], s, options.causal, true);
  }
  const backend::Buffer<T, B> written = write_shared(products, s.batch * s.heads, context);
  Context<B> rest = context;
  rest.scratch_bytes -= static_cast<std::size_t>(written.size()) * sizeof(T);
  // Where entries are written, the heads of one mask come one after the other: it stays in the cache.
  const bool by_mask = written.size() > 0 && s.group() == 1;
  const auto batch_and_head = [&](Index t) {
    return by_mask ? std::pair{t % s.batch, t / s.batch} : std::pair{t / s.heads, t % s.heads};
  };

  std::atomic<Index> floored_rows{0};
  const backend::Visible everything{options.causal != Causal::none, causal_shift(options.causal, s), s.keys};
  const Index tasks = s.batch * s.heads, at_once = tasks_at_once(tasks, rest);
  // Where the next head fits in a core's own cache beside this one, and all of them do not.
  const std::size_t head_bytes = static_cast<std::size_t>((s.queries + s.keys) * (s.width + s.values)) * sizeof(T);
  const bool ask_ahead = head_bytes <= (384 << 10) && head_bytes * static_cast<std::size_t>(tasks) > (1 << 20);
  over_tasks(tasks, rest, "linear attention", [&](Index t, const Context<B>& inner) {
    const auto place = batch_and_head(t);
    const Index b = place.first, h = place.second;
    const Index count = keys_of(options.key_counts, b, s), rows = queries_of(options.key_counts, b, s);
    const auto& product = products[static_cast<std::size_t>(masks.empty() ? 0 : masks.index(b, h, s.heads))];
    // The features of padding keys are zeros, which ReLU with an epsilon would not give.
    const bool relu = options.features == FeatureKind::relu && count == s.keys && product.by_tiles();
    const LinearOptions* features = relu ? nullptr : &options;
    const HeadKeys<T, B> keys(k.matrix(b, h / s.group()), v.matrix(b, h / s.group()), count, features, inner);
    backend::Buffer<T, B> q_memory;
    const MatrixView<const T, B> qs = product_rows<T, B>(queries.matrix(b, h), s.queries, features, q_memory, inner);
    const MatrixView<T, B> y = out.matrix(b, h);
    backend::Buffer<T, B> denominator(s.queries, inner);
    const MatrixView<T, B> d = denominator.matrix(s.queries, 1);
    const LowRankInputs<T, B> in{qs, keys.k, keys.v};
    const LowRankOutputs<T, B> results{y, {denominator.data(), s.queries}};
    backend::HeadTiles<T, B> head{.relu = relu, .epsilon = static_cast<T>(options.feature_epsilon)};
    // Divided by the product itself, unless more is to be added first.
    head.divide = options.normalize && options.weight_epsilon == 0 && rows == s.queries && product.by_tiles();
    head.floor = options.denominator_floor;
    head.floored = &floored_rows;
    if (ask_ahead && t + at_once < tasks) {
      const auto next = batch_and_head(t + at_once);
      const Index key_head = next.second / s.group();
      head.next = {queries.matrix(next.first, next.second), k.matrix(next.first, key_head), v.matrix(next.first, key_head)};
      head.next_y = out.matrix(next.first, next.second);
    }
    product.forward(in, results, head, inner);
    if (options.weight_epsilon > 0) {
      backend::Visible visible = everything;
      visible.keys = count;
      if (!options.weight_log_shift) {
        backend::add_visible_sums<T, B>(options.weight_epsilon, visible, keys.v, y, d, inner);
      } else {
        // Each row's own weight: the sums with weight 1 first.
        backend::Buffer<T, B> memory(s.queries * (s.values + 1), inner);
        const MatrixView<T, B> sums = memory.matrix(s.queries, s.values);
        const MatrixView<T, B> counts(memory.data() + s.queries * s.values, s.queries, 1);
        backend::fill(memory.matrix(s.queries, s.values + 1), T(0), inner);
        backend::add_visible_sums<T, B>(1, visible, keys.v, sums, counts, inner);
        const auto weights = row_weights<T, B>(options, (b * s.heads + h) * s.queries, s.queries);
        backend::add_row_scaled<T, B>({weights.data(), s.queries}, sums, y, inner);
        backend::add_row_scaled<T, B>({weights.data(), s.queries}, counts, d, inner);
      }
    }
    Index floored_here = 0;
    if (options.normalize && !head.divide)
      floored_here = backend::divide_rows<T, B>(y.row_range(0, rows), d.row_range(0, rows), options.denominator_floor, inner);
    if (rows < s.queries) {
      backend::fill(y.row_range(rows, s.queries - rows), T(0), inner);
      backend::fill(d.row_range(rows, s.queries - rows), T(0), inner);
    }
    if (normaliser) backend::copy<T, B>(d, normaliser.matrix(b, h), inner);
    if (floored_here < 0) {
      floored_rows.store(-1, std::memory_order_relaxed);
    } else {
      floored_rows.fetch_add(floored_here, std::memory_order_relaxed);
    }
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
    products.emplace_back(masks.empty() ? nullptr : &masks[i], s, options.causal, false);
  }
  const Index parameters = gradients.parameters ? gradients.parameters.cols : 0;
  // Each (batch, head) gathers its parameters' gradient in a row of its own, added up in order at the end, so that the bits do
  // not depend on threads. Where these rows would not fit, heads run one after the other through one row.
  const bool fits = static_cast<std::size_t>(s.batch * s.heads * parameters) * sizeof(T) <= context.scratch_bytes;
  backend::Buffer<T, B> rows(parameters * (fits ? s.batch * s.heads : 1), context);
  if (gradients.parameters && !gradients.accumulate) backend::fill(gradients.parameters, T(0), context);
  const auto add_parameters = [&](Index b, Index h, const T* row) {
    const MatrixView<T, B> to = gradients.parameters.row_range(masks.index(b, h, s.heads), 1);
    backend::add_scaled<T, B>(T(1), MatrixView<const T, B>(row, 1, parameters), to, on_one_thread(context));
  };
  const backend::Visible everything{options.causal != Causal::none, causal_shift(options.causal, s), s.keys};

  // One task a key head: its query heads add to the same gradients of k and v, in order.
  const auto work = [&](Index t, const Context<B>& inner) {
    const Index b = t / s.key_heads, hk = t % s.key_heads, group = s.group();
    const Index count = keys_of(options.key_counts, b, s), used = queries_of(options.key_counts, b, s);
    const HeadKeys<T, B> keys(k.matrix(b, hk), v.matrix(b, hk), count, &options, inner);
    backend::Buffer<T, B> y_bar(s.queries * s.values, inner), r_bar(s.queries, inner);
    backend::Buffer<T, B> q_memory;
    // What overwrites is made in the caller's memory, only what adds to it in memory of its own first.
    const bool add_q = gradients.accumulate, add_keys = gradients.accumulate || group > 1;
    backend::Buffer<T, B> q_new(gradients.q && add_q ? s.queries * s.width : 0, inner);
    backend::Buffer<T, B> k_new(gradients.k && add_keys ? s.keys * s.width : 0, inner);
    backend::Buffer<T, B> v_new(gradients.v && add_keys ? s.keys * s.values : 0, inner);
    const MatrixView<T, B> y_bars = y_bar.matrix(s.queries, s.values);
    for (Index h = hk * group; h < (hk + 1) * group; ++h) {
      const backend::DividedRows<T, B> quotient{out.matrix(b, h),  out_bar.matrix(b, h),     normaliser.matrix(b, h), used,
                                                options.normalize, options.denominator_floor};
      backend::divide_rows_vjp<T, B>(quotient, y_bars, {r_bar.data(), s.queries}, inner);
      // Padding queries may hold anything, and 0 times NaN is NaN.
      const MatrixView<const T, B> qs = product_rows<T, B>(queries.matrix(b, h), used, &options, q_memory, inner);
      LowRankGradients<T, B> wanted;
      const bool add = gradients.accumulate || h > hk * group;
      if (gradients.q) wanted.a = add_q ? q_new.matrix(s.queries, s.width) : gradients.q.matrix(b, h);
      if (gradients.k) wanted.b = add ? k_new.matrix(s.keys, s.width) : gradients.k.matrix(b, hk);
      if (gradients.v) wanted.x = add ? v_new.matrix(s.keys, s.values) : gradients.v.matrix(b, hk);
      if (parameters > 0) wanted.parameters = {rows.data() + (fits ? (b * s.heads + h) * parameters : 0), parameters};
      LowRankCotangents<T, B> bars{y_bars, {}};
      if (options.normalize) bars.row_sum = {r_bar.data(), s.queries};
      const auto& product = products[static_cast<std::size_t>(masks.empty() ? 0 : masks.index(b, h, s.heads))];
      product.backward({qs, keys.k, keys.v}, bars, wanted, inner);
      if (gradients.v && options.weight_epsilon > 0) {
        backend::Visible visible = everything;
        visible.keys = count;
        if (!options.weight_log_shift) {
          backend::add_visible_sums_vjp<T, B>(options.weight_epsilon, visible, y_bars, wanted.x, inner);
        } else {
          const auto weights = row_weights<T, B>(options, (b * s.heads + h) * s.queries, s.queries);
          backend::Buffer<T, B> memory(s.queries * s.values, inner);
          const MatrixView<T, B> weighted = memory.matrix(s.queries, s.values);
          backend::fill(weighted, T(0), inner);
          backend::add_row_scaled<T, B>({weights.data(), s.queries}, y_bars, weighted, inner);
          backend::add_visible_sums_vjp<T, B>(1, visible, weighted, wanted.x, inner);
        }
      }
      pull_features<T, B>(options, queries.matrix(b, h), used, wanted.a, inner);
      pull_features<T, B>(options, k.matrix(b, hk), count, wanted.b, inner);
      // Keys beyond the count are zeros here: what reaches them has no meaning to the caller.
      for (const auto& m : {wanted.b, wanted.x}) {
        if (m && count < s.keys) backend::fill(m.row_range(count, s.keys - count), T(0), inner);
      }
      if (gradients.q && used < s.queries) backend::fill(wanted.a.row_range(used, s.queries - used), T(0), inner);
      if (gradients.q && add_q) backend::add_scaled<T, B>(T(1), wanted.a, gradients.q.matrix(b, h), inner);
      if (gradients.k && add) backend::add_scaled<T, B>(T(1), wanted.b, gradients.k.matrix(b, hk), inner);
      if (gradients.v && add) backend::add_scaled<T, B>(T(1), wanted.x, gradients.v.matrix(b, hk), inner);
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
      TensorView<U, CompiledBackend>, TensorView<const T, CompiledBackend>, TensorView<const T, CompiledBackend>,          \
      HeadMasks<T, CompiledBackend>, TensorView<T, CompiledBackend>, TensorView<T, CompiledBackend>, const LinearOptions&, \
      const Context<CompiledBackend>&);                                                                                    \
  template ESPALIER_EXPORT void masked_linear_attention_vjp(                                                               \
      TensorView<U, CompiledBackend>, TensorView<const T, CompiledBackend>, TensorView<const T, CompiledBackend>,          \
      HeadMasks<T, CompiledBackend>, TensorView<const T, CompiledBackend>, TensorView<const T, CompiledBackend>,           \
      TensorView<const T, CompiledBackend>, AttentionGradients<T, CompiledBackend>, const LinearOptions&,                  \
      const Context<CompiledBackend>&);
ESPALIER_INSTANTIATE(float, float)
ESPALIER_INSTANTIATE(const float, float)
ESPALIER_INSTANTIATE(double, double)
ESPALIER_INSTANTIATE(const double, double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
