// Kernels of the gradients of the masked product in chunk-basis form, one chunk at a time; chunked_backward.cpp runs them.
// SPDX-License-Identifier: Apache-2.0
//
// With W_ij = y_bar_i . x_j + r_bar_i, each sweep carries two kinds of states over the chunks, [c + 1][m] each:
//   of sources   sum source(b) [x_b, 1] b_bᵀ              rows read them:     a_bar_i += sum_p row_p(i) [y_bar_i, r_bar_i] U_p
//   of rows      sum row(a) [y_bar_a, r_bar_a] a_aᵀ       sources read them:  b_bar_j += sum_p source_p(j) [x_j, 1] U_p,
//                                                                             x_bar_j += sum_p source_p(j) (U_p without its
//                                                                             last row) b_j
// the lower side's sources with the upper side's rows (both come from chunks below), and the other way round. The gradient by a
// parameter is <moments of the chunk's rows, states of sources read with the derivative's coefficients>; with derivatives on
// both sides the way up also has <moments of its sources, states of rows ..>, and the way down has none. Near tiles: a_bar by
// tiles of rows, b_bar and x_bar by tiles of sources, so that no task writes to another's chunk; the own chunk's tile serves
// all three.
#include "backend/chunked.hpp"
#include "backend/cpu/chunked_backward_call.hpp"

#include <algorithm>

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/chunked_vjp.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/chunk_derivatives-inl.hpp"
#include "backend/cpu/chunk_kernels-inl.hpp"
#include "backend/cpu/chunk_near_vjp-inl.hpp"
#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/packing-inl.hpp"
#include "backend/cpu/register_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Moments of one chunk, [basis][c + 1][m_pad]: sum_t weight_p(t) [value_t, last_t] factor_tᵀ. last empty: ones.
template <class T>
void pair_moments(const ChunkBackward<T>& call, Index chunk, Index basis, const T* weights, MatrixView<const T, Cpu> value,
                  VectorView<const T, Cpu> last, bool last_is_one, MatrixView<const T, Cpu> factor, bool upward, T* scratch,
                  T* moments) {
  const ChunkBackwardScratch<T> at({kPanel<T>, kRows}, call);
  const Index t0 = call.begin(chunk), n = call.rows(chunk);
  T* weighted = scratch + at.weighted;
  T* lasts = scratch + at.factor;
  if (last_is_one || !last) {
    std::fill_n(lasts, n, T(last_is_one ? 1 : 0));
  } else {
    copy_vector(last, t0, n, n, lasts);
  }
  const PlainRows<T> f = plain_rows(factor, t0, n, call.m_pad, scratch + at.plain_m);
  const PlainRows<T> v = value ? plain_rows(value, t0, n, call.c_pad, scratch + at.plain_c) : PlainRows<T>{};
  // A panel of columns stays in the first cache for all vectors of the basis. A chunk to come is asked for meanwhile: with near
  // tiles the next one that none has touched.
  const Index ahead = call.near ? call.mask->gap : 1, next = upward ? chunk + ahead : chunk - ahead;
  const Index parts = panels<T>(call.m_pad) * basis * (value ? tiles(call.c) : 1);
  RowsToCome<false, const T> next_factors(factor, call.begin(next), call.rows_or_none(next), parts);
  RowsToCome<false, const T> next_values(value, call.begin(next), call.rows_or_none(next), parts);
  const auto ask = [&] HWY_ATTR { next_factors.ask(), next_values.ask(); };
  over_panels<T>(call.m_pad, [&](Index column, auto vectors) HWY_ATTR {
    constexpr int V = vectors;
    for (Index p = 0; p < basis; ++p) {
      T* to = moments + p * call.step + column;
      scale_and_sum_rows<V>(n, weights + p * call.mask->chunk, lasts, f.data + column, f.step, weighted,
                            to + call.c * call.m_pad);
      if (value) {
        outer_panel<V>(n, v.data, v.step, call.c, weighted, kPanel<T>, to, call.m_pad, ask);
      } else {
        ask();
        for (Index k = 0; k < call.c; ++k) std::fill_n(to + k * call.m_pad, V * kLanes<T>, T(0));
      }
    }
  });
}

template <class T>
void source_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch,
                    T* moments) {
  pair_moments(call, chunk, basis, weights, call.x, {}, true, call.b, upward, scratch, moments);
}
// weights: [basis, C] of the rows.
template <class T>
void row_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch,
                 T* moments) {
  pair_moments(call, chunk, basis, weights, call.y_bar, call.r_bar, false, call.a, upward, scratch, moments);
}

// Where a gradient of one chunk is added up, rows of `width` elements: in the caller's own where plain_rows would take them,
// else in `memory`, a copy.
template <class T>
T* open_gradient(MatrixView<T, Cpu> to, Index first, Index n, Index width, T* memory, Index& step) {
  const PlainRows<T> rows = whole_rows(MatrixView<const T, Cpu>(to), first, n, width, memory);
  step = rows.step;
  T* y = rows.data == memory ? memory : to.row(first);
  return y;
}
template <class T>
void close_gradient(const T* y, Index step, Index first, Index n, MatrixView<T, Cpu> to) {
  for (Index i = 0; y != to.row(first) && i < n; ++i) std::copy_n(y + i * step, to.cols, to.row(first + i));
}

// One basis vector's sums of one chunk: product(kinds, sums) adds to sums [kKinds][lanes].
template <class T, class F>
void add_terms(TermGradients<T>& terms, bool upper, typename TermGradients<T>::Reader reader, Index chunk, Index p,
               const F& product) {
  constexpr Index kKinds = TermGradients<T>::kKinds;
  HWY_ALIGN T sums[kKinds * kLanes<T>] = {};
  product(terms.weights(upper, reader, p), sums);
  double* to = terms.sums(upper, reader, chunk) + p * kKinds;
  for (Index k = 0; k < kKinds; ++k) {
    for (Index l = 0; l < kLanes<T>; ++l) to[k] += static_cast<double>(sums[k * kLanes<T> + l]);
  }
}

// Everything that one chunk reads: source states (for its rows) and row states (for its sources); null: nothing far.
template <class T>
void chunk_reads(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, Index begin, Index chunk,
                 const T* source_reads, const T* row_reads, T* near_bar, T* scratch) {
  if (call.add && source_reads == nullptr && row_reads == nullptr) return;
  const ChunkBackwardScratch<T> at({kPanel<T>, kRows}, call);
  const Index t0 = call.begin(chunk), n = call.rows(chunk), m = call.m, c = call.c, size = call.mask->chunk;
  ChunkRows<T> own{};
  own.b = whole_rows(call.b, t0, n, call.m_pad, scratch + at.b);
  own.x = whole_rows(call.x, t0, n, call.c_pad, scratch + at.x);
  if (call.y_bar) own.y_bar = whole_rows(call.y_bar, t0, n, call.c_pad, scratch + at.y_bar);
  if (call.r_bar) copy_vector(call.r_bar, t0, n, size, scratch + at.r_bar), own.r_bar = scratch + at.r_bar;
  std::fill_n(scratch + at.ones, size, T(1));
  if (call.want_a) own.a_bar = open_gradient(call.a_bar, t0, n, call.m_pad, scratch + at.a_bar, own.a_step);
  if (call.want_b) own.b_bar = open_gradient(call.b_bar, t0, n, call.m_pad, scratch + at.b_bar, own.b_step);
  if (call.want_x) own.x_bar = open_gradient(call.x_bar, t0, n, call.c_pad, scratch + at.x_bar, own.x_step);
  if (call.near) {
    if (call.want_sources) near_sources(call, at, chunk, own, near_bar, scratch);
    if (call.want_a) near_rows(call, at, chunk, !call.want_sources, begin, own, scratch);
  }
  // The next chunk's gradients are asked for during the products that go to this one's.
  const Index next = sweep.sources.upward ? chunk + 1 : chunk - 1, coming = call.rows_or_none(next);
  const auto to_come = [&](MatrixView<T, Cpu> gradient, Index reads, Index width) {
    return RowsToCome<true, T>(gradient, call.begin(next), coming, reads * panels<T>(width) * tiles(n));
  };
  const Index source_count = sweep.sources.side->reads, row_count = sweep.rows.side->reads;
  RowsToCome<true, T> next_a = to_come(call.a_bar, source_count, call.m_pad);
  RowsToCome<true, T> next_b = to_come(call.b_bar, row_count, call.m_pad);
  RowsToCome<true, T> next_x = to_come(call.x_bar, row_count, call.c_pad);
  const auto ask_a = [&] HWY_ATTR { next_a.ask(); };
  const auto ask_b = [&] HWY_ATTR { next_b.ask(); };
  const auto ask_x = [&] HWY_ATTR { next_x.ask(); };
  const bool upper = !sweep.sources.upward;
  using Terms = TermGradients<T>;
  const bool row_terms = call.terms != nullptr && source_reads != nullptr && call.terms->wanted(upper);
  const bool source_terms = call.terms != nullptr && row_reads != nullptr && call.terms->wanted(!upper);
  PlainRows<T> own_a{};
  if (row_terms) own_a = whole_rows(call.a, t0, n, call.m_pad, scratch + at.a);
  if (row_terms && !call.r_bar) std::fill_n(scratch + at.r_bar, size, T(0));
  for (Index p = 0; call.want_a && source_reads != nullptr && p < sweep.sources.side->reads; ++p) {
    const T* states = source_reads + p * call.step;
    const T* weight = sweep.sources.side->row.data() + p * size;
    // Without y_bar only the states' last row counts.
    const Index depth = call.y_bar ? c : 0;
    if (row_terms) {
      add_terms<T>(*call.terms, upper, Terms::kRows, chunk, p, [&](const T* kinds, T* sums) {
        add_met_row_products(depth, own.y_bar, n, weight, scratch + at.r_bar, call.y_bar ? states : states + c * call.m_pad,
                             call.m_pad, call.m_pad, own.a_bar, own.a_step, own_a, kinds, call.terms->stride(), sums, ask_a);
      });
      continue;
    }
    add_row_products(depth, own.y_bar, n, weight, own.r_bar, call.y_bar ? states : states + c * call.m_pad, call.m_pad,
                     call.m_pad, own.a_bar, own.a_step, ask_a);
  }
  for (Index p = 0; call.want_sources && row_reads != nullptr && p < sweep.rows.side->reads; ++p) {
    const T* weight = sweep.rows.side->row.data() + p * size;
    const T* states = row_reads + p * call.step;
    if (source_terms) {
      add_terms<T>(*call.terms, !upper, Terms::kSources, chunk, p, [&](const T* kinds, T* sums) {
        add_met_row_products(c, own.x, n, weight, scratch + at.ones, states, call.m_pad, call.m_pad, own.b_bar, own.b_step,
                             own.b, kinds, call.terms->stride(), sums, ask_b);
      });
    } else if (call.want_b) {
      add_row_products(c, own.x, n, weight, scratch + at.ones, states, call.m_pad, call.m_pad, own.b_bar, own.b_step, ask_b);
    }
    if (call.want_x) {
      transpose(states, call.m_pad, c, m, scratch + at.turned, call.c_pad);
      add_row_products<T>(m, own.b, n, weight, nullptr, scratch + at.turned, call.c_pad, call.c_pad, own.x_bar, own.x_step,
                          ask_x);
    }
  }
  if (call.want_a) close_gradient(own.a_bar, own.a_step, t0, n, call.a_bar);
  if (call.want_b) close_gradient(own.b_bar, own.b_step, t0, n, call.b_bar);
  if (call.want_x) close_gradient(own.x_bar, own.x_step, t0, n, call.x_bar);
}

#define ESPALIER_KERNELS(T, name)                                                                                            \
  void source_moments_##name(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward,          \
                             T* scratch, T* moments) {                                                                       \
    source_moments(call, weights, basis, chunk, upward, scratch, moments);                                                   \
  }                                                                                                                          \
  void row_moments_##name(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch, \
                          T* moments) {                                                                                      \
    row_moments(call, weights, basis, chunk, upward, scratch, moments);                                                      \
  }                                                                                                                          \
  void state_dots_##name(Index basis, Index states, Index step, Index from, Index to, const T* moments, const T* state,      \
                         T* out) {                                                                                           \
    state_dots(basis, states, step, from, to, moments, state, out);                                                          \
  }                                                                                                                          \
  void chunk_reads_##name(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, Index begin, Index chunk,        \
                          const T* source_reads, const T* row_reads, T* near_bar, T* scratch) {                              \
    chunk_reads(call, sweep, begin, chunk, source_reads, row_reads, near_bar, scratch);                                      \
  }
ESPALIER_KERNELS(float, float)
ESPALIER_KERNELS(double, double)
#undef ESPALIER_KERNELS

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

#define ESPALIER_KERNELS(T, name)                                                                                            \
  HWY_EXPORT(source_moments_##name);                                                                                         \
  HWY_EXPORT(row_moments_##name);                                                                                            \
  HWY_EXPORT(state_dots_##name);                                                                                             \
  HWY_EXPORT(chunk_reads_##name);                                                                                            \
  template <>                                                                                                                \
  void run_source_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch, \
                          T* moments) {                                                                                      \
    ESPALIER_DISPATCH(source_moments_##name)(call, weights, basis, chunk, upward, scratch, moments);                         \
  }                                                                                                                          \
  template <>                                                                                                                \
  void run_row_moments(const ChunkBackward<T>& call, const T* weights, Index basis, Index chunk, bool upward, T* scratch,    \
                       T* moments) {                                                                                         \
    ESPALIER_DISPATCH(row_moments_##name)(call, weights, basis, chunk, upward, scratch, moments);                            \
  }                                                                                                                          \
  template <>                                                                                                                \
  void run_reads(const ChunkBackward<T>& call, const ChunkBackwardSweep<T>& sweep, Index begin, Index chunk,                 \
                 const T* source_reads, const T* row_reads, T* near_bar, T* scratch) {                                       \
    ESPALIER_DISPATCH(chunk_reads_##name)(call, sweep, begin, chunk, source_reads, row_reads, near_bar, scratch);            \
  }
ESPALIER_KERNELS(float, float)
ESPALIER_KERNELS(double, double)
#undef ESPALIER_KERNELS

// Instantiated, not specialised: g++ gives explicit specialisations default visibility unless a hidden type is among their
// arguments, as above.
template <class T>
void run_state_dots(Index basis, Index states, Index step, Index from, Index to, const T* moments, const T* state, T* out) {
  if constexpr (sizeof(T) == sizeof(float)) {
    ESPALIER_DISPATCH(state_dots_float)(basis, states, step, from, to, moments, state, out);
  } else {
    ESPALIER_DISPATCH(state_dots_double)(basis, states, step, from, to, moments, state, out);
  }
}
template void run_state_dots(Index, Index, Index, Index, Index, const float*, const float*, float*);
template void run_state_dots(Index, Index, Index, Index, Index, const double*, const double*, double*);

}  // namespace espalier::backend
#endif  // HWY_ONCE
