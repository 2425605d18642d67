// Piecewise constant masks on the host: runs of equal values, which chunk, reports.
// SPDX-License-Identifier: Apache-2.0
#include "masks/piecewise.hpp"

#include <espalier/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "backend/tiles.hpp"
#include "masks/chunk_columns.hpp"
#include "masks/chunk_cost.hpp"

namespace espalier {

namespace {

// The chunk is chosen for this size; others keep the order nearly everywhere.
constexpr Index kReferenceWidth = 64;
// More pieces a side are refused: at a piece for every four tokens nearly all tiles are exact, unless they lie close together.
// Where no engine is forced many are not looked at: they take long to lay out.
constexpr Index kMostLooked = 1024;
Index most_pieces(Index length) {
  return 16 + length / 4;
}

template <class T>
using Windows = std::vector<backend::ChunkWindow<T>>;

// Single tokens.
template <class T>
Windows<T> token_windows(const std::vector<PieceRun>& runs, Index length) {
  Windows<T> windows;
  for (std::size_t k = 0; k < runs.size(); ++k) {
    const auto weight = static_cast<T>(runs[k].value);
    const bool last = k + 1 == runs.size();
    if (weight != 0 && runs[k].begin < length) {
      windows.push_back({runs[k].begin, last ? backend::kOpenWindow : runs[k + 1].begin - 1, weight, 0});
    }
  }
  return windows;
}

// One side in chunks: exact tiles by distance in chunks, and windows between them. all: those of weight 0 too.
template <class T>
struct ChunkedPieces {
  std::vector<Index> exact;
  backend::ChunkSide<T> side;

  ChunkedPieces(const std::vector<PieceRun>& runs, Index length, Index chunk, bool all) {
    const Index chunks = (length + chunk - 1) / chunk;
    Index next = 1;  // the nearest chunk not yet placed
    const auto constant_until = [&](Index end, const PieceRun& run) {
      if (next >= end) return;
      const auto weight = static_cast<T>(run.value);
      if (all || weight != 0) {
        side.windows.push_back({next, end == chunks ? backend::kOpenWindow : end - 1, weight, run.parameter});
      }
      next = end;
    };
    for (std::size_t k = 1; k < runs.size(); ++k) {
      // The value changes from distance d - 1 to d; chunks n apart have distances (n - 1) chunk + 1 .. (n + 1) chunk - 1.
      const Index d = runs[k].begin, first = d / chunk, last = std::min((d + chunk - 2) / chunk, chunks - 1);
      constant_until(std::min(first, chunks), runs[k - 1]);
      for (next = std::max(next, first); next <= last; ++next) exact.push_back(next);
    }
    if (!runs.empty()) constant_until(chunks, runs.back());
    if (side.windows.empty()) return;
    side.basis = side.reads = 1;
    side.row.assign(static_cast<std::size_t>(chunk), T(1));
    side.source = side.row;
  }
};

double value_at(const PieceRuns& m, Index offset) {
  const std::vector<PieceRun>& runs = offset >= 0 ? m.lower : m.upper;
  const Index d = offset >= 0 ? offset : -offset;
  if (d >= m.length || runs.empty() || d < runs.front().begin) return 0;
  const auto after = std::upper_bound(runs.begin(), runs.end(), d, [](Index x, const PieceRun& r) { return x < r.begin; });
  return (after - 1)->value;
}

template <class T>
backend::ChunkedToeplitz<T> chunked_pieces(const PieceRuns& m, Index chunk, bool all) {
  backend::ChunkedToeplitz<T> product;
  product.length = m.length;
  product.chunk = chunk;
  // The diagonal is in the lower side's runs; a lower side that is 0 beyond it has no tiles and no windows there.
  product.has_lower = all || m.lower.size() > 1 || (!m.lower.empty() && m.lower.front().value != 0);
  product.has_upper = !m.upper.empty();
  ChunkedPieces<T> lower(m.lower, m.length, chunk, all), upper(m.upper, m.length, chunk, all);
  const auto add_tile = [&](Index n) {
    for (Index o = 1 - chunk; o < chunk; ++o) product.near.push_back(static_cast<T>(value_at(m, n * chunk + o)));
  };
  add_tile(0);
  for (const Index n : lower.exact) product.exact.push_back(n);
  for (const Index n : upper.exact) product.exact.push_back(-n);
  for (const Index n : product.exact) add_tile(n);
  product.lower = std::move(lower.side);
  product.upper = std::move(upper.side);
  return product;
}

// What a product does by part: tiles and moments in flops, steps of windows in elements.
struct PieceWork {
  double flops = 0, window_steps = 0;
};

template <class T>
PieceWork work_of(const backend::ChunkedToeplitz<T>& p, double m, double c) {
  PieceWork work;
  const double length = static_cast<double>(p.length), chunks = std::ceil(length / static_cast<double>(p.chunk));
  const double size = length / std::max(1.0, chunks);
  double pairs = chunks;
  for (const Index n : p.exact) pairs += std::max(0.0, chunks - std::abs(static_cast<double>(n)));
  work.flops = 2 * pairs * size * size * (m + c);
  for (const auto* side : {&p.lower, &p.upper}) {
    if (side->windows.empty()) continue;
    work.flops += 4 * length * m * c;
    for (const auto& w : side->windows) work.window_steps += std::max(0.0, chunks - static_cast<double>(w.first)) * m * c;
  }
  return work;
}

}  // namespace

template <class T>
Index PiecewiseEngine<T>::parameter(Index offset) const {
  const bool sign = source_.distance == Distance::offset;
  const auto x = static_cast<double>(sign || offset >= 0 ? offset : -offset);
  const auto pieces = source_.function->constant_pieces();
  return std::upper_bound(pieces->breakpoints.begin(), pieces->breakpoints.end(), x) - pieces->breakpoints.begin();
}

template <class T>
PieceRuns PiecewiseEngine<T>::runs(bool by_parameter, Index most) const {
  PieceRuns m;
  const std::vector<double>& table = source_.table;
  m.length = (static_cast<Index>(table.size()) + 1) / 2;
  for (const bool lower : {true, false}) {
    std::vector<PieceRun>& runs = lower ? m.lower : m.upper;
    if (!lower && source_.causal) break;
    for (Index d = lower ? 0 : 1; d < m.length && static_cast<Index>(runs.size()) <= most; ++d) {
      const Index offset = lower ? d : -d;
      const double value = table[static_cast<std::size_t>(m.length - 1 + offset)];
      const Index p = by_parameter ? parameter(offset) : 0;
      if (runs.empty() || (by_parameter ? runs.back().parameter != p : runs.back().value != value)) {
        runs.push_back({d, value, p});
      }
    }
  }
  if (!by_parameter && m.upper.size() == 1 && m.upper.front().value == 0) m.upper.clear();
  return m;
}

template <class T>
const typename PiecewiseEngine<T>::Form& PiecewiseEngine<T>::form() const {
  std::call_once(form_once_, [&] {
    const Index length = (static_cast<Index>(source_.table.size()) + 1) / 2;
    const Index most = options_.engine == "piecewise" ? most_pieces(length) : std::min(most_pieces(length), kMostLooked);
    const PieceRuns m = runs(false, most);
    form_.pieces = static_cast<Index>(m.lower.size() + m.upper.size());
    if (static_cast<Index>(std::max(m.lower.size(), m.upper.size())) > most) {
      form_.reason = "more than " + std::to_string(most) + " pieces on one side of " + std::to_string(length) + " tokens";
      return;
    }
    form_.plain = {m.length, token_windows<T>(m.lower, m.length), token_windows<T>(m.upper, m.length)};
    double best = std::numeric_limits<double>::infinity();
    // Not by the caller's speeds: what a forced engine computes does not depend on them.
    const CostModel cost = backend::cost_model<Cpu>();
    for (const Index chunk : {64, 32, 128}) {
      backend::ChunkedToeplitz<T> product = chunked_pieces<T>(m, chunk, false);
      const double seconds = chunked_seconds(product, {.columns = kReferenceWidth, .rank = kReferenceWidth}, cost);
      if (seconds >= best) continue;
      best = seconds;
      form_.product = std::move(product);
    }
  });
  return form_;
}

template <class T>
const backend::ChunkedToeplitz<T>& PiecewiseEngine<T>::learning() const {
  std::call_once(learning_once_, [&] {
    learning_ = chunked_pieces<T>(runs(true, static_cast<Index>(source_.table.size())), form().product.chunk, true);
  });
  return learning_;
}

template <class T>
Report PiecewiseEngine<T>::report(const Form& form, Shape shape) const {
  const bool plain = shape.rank == 0;
  const double m = static_cast<double>(shape.rank), c = static_cast<double>(shape.columns), element = sizeof(T);
  const double heads = static_cast<double>(shape.heads), length = static_cast<double>(form.product.length);
  Report r;
  r.engine = "piecewise";
  r.terms = form.pieces;
  r.row_wise = true;
  r.rounding_estimate = std::numeric_limits<T>::epsilon() * 8;
  std::ostringstream reason;
  reason << form.pieces << (form.pieces == 1 ? " piece: " : " pieces: ");
  double sweeps = 1;
  if (plain) {
    double window_steps = 0;
    for (const auto* side : {&form.plain.lower, &form.plain.upper}) {
      for (const auto& w : *side) window_steps += length - static_cast<double>(w.first);
    }
    if (!form.plain.upper.empty()) sweeps = 2;
    r.flops = heads * 5 * window_steps * c;
    r.predicted_seconds = heads * sliding_seconds(form.plain, shape.columns, options_.cost);
    r.extra_bytes = backend::sliding_bytes(form.plain, shape.columns);
    reason << form.plain.lower.size() + form.plain.upper.size() << " sums over windows of tokens";
  } else {
    const PieceWork parts = work_of(form.product, m, c);
    if (!form.product.upper.windows.empty()) sweeps = 2;
    r.flops = heads * (parts.flops + 5 * parts.window_steps);
    r.predicted_seconds = chunked_seconds(form.product, shape, options_.cost);
    r.extra_bytes = backend::chunked_bytes(form.product, shape.rank, shape.columns);
    reason << form.product.exact.size() + 1 << " exact tiles a chunk of " << form.product.chunk << " tokens, sums over "
           << form.product.lower.windows.size() + form.product.upper.windows.size() << " windows of chunks";
  }
  r.reason = reason.str();
  r.bytes = heads * element * length * (sweeps * (2 * m + 2 * c) + (sweeps - 1) * c);
  // Tables of the product, of its transpose and of gradients; runs.
  r.extra_bytes += 8 * form.product.near.size() * sizeof(double) +
                   static_cast<std::size_t>(form.pieces) * (sizeof(PieceRun) + 4 * sizeof(backend::ChunkWindow<T>)) + 8192;
  return r;
}

template <class T>
void PiecewiseEngine<T>::add_candidates(Shape shape, double, std::vector<Report>& all, const SetUpWatch&) const {
  const bool forced = options_.engine == "piecewise";
  if (!forced && options_.engine != "auto") return;
  const Form& f = form();
  if (!f.reason.empty()) {
    if (forced) throw ValueError("engine 'piecewise' cannot serve this mask: " + f.reason);
    return;
  }
  all.push_back(report(f, shape));
}

template <class T>
std::unique_ptr<const GridEngine<T>> PiecewiseEngine<T>::with_source(const GridSource& source) const {
  return std::make_unique<PiecewiseEngine<T>>(source, options_);
}

template <class T>
void PiecewiseEngine<T>::multiply(const std::string&, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                                  const Context<Cpu>& context) const {
  const backend::SlidingToeplitz<T>& m = form().plain;
  if (!transpose) return backend::sliding_multiply<T, Cpu>(m, x, y, context);
  // The diagonal goes with the lower side.
  backend::SlidingToeplitz<T> turned{m.length, m.upper, m.lower};
  if (!turned.upper.empty() && turned.upper.front().first == 0) {
    backend::ChunkWindow<T>& near = turned.upper.front();
    turned.lower.insert(turned.lower.begin(), {0, 0, near.weight, 0});
    near.first = 1;
    if (near.last == 0) turned.upper.erase(turned.upper.begin());
  }
  backend::sliding_multiply<T, Cpu>(turned, x, y, context);
}

template <class T>
void PiecewiseEngine<T>::multiply_low_rank(const std::string&, const LowRankInputs<T, Cpu>& in,
                                           const LowRankOutputs<T, Cpu>& out, bool transpose,
                                           const Context<Cpu>& context) const {
  const backend::ChunkedToeplitz<T>& product = form().product;
  if (transpose) return backend::chunked_low_rank<T, Cpu>(backend::transposed(product), in, out, context);
  backend::chunked_low_rank<T, Cpu>(product, in, out, context);
}

template <class T>
bool PiecewiseEngine<T>::multiply_low_rank_vjp(const std::string&, const LowRankInputs<T, Cpu>& in,
                                               const LowRankCotangents<T, Cpu>& cotangents,
                                               const LowRankGradients<T, Cpu>& gradients, bool learn,
                                               std::vector<double>& parameter_bar, const Context<Cpu>& context) const {
  if (!learn || !source_.function || !source_.function->constant_pieces()) {
    chunked_vjp_by_columns<T>(form().product, nullptr, in, cotangents, gradients, nullptr, context);
    return false;
  }
  const backend::ChunkedToeplitz<T>& l = learning();
  backend::ChunkedParameterGradient bar;
  bar.near.assign(l.near.size(), 0.0);
  bar.far.assign(parameter_bar.size(), 0.0);
  chunked_vjp_by_columns<T>(l, &l, in, cotangents, gradients, &bar, context);
  for (std::size_t p = 0; p < bar.far.size(); ++p) parameter_bar[p] += bar.far[p];
  const Index tile = 2 * l.chunk - 1;
  for (std::size_t k = 0; k < l.near.size(); ++k) {
    const Index number = static_cast<Index>(k) / tile, n = number == 0 ? 0 : l.exact[static_cast<std::size_t>(number - 1)];
    const Index offset = n * l.chunk + static_cast<Index>(k) % tile - (l.chunk - 1);
    if (offset <= -l.length || offset >= l.length || (offset < 0 && source_.causal)) continue;
    parameter_bar[static_cast<std::size_t>(parameter(offset))] += bar.near[k];
  }
  return true;
}

template class PiecewiseEngine<float>;
template class PiecewiseEngine<double>;

}  // namespace espalier
