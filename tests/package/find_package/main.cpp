// An own mask M_ij = 1 / (1 + p (i - j)^2) outside the library: product, entries, linear attention, errors over the border.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/error.hpp>
#include <espalier/core/mask.hpp>
#include <espalier/masks/grid.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

namespace es = espalier;
using es::Index;

class Cauchy final : public es::Mask<double> {
 public:
  Cauchy(Index length, double p) : es::Mask<double>(length, length), source_(p) {}
  es::Entries<double> entries() const override {
    es::Entries<double> e;
    e.kind = es::EntryKind::source;
    e.rows = rows();
    e.cols = cols();
    e.source = &source_;
    return e;
  }
  static double value(double p, Index i, Index j) { return 1 / (1 + p * static_cast<double>((i - j) * (i - j))); }

 protected:
  void apply(es::MatrixView<const double> x, es::MatrixView<double> y, bool, const es::Context<es::Cpu>&) const override {
    for (Index i = 0; i < rows(); ++i) {
      for (Index c = 0; c < x.cols; ++c) {
        double sum = 0;
        for (Index j = 0; j < cols(); ++j) sum += value(source_.p, i, j) * x(j, c);
        y(i, c) = sum;
      }
    }
  }

 private:
  struct Source final : es::EntrySource<double> {
    explicit Source(double p_) : p(p_) {}
    void fill(Index row0, Index rows, Index col0, Index cols, double* out, Index stride) const override {
      for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < cols; ++j) out[i * stride + j] = value(p, row0 + i, col0 + j);
      }
    }
    double p;
  } source_;
};

int main() {
  const Index length = 150, width = 3;
  const Cauchy mask(length, 0.25);
  std::vector<double> q(static_cast<std::size_t>(length * width)), v(q.size()), out(q.size());
  for (std::size_t i = 0; i < q.size(); ++i) {
    q[i] = 1 + std::cos(static_cast<double>(i));
    v[i] = std::sin(static_cast<double>(i));
  }
  const es::TensorView<const double> qs(q.data(), 1, 1, length, width), vs(v.data(), 1, 1, length, width);
  es::masked_linear_attention(qs, qs, vs, mask, es::TensorView<double>(out.data(), 1, 1, length, width));

  double worst = 0;
  for (Index i = 0; i < length; ++i) {
    double numerator = 0, denominator = 0;
    for (Index j = 0; j < length; ++j) {
      double score = 0;
      for (Index r = 0; r < width; ++r) score += qs.matrix(0, 0)(i, r) * qs.matrix(0, 0)(j, r);
      score *= Cauchy::value(0.25, i, j);
      numerator += score * vs.matrix(0, 0)(j, 0);
      denominator += score;
    }
    worst = std::fmax(worst, std::fabs(numerator / denominator - out[static_cast<std::size_t>(i * width)]));
  }
  std::printf("own mask: largest difference from the definition %.1e\n", worst);
  if (!(worst < 1e-12)) return 1;

  // The library's classes and exceptions cross the border too, with their types.
  const es::GridMask<float> grid({4, 4}, es::Exponential{.rate = 0.1});
  std::vector<float> x(16, 1.0f), y(15);
  try {
    grid.multiply(es::MatrixView<const float>(x.data(), 16, 1), es::MatrixView<float>(y.data(), 15, 1));
  } catch (const es::ShapeError& error) {
    std::printf("%s\n", error.what());
    return 0;
  }
  return 1;
}
