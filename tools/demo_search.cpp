// Demo, search: k-MIP attention on a trained transformer's heads, and exact top-k on 100,000 image patches.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/softmax.hpp>
#include <espalier/attention/top_k.hpp>
#include <espalier/io/npy.hpp>

#include "demo.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

namespace espalier::tools {

namespace {

// The heads of all layers as one batch: q [layers, H, L, d], k and v [layers, Hk, L, d].
struct Heads {
  std::vector<float> q, k, v;
  Index layers, heads, key_heads, length, width;
  TensorView<const float> tensor(const std::vector<float>& m, Index h) const { return {m.data(), layers, h, length, width}; }
};

Heads read_heads(const DemoSetting& setting) {
  const NpyArray q = read_npy(setting.path("stories260K/q.npy")), k = read_npy(setting.path("stories260K/k.npy"));
  return {convert<float>(q), convert<float>(k), convert<float>(read_npy(setting.path("stories260K/v.npy"))),
          q.shape[0],        q.shape[1],        k.shape[1],
          q.shape[2],        q.shape[3]};
}

// Exact causal attention over the `count` best keys of every query (or all), in double, by sorting.
std::vector<double> exact_attention(const Heads& t, Index count) {
  std::vector<double> out(t.q.size());
  const double scale = 1 / std::sqrt(static_cast<double>(t.width));
  const Index group = t.heads / t.key_heads;
  for (Index b = 0; b < t.layers * t.heads; ++b) {
    const Index kb = (b / t.heads) * t.key_heads + b % t.heads / group;
    for (Index i = 0; i < t.length; ++i) {
      std::vector<std::pair<double, Index>> scores;
      for (Index j = 0; j <= i; ++j) {
        double s = 0;
        for (Index c = 0; c < t.width; ++c) {
          s += static_cast<double>(t.q[static_cast<std::size_t>((b * t.length + i) * t.width + c)]) *
               t.k[static_cast<std::size_t>((kb * t.length + j) * t.width + c)];
        }
        scores.emplace_back(-s, j);
      }
      std::sort(scores.begin(), scores.end());
      if (static_cast<Index>(scores.size()) > count) scores.resize(static_cast<std::size_t>(count));
      double total = 0;
      for (const auto& [minus, j] : scores) total += std::exp(scale * (scores[0].first - minus));
      for (const auto& [minus, j] : scores) {
        const double w = std::exp(scale * (scores[0].first - minus)) / total;
        for (Index c = 0; c < t.width; ++c) {
          out[static_cast<std::size_t>((b * t.length + i) * t.width + c)] +=
              w * t.v[static_cast<std::size_t>((kb * t.length + j) * t.width + c)];
        }
      }
    }
  }
  return out;
}

template <class V>
double relative(const V& a, const std::vector<double>& b) {
  double error = 0, size = 0;
  for (std::size_t p = 0; p < b.size(); ++p) {
    error += (a[p] - b[p]) * (a[p] - b[p]);
    size += b[p] * b[p];
  }
  return std::sqrt(error / size);
}

// What every query gets when the logits are ignored: the mean of the values it may see.
std::vector<double> mean_of_values(const Heads& t) {
  std::vector<double> out(t.q.size());
  const Index group = t.heads / t.key_heads;
  for (Index b = 0; b < t.layers * t.heads; ++b) {
    const Index kb = (b / t.heads) * t.key_heads + b % t.heads / group;
    std::vector<double> sum(static_cast<std::size_t>(t.width));
    for (Index i = 0; i < t.length; ++i) {
      for (Index c = 0; c < t.width; ++c) {
        sum[static_cast<std::size_t>(c)] += t.v[static_cast<std::size_t>((kb * t.length + i) * t.width + c)];
        out[static_cast<std::size_t>((b * t.length + i) * t.width + c)] =
            sum[static_cast<std::size_t>(c)] / static_cast<double>(i + 1);
      }
    }
  }
  return out;
}

DemoRow trained_heads(const DemoSetting& setting, std::vector<std::string>& accuracy) {
  DemoRow row;
  const Heads t = read_heads(setting);
  const auto q = t.tensor(t.q, t.heads), k = t.tensor(t.k, t.key_heads), v = t.tensor(t.v, t.key_heads);
  std::vector<float> out(t.q.size());
  const TensorView<float> o(out.data(), t.layers, t.heads, t.length, t.width);
  const std::vector<double> full = exact_attention(t, t.length);
  char line[120];
  std::snprintf(line, sizeof(line), "  mean of V    %.4f", relative(mean_of_values(t), full));
  accuracy.emplace_back(line);
  for (const Index count : {Index{1}, Index{2}, Index{4}, Index{8}, Index{16}, Index{32}, Index{64}}) {
    const auto places = static_cast<std::size_t>(t.layers * t.heads * t.length * count);
    std::vector<std::int32_t> indices(places);
    std::vector<float> scores(places);
    const auto run = [&] {
      top_k_attention(q, k, v, o, TensorView<std::int32_t>(indices.data(), t.layers, t.heads, t.length, count),
                      TensorView<float>(scores.data(), t.layers, t.heads, t.length, count), {.causal = Causal::top_left},
                      setting.context);
    };
    run();
    std::snprintf(line, sizeof(line), "  k = %-3td      %.4f", count, relative(out, full));
    accuracy.emplace_back(line);
    if (count != 16) continue;
    row.seconds = std::min(seconds_of(run), seconds_of(run));
    row.error = relative(out, exact_attention(t, count));
  }
  const auto dense = [&] { softmax_attention(q, k, v, o, {}, {}, {}, {.causal = Causal::top_left}, setting.context); };
  dense();
  row.dense_seconds = std::min(seconds_of(dense), seconds_of(dense));
  row.name = "k-MIP attention, k = 16, on 40 trained heads";
  row.length = t.length;
  row.engine = "top-k";
  row.matrix_bytes = 4.0 * static_cast<double>(t.layers * t.heads * t.length * t.length);
  row.remark = "error against exact top-k in double; accuracy against softmax below";
  return row;
}

DemoRow image_patches(const DemoSetting& setting) {
  DemoRow row;
  const Index length = 100000, width = 64, count = 10, side = 505;  // 505 x 505 overlapping 8 x 8 patches: the first 100,000
  const Image photo = read_pnm(setting.path("astronaut.ppm.gz"));
  DemoMatrix<float> x(length, width);
  for (Index i = 0; i < length; ++i) {
    for (Index a = 0; a < width; ++a) {
      const auto at = static_cast<std::size_t>(((i / side + a / 8) * photo.width + i % side + a % 8) * 3);
      x(i, a) = (static_cast<float>(photo.pixels[at]) + static_cast<float>(photo.pixels[at + 1]) +
                 static_cast<float>(photo.pixels[at + 2])) /
                    765 -
                0.5f;
    }
  }
  // Queries are a sample, keys are all: the time is given for all queries, from the sample.
  const Index queries = 4096;
  DemoMatrix<float> q(queries, width);
  for (Index i = 0; i < queries; ++i) std::copy_n(x.view().row(i * (length / queries)), width, q.view().row(i));
  std::vector<std::int32_t> indices(static_cast<std::size_t>(queries * count));
  std::vector<float> scores(indices.size());
  const double sample = seconds_of([&] {
    top_k_search(q.tensor(), x.tensor(), TensorView<std::int32_t>(indices.data(), 1, 1, queries, count),
                 TensorView<float>(scores.data(), 1, 1, queries, count), {}, setting.context);
  });
  DemoMatrix<float> out(queries, width);
  const double dense =
      seconds_of([&] { softmax_attention(q.tensor(), x.tensor(), x.tensor(), out.tensor(), {}, {}, {}, {}, setting.context); });
  double error = 0;  // largest error of a score over the largest score of its row, against double
  for (Index i = 0; i < queries; i += 256) {
    std::vector<double> exact(static_cast<std::size_t>(length));
    for (Index j = 0; j < length; ++j) {
      for (Index c = 0; c < width; ++c) exact[static_cast<std::size_t>(j)] += static_cast<double>(q(i, c)) * x(j, c);
    }
    std::partial_sort(exact.begin(), exact.begin() + count, exact.end(), std::greater<>());
    for (Index p = 0; p < count; ++p) {
      error = std::max(error, std::abs(scores[static_cast<std::size_t>(i * count + p)] - exact[static_cast<std::size_t>(p)]) /
                                  std::abs(exact[0]));
    }
  }
  const double scale = static_cast<double>(length) / static_cast<double>(queries);
  row.name = "exact top-10 of 100,000 image patches, d = 64";
  row.length = length;
  row.engine = "top-k";
  row.seconds = sample * scale;
  row.dense_seconds = dense * scale;
  row.extrapolated = true;
  row.matrix_bytes = 4.0 * static_cast<double>(length) * static_cast<double>(length);
  row.error = error;
  row.remark = "both from 4,096 queries; dense: softmax attention over all";
  return row;
}

}  // namespace

void demo_search(const DemoSetting& setting, std::vector<DemoRow>& rows, std::vector<std::string>& accuracy) {
  setting.say("k-MIP attention on a trained transformer's heads");
  rows.push_back(trained_heads(setting, accuracy));
  setting.say("top-k on 100,000 image patches");
  rows.push_back(image_patches(setting));
}

}  // namespace espalier::tools
