// Trains of offset tables on the host: cross approximation, singular values, exhaustive certificate.
// SPDX-License-Identifier: Apache-2.0
#include "masks/offset_train.hpp"

#include <Eigen/Dense>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier {

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Terms after which a table must have shrunk to half, or it counts as noise: smooth ones fall by a factor a term.
constexpr Index kNoiseTerms = 8;

std::size_t at(Index i) {
  return static_cast<std::size_t>(i);
}

// One axis of the problem: even ones hold the offsets 0 .. n - 1, others 1 - n .. n - 1.
struct Axis {
  Index grid_axis, size;
  bool even;
  Index places() const { return even ? size : 2 * size - 1; }
};

// The table over the axes in the train's order.
struct Problem {
  std::vector<Axis> axes;
  std::vector<double> values;
};

// Calls visit(flat, indices) for all index tuples below `extent`, row-major.
template <class F>
void for_each_place(const std::vector<Index>& extent, const F& visit) {
  std::vector<Index> index(extent.size(), 0);
  const Index count = std::accumulate(extent.begin(), extent.end(), Index{1}, std::multiplies<>());
  for (Index flat = 0; flat < count; ++flat) {
    visit(flat, index);
    for (std::size_t t = extent.size(); t-- > 0;) {
      if (++index[t] < extent[t]) break;
      index[t] = 0;
    }
  }
}

Problem problem_of(const std::vector<Index>& sizes, const std::vector<double>& table) {
  Problem p;
  std::vector<Index> stride(sizes.size(), 1), width;
  for (std::size_t t = sizes.size(); t-- > 1;) stride[t - 1] = stride[t] * (2 * sizes[t] - 1);
  for (const Index n : sizes) width.push_back(2 * n - 1);
  std::vector<bool> even(sizes.size(), true);
  for_each_place(width, [&](Index flat, const std::vector<Index>& index) {
    for (std::size_t t = 0; t < sizes.size(); ++t) {
      const Index mirror = flat + (2 * (sizes[t] - 1) - 2 * index[t]) * stride[t];
      if (table[at(flat)] != table[at(mirror)]) even[t] = false;
    }
  });
  for (std::size_t t = 0; t < sizes.size(); ++t) {
    if (sizes[t] > 1) p.axes.push_back({static_cast<Index>(t), sizes[t], even[t]});
  }
  // The longest last: its places are the lanes. The second longest first: what lies between two axes meets the short ones
  // twice.
  std::stable_sort(p.axes.begin(), p.axes.end(), [](const Axis& a, const Axis& b) { return a.size > b.size; });
  std::rotate(p.axes.begin(), p.axes.begin() + 1, p.axes.end());
  if (p.axes.size() == 2 && p.axes[0].size == p.axes[1].size) std::swap(p.axes[0], p.axes[1]);
  std::vector<Index> places;
  for (const Axis& a : p.axes) places.push_back(a.places());
  p.values.resize(at(std::accumulate(places.begin(), places.end(), Index{1}, std::multiplies<>())));
  for_each_place(places, [&](Index flat, const std::vector<Index>& index) {
    Index position = 0;
    for (std::size_t t = 0; t < p.axes.size(); ++t) {
      const Axis& a = p.axes[t];
      position += (index[t] + (a.even ? a.size - 1 : 0)) * stride[at(a.grid_axis)];
    }
    p.values[at(flat)] = table[at(position)];
  });
  return p;
}

// ---- finding ---------------------------------------------------------------------------------------------------------

// a ~ left right with orthonormal columns of left, by falling singular value; empty where a does not shrink.
struct Split {
  Matrix left, right;  // right carries the singular values
  std::vector<double> singular;
  bool found = false, noise = false;
};

Split split(Matrix a, double stop, const SetUpWatch& watch) {
  Split s;
  const Index rows = a.rows(), cols = a.cols(), most = std::min({rows, cols, kMostTerms + 8});
  Matrix columns(rows, most), lines(most, cols);
  Index k = 0;
  const double begin = a.cwiseAbs().sum();
  for (;; ++k) {
    watch.look();
    Index p = 0, q = 0;
    const double largest = a.cwiseAbs().maxCoeff(&p, &q), left = a.cwiseAbs().sum();
    if (largest == 0 || left <= stop) break;
    s.noise = k >= kNoiseTerms && left > begin / 2;
    if (k == most || s.noise) return s;
    columns.col(k) = a.col(q) / a(p, q);
    lines.row(k) = a.row(p);
    a.noalias() -= columns.col(k) * lines.row(k);
    // What rounding leaves in the crossed lines is not to be met again.
    a.row(p).setZero();
    a.col(q).setZero();
  }
  s.found = true;
  if (k == 0) {  // all zero: one term of zeros
    s.left = Matrix::Zero(rows, 1);
    s.left(0, 0) = 1;
    s.right = Matrix::Zero(1, cols);
    s.singular = {0};
    return s;
  }
  const Eigen::MatrixXd c = columns.leftCols(k), d = lines.topRows(k).transpose();
  const Eigen::HouseholderQR<Eigen::MatrixXd> c_qr(c), d_qr(d);
  const Eigen::MatrixXd c_r = c_qr.matrixQR().topRows(k).triangularView<Eigen::Upper>();
  const Eigen::MatrixXd d_r = d_qr.matrixQR().topRows(k).triangularView<Eigen::Upper>();
  const Eigen::JacobiSVD<Eigen::MatrixXd> core(c_r * d_r.transpose(), Eigen::ComputeFullU | Eigen::ComputeFullV);
  s.left = c_qr.householderQ() * (Eigen::MatrixXd::Identity(rows, k) * core.matrixU());
  const Eigen::MatrixXd right =
      d_qr.householderQ() * (Eigen::MatrixXd::Identity(cols, k) * (core.matrixV() * core.singularValues().asDiagonal()));
  s.right = right.transpose();
  for (Index i = 0; i < k; ++i) s.singular.push_back(core.singularValues()[i]);
  return s;
}

// Tables of one axis, [left, right, places].
struct Core {
  Index left = 1, right = 1;
  std::vector<double> values;
  std::vector<double> weight;  // [right]: singular values that the cores behind carry, relative to the largest
  double& operator()(Index p, Index q, Index place, Index places) { return values[at((p * right + q) * places + place)]; }
  double operator()(Index p, Index q, Index place, Index places) const { return values[at((p * right + q) * places + place)]; }
};

// The first axis against all others.
Split first_split(const Problem& problem, double stop, const SetUpWatch& watch) {
  const Index places = problem.axes[0].places(), others = static_cast<Index>(problem.values.size()) / places;
  return split(Eigen::Map<const Matrix>(problem.values.data(), places, others), stop, watch);
}

// All cores with every singular value above `cut` times the largest kept (at least one); empty where a split was not found.
std::vector<Core> cores_of(const Problem& problem, const Split& first, double stop, double cut, const SetUpWatch& watch) {
  std::vector<Core> cores;
  const std::size_t d = problem.axes.size();
  Split own;
  Matrix rest;
  Index left = 1;
  for (std::size_t t = 0; t + 1 < d; ++t) {
    const Index places = problem.axes[t].places();
    if (t > 0) own = split(rest, stop, watch);
    const Split& s = t == 0 ? first : own;
    if (!s.found) return {};
    const Index right = std::max<Index>(
        1, std::count_if(s.singular.begin(), s.singular.end(), [&](double v) { return v > cut * s.singular.front(); }));
    Core core{left, right, std::vector<double>(at(left * right * places)), {}};
    for (Index q = 0; q < right; ++q) {
      core.weight.push_back(s.singular.front() > 0 ? s.singular[at(q)] / s.singular.front() : 1);
      for (Index p = 0; p < left; ++p) {
        for (Index o = 0; o < places; ++o) core(p, q, o, places) = s.left(p * places + o, q);
      }
    }
    cores.push_back(std::move(core));
    // The next axis's places join the rows.
    const Index next = problem.axes[t + 1].places(), cols = s.right.cols() / next;
    rest = Eigen::Map<const Matrix>(s.right.data(), right * next, cols);
    left = right;
  }
  // rest: [left, places] for the last axis, as one column of both.
  const Index places = problem.axes[d - 1].places();
  cores.push_back({left, 1, std::vector<double>(rest.data(), rest.data() + left * places), {1}});
  return cores;
}

// Offsets at both ends of an axis where every table is below `least` times the largest entry become 0: products need not reach
// so far.
void trim(Core& c, const Axis& axis, double least) {
  const Index places = axis.places();
  std::vector<double> height(at(places), 0.0);
  for (Index p = 0; p < c.left; ++p) {
    for (Index q = 0; q < c.right; ++q) {
      for (Index o = 0; o < places; ++o) {
        height[at(o)] = std::max(height[at(o)], c.weight[at(q)] * std::abs(c(p, q, o, places)));
      }
    }
  }
  const double floor = least * *std::max_element(height.begin(), height.end());
  const auto clear = [&](Index o) {
    if (height[at(o)] > floor) return false;
    for (Index k = 0; k < c.left * c.right; ++k) c.values[at(k * places + o)] = 0;
    return true;
  };
  for (Index o = places - 1; o > 0 && clear(o); --o) {
  }
  for (Index o = 0; !axis.even && o < places - 1 && clear(o); ++o) {
  }
}

// ---- checking --------------------------------------------------------------------------------------------------------

// The table that cores make.
std::vector<double> contracted(const Problem& problem, const std::vector<Core>& cores) {
  const std::size_t d = cores.size();
  // Rows: places of the axes so far, times the terms open to the right.
  Matrix table = Matrix::Ones(1, 1);
  for (std::size_t t = 0; t < d; ++t) {
    const Core& c = cores[t];
    const Index places = problem.axes[t].places();
    Matrix factor(c.left, places * c.right);
    for (Index p = 0; p < c.left; ++p) {
      for (Index q = 0; q < c.right; ++q) {
        for (Index o = 0; o < places; ++o) factor(p, o * c.right + q) = c(p, q, o, places);
      }
    }
    const Matrix product = table * factor;
    table = Eigen::Map<const Matrix>(product.data(), product.rows() * places, c.right);
  }
  return {table.data(), table.data() + table.size()};
}

// A bound on every entry of the table that cores >= 0 make.
double largest_product(const Problem& problem, const std::vector<Core>& cores) {
  Matrix product = Matrix::Ones(1, 1);
  for (std::size_t t = 0; t < cores.size(); ++t) {
    const Core& c = cores[t];
    const Index places = problem.axes[t].places();
    Matrix largest(c.left, c.right);
    for (Index p = 0; p < c.left; ++p) {
      for (Index q = 0; q < c.right; ++q) {
        const double* values = c.values.data() + (p * c.right + q) * places;
        largest(p, q) = *std::max_element(values, values + places);
      }
    }
    product = (product * largest).eval();
  }
  return product(0, 0);
}

// Row i of the mask meets the offsets i - (n - 1) .. i of every axis: sums of g >= 0 over them, by sums to both sides of the
// centre, so that nothing cancels.
std::vector<double> row_sums(const Problem& problem, std::vector<double> g) {
  Index after = 1;
  for (std::size_t t = problem.axes.size(); t-- > 0;) {
    const Axis& a = problem.axes[t];
    const Index n = a.size, places = a.places(), before = static_cast<Index>(g.size()) / (places * after);
    std::vector<double> out(at(before * n * after)), low(at(n)), high(at(n));
    for (Index b = 0; b < before; ++b) {
      for (Index k = 0; k < after; ++k) {
        const auto value = [&](Index o) {
          const Index place = a.even ? (o < 0 ? -o : o) : o + n - 1;
          return g[at((b * places + place) * after + k)];
        };
        low[0] = value(0);
        high[0] = 0;
        for (Index o = 1; o < n; ++o) low[at(o)] = low[at(o - 1)] + value(-o), high[at(o)] = high[at(o - 1)] + value(o);
        for (Index i = 0; i < n; ++i) out[at((b * n + i) * after + k)] = low[at(n - 1 - i)] + high[at(i)];
      }
    }
    g = std::move(out);
    after *= n;
  }
  return g;
}

struct Check {
  Certificate certificate;
  double value = 0;  // in the kind asked for
  double amplification = 1;
  double spread = 0;  // kind pointwise: max of the sum of |products| over |M|, single entries
  Index negative = 0;
};

// What the train stores, offset by offset, and how it was found.
struct Stored {
  std::vector<double> values, sizes;  // sums of products of tables, and of their absolute values
  Index steps = 0;                    // roundings of `values` in double
  // Halves of folded axes are rounded after they are formed: in every row by `folding` times the sum of `sizes`, and in no
  // entry by more than folding_entry.
  double folding = 0, folding_entry = 0;
};

// norms: row sums of the table.
Check check(const Problem& problem, const std::vector<double>& norms, const Stored& s, ToleranceKind kind) {
  Check c;
  const std::vector<double>& stored = s.values;
  const double rounding = static_cast<double>(s.steps) * std::numeric_limits<double>::epsilon();
  std::vector<double> error(stored.size());
  double largest = 0, entry = 0, pointwise = 0;
  for (const double v : problem.values) largest = std::max(largest, std::abs(v));
  for (std::size_t k = 0; k < stored.size(); ++k) {
    const double v = problem.values[k], own = std::abs(stored[k] - v) + rounding * s.sizes[k], e = own + s.folding_entry;
    error[k] = own + s.folding * s.sizes[k];
    entry = std::max(entry, e);
    if (std::abs(v) >= 1e-7 * largest && v != 0) {
      pointwise = std::max(pointwise, e / std::abs(v));
      if (kind == ToleranceKind::pointwise) c.spread = std::max(c.spread, s.sizes[k] / std::abs(v));
    }
    if (v >= 0 && stored[k] < 0) ++c.negative;
  }
  const std::vector<double> rows = row_sums(problem, std::move(error));
  double row = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] > 0) row = std::max(row, norms[i] > 0 ? rows[i] / norms[i] : std::numeric_limits<double>::infinity());
  }
  const std::vector<double> sums = row_sums(problem, s.sizes);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    if (sums[i] > 0 && norms[i] > 0) c.amplification = std::max(c.amplification, sums[i] / norms[i] * (1 + 1e-10));
  }
  // Sums above are in double, of numbers >= 0: nothing beside this.
  const double slack = 1 + 1e-10;
  // A maximum does not see NaN.
  if (!std::all_of(stored.begin(), stored.end(), [](double v) { return std::isfinite(v); })) {
    row = entry = pointwise = std::numeric_limits<double>::infinity();
  }
  c.certificate.row = row * slack;
  c.certificate.entry = largest > 0 ? entry / largest * slack : 0.0;
  if (pointwise <= 1) c.certificate.pointwise = pointwise * slack;
  c.value = kind == ToleranceKind::row ? row * slack : kind == ToleranceKind::entry ? *c.certificate.entry : pointwise * slack;
  return c;
}

// ---- storing ---------------------------------------------------------------------------------------------------------

// Cores as stored in T, by whole axis; their values in `cores` become those.
template <class T>
std::vector<backend::TrainAxis<T>> stored_axes(const Problem& problem, std::vector<Core>& cores, bool fold) {
  std::vector<backend::TrainAxis<T>> axes;
  for (std::size_t t = 0; t < cores.size(); ++t) {
    const Axis& a = problem.axes[t];
    Core& c = cores[t];
    const Index n = a.size, places = a.places(), width = 2 * n - 1;
    backend::TrainAxis<T> axis;
    axis.axis = a.grid_axis;
    axis.size = n;
    axis.left = c.left;
    axis.right = c.right;
    axis.first = n - 1;
    axis.last = 1 - n;
    axis.values.assign(at(c.left * c.right * width), T(0));
    for (Index k = 0; k < c.left * c.right; ++k) {
      double* table = c.values.data() + k * places;
      for (Index o = 1 - n; o < n; ++o) {
        const T v = static_cast<T>(table[a.even ? (o < 0 ? -o : o) : o + n - 1]);
        axis.values[at(k * width + o + n - 1)] = v;
        if (v != T(0)) axis.first = std::min(axis.first, o), axis.last = std::max(axis.last, o);
      }
      for (Index o = 0; o < places; ++o) table[o] = static_cast<double>(static_cast<T>(table[o]));
    }
    if (axis.first > axis.last) axis.first = axis.last = 0;
    axis.folded = fold && a.even && backend::folding_pays(n, c.left * c.right, axis.first, axis.last, t + 1 == cores.size());
    axes.push_back(std::move(axis));
  }
  return axes;
}

// Products of left and right tables by axis, against the entries of a row.
bool too_much_work(const std::vector<Core>& cores, const Problem& problem) {
  double work = 0, length = 1;
  for (std::size_t t = 0; t < cores.size(); ++t) {
    work += static_cast<double>(cores[t].left * cores[t].right * problem.axes[t].size);
    length *= static_cast<double>(problem.axes[t].size);
  }
  return work > length;
}

}  // namespace

template <class T>
OffsetTrain<T> offset_train(const std::vector<Index>& sizes, const std::vector<double>& table, double tolerance,
                            ToleranceKind kind, bool fold, const SetUpWatch& watch) {
  OffsetTrain<T> result;
  const Problem problem = problem_of(sizes, table);
  double sum = 0, largest = 0;
  std::vector<double> magnitude(problem.values.size());
  for (std::size_t k = 0; k < magnitude.size(); ++k) {
    magnitude[k] = std::abs(problem.values[k]);
    sum += magnitude[k];
    largest = std::max(largest, magnitude[k]);
  }
  const std::vector<double> norms = row_sums(problem, std::move(magnitude));
  // Far enough below the tolerance for the cuts to decide; below the rounding of the table itself nothing can be found.
  double stop = 0.05 * std::max(tolerance, 1e-15) * (kind == ToleranceKind::row ? sum : largest);
  if (kind == ToleranceKind::pointwise) stop *= 1e-7;
  stop = std::max(stop, 1e-17 * sum);
  const Split first = first_split(problem, stop, watch);
  std::string limit;
  // Half a cut more each time: singular values of smooth tables fall by about that a term.
  for (double cut = 4 * tolerance; cut > 1e-17 && !result.met; cut *= 0.5) {
    watch.look();
    std::vector<Core> cores = cores_of(problem, first, stop, cut, watch);
    Index terms = 0, steps = static_cast<Index>(sizes.size());
    for (Core& c : cores) terms = std::max(terms, c.left), steps += c.left;
    if (cores.empty() || terms > kMostTerms) {
      limit = first.noise
                  ? "its table is noise: " + std::to_string(kNoiseTerms) + " products of tables by axis leave half of it"
                  : "more than " + std::to_string(kMostTerms) + " products of tables by axis are needed";
      break;
    }
    if (too_much_work(cores, problem)) {
      limit = std::to_string(terms) + " products of tables by axis are needed, more arithmetic than its entries";
      break;
    }
    for (std::size_t t = 0; t < cores.size(); ++t) trim(cores[t], problem.axes[t], 0.01 * cut);
    result.axes = stored_axes<T>(problem, cores, fold && kind != ToleranceKind::pointwise);
    Stored stored;
    stored.steps = steps;
    stored.values = contracted(problem, cores);
    for (Core& core : cores) {
      for (double& v : core.values) v = std::abs(v);
    }
    stored.sizes = contracted(problem, cores);
    const auto folded = std::count_if(result.axes.begin(), result.axes.end(), [](const auto& a) { return a.folded; });
    const double unit = 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon());
    stored.folding = std::pow(1 + 2 * unit, static_cast<double>(folded)) - 1;
    stored.folding_entry = (std::pow(1 + unit, static_cast<double>(folded)) - 1) * largest_product(problem, cores);
    const Check c = check(problem, norms, stored, kind);
    result.certificate = c.certificate;
    result.fitted_negative = c.negative;
    result.amplification = c.amplification;
    result.largest = largest;
    // Four times the standard deviation of as many roundings as one entry takes (chunk_form.hpp has the argument).
    result.entry_rounding =
        4 * 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon()) * std::sqrt(static_cast<double>(steps)) * c.spread;
    result.terms = terms;
    result.met = c.value <= tolerance;
  }
  if (result.met) {
    result.reason = std::to_string(result.terms) + (result.terms == 1 ? " product" : " products") + " of tables by axis";
  } else {
    result.too_fine = limit.empty();
    result.reason = result.too_fine
                        ? "the tolerance is below what " + std::to_string(result.terms) + " products of rounded tables reach"
                        : limit;
  }
  return result;
}

template OffsetTrain<float> offset_train(const std::vector<Index>&, const std::vector<double>&, double, ToleranceKind, bool,
                                         const SetUpWatch&);
template OffsetTrain<double> offset_train(const std::vector<Index>&, const std::vector<double>&, double, ToleranceKind, bool,
                                          const SetUpWatch&);

}  // namespace espalier
