// OnesMask on the host: its command-line form.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/form.hpp>
#include <espalier/masks/ones.hpp>

ESPALIER_MASK_FORM(ones)

namespace espalier::forms {

namespace {

template <class T>
std::vector<MaskPointer<T>> build_ones(FormArguments& arguments) {
  const auto [rows, cols] = arguments.size();
  if (rows == 0 && cols == 0) {
    throw ValueError("ones: its size comes from other input (rows of X, queries and keys), and there is none here");
  }
  const std::optional<Index> shift = arguments.causal_shift();
  return {std::make_shared<OnesMask<T>>(rows, cols, shift.has_value(), shift.value_or(0), arguments.mask_options())};
}

}  // namespace

MaskForm ones_form() {
  MaskForm form;
  form.kind = "ones";
  form.help = "every pair alike; the size is that of the other input";
  form.build_float = build_ones<float>;
  form.build_double = build_ones<double>;
  return form;
}

}  // namespace espalier::forms
