// DenseMask: entries stored once in T (kernels) and once in double (parameters).
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/dense.hpp>
#include <espalier/masks/form.hpp>

#include <cmath>
#include <vector>

namespace espalier {

template <class T, class B>
class DenseMask<T, B>::State {
 public:
  explicit State(MatrixView<const double, Cpu> m) {
    parameters.reserve(static_cast<std::size_t>(m.rows * m.cols));
    for (Index i = 0; i < m.rows; ++i) {
      for (Index j = 0; j < m.cols; ++j) {
        // -inf is a bias that leaves its pair out.
        if (!std::isfinite(m(i, j)) && !(m(i, j) < 0)) {
          throw ValueError("DenseMask: entry (" + std::to_string(i) + ", " + std::to_string(j) + ") is NaN or +inf");
        }
        parameters.push_back(m(i, j));
      }
    }
    values.assign(parameters.begin(), parameters.end());
  }
  std::vector<double> parameters;
  std::vector<T> values;
};

template <class T, class B>
DenseMask<T, B>::DenseMask(MatrixView<const double, Cpu> values, MaskOptions options)
    : Mask<T, B>(values.rows, values.cols, std::move(options)), state_(std::make_shared<State>(values)) {}
template <class T, class B>
DenseMask<T, B>::~DenseMask() = default;

template <class T, class B>
Entries<T, B> DenseMask<T, B>::entries() const {
  Entries<T, B> e;
  e.kind = EntryKind::dense;
  e.rows = this->rows();
  e.cols = this->cols();
  e.values = state_->values.data();
  e.values_stride = this->cols();
  return e;
}
template <class T, class B>
Index DenseMask<T, B>::entries_gradient_size() const {
  return this->rows() * this->cols();
}
template <class T, class B>
EntriesGradient<T, B> DenseMask<T, B>::entries_gradient(T* scratch) const {
  EntriesGradient<T, B> g;
  g.values = scratch;
  return g;
}
template <class T, class B>
void DenseMask<T, B>::fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar, const Context<B>&) const {
  for (Index p = 0; p < parameter_bar.size; ++p) parameter_bar[p] += scratch[p];
}
template <class T, class B>
std::span<const double> DenseMask<T, B>::parameters() const {
  return state_->parameters;
}
template <class T, class B>
std::shared_ptr<const Mask<T, B>> DenseMask<T, B>::with_parameters(std::span<const double> p) const {
  if (p.size() != state_->parameters.size()) {
    throw ShapeError("parameters", static_cast<Index>(p.size()), static_cast<Index>(state_->parameters.size()));
  }
  return std::make_shared<DenseMask>(MatrixView<const double, Cpu>(p.data(), this->rows(), this->cols()), this->options());
}

template <class T, class B>
void DenseMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose, const Context<B>& context) const {
  this->apply_by_tiles(x, y, transpose, context);
}
template <class T, class B>
std::vector<Report> DenseMask<T, B>::candidates(Shape shape) const {
  return {this->tile_report(shape, "dense")};
}

template class ESPALIER_EXPORT DenseMask<float, Cpu>;
template class ESPALIER_EXPORT DenseMask<double, Cpu>;

}  // namespace espalier

ESPALIER_MASK_FORM(dense)

namespace espalier::forms {

namespace {

template <class T>
std::vector<MaskPointer<T>> build_dense(FormArguments& arguments) {
  const FormArray a = arguments.array_file(arguments.operand());
  for (std::size_t p = 0; p < a.values.size(); ++p) {
    if (std::isfinite(a.values[p]) || (arguments.additive() && a.values[p] < 0)) continue;
    throw FormatError(arguments.operand(), 0,
                      "element " + std::to_string(p) + " is not finite (expected finite entries" +
                          (arguments.additive() ? ", or -inf for pairs left out)" : ")"));
  }
  if (a.shape.size() != 2)
    throw FormatError(arguments.operand(), 0, std::to_string(a.shape.size()) + " dimensions (expected 2, a matrix)");
  return {std::make_shared<DenseMask<T>>(MatrixView<const double>(a.values.data(), a.shape[0], a.shape[1]),
                                         arguments.mask_options())};
}

}  // namespace

MaskForm dense_form() {
  MaskForm form;
  form.kind = "dense";
  form.operand = "M.npy";
  form.help = "the matrix itself";
  form.build_float = build_dense<float>;
  form.build_double = build_dense<double>;
  return form;
}

}  // namespace espalier::forms
