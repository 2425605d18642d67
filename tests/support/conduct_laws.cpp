// Laws of conduct: memory beside outputs, gaps, repeatability, threads, refused arguments, cancellation.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "support/law_run.hpp"
#include "support/rejection.hpp"

namespace espalier::test {

namespace {

template <class T>
bool same_bits(const Outputs<T>& p, const Outputs<T>& q) {
  for (std::size_t o = 0; o < p.size(); ++o) {
    if (!p[o].same_bits(q[o])) return false;
  }
  return true;
}

constexpr Shape conduct_shapes[] = {{.columns = 3, .rank = 2}, {.columns = 33, .rank = 17}};

// Gaps hold a guard in outputs and NaN in inputs. Inputs are positive: what a gap changes is then seen at once.
template <class T>
void check_memory(LawRun<T>& run, Operation o, Shape shape) {
  run.law("gaps", [&] {
    const auto plain = operands_for(run.mask, o, shape, InputKind::positive, 89);
    auto strided = operands_for(run.mask, o, shape, InputKind::positive, 89, 5);
    strided.poison();
    const auto expected = perform(run.mask, o, plain), out = perform(run.mask, o, strided, {.threads = 2}, 3);
    for (std::size_t k = 0; k < out.size(); ++k) {
      const std::string where = name_of(o) + ", output " + std::to_string(k);
      run.expect(expected[k].intact(), "bounds", where + ": a margin was written");
      run.expect(out[k].intact(), "bounds", where + ": a gap or margin was written");
      const DenseMatrix value = expected[k].dense();
      // Rounding may differ with the layout, NaN and wild values may not come in.
      const double error = relative_error(out[k].dense(), {value, absolute(value)});
      run.bound("gaps", error, 1e3 * run.product_bound(), where + " against contiguous inputs");
    }
    run.expect(strided.a.intact() && strided.b.intact() && strided.x.intact() && strided.y_bar.intact(), "bounds",
               name_of(o) + ": memory around an input was written");
  });
}

template <class T>
void check_bits(LawRun<T>& run, Operation o, Shape shape) {
  run.law("repeatability", [&] {
    const auto in = operands_for(run.mask, o, shape, InputKind::with_signs, 97);
    const Context<Cpu> one{.threads = 1};
    const auto first = perform(run.mask, o, in, one);
    run.expect(same_bits(first, perform(run.mask, o, in, one)), "repeatability", name_of(o) + ": other bits the second time");
    for (const int threads : {2, 3}) {
      run.expect(same_bits(first, perform(run.mask, o, in, Context<Cpu>{.threads = threads})), "threads",
                 name_of(o) + ": other bits with " + std::to_string(threads) + " threads");
    }
  });
}

template <class T>
void check_cancellation(LawRun<T>& run, Operation o, Shape shape) {
  if (run.m.rows == 0 || run.m.cols == 0) return;
  std::stop_source stop;
  stop.request_stop();
  Progress progress{.callback = {}, .stop = stop.get_token()};
  for (const int threads : {1, 2}) {
    const auto in = operands_for(run.mask, o, shape, InputKind::positive, 101);
    try {
      perform(run.mask, o, in, Context<Cpu>{.threads = threads, .progress = &progress});
      run.note("cancellation", name_of(o) + " with " + std::to_string(threads) + " threads ran to its end");
    } catch (const Cancelled&) {
    } catch (const std::exception& e) {
      run.note("cancellation", name_of(o) + " threw another exception: " + e.what());
    }
  }
}

// Wrong shapes: every argument one too long or too short, each alone.
template <class T>
void check_shapes(LawRun<T>& run) {
  const Mask<T>& mask = run.mask;
  const Index rows = mask.rows(), cols = mask.cols(), parameters = static_cast<Index>(mask.parameters().size());
  const auto refuse = [&](const std::string& what, std::vector<Guarded<T>*> outputs, const auto& call) {
    const std::string failure = rejection_failure<ShapeError, T>(call, outputs);
    run.expect(failure.empty(), "shapes", what + ": " + failure);
  };
  const auto input = [](Index r, Index c) { return make_input<T>(r, c, InputKind::positive, 103); };
  const Operands<T> good(rows, cols, {.columns = 3, .rank = 2}, InputKind::positive, 107);
  Guarded<T> y(rows, 3), longer_y(rows + 1, 3), wide_y(rows, 4), x_bar(cols, 3), longer_x_bar(cols + 1, 3);
  Guarded<T> a_bar(rows, 2), wide_a_bar(rows, 3), b_bar(cols, 2), longer_b_bar(cols + 1, 2);
  Guarded<T> row_sum(1, rows), longer_row_sum(1, rows + 1), p(1, parameters), longer_p(1, parameters + 1);
  const Guarded<T> longer_x = input(cols + 1, 3), longer_u = input(rows + 1, 3), u = input(rows, 3);

  refuse("multiply, x one row longer", {&y}, [&] { mask.multiply(longer_x.view(), y.view()); });
  refuse("multiply, y one row longer", {&longer_y}, [&] { mask.multiply(good.x.view(), longer_y.view()); });
  refuse("multiply, y one column wider", {&wide_y}, [&] { mask.multiply(good.x.view(), wide_y.view()); });
  refuse("multiply_transpose, x one row longer", {&x_bar}, [&] { mask.multiply_transpose(longer_u.view(), x_bar.view()); });
  refuse("multiply_transpose, y one row longer", {&longer_x_bar},
         [&] { mask.multiply_transpose(u.view(), longer_x_bar.view()); });
  if (rows > 1) {
    refuse("multiply, row stride below columns", {&y}, [&] {
      auto view = y.view();
      view.row_stride = 2;
      mask.multiply(good.x.view(), view);
    });
  }
  refuse("multiply_vjp, parameter_bar one longer", {&x_bar, &longer_p},
         [&] { mask.multiply_vjp(good.x.view(), good.y_bar.view(), x_bar.view(), longer_p.vector()); });
  refuse("multiply_vjp, x_bar one row longer", {&longer_x_bar, &p},
         [&] { mask.multiply_vjp(good.x.view(), good.y_bar.view(), longer_x_bar.view(), p.vector()); });
  const Guarded<T> longer_a = input(rows + 1, 2), wide_b = input(cols, 3), longer_bar = input(1, rows + 1);
  refuse("multiply_low_rank, a one row longer", {&y, &row_sum}, [&] {
    mask.multiply_low_rank({longer_a.view(), good.b.view(), good.x.view()}, {y.view(), row_sum.vector()});
  });
  refuse("multiply_low_rank, b of another rank", {&y, &row_sum}, [&] {
    mask.multiply_low_rank({good.a.view(), wide_b.view(), good.x.view()}, {y.view(), row_sum.vector()});
  });
  refuse("multiply_low_rank, row_sum one longer", {&y, &longer_row_sum}, [&] {
    mask.multiply_low_rank(good.inputs(), {y.view(), longer_row_sum.vector()});
  });
  refuse("multiply_low_rank_transpose, y one row longer", {&longer_x_bar}, [&] {
    mask.multiply_low_rank_transpose({good.b.view(), good.a.view(), u.view()}, {longer_x_bar.view()});
  });
  const LowRankCotangents<T> bars{good.y_bar.view(), good.row_sum_bar.vector()};
  refuse("multiply_low_rank_vjp, a_bar one column wider", {&wide_a_bar, &b_bar},
         [&] { mask.multiply_low_rank_vjp(good.inputs(), bars, {.a = wide_a_bar.view(), .b = b_bar.view()}); });
  refuse("multiply_low_rank_vjp, b_bar one row longer", {&a_bar, &longer_b_bar},
         [&] { mask.multiply_low_rank_vjp(good.inputs(), bars, {.a = a_bar.view(), .b = longer_b_bar.view()}); });
  refuse("multiply_low_rank_vjp, row_sum_bar one longer", {&a_bar}, [&] {
    mask.multiply_low_rank_vjp(good.inputs(), {good.y_bar.view(), longer_bar.vector()}, {.a = a_bar.view()});
  });
  refuse("multiply_low_rank_vjp, parameter_bar one longer", {&a_bar, &longer_p},
         [&] { mask.multiply_low_rank_vjp(good.inputs(), bars, {.a = a_bar.view(), .parameters = longer_p.vector()}); });
}

template <class T>
void check_overlap(LawRun<T>& run) {
  const Mask<T>& mask = run.mask;
  const Index rows = mask.rows(), cols = mask.cols();
  if (rows == 0 || cols == 0) return;
  const auto refuse = [&](const std::string& what, std::vector<Guarded<T>*> outputs, const auto& call) {
    const std::string failure = rejection_failure<ValueError, T>(call, outputs);
    run.expect(failure.empty(), "overlap", what + ": " + failure);
  };
  // One array serves as input and as output: the views share its first element.
  Guarded<T> shared = make_input<T>(rows + cols, 3, InputKind::positive, 109);
  const auto as_rows = shared.view().row_range(0, rows), as_cols = shared.view().row_range(0, cols);
  const Operands<T> good(rows, cols, {.columns = 3, .rank = 3}, InputKind::positive, 113);
  Guarded<T> y(rows, 3), x_bar(cols, 3);
  refuse("multiply, y on x", {&shared}, [&] { mask.multiply(as_cols, as_rows); });
  refuse("multiply_transpose, y on x", {&shared}, [&] { mask.multiply_transpose(as_rows, as_cols); });
  refuse("multiply_vjp, x_bar on y_bar", {&shared}, [&] { mask.multiply_vjp(good.x.view(), as_rows, as_cols, {}); });
  refuse("multiply_low_rank, y on a", {&shared}, [&] {
    mask.multiply_low_rank({as_rows, good.b.view(), good.x.view()}, {as_rows});
  });
  refuse("multiply_low_rank, row_sum on y", {&y}, [&] {
    mask.multiply_low_rank(good.inputs(), {y.view(), VectorView<T>{y.view().data, rows}});
  });
  refuse("multiply_low_rank_vjp, a_bar on b_bar", {&shared, &x_bar}, [&] {
    mask.multiply_low_rank_vjp(good.inputs(), {good.y_bar.view()}, {.a = as_rows, .b = as_cols, .x = x_bar.view()});
  });
}

}  // namespace

template <class T>
void check_conduct(LawRun<T>& run) {
  for (const Operation o : operations) {
    for (const Shape shape : conduct_shapes) {
      if (!run.can(o, shape)) continue;
      check_memory(run, o, shape);
      check_bits(run, o, shape);
      check_cancellation(run, o, shape);
    }
  }
  check_shapes(run);
  check_overlap(run);
}

template void check_conduct(LawRun<float>&);
template void check_conduct(LawRun<double>&);

}  // namespace espalier::test
