// Laws of the products: against the slow loop, adjointness, linearity, empty shapes, NaN.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "support/law_run.hpp"

namespace espalier::test {

namespace {

template <class T>
void check_plain(LawRun<T>& run, Operation o, const DenseMatrix& m) {
  const std::string law = is_transposed(o) ? "transpose" : "product";
  for (const Index columns : {1, 3, 33}) {
    for (const InputKind kind : input_kinds) {
      const Shape shape{.columns = columns};
      if (!run.can(shape)) continue;
      const auto in = operands_for(run.mask, o, shape, kind, 11);
      run.law(law, [&] {
        const auto out = perform(run.mask, o, in);
        run.bound(law, relative_error(out[0].dense(), reference_product(m, in.x.dense())), run.product_bound(),
                  describe(shape, kind));
      });
    }
  }
}

template <class T>
void check_low_rank_shape(LawRun<T>& run, Operation o, const DenseMatrix& m, Shape shape, InputKind kind) {
  if (!run.can(shape)) return;
  const std::string law = is_transposed(o) ? "low-rank transpose" : "low-rank product";
  const std::string where = describe(shape, kind);
  const auto in = operands_for(run.mask, o, shape, kind, 23);
  run.law(law, [&] {
    const auto expected = reference_low_rank(m, in.a.dense(), in.b.dense(), in.x.dense());
    const auto out = perform(run.mask, o, in);
    run.bound(law, relative_error(out[0].dense(), expected.y), run.product_bound(), where);
    run.bound("row sums", relative_error(out[1].column(), expected.row_sum), run.product_bound(),
              where + (is_transposed(o) ? ", transposed" : ""));
    Guarded<T> y(m.rows, shape.columns);
    if (o == Operation::low_rank) {
      run.mask.multiply_low_rank(in.inputs(), {y.view()}, {.threads = 1});
    } else {
      run.mask.multiply_low_rank_transpose(in.inputs(), {y.view()}, {.threads = 1});
    }
    run.bound(law, relative_error(y.dense(), expected.y), run.product_bound(), where + ", no row sums");
  });
}

template <class T>
void check_low_rank(LawRun<T>& run, Operation o, const DenseMatrix& m) {
  for (const InputKind kind : input_kinds) check_low_rank_shape(run, o, m, {.columns = 3, .rank = 3}, kind);
  // The other shapes take turns with the inputs: every kernel path is met without five times the time.
  std::size_t turn = 0;
  for (const Shape shape : {Shape{.columns = 1, .rank = 1},
                            {.columns = 33, .rank = 1},
                            {.columns = 1, .rank = 33},
                            {.columns = 33, .rank = 33},
                            {.columns = 3, .rank = 33},
                            {.columns = 33, .rank = 3}}) {
    check_low_rank_shape(run, o, m, shape, input_kinds[turn++ % std::size(input_kinds)]);
  }
}

// |<u, P v> - <Pᵀ u, v>| <= 20 eps sqrt(L) <|u|, |P| |v|>, the reference standing in for |P|.
template <class T>
void check_adjointness(LawRun<T>& run) {
  const double length = static_cast<double>(std::max(run.m.rows, run.m.cols));
  const double limit = 20 * static_cast<double>(std::numeric_limits<T>::epsilon()) * std::sqrt(length);
  const auto compare = [&](Operation forward, Operation back, Shape shape, InputKind kind) {
    if (!run.can(forward, shape)) return;
    const auto in = operands_for(run.mask, forward, shape, kind, 37);
    auto turned = operands_for(run.mask, back, shape, kind, 37);
    turned.a = in.b, turned.b = in.a, turned.x = in.y_bar;
    const DenseMatrix u = in.y_bar.dense(), v = in.x.dense();
    const DenseMatrix p = is_low_rank(forward) ? entrywise(run.m, product_transposed(in.a.dense(), in.b.dense())) : run.m;
    const double left = inner(u, perform(run.mask, forward, in)[0].dense());
    const double right = inner(perform(run.mask, back, turned)[0].dense(), v);
    const double scale = inner(absolute(u), reference_product(p, v).magnitude);
    const double difference = std::abs(left - right);
    run.bound("adjointness", difference == 0 ? 0 : difference / scale, limit, describe(shape, kind));
  };
  for (const InputKind kind : {InputKind::positive, InputKind::with_signs, InputKind::alternating}) {
    run.law("adjointness", [&] {
      compare(Operation::product, Operation::transpose, {.columns = 3}, kind);
      compare(Operation::low_rank, Operation::low_rank_transpose, {.columns = 3, .rank = 3}, kind);
    });
  }
}

// 2 x - 3 z is rounded to T before it is multiplied: one more eps, far inside four bounds (one for each product).
template <class T>
void check_linearity(LawRun<T>& run) {
  for (const Operation o : {Operation::product, Operation::transpose, Operation::low_rank, Operation::low_rank_transpose}) {
    const Shape shape{.columns = 3, .rank = is_low_rank(o) ? Index{3} : Index{0}};
    if (!run.can(o, shape)) continue;
    run.law("linearity", [&] {
      auto in = operands_for(run.mask, o, shape, InputKind::with_signs, 41);
      const DenseMatrix m = is_transposed(o) ? transposed(run.m) : run.m;
      const DenseMatrix p = is_low_rank(o) ? entrywise(m, product_transposed(in.a.dense(), in.b.dense())) : m;
      const DenseMatrix x = in.x.dense(), z = make_input<T>(x.rows, x.cols, InputKind::with_signs, 43).dense();
      const DenseMatrix px = perform(run.mask, o, in)[0].dense();
      in.x.set(z);
      const DenseMatrix pz = perform(run.mask, o, in)[0].dense();
      in.x.set(sum(2, x, -3, z));
      const Measured expected{sum(2, px, -3, pz), product(absolute(p), sum(2, absolute(x), 3, absolute(z)))};
      run.bound("linearity", relative_error(perform(run.mask, o, in)[0].dense(), expected), 4 * run.product_bound(),
                name_of(o));
    });
  }
}

template <class T>
void check_empty(LawRun<T>& run) {
  for (const Operation o : operations) {
    for (const Shape shape : {Shape{.columns = 0, .rank = 3}, {.columns = 3, .rank = 0}, {.columns = 0, .rank = 0}}) {
      if (!run.can(o, shape)) continue;
      run.law("empty", [&] {
        // With no columns, or rank 0, every output is 0 (or has no elements), but for the plain product's.
        const auto in = operands_for(run.mask, o, shape, InputKind::positive, 47);
        const auto out = perform(run.mask, o, in);
        const bool zero = is_low_rank(o) ? shape.rank == 0 : shape.columns == 0;
        for (const auto& one : out) {
          run.expect(one.intact(), "empty", name_of(o) + " writes beside an output of " + describe(shape, InputKind::positive));
          if (!zero) continue;
          for (const double v : one.dense().values) {
            if (v != 0)
              return run.note("empty",
                              name_of(o) + " gives " + std::to_string(v) + " for " + describe(shape, InputKind::positive));
          }
        }
      });
    }
  }
}

template <class T>
void check_nan(LawRun<T>& run) {
  for (const Operation o : {Operation::product, Operation::transpose, Operation::low_rank, Operation::low_rank_transpose}) {
    const Shape shape{.columns = 3, .rank = 3};
    if (run.m.rows == 0 || run.m.cols == 0 || !run.can(o, shape)) continue;
    run.law("nan", [&] {
      auto in = operands_for(run.mask, o, shape, InputKind::positive, 53);
      const DenseMatrix m = is_transposed(o) ? transposed(run.m) : run.m;
      const Index j = m.cols / 2;
      in.x.view()(j, 1) = std::numeric_limits<T>::quiet_NaN();
      const auto out = perform(run.mask, o, in);
      for (Index i = 0; i < m.rows; ++i) {
        // Entries that count: an engine may store what is far below the largest as 0.
        if (std::abs(m(i, j)) <= 1e-6 * largest(m)) continue;
        if (!std::isnan(out[0].view()(i, 1)))
          return run.note("nan", name_of(o) + ": NaN in x vanishes from row " + std::to_string(i));
      }
    });
  }
}

}  // namespace

template <class T>
void check_products(LawRun<T>& run) {
  const DenseMatrix turned = transposed(run.m);
  check_plain(run, Operation::product, run.m);
  check_plain(run, Operation::transpose, turned);
  check_low_rank(run, Operation::low_rank, run.m);
  check_low_rank(run, Operation::low_rank_transpose, turned);
  check_adjointness(run);
  check_linearity(run);
  check_empty(run);
  check_nan(run);
}

template void check_products(LawRun<float>&);
template void check_products(LawRun<double>&);

}  // namespace espalier::test
