// Exact softmax attention: argument checks, masks' entries and gradients' sinks; the work is the backend's.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/softmax.hpp>

#include "attention/checks.hpp"
#include "backend/elementwise.hpp"
#include "backend/softmax_tiles.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

namespace espalier {

namespace {

template <class T>
T scale_of(const SoftmaxOptions& options, Index width) {
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<Index>(1, width))));
  if (!std::isfinite(scale)) throw ValueError("softmax_attention: scale must be finite");
  return static_cast<T>(scale);
}

// The entries of every mask.
template <class T, class B>
std::vector<Entries<T, B>> entries_of(const std::string& name, const HeadMasks<T, B>& masks, const AttentionSizes& s) {
  check_head_masks(name, masks, s);
  std::vector<Entries<T, B>> r;
  for (Index i = 0; i < masks.count(); ++i) {
    r.push_back(masks[i].entries());
    if (r.back().kind == EntryKind::none) {
      throw ValueError(name + " " + std::to_string(i) +
                       " has no entries by tile, which softmax attention needs; use a mask that has (dense, grid, low rank, "
                       "sparse and what is made of these)");
    }
  }
  return r;
}

template <class T, class B>
struct Call {
  AttentionSizes sizes;
  std::vector<Entries<T, B>> bias, mask;
  backend::SoftmaxInputs<T, B> in;

  Call(TensorView<const T, B> q, TensorView<const T, B> k, TensorView<const T, B> v, const HeadMasks<T, B>& bias_masks,
       const HeadMasks<T, B>& masks, const SoftmaxOptions& options)
      : sizes(check_qkv<T, B>(q, k, v)), bias(entries_of("bias", bias_masks, sizes)), mask(entries_of("masks", masks, sizes)) {
    check_key_counts(options.key_counts, sizes);
    in.q = q, in.k = k, in.v = v;
    in.scale = scale_of<T>(options, sizes.width);
    in.bias = bias, in.mask = mask;
    in.causal = options.causal != Causal::none;
    in.causal_shift = causal_shift(options.causal, sizes);
    in.key_counts = options.key_counts;
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
};

// Room for what the kernels gather about the entries of every mask, and its way into the masks' parameters.
template <class T, class B>
class Sinks {
 public:
  Sinks(const HeadMasks<T, B>& masks, MatrixView<T, B> parameter_bar, const Context<B>& context)
      : masks_(masks), parameter_bar_(parameter_bar) {
    if (!parameter_bar) return;
    Index total = 0;
    for (Index i = 0; i < masks.count(); ++i) {
      sizes_.push_back(masks[i].entries_gradient_size());
      total += sizes_.back();
    }
    scratch_ = backend::Buffer<T, B>(total);
    if (total > 0) backend::fill(scratch_.matrix(1, total), T(0), context);
    T* at = scratch_.data();
    for (Index i = 0; i < masks.count(); ++i) {
      const Index size = sizes_[static_cast<std::size_t>(i)];
      sinks_.push_back(size > 0 ? masks[i].entries_gradient(at) : EntriesGradient<T, B>{});
      at += size;
    }
  }
  std::span<const EntriesGradient<T, B>> sinks() const { return sinks_; }
  std::span<const Index> sizes() const { return sizes_; }
  void fold(bool accumulate, const Context<B>& context) const {
    if (!parameter_bar_) return;
    if (!accumulate && parameter_bar_.cols > 0) backend::fill(parameter_bar_, T(0), context);
    const T* at = scratch_.data();
    for (Index i = 0; i < masks_.count(); ++i) {
      if (sizes_[static_cast<std::size_t>(i)] > 0) {
        masks_[i].fold_entries_gradient(at, VectorView<T, B>{parameter_bar_.row(i), parameter_bar_.cols}, context);
      }
      at += sizes_[static_cast<std::size_t>(i)];
    }
  }

 private:
  const HeadMasks<T, B>& masks_;
  MatrixView<T, B> parameter_bar_;
  std::vector<Index> sizes_;
  std::vector<EntriesGradient<T, B>> sinks_;
  backend::Buffer<T, B> scratch_;
};

}  // namespace

template <class U, class B>
void softmax_attention(TensorView<U, B> q, In<U, B> k, In<U, B> v, Out<U, B> out, Out<U, B> log_sum_exp, Masks<U, B> bias,
                       Masks<U, B> masks, const SoftmaxOptions& options, const ContextOf<U, B>& context) {
  using T = std::remove_const_t<U>;
  const Call<T, B> call(q, k, v, bias, masks, options);
  const AttentionSizes& s = call.sizes;
  check_tensor("out", out, s.batch, s.heads, s.queries, s.values);
  if (log_sum_exp) check_tensor("log_sum_exp", log_sum_exp, s.batch, s.heads, s.queries, 1);
  for (const auto& [name, x] : {std::pair{"q", In<U, B>(q)}, std::pair{"k", k}, std::pair{"v", v}}) {
    check_tensor_overlap("out", out, name, x);
    check_tensor_overlap("log_sum_exp", log_sum_exp, name, x);
  }
  check_tensor_overlap("out", out, "log_sum_exp", log_sum_exp);
  backend::tile_softmax<T, B>(call.in, out, log_sum_exp, context);
}

std::size_t softmax_attention_bytes(Index width, Index values, std::size_t element, int threads) {
  // Blocks of at most 512 rows and as many keys; scores, entries of bias and mask, and their like take 1 MiB of floats at most.
  const Index elements = 2 * 512 * (width + values + 64) + (Index{1} << 18);
  return static_cast<std::size_t>(elements) * element * static_cast<std::size_t>(threads) + (1u << 16);
}

template <class U, class B>
void softmax_attention_vjp(TensorView<U, B> q, In<U, B> k, In<U, B> v, In<U, B> out, In<U, B> log_sum_exp, In<U, B> out_bar,
                           std::type_identity_t<AttentionGradients<std::remove_const_t<U>, B>> gradients, Masks<U, B> bias,
                           Masks<U, B> masks, const SoftmaxOptions& options, const ContextOf<U, B>& context) {
  using T = std::remove_const_t<U>;
  const Call<T, B> call(q, k, v, bias, masks, options);
  const AttentionSizes& s = call.sizes;
  check_tensor("out", out, s.batch, s.heads, s.queries, s.values);
  check_tensor("log_sum_exp", log_sum_exp, s.batch, s.heads, s.queries, 1);
  check_tensor("out_bar", out_bar, s.batch, s.heads, s.queries, s.values);
  const std::pair<const char*, TensorView<const T, B>> inputs[] = {
      {"q", q}, {"k", k}, {"v", v}, {"out", out}, {"log_sum_exp", log_sum_exp}, {"out_bar", out_bar}};
  check_gradients<T, B>(gradients, s, masks, bias, inputs);
  const Sinks<T, B> bias_sinks(bias, gradients.bias_parameters, context), mask_sinks(masks, gradients.parameters, context);
  backend::SoftmaxGradients<T, B> g;
  g.q = gradients.q, g.k = gradients.k, g.v = gradients.v;
  g.accumulate = gradients.accumulate;
  g.bias = bias_sinks.sinks(), g.bias_sizes = bias_sinks.sizes();
  g.mask = mask_sinks.sinks(), g.mask_sizes = mask_sinks.sizes();
  backend::tile_softmax_vjp<T, B>(call.in, out, log_sum_exp, out_bar, g, context);
  bias_sinks.fold(gradients.accumulate, context);
  mask_sinks.fold(gradients.accumulate, context);
}

#define ESPALIER_INSTANTIATE(U, T)                                                                                             \
  template ESPALIER_EXPORT void softmax_attention(TensorView<U, Cpu>, TensorView<const T, Cpu>, TensorView<const T, Cpu>,      \
                                                  TensorView<T, Cpu>, TensorView<T, Cpu>, HeadMasks<T, Cpu>,                   \
                                                  HeadMasks<T, Cpu>, const SoftmaxOptions&, const Context<Cpu>&);              \
  template ESPALIER_EXPORT void softmax_attention_vjp(TensorView<U, Cpu>, TensorView<const T, Cpu>, TensorView<const T, Cpu>,  \
                                                      TensorView<const T, Cpu>, TensorView<const T, Cpu>,                      \
                                                      TensorView<const T, Cpu>, AttentionGradients<T, Cpu>, HeadMasks<T, Cpu>, \
                                                      HeadMasks<T, Cpu>, const SoftmaxOptions&, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float, float)
ESPALIER_INSTANTIATE(const float, float)
ESPALIER_INSTANTIATE(double, double)
ESPALIER_INSTANTIATE(const double, double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
