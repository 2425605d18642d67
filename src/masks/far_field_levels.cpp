// Bases of a far field from sketches, and how many of their vectors a tolerance needs.
// SPDX-License-Identifier: Apache-2.0
#include "masks/far_field_levels.hpp"

#include <espalier/core/random.hpp>

#include <Eigen/Dense>

#include <limits>

#include "backend/block_product.hpp"

namespace espalier::far_field {

using backend::block_product;
using backend::kBlockPadding;
using backend::padded_width;

namespace {

// table continued along axis t, from lengths `sizes` to `reach` on both sides, by the parabola through the last value and those
// `step` and 2 step before it; by the last value where the axis is too short for that.
std::vector<double> continued(const std::vector<double>& table, Axes& sizes, std::size_t t, Index reach, Index step) {
  const Index old = sizes[t] / 2;  // offsets -old .. old
  Axes next = sizes;
  next[t] = 2 * reach + 1;
  std::vector<double> result(static_cast<std::size_t>(backend::count(next)));
  for (std::size_t k = 0; k < result.size(); ++k) {
    Axes at = backend::place(static_cast<Index>(k), next);
    const Index offset = at[t] - reach, size = offset < 0 ? -offset : offset, sign = offset < 0 ? -1 : 1;
    const auto value = [&](Index distance) {
      at[t] = old + sign * distance;
      return table[static_cast<std::size_t>(backend::flat(at, sizes))];
    };
    if (size <= old) {
      result[k] = value(size);
    } else if (old < 2 * step) {
      result[k] = value(old);
    } else {
      const double u = static_cast<double>(size - old) / static_cast<double>(step);
      result[k] =
          0.5 * (1 + u) * (2 + u) * value(old) - u * (2 + u) * value(old - step) + 0.5 * u * (1 + u) * value(old - 2 * step);
    }
  }
  sizes = next;
  return result;
}

}  // namespace

WholeTable::WholeTable(const PatchPlan& plan, const std::vector<double>& table) : values(table) {
  for (const double v : table) largest = std::max(largest, std::abs(v)), sum += std::abs(v);
  for (std::size_t t = 0; t < 3; ++t) sizes[t] = 2 * plan.sizes[t] - 1;
  for (std::size_t t = 0; t < 3; ++t) {
    reach[t] = plan.patches.front()[t] * plan.patch[t] - 1;
    if (reach[t] > sizes[t] / 2) values = continued(values, sizes, t, reach[t], plan.patch[t]);
  }
}

WholeTable::Extremes WholeTable::extremes(const Axes& o, const Axes& patch, double least) const {
  // Every offset of two points once: P^2 entries are (2 p - 1)^d of them.
  Extremes e{0, std::numeric_limits<double>::infinity()};
  Axes first{}, count{};
  for (std::size_t t = 0; t < 3; ++t) {
    first[t] = o[t] * patch[t] - (patch[t] - 1) + reach[t];
    count[t] = 2 * patch[t] - 1;
  }
  for (Index a = 0; a < count[0] * count[1]; ++a) {
    const double* v = values.data() + backend::flat({first[0] + a / count[1], first[1] + a % count[1], first[2]}, sizes);
    for (Index b = 0; b < count[2]; ++b) {
      const double size = std::abs(v[b]);
      e.largest = std::max(e.largest, size);
      if (size >= least) e.smallest = std::min(e.smallest, size);
    }
  }
  return e;
}

void WholeTable::block(const Axes& o, const Axes& patch, double* out, Index stride) const {
  Axes first{};  // of row position 0 and mirrored source position 0
  for (std::size_t t = 0; t < 3; ++t) first[t] = o[t] * patch[t] - (patch[t] - 1) + reach[t];
  for (Index a0 = 0; a0 < patch[0]; ++a0) {
    for (Index a1 = 0; a1 < patch[1]; ++a1) {
      for (Index a2 = 0; a2 < patch[2]; ++a2, out += stride) {
        double* to = out;
        for (Index b0 = 0; b0 < patch[0]; ++b0) {
          for (Index b1 = 0; b1 < patch[1]; ++b1, to += patch[2]) {
            const Axes at{first[0] + a0 + b0, first[1] + a1 + b1, first[2] + a2};
            std::copy_n(values.data() + backend::flat(at, sizes), patch[2], to);
          }
        }
      }
    }
  }
}

namespace {

// Random combinations of the columns of all blocks, with their weights: 32 of each go to one of several places, or to every
// place where blocks are few. There are as many places as all rows take, and one more; at most so many as the largest basis
// takes.
constexpr Index kMostPlaces = 12;
constexpr Index kFewBlocks = 64;

Eigen::MatrixXd sketch(const Offsets& offsets, const std::vector<char>& wanted, Index rows, const BlockOf& block,
                       const std::vector<double>& sizes, const Weights& weights, Steps& steps) {
  const Index stride = padded_width(rows), width = kBlockPadding;
  const Index places = std::min(kMostPlaces, rows / width + 2);
  std::vector<double> m(static_cast<std::size_t>(rows * stride)), signs(static_cast<std::size_t>(rows * width)),
      sums(static_cast<std::size_t>(places * rows * width), 0.0);
  const bool few = std::count(wanted.begin(), wanted.end(), 1) < kFewBlocks;
  Index turn = 0;
  for (Index k = 0; k < offsets.size(); ++k) {
    const double w = weights(sizes[static_cast<std::size_t>(k)]);
    if (wanted[static_cast<std::size_t>(k)] == 0 || w == 0) continue;
    steps.next();
    block(k, m.data(), stride);
    for (Index repeat = 0; repeat < (few ? places : 1); ++repeat) {
      const Random random(17, static_cast<std::uint64_t>(k * places + repeat));
      std::uint64_t bits = 0;
      for (Index i = 0; i < rows * width; ++i, bits >>= 1) {
        if (i % 64 == 0) bits = random.bits(static_cast<std::uint64_t>(i / 64));
        signs[static_cast<std::size_t>(i)] = (bits & 1) != 0 ? w : -w;
      }
      block_product(rows, width, rows, m.data(), stride, 1, signs.data(), width, sums.data() + turn * rows * width, width,
                    true);
      turn = (turn + 1) % places;
    }
  }
  Eigen::MatrixXd y(rows, places * width);
  for (Index s = 0; s < places; ++s) {
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < width; ++j) y(i, s * width + j) = sums[static_cast<std::size_t>((s * rows + i) * width + j)];
    }
  }
  return y;
}

}  // namespace

Level full_level(const Offsets& offsets, const std::vector<char>& wanted, Index rows, const BlockOf& block,
                 const std::vector<double>& sizes, const Weights& weights, double precision, Index most,
                 const std::function<double(double)>& round, Steps& steps) {
  Level level;
  level.rows = rows;
  level.coefficients.resize(static_cast<std::size_t>(offsets.size()));
  const Eigen::MatrixXd y = sketch(offsets, wanted, rows, block, sizes, weights, steps);
  const Eigen::BDCSVD<Eigen::MatrixXd> svd(y, Eigen::ComputeThinU);
  const Eigen::VectorXd& s = svd.singularValues();
  const double least = std::max(precision, 1e-15) * s[0];
  while (level.basis < std::min<Index>(most, s.size()) && s[level.basis] > least) ++level.basis;
  const Index r = level.basis, stride = level.stride = padded_width(r);
  level.vectors.assign(static_cast<std::size_t>(rows * stride), 0.0);
  for (Index i = 0; i < rows; ++i) {
    for (Index q = 0; q < r; ++q) level.vectors[static_cast<std::size_t>(i * stride + q)] = round(svd.matrixU()(i, q));
  }
  fill_coefficients(offsets, wanted, block, level, steps);
  return level;
}

void fill_coefficients(const Offsets& offsets, const std::vector<char>& wanted, const BlockOf& block, Level& level,
                       Steps& steps) {
  const Index r = level.basis, rows = level.rows, stride = level.stride, from = padded_width(rows);
  level.coefficients.assign(static_cast<std::size_t>(offsets.size()), {});
  std::vector<double> m(static_cast<std::size_t>(rows * from)), half(static_cast<std::size_t>(rows * stride)),
      whole(static_cast<std::size_t>(r * stride));
  for (Index k = 0; r > 0 && k < offsets.size(); ++k) {
    if (wanted[static_cast<std::size_t>(k)] == 0) continue;
    steps.next();
    block(k, m.data(), from);
    block_product(rows, r, rows, m.data(), from, 1, level.vectors.data(), stride, half.data(), stride, false);
    block_product(r, r, rows, level.vectors.data(), 1, stride, half.data(), stride, whole.data(), stride, false);
    std::vector<double>& c = level.coefficients[static_cast<std::size_t>(k)];
    c.resize(static_cast<std::size_t>(r * r));
    for (Index q = 0; q < r; ++q) std::copy_n(whole.data() + q * stride, r, c.data() + q * r);
  }
}

Index needed_basis(const Level& level, const Offsets& offsets, const Magnitudes& sizes, const WholeTable& table, double points,
                   ToleranceKind kind, double tolerance) {
  const Index r = level.basis;
  std::vector<double> error(static_cast<std::size_t>(r + 1), 0.0), tail(error.size());
  for (Index k = 0; k < offsets.size(); ++k) {
    const std::vector<double>& c = level.coefficients[static_cast<std::size_t>(k)];
    if (c.empty()) continue;
    // Squares of the coefficients left out when the first n vectors are kept.
    std::fill(tail.begin(), tail.end(), 0.0);
    for (Index p = 0; p < r; ++p) {
      for (Index q = 0; q < r; ++q) {
        const double v = c[static_cast<std::size_t>(p * r + q)];
        tail[static_cast<std::size_t>(std::max(p, q))] += v * v;
      }
    }
    for (Index n = r - 1; n >= 0; --n) tail[static_cast<std::size_t>(n)] += tail[static_cast<std::size_t>(n + 1)];
    const double smallest = sizes.smallest[static_cast<std::size_t>(k)];
    for (Index n = 0; n <= r; ++n) {
      const double e = std::sqrt(tail[static_cast<std::size_t>(n)]);
      double& to = error[static_cast<std::size_t>(n)];
      if (kind == ToleranceKind::row) to += e / table.sum;
      // The largest of P x P errors is several times their root mean square.
      if (kind == ToleranceKind::entry) to = std::max(to, 4 * e / points / table.largest);
      if (kind == ToleranceKind::pointwise && smallest > 0) to = std::max(to, 4 * e / points / smallest);
    }
  }
  Index n = 0;
  while (n < r && !(error[static_cast<std::size_t>(n)] <= tolerance)) ++n;
  return n;
}

Level leading(const Level& level, Index basis, const std::function<double(double)>& round) {
  Level l;
  l.rows = level.rows;
  l.basis = basis;
  l.stride = padded_width(basis);
  l.vectors.assign(static_cast<std::size_t>(l.rows * l.stride), 0.0);
  for (Index i = 0; i < l.rows; ++i) {
    std::copy_n(level.vectors.data() + i * level.stride, basis, l.vectors.data() + i * l.stride);
  }
  l.coefficients.resize(level.coefficients.size());
  for (std::size_t k = 0; k < l.coefficients.size(); ++k) {
    if (level.coefficients[k].empty()) continue;
    for (Index p = 0; p < basis; ++p) {
      for (Index q = 0; q < basis; ++q) {
        l.coefficients[k].push_back(round(level.coefficients[k][static_cast<std::size_t>(p * level.basis + q)]));
      }
    }
  }
  return l;
}

}  // namespace espalier::far_field
