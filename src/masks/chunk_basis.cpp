// Chunk-basis form on the host: states of the sums, basis by singular vectors, exhaustive certificate.
// SPDX-License-Identifier: Apache-2.0
#include "masks/chunk_basis.hpp"

#include <Eigen/Dense>

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <span>

namespace espalier {

namespace {

using Matrix = Eigen::MatrixXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A sum of exponentials split at the borders of chunks: with d = a + n C + t (a in the row's chunk, t in the source's),
//   f~(d) = sum_q row_q(a) [D^n source(t)]_q.
// Terms of one decay share states, the highest power first:  source_j(t) = (t / C)^j / j! exp(-s t), so that one chunk further
//   S_j := exp(-s C) sum_{i <= j} S_i / (j - i)!.     Complex terms have a pair of states, Re and Im.
struct States {
  Matrix row, source;  // [C, r]
  std::vector<double> log_decay, angle;
  std::vector<Index> couple_start{0}, couple_state;
  std::vector<double> couple_weight;
  bool coupled = false;
};

double factorial(int n) {
  return n < 2 ? 1 : n * factorial(n - 1);
}

// The terms of one decay.
struct Group {
  std::complex<double> decay;
  bool real = true;
  std::vector<std::complex<double>> coefficients;  // by power
};

std::vector<Group> groups_of(const ExponentialSum& sum) {
  std::vector<Group> groups;
  for (const ExponentialTerm& t : sum.terms) {
    auto at = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.decay == t.decay; });
    if (at == groups.end()) at = groups.insert(groups.end(), Group{t.decay, true, {}});
    at->real = at->real && t.real();
    const auto power = static_cast<std::size_t>(t.power);
    if (at->coefficients.size() <= power) at->coefficients.resize(power + 1);
    at->coefficients[power] += t.coefficient;
  }
  return groups;
}

// lower: the row's part of a distance is a, the source's gap C - b. Otherwise (upper sides) gap C - a, and b.
States states_of(const ExponentialSum& sum, Index chunk, Index gap, bool lower = true) {
  States s;
  const std::vector<Group> groups = groups_of(sum);
  Index count = 0;
  for (const Group& g : groups) count += static_cast<Index>(g.coefficients.size()) * (g.real ? 1 : 2);
  s.row.setZero(chunk, count);
  s.source.setZero(chunk, count);
  const double size = static_cast<double>(chunk);
  Index q = 0;
  for (const Group& g : groups) {
    const int powers = static_cast<int>(g.coefficients.size()), width = g.real ? 1 : 2;
    const Index first = q;
    for (int j = powers - 1; j >= 0; --j, q += width) {
      for (Index i = 0; i < chunk; ++i) {
        const double near = static_cast<double>(i), far = static_cast<double>(gap * chunk - i);
        const double a = lower ? near : far, t = lower ? far : near;
        std::complex<double> row = 0;
        for (int k = j; k < powers; ++k) {
          row += g.coefficients[static_cast<std::size_t>(k)] * (factorial(k) / factorial(k - j) * std::pow(a, k - j));
        }
        row *= std::pow(size, j) * std::exp(-g.decay * a);
        const std::complex<double> source = std::pow(t / size, j) / factorial(j) * std::exp(-g.decay * t);
        s.row(i, q) = row.real();
        s.source(i, q) = source.real();
        if (width == 2) s.row(i, q + 1) = -row.imag(), s.source(i, q + 1) = source.imag();
      }
      for (int w = 0; w < width; ++w) {
        s.log_decay.push_back(g.decay.real() * size);
        s.angle.push_back(w == 0 && width == 2 ? -g.decay.imag() * size : 0.0);
        for (int i = j - 1; i >= 0; --i) {
          s.couple_state.push_back(first + static_cast<Index>(powers - 1 - i) * width + w);
          s.couple_weight.push_back(1 / factorial(j - i));
        }
        s.couple_start.push_back(static_cast<Index>(s.couple_state.size()));
      }
    }
  }
  s.coupled = !s.couple_state.empty();
  return s;
}

// v := D v for the rows of v (r x R), in place.
void move_states(const States& s, Matrix& v) {
  const Index count = v.rows();
  for (Index q = 0; q < count; ++q) {
    const auto at = static_cast<std::size_t>(q);
    for (Index k = s.couple_start[at]; k < s.couple_start[at + 1]; ++k) {
      v.row(q) += s.couple_weight[static_cast<std::size_t>(k)] * v.row(s.couple_state[static_cast<std::size_t>(k)]);
    }
  }
  for (Index q = 0; q < count; ++q) {
    const auto at = static_cast<std::size_t>(q);
    const double decay = std::exp(-s.log_decay[at]);
    if (s.angle[at] == 0) {
      v.row(q) *= decay;
      continue;
    }
    const double c = decay * std::cos(s.angle[at]), n = decay * std::sin(s.angle[at]);
    const Eigen::RowVectorXd x = v.row(q), y = v.row(q + 1);
    v.row(q) = c * x - n * y;
    v.row(q + 1) = n * x + c * y;
    ++q;
  }
}

// Columns f(t + a), a < chunk, for t from `first` to `last`, ever further apart, weighted as the kind of tolerance asks.
// evaluate(t, out) gives f(t), f(t + 1), ...
template <class F>
Matrix weighted_family(Index first, Index last, Index chunk, ToleranceKind kind, const F& evaluate) {
  std::vector<Index> t;
  std::vector<double> span;  // distances that a sample stands for
  for (double x = static_cast<double>(first), step = 1; x <= static_cast<double>(std::max(first, last)); x += step) {
    if (t.size() >= static_cast<std::size_t>(2 * chunk)) step *= 1.05;
    t.push_back(static_cast<Index>(x));
    span.push_back(step);
  }
  Matrix family(chunk, static_cast<Index>(t.size()));
  std::vector<double> values(static_cast<std::size_t>(chunk)), sizes(t.size(), 0.0);
  double largest = 0;
  for (std::size_t k = 0; k < t.size(); ++k) {
    evaluate(t[k], std::span<double>(values));
    for (Index a = 0; a < chunk; ++a) {
      family(a, static_cast<Index>(k)) = values[static_cast<std::size_t>(a)];
      sizes[k] = std::max(sizes[k], std::abs(values[static_cast<std::size_t>(a)]));
    }
    largest = std::max(largest, sizes[k]);
  }
  for (std::size_t k = 0; k < t.size(); ++k) {
    // Row errors are sums over distances: each sample counts for those it stands for, and small values for more, since a
    // slowly falling tail outweighs the near blocks. Pointwise errors: every sample has size 1.
    double weight = 1;
    if (kind == ToleranceKind::row) weight = std::sqrt(span[k] / std::max(sizes[k], 1e-6 * largest));
    if (kind == ToleranceKind::pointwise) weight = 1 / std::max(sizes[k], 1e-7 * largest);
    family.col(static_cast<Index>(k)) *= sizes[k] == 0 ? 0 : weight;
  }
  return family;
}

// family = U diag(values) ..: by way of a QR factorisation of its transpose.
Eigen::BDCSVD<Matrix> left_vectors(const Matrix& family) {
  const Eigen::HouseholderQR<Matrix> qr(family.transpose());
  const Index n = std::min(family.rows(), family.cols());
  const Matrix upper = qr.matrixQR().topRows(n).triangularView<Eigen::Upper>();
  return Eigen::BDCSVD<Matrix>(upper, Eigen::ComputeThinV);
}

// Left singular vectors of the weighted family {f~(t + a)}; columns by falling singular value.
Matrix basis_of(const ExponentialSum& sum, Index length, Index chunk, Index gap, ToleranceKind kind) {
  const Index first = (gap - 1) * chunk + 1;
  const auto evaluate = [&](Index t, std::span<double> out) { sum.evaluate(t, out); };
  return left_vectors(weighted_family(first, std::max(first + 2 * chunk, length), chunk, kind, evaluate)).matrixV();
}

template <class T>
double rounded(double x) {
  return static_cast<double>(static_cast<T>(x));
}

template <class T>
void round_all(Matrix& m) {
  m = m.unaryExpr([](double x) { return rounded<T>(x); });
}

// One side as a lower side: basis x states, and what the kernels will store.
struct Side {
  States states;
  Matrix row, source;  // [C, R]
  Matrix in, out;      // [r, R], [R, r]
};

template <class T>
Side project(const States& states, const Matrix& basis, Index count) {
  Side s;
  s.states = states;
  const Index r = states.row.cols();
  if (count >= r) {
    s.row = states.row;
    s.source = states.source;
    s.in = Matrix::Identity(r, r);
    s.out = Matrix::Identity(r, r);
  } else {
    s.row = basis.leftCols(count);
    s.source = s.row.colwise().reverse();
    s.out = s.row.transpose() * states.row;
    s.in = states.source.transpose() * s.source;
  }
  round_all<T>(s.row);
  round_all<T>(s.source);
  // Matrices of turning pairs are made anew at every step; others are stored.
  if (std::all_of(states.angle.begin(), states.angle.end(), [](double a) { return a == 0; })) {
    round_all<T>(s.in);
    round_all<T>(s.out);
  }
  return s;
}

// Errors of one side, by distance in chunks n and position in the chunk.
struct Errors {
  RowMajor by_row, by_source;  // [n, C]: sums of |M~ - M| over the sources of a row, over the rows of a source
  double entry = 0, pointwise = 0;
  Index negative = 0;
};

// The distance n that is looked at after n: every one for the certificate, further and further apart for a quick look.
Index next_step(Index n, bool all) {
  return all || n < 4 ? n + 1 : std::max(n + 1, n + n / 3);
}

// f: values by distance; scale_inverse: 1 / |f| where |f| counts for the pointwise error, else 0.
Errors errors_of(const Side& side, const std::vector<double>& f, const std::vector<double>& inverse, Index gap, bool all) {
  const Index chunk = side.row.rows(), basis = side.row.cols(), length = static_cast<Index>(f.size());
  const Index count = std::max<Index>(0, (length - 1) / chunk - gap + 1);
  Errors e;
  e.by_row.setZero(count, chunk);
  e.by_source.setZero(count, chunk);
  Matrix moved = side.in;
  // Sources in reverse order: distances then rise along a row.
  RowMajor source = side.source.colwise().reverse().transpose();
  // By source: M~, its error, the largest error so far, the largest relative one.
  RowMajor work = RowMajor::Zero(4, chunk);
  double* __restrict v = work.row(0).data();
  double* __restrict err = work.row(1).data();
  double* __restrict worst = work.row(2).data();
  double* __restrict worst_relative = work.row(3).data();
  for (Index at = 0, next = 0; at < count; at = next) {
    next = std::min(count, next_step(at, all));
    const double weight = static_cast<double>(next - at);
    const RowMajor left = side.row * (side.out * moved);
    for (Index a = 0; a < chunk && (at + gap) * chunk + a < length; ++a) {
      const Index first = (at + gap) * chunk + a - chunk + 1;
      const double* __restrict exact = f.data() + first;
      const double* __restrict scale = inverse.data() + first;
      for (Index b = 0; b < chunk; ++b) v[b] = 0;
      for (Index p = 0; p < basis; ++p) {
        const double l = left(a, p);
        const double* __restrict s = source.data() + p * chunk;
        for (Index b = 0; b < chunk; ++b) v[b] += l * s[b];
      }
      for (Index b = 0; b < chunk; ++b) {
        const double x = std::abs(v[b] - exact[b]), y = x * scale[b];
        err[b] = x;
        worst[b] = worst[b] > x ? worst[b] : x;
        worst_relative[b] = worst_relative[b] > y ? worst_relative[b] : y;
      }
      double sum = 0;
      for (Index b = 0; b < chunk; ++b) {
        sum += err[b];
        e.by_source(at, chunk - 1 - b) += weight * err[b];
      }
      e.by_row(at, a) = weight * sum;
      if (a == chunk / 2) {
        for (Index b = 0; b < chunk; ++b) e.negative += v[b] < 0 && exact[b] >= 0;
      }
    }
    for (Index k = at; k < next; ++k) move_states(side.states, moved);
  }
  e.entry = work.row(2).maxCoeff();
  e.pointwise = work.row(3).maxCoeff();
  return e;
}

// Row i's sum of errors over both sides. An empty side has no rows in its tables.
double worst_row(const Errors* lower, const Errors* upper, const ToeplitzValues& m, double near, Index chunk, Index gap) {
  const auto length = static_cast<Index>(m.lower.size());
  const Index chunks = (length + chunk - 1) / chunk;
  const auto prefix = [](const Errors* e, const RowMajor Errors::*part) {
    RowMajor sums = e == nullptr ? RowMajor() : e->*part;
    for (Index n = 1; n < sums.rows(); ++n) sums.row(n) += sums.row(n - 1);
    return sums;
  };
  const RowMajor below = prefix(lower, &Errors::by_row), above = prefix(upper, &Errors::by_source);
  std::vector<double> right(static_cast<std::size_t>(length) + 1, 0.0);
  if (m.has_upper) {
    const std::vector<double>& f = m.symmetric ? m.lower : m.upper;
    for (Index d = 1; d < length; ++d)
      right[static_cast<std::size_t>(d)] = right[static_cast<std::size_t>(d - 1)] + std::abs(f[static_cast<std::size_t>(d)]);
  }
  double left = 0, worst = 0;
  const auto sum_of = [](const RowMajor& sums, Index n, Index a) {
    return n < 0 || sums.rows() == 0 ? 0.0 : sums(std::min(n, sums.rows() - 1), a);
  };
  for (Index i = 0; i < length; ++i) {
    if (m.has_lower || i == 0) left += std::abs(m.lower[static_cast<std::size_t>(i)]);
    const Index I = i / chunk, a = i % chunk;
    const double error = near + sum_of(below, I - gap, a) + sum_of(above, chunks - 1 - I - gap, a);
    const double norm = left + right[static_cast<std::size_t>(length - 1 - i)];
    if (error > 0) worst = std::max(worst, norm > 0 ? error / norm : std::numeric_limits<double>::infinity());
  }
  return worst;
}

template <class T>
backend::ChunkSide<T> stored(const Side& s) {
  backend::ChunkSide<T> k;
  k.basis = s.row.cols();
  k.states = s.in.rows();
  k.reads = k.basis;
  const auto push = [](const Matrix& m, auto& to) {  // columns one after the other
    for (Index c = 0; c < m.cols(); ++c) {
      for (Index r = 0; r < m.rows(); ++r) to.push_back(static_cast<typename std::decay_t<decltype(to)>::value_type>(m(r, c)));
    }
  };
  push(s.row, k.row);
  push(s.source, k.source);
  push(s.in.transpose(), k.in);
  push(s.out.transpose(), k.out);
  k.log_decay = s.states.log_decay;
  k.angle = s.states.angle;
  if (s.states.coupled) {
    k.couple_start = s.states.couple_start;
    k.couple_state = s.states.couple_state;
    k.couple_weight = s.states.couple_weight;
  }
  return k;
}

// What the search for one side needs.
struct SideProblem {
  States states;
  Matrix basis;
  std::vector<double> inverse;
};

SideProblem side_problem(const std::vector<double>& f, const ExponentialSum& sum, Index chunk, Index gap, ToleranceKind kind) {
  SideProblem p;
  p.states = states_of(sum, chunk, gap);
  if (p.states.row.cols() > 1) p.basis = basis_of(sum, static_cast<Index>(f.size()), chunk, gap, kind);
  double largest = 0;
  for (const double v : f) largest = std::max(largest, std::abs(v));
  for (const double v : f) p.inverse.push_back(std::abs(v) >= 1e-7 * largest && v != 0 ? 1 / std::abs(v) : 0);
  return p;
}

// `which` of the sums: 0 the mask, k its k-th derivative. All sums' terms, those of the others with coefficient 0, so that the
// states are the same for all.
ExponentialSum joint_sum(const std::vector<const ExponentialSum*>& sums, std::size_t which) {
  ExponentialSum joint;
  for (std::size_t k = 0; k < sums.size(); ++k) {
    for (ExponentialTerm t : sums[k]->terms) {
      if (k != which) t.coefficient = 0;
      joint.terms.push_back(t);
    }
  }
  return joint;
}

// An orthonormal basis: `own` of the mask's first, then what the derivatives' families add to it, by falling weight.
Matrix joint_basis(const std::vector<const ExponentialSum*>& sums, Index own, Index length, Index chunk, Index gap,
                   ToleranceKind kind) {
  const Index first = (gap - 1) * chunk + 1;
  Matrix basis = sums[0]->terms.empty() ? Matrix(chunk, 0) : Matrix(basis_of(*sums[0], length, chunk, gap, kind).leftCols(own));
  Matrix rest(chunk, 0);
  for (std::size_t k = 1; k < sums.size(); ++k) {
    const auto evaluate = [&](Index t, std::span<double> out) { sums[k]->evaluate(t, out); };
    const auto family = left_vectors(weighted_family(first, std::max(first + 2 * chunk, length), chunk, kind, evaluate));
    const double norm = family.singularValues().norm();
    if (norm == 0) continue;
    const Index columns = rest.cols();
    rest.conservativeResize(Eigen::NoChange, columns + family.matrixV().cols());
    rest.rightCols(family.matrixV().cols()) = family.matrixV() * (family.singularValues() / norm).asDiagonal();
  }
  if (rest.cols() == 0) return basis;
  // Twice: once leaves what rounding makes of the large parts.
  for (int pass = 0; pass < 2; ++pass) rest -= basis * (basis.transpose() * rest);
  const Matrix more = left_vectors(rest).matrixV();
  Matrix all(chunk, basis.cols() + more.cols());
  all << basis, more;
  return all;
}

template <class T>
Side joint_side(const States& states, const Matrix& basis, Index count, bool lower) {
  Side s;
  s.states = states;
  const Matrix vectors = basis.leftCols(std::min(count, basis.cols())), turned = vectors.colwise().reverse();
  s.row = lower ? vectors : turned;
  s.source = lower ? turned : vectors;
  round_all<T>(s.row);
  round_all<T>(s.source);
  s.out = vectors.transpose() * (lower ? states.row : Matrix(states.row.colwise().reverse()));
  s.in = states.source.transpose() * (lower ? turned : vectors);
  return s;
}

}  // namespace

template <class T>
bool derivative_form(const ToeplitzValues& m, const std::vector<ToeplitzValues>& derivatives, const ChunkBasis<T>& basis,
                     double tolerance, ToleranceKind kind, backend::ChunkedToeplitz<T>& form) {
  form = basis.product;
  const Index chunk = form.chunk, gap = form.gap, length = form.length;
  constexpr Index kMost = 32;
  for (const bool lower : {true, false}) {
    backend::ChunkSide<T>& side = lower ? form.lower : form.upper;
    if (!(lower ? m.has_lower : m.has_upper) || length <= gap * chunk) {
      side.derivative_out.assign(derivatives.size(), std::vector<double>());
      continue;
    }
    const bool first = lower || m.symmetric;
    std::vector<const ExponentialSum*> sums{first ? &m.lower_sum : &m.upper_sum};
    for (const ToeplitzValues& d : derivatives) sums.push_back(first ? &d.lower_sum : &d.upper_sum);
    const Index own = side.basis;
    const Matrix vectors = joint_basis(sums, std::min(own, chunk), length, chunk, gap, kind);
    const auto states = [&](std::size_t which) { return states_of(joint_sum(sums, which), chunk, gap, lower); };
    bool within = false;
    Index count = std::min(own, vectors.cols());
    for (; !within && count <= std::min(kMost, vectors.cols()); ++count) {
      within = true;
      for (std::size_t k = 1; within && k < sums.size(); ++k) {
        const ToeplitzValues& d = derivatives[k - 1];
        const std::vector<double>& values = first ? d.lower : d.upper;
        double largest = 0;
        for (const double v : values) largest = std::max(largest, std::abs(v));
        if (largest == 0) continue;
        // As a lower side: errors of an upper one are the same, row and source changed.
        const Side trial = joint_side<T>(states_of(joint_sum(sums, k), chunk, gap, true), vectors, count, true);
        const std::vector<double> inverse(values.size(), 0.0);
        const Errors e = errors_of(trial, values, inverse, gap, true);
        const double error =
            worst_row(lower || m.symmetric ? &e : nullptr, !lower || m.symmetric ? &e : nullptr, d, 0, chunk, gap);
        within = error <= std::max(tolerance, 16.0 * static_cast<double>(std::numeric_limits<T>::epsilon()));
      }
    }
    if (!within) return false;
    --count;
    const Side f = joint_side<T>(states(0), vectors, count, lower);
    side = stored<T>(f);
    side.reads = std::min(own, count);
    for (std::size_t k = 1; k < sums.size(); ++k) {
      const Side g = joint_side<T>(states(k), vectors, count, lower);
      std::vector<double> out;
      for (Index p = 0; p < g.out.rows(); ++p) {
        for (Index q = 0; q < g.out.cols(); ++q) out.push_back(g.out(p, q));
      }
      side.derivative_out.push_back(std::move(out));
    }
  }
  return true;
}

template <class T>
ChunkBasis<T> chunk_basis(const ToeplitzValues& m, Index chunk, Index gap, double tolerance, ToleranceKind kind) {
  ChunkBasis<T> result;
  const auto length = static_cast<Index>(m.lower.size());
  backend::ChunkedToeplitz<T>& product = result.product;
  product.length = length;
  product.chunk = chunk;
  product.gap = gap;
  product.has_lower = m.has_lower;
  product.has_upper = m.has_upper;
  const std::vector<double>& upper = m.symmetric ? m.lower : m.upper;
  double near_error = 0, largest = 0;
  for (Index o = 1 - gap * chunk; o < gap * chunk; ++o) {
    const Index d = o < 0 ? -o : o;
    double v = 0;
    if (d < length && (o == 0 || (o > 0 ? m.has_lower : m.has_upper)))
      v = (o >= 0 ? m.lower : upper)[static_cast<std::size_t>(d)];
    product.near.push_back(static_cast<T>(v));
    near_error += std::abs(rounded<T>(v) - v);
  }
  if (m.has_lower)
    for (const double v : m.lower) largest = std::max(largest, std::abs(v));
  if (m.has_upper)
    for (const double v : upper) largest = std::max(largest, std::abs(v));

  const bool far = length > gap * chunk;
  const bool with_lower = far && m.has_lower, with_upper = far && m.has_upper;
  std::vector<SideProblem> problems;
  if (with_lower || (with_upper && m.symmetric)) problems.push_back(side_problem(m.lower, m.lower_sum, chunk, gap, kind));
  if (with_upper && !m.symmetric) problems.push_back(side_problem(m.upper, m.upper_sum, chunk, gap, kind));
  Index most = 0;
  for (const SideProblem& p : problems) most = std::max(most, p.states.row.cols());

  std::vector<Side> sides(problems.size());
  std::vector<Errors> errors(problems.size());
  const auto measure = [&](Index count, bool all) {
    for (std::size_t k = 0; k < problems.size(); ++k) {
      const bool is_upper = with_upper && !m.symmetric && k + 1 == problems.size();
      sides[k] = project<T>(problems[k].states, problems[k].basis, count);
      errors[k] = errors_of(sides[k], is_upper ? m.upper : m.lower, problems[k].inverse, gap, all);
    }
    const Errors* low = with_lower ? &errors.front() : nullptr;
    const Errors* high = with_upper ? &errors.back() : nullptr;
    Certificate c;
    c.row = worst_row(low, high, m, near_error, chunk, gap);
    double entry = 0, pointwise = 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon());
    result.fitted_negative = 0;
    for (const Errors& e : errors) {
      entry = std::max(entry, e.entry), pointwise = std::max(pointwise, e.pointwise), result.fitted_negative += e.negative;
    }
    c.entry = largest > 0 ? std::max(entry / largest, 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon())) : 0.0;
    if (pointwise <= 1) c.pointwise = pointwise;
    result.certificate = c;
    const double value = kind == ToleranceKind::row ? *c.row : kind == ToleranceKind::entry ? *c.entry : pointwise;
    return value <= tolerance;
  };
  // A quick look at a few distances finds where to begin; the whole check decides.
  Index count = 1;
  while (count < most && !measure(count, false)) ++count;
  for (; !(result.met = measure(count, true)) && count < most; ++count) {
  }
  if (with_lower) product.lower = stored<T>(sides.front());
  if (with_upper) {
    backend::ChunkedToeplitz<T> as_lower;
    as_lower.lower = stored<T>(sides.back());
    product.upper = backend::transposed(as_lower).upper;
  }
  return result;
}

template bool derivative_form(const ToeplitzValues&, const std::vector<ToeplitzValues>&, const ChunkBasis<float>&, double,
                              ToleranceKind, backend::ChunkedToeplitz<float>&);
template bool derivative_form(const ToeplitzValues&, const std::vector<ToeplitzValues>&, const ChunkBasis<double>&, double,
                              ToleranceKind, backend::ChunkedToeplitz<double>&);

Index far_rank(const std::vector<double>& values, Index chunk, Index gap, double tolerance, ToleranceKind kind) {
  const Index first = (gap - 1) * chunk + 1, last = static_cast<Index>(values.size()) - chunk;
  if (last < first) return 0;
  const auto evaluate = [&](Index t, std::span<double> out) { std::copy_n(values.begin() + t, out.size(), out.begin()); };
  const Eigen::VectorXd s = left_vectors(weighted_family(first, last, chunk, kind, evaluate)).singularValues();
  // Row kind: the sum of |error| is at most the root of (weighted squares of the errors) x (sum of |f|), and so is the sum of
  // |f| near values included; the other kinds have samples of their own size.
  double allowed = tolerance * tolerance * s.squaredNorm();
  double near = 0, far = 0;
  for (std::size_t d = 0; d < values.size(); ++d) (static_cast<Index>(d) < first ? near : far) += std::abs(values[d]);
  if (kind == ToleranceKind::row && far > 0) allowed *= std::pow((near + far) / far, 2);
  if (kind == ToleranceKind::entry) {
    double largest = 0;
    for (const double v : values) largest = std::max(largest, std::abs(v));
    allowed = std::pow(tolerance * largest, 2) * static_cast<double>(chunk);
  }
  if (kind == ToleranceKind::pointwise) allowed = tolerance * tolerance * static_cast<double>(chunk);
  Index rank = s.size();
  for (double tail = 0; rank > 0 && tail + s[rank - 1] * s[rank - 1] <= allowed; --rank) tail += s[rank - 1] * s[rank - 1];
  return rank;
}

Index band_width(const ToeplitzValues& m, double tolerance, ToleranceKind kind) {
  const auto width = [&](const std::vector<double>& f, double largest) {
    double total = 0, tail = 0;
    for (const double v : f) total += std::abs(v);
    auto w = static_cast<Index>(f.size()) - 1;
    for (; w > 0; --w) {
      const double v = std::abs(f[static_cast<std::size_t>(w)]);
      tail += v;
      const bool drop = kind == ToleranceKind::row     ? tail <= 0.9 * tolerance * total
                        : kind == ToleranceKind::entry ? v <= 0.9 * tolerance * largest
                                                       : v < 1e-7 * largest;
      if (!drop) break;
    }
    return w;
  };
  double largest = 0;
  for (const std::vector<double>* f : {&m.lower, &m.upper}) {
    for (const double v : *f) largest = std::max(largest, std::abs(v));
  }
  Index w = 0;
  if (m.has_lower || m.symmetric) w = width(m.lower, largest);
  if (m.has_upper && !m.symmetric) w = std::max(w, width(m.upper, largest));
  return w;
}

template ChunkBasis<float> chunk_basis(const ToeplitzValues&, Index, Index, double, ToleranceKind);
template ChunkBasis<double> chunk_basis(const ToeplitzValues&, Index, Index, double, ToleranceKind);

}  // namespace espalier
