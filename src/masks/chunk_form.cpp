// Pieces of the chunk-basis form that are compiled once.
// SPDX-License-Identifier: Apache-2.0
#include "masks/chunk_form.hpp"

#include <complex>
#include <limits>

#include "functions/decay_groups.hpp"

namespace espalier::chunk_form {

States states_of(const ExponentialSum& sum, Index chunk, Index gap) {
  States s;
  const std::vector<DecayGroup> groups = decay_groups(sum);
  Index count = 0;
  for (const DecayGroup& g : groups) count += static_cast<Index>(g.coefficients.size()) * (g.real ? 1 : 2);
  s.row.setZero(chunk, count);
  s.source.setZero(chunk, count);
  const double size = static_cast<double>(chunk);
  Index q = 0;
  for (const DecayGroup& g : groups) {
    const int powers = static_cast<int>(g.coefficients.size()), width = g.width();
    const Index first = q;
    for (int j = powers - 1; j >= 0; --j, q += width) {
      for (Index i = 0; i < chunk; ++i) {
        const double a = static_cast<double>(i), t = static_cast<double>(gap * chunk - i);
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

void move_states(const States& s, Matrix& v) {
  const Index count = v.rows();
  for (Index q = 0; q < count; ++q) {
    const auto at = static_cast<std::size_t>(q);
    v.row(q) = (s.keep[at] + s.decay[at]) * v.row(q);
    // Later states, not yet moved: as the kernels take them.
    for (Index k = s.couple_start[at]; k < s.couple_start[at + 1]; ++k) {
      v.row(q) += s.couple_stored[static_cast<std::size_t>(k)] * v.row(s.couple_state[static_cast<std::size_t>(k)]);
    }
  }
  for (Index q = 0; q < count; ++q) {
    const double angle = s.angle[static_cast<std::size_t>(q)];
    if (angle == 0) continue;
    const double c = std::cos(angle), n = std::sin(angle);
    const Eigen::RowVectorXd x = v.row(q), y = v.row(q + 1);
    v.row(q) = c * x - n * y;
    v.row(q + 1) = n * x + c * y;
    ++q;
  }
}

Eigen::BDCSVD<Matrix> left_vectors(const Matrix& family) {
  const Eigen::HouseholderQR<Matrix> qr(family.transpose());
  const Index n = std::min(family.rows(), family.cols());
  const Matrix upper = qr.matrixQR().topRows(n).triangularView<Eigen::Upper>();
  return Eigen::BDCSVD<Matrix>(upper, Eigen::ComputeThinV);
}

Matrix basis_of(const ExponentialSum& sum, Index length, Index chunk, Index gap, ToleranceKind kind) {
  const Index first = (gap - 1) * chunk + 1;
  const auto evaluate = [&](Index t, std::span<double> out) { sum.evaluate(t, out); };
  return left_vectors(weighted_family(first, std::max(first + 2 * chunk, length), chunk, kind, evaluate)).matrixV();
}

namespace {

// The distance n that is looked at after n: every one for the certificate, further and further apart for a quick look.
Index next_step(Index n, bool all) {
  return all || n < 4 ? n + 1 : std::max(n + 1, n + n / 3);
}

}  // namespace

Errors errors_of(const Side& side, const std::vector<double>& f, const std::vector<double>& inverse, Index gap, bool all) {
  const Index chunk = side.row.rows(), basis = side.source.cols(), length = static_cast<Index>(f.size());
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

}  // namespace espalier::chunk_form
