// GridMask: engines and hooks. The structure (keys, plans) is shared by all masks that with_parameters makes.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/grid.hpp>

#include "backend/elementwise.hpp"
#include "backend/fft.hpp"
#include "backend/seen.hpp"
#include "backend/transfers.hpp"
#include "core/compiled_backend.hpp"
#include "masks/grid_cost.hpp"
#include "masks/grid_engines.hpp"
#include "masks/grid_table.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <mutex>
#include <optional>
#include <sstream>
#include <type_traits>

namespace espalier {

namespace {

// What the first product of a kind makes, on its context's stream; products on other streams wait for it there.
template <class B, class V>
class FirstNeed {
 public:
  template <class F>
  const V& get(const Context<B>& context, const F& make) {
    std::call_once(once_, [&] {
      value_ = std::make_unique<const V>(make());
      made_.record(context);
    });
    made_.wait(context);
    return *value_;
  }

 private:
  std::once_flag once_;
  std::unique_ptr<const V> value_;
  backend::Mark<B> made_;
};

}  // namespace

template <class T, class B>
class GridMask<T, B>::State {
 public:
  State(std::vector<Index> grid_sizes, std::optional<Distance> grid_distance, const GridOptions& options)
      : sizes(std::move(grid_sizes)), distance(grid_distance), causal(options.causal), measure(options.measure_fft) {
    const GridKeys keys = grid_keys(sizes);
    length = static_cast<Index>(keys.row.size());
    table_size = grid_table_size(sizes);
    row_key = backend::uploaded<std::int32_t, B>(keys.row);
    col_key = backend::uploaded<std::int32_t, B>(keys.column);
  }
  // Plans are made by the first product that needs them.
  const backend::ToeplitzFft<T, B>& fft() const {
    std::call_once(once_, [&] { fft_ = std::make_unique<backend::ToeplitzFft<T, B>>(sizes, measure); });
    return *fft_;
  }
  const GridClasses& classes() const {
    std::call_once(classes_once_, [&] { classes_ = grid_classes(sizes, *distance, causal); });
    return classes_;
  }
  const backend::PlacedRows<B>& class_rows(const Context<B>& context) const {
    return class_rows_.get(context, [&] { return backend::PlacedRows<B>(classes().offsets, context); });
  }

  // Engines under which zeros of the mask are sums that cancel. On one axis only FFT: the others leave out what is 0.
  bool zeros_cancel(const std::string& engine) const {
    return engine == "fft" || std::count_if(sizes.begin(), sizes.end(), [](Index n) { return n > 1; }) > 1;
  }

  std::vector<Index> sizes;
  std::optional<Distance> distance;  // empty: a free table
  bool causal, measure;
  Index length = 0, table_size = 0;
  backend::Buffer<std::int32_t, B> row_key, col_key;

 private:
  mutable std::once_flag once_, classes_once_;
  mutable std::unique_ptr<const backend::ToeplitzFft<T, B>> fft_;
  mutable GridClasses classes_;
  mutable FirstNeed<B, backend::PlacedRows<B>> class_rows_;
};

// What with_parameters replaces.
template <class T, class B>
struct GridMask<T, B>::Values {
  Values(const State& state, std::span<const double> free_table) : table(free_table.begin(), free_table.end()), given(table) {
    check_grid_table(table, std::numeric_limits<T>::max());
    finish(state);
  }
  Values(const State& state, DistanceFunction f)
      : table(grid_function_table(state.sizes, f, *state.distance, state.causal)), function(std::move(f)) {
    check_grid_table(table, std::numeric_limits<T>::max());
    finish(state);
  }
  void finish(const State& state) {
    finish_grid_table(state.causal, table);
    has_zeros = std::find(table.begin(), table.end(), 0.0) != table.end();
    applied = backend::uploaded<T, B>(table);
  }
  // The engines of the host; `before`: those of the mask that this one is a parameter step from.
  void make_engines(const State& state, const MaskOptions& options, double tolerance, const Values* before = nullptr) {
    if constexpr (std::is_same_v<B, Cpu>) {
      const GridSource source{state.sizes, state.distance, state.causal, table, function};
      if (!in_range_of_engines<T>(source)) return;
      if (before == nullptr || before->engines.empty()) {
        engines = grid_engines<T>(source, options, tolerance);
      } else {
        for (const auto& engine : before->engines) engines.push_back(engine->with_source(source));
      }
    }
  }
  const GridEngine<T>* engine(const std::string& name) const {
    for (const auto& e : engines) {
      if (e->serves(name)) return e.get();
    }
    return nullptr;
  }
  std::span<const double> parameters() const { return function ? function->parameters() : std::span<const double>(given); }
  const T* spectrum(const State& state, const Context<B>& context) {
    return frequencies.get(context, [&] { return state.fft().spectrum(table.data(), context); }).data();
  }
  const backend::PlacedSeen<B>& seen(const State& state, const Context<B>& context) {
    return seen_offsets.get(context, [&] {
      offsets_seen = grid_seen_offsets(state.sizes, table);
      return backend::PlacedSeen<B>(offsets_seen, context);
    });
  }
  // Sums over the distances' classes to the function's parameters.
  const backend::PlacedRows<B>& parameter_rows(const State& state, const Context<B>& context) {
    return derivatives.get(context, [&] {
      derivative_rows = grid_parameter_rows(state.classes(), *function);
      return backend::PlacedRows<B>(derivative_rows, context);
    });
  }

  // The largest |M| over the smallest that kind pointwise counts.
  double entry_range() const {
    std::call_once(range_once_, [&] {
      double largest = 0, smallest = 0;
      for (const double v : table) largest = std::max(largest, std::abs(v));
      smallest = largest;
      for (const double v : table) {
        if (std::abs(v) >= 1e-7 * largest) smallest = std::min(smallest, std::abs(v));
      }
      if (smallest > 0) range_ = largest / smallest;
    });
    return range_;
  }

  std::vector<double> table;  // as applied
  std::vector<double> given;  // a free table before zeroing: the parameters
  std::optional<DistanceFunction> function;
  backend::Buffer<T, B> applied;
  FirstNeed<B, backend::Buffer<T, B>> frequencies;
  bool has_zeros = false;
  backend::SeenOffsets offsets_seen;
  FirstNeed<B, backend::PlacedSeen<B>> seen_offsets;
  backend::SumRows derivative_rows;
  FirstNeed<B, backend::PlacedRows<B>> derivatives;
  std::vector<std::unique_ptr<const GridEngine<T>>> engines;  // beside tiles and FFT

 private:
  mutable std::once_flag range_once_;
  mutable double range_ = 1;
};

namespace {

void check_table_size(const std::vector<Index>& sizes, std::size_t got) {
  if (static_cast<Index>(got) != grid_table_size(sizes)) {
    throw ShapeError("GridMask table", static_cast<Index>(got), grid_table_size(sizes));
  }
}

}  // namespace

template <class T, class B>
GridMask<T, B>::GridMask(std::vector<Index> sizes, DistanceFunction function, Distance distance, GridOptions options)
    : Mask<T, B>(grid_length(sizes), grid_length(sizes), options) {
  state_ = std::make_shared<State>(std::move(sizes), distance, options);
  values_ = std::make_shared<Values>(*state_, std::move(function));
  values_->make_engines(*state_, this->options(), this->tolerance());
}
template <class T, class B>
GridMask<T, B>::GridMask(std::vector<Index> sizes, std::span<const double> table, GridOptions options)
    : Mask<T, B>(grid_length(sizes), grid_length(sizes), options) {
  check_table_size(sizes, table.size());
  state_ = std::make_shared<State>(std::move(sizes), std::nullopt, options);
  values_ = std::make_shared<Values>(*state_, table);
  values_->make_engines(*state_, this->options(), this->tolerance());
}
template <class T, class B>
GridMask<T, B>::GridMask(std::shared_ptr<const State> state, std::shared_ptr<Values> values, const MaskOptions& options)
    : Mask<T, B>(state->length, state->length, options), state_(std::move(state)), values_(std::move(values)) {}
template <class T, class B>
GridMask<T, B>::~GridMask() = default;

template <class T, class B>
const std::vector<Index>& GridMask<T, B>::sizes() const {
  return state_->sizes;
}
template <class T, class B>
std::vector<double> GridMask<T, B>::table() const {
  return values_->table;
}

// ---- entries and parameters ------------------------------------------------------------------------------------------

template <class T, class B>
Entries<T, B> GridMask<T, B>::entries() const {
  Entries<T, B> e;
  e.kind = EntryKind::offset_table;
  // The table holds the zeros already; said again, so that kernels may skip tiles above the diagonal.
  e.causal = state_->causal;
  e.rows = e.cols = state_->length;
  e.table = values_->applied.data();
  e.table_size = state_->table_size;
  e.row_key = state_->row_key.data();
  e.col_key = state_->col_key.data();
  return e;
}
template <class T, class B>
Index GridMask<T, B>::entries_gradient_size() const {
  return parameters().empty() ? 0 : state_->table_size;
}
template <class T, class B>
EntriesGradient<T, B> GridMask<T, B>::entries_gradient(T* scratch) const {
  EntriesGradient<T, B> g;
  if (!parameters().empty()) g.table = scratch;
  return g;
}
template <class T, class B>
void GridMask<T, B>::fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>& context) const {
  if (parameter_bar.size == 0) return;
  if (!state_->distance) {
    // Offsets that causality has zeroed: the mask does not depend on them.
    const Index first = state_->causal ? state_->table_size / 2 : 0, count = parameter_bar.size - first;
    backend::add_scaled<T, B>(T(1), MatrixView<const T, B>(scratch + first, 1, count),
                              MatrixView<T, B>(parameter_bar.data + first, 1, count), context);
    return;
  }
  // df/dp is the same for all offsets of one distance: their gradients are summed first.
  const auto& classes = state_->class_rows(context);
  backend::Buffer<double, B> sums(classes.rows, context);
  backend::sum_rows(classes, scratch, sums.data(), false, context);
  backend::sum_rows(values_->parameter_rows(*state_, context), sums.data(), parameter_bar.data, true, context);
}
template <class T, class B>
std::span<const double> GridMask<T, B>::parameters() const {
  return values_->parameters();
}
template <class T, class B>
std::shared_ptr<const Mask<T, B>> GridMask<T, B>::with_parameters(std::span<const double> parameters) const {
  std::shared_ptr<Values> values;
  if (state_->distance) {
    values = std::make_shared<Values>(*state_, values_->function->with_parameters(parameters));
  } else {
    check_table_size(state_->sizes, parameters.size());
    values = std::make_shared<Values>(*state_, parameters);
  }
  values->make_engines(*state_, this->options(), this->tolerance(), values_.get());
  return std::shared_ptr<const Mask<T, B>>(new GridMask(state_, std::move(values), this->options()));
}

// ---- engines ---------------------------------------------------------------------------------------------------------

template <class T, class B>
std::vector<Report> GridMask<T, B>::candidates(Shape shape) const {
  return watched_candidates(shape, nullptr);
}

template <class T, class B>
void GridMask<T, B>::set_up(Shape shape, const Context<B>& context) const {
  if (context.progress != nullptr && !values_->engines.empty()) (void)watched_candidates(shape, context.progress);
}

template <class T, class B>
std::vector<Report> GridMask<T, B>::watched_candidates(Shape shape, const Progress* progress) const {
  std::vector<Report> all = {this->tile_report(shape, "direct")};
  if constexpr (std::is_same_v<B, Cpu>) {
    all.front().predicted_seconds = tile_seconds(state_->sizes, state_->causal, shape, sizeof(T), this->options().cost);
  }
  if (backend::has_fft<B>(state_->sizes)) all.push_back(fft_report(shape));
  for (const auto& engine : values_->engines) {
    double best = all.front().predicted_seconds;
    for (const Report& r : all) best = std::min(best, r.predicted_seconds);
    engine->add_candidates(shape, best, all, SetUpWatch(progress));
  }
  for (Report& r : all) {
    if (shape.rank == 0 || r.engine == "direct" || !values_->has_zeros || !state_->zeros_cancel(r.engine)) continue;
    // Runs of the table are at least an offset apart; sorted as pairs in a growing list, kept on the host and in the backend.
    const std::size_t runs = static_cast<std::size_t>(state_->table_size / 2 + 1);
    r.extra_bytes += backend::clear_unseen_bytes(state_->length, shape.rank) +
                     runs * (8 * sizeof(Index) + 2 * sizeof(std::int32_t) * (state_->sizes.size() + 1));
  }
  return all;
}

template <class T, class B>
Report GridMask<T, B>::fft_report(Shape shape) const {
  const std::vector<Index>& sizes = state_->sizes;
  const CostModel& cost = this->options().cost;
  const double heads = static_cast<double>(shape.heads), rank = static_cast<double>(std::max<Index>(1, shape.rank));
  const double points = backend::toeplitz_fft_points(sizes), element = sizeof(T);
  Report r;
  r.engine = "fft";
  const auto columns = static_cast<double>(shape.columns);
  const bool pruned = std::is_same_v<B, Cpu>;
  r.flops = heads * rank *
            (pruned ? backend::toeplitz_fft_pruned_flops(sizes, columns) : backend::toeplitz_fft_flops(sizes, columns));
  r.bytes = heads * element * static_cast<double>(state_->length) *
            (2 * static_cast<double>(shape.columns) + 2 * static_cast<double>(shape.rank));
  if constexpr (std::is_same_v<B, Cpu>) {
    r.predicted_seconds = fft_seconds(sizes, shape, sizeof(T), cost);
  } else {
    // cuFFT is half as fast on lengths with factors 3, 5 and 7; an array past the caches is turned around in memory.
    const bool even = std::has_single_bit(static_cast<std::uint64_t>(points));
    r.predicted_seconds = heads * cost.call_seconds + r.flops / (cost.fft_flops / (element / sizeof(float)) / (even ? 1 : 2));
    constexpr double kCached = 4.0 * (1 << 20);
    const double array = 2 * element * points;
    const bool several = std::count_if(sizes.begin(), sizes.end(), [](Index n) { return n > 1; }) > 1;
    if (several && array > kCached) {
      r.predicted_seconds += heads * rank * std::ceil(columns / 2) * 8 * array / cost.bandwidth;
    }
  }
  std::ostringstream reason;
  reason << (shape.rank > 0 ? static_cast<double>(shape.rank * shape.columns) : static_cast<double>(shape.columns))
         << " columns by FFT, two at a time, padded to " << points << " points";
  r.reason = reason.str();
  r.extra_bytes = backend::toeplitz_fft_bytes<B>(sizes, shape.columns, shape.rank, sizeof(T));
  r.rounding_estimate = std::numeric_limits<T>::epsilon() * std::sqrt(std::log2(std::max(2.0, points)));
  // Rounding is spread over all rows alike: a small entry has that of the largest one. Four standard deviations, as elsewhere.
  if (this->options().tolerance_kind == ToleranceKind::pointwise) r.rounding_estimate *= 4 * values_->entry_range();
  return r;
}

template <class T, class B>
void GridMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const {
  set_up({.columns = x.cols}, context);
  if (this->runs_by_tiles({.columns = x.cols})) return this->apply_by_tiles(x, y, transpose, context);
  const std::string engine = this->report({.columns = x.cols}).engine;
  if (engine == "fft") return state_->fft().multiply(values_->spectrum(*state_, context), x, y, transpose, context);
  if constexpr (std::is_same_v<B, Cpu>) values_->engine(engine)->multiply(engine, x, y, transpose, context);
}

// The table's gradient where the product itself runs on another engine: by FFT, or by tiles without one.
template <class T, class B>
void GridMask<T, B>::add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                            VectorView<T, B> parameter_bar, const Context<B>& context) const {
  if (parameters().empty()) return;
  set_up({.columns = x.cols}, context);
  if (this->runs_by_tiles({.columns = x.cols}) || !backend::has_fft<B>(state_->sizes)) {
    Mask<T, B>::add_parameter_gradient(x, y_bar, parameter_bar, context);
    return;
  }
  backend::Buffer<T, B> table_bar(state_->table_size, context);
  backend::fill(table_bar.matrix(1, state_->table_size), T(0), context);
  state_->fft().add_table_gradient(x, y_bar, table_bar.data(), context);
  fold_entries_gradient(table_bar.data(), parameter_bar, context);
}

template <class T, class B>
void GridMask<T, B>::apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                    const Context<B>& context) const {
  const Shape shape{.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)};
  set_up(shape, context);
  if (this->runs_by_tiles(shape)) return this->low_rank_by_tiles(in, out, transpose, context);
  const std::string engine = this->report(shape).engine;
  if (engine == "fft") {
    state_->fft().multiply_low_rank(values_->spectrum(*state_, context), in, out, transpose, context);
  } else if constexpr (std::is_same_v<B, Cpu>) {
    values_->engine(engine)->multiply_low_rank(engine, in, out, transpose, context);
  }
  if (out.row_sum && values_->has_zeros && state_->zeros_cancel(engine)) {
    backend::clear_unseen<T, B>(values_->seen(*state_, context), transpose, in.a, in.b, out.row_sum, context);
  }
}

template <class T, class B>
void GridMask<T, B>::apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                        const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  const Shape shape{.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)};
  set_up(shape, context);
  if (this->runs_by_tiles(shape)) return Mask<T, B>::apply_low_rank_vjp(in, cotangents, gradients, context);
  const std::string engine = this->report(shape).engine;
  const bool learns = gradients.parameters && gradients.parameters.size > 0;
  if constexpr (std::is_same_v<B, Cpu>) {
    if (engine != "fft") {
      std::vector<double> bar(static_cast<std::size_t>(learns ? gradients.parameters.size : 0), 0.0);
      const bool done = values_->engine(engine)->multiply_low_rank_vjp(
          engine, in, cotangents, {gradients.a, gradients.b, gradients.x, {}}, learns, bar, context);
      if (!learns) return;
      if (done) {
        for (Index p = 0; p < gradients.parameters.size; ++p) {
          gradients.parameters[p] += static_cast<T>(bar[static_cast<std::size_t>(p)]);
        }
        return;
      }
      // A free table's gradient is a correlation: by FFT, or by tiles without one.
      const LowRankGradients<T, B> table_only{{}, {}, {}, gradients.parameters};
      if (!backend::has_fft<B>(state_->sizes)) return this->low_rank_vjp_by_tiles(in, cotangents, table_only, context);
      return low_rank_vjp_by_fft(in, cotangents, table_only, context);
    }
  }
  low_rank_vjp_by_fft(in, cotangents, gradients, context);
}

template <class T, class B>
void GridMask<T, B>::low_rank_vjp_by_fft(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                         const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  const bool learns = gradients.parameters && gradients.parameters.size > 0;
  backend::Buffer<T, B> table_bar(learns ? state_->table_size : 0, context);
  if (learns) backend::fill(table_bar.matrix(1, state_->table_size), T(0), context);
  state_->fft().multiply_low_rank_vjp(values_->spectrum(*state_, context), in, cotangents, gradients,
                                      learns ? table_bar.data() : nullptr, context);
  if (learns) fold_entries_gradient(table_bar.data(), gradients.parameters, context);
}

template class ESPALIER_EXPORT GridMask<float, CompiledBackend>;
template class ESPALIER_EXPORT GridMask<double, CompiledBackend>;

}  // namespace espalier
