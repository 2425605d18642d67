// Feature maps: projections drawn from counter-based numbers, exponents by the tile product, exponentials by vectors.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/feature_map.hpp>
#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>

#include "attention/checks.hpp"
#include "attention/elementwise_features.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"
#include "backend/exponential.hpp"
#include "backend/tiles.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier {

namespace {

// Streams of one seed: directions, and the norms of orthogonal rows.
constexpr std::uint64_t kDirections = 0, kNorms = 1;

// Modified Gram-Schmidt, twice (twice is enough: W. Kahan; orthogonal to rounding), on one block of rows. With positive
// diagonal of R the result is uniform over orthogonal matrices.
void orthogonalise(double* rows, Index count, Index d) {
  for (Index i = 0; i < count; ++i) {
    double* r = rows + i * d;
    for (int pass = 0; pass < 2; ++pass) {
      for (Index p = 0; p < i; ++p) {
        double dot = 0;
        for (Index k = 0; k < d; ++k) dot += r[k] * rows[p * d + k];
        for (Index k = 0; k < d; ++k) r[k] -= dot * rows[p * d + k];
      }
    }
    double norm = 0;
    for (Index k = 0; k < d; ++k) norm += r[k] * r[k];
    norm = std::sqrt(norm);
    for (Index k = 0; k < d; ++k) r[k] /= norm;
  }
}

std::vector<double> draw_projection(Index m, Index d, std::uint64_t seed, bool orthogonal) {
  const Random directions(seed, kDirections), norms(seed, kNorms);
  std::vector<double> w(static_cast<std::size_t>(m * d));
  for (std::size_t p = 0; p < w.size(); ++p) w[p] = directions.normal(p);
  if (!orthogonal) return w;
  for (Index first = 0; first < m; first += d) orthogonalise(w.data() + first * d, std::min(d, m - first), d);
  for (Index r = 0; r < m; ++r) {
    double square = 0;
    for (Index k = 0; k < d; ++k) {
      const double g = norms.normal(static_cast<std::uint64_t>(r * d + k));
      square += g * g;
    }
    const double chi = std::sqrt(square);
    for (Index k = 0; k < d; ++k) w[static_cast<std::size_t>(r * d + k)] *= chi;
  }
  return w;
}

// The projection as d x m, the root of the scale folded in; empty for elementwise maps.
template <class T>
std::vector<T> transposed(const std::vector<double>& projection, Index m, Index d, double root_scale) {
  std::vector<T> t(projection.size());
  for (Index r = 0; !t.empty() && r < m; ++r) {
    for (Index k = 0; k < d; ++k) {
      t[static_cast<std::size_t>(k * m + r)] = static_cast<T>(root_scale * projection[static_cast<std::size_t>(r * d + k)]);
    }
  }
  return t;
}

// Row `row` of p, exp(w_r . x' - |x'|^2 / 2 - shift) / sqrt(m): what of y is no epsilon. The difference y - added has no digits
// left where features are far below epsilon, p has them all. A row whose forward had a log_weight disagrees with p and takes
// the difference. slack: relative rounding of p.
template <class T>
void without_epsilon(MatrixView<const T> y, Index row, T added, T slack, MatrixView<T> p) {
  Index top = 0;
  for (Index r = 1; r < p.cols; ++r) {
    if (p(row, r) > p(row, top)) top = r;
  }
  const T largest = p(row, top), seen = y(row, top);
  const bool agrees = std::abs(seen - added - largest) <= slack * largest + 4 * std::numeric_limits<T>::epsilon() * seen;
  if (agrees && std::isfinite(largest)) return;
  for (Index r = 0; r < p.cols; ++r) p(row, r) = y(row, r) - added;
}

// Rows of one head handled together: bounds the scratch memory of the exponents' gradient.
constexpr Index kRowBlock = 1024;

// M x for a dense M given as a view: the tile product.
template <class T, class B>
void dense_product(MatrixView<const T, B> m, MatrixView<const T, B> x, MatrixView<T, B> y, const Context<B>& context) {
  Entries<T, B> e;
  e.kind = EntryKind::dense;
  e.rows = m.rows;
  e.cols = m.cols;
  e.values = m.data;
  e.values_stride = m.row_stride;
  backend::tile_multiply(e, x, y, false, context);
}

template <class F>
void over_heads(Index batch, Index heads, const Context<Cpu>& context, const F& work) {
  const bool outside = batch * heads >= backend::thread_count(context);
  Context<Cpu> inner = context;
  Progress stop_only;
  if (context.progress != nullptr) {
    stop_only.stop = context.progress->stop;
    inner.progress = &stop_only;
  }
  if (outside) inner.threads = 1;
  Context<Cpu> outer = context;
  if (!outside) outer.threads = 1;
  backend::parallel_for(
      outer, batch * heads, [&](Index t, int) { work(t / heads, t % heads, inner); }, "features");
}

}  // namespace

template <class T, class B>
FeatureMap<T, B>::FeatureMap(Index width, FeatureOptions options)
    : width_(width), features_(width), options_(std::move(options)) {
  if (width < 1) throw ValueError("FeatureMap: width must be at least 1");
  if (!(options_.epsilon >= 0) || !std::isfinite(options_.epsilon))
    throw ValueError("FeatureMap: epsilon must be finite and >= 0");
  if (options_.kind != FeatureKind::positive_softmax) return;
  const double scale = options_.scale.value_or(1 / std::sqrt(static_cast<double>(width)));
  if (!(scale > 0) || !std::isfinite(scale)) throw ValueError("FeatureMap: scale must be finite and > 0");
  root_scale_ = std::sqrt(scale);
  if (options_.projection.empty()) {
    if (options_.features < 1) throw ValueError("FeatureMap: features must be at least 1");
    features_ = options_.features;
    projection_ = draw_projection(features_, width, options_.seed, options_.orthogonal);
  } else {
    const auto size = static_cast<Index>(options_.projection.size());
    if (size % width != 0) throw ShapeError("projection", std::to_string(size) + " elements", "m x " + std::to_string(width));
    for (const double w : options_.projection) {
      if (!std::isfinite(w)) throw ValueError("FeatureMap: the projection has a NaN or an infinity");
    }
    features_ = size / width;
    projection_ = options_.projection;
  }
}

template <class T, class B>
FeatureMap<T, B> FeatureMap<T, B>::redraw(std::uint64_t seed) const {
  if (!options_.projection.empty())
    throw ValueError("FeatureMap::redraw: the projection was given, there is no seed to change");
  return FeatureMap(width_, FeatureOptions{.kind = options_.kind,
                                           .epsilon = options_.epsilon,
                                           .features = options_.features,
                                           .seed = seed,
                                           .orthogonal = options_.orthogonal,
                                           .scale = options_.scale});
}

template <class T, class B>
void FeatureMap<T, B>::apply(TensorView<const T, B> x, TensorView<T, B> y, FeatureShift shift, TensorView<T, B> log_shift,
                             TensorView<const T, B> log_weight, const Context<B>& context) const {
  const Index batch = x.batch(), heads = x.heads(), length = x.length();
  const bool softmax = options_.kind == FeatureKind::positive_softmax;
  check_tensor("x", x, batch, heads, length, width_);
  check_tensor("y", y, batch, heads, length, features_);
  check_tensor_overlap("y", y, "x", x);
  if (log_shift) {
    check_tensor("log_shift", log_shift, batch, heads, length, 1);
    check_tensor_overlap("log_shift", log_shift, "x", x);
    check_tensor_overlap("log_shift", log_shift, "y", y);
  } else if (softmax && shift != FeatureShift::none) {
    throw ValueError("FeatureMap::apply: a shift needs the output log_shift");
  }
  if (log_weight) {
    if (!softmax) throw ValueError("FeatureMap::apply: log_weight is for positive_softmax only");
    check_tensor("log_weight", log_weight, batch, heads, length, 1);
    check_tensor_overlap("y", y, "log_weight", log_weight);
    check_tensor_overlap("log_shift", log_shift, "log_weight", log_weight);
  }
  if (length == 0) return;
  const T epsilon = static_cast<T>(options_.epsilon);
  const std::vector<T> wt = transposed<T>(projection_, features_, width_, root_scale_);
  const T log_epsilon = epsilon > 0 ? std::log(epsilon) : -std::numeric_limits<T>::infinity();
  const T root_m = static_cast<T>(1 / std::sqrt(static_cast<double>(features_)));
  over_heads(batch, heads, context, [&](Index b, Index h, const Context<B>& inner) {
    const auto xs = x.matrix(b, h);
    const auto ys = y.matrix(b, h);
    if (!softmax) {
      backend::map_elements<T, B>(elementwise(options_.kind), epsilon, xs, ys, inner);
      for (Index i = 0; log_shift && i < length; ++i) log_shift.matrix(b, h)(i, 0) = T(0);
      return;
    }
    dense_product<T, B>(xs, MatrixView<const T, B>(wt.data(), width_, features_), ys, inner);
    // Exponent of feature r of row i is ys(i, r) + base_i; 1 / sqrt(m) comes as a factor.
    std::vector<T> minus(static_cast<std::size_t>(length));  // what exponentials() subtracts
    std::vector<T> top(static_cast<std::size_t>(length));
    T head_top = -std::numeric_limits<T>::infinity();
    for (Index i = 0; i < length; ++i) {
      T square = 0;
      for (Index k = 0; k < width_; ++k) square += xs(i, k) * xs(i, k);
      const T base =
          -static_cast<T>(root_scale_ * root_scale_ / 2) * square + (log_weight ? log_weight.matrix(b, h)(i, 0) : T(0));
      minus[static_cast<std::size_t>(i)] = -base;
      T largest = -std::numeric_limits<T>::infinity();
      for (Index r = 0; r < features_; ++r) largest = std::max(largest, ys(i, r));
      top[static_cast<std::size_t>(i)] = std::max(largest + base, log_epsilon);
      if (std::isfinite(top[static_cast<std::size_t>(i)])) head_top = std::max(head_top, top[static_cast<std::size_t>(i)]);
    }
    for (Index i = 0; i < length; ++i) {
      T s = shift == FeatureShift::none ? T(0) : shift == FeatureShift::per_head ? head_top : top[static_cast<std::size_t>(i)];
      if (!std::isfinite(s)) s = 0;  // a row of NaN or of zero weight: nothing to scale
      minus[static_cast<std::size_t>(i)] += s;
      if (log_shift) log_shift.matrix(b, h)(i, 0) = s;
      top[static_cast<std::size_t>(i)] = s;
    }
    backend::exponentials(ys, VectorView<const T, B>{minus.data(), length}, root_m, inner);
    for (Index i = 0; epsilon > 0 && i < length; ++i) {
      const T add = std::exp(log_epsilon - top[static_cast<std::size_t>(i)]);
      for (Index r = 0; r < features_; ++r) ys(i, r) += add;
    }
  });
}

template <class T, class B>
void FeatureMap<T, B>::apply_vjp(TensorView<const T, B> x, TensorView<const T, B> y, TensorView<const T, B> log_shift,
                                 TensorView<const T, B> y_bar, TensorView<T, B> x_bar, bool accumulate,
                                 const Context<B>& context) const {
  const Index batch = x.batch(), heads = x.heads(), length = x.length();
  const bool softmax = options_.kind == FeatureKind::positive_softmax;
  check_tensor("x", x, batch, heads, length, width_);
  check_tensor("y", y, batch, heads, length, features_);
  check_tensor("y_bar", y_bar, batch, heads, length, features_);
  check_tensor("x_bar", x_bar, batch, heads, length, width_);
  if (log_shift) check_tensor("log_shift", log_shift, batch, heads, length, 1);
  for (const auto& [name, input] :
       {std::pair{"x", x}, std::pair{"y", y}, std::pair{"y_bar", y_bar}, std::pair{"log_shift", log_shift}}) {
    check_tensor_overlap("x_bar", x_bar, name, input);
  }
  if (length == 0) return;
  std::vector<T> w(static_cast<std::size_t>(softmax ? features_ * width_ : 0));  // m x d, sqrt(scale) folded in
  for (std::size_t p = 0; p < w.size(); ++p) w[p] = static_cast<T>(root_scale_ * projection_[p]);
  const T epsilon = static_cast<T>(options_.epsilon), scale = static_cast<T>(root_scale_ * root_scale_);
  const T root_m = static_cast<T>(1 / std::sqrt(static_cast<double>(features_)));
  const std::vector<T> wt = epsilon > 0 ? transposed<T>(projection_, features_, width_, root_scale_) : std::vector<T>();
  over_heads(batch, heads, context, [&](Index b, Index h, const Context<B>& inner) {
    const auto xs = x.matrix(b, h), ys = y.matrix(b, h), gs = y_bar.matrix(b, h);
    const auto out = x_bar.matrix(b, h);
    if (!softmax) {
      backend::map_elements_vjp<T, B>(elementwise(options_.kind), xs, gs, accumulate, out, inner);
      return;
    }
    // With p_ir = y_ir - epsilon exp(-shift_i), computed anew beside an epsilon, g_ir = y_bar_ir p_ir:  x_bar_i = sqrt(scale)
    // sum_r g_ir w_r - scale x_i sum_r g_ir.
    const Index block = std::min(length, kRowBlock);
    backend::Buffer<T, B> g(block * features_), product(block * width_);
    for (Index first = 0; first < length; first += block) {
      const Index n = std::min(block, length - first);
      const auto gm = g.matrix(n, features_), pm = product.matrix(n, width_);
      std::vector<T> sums(static_cast<std::size_t>(n)), minus(static_cast<std::size_t>(n));
      if (epsilon > 0) {
        for (Index i = 0; i < n; ++i) {
          T square = 0;
          for (Index k = 0; k < width_; ++k) square += xs(first + i, k) * xs(first + i, k);
          minus[static_cast<std::size_t>(i)] = scale / 2 * square + (log_shift ? log_shift.matrix(b, h)(first + i, 0) : T(0));
        }
        dense_product<T, B>(xs.row_range(first, n), MatrixView<const T, B>(wt.data(), width_, features_), gm, inner);
        backend::exponentials(gm, VectorView<const T, B>{minus.data(), n}, root_m, inner);
      }
      for (Index i = 0; i < n; ++i) {
        if (epsilon > 0) {
          const T shift = log_shift ? log_shift.matrix(b, h)(first + i, 0) : T(0);
          // The forward's own operations again: what differs is the rounding of the exponent under another shift.
          const T slack = 4 * std::numeric_limits<T>::epsilon() * (8 + std::abs(minus[static_cast<std::size_t>(i)]));
          without_epsilon<T>(ys.row_range(first, n), i, epsilon * std::exp(-shift), slack, gm);
        }
        T sum = 0;
        for (Index r = 0; r < features_; ++r) {
          gm(i, r) = gs(first + i, r) * (epsilon > 0 ? gm(i, r) : ys(first + i, r));
          sum += gm(i, r);
        }
        sums[static_cast<std::size_t>(i)] = sum;
      }
      dense_product<T, B>(gm, MatrixView<const T, B>(w.data(), features_, width_), pm, inner);
      for (Index i = 0; i < n; ++i) {
        for (Index k = 0; k < width_; ++k) {
          const T v = pm(i, k) - scale * xs(first + i, k) * sums[static_cast<std::size_t>(i)];
          out(first + i, k) = accumulate ? out(first + i, k) + v : v;
        }
      }
    }
  });
}

template <class U, class B>
void absorb_means(TensorView<U, B> q, In<U, B> k, double scale, Out<U, B> q_centred, Out<U, B> k_centred,
                  Out<U, B> key_log_weight, const ContextOf<U, B>& context) {
  using T = std::remove_const_t<U>;
  const TensorView<const T, B> queries = q;
  const AttentionSizes s = check_qkv<T, B>(queries, k, k);
  check_tensor("q_centred", q_centred, s.batch, s.heads, s.queries, s.width);
  check_tensor("k_centred", k_centred, s.batch, s.key_heads, s.keys, s.width);
  check_tensor("key_log_weight", key_log_weight, s.batch, s.key_heads, s.keys, 1);
  const std::pair<const char*, TensorView<T, B>> outputs[] = {
      {"q_centred", q_centred}, {"k_centred", k_centred}, {"key_log_weight", key_log_weight}};
  for (const auto& [name, y] : outputs) {
    check_tensor_overlap(name, y, "q", queries);
    check_tensor_overlap(name, y, "k", k);
  }
  if (!std::isfinite(scale)) throw ValueError("absorb_means: scale must be finite");
  over_heads(s.batch, s.key_heads, context, [&](Index b, Index hk, const Context<B>&) {
    // Means in double: any constant vectors are exact, so their own rounding costs nothing.
    std::vector<double> mean_q(static_cast<std::size_t>(s.width)), mean_k(static_cast<std::size_t>(s.width));
    const auto keys = k.matrix(b, hk);
    for (Index j = 0; j < s.keys; ++j) {
      for (Index c = 0; c < s.width; ++c) mean_k[static_cast<std::size_t>(c)] += keys(j, c);
    }
    for (Index h = hk * s.group(); h < (hk + 1) * s.group(); ++h) {
      for (Index i = 0; i < s.queries; ++i) {
        for (Index c = 0; c < s.width; ++c) mean_q[static_cast<std::size_t>(c)] += queries.matrix(b, h)(i, c);
      }
    }
    for (Index c = 0; c < s.width; ++c) {
      mean_k[static_cast<std::size_t>(c)] /= static_cast<double>(std::max<Index>(1, s.keys));
      mean_q[static_cast<std::size_t>(c)] /= static_cast<double>(std::max<Index>(1, s.queries * s.group()));
    }
    for (Index j = 0; j < s.keys; ++j) {
      double dot = 0;
      for (Index c = 0; c < s.width; ++c) {
        const double centred = keys(j, c) - mean_k[static_cast<std::size_t>(c)];
        k_centred.matrix(b, hk)(j, c) = static_cast<T>(centred);
        dot += mean_q[static_cast<std::size_t>(c)] * centred;
      }
      key_log_weight.matrix(b, hk)(j, 0) = static_cast<T>(scale * dot);
    }
    for (Index h = hk * s.group(); h < (hk + 1) * s.group(); ++h) {
      for (Index i = 0; i < s.queries; ++i) {
        for (Index c = 0; c < s.width; ++c) {
          q_centred.matrix(b, h)(i, c) = static_cast<T>(queries.matrix(b, h)(i, c) - mean_q[static_cast<std::size_t>(c)]);
        }
      }
    }
  });
}

template <class T, class B>
void balance_shifts(double weight_epsilon, TensorView<T, B> q_features, std::type_identity_t<TensorView<T, B>> q_log_shift,
                    std::type_identity_t<TensorView<const T, B>> k_log_shift, VectorView<double, Cpu> row_log_shift) {
  const Index batch = q_features.batch(), heads = q_features.heads(), rows = q_features.length();
  const Index key_heads = k_log_shift.heads(), keys = k_log_shift.length();
  check_tensor("q_log_shift", q_log_shift, batch, heads, rows, 1);
  check_tensor("k_log_shift", k_log_shift, batch, key_heads, keys, 1);
  if (row_log_shift.size != batch * heads * rows) throw ShapeError("row_log_shift", row_log_shift.size, batch * heads * rows);
  if (key_heads < 1 || heads % key_heads != 0) {
    throw ShapeError("k_log_shift", std::to_string(key_heads) + " heads", "a divisor of " + std::to_string(heads));
  }
  if (!(weight_epsilon > 0) || !std::isfinite(weight_epsilon)) throw ValueError("weight_epsilon must be finite and > 0");
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < key_heads; ++h) {
      const auto shift = k_log_shift.matrix(b, h);
      for (Index j = 1; j < keys; ++j) {
        if (shift(j, 0) != shift(0, 0)) throw ValueError("k_log_shift: one shift a head expected (FeatureShift::per_head)");
      }
    }
  }
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < heads; ++h) {
      const auto features = q_features.matrix(b, h), shift = q_log_shift.matrix(b, h);
      const double key = keys > 0 ? static_cast<double>(k_log_shift.matrix(b, h / (heads / key_heads))(0, 0)) : 0.0;
      for (Index i = 0; i < rows; ++i) {
        const T before = shift(i, 0);
        // Rounded to T first: what the row is divided by and what is undone later are then the same number.
        shift(i, 0) = std::max(before, static_cast<T>(std::log(weight_epsilon) - key));
        row_log_shift[(b * heads + h) * rows + i] = static_cast<double>(shift(i, 0)) + key;
        if (shift(i, 0) == before) continue;
        const T factor = static_cast<T>(std::exp(static_cast<double>(before) - static_cast<double>(shift(i, 0))));
        for (Index r = 0; r < features.cols; ++r) features(i, r) *= factor;
      }
    }
  }
}

#define ESPALIER_INSTANTIATE(T)                                                                                          \
  template ESPALIER_EXPORT void balance_shifts(double, TensorView<T, Cpu>, TensorView<T, Cpu>, TensorView<const T, Cpu>, \
                                               VectorView<double, Cpu>);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

template class ESPALIER_EXPORT FeatureMap<float, Cpu>;
template class ESPALIER_EXPORT FeatureMap<double, Cpu>;
#define ESPALIER_INSTANTIATE(U, T)                                                                                     \
  template ESPALIER_EXPORT void absorb_means(TensorView<U, Cpu>, TensorView<const T, Cpu>, double, TensorView<T, Cpu>, \
                                             TensorView<T, Cpu>, TensorView<T, Cpu>, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float, float)
ESPALIER_INSTANTIATE(const float, float)
ESPALIER_INSTANTIATE(double, double)
ESPALIER_INSTANTIATE(const double, double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
