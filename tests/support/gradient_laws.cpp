// Laws of the gradients and of the parameters.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/law_run.hpp"

namespace espalier::test {

namespace {

// The size of a parameter, from which the step of a difference is made: its own, or the largest where it is (nearly) zero.
std::vector<double> scales(std::span<const double> p) {
  double most = 0;
  for (const double v : p) most = std::max(most, std::abs(v));
  if (most == 0) most = 1;
  std::vector<double> s;
  for (const double v : p) s.push_back(std::abs(v) > 1e-3 * most ? std::abs(v) : most);
  return s;
}

// Every parameter where there are at most 40, otherwise 24 of them, seeded, the first and the last among them.
std::vector<std::size_t> sampled(std::size_t count) {
  std::vector<std::size_t> r;
  if (count <= 40) {
    for (std::size_t p = 0; p < count; ++p) r.push_back(p);
    return r;
  }
  const Random random(61);
  r = {0, count - 1};
  while (r.size() < 24) r.push_back(static_cast<std::size_t>(random.below(r.size(), count)));
  return r;
}

// dM / dt along p + t direction, by central differences with h = 1e-5.
template <class T>
DenseMatrix derivative(const LawRun<T>& run, const std::vector<double>& direction) {
  constexpr double h = 1e-5;
  const auto p = run.mask.parameters();
  std::vector<double> up(p.begin(), p.end()), down = up;
  for (std::size_t i = 0; i < up.size(); ++i) up[i] += h * direction[i], down[i] -= h * direction[i];
  return sum(0.5 / h, run.c.reference(up), -0.5 / h, run.c.reference(down));
}

}  // namespace

template <class T>
void check_parameter_gradient(LawRun<T>& run, const std::string& law, const DenseMatrix& parameter_bar, const Measured& weight,
                              const std::string& where) {
  const std::size_t count = parameter_bar.values.size();
  if (count == 0) return;
  const std::vector<double> scale = scales(run.mask.parameters());
  double error = 0, most = largest(parameter_bar), most_magnitude = 0;
  for (const double v : parameter_bar.values) {
    if (!std::isfinite(v)) return run.note(law, where + ": the gradient is not finite");
  }
  for (const std::size_t p : sampled(count)) {
    std::vector<double> direction(count);
    direction[p] = scale[p];
    const DenseMatrix d = derivative(run, direction);
    const double expected = inner(weight.value, d) / scale[p];
    most = std::max(most, std::abs(expected));
    most_magnitude = std::max(most_magnitude, inner(weight.magnitude, absolute(d)) / scale[p]);
    error = std::max(error, std::abs(parameter_bar.values[p] - expected));
  }
  // Double: relative to the gradient's max-norm, but not below 1e-3 of the sums it cancels from (differences carry 1e-10 of
  // those). Float: its own rounding, which grows like the root of the number of terms.
  const double pairs = static_cast<double>(run.m.rows * run.m.cols);
  const double limit = sizeof(T) == 4 ? static_cast<double>(std::numeric_limits<T>::epsilon()) * (20 + std::sqrt(pairs))
                                      : (run.c.gradient_bound > 0 ? run.c.gradient_bound : 1e-6);
  const double norm = sizeof(T) == 4 ? std::max(most, most_magnitude) : std::max(most, 1e-3 * most_magnitude);
  run.bound(law, error == 0 ? 0 : error / norm, limit, where);

  // All parameters at once, along a direction of random signs.
  const Random random(67);
  std::vector<double> direction = scale;
  for (std::size_t p = 0; p < count; ++p) direction[p] *= random.uniform(p) < 0.5 ? -1 : 1;
  const DenseMatrix d = derivative(run, direction);
  double along = 0;
  for (std::size_t p = 0; p < count; ++p) along += direction[p] * parameter_bar.values[p];
  const double gap = std::abs(along - inner(weight.value, d));
  run.bound(law, gap == 0 ? 0 : gap / inner(weight.magnitude, absolute(d)), limit, where + ", along a direction");
}

namespace {

template <class T>
void check_plain_vjp(LawRun<T>& run, Shape shape, InputKind kind) {
  if (!run.can(shape)) return;
  const std::string where = "multiply_vjp, " + describe(shape, kind);
  run.law("input gradient", [&] {
    const auto in = operands_for(run.mask, Operation::product_vjp, shape, kind, 71);
    const DenseMatrix x = in.x.dense(), y_bar = in.y_bar.dense();
    const Measured expected = reference_product(transposed(run.m), y_bar);
    const Measured weight{product_transposed(y_bar, x), product_transposed(absolute(y_bar), absolute(x))};
    const auto out = perform(run.mask, Operation::product_vjp, in);
    run.bound("input gradient", relative_error(out[0].dense(), expected), run.product_bound(), where);
    check_parameter_gradient(run, "parameter gradient", out[1].column(), weight, where);
    Guarded<T> x_bar(run.m.cols, shape.columns), parameter_bar(1, out[1].view().cols);
    run.mask.multiply_vjp(in.x.view(), in.y_bar.view(), x_bar.view(), {}, {.threads = 1});
    run.bound("gradient subsets", relative_error(x_bar.dense(), expected), run.product_bound(), where + ", x_bar alone");
    run.mask.multiply_vjp(in.x.view(), in.y_bar.view(), {}, parameter_bar.vector(), {.threads = 1});
    check_parameter_gradient(run, "gradient subsets", parameter_bar.column(), weight, where + ", parameter_bar alone");
    run.mask.multiply_vjp(in.x.view(), in.y_bar.view(), {}, {});
  });
}

// One call with the cotangents of y and of the row sums present or not, and the gradients a, b, x, parameters wanted or not.
template <class T>
void check_low_rank_vjp(LawRun<T>& run, Shape shape, InputKind kind, bool with_y, bool with_row_sum, unsigned wanted) {
  if (!run.can(shape)) return;
  const bool whole = with_y && with_row_sum && wanted == 15;
  std::string where =
      describe(shape, kind) + ", cotangents" + (with_y ? " y" : "") + (with_row_sum ? " row_sum" : "") + ", gradients";
  for (unsigned g = 0; g < 4; ++g) where += (wanted >> g & 1) ? std::string(" ") + "abxp"[g] : "";
  const std::string inputs_law = whole ? "input gradient" : "gradient subsets";
  run.law(inputs_law, [&] {
    const auto in = operands_for(run.mask, Operation::low_rank_vjp, shape, kind, 73);
    const Index rows = run.m.rows, cols = run.m.cols;
    const DenseMatrix y_bar = with_y ? in.y_bar.dense() : DenseMatrix(rows, shape.columns);
    const DenseMatrix row_sum_bar = with_row_sum ? in.row_sum_bar.column() : DenseMatrix(rows, 1);
    const auto expected = reference_gradient(run.m, in.a.dense(), in.b.dense(), in.x.dense(), y_bar, row_sum_bar);
    Guarded<T> a(rows, shape.rank), b(cols, shape.rank), x(cols, shape.columns);
    Guarded<T> p(1, static_cast<Index>(run.mask.parameters().size()));
    LowRankCotangents<T> cotangents;
    if (with_y) cotangents.y = in.y_bar.view();
    if (with_row_sum) cotangents.row_sum = in.row_sum_bar.vector();
    LowRankGradients<T> gradients;
    if (wanted & 1) gradients.a = a.view();
    if (wanted & 2) gradients.b = b.view();
    if (wanted & 4) gradients.x = x.view();
    if (wanted & 8) gradients.parameters = p.vector();
    run.mask.multiply_low_rank_vjp(in.inputs(), cotangents, gradients, {.threads = 1});
    const double limit = run.product_bound();
    if (wanted & 1) run.bound(inputs_law, relative_error(a.dense(), expected.a), limit, where + ": a_bar");
    if (wanted & 2) run.bound(inputs_law, relative_error(b.dense(), expected.b), limit, where + ": b_bar");
    if (wanted & 4) run.bound(inputs_law, relative_error(x.dense(), expected.x), limit, where + ": x_bar");
    if (wanted & 8) {
      check_parameter_gradient(run, whole ? "parameter gradient" : "gradient subsets", p.column(), expected.m, where);
    }
  });
}

// Changed parameters: each moved by 1 % of its size, up or down.
std::vector<double> moved(std::span<const double> p) {
  const std::vector<double> scale = scales(p);
  const Random random(79);
  std::vector<double> r(p.begin(), p.end());
  for (std::size_t i = 0; i < r.size(); ++i) r[i] += (random.uniform(i) < 0.5 ? -0.01 : 0.01) * scale[i];
  return r;
}

template <class T>
void check_parameters(LawRun<T>& run) {
  const std::string law = "parameters";
  const std::vector<double> p(run.mask.parameters().begin(), run.mask.parameters().end());
  const Shape shape{.columns = 3, .rank = 3};
  if (p.empty()) return;
  run.law(law, [&] {
    const auto in = operands_for(run.mask, Operation::low_rank, shape, InputKind::with_signs, 83);
    const auto agrees = [&](const Mask<T>& mask, const DenseMatrix& m, const std::string& where) {
      if (run.can(Operation::product, shape)) {
        const auto y = perform(mask, Operation::product, in)[0].dense();
        run.bound(law, relative_error(y, reference_product(m, in.x.dense())), run.product_bound(), where + ", product");
      }
      if (run.can(shape)) {
        const auto y = perform(mask, Operation::low_rank, in)[0].dense();
        const auto expected = reference_low_rank(m, in.a.dense(), in.b.dense(), in.x.dense()).y;
        run.bound(law, relative_error(y, expected), run.product_bound(), where + ", low-rank product");
      }
    };
    const auto same = run.mask.with_parameters(p);
    run.expect(std::equal(p.begin(), p.end(), same->parameters().begin(), same->parameters().end()), law,
               "with_parameters(p)->parameters() is not p");
    run.expect(same->rows() == run.m.rows && same->cols() == run.m.cols, law, "with_parameters changes the size");
    agrees(*same, run.m, "with_parameters(parameters())");
    const std::vector<double> q = moved(p);
    const auto changed = run.mask.with_parameters(q);
    run.expect(std::equal(q.begin(), q.end(), changed->parameters().begin(), changed->parameters().end()), law,
               "with_parameters(q)->parameters() is not q");
    agrees(*changed, run.c.reference(q), "with_parameters of others");
    run.expect(std::equal(p.begin(), p.end(), run.mask.parameters().begin(), run.mask.parameters().end()), law,
               "with_parameters changes the old mask's parameters");
    agrees(run.mask, run.m, "the old mask after with_parameters");
  });
}

template <class T, class Expected>
void expect_refused(LawRun<T>& run, const std::vector<double>& p, const std::string& what) {
  try {
    run.mask.with_parameters(p);
    run.note("bad parameters", what + " is accepted");
  } catch (const Expected&) {
  } catch (const std::exception& e) {
    run.note("bad parameters", what + " throws another exception: " + e.what());
  }
}

template <class T>
void check_bad_parameters(LawRun<T>& run) {
  const std::vector<double> p(run.mask.parameters().begin(), run.mask.parameters().end());
  std::vector<double> longer = p;
  longer.push_back(1);
  if (p.empty()) return expect_refused<T, Error>(run, longer, "a parameter of a mask that has none");
  expect_refused<T, ShapeError>(run, longer, "one parameter too many");
  expect_refused<T, ShapeError>(run, {p.begin(), p.end() - 1}, "one parameter too few");
  for (const std::size_t at : {std::size_t{0}, p.size() - 1}) {
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      std::vector<double> q = p;
      q[at] = bad;
      expect_refused<T, ValueError>(run, q, "parameter " + std::to_string(at) + " = " + std::to_string(bad));
    }
  }
}

}  // namespace

template <class T>
void check_gradients(LawRun<T>& run) {
  check_plain_vjp(run, {.columns = 3}, InputKind::with_signs);
  check_plain_vjp(run, {.columns = 33}, InputKind::positive);
  check_low_rank_vjp(run, {.columns = 1, .rank = 1}, InputKind::with_signs, true, true, 15);
  check_low_rank_vjp(run, {.columns = 3, .rank = 33}, InputKind::alternating, true, true, 15);
  check_low_rank_vjp(run, {.columns = 33, .rank = 3}, InputKind::positive, true, true, 15);
  // All subsets on small masks, the single gradients on large ones.
  const bool small = run.m.rows * run.m.cols <= 170;
  for (unsigned wanted = 0; wanted < 16; ++wanted) {
    for (const auto& [y, r] :
         {std::pair{true, true}, std::pair{true, false}, std::pair{false, true}, std::pair{false, false}}) {
      const bool single = wanted == 1 || wanted == 2 || wanted == 4 || wanted == 8 || wanted == 15;
      if (small || (single && (y || r)))
        check_low_rank_vjp(run, {.columns = 3, .rank = 2}, InputKind::with_signs, y, r, wanted);
    }
  }
  check_parameters(run);
  check_bad_parameters(run);
}

#define ESPALIER_INSTANTIATE(T)                                                                               \
  template void check_parameter_gradient(LawRun<T>&, const std::string&, const DenseMatrix&, const Measured&, \
                                         const std::string&);                                                 \
  template void check_gradients(LawRun<T>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::test
