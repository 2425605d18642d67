// Variable projection: Golub and Pereyra 1973, with the simplified Jacobian of L. Kaufman, BIT 15 (1975) 49.
// SPDX-License-Identifier: Apache-2.0
#include "functions/variable_projection.hpp"

#include <Eigen/QR>

#include <algorithm>
#include <cmath>

namespace espalier::fitting {

namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

double scale_of(const Problem& p) {
  return p.last > p.first ? p.last - p.first : 1.0;
}

double fastest_decay(const Problem& p) {
  // Terms are written for distances from 0: their coefficient grows by exp(s first).
  if (p.first > 0) return 20 / p.first;
  return p.integers ? 40.0 : 1e14 / scale_of(p);
}

// Columns of the basis at the samples, distances counted from first.
MatrixXd design(const Problem& p, const Basis& basis) {
  const VectorXd d = p.samples.distance.array() - p.first;
  MatrixXd a(d.size(), basis.columns());
  Eigen::Index k = 0;
  for (const auto& s : basis.decays) {
    const VectorXd decayed = (-s.real() * d.array()).exp();
    if (s.imag() == 0) {
      a.col(k++) = decayed;
    } else {
      a.col(k++) = decayed.array() * (s.imag() * d.array()).cos();
      a.col(k++) = decayed.array() * (s.imag() * d.array()).sin();
    }
  }
  const Eigen::Index plain = k;
  for (int q = 1; q <= basis.powers; ++q) {
    for (Eigen::Index j = 0; j < plain; ++j, ++k) a.col(k) = a.col(k - plain).array() * d.array() / scale_of(p);
  }
  return a;
}

struct Projection {
  MatrixXd columns;  // unweighted
  MatrixXd q;        // orthonormal, of the weighted columns with the damping rows below
  VectorXd coefficients;
  VectorXd residual;  // weighted, damping rows included
  double cost;
};

Projection solve(Problem& p, const Basis& basis, const VectorXd& root) {
  Projection out;
  out.columns = design(p, basis);
  const Eigen::Index m = root.size(), n = out.columns.cols();
  MatrixXd a = MatrixXd::Zero(m + n, n);
  a.topRows(m) = root.asDiagonal() * out.columns;
  // A coefficient as large as the allowed amplification costs 0.01, a hundredth of a fit that just meets the tolerance.
  a.bottomRows(n).diagonal().setConstant(0.1 / (p.max_amplification * p.largest));
  VectorXd y = VectorXd::Zero(m + n);
  y.head(m) = root.array() * p.samples.value.array();
  Eigen::HouseholderQR<MatrixXd> qr(a);
  out.q = qr.householderQ() * MatrixXd::Identity(m + n, n);
  const VectorXd qy = out.q.transpose() * y;
  out.coefficients = qr.matrixQR().topRows(n).triangularView<Eigen::Upper>().solve(qy);
  out.residual = y - out.q * qy;
  out.cost = out.residual.squaredNorm();
  ++p.solves;
  p.work += static_cast<double>(m * n);
  return out;
}

// d residual / d parameter = -(1 - Q Q^T) (dA / d parameter) c; parameters: log Re s of each decay, then Im s of complex ones.
MatrixXd jacobian(const Problem& p, const Basis& basis, const Projection& at, const VectorXd& root) {
  const VectorXd d = p.samples.distance.array() - p.first;
  const Eigen::Index m = root.size();
  Eigen::Index parameters = 0;
  for (const auto& s : basis.decays) parameters += s.imag() == 0 ? 1 : 2;
  MatrixXd j = MatrixXd::Zero(at.q.rows(), parameters);
  Eigen::Index column = 0, parameter = 0;
  for (const auto& s : basis.decays) {
    if (s.imag() == 0) {
      j.col(parameter++).head(m) =
          root.array() * d.array() * at.columns.col(column).array() * (s.real() * at.coefficients[column]);
      column += 1;
      continue;
    }
    const auto cosine = at.columns.col(column).array(), sine = at.columns.col(column + 1).array();
    const double cc = at.coefficients[column], cs = at.coefficients[column + 1];
    j.col(parameter++).head(m) = root.array() * d.array() * (cosine * (cc * s.real()) + sine * (cs * s.real()));
    j.col(parameter++).head(m) = root.array() * d.array() * (sine * cc - cosine * cs);
    column += 2;
  }
  return j - at.q * (at.q.transpose() * j);
}

Basis moved(const Problem& p, const Basis& basis, const VectorXd& step) {
  Basis next = basis;
  const double fastest = fastest_decay(p);
  // A decay that changes nothing over the whole range is 0, and stays so.
  const double slowest = std::min(1e-6, 0.01 * p.tolerance) / scale_of(p);
  Eigen::Index k = 0;
  for (auto& s : next.decays) {
    const double least = s.real() * scale_of(p) < 0.01 ? -4.0 : -1.0;
    double re = std::min(s.real() * std::exp(std::clamp(step[k], least, 1.0)), fastest);
    if (re < slowest) re = 0;
    ++k;
    double im = s.imag();
    if (im != 0) {
      const double limit = 0.5 * (s.real() + im);
      // Beyond half a turn an integer step an oscillation has a slower alias.
      im = std::clamp(std::abs(im + std::clamp(step[k], -limit, limit)), 1e-6 / scale_of(p),
                      p.integers ? 3.14159265358979 : fastest);
      ++k;
    }
    s = {re, im};
  }
  return next;
}

// The step that minimises |J step + residual|^2 + damping |D step|^2, from the triangle of J: normal equations would lose
// the directions in which neighbouring decays trade places.
VectorXd damped_step(const MatrixXd& triangle, const VectorXd& target, const VectorXd& scale, double damping) {
  const Eigen::Index n = triangle.cols();
  MatrixXd a(2 * n, n);
  a.topRows(n) = triangle;
  a.bottomRows(n) = (std::sqrt(damping) * scale).asDiagonal();
  VectorXd b = VectorXd::Zero(2 * n);
  b.head(n) = -target;
  return a.householderQr().solve(b);
}

void descend(Problem& p, Basis& basis, Projection& at, const VectorXd& root, int steps) {
  double damping = 1e-3;
  int slow = 0;
  for (int step = 0; step < steps; ++step) {
    p.look();
    const MatrixXd j = jacobian(p, basis, at, root);
    const Eigen::Index n = j.cols();
    VectorXd scale = j.colwise().norm();
    scale = scale.array().max(1e-9 * scale.maxCoeff() + 1e-300);
    const Eigen::HouseholderQR<MatrixXd> qr(j);
    const MatrixXd triangle = qr.matrixQR().topRows(n).triangularView<Eigen::Upper>();
    const VectorXd target = (qr.householderQ().transpose() * at.residual).head(n);
    bool better = false;
    for (int attempt = 0; attempt < 7 && !better; ++attempt) {
      const VectorXd change = damped_step(triangle, target, scale, damping);
      if (change.allFinite()) {
        const Basis next = moved(p, basis, change);
        Projection trial = solve(p, next, root);
        if (trial.cost < at.cost) {
          const double gain = (at.cost - trial.cost) / at.cost;
          slow = gain < 2e-3 ? slow + 1 : 0;
          basis = next, at = std::move(trial);
          better = true;
          damping = std::max(damping * 0.2, 1e-14);
          break;
        }
      }
      damping *= 5;
    }
    if (!better || slow >= 2) return;
  }
}

Solution finish(const Problem& p, const Basis& basis, const Projection& at) {
  Solution s;
  s.basis = basis;
  s.coefficients = at.coefficients;
  s.error = at.columns * at.coefficients - p.samples.value;
  s.cost = at.cost;
  s.excess = s.error.allFinite() ? p.excess(s.error) : HUGE_VAL;
  return s;
}

}  // namespace

Index Basis::columns() const {
  Index n = 0;
  for (const auto& s : decays) n += s.imag() == 0 ? 1 : 2;
  return n * (powers + 1);
}

VectorXd first_weights(const Problem& p) {
  const Samples& s = p.samples;
  if (p.kind != ToleranceKind::row || !p.integers)
    return s.allowed.array().square().inverse() / static_cast<double>(s.allowed.size());
  // sum share |e| is to stay below sum share allowed: with |e| = allowed everywhere the sum of squares is 1.
  return s.share.array() / (s.allowed.array() * s.share.dot(s.allowed));
}

Solution project(Problem& p, const Basis& basis, const VectorXd& weight) {
  const VectorXd root = weight.array().sqrt();
  return finish(p, basis, solve(p, basis, root));
}

Solution polish(Problem& p, const Basis& start, int steps, int rounds) {
  const VectorXd initial = first_weights(p);
  VectorXd weight = initial, root = weight.array().sqrt();
  Basis basis = start;
  Projection at = solve(p, basis, root);
  // Least squares is not the norm that counts: what was better before stays.
  Solution best = finish(p, basis, at);
  descend(p, basis, at, root, steps);
  if (Solution polished = finish(p, basis, at); polished.excess < best.excess) best = std::move(polished);
  for (int round = 0; round < rounds && best.excess > 1 && best.excess < 4; ++round) {
    const VectorXd e = (at.columns * at.coefficients - p.samples.value).array().abs() / p.samples.allowed.array();
    if (p.kind == ToleranceKind::row && p.integers) {
      // Sums of absolute values: squares over the error itself, kept away from 0.
      const double floor = 0.2 * e.mean();
      weight = initial.array() / e.array().max(floor);
    } else {
      // Largest values: Lawson's weights grow where the error is large.
      weight = weight.array() * (e.array() / e.maxCoeff() + 0.03);
    }
    weight *= initial.sum() / weight.sum();
    root = weight.array().sqrt();
    at = solve(p, basis, root);
    descend(p, basis, at, root, 6);
    Solution next = finish(p, basis, at);
    if (next.excess < best.excess) best = std::move(next);
  }
  return best;
}

ExponentialSum to_sum(const Problem& p, const Solution& s) {
  ExponentialSum sum;
  // A power of d - first is a combination of powers of d: jets are used with first = 0 or written out by the binomial rule.
  const Index plain = s.basis.columns() / (s.basis.powers + 1);
  Index column = 0;
  for (const auto& decay : s.basis.decays) {
    const bool real = decay.imag() == 0;
    const std::complex<double> shift = std::exp(decay * p.first);
    std::vector<std::complex<double>> c(static_cast<std::size_t>(s.basis.powers) + 1);
    for (int q = 0; q <= s.basis.powers; ++q) {
      const Index at = column + q * plain;
      const std::complex<double> value(s.coefficients[at], real ? 0.0 : s.coefficients[at + 1]);
      double binomial = 1;
      const double scale = std::pow(p.last > p.first ? p.last - p.first : 1.0, -q);
      for (int k = q; k >= 0; --k) {
        c[static_cast<std::size_t>(k)] += value * shift * scale * binomial * std::pow(-p.first, q - k);
        binomial *= static_cast<double>(k) / (q - k + 1);
      }
    }
    // Re(c exp(-(a + i b) d)) = exp(-a d) (Re c cos b d + Im c sin b d): the columns as they are.
    for (std::size_t k = 0; k < c.size(); ++k) {
      if (c[k] != 0.0) sum.terms.push_back({c[k], decay, static_cast<int>(k)});
    }
    column += real ? 1 : 2;
  }
  return sum;
}

}  // namespace espalier::fitting
