// Masked linear attention over a text of a million characters: engine, time and memory, and some rows against the definition.
// usage: long_sequence [LENGTH [two-sided]]   from the repository's folder; causal otherwise     SPDX-License-Identifier:
// Apache-2.0
#include <espalier/attention/feature_map.hpp>
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/random.hpp>
#include <espalier/io/files.hpp>
#include <espalier/masks/grid.hpp>

#include <sys/resource.h>
#include <chrono>
#include <cmath>
#include <iostream>

namespace es = espalier;
using es::Index;
constexpr Index kWidth = 64;

es::TensorView<float> tensor(std::vector<float>& m) {
  return {m.data(), 1, 1, static_cast<Index>(m.size()) / kWidth, kWidth};
}

// Seeded embeddings of the 256 characters under a seeded projection, through elu features where asked for.
std::vector<float> projected(const std::string& text, std::uint64_t seed, bool features) {
  const es::Random embedding(7), projection(seed);
  std::vector<float> table(256 * kWidth), y(text.size() * kWidth);
  for (Index p = 0; p < 256 * kWidth; ++p)
    for (Index e = 0; e < kWidth; ++e)
      table[p] +=
          static_cast<float>(embedding.normal(p / kWidth * kWidth + e) * projection.normal(e * kWidth + p % kWidth) / 8);
  std::vector<float> of = table;
  if (features) es::FeatureMap<float>(kWidth, {.kind = es::FeatureKind::elu}).apply(tensor(table), tensor(of));
  for (std::size_t p = 0; p < y.size(); ++p) y[p] = of[static_cast<unsigned char>(text[p / kWidth]) * kWidth + p % kWidth];
  return y;
}

int main(int argc, char** argv) {
  const Index length = argc > 1 ? std::atoll(argv[1]) : 1000000;
  const std::string data = std::getenv("ESPALIER_DATA_DIR") ? std::getenv("ESPALIER_DATA_DIR") : "";
  std::string text =
      es::read_whole_file(data.empty() ? "examples/data/shakespeare_65536.txt" : data + "/text/tinyshakespeare.txt");
  const Index own = static_cast<Index>(text.size());
  std::cout << length << " of " << own << " characters" << (length > own ? ", repeated" : "") << '\n';
  while (static_cast<Index>(text.size()) < length) text += text.substr(0, own);
  text.resize(length);
  auto q = projected(text, 11, true), k = projected(text, 12, true), v = projected(text, 13, false), out = v;
  auto peak = [use = rusage{}]() mutable { return getrusage(RUSAGE_SELF, &use), 1.024e-3 * use.ru_maxrss; };  // MB
  const auto now = [] { return 1e-9 * static_cast<double>(std::chrono::steady_clock::now().time_since_epoch().count()); };
  const double before = peak(), arrays = 4e-6 * sizeof(float) * static_cast<double>(v.size()), start = now();
  const es::DistanceFunction f = es::Rational{.width = 64};  // 1 / (1 + |i - j| / 64)
  const es::GridMask<float> mask({length}, f, es::Distance::l1, {{.tolerance = 1e-5}, argc < 3});
  const es::Report report = mask.report({.columns = kWidth, .rank = kWidth});
  const double found = now();
  es::masked_linear_attention(tensor(q), tensor(k), tensor(v), mask, tensor(out));
  const double end = now(), extra = peak() - before;
  std::cout << report << "\nmask and fit: " << found - start << " s, attention: " << end - found << " s, "
            << 1e9 * (end - found) / length << " ns a token\npeak extra memory: " << extra << " MB beside " << arrays
            << " MB of q, k, v and out: " << extra / arrays << " of them\n";

  // An error of at most r sum_j M_ij along a row of M moves numerator and denominator by that times max_j q_i.k_j (and max
  // |v|); rounding: 2e-6 each (docs/numerics.md). All relative to max |v|.
  const double r = report.certificate ? report.certificate->row.value_or(1) : 0;
  double worst = 0, of_bound = 0;
  for (Index i = 0; i < length; i += std::max<Index>(1, (length - 1) / 15)) {
    double sum[kWidth] = {}, total = 0, entries = 0, largest = 0, size = 0, error = 0;
    for (Index j = 0; j < (argc < 3 ? i + 1 : length); ++j) {
      const float *qi = &q[i * kWidth], *kj = &k[j * kWidth], *vj = &v[j * kWidth];
      double s = 0, m = f(static_cast<double>(std::abs(i - j)));
      for (Index c = 0; c < kWidth; ++c) s += static_cast<double>(qi[c]) * kj[c];
      for (Index c = 0; c < kWidth; ++c) sum[c] += m * s * vj[c], size = std::max<double>(size, std::abs(vj[c]));
      total += m * s, entries += m, largest = std::max(largest, s);
    }
    for (Index c = 0; c < kWidth; ++c) error = std::max(error, std::abs(out[i * kWidth + c] - sum[c] / total) / size);
    worst = std::max(worst, error), of_bound = std::max(of_bound, error / (2 * r * entries * largest / total + 4e-6));
  }
  std::cout << "rows against the definition: error " << worst << ", " << of_bound
            << " of what certificate and rounding allow\n";
  return of_bound <= 1 ? 0 : 1;
}
