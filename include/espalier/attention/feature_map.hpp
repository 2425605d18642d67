// Feature maps of linear attention: elementwise maps and positive random features of the softmax kernel (FAVOR+).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/attention/types.hpp>
#include <espalier/core/export.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace espalier {

enum class FeatureKind : std::uint8_t {
  identity,         // x
  relu,             // max(x, 0)
  elu,              // x + 1 for x > 0, e^x otherwise
  squared,          // x^2
  exp,              // e^x
  positive_softmax  // exp(w_r . x' - |x'|^2 / 2) / sqrt(m), x' = sqrt(scale) x
};

struct FeatureOptions {
  FeatureKind kind = FeatureKind::relu;
  double epsilon = 0;               // added to every feature; >= 0
  // positive_softmax only:
  Index features = 256;             // m
  std::uint64_t seed = 0;
  bool orthogonal = true;           // rows of w orthogonal in blocks of d, norms chi(d)
  std::optional<double> scale;      // default 1 / sqrt(d)
  std::vector<double> projection{}; // w given, m x d row-major; overrides features, seed, orthogonal
};

// phi: R^d -> R^m, rows independently. Immutable; projection drawn at construction from the seed (same numbers everywhere).
//
// positive_softmax has E[phi(q) . phi(k)] = exp(scale q . k). To keep exponents in range the map can be shifted: `shift`
// gives the largest exponent per row (queries) or over a head (keys), and `apply` subtracts it; linear attention's ratio
// does not change when a query row or all keys of a head are scaled, and unnormalised outputs are multiplied back.
// Source: K. Choromanski et al., "Rethinking attention with Performers", ICLR 2021, Lemma 1 and section 2.4.
template <class T, class B = Cpu>
class ESPALIER_EXPORT FeatureMap {
 public:
  // width: d. Errors: ValueError for width < 1, m < 1, epsilon < 0, NaN; ShapeError for a projection of another size.
  FeatureMap(Index width, FeatureOptions options);

  Index width() const { return width_; }     // d
  Index features() const { return features_; }  // m (= d for the elementwise maps)
  const FeatureOptions& options() const { return options_; }
  // w, m x d row-major, in double; empty for elementwise maps.
  const std::vector<double>& projection() const { return projection_; }
  // The same map with another seed's projection.
  FeatureMap redraw(std::uint64_t seed) const;

  // Logarithmic shifts: log_shift[b, h, l, 0] = max_r of the exponents of that row; with per_head, every row of a head gets
  // the head's maximum. 0 for the other kinds. x: [B, H, L, d]; log_shift: [B, H, L, 1].
  void shifts(TensorView<const T, B> x, TensorView<T, B> log_shift, bool per_head, const Context<B>& context = {}) const;
  // y = phi(x) exp(-log_shift) (an empty log_shift: no shift), epsilon added last. x: [B, H, L, d], y: [B, H, L, m].
  void apply(TensorView<const T, B> x, TensorView<const T, B> log_shift, TensorView<T, B> y, const Context<B>& context = {}) const;
  // x_bar = gradient of sum(y_bar * y) with log_shift held constant (its gradient cancels in the normalised attention).
  // y: the forward's output. x_bar may be added to (`accumulate`).
  void apply_vjp(TensorView<const T, B> x, TensorView<const T, B> log_shift, TensorView<const T, B> y, TensorView<const T, B> y_bar,
                 TensorView<T, B> x_bar, bool accumulate = false, const Context<B>& context = {}) const;

 private:
  Index width_, features_;
  FeatureOptions options_;
  std::vector<double> projection_;
};

// Mean absorption: attention weights exp(scale q.k) of the softmax kernel are unchanged, up to a factor a query, when
// q -> q - mean_q, k -> k - mean_k and key j gets the factor exp(scale mean_q . (k_j - mean_k)). It cuts the variance of
// random features several times when the means are large. Means per (batch, head).
//   q_centred: as q; k_centred: as k; key_log_weight: [B, Hk, Lk, 1], to be added to k's log shift with a minus sign.
template <class U, class B>
ESPALIER_EXPORT void absorb_means(TensorView<U, B> q, In<U, B> k, double scale, Out<U, B> q_centred, Out<U, B> k_centred,
                                  Out<U, B> key_log_weight, const ContextOf<U, B>& context = {});

}  // namespace espalier
