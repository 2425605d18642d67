// LowRankMask: products by state with the factors in the place of the features.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/form.hpp>
#include <espalier/masks/low_rank.hpp>

#include "backend/block_product.hpp"
#include "backend/elementwise.hpp"
#include "backend/state_products.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace espalier {

template <class T, class B>
class LowRankMask<T, B>::State {
 public:
  // Parameters of F (rows x r), then of G (cols x r) unless G is F.
  State(std::vector<double> p, Index f_rows, Index g_rows, Index r, bool is_symmetric)
      : parameters(std::move(p)),
        values(parameters.begin(), parameters.end()),
        rows(f_rows),
        cols(g_rows),
        rank(r),
        symmetric(is_symmetric) {
    for (const double v : parameters) {
      if (!std::isfinite(v)) throw ValueError("LowRankMask: a factor's entry is not finite");
    }
  }
  MatrixView<const T, B> f() const { return {values.data(), rows, rank}; }
  MatrixView<const T, B> g() const { return {symmetric ? values.data() : values.data() + rows * rank, cols, rank}; }

  std::vector<double> parameters;
  std::vector<T> values;
  Index rows, cols, rank;
  bool symmetric;
};

namespace {

void append(MatrixView<const double, Cpu> m, std::vector<double>& out) {
  for (Index i = 0; i < m.rows; ++i) {
    for (Index k = 0; k < m.cols; ++k) out.push_back(m(i, k));
  }
}

std::vector<double> joined(MatrixView<const double, Cpu> f, MatrixView<const double, Cpu> g) {
  if (g && g.cols != f.cols) throw ShapeError("g", std::to_string(g.cols) + " columns", std::to_string(f.cols) + " as in f");
  std::vector<double> all;
  append(f, all);
  if (g) append(g, all);
  return all;
}

}  // namespace

template <class T, class B>
LowRankMask<T, B>::LowRankMask(MatrixView<const double, Cpu> f, MatrixView<const double, Cpu> g, MaskOptions options)
    : LowRankMask(std::make_shared<State>(joined(f, g), f.rows, g ? g.rows : f.rows, f.cols, !g), f.rows, g ? g.rows : f.rows,
                  std::move(options)) {}
template <class T, class B>
LowRankMask<T, B>::LowRankMask(std::shared_ptr<const State> state, Index rows, Index cols, MaskOptions options)
    : Mask<T, B>(rows, cols, std::move(options)), state_(std::move(state)) {}
template <class T, class B>
LowRankMask<T, B>::~LowRankMask() = default;

template <class T, class B>
Entries<T, B> LowRankMask<T, B>::entries() const {
  Entries<T, B> e;
  e.kind = EntryKind::factors;
  e.rows = this->rows();
  e.cols = this->cols();
  e.left = state_->f().data;
  e.right = state_->g().data;
  e.left_stride = e.right_stride = e.factor_rank = state_->rank;
  return e;
}
template <class T, class B>
Index LowRankMask<T, B>::entries_gradient_size() const {
  return (this->rows() + this->cols()) * state_->rank;
}
template <class T, class B>
EntriesGradient<T, B> LowRankMask<T, B>::entries_gradient(T* scratch) const {
  EntriesGradient<T, B> g;
  g.left = scratch;
  g.right = scratch + this->rows() * state_->rank;
  return g;
}
template <class T, class B>
void LowRankMask<T, B>::fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>&) const {
  for (Index p = 0; p < parameter_bar.size; ++p) {
    parameter_bar[p] += scratch[p];
    if (state_->symmetric) parameter_bar[p] += scratch[parameter_bar.size + p];
  }
}

template <class T, class B>
std::span<const double> LowRankMask<T, B>::parameters() const {
  return state_->parameters;
}
template <class T, class B>
std::shared_ptr<const Mask<T, B>> LowRankMask<T, B>::with_parameters(std::span<const double> p) const {
  if (p.size() != state_->parameters.size()) {
    throw ShapeError("parameters", static_cast<Index>(p.size()), static_cast<Index>(state_->parameters.size()));
  }
  auto state = std::make_shared<State>(std::vector<double>(p.begin(), p.end()), this->rows(), this->cols(), state_->rank,
                                       state_->symmetric);
  return std::shared_ptr<LowRankMask>(new LowRankMask(std::move(state), this->rows(), this->cols(), this->options()));
}

// All pairs take part: the shift is one that excludes none.
template <class T, class B>
void LowRankMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const {
  if (this->runs_by_tiles({.columns = x.cols})) return this->apply_by_tiles(x, y, transpose, context);
  const auto f = transpose ? state_->g() : state_->f(), g = transpose ? state_->f() : state_->g();
  backend::state_product<T, B>({.a = {f}, .b = {g}, .x = {x}, .rows = f.rows, .cols = g.rows, .shift = g.rows}, y, {}, false,
                               context);
}

// M_ij (a_i . b_j) = sum over k of f_ik g_jk (a_i . b_j): one product by state for each k, its weights on the rows. F, G and A,
// B stand alike: the sum runs over the narrower pair, the wider one is the state.
template <class T, class B>
void LowRankMask<T, B>::apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                       const Context<B>& context) const {
  if (this->runs_by_tiles({.columns = in.x.cols, .rank = std::max<Index>(1, in.a.cols)})) {
    return this->low_rank_by_tiles(in, out, transpose, context);
  }
  const auto f = transpose ? state_->g() : state_->f(), g = transpose ? state_->f() : state_->g();
  const MatrixView<T, B> row_sum(out.row_sum.data, out.row_sum.size, 1);
  const bool over_factors = state_->rank <= in.a.cols;
  const auto narrow_i = over_factors ? f : in.a, narrow_j = over_factors ? g : in.b;
  backend::StateProduct<T, B> p;
  p.a = {over_factors ? in.a : f};
  p.b = {over_factors ? in.b : g};
  p.x = {in.x, static_cast<bool>(out.row_sum)};
  p.rows = f.rows;
  p.cols = p.shift = g.rows;
  if (narrow_i.cols == 0) {
    backend::fill(out.y, T(0), context);
    if (out.row_sum) backend::fill(row_sum, T(0), context);
  }
  for (Index k = 0; k < narrow_i.cols; ++k) {
    p.row_weight = narrow_i.columns(k, 1);
    p.col_weight = narrow_j.columns(k, 1);
    backend::state_product(p, out.y, row_sum, k > 0, context);
  }
}

// f_bar_i += sum_j (y_bar_i . x_j) g_j and g_bar_j += sum_i (x_j . y_bar_i) f_i.
template <class T, class B>
void LowRankMask<T, B>::add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                               VectorView<T, B> parameter_bar, const Context<B>& context) const {
  if (parameter_bar.size == 0) return;
  const auto f = state_->f(), g = state_->g();
  T* g_bar = parameter_bar.data + (state_->symmetric ? 0 : f.rows * f.cols);
  backend::state_product<T, B>({.a = {y_bar}, .b = {x}, .x = {g}, .rows = f.rows, .cols = g.rows, .shift = g.rows},
                               MatrixView<T, B>(parameter_bar.data, f.rows, f.cols), {}, true, context);
  backend::state_product<T, B>({.a = {x}, .b = {y_bar}, .x = {f}, .rows = g.rows, .cols = f.rows, .shift = f.rows},
                               MatrixView<T, B>(g_bar, g.rows, g.cols), {}, true, context);
}

template <class T, class B>
std::vector<Report> LowRankMask<T, B>::candidates(Shape shape) const {
  Report r;
  r.engine = "factors";
  const CostModel& cost = this->options().cost;
  const Index passes = shape.rank == 0 ? 1 : std::min(state_->rank, shape.rank);
  const Index width = shape.rank == 0 ? state_->rank : std::max(state_->rank, shape.rank);
  const auto length = static_cast<double>(this->rows() + this->cols()) * static_cast<double>(shape.heads * passes);
  r.flops = 2 * length * static_cast<double>(width) * static_cast<double>(shape.columns);
  r.bytes = sizeof(T) * length * static_cast<double>(width + 2 * shape.columns);
  r.reason = std::to_string(passes) + " products with a state of " + std::to_string(width) + " x " +
             std::to_string(shape.columns) + " numbers instead of " + std::to_string(this->rows()) + " x " +
             std::to_string(this->cols()) + " pairs";
  const double done = 2 * length * static_cast<double>(width) * static_cast<double>(backend::padded_width(shape.columns + 1));
  r.predicted_seconds =
      static_cast<double>(shape.heads * passes) * 2 * cost.call_seconds + done / cost.tile_flops * (sizeof(T) / 4.0);
  // The widest of the products and of those that the gradients are made of.
  const Index widest = std::max({width, shape.columns, shape.rank}) + 1;
  r.extra_bytes = backend::state_product_bytes(widest, widest, sizeof(T));
  r.rounding_estimate = std::numeric_limits<T>::epsilon() * 8;
  r.row_wise = true;
  return {r, this->tile_report({shape.columns, shape.rank + state_->rank, shape.heads}, "direct")};
}

template class ESPALIER_EXPORT LowRankMask<float, Cpu>;
template class ESPALIER_EXPORT LowRankMask<double, Cpu>;

}  // namespace espalier

ESPALIER_MASK_FORM(low_rank)

namespace espalier::forms {

namespace {

FormArray factor(FormArguments& arguments, const std::string& file) {
  FormArray a = arguments.array_file(file);
  if (a.shape.size() != 2) throw FormatError(file, 0, std::to_string(a.shape.size()) + " dimensions (expected 2, L x r)");
  return a;
}

template <class T>
std::vector<MaskPointer<T>> build_low_rank(FormArguments& arguments) {
  const std::string operand = arguments.operand();
  const std::size_t comma = operand.find(',');
  const FormArray f = factor(arguments, operand.substr(0, comma));
  const MatrixView<const double> left(f.values.data(), f.shape[0], f.shape[1]);
  if (comma == std::string::npos)
    return {std::make_shared<LowRankMask<T>>(left, MatrixView<const double>(), arguments.mask_options())};
  const std::string file = operand.substr(comma + 1);
  const FormArray g = factor(arguments, file);
  if (g.shape[1] != f.shape[1]) {
    throw FormatError(file, 0,
                      std::to_string(g.shape[1]) + " columns (expected " + std::to_string(f.shape[1]) + " as " +
                          operand.substr(0, comma) + " has)");
  }
  const MatrixView<const double> right(g.values.data(), g.shape[0], g.shape[1]);
  return {std::make_shared<LowRankMask<T>>(left, right, arguments.mask_options())};
}

}  // namespace

MaskForm low_rank_form() {
  MaskForm form;
  form.kind = "low-rank";
  form.operand = "F.npy[,G.npy]";
  form.help = "F F^T, or F G^T";
  form.build_float = build_low_rank<float>;
  form.build_double = build_low_rank<double>;
  return form;
}

}  // namespace espalier::forms
