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

// 1 / |f| where it is at least `least`, else 0, for the distances first .. first + scale.size() - 1 that there are.
void inverses(const std::vector<double>& f, double least, Index first, std::vector<double>& scale) {
  const Index count = std::min(static_cast<Index>(scale.size()), static_cast<Index>(f.size()) - first);
  for (Index k = 0; k < count; ++k) {
    const double size = std::abs(f[static_cast<std::size_t>(first + k)]);
    scale[static_cast<std::size_t>(k)] = size >= least && size > 0 ? 1 / size : 0;
  }
}

// The distance n that is looked at after n: every one for the certificate, further and further apart for a quick look.
Index next_step(Index n, bool all) {
  return all || n < 4 ? n + 1 : std::max(n + 1, n + n / 3);
}

}  // namespace

Errors errors_of(const Side& side, const std::vector<double>& f, double least, Index gap, bool all, const SetUpWatch& watch) {
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
  std::vector<double> relative(static_cast<std::size_t>(2 * chunk - 1));
  for (Index at = 0, next = 0; at < count; at = next) {
    watch.look();
    next = std::min(count, next_step(at, all));
    const double weight = static_cast<double>(next - at);
    const RowMajor left = side.row * (side.out * moved);
    inverses(f, least, (at + gap) * chunk - chunk + 1, relative);
    for (Index a = 0; a < chunk && (at + gap) * chunk + a < length; ++a) {
      const Index first = (at + gap) * chunk + a - chunk + 1;
      const double* __restrict exact = f.data() + first;
      const double* __restrict scale = relative.data() + a;
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

namespace {

// |D|: the states' moves with absolute values. Pairs only decay, and stand in their first state alone.
States absolute_moves(const States& s) {
  States a = s;
  for (double& angle : a.angle) angle = 0;
  for (double& w : a.couple_stored) w = std::abs(w);
  return a;
}

// |x| of the states' rows (or of their columns): a pair's two numbers become their length, in both.
Matrix absolute_states(const States& s, const Matrix& by_state) {
  Matrix a = by_state.cwiseAbs();
  for (Index q = 0; q + 1 < a.rows(); ++q) {
    if (s.angle[static_cast<std::size_t>(q)] == 0) continue;
    a.row(q) = (by_state.row(q).array().square() + by_state.row(q + 1).array().square()).sqrt();
    a.row(q + 1) = a.row(q);
    ++q;
  }
  return a;
}

}  // namespace

double entry_rounding(const Side& side, const std::vector<double>& f, double least, Index gap, const SetUpWatch& watch) {
  const Index chunk = side.row.rows(), length = static_cast<Index>(f.size()), r = side.in.rows();
  const Index count = std::max<Index>(0, (length - 1) / chunk - gap + 1);
  const States moves = absolute_moves(side.states);
  Matrix moved = absolute_states(side.states, side.in), out = absolute_states(side.states, side.out.transpose()).transpose();
  for (Index q = 0; q + 1 < r; ++q) {
    if (side.states.angle[static_cast<std::size_t>(q)] == 0) continue;
    out.col(++q).setZero();  // a pair's length counts once
  }
  const Matrix row = side.row.cwiseAbs();
  const RowMajor source = side.source.cwiseAbs().colwise().reverse().transpose();
  const auto operations = static_cast<double>(2 * side.row.cols() + r + 10);
  Eigen::RowVectorXd value(chunk);
  std::vector<double> relative(static_cast<std::size_t>(2 * chunk - 1));
  double worst = 0;
  for (Index at = 0; at < count; ++at) {
    watch.look();
    Eigen::VectorXd weight(r);
    for (Index q = 0; q < r; ++q) {
      const bool compensated = !moves.coupled && moves.log_decay[static_cast<std::size_t>(q)] < backend::kSlowLogDecay;
      weight[q] = std::sqrt(operations + (compensated ? 0.0 : 2 * static_cast<double>(at)));
    }
    const RowMajor left = row * (out * weight.asDiagonal() * moved);
    inverses(f, least, (at + gap) * chunk - chunk + 1, relative);
    for (Index a = 0; a < chunk && (at + gap) * chunk + a < length; ++a) {
      value.noalias() = left.row(a) * source;
      const double* scale = relative.data() + a;
      for (Index b = 0; b < chunk; ++b) worst = std::max(worst, value[b] * scale[b]);
    }
    move_states(moves, moved);
  }
  return worst;
}

namespace {

// sum_{e = 1}^{d} |f(e)| for falling d: prefix sums at the ends of blocks, those within one when it is reached.
class FallingSums {
 public:
  explicit FallingSums(const std::vector<double>& f) : f_(f) {
    double sum = 0;
    for (std::size_t d = 0; d < f.size(); ++d) {
      if (d % kBlock == 0) blocks_.push_back(sum);
      sum += d == 0 ? 0 : std::abs(f[d]);
    }
  }
  double operator()(std::size_t d) {
    if (d / kBlock != block_) {
      block_ = d / kBlock;
      double sum = blocks_[block_];
      for (std::size_t k = 0; k < kBlock && block_ * kBlock + k < f_.size(); ++k) {
        const std::size_t e = block_ * kBlock + k;
        within_[k] = sum += e == 0 ? 0 : std::abs(f_[e]);
      }
    }
    return within_[d % kBlock];
  }

 private:
  static constexpr std::size_t kBlock = 64;
  const std::vector<double>& f_;
  std::vector<double> blocks_;
  std::size_t block_ = static_cast<std::size_t>(-1);
  double within_[kBlock] = {};
};

}  // namespace

double worst_row(Errors* lower, Errors* upper, const ToeplitzValues& m, double near, Index chunk, Index gap) {
  const auto length = static_cast<Index>(m.lower.size());
  const Index chunks = (length + chunk - 1) / chunk;
  const auto prefix = [](RowMajor* sums) {
    for (Index n = 1; sums != nullptr && n < sums->rows(); ++n) sums->row(n) += sums->row(n - 1);
    return sums;
  };
  const RowMajor* below = prefix(lower == nullptr ? nullptr : &lower->by_row);
  const RowMajor* above = prefix(upper == nullptr ? nullptr : &upper->by_source);
  FallingSums right(m.symmetric ? m.lower : m.upper);
  double left = 0, worst = 0;
  const auto sum_of = [](const RowMajor* sums, Index n, Index a) {
    return sums == nullptr || n < 0 || sums->rows() == 0 ? 0.0 : (*sums)(std::min(n, sums->rows() - 1), a);
  };
  for (Index i = 0; i < length; ++i) {
    if (m.has_lower || i == 0) left += std::abs(m.lower[static_cast<std::size_t>(i)]);
    const Index I = i / chunk, a = i % chunk;
    const double error = near + sum_of(below, I - gap, a) + sum_of(above, chunks - 1 - I - gap, a);
    const double norm = left + (m.has_upper ? right(static_cast<std::size_t>(length - 1 - i)) : 0.0);
    if (error > 0) worst = std::max(worst, norm > 0 ? error / norm : std::numeric_limits<double>::infinity());
  }
  return worst;
}

}  // namespace espalier::chunk_form
