// Feature maps of linear attention: elementwise maps and positive random features of the softmax kernel (FAVOR+).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/attention/types.hpp>
#include <espalier/core/export.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace espalier {

struct FeatureOptions {
  FeatureKind kind = FeatureKind::relu;
  double epsilon = 0;  // added to every feature; >= 0
  // positive_softmax only:
  Index features = 256;  // m
  std::uint64_t seed = 0;
  bool orthogonal = true;            // rows of w orthogonal in blocks of d, norms chi(d)
  std::optional<double> scale{};     // default 1 / sqrt(d)
  std::vector<double> projection{};  // w given, m x d row-major; overrides features, seed, orthogonal
};

// How exponents are kept in range (positive_softmax; the other kinds ignore it). A shift multiplies a row of features by
// exp(-shift): linear attention's ratio does not change when a query row, or all keys of a head, are scaled alike.
enum class FeatureShift : std::uint8_t {
  none,
  per_row,  // for queries: the largest exponent of the row
  per_head  // for keys: the largest exponent of the head
};

// phi: R^d -> R^m, rows independently. Immutable; projection drawn at construction from the seed (same numbers everywhere).
//
// positive_softmax has E[phi(q) . phi(k)] = exp(scale q . k). Unnormalised outputs are to be multiplied by
// exp(shift of the query row + shift of the head's keys) to undo the shifts.
// Cost: 2 L m d flops and L m exponentials for positive_softmax, L d for the elementwise maps.
// Source: K. Choromanski et al., "Rethinking attention with Performers", ICLR 2021, Lemma 1 and section 2.4.
template <class T, class B = Cpu>
class ESPALIER_EXPORT FeatureMap {
 public:
  // width: d. Errors: ValueError for width < 1, m < 1, epsilon < 0, NaN; ShapeError for a projection of another size.
  FeatureMap(Index width, FeatureOptions options);

  Index width() const { return width_; }        // d
  Index features() const { return features_; }  // m (= d for the elementwise maps)
  const FeatureOptions& options() const { return options_; }
  // w, m x d row-major, in double; empty for elementwise maps.
  const std::vector<double>& projection() const { return projection_; }
  // The same map with the projection of another seed. Errors: ValueError where the projection was given by the caller.
  FeatureMap redraw(std::uint64_t seed) const;

  // y = (phi(x) exp(log_weight) + epsilon) exp(-log_shift).
  // x: [B, H, L, d]; y: [B, H, L, m]; log_shift: [B, H, L, 1], an output, may be empty when shift is none (else needed);
  // log_weight: [B, H, L, 1] or empty (0). Without exponents (elementwise maps) log_shift is 0 and log_weight must be empty.
  void apply(TensorView<const T, B> x, TensorView<T, B> y, FeatureShift shift = FeatureShift::none,
             TensorView<T, B> log_shift = {}, TensorView<const T, B> log_weight = {}, const Context<B>& context = {}) const;
  // x_bar = gradient of sum(y_bar * y), log_shift and log_weight held constant (a shift's gradient cancels in the normalised
  // attention). y and log_shift (empty: 0): the forward's outputs. x_bar is added to where `accumulate`.
  void apply_vjp(TensorView<const T, B> x, TensorView<const T, B> y, TensorView<const T, B> log_shift,
                 TensorView<const T, B> y_bar, TensorView<T, B> x_bar, bool accumulate = false,
                 const Context<B>& context = {}) const;

 private:
  Index width_, features_;
  FeatureOptions options_;
  std::vector<double> projection_;
  double root_scale_ = 1;  // sqrt(scale)
};

// Mean absorption: attention weights exp(scale q.k) of the softmax kernel are unchanged, up to a factor a query, when
// q -> q - mean_q, k -> k - mean_k and key j gets the factor exp(scale mean_q . (k_j - mean_k)). It cuts the variance of
// random features several times when the means are large. Means per (batch, head).
// q: [B, H, Lq, d], k: [B, Hk, Lk, d]. With grouped heads the mean of q is taken over the group (any constant vector is exact).
//   q_centred: as q; k_centred: as k; key_log_weight: [B, Hk, Lk, 1], the log_weight of k's FeatureMap::apply.
template <class U, class B>
ESPALIER_EXPORT void absorb_means(TensorView<U, B> q, In<U, B> k, double scale, Out<U, B> q_centred, Out<U, B> k_centred,
                                  Out<U, B> key_log_weight, const ContextOf<U, B>& context = {});

// Stabilised features beside a weight epsilon (LinearOptions): epsilon is divided by exp of the row's shifts as the products
// are, which is out of range where all products of a row are far below epsilon. Such rows are moved on to epsilon's scale:
//   r_i = max(q_log_shift_i + k_log_shift, log epsilon),  q_features_i *= exp(q_log_shift_i + k_log_shift - r_i),
//   q_log_shift_i = r_i - k_log_shift,  row_log_shift_i = r_i: the option weight_log_shift.
// Then neither a product nor epsilon exceeds 1 / m, up to the mask, and outputs are to be multiplied by exp(r_i) as before.
// q_features: [B, H, Lq, m] and q_log_shift: [B, H, Lq, 1], both from FeatureMap::apply with per_row, changed in place;
// k_log_shift: [B, Hk, Lk, 1] from apply with per_head; row_log_shift: B H Lq, on the host.
// Errors: ShapeError; ValueError for epsilon <= 0 and where the shifts of one head's keys differ.
template <class T, class B>
ESPALIER_EXPORT void balance_shifts(double weight_epsilon, TensorView<T, B> q_features,
                                    std::type_identity_t<TensorView<T, B>> q_log_shift,
                                    std::type_identity_t<TensorView<const T, B>> k_log_shift,
                                    VectorView<double, Cpu> row_log_shift);

}  // namespace espalier
