// CheckerMask: the laws, and its place in the list of forms.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/masks/checker.hpp>
#include <espalier/masks/form.hpp>

#include <algorithm>

#include "support/inputs.hpp"
#include "support/mask_laws.hpp"

namespace es = espalier;
using es::Index;

TEST_CASE_TEMPLATE("the checker obeys the laws", T, float, double) {
  for (const Index n : {1, 2, 7, 64}) {
    es::test::MaskCase<T> c{.name = "checker", .mask = std::make_shared<es::CheckerMask<T>>(n), .reference = [=](auto) {
                              return es::test::dense_matrix(n, n,
                                                            [](Index i, Index j) { return (i + j) % 2 == 0 ? 1.0 : 0.0; });
                            }};
    es::test::check_mask_laws(c);
  }
}

TEST_CASE("the checker is among the forms") {
  const auto forms = es::mask_forms();
  CHECK(std::any_of(forms.begin(), forms.end(), [](const es::MaskForm& form) { return form.kind == "checker"; }));
}
