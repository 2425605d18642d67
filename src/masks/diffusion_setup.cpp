// Host-side set-up of diffusion masks.
// SPDX-License-Identifier: Apache-2.0
#include "masks/diffusion_setup.hpp"

#include <espalier/core/error.hpp>
#include <espalier/masks/form.hpp>

#include "core/number_text.hpp"

#include <Eigen/Eigenvalues>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace espalier::diffusion {

namespace {

// Largest z = t (high - low) / 2 of a series: 1.4 million terms.
constexpr double kLargestArgument = 1e10;

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

}  // namespace

std::shared_ptr<const Operator> make_operator(std::shared_ptr<const Graph> graph, GraphOperator kind) {
  if (!graph) throw ValueError("DiffusionMask: the graph is null");
  auto op = std::make_shared<Operator>();
  op->graph = std::move(graph);
  op->kind = kind;
  const Graph& g = *op->graph;
  const auto n = static_cast<std::size_t>(g.nodes());
  op->weights = g.weights();
  op->diagonal.assign(n, 0.0);
  if (kind != GraphOperator::adjacency) {
    for (const double w : op->weights) {
      if (w < 0) throw ValueError("DiffusionMask: a Laplacian needs weights >= 0 (got " + number_text(w) + ")");
    }
    const std::vector<double> degree = g.degrees();
    for (const double d : degree) {
      if (!std::isfinite(d))
        throw ValueError("DiffusionMask: a node's weights add up to no finite degree; scale the weights down");
    }
    if (kind == GraphOperator::laplacian) {
      op->diagonal = degree;
    } else {
      double least = std::numeric_limits<double>::infinity(), largest = 0;
      std::vector<double> root(n, 0.0);
      for (std::size_t i = 0; i < n; ++i) {
        if (degree[i] <= 0) continue;
        root[i] = 1 / std::sqrt(degree[i]);
        op->diagonal[i] = 1;
        least = std::min(least, degree[i]);
        largest = std::max(largest, degree[i]);
      }
      for (std::size_t i = 0; i < n; ++i) {
        for (Index p = g.row_start()[i]; p < g.row_start()[i + 1]; ++p) {
          op->weights[static_cast<std::size_t>(p)] *=
              root[i] * root[static_cast<std::size_t>(g.col_index()[static_cast<std::size_t>(p)])];
        }
      }
      if (kind == GraphOperator::random_walk) {
        op->left.assign(n, 1.0);
        op->right.assign(n, 1.0);
        for (std::size_t i = 0; i < n; ++i) {
          if (degree[i] <= 0) continue;
          op->left[i] = root[i];
          op->right[i] = 1 / root[i];
        }
        if (largest > 0) op->condition = std::sqrt(largest / least);
      }
    }
  }
  set_interval(*op);
  op->weights_float.assign(op->weights.begin(), op->weights.end());
  op->diagonal_float.assign(op->diagonal.begin(), op->diagonal.end());
  // A symmetric matrix's 2-norm is at most its largest absolute row sum.
  for (std::size_t i = 0; i < n; ++i) {
    double row = std::abs(op->diagonal[i] - static_cast<double>(op->diagonal_float[i]));
    for (Index e = g.row_start()[i]; e < g.row_start()[i + 1]; ++e) {
      const auto p = static_cast<std::size_t>(e);
      row += std::abs(op->weights[p] - static_cast<double>(op->weights_float[p]));
    }
    op->float_error = std::max(op->float_error, row);
  }
  return op;
}

std::vector<double> scaled_bessel(double z) {
  // e^{-z} I_k(z) ~ exp(-k^2 / (2 z)) for k << z and (z / 2)^k / k! for k >> z: beyond this k both are below 1e-40.
  const auto last = static_cast<std::size_t>(60 + std::ceil(std::sqrt(200 * z)));
  // Two terms of the power series; the recurrence's factor 2 k / z would overflow (z below 1e-56).
  if (z < 1e-20) return {1.0, z / 2};
  std::vector<double> v(last + 1, 0.0);
  // Miller: downward recurrence I_{k-1} = I_{k+1} + (2 k / z) I_k from an arbitrary small start, normalised by
  // e^{-z} (I_0 + 2 sum I_k) = 1. All terms are positive: no cancellation.
  double above = 0, here = 1e-280;
  for (std::size_t k = last; k > 0; --k) {
    v[k] = here;
    const double below = above + (2 * static_cast<double>(k) / z) * here;
    above = here;
    here = below;
    if (here > 1e250) {
      for (std::size_t p = k; p <= last; ++p) v[p] *= 1e-250;
      above *= 1e-250;
      here *= 1e-250;
    }
  }
  v[0] = here;
  double sum = 0;
  for (std::size_t k = last; k > 0; --k) sum += 2 * v[k];
  sum += v[0];
  for (double& x : v) x /= sum;
  return v;
}

Series make_series(const Operator& op, double time, double tolerance, double operator_error) {
  const double z = time * (op.high - op.low) / 2;
  // Checked before the list is made: its length grows with sqrt(200 z).
  if (!(z <= kLargestArgument)) {
    throw ValueError("DiffusionMask: time times half the spectrum's width is " + number_text(z) +
                     " (expected at most 1e10, where the series has a million terms); use a smaller time");
  }
  const std::vector<double> bessel = scaled_bessel(z);
  // ||M~ - M||_2 <= e^{-t low} tail, ||M||_2 >= e^{-t smallest}; the random walk's diagonal factors add their condition.
  // Rounding T by E, ||E|| <= e, moves exp(-t T) by at most t e exp(t e) ||exp(-t T)||_2 (Duhamel; T and E are symmetric), and
  // the spectrum to at most 1 + x of the interval, x = 2 e / (high - low), where |T_k| <= exp(k sqrt(2 x)).
  const double relative = std::exp(time * (op.smallest - op.low)) * op.condition;
  const double moved = time * operator_error * std::exp(time * operator_error) * op.condition;
  const double outgrown = std::exp(static_cast<double>(bessel.size()) * std::sqrt(4 * operator_error / (op.high - op.low)));
  const double factor = relative * outgrown;
  std::size_t count = bessel.size();
  double tail = 0;
  while (count > 1) {
    const double next = tail + 2 * bessel[count - 1];
    if (next * factor + moved > tolerance) break;
    tail = next;
    --count;
  }
  Series s;
  // The omitted end of the Bessel list is below 1e-40 of the whole.
  s.certificate = (tail + 1e-38) * factor + moved;
  s.coefficients.resize(count);
  const double outside = std::exp(-time * op.low);
  for (std::size_t k = 0; k < count; ++k) s.coefficients[k] = outside * (k == 0 ? 1 : (k % 2 == 1 ? -2 : 2)) * bessel[k];
  return s;
}

double recurrence_rounding(double terms, double epsilon) {
  return 0.35 * terms * epsilon;
}

Series plan_series(const Operator& op, double time, double tolerance, double epsilon, double operator_error) {
  // The terms have the size exp(-t low) and cancel down to ||M||_2 >= exp(-t smallest): their rounding grows by exp(excess),
  // split over s steps by exp(excess / s) in each. Steps of excess 1 cancel nothing worth the name.
  const double excess = time * (op.smallest - op.low);
  const double most = std::max(1.0, std::ceil(excess));
  // t low, z and t / s are rounded in double whatever the recurrence runs in, and exponentials of them keep the absolute error.
  const double exponent = 2 * 1.1e-16 * time * std::abs(op.low);
  Series best;
  for (double steps = 1;; steps = std::min(2 * steps, most)) {
    // M = (exp(-(t / s) T))^s, and ||M||_2 is the s-th power of a step's norm: steps with relative error d add up to
    // (1 + d)^s - 1. (Only the adjacency has an excess, so the random walk's unsymmetric M is always one step.)
    // The factor keeps the sum's own rounding below the tolerance.
    const double each = steps == 1 ? tolerance : std::expm1(std::log1p(tolerance) / steps) * (1 - 1e-14);
    Series s = make_series(op, time / steps, each, operator_error);
    if (steps > 1) s.certificate = std::expm1(steps * std::log1p(s.certificate));
    s.steps = static_cast<Index>(steps);
    s.rounding =
        recurrence_rounding(steps * static_cast<double>(s.coefficients.size()), epsilon) * std::exp(excess / steps) + exponent;
    // The last step's terms, before they cancel, on what the others have made; steps of excess 1 always fit.
    if (-time * op.smallest + excess / steps > kLargestExponent + 2) s.rounding = std::numeric_limits<double>::infinity();
    const bool enough = s.rounding <= tolerance && s.certificate <= tolerance;
    if (steps == 1 || enough || s.rounding < best.rounding) best = std::move(s);
    if (enough || steps >= most) return best;
  }
}

Decomposition decompose(const Operator& op) {
  const Index n = op.graph->nodes();
  Matrix m = Matrix::Zero(n, n);
  for (Index i = 0; i < n; ++i) {
    m(i, i) = op.diagonal[static_cast<std::size_t>(i)];
    for (Index p = op.graph->row_start()[static_cast<std::size_t>(i)];
         p < op.graph->row_start()[static_cast<std::size_t>(i) + 1]; ++p) {
      m(i, op.graph->col_index()[static_cast<std::size_t>(p)]) -= op.weights[static_cast<std::size_t>(p)];
    }
  }
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(m);
  if (solver.info() != Eigen::Success) throw BackendError("Eigen: the eigenvalue iteration did not converge");
  Decomposition d;
  d.values.assign(solver.eigenvalues().data(), solver.eigenvalues().data() + n);
  const Matrix vectors = solver.eigenvectors();  // Eigen keeps them column-major
  d.vectors.assign(vectors.data(), vectors.data() + n * n);
  return d;
}

namespace {

// For each node the first node of its connected component, over edges that weigh something.
std::vector<Index> components(const Operator& op) {
  const auto row_start = op.graph->row_start();
  const auto neighbours = op.graph->col_index();
  std::vector<Index> first(static_cast<std::size_t>(op.graph->nodes()), -1), open;
  for (Index root = 0; root < op.graph->nodes(); ++root) {
    if (first[static_cast<std::size_t>(root)] >= 0) continue;
    first[static_cast<std::size_t>(root)] = root;
    open.assign(1, root);
    while (!open.empty()) {
      const auto i = static_cast<std::size_t>(open.back());
      open.pop_back();
      for (auto p = static_cast<std::size_t>(row_start[i]); p < static_cast<std::size_t>(row_start[i + 1]); ++p) {
        const auto j = static_cast<std::size_t>(neighbours[p]);
        if (op.weights[p] == 0 || first[j] >= 0) continue;
        first[j] = root;
        open.push_back(static_cast<Index>(j));
      }
    }
  }
  return first;
}

}  // namespace

std::vector<double> dense_kernel(const Operator& op, const Decomposition& d, double time, bool derivative) {
  const auto n = static_cast<Index>(d.values.size());
  const Eigen::Map<const Matrix> u(d.vectors.data(), n, n);
  Eigen::VectorXd f(n);
  for (Index k = 0; k < n; ++k) {
    const double value = d.values[static_cast<std::size_t>(k)];
    f[k] = std::exp(-time * value) * (derivative ? -value : 1);
  }
  Matrix m = u * f.asDiagonal() * u.transpose();
  if (!op.left.empty()) {
    const Eigen::Map<const Eigen::VectorXd> left(op.left.data(), n), right(op.right.data(), n);
    m = left.asDiagonal() * m * right.asDiagonal();
  }
  if (time == 0 && !derivative) m.setIdentity();
  // What is known to be zero or positive is made so: attention divides by sums of entries, and rounding may be all of such a
  // sum.
  const std::vector<Index> component = components(op);
  const bool positive = std::all_of(op.weights.begin(), op.weights.end(), [](double w) { return w >= 0; });
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j) {
      if (component[static_cast<std::size_t>(i)] != component[static_cast<std::size_t>(j)]) {
        m(i, j) = 0;
      } else if (positive && !derivative) {
        m(i, j) = m(i, j) < 0 ? 0 : m(i, j);  // NaN stays
      }
    }
  }
  return {m.data(), m.data() + n * n};
}

}  // namespace espalier::diffusion

ESPALIER_MASK_FORM(graph)

namespace espalier::forms {

namespace {

GraphOperator operator_named(const std::string& name) {
  if (name == "adjacency") return GraphOperator::adjacency;
  if (name == "laplacian") return GraphOperator::laplacian;
  if (name == "normalized-laplacian") return GraphOperator::normalized_laplacian;
  if (name == "random-walk") return GraphOperator::random_walk;
  throw ValueError("--operator: '" + name + "' (expected adjacency, laplacian, normalized-laplacian or random-walk)");
}

template <class T>
std::vector<MaskPointer<T>> build_graph(FormArguments& arguments) {
  const std::string kernel = arguments.text("kernel").value_or("diffusion");
  if (kernel != "diffusion") throw ValueError("--kernel: '" + kernel + "' is not available yet (expected diffusion)");
  const auto time = arguments.number("time");
  if (!time) throw ValueError("--time: a graph mask needs a diffusion time (add --time t)");
  const GraphOperator op = operator_named(arguments.text("operator").value_or("laplacian"));
  if (*time < 0) throw ValueError("--time: " + number_text(*time) + " (expected >= 0)");
  const std::shared_ptr<const Graph> graph = arguments.graph_file(arguments.operand());
  if (op != GraphOperator::adjacency) {
    arguments.require_weights_not_negative(arguments.operand(),
                                           "expected >= 0 for a Laplacian; --operator adjacency takes any sign");
  }
  // In two steps, the operator made once: what fails at time 0 is about the graph, what fails afterwards about the time.
  const DiffusionMask<T> at_rest(graph, 0, op, arguments.mask_options());
  try {
    return {at_rest.with_parameters({&*time, 1})};
  } catch (const ValueError& error) {
    const std::string text = error.what(), start = "DiffusionMask: ";
    throw ValueError("--time: " + number_text(*time) + ": " + (text.starts_with(start) ? text.substr(start.size()) : text));
  }
}

}  // namespace

MaskForm graph_form() {
  MaskForm form;
  form.kind = "graph";
  form.operand = "FILE";
  form.help = "diffusion kernel exp(-t T) of a graph (.mtx, .graph, .txt, .edges)";
  form.flags = {{"time", "t", "diffusion time t >= 0 (required)"},
                {"operator", "T", "adjacency, laplacian (default), normalized-laplacian or random-walk"},
                {"kernel", "K", "diffusion (default)"}};
  form.build_float = build_graph<float>;
  form.build_double = build_graph<double>;
  return form;
}

}  // namespace espalier::forms
