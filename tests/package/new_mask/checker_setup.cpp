// CheckerMask on the command line: --mask checker.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/masks/checker.hpp>
#include <espalier/masks/form.hpp>

ESPALIER_MASK_FORM(checker)

namespace espalier::forms {

namespace {

template <class T>
std::vector<MaskPointer<T>> build_checker(FormArguments& arguments) {
  return {std::make_shared<CheckerMask<T>>(arguments.size().first, arguments.mask_options())};
}

}  // namespace

MaskForm checker_form() {
  MaskForm form;
  form.kind = "checker";
  form.help = "every second pair, as on a chessboard";
  form.build_float = build_checker<float>;
  form.build_double = build_checker<double>;
  return form;
}

}  // namespace espalier::forms
