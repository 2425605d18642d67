// OnesMask: prefix sums and products by state.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/masks/ones.hpp>

#include "backend/block_product.hpp"
#include "backend/elementwise.hpp"
#include "backend/state_products.hpp"
#include "core/compiled_backend.hpp"

#include <algorithm>
#include <limits>

namespace espalier {

namespace {

template <class T, class B>
backend::Columns<T, B> reversed(const backend::Columns<T, B>& m) {
  return {backend::reversed(m.matrix), m.ones, backend::reversed(m.last)};
}
template <class T, class B>
MatrixView<T, B> one_column(VectorView<T, B> v) {
  return {v.data, v.size, 1};
}

}  // namespace

template <class T, class B>
OnesMask<T, B>::OnesMask(Index rows, Index cols, bool causal, Index causal_shift, MaskOptions options)
    : Mask<T, B>(rows, cols, std::move(options)), causal_(causal), causal_shift_(causal ? causal_shift : 0) {}

template <class T, class B>
Entries<T, B> OnesMask<T, B>::entries() const {
  Entries<T, B> e;
  e.kind = EntryKind::ones;
  e.rows = this->rows();
  e.cols = this->cols();
  e.causal = causal_;
  e.causal_shift = causal_shift_;
  return e;
}

// Pairs j <= i + shift; without causality a shift that lets every pair through. In reverse order Mᵀ has the same form.
template <class T, class B>
Index OnesMask<T, B>::shift(bool transpose) const {
  if (!causal_) return transpose ? this->rows() : this->cols();
  return transpose ? this->rows() - this->cols() + causal_shift_ : causal_shift_;
}

template <class T, class B>
void OnesMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const {
  if (this->runs_by_tiles({.columns = x.cols})) return this->apply_by_tiles(x, y, transpose, context);
  if constexpr (backend::has_state_products<B>) {
    if (transpose) {
      backend::prefix_sums<T, B>(backend::reversed(x), shift(true), backend::reversed(y), context);
    } else {
      backend::prefix_sums<T, B>(x, shift(false), y, context);
    }
  }
}

// y = P(ones; a, b, x), or with onesᵀ; y_last: the product of x's additional column.
template <class T, class B>
void OnesMask<T, B>::by_state(const Operands& in, MatrixView<T, B> y, MatrixView<T, B> y_last, bool transpose,
                              const Context<B>& context) const {
  if constexpr (backend::has_state_products<B>) {
    backend::StateProduct<T, B> p;
    p.rows = transpose ? this->cols() : this->rows();
    p.cols = transpose ? this->rows() : this->cols();
    p.shift = shift(transpose);
    const auto columns = [&](const Augmented& m) {
      const backend::Columns<T, B> c{m.matrix, m.ones, m.last};
      return transpose ? reversed(c) : c;
    };
    p.a = columns(in.a);
    p.b = columns(in.b);
    p.x = columns(in.x);
    if (transpose) {
      backend::state_product(p, backend::reversed(y), backend::reversed(y_last), false, context);
    } else {
      backend::state_product(p, y, y_last, false, context);
    }
  }
}

template <class T, class B>
void OnesMask<T, B>::apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                    const Context<B>& context) const {
  if (this->runs_by_tiles({.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)})) {
    return this->low_rank_by_tiles(in, out, transpose, context);
  }
  by_state({{in.a}, {in.b}, {in.x, static_cast<bool>(out.row_sum)}}, out.y, one_column(out.row_sum), transpose, context);
}

// The row sum's cotangent is one more feature of y_bar, and a one beside every x: then W_ij = [y_bar, r_bar]_i . [x, 1]_j and
//   a_bar = P(M; [y_bar, r_bar], [x, 1], b),  b_bar = P(Mᵀ; [x, 1], [y_bar, r_bar], a),  x_bar = P(Mᵀ; b, a, y_bar).
template <class T, class B>
void OnesMask<T, B>::apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                        const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  if (this->runs_by_tiles({.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)})) {
    return Mask<T, B>::apply_low_rank_vjp(in, cotangents, gradients, context);
  }
  const bool with_y = static_cast<bool>(cotangents.y), with_r = static_cast<bool>(cotangents.row_sum);
  const Augmented y_bar{cotangents.y, false, one_column(cotangents.row_sum)};
  const Augmented x{with_y ? in.x : MatrixView<const T, B>(), with_r};
  if (gradients.a) by_state({y_bar, x, {in.b}}, gradients.a, {}, false, context);
  if (gradients.b) by_state({x, y_bar, {in.a}}, gradients.b, {}, true, context);
  if (!gradients.x) return;
  if (with_y) {
    by_state({{in.b}, {in.a}, {cotangents.y}}, gradients.x, {}, true, context);
  } else {
    backend::fill(gradients.x, T(0), context);
  }
}

template <class T, class B>
std::vector<Report> OnesMask<T, B>::candidates(Shape shape) const {
  if constexpr (!backend::has_state_products<B>) return {this->tile_report(shape, "direct")};
  Report r;
  r.engine = "prefix";
  const CostModel& cost = this->options().cost;
  const auto length = static_cast<double>(this->rows() + this->cols()), heads = static_cast<double>(shape.heads);
  const auto m = static_cast<double>(shape.rank), c = static_cast<double>(shape.columns);
  r.bytes = sizeof(T) * heads * length * (shape.rank > 0 ? 2 * (m + c) : c);
  if (shape.rank == 0) {
    r.flops = heads * length * c;
    r.reason = causal_ ? "running sums of the rows" : "one sum of all rows";
    r.extra_bytes = backend::state_product_bytes(0, shape.columns, sizeof(T));
    r.predicted_seconds = heads * cost.call_seconds + r.bytes / cost.bandwidth;
  } else {
    // A chunk's own pairs, on average half of 64, beside the state.
    r.flops = heads * (2 * length * m * c + (causal_ ? 32.0 * length * (m + c) : 0));
    r.reason = "a state of " + std::to_string(shape.rank) + " x " + std::to_string(shape.columns) + " numbers instead of " +
               std::to_string(this->rows()) + " x " + std::to_string(this->cols()) + " pairs";
    r.extra_bytes = backend::state_product_bytes(shape.rank + 1, std::max(shape.columns, shape.rank) + 1, sizeof(T));
    // The register tile works on whole panels of columns, and a causal pass reads its keys twice.
    const double padded = static_cast<double>(backend::padded_width(shape.columns + 1));
    const double done = heads * length * ((causal_ ? 3 : 2) * m * padded + (causal_ ? 64 * (m + padded) : 0));
    r.predicted_seconds = 2 * heads * cost.call_seconds + done / cost.tile_flops * (sizeof(T) / 4.0);
  }
  r.rounding_estimate = std::numeric_limits<T>::epsilon() * 8;
  r.row_wise = true;
  return {r, this->tile_report(shape, "direct")};
}

template class ESPALIER_EXPORT OnesMask<float, CompiledBackend>;
template class ESPALIER_EXPORT OnesMask<double, CompiledBackend>;

}  // namespace espalier
