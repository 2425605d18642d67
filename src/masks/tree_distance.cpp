// TreeDistanceMask: sweeps for exponentials of the path length, dense entries for small trees and any other function.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/tree_distance.hpp>

#include "backend/elementwise.hpp"
#include "backend/sweep.hpp"
#include "backend/tiles.hpp"
#include "core/number_text.hpp"
#include "masks/tree_distance_setup.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

namespace espalier {

namespace {

constexpr Index dense_limit = 8192;  // nodes: 256 MiB of float entries

std::string nodes_text(const Tree& tree) {
  return std::to_string(tree.size()) + " nodes";
}

std::vector<double> as_vector(std::span<const double> v) {
  return {v.begin(), v.end()};
}

}  // namespace

// Values of one mask; what depends on the tree alone is shared between masks.
template <class T, class B>
class TreeDistanceMask<T, B>::State {
 public:
  struct Sweep {
    EdgeFactors edges;
    double scale;
  };

  State(std::shared_ptr<const Tree> tree_, std::shared_ptr<const SweepLayout> layout_, const TreeOptions& options)
      : tree(std::move(tree_)), layout(std::move(layout_)), between(options.between_trees) {}

  // f = exp(intercept + slope . w); p holds slope, intercept and, if learnt, the weights.
  void set_affine(std::vector<double> p, bool learn) {
    const Index width = tree->weight_width();
    parameters = std::move(p);
    slope.assign(parameters.begin(), parameters.begin() + width);
    if (learn) {
      // Weights of roots are kept as given and never used.
      weights.assign(parameters.begin() + width + 1, parameters.end());
    } else {
      weights = tree->weights();
    }
    const double scale = std::exp(parameters[width]);
    if (!std::isfinite(scale)) {
      throw ValueError("tree mask: exp(intercept) is infinite at intercept " + number_text(parameters[width]));
    }
    set_sweep(slope, scale);
  }

  void set_function(DistanceFunction f) {
    if (tree->weight_width() != 1) {
      throw ValueError("tree mask: a function of one distance on a tree with " + std::to_string(tree->weight_width()) +
                       " weights an edge; use AffineExponential, or one weight");
    }
    function = std::move(f);
    parameters = as_vector(function->parameters());
    weights = tree->weights();
    if (const auto form = exponential_on(*function, *tree)) {
      slope = {form->slope};
      try {
        set_sweep(slope, form->factor);
      } catch (const ValueError& error) {
        throw FunctionError(function->name(), error.what());
      }
      derivatives = sweep_derivatives(*function, form->slope, *tree);
      return;
    }
    if (tree->size() > dense_limit) {
      throw FunctionError(function->name(), "is no exponential, and the tree has " + nodes_text(*tree) +
                                                "; trees with more than " + std::to_string(dense_limit) +
                                                " nodes take f = c exp(a d) only (sweep engine), smaller trees any f");
    }
    sums.emplace(*tree, edge_lengths(*tree));
    form_entries();
  }

  backend::SweepFactors<Cpu> factors(double scale) const { return sweep->edges.factors(scale, between); }

  // The L x L entries: at construction for a general f, on first need for an exponential.
  const std::vector<T>& entries() const {
    if (sweep) std::call_once(entries_once_, [&] { form_entries(); });
    return entries_;
  }

  std::shared_ptr<const Tree> tree;
  std::shared_ptr<const SweepLayout> layout;
  double between;
  std::optional<DistanceFunction> function;  // empty: an AffineExponential
  std::vector<double> parameters, slope, weights;
  std::optional<Sweep> sweep;                               // empty: a general f
  std::optional<std::vector<SweepDerivative>> derivatives;  // of a function that is swept
  std::optional<PathSums> sums;                             // of log e where f is an exponential, else of the weights

 private:
  void set_sweep(const std::vector<double>& a, double scale) {
    const std::vector<double> logs = log_factors(*tree, weights, a);
    sweep.emplace(Sweep{EdgeFactors(logs), scale});
    if (tree->size() <= dense_limit) sums.emplace(*tree, logs);
  }
  void form_entries() const {
    std::vector<T> values(static_cast<std::size_t>(tree->size() * tree->size()));
    const std::function<double(double)> value = [&](double d) { return sweep ? sweep->scale * std::exp(d) : (*function)(d); };
    form_tree_entries(*tree, *sums, function ? function->name() : "f", value, between, values.data());
    entries_ = std::move(values);
  }

  mutable std::once_flag entries_once_;
  mutable std::vector<T> entries_;
};

// ---- construction ----------------------------------------------------------------------------------------------------

namespace {

Index checked_size(const std::shared_ptr<const Tree>& tree, const TreeOptions& options) {
  if (!tree) throw ValueError("tree mask: the tree is null");
  if (!std::isfinite(options.between_trees)) throw ValueError("tree mask: between_trees is not finite");
  return tree->size();
}

void check_parameters(std::span<const double> got, std::size_t expected) {
  if (got.size() != expected) throw ShapeError("parameters", static_cast<Index>(got.size()), static_cast<Index>(expected));
  for (std::size_t p = 0; p < got.size(); ++p) {
    if (!std::isfinite(got[p])) throw ValueError("parameter " + std::to_string(p) + " is not finite");
  }
}

}  // namespace

template <class T, class B>
TreeDistanceMask<T, B>::TreeDistanceMask(std::shared_ptr<const State> state, const TreeOptions& options)
    : Mask<T, B>(state->tree->size(), state->tree->size(), options), state_(std::move(state)), tree_options_(options) {}

template <class T, class B>
TreeDistanceMask<T, B>::TreeDistanceMask(std::shared_ptr<const Tree> tree, AffineExponential f, TreeOptions options)
    : Mask<T, B>(checked_size(tree, options), checked_size(tree, options), options), tree_options_(options) {
  if (static_cast<Index>(f.slope.size()) != tree->weight_width()) {
    throw ShapeError("slope", static_cast<Index>(f.slope.size()), tree->weight_width());
  }
  std::vector<double> p = std::move(f.slope);
  p.push_back(f.intercept);
  if (options.learn_edge_weights) p.insert(p.end(), tree->weights().begin(), tree->weights().end());
  check_parameters(p, p.size());
  auto state = std::make_shared<State>(tree, std::make_shared<const SweepLayout>(*tree), options);
  state->set_affine(std::move(p), options.learn_edge_weights);
  state_ = std::move(state);
}

template <class T, class B>
TreeDistanceMask<T, B>::TreeDistanceMask(std::shared_ptr<const Tree> tree, DistanceFunction f, TreeOptions options)
    : Mask<T, B>(checked_size(tree, options), checked_size(tree, options), options), tree_options_(options) {
  if (options.learn_edge_weights) {
    throw ValueError("tree mask: learn_edge_weights needs f as an AffineExponential");
  }
  auto state = std::make_shared<State>(tree, std::make_shared<const SweepLayout>(*tree), options);
  state->set_function(std::move(f));
  state_ = std::move(state);
}

template <class T, class B>
TreeDistanceMask<T, B>::~TreeDistanceMask() = default;

template <class T, class B>
std::span<const double> TreeDistanceMask<T, B>::parameters() const {
  return state_->parameters;
}

template <class T, class B>
std::shared_ptr<const Mask<T, B>> TreeDistanceMask<T, B>::with_parameters(std::span<const double> p) const {
  check_parameters(p, state_->parameters.size());
  auto state = std::make_shared<State>(state_->tree, state_->layout, tree_options_);
  if (state_->function) {
    state->set_function(state_->function->with_parameters(p));
  } else {
    state->set_affine(as_vector(p), tree_options_.learn_edge_weights);
  }
  return std::shared_ptr<const Mask<T, B>>(new TreeDistanceMask(std::move(state), tree_options_));
}

// ---- engines ---------------------------------------------------------------------------------------------------------

template <class T, class B>
std::vector<Report> TreeDistanceMask<T, B>::candidates(Shape shape) const {
  std::vector<Report> all;
  const CostModel& cost = this->options().cost;
  const std::size_t element = sizeof(T), n = static_cast<std::size_t>(this->rows());
  const double nodes = static_cast<double>(n);
  const double columns = static_cast<double>(std::max<Index>(1, shape.rank) * shape.columns * shape.heads);
  if (state_->sweep) {
    const backend::SweepForest<Cpu> forest = state_->layout->forest();
    const std::size_t scratch = Context<Cpu>{}.scratch_bytes;
    // The whole of a masked product runs in panels of the context's scratch memory (core/mask.hpp).
    const Index widest = shape.rank > 0 ? std::max<Index>(shape.columns, shape.rank * (shape.columns + 1)) : shape.columns;
    Report r;
    r.engine = "sweep";
    r.reason = "f is an exponential of the path length: two sweeps over " + nodes_text(*state_->tree) + ", O(L) a column";
    r.flops = 12 * nodes * columns;
    // x twice, y written, read and written again; suffixes of light children written and read; panels of features likewise.
    const double light = static_cast<double>(forest.light) / std::max(1.0, nodes);
    const double moved = (6 + 3 * light + (shape.rank > 0 ? 4 : 0)) * static_cast<double>(element);
    const bool in_cache = nodes * 3 * static_cast<double>(element) * std::min(columns, 32.0) < 1e6;
    r.bytes = moved * nodes * columns;
    // CPU time of one core (shared machine, so upper figures): 0.85 to 0.95 ns a node and column for 10^4 nodes x 16 columns in
    // cache; a single column is held up by its chain of dependent steps, 7 to 11 ns a node.
    const double panels = std::ceil(columns / 32);
    r.predicted_seconds = cost.call_seconds + std::max(0.9e-9 * nodes * columns, 10e-9 * nodes * panels) +
                          (in_cache ? 0 : r.bytes / cost.bandwidth);
    r.extra_bytes = this->panel_bytes(shape) +
                    std::max(backend::tree_sweep_bytes<T, B>(forest, state_->between != 0, widest, scratch),
                             backend::tree_sweep_gradient_bytes<T, B>(forest, widest, scratch) + n * sizeof(double));
    r.rounding_estimate = 4 * std::numeric_limits<T>::epsilon();
    r.row_wise = true;
    all.push_back(std::move(r));
  }
  if (state_->tree->size() <= dense_limit) {
    Report r = this->tile_report(shape, "dense");
    r.reason = std::string(state_->sweep ? "a small tree" : "f is no exponential of the path length") + ", " +
               nodes_text(*state_->tree) + ": " + r.reason;
    // Entries (kept by the mask) and the gradient's twin of them.
    r.extra_bytes += 2 * n * n * element + 64 * n;
    all.push_back(std::move(r));
  }
  return all;
}

template <class T, class B>
void TreeDistanceMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                                   const Context<B>& context) const {
  if (state_->sweep && this->report({.columns = x.cols}).engine == "sweep") {
    backend::tree_sweep<T, B>(state_->layout->forest(), state_->factors(state_->sweep->scale), x, y, context);
  } else {
    this->apply_by_tiles(x, y, transpose, context);
  }
}

// ---- entries and gradients -------------------------------------------------------------------------------------------

template <class T, class B>
Entries<T, B> TreeDistanceMask<T, B>::entries() const {
  Entries<T, B> e;
  if (state_->tree->size() > dense_limit) return e;
  e.kind = EntryKind::dense;
  e.rows = e.cols = e.values_stride = this->rows();
  e.values = state_->entries().data();
  return e;
}
template <class T, class B>
Index TreeDistanceMask<T, B>::entries_gradient_size() const {
  return state_->tree->size() <= dense_limit && !state_->parameters.empty() ? this->rows() * this->cols() : 0;
}
template <class T, class B>
EntriesGradient<T, B> TreeDistanceMask<T, B>::entries_gradient(T* scratch) const {
  EntriesGradient<T, B> g;
  if (entries_gradient_size() > 0) g.values = scratch;
  return g;
}

template <class T, class B>
void TreeDistanceMask<T, B>::fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>&) const {
  if (entries_gradient_size() == 0) return;
  const State& s = *state_;
  if (s.function) {
    const PathSums distances(*s.tree, edge_lengths(*s.tree));
    const std::vector<double> bar = fold_function_gradient(*s.tree, distances, *s.function, scratch);
    for (std::size_t p = 0; p < bar.size(); ++p) parameter_bar[static_cast<Index>(p)] += static_cast<T>(bar[p]);
    return;
  }
  std::vector<double> edge_bar(static_cast<std::size_t>(this->rows()), 0.0);
  const double value = fold_edge_gradient(*s.tree, *s.sums, s.sweep->scale, scratch, edge_bar.data());
  add_affine_gradient(edge_bar.data(), value, parameter_bar);
}

// log e = slope . w: ds/d slope_k = sum_e w_ek g_e, ds/d w_ek = slope_k g_e, ds/d intercept = s.
template <class T, class B>
void TreeDistanceMask<T, B>::add_affine_gradient(const double* edge_bar, double value, VectorView<T, B> parameter_bar) const {
  const State& s = *state_;
  const Index width = s.tree->weight_width();
  std::vector<double> slope_bar(static_cast<std::size_t>(width), 0.0);
  for (Index p = 0; p < this->rows(); ++p) {
    if (s.tree->parent_position()[p] < 0) continue;
    const Index node = s.tree->order()[p];
    for (Index k = 0; k < width; ++k) {
      slope_bar[k] += s.weights[node * width + k] * edge_bar[p];
      if (tree_options_.learn_edge_weights) {
        parameter_bar[width + 1 + node * width + k] += static_cast<T>(s.slope[k] * edge_bar[p]);
      }
    }
  }
  for (Index k = 0; k < width; ++k) parameter_bar[k] += static_cast<T>(slope_bar[k]);
  parameter_bar[width] += static_cast<T>(value);
}

template <class T, class B>
void TreeDistanceMask<T, B>::add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                                    VectorView<T, B> parameter_bar, const Context<B>& context) const {
  const State& s = *state_;
  if (s.parameters.empty()) return;
  if (!s.sweep || (s.function && !s.derivatives)) {
    if (s.tree->size() > dense_limit) {
      throw ValueError("tree mask: the derivative of f = " + s.function->name() +
                       " in one of its parameters is not (a + b d) exp(c d); "
                       "its gradient needs a tree of at most " +
                       std::to_string(dense_limit) + " nodes, or f as an AffineExponential");
    }
    Mask<T, B>::add_parameter_gradient(x, y_bar, parameter_bar, context);
    return;
  }
  backend::Buffer<double, B> edge_bar(this->rows());
  std::fill_n(edge_bar.data(), this->rows(), 0.0);
  // A function's factor may be 0: its derivatives are taken at factor 1.
  const double scale = s.function ? 1.0 : s.sweep->scale;
  const double value =
      backend::tree_sweep_gradient<T, B>(s.layout->forest(), s.factors(scale), x, y_bar, edge_bar.data(), context);
  if (!s.function) {
    add_affine_gradient(edge_bar.data(), value, parameter_bar);
    return;
  }
  double distance_value = 0;  // sum_ij d_ij exp(slope d_ij) (y_bar_i . x_j)
  for (Index p = 0; p < this->rows(); ++p) distance_value += s.weights[s.tree->order()[p]] * edge_bar.data()[p];
  for (std::size_t k = 0; k < s.derivatives->size(); ++k) {
    const SweepDerivative& d = (*s.derivatives)[k];
    parameter_bar[static_cast<Index>(k)] += static_cast<T>(d.constant * value + d.linear * distance_value);
  }
}

template class ESPALIER_EXPORT TreeDistanceMask<float, Cpu>;
template class ESPALIER_EXPORT TreeDistanceMask<double, Cpu>;

}  // namespace espalier
