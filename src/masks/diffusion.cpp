// DiffusionMask: the Chebyshev recurrence over panels of columns, and dense tiles for small graphs.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/diffusion.hpp>

#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"
#include "backend/sparse.hpp"
#include "backend/tiles.hpp"
#include "core/number_text.hpp"
#include "masks/diffusion_setup.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

namespace espalier {

namespace {

// Unit roundoff of the recurrence's arithmetic.
double roundoff(bool in_float) {
  return in_float ? 6e-8 : 1.1e-16;
}

// Time of a recurrence in double over that in float.
constexpr double kDoubleCost = 1.6;

}  // namespace

template <class T, class B>
class DiffusionMask<T, B>::State {
 public:
  explicit State(std::shared_ptr<const diffusion::Operator> o) : op(std::move(o)) {}
  const diffusion::Decomposition& decomposition() const {
    std::call_once(once_, [&] { decomposition_ = diffusion::decompose(*op); });
    return decomposition_;
  }
  template <class C>
  backend::SparseOperator<C, B> sparse() const {
    backend::SparseOperator<C, B> s;
    s.nodes = op->graph->nodes();
    s.row_start = op->graph->row_start().data();
    s.col_index = op->graph->col_index().data();
    if constexpr (sizeof(C) == sizeof(float)) {
      s.weights = op->weights_float.data();
      s.diagonal = op->diagonal_float.data();
    } else {
      s.weights = op->weights.data();
      s.diagonal = op->diagonal.data();
    }
    return s;
  }
  std::shared_ptr<const diffusion::Operator> op;

 private:
  mutable std::once_flag once_;
  mutable diffusion::Decomposition decomposition_;
};

template <class T, class B>
class DiffusionMask<T, B>::Expansion {
 public:
  Expansion(const State& state, double t, double tolerance)
      : time(t), series(diffusion::plan_series(*state.op, t, tolerance, roundoff(false))) {
    if constexpr (sizeof(T) == sizeof(float)) {
      // Float where the tolerance allows its rounding, that of the operator included (normalised weights: 6e-8 t), where
      // exp(-t low) leaves room below the largest float, and where it does not take so many more steps that double is cheaper.
      if (tolerance < diffusion::recurrence_rounding(static_cast<double>(series.coefficients.size()), roundoff(true)) ||
          -t * state.op->low >= 60) {
        return;
      }
      diffusion::Series rounded = diffusion::plan_series(*state.op, t, tolerance, roundoff(true), state.op->float_error);
      if (!(rounded.certificate <= tolerance && rounded.rounding <= tolerance)) return;
      if (products(rounded) > kDoubleCost * products(series)) return;
      series = std::move(rounded);
      in_float = true;
    }
  }
  static double products(const diffusion::Series& s) {
    return static_cast<double>(s.steps) * static_cast<double>(s.coefficients.size() - 1);
  }
  // exp(-t T) and its derivative in t as dense matrices, made on first need.
  const std::vector<T>& matrix(const State& state) {
    std::call_once(matrix_once_,
                   [&] { convert(diffusion::dense_kernel(*state.op, state.decomposition(), time, false), matrix_); });
    return matrix_;
  }
  const std::vector<T>& derivative(const State& state) {
    std::call_once(derivative_once_,
                   [&] { convert(diffusion::dense_kernel(*state.op, state.decomposition(), time, true), derivative_); });
    return derivative_;
  }
  double time;
  diffusion::Series series;
  bool in_float = false;  // the recurrence's arithmetic; otherwise double

 private:
  static void convert(const std::vector<double>& from, std::vector<T>& to) { to.assign(from.begin(), from.end()); }
  std::once_flag matrix_once_, derivative_once_;
  std::vector<T> matrix_, derivative_;
};

template <class T, class B>
DiffusionMask<T, B>::DiffusionMask(std::shared_ptr<const Graph> graph, double time, GraphOperator op, MaskOptions options)
    : DiffusionMask(std::make_shared<const State>(diffusion::make_operator(std::move(graph), op)), time, options) {}

template <class T, class B>
DiffusionMask<T, B>::DiffusionMask(std::shared_ptr<const State> state, double time, const MaskOptions& options)
    : Mask<T, B>(state->op->graph->nodes(), state->op->graph->nodes(), options), state_(std::move(state)) {
  if (!(time >= 0) || !std::isfinite(time)) throw ValueError("DiffusionMask: the time must be finite and >= 0");
  // ||M||_2 is at least exp(largest); the terms of its series, of size exp(t rho(|A|)), are split until they fit (plan_series).
  const double largest = -time * state_->op->smallest, limit = sizeof(T) == sizeof(float) ? 80 : diffusion::kLargestExponent;
  if (largest > limit) {
    throw ValueError("DiffusionMask: exp(tA) overflows: t times the largest eigenvalue is at least " + number_text(largest) +
                     " (expected at most " + std::to_string(static_cast<int>(limit)) + "); use a smaller time or a Laplacian");
  }
  expansion_ = std::make_shared<Expansion>(*state_, time, this->tolerance() > 0 ? this->tolerance() : 1e-16);
}
template <class T, class B>
DiffusionMask<T, B>::~DiffusionMask() = default;

template <class T, class B>
double DiffusionMask<T, B>::time() const {
  return expansion_->time;
}

template <class T, class B>
std::span<const double> DiffusionMask<T, B>::parameters() const {
  return {&expansion_->time, 1};
}

template <class T, class B>
std::shared_ptr<const Mask<T, B>> DiffusionMask<T, B>::with_parameters(std::span<const double> p) const {
  if (p.size() != 1) throw ShapeError("parameters", static_cast<Index>(p.size()), 1);
  return std::shared_ptr<const Mask<T, B>>(new DiffusionMask(state_, p[0], this->options()));
}

template <class T, class B>
std::vector<Report> DiffusionMask<T, B>::candidates(Shape shape) const {
  const auto& op = *state_->op;
  const auto& series = expansion_->series;
  const double columns = static_cast<double>(shape.columns * std::max<Index>(1, shape.rank) * shape.heads);
  const double products = Expansion::products(series);
  const auto n = static_cast<double>(this->rows()), nonzeros = static_cast<double>(op.graph->stored());
  const bool inner_double = !expansion_->in_float;

  Report chebyshev;
  chebyshev.engine = "chebyshev";
  chebyshev.terms = static_cast<Index>(products) + 1;
  chebyshev.certificate = Certificate{.norm = series.certificate};
  // Below T's normal numbers the result is flushed to 0.
  const double flushed = std::min(
      1.0, static_cast<double>(std::numeric_limits<T>::min()) * std::exp(std::min(700.0, expansion_->time * op.smallest)));
  chebyshev.rounding_estimate = series.rounding + std::numeric_limits<T>::epsilon() + flushed;
  chebyshev.flops = products * columns * (2 * nonzeros + 7 * n);
  const double element = inner_double ? 8 : 4;
  chebyshev.bytes = products * (columns * n * 4 * element + std::ceil(columns / 16) * nonzeros * (4 + element));
  chebyshev.predicted_seconds = this->options().cost.call_seconds +
                                std::max(chebyshev.flops / this->options().cost.sparse_flops * (inner_double ? kDoubleCost : 1),
                                         chebyshev.bytes / this->options().cost.bandwidth);
  chebyshev.extra_bytes = static_cast<std::size_t>(3 * n * 16 * element) + this->panel_bytes(shape);
  chebyshev.reason = std::to_string(chebyshev.terms) + " terms " +
                     (series.steps > 1 ? "in " + std::to_string(series.steps) + " steps " : std::string()) + "for time " +
                     number_text(expansion_->time) + " on a spectrum of width " + number_text(op.high - op.low) +
                     (inner_double && sizeof(T) == 4 ? ", in double" : "");
  if (series.certificate > this->tolerance()) {
    chebyshev.warnings.push_back("the certificate is above the tolerance: the spectral bounds are too wide for this time");
  }
  if (series.rounding > this->tolerance()) {
    chebyshev.warnings.push_back(
        "the rounding estimate is above the tolerance: this time on this spectrum needs more than double");
  }
  if (flushed > this->tolerance()) {
    chebyshev.warnings.push_back("the kernel is so small that its entries are flushed to 0: use a smaller time");
  }
  const bool small = this->rows() <= diffusion::kEigenNodes;
  // The adjacency's terms may cancel; the decomposition's do not. It is left the only engine where they cancel too much.
  const bool missed = op.kind == GraphOperator::adjacency && this->tolerance() > 0 &&
                      std::max(series.certificate, series.rounding) > this->tolerance();
  std::vector<Report> all;
  if (!(missed && small && this->options().engine == "auto")) all.push_back(std::move(chebyshev));
  if (small) {
    Report eigen = this->tile_report(shape, "eigen");
    // The decomposition (about 10 n^3 flops at 2 Gflop/s) is paid once a graph, the kernel (2 n^3) once a time; counted whole.
    eigen.predicted_seconds += 12 * n * n * n / 2e9;
    // Eigenvalues are good to some eps ||T||, which exp(-t T) multiplies by t; eigenvectors are orthogonal to some eps sqrt(n).
    // Errors measured on graphs of 6 to 500 nodes with weights of both signs, t ||T|| to 600, are at most 0.71 of this.
    const double reach = expansion_->time * std::max(std::abs(op.low), std::abs(op.high));
    eigen.rounding_estimate += std::min(1.0, op.condition * roundoff(false) * (16 * reach + 4 * std::sqrt(n))) + flushed;
    eigen.reason = "dense eigendecomposition, " + std::to_string(this->rows()) + " nodes";
    eigen.extra_bytes += static_cast<std::size_t>(n * n) * (8 + sizeof(T));
    all.push_back(std::move(eigen));
  }
  return all;
}

template <class T, class B>
Entries<T, B> DiffusionMask<T, B>::entries() const {
  Entries<T, B> e;
  if (this->options().engine != "eigen") return e;
  e.kind = EntryKind::dense;
  e.rows = e.cols = e.values_stride = this->rows();
  e.values = expansion_->matrix(*state_).data();
  return e;
}
template <class T, class B>
Index DiffusionMask<T, B>::entries_gradient_size() const {
  return this->options().engine == "eigen" ? this->rows() * this->rows() : 0;
}
template <class T, class B>
EntriesGradient<T, B> DiffusionMask<T, B>::entries_gradient(T* scratch) const {
  EntriesGradient<T, B> g;
  if (this->options().engine == "eigen") g.values = scratch;
  return g;
}
template <class T, class B>
void DiffusionMask<T, B>::fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>&) const {
  const std::vector<T>& d = expansion_->derivative(*state_);
  double sum = 0;
  for (std::size_t p = 0; p < d.size(); ++p) sum += static_cast<double>(scratch[p]) * static_cast<double>(d[p]);
  parameter_bar[0] += static_cast<T>(sum);
}

template <class T, class B>
template <class C>
void DiffusionMask<T, B>::apply_chebyshev(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                                          const Context<B>& context) const {
  const diffusion::Operator& op = *state_->op;
  const std::vector<double>& c = expansion_->series.coefficients;
  const auto sparse = state_->template sparse<C>();
  const Index n = this->rows(), widest = backend::panel_columns<C, B>();
  const Index stride = backend::panel_stride<C, B>(std::min(widest, x.cols));
  const double* in = op.left.empty() ? nullptr : (transpose ? op.left : op.right).data();
  const double* out = op.left.empty() ? nullptr : (transpose ? op.right : op.left).data();
  backend::Buffer<C, B> a(n * stride), b(n * stride), sum(n * stride);
  // 2 X = alpha T - middle, middle = alpha (high + low) / 2.
  const C alpha = static_cast<C>(op.alpha), middle = static_cast<C>(op.alpha * (op.high + op.low) / 2);
  const auto panels = (x.cols + stride - 1) / stride;
  for (Index p = 0; p < panels; ++p) {
    const Index first = p * stride, count = std::min(stride, x.cols - first);
    C *current = a.data(), *previous = b.data(), *y_sum = sum.data();
    backend::load_panel<T, C, B>(x.columns(first, count), in, current, stride, context);
    for (Index step = 0; step < expansion_->series.steps; ++step) {
      if (step > 0) std::swap(current, y_sum);  // the last step's result is this one's input
      const MatrixView<C, B> total(y_sum, n, stride);
      backend::fill(total, C(0), context);
      backend::add_scaled<C, B>(static_cast<C>(c[0]), MatrixView<const C, B>(current, n, stride), total, context);
      for (std::size_t k = 1; k < c.size(); ++k) {
        // T_1 = X T_0, then T_{k+1} = 2 X T_k - T_{k-1}.
        const C half = k == 1 ? C(0.5) : C(1);
        backend::recurrence_step<C, B>(sparse, half * alpha, -half * middle, k == 1 ? C(0) : C(1), static_cast<C>(c[k]),
                                       current, previous, y_sum, stride, context);
        std::swap(current, previous);
        if (context.progress != nullptr) {
          backend::check_cancelled(context);
          if (context.progress->callback) {
            const double in_step = static_cast<double>(k) / static_cast<double>(c.size());
            const double in_panel = (static_cast<double>(step) + in_step) / static_cast<double>(expansion_->series.steps);
            context.progress->callback("diffusion", (static_cast<double>(p) + in_panel) / static_cast<double>(panels));
          }
        }
      }
    }
    backend::store_panel<T, C, B>(y_sum, stride, out, y.columns(first, count), context);
  }
}

template <class T, class B>
void DiffusionMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const {
  const Report chosen = this->report({.columns = x.cols});
  if (chosen.engine == "eigen") {
    Entries<T, B> e;
    e.kind = EntryKind::dense;
    e.rows = e.cols = e.values_stride = this->rows();
    e.values = expansion_->matrix(*state_).data();
    backend::tile_multiply(e, x, y, transpose, context);
  } else if (expansion_->in_float) {
    apply_chebyshev<float>(x, y, transpose, context);
  } else {
    apply_chebyshev<double>(x, y, transpose, context);
  }
}

template <class T, class B>
void DiffusionMask<T, B>::apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                         const Context<B>& context) const {
  if (this->report({.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)}).engine != "eigen") {
    this->low_rank_by_panels(in, out, transpose, context);
    return;
  }
  Entries<T, B> e;
  e.kind = EntryKind::dense;
  e.rows = e.cols = e.values_stride = this->rows();
  e.values = expansion_->matrix(*state_).data();
  backend::tile_low_rank(e, in, out, transpose, context);
}

// dM/dt = -T M, so the gradient is -sum y_bar ∘ (T M x): one product with the kernel and one with T. For the random walk
// T = D^-1/2 N D^1/2 is applied between the diagonal factors.
template <class T, class B>
void DiffusionMask<T, B>::add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                                 VectorView<T, B> parameter_bar, const Context<B>& context) const {
  const diffusion::Operator& op = *state_->op;
  const auto sparse = state_->template sparse<double>();
  const Index n = this->rows(), widest = std::min(x.cols, backend::panel_columns<double, B>());
  const Index stride = backend::panel_stride<double, B>(widest);
  backend::Buffer<T, B> product(n * widest);
  backend::Buffer<double, B> panel(n * stride), applied(n * stride), unused(n * stride);
  backend::fill(unused.matrix(n, stride), 0.0, context);
  double sum = 0;
  for (Index first = 0; first < x.cols; first += widest) {
    const Index count = std::min(widest, x.cols - first);
    const MatrixView<T, B> m(product.data(), n, count);
    apply(x.columns(first, count), m, false, context);
    backend::load_panel<T, double, B>(m, op.left.empty() ? nullptr : op.right.data(), panel.data(), stride, context);
    backend::recurrence_step<double, B>(sparse, 1.0, 0.0, 0.0, 0.0, panel.data(), applied.data(), unused.data(), stride,
                                        context);
    for (Index i = 0; i < n; ++i) {
      const double f = op.left.empty() ? 1.0 : op.left[static_cast<std::size_t>(i)];
      for (Index k = 0; k < count; ++k) sum -= f * static_cast<double>(y_bar(i, first + k)) * applied.data()[i * stride + k];
    }
  }
  parameter_bar[0] += static_cast<T>(sum);
}

template class ESPALIER_EXPORT DiffusionMask<float, Cpu>;
template class ESPALIER_EXPORT DiffusionMask<double, Cpu>;

}  // namespace espalier
