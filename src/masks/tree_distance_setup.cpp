// Host side of the tree mask: layout, edge factors, dense entries and their gradients, recognition, command-line form.
// SPDX-License-Identifier: Apache-2.0
#include "masks/tree_distance_setup.hpp"

#include <espalier/core/error.hpp>
#include <espalier/masks/form.hpp>
#include <espalier/masks/tree_distance.hpp>

#include "backend/cpu/parallel.hpp"
#include "core/number_text.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace espalier {

// ---- layout and factors ----------------------------------------------------------------------------------------------

SweepLayout::SweepLayout(const Tree& tree) {
  // A task must outweigh its hand-out: 8192 nodes of one column take about 60 microseconds.
  constexpr Index chunk_nodes = 8192;
  const Index n = tree.size();
  const std::vector<Index>& parent = tree.parent_position();
  std::vector<Index> last_child(static_cast<std::size_t>(n), -1);
  for (Index p = 0; p < n; ++p) {
    if (parent[p] >= 0) last_child[parent[p]] = p;
  }
  node_.reserve(static_cast<std::size_t>(n));
  shape_.reserve(static_cast<std::size_t>(n));
  Index light = 0, chunk_begin = 0;
  chunk_start_.push_back(0);
  for (Index p = 0; p < n; ++p) {
    node_.push_back(static_cast<std::int32_t>(tree.order()[p]));
    std::uint8_t shape = last_child[p] < 0 ? backend::sweep_leaf : 0;
    if (parent[p] < 0) {
      if (p - chunk_begin >= chunk_nodes) {
        chunk_start_.push_back(static_cast<Index>(tree_start_.size()));
        chunk_begin = p;
      }
      tree_start_.push_back(p);
      light_start_.push_back(light);
    } else {
      int level = shape_[parent[p]] & backend::sweep_level;
      if (last_child[parent[p]] == p) {
        shape |= backend::sweep_last_child;
      } else {
        ++level;
        ++light;
      }
      shape = static_cast<std::uint8_t>(shape | level);
    }
    shape_.push_back(shape);
  }
  tree_start_.push_back(n);
  light_start_.push_back(light);
  chunk_start_.push_back(tree.trees());
}

backend::SweepForest<Cpu> SweepLayout::forest() const {
  backend::SweepForest<Cpu> f;
  f.size = static_cast<Index>(node_.size());
  f.trees = static_cast<Index>(tree_start_.size()) - 1;
  f.light = light_start_.back();
  f.node = node_.data();
  f.shape = shape_.data();
  f.tree_start = tree_start_.data();
  f.light_start = light_start_.data();
  f.chunk_start = chunk_start_.data();
  f.chunks = static_cast<Index>(chunk_start_.size()) - 1;
  return f;
}

std::vector<double> log_factors(const Tree& tree, std::span<const double> weights, std::span<const double> slope) {
  const auto width = static_cast<Index>(slope.size());
  std::vector<double> a(static_cast<std::size_t>(tree.size()), 0.0);
  for (Index p = 0; p < tree.size(); ++p) {
    if (tree.parent_position()[p] < 0) continue;
    const Index node = tree.order()[p];
    for (Index k = 0; k < width; ++k) a[p] += slope[k] * weights[node * width + k];
    // exp leaves double beyond 709; entries would be infinite or lost there anyway.
    if (!(std::abs(a[p]) <= 700)) {
      throw ValueError("tree mask: slope . weight of the edge above node " + std::to_string(node) + " is " + number_text(a[p]) +
                       "; expected a finite number in -700 .. 700");
    }
  }
  return a;
}

std::vector<double> edge_lengths(const Tree& tree) {
  std::vector<double> length;
  length.reserve(static_cast<std::size_t>(tree.size()));
  for (const Index node : tree.order()) length.push_back(tree.weights()[node]);
  return length;
}

EdgeFactors::EdgeFactors(const std::vector<double>& log_factor) {
  factor_.reserve(log_factor.size());
  near_one_.reserve(log_factor.size());
  for (const double a : log_factor) {
    // Below 1/2 the sum 1 + expm1(a) loses at most one bit; beyond, e itself is the exact form.
    const bool near_one = std::abs(a) < 0.5;
    near_one_.push_back(near_one);
    factor_.push_back(near_one ? std::expm1(a) : std::exp(a));
  }
}

backend::SweepFactors<Cpu> EdgeFactors::factors(double scale, double between) const {
  return {factor_.data(), near_one_.data(), scale, between};
}

// ---- path sums -------------------------------------------------------------------------------------------------------

PathSums::PathSums(const Tree& tree, std::vector<double> step) : parent_(&tree.parent_position()), step_(std::move(step)) {
  const Index n = tree.size();
  begin_.resize(static_cast<std::size_t>(n));
  end_.resize(static_cast<std::size_t>(n));
  for (Index p = 0; p < n; ++p) begin_[p] = (*parent_)[p] < 0 ? p : begin_[p - 1];
  for (Index p = n - 1; p >= 0; --p) end_[p] = p + 1 == n || (*parent_)[p + 1] < 0 ? p + 1 : end_[p + 1];
}

std::pair<Index, Index> PathSums::range(Index source) const {
  return {begin_[source], end_[source]};
}

void PathSums::from(Index source, double* out) const {
  const auto [begin, end] = range(source);
  // Up the ancestors first, NaN marking the rest; then down, parents before children.
  std::fill(out + begin, out + end, std::nan(""));
  out[source] = 0;
  for (Index p = source; (*parent_)[p] >= 0; p = (*parent_)[p]) out[(*parent_)[p]] = out[p] + step_[p];
  for (Index p = begin; p < end; ++p) {
    if (std::isnan(out[p])) out[p] = out[(*parent_)[p]] + step_[p];
  }
}

void PathSums::add_edge_sums(Index source, double* pair, double* edge_bar) const {
  const auto [begin, end] = range(source);
  std::vector<Index> chain;  // source .. root, descending
  for (Index p = source; p >= 0; p = (*parent_)[p]) chain.push_back(p);
  // Away from the source's ancestors an edge is crossed by what lies below it; on the way up by what does not.
  std::size_t next = 0;
  for (Index p = end - 1; p >= begin; --p) {
    if (next < chain.size() && chain[next] == p) {
      ++next;
      continue;
    }
    edge_bar[p] += pair[p];
    pair[(*parent_)[p]] += pair[p];
  }
  for (std::size_t k = chain.size() - 1; k-- > 0;) {
    edge_bar[chain[k]] += pair[chain[k + 1]];
    pair[chain[k]] += pair[chain[k + 1]];
  }
}

template <class T>
void form_tree_entries(const Tree& tree, const PathSums& sums, const std::string& name,
                       const std::function<double(double)>& value, double between, T* out) {
  const Index n = tree.size();
  // Rows by position; row s fills its pairs with later positions and their mirror images, so that M is exactly symmetric.
  backend::parallel_for(Context<Cpu>{}, n, [&](Index s, int) {
    const Index i = tree.order()[s];
    const auto [begin, end] = sums.range(s);
    std::vector<double> distance(static_cast<std::size_t>(n));
    sums.from(s, distance.data());
    for (Index q = s; q < n; ++q) {
      const Index j = tree.order()[q];
      const double v = q < end ? value(distance[q]) : between;
      if (!std::isfinite(v)) {
        throw FunctionError(name, "not finite at the distance of nodes " + std::to_string(i) + " and " + std::to_string(j));
      }
      out[i * n + j] = out[j * n + i] = static_cast<T>(v);
    }
  });
}
template void form_tree_entries(const Tree&, const PathSums&, const std::string&, const std::function<double(double)>&, double,
                                float*);
template void form_tree_entries(const Tree&, const PathSums&, const std::string&, const std::function<double(double)>&, double,
                                double*);

// ---- recognition -----------------------------------------------------------------------------------------------------

namespace {

bool has_negative_weight(const Tree& tree) {
  return std::any_of(tree.weights().begin(), tree.weights().end(), [](double w) { return w < 0; });
}

}  // namespace

std::optional<ExponentialForm> exponential_on(const DistanceFunction& f, const Tree& tree) {
  if (const auto form = f.exponential_form()) return form;
  // A table is an error at distances it does not hold: only visiting them all (the dense engine) finds that.
  if (f.last_integer() >= 0) return std::nullopt;
  const double range = tree.distance_bound();
  if (!has_negative_weight(tree)) return recognise_exponential(f, range);
  // Distances in -range .. range: the shifted function has the same slope, and f(0) is the factor.
  const auto shifted = recognise_exponential(Callable{[&](double d) { return f(d - range); }, "shifted"}, 2 * range);
  if (!shifted) return std::nullopt;
  return ExponentialForm{f(0), shifted->slope};
}

std::optional<std::vector<SweepDerivative>> sweep_derivatives(const DistanceFunction& f, double slope, const Tree& tree) {
  const double range = tree.distance_bound(), low = has_negative_weight(tree) ? -range : 0.0;
  std::vector<SweepDerivative> all;
  for (std::size_t p = 0; p < f.parameters().size(); ++p) {
    const auto reduced = [&](double d) { return f.derivative(p, d) * std::exp(-slope * d); };
    // Where the exponential is within a factor e of 1 nothing is lost by dividing it out.
    const double reach = slope == 0 ? range : std::min(range, 1 / std::abs(slope));
    SweepDerivative s{reduced(0), 0};
    if (reach > 0) s.linear = (reduced(reach) - s.constant) / reach;
    for (int k = 0; k <= 16; ++k) {
      const double d = low + (range - low) * k / 16;
      if (std::abs(slope * d) > 300) continue;
      const double expected = s.constant + s.linear * d;
      if (!(std::abs(reduced(d) - expected) <= 1e-9 * (std::abs(s.constant) + std::abs(s.linear * d)))) return std::nullopt;
      const double near = reach * k / 16;
      if (!(std::abs(reduced(near) - s.constant - s.linear * near) <=
            1e-9 * (std::abs(s.constant) + std::abs(s.linear * near))))
        return std::nullopt;
    }
    all.push_back(s);
  }
  return all;
}

// ---- gradients of dense entries --------------------------------------------------------------------------------------

template <class T>
std::vector<double> fold_function_gradient(const Tree& tree, const PathSums& sums, const DistanceFunction& f, const T* g) {
  const Index n = tree.size();
  const std::size_t count = f.parameters().size();
  std::vector<double> bar(count, 0.0), distance(static_cast<std::size_t>(n));
  // Whole distances are gathered first: a table of P values would otherwise cost P a pair.
  std::vector<double> whole(static_cast<std::size_t>(2 * n), 0.0);
  std::vector<char> seen(whole.size(), 0);
  for (Index s = 0; s < n; ++s) {
    const T* row = g + tree.order()[s] * n;
    const auto [begin, end] = sums.range(s);
    sums.from(s, distance.data());
    for (Index q = begin; q < end; ++q) {
      const double d = distance[q], weight = row[tree.order()[q]];
      if (d >= 0 && d < static_cast<double>(whole.size()) && d == std::floor(d)) {
        whole[static_cast<std::size_t>(d)] += weight;
        seen[static_cast<std::size_t>(d)] = 1;
      } else {
        for (std::size_t p = 0; p < count; ++p) bar[p] += weight * f.derivative(p, d);
      }
    }
  }
  for (std::size_t d = 0; d < whole.size(); ++d) {
    if (!seen[d]) continue;
    for (std::size_t p = 0; p < count; ++p) bar[p] += whole[d] * f.derivative(p, static_cast<double>(d));
  }
  return bar;
}
template std::vector<double> fold_function_gradient(const Tree&, const PathSums&, const DistanceFunction&, const float*);
template std::vector<double> fold_function_gradient(const Tree&, const PathSums&, const DistanceFunction&, const double*);

template <class T>
double fold_edge_gradient(const Tree& tree, const PathSums& log_sums, double scale, const T* g, double* edge_bar) {
  const Index n = tree.size();
  std::vector<double> pair(static_cast<std::size_t>(n));
  double value = 0;
  for (Index s = 0; s < n; ++s) {
    const T* row = g + tree.order()[s] * n;
    const auto [begin, end] = log_sums.range(s);
    log_sums.from(s, pair.data());
    for (Index q = begin; q < end; ++q) {
      pair[q] = scale * std::exp(pair[q]) * static_cast<double>(row[tree.order()[q]]);
      value += pair[q];
    }
    log_sums.add_edge_sums(s, pair.data(), edge_bar);
  }
  return value;
}
template double fold_edge_gradient(const Tree&, const PathSums&, double, const float*, double*);
template double fold_edge_gradient(const Tree&, const PathSums&, double, const double*, double*);

}  // namespace espalier

ESPALIER_MASK_FORM(tree)

namespace espalier::forms {

namespace {

template <class T>
std::vector<MaskPointer<T>> build_tree(FormArguments& arguments) {
  std::shared_ptr<const Tree> tree = arguments.tree_file(arguments.operand());
  if (arguments.flag("unweighted")) tree = std::make_shared<const Tree>(tree->unweighted());
  const std::optional<DistanceFunction> f = arguments.function();
  if (!f) throw ValueError("--function: is missing (expected a function of the path length d)");
  TreeOptions options;
  static_cast<MaskOptions&>(options) = arguments.mask_options();
  options.between_trees = arguments.number("between-trees").value_or(0);
  return {std::make_shared<TreeDistanceMask<T>>(std::move(tree), *f, options)};
}

}  // namespace

MaskForm tree_form() {
  MaskForm form;
  form.kind = "tree";
  form.operand = "FILE";
  form.help = "a function of the path length in a forest (.nwk, .txt, .parents, .npy)";
  form.flags = {{"function", "F", "function of the path length d; required"},
                {"unweighted", "", "count edges instead of adding their weights"},
                {"between-trees", "w", "weight of pairs in different trees (default 0)"}};
  form.build_float = build_tree<float>;
  form.build_double = build_tree<double>;
  return form;
}

}  // namespace espalier::forms
