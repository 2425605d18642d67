// LowRankMask: the laws for F Gᵀ and F Fᵀ, and refused factors.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/masks/low_rank.hpp>

#include <limits>

#include "support/inputs.hpp"
#include "support/mask_laws.hpp"

namespace es = espalier;
using es::Index;
using es::test::DenseMatrix;

namespace {

template <class T>
void check(Index rows, Index cols, Index rank, bool symmetric, bool engines) {
  const auto f = es::test::make_input<double>(rows, rank, es::test::InputKind::with_signs, 5);
  const auto g = es::test::make_input<double>(cols, rank, es::test::InputKind::with_signs, 6);
  const auto make = [&](const std::string& engine) {
    return std::make_shared<es::LowRankMask<T>>(f.view(), symmetric ? es::MatrixView<const double>() : g.view(),
                                                es::MaskOptions{.engine = engine});
  };
  es::test::MaskCase<T> c{
      .name = "low rank " + std::to_string(rows) + " x " + std::to_string(cols) + " x " + std::to_string(rank),
      .mask = make("auto"),
      .reference = [=](std::span<const double> p) {
        return es::test::dense_matrix(rows, cols, [&](Index i, Index j) {
          double sum = 0;
          for (Index k = 0; k < rank; ++k) {
            sum += p[static_cast<std::size_t>(i * rank + k)] *
                   p[static_cast<std::size_t>(((symmetric ? 0 : rows) + j) * rank + k)];
          }
          return sum;
        });
      }};
  // M = F Gᵀ is itself a sum of `rank` signed terms; E compares with |M|, rounding follows |F| |G|ᵀ: a few times more.
  c.product_bound = sizeof(T) == 4 ? 4e-6 : 4e-12;
  if (engines) c.with_engine = make;
  es::test::check_mask_laws(c);
}

}  // namespace

TEST_CASE_TEMPLATE("low rank masks obey the laws", T, float, double) {
  for (const Index n : es::test::law_sizes()) {
    check<T>(n, n + 3, 5, false, n <= 64);
    check<T>(n, n, 2, true, n <= 64);
  }
  check<T>(70, 13, 40, false, true);
  check<T>(8, 8, 1, true, false);
  check<T>(0, 3, 2, false, false);
  check<T>(3, 3, 0, true, false);
}

TEST_CASE("low rank masks refuse bad factors") {
  const double f[6] = {1, 2, 3, 4, 5, 6};
  const double bad[2] = {1, std::numeric_limits<double>::quiet_NaN()};
  CHECK_THROWS_AS((es::LowRankMask<float>({f, 3, 2}, {f, 2, 3})), es::ShapeError);
  CHECK_THROWS_AS((es::LowRankMask<float>({bad, 2, 1})), es::ValueError);
}
