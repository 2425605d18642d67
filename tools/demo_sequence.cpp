// Demo, sequences: masked linear attention over 65,536 characters, and time against length.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/feature_map.hpp>
#include <espalier/attention/masked_linear.hpp>
#include <espalier/core/build_info.hpp>
#include <espalier/io/files.hpp>
#include <espalier/masks/grid.hpp>

#include "demo.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

namespace espalier::tools {

namespace {

constexpr Index kWidth = 64;

double weight(Index i, Index j) {
  return 1 / (1 + static_cast<double>(std::abs(i - j)) / 64);
}

GridMask<float> sequence_mask(Index length, const std::string& engine) {
  return GridMask<float>({length}, Rational{.width = 64}, Distance::l1, {{.engine = engine}});
}

// Character embeddings (seeded, 64 wide) under a seeded projection, through elu features where asked for.
DemoMatrix<float> projected_text(const std::string& text, std::uint64_t seed, bool features) {
  const DemoMatrix<float> embedding = normal_matrix(256, kWidth, 7), w = normal_matrix(kWidth, kWidth, seed, 0.125);
  DemoMatrix<float> of_character(256, kWidth), y(static_cast<Index>(text.size()), kWidth);
  for (Index i = 0; i < 256; ++i) {
    for (Index k = 0; k < kWidth; ++k) {
      for (Index c = 0; c < kWidth; ++c) of_character(i, c) += embedding(i, k) * w(k, c);
    }
  }
  for (Index i = 0; i < y.rows; ++i) {
    const auto character = static_cast<unsigned char>(text[static_cast<std::size_t>(i)]);
    std::copy_n(of_character.view().row(character), kWidth, y.view().row(i));
  }
  if (!features) return y;
  DemoMatrix<float> f(y.rows, kWidth);
  FeatureMap<float>(kWidth, {.kind = FeatureKind::elu}).apply(y.tensor(), f.tensor());
  return f;
}

struct Text {
  DemoMatrix<float> q, k, v;
};

double row_error(const Text& t, DemoMatrix<float>& out, Index i, double& size) {
  std::vector<double> sum(kWidth), absolute(kWidth);
  double total = 0, error = 0;
  for (Index j = 0; j < t.k.rows; ++j) {
    double dot = 0;
    for (Index c = 0; c < kWidth; ++c) dot += static_cast<double>(t.q(i, c)) * t.k(j, c);
    const double w = weight(i, j) * dot;
    total += w;
    for (Index c = 0; c < kWidth; ++c) {
      sum[static_cast<std::size_t>(c)] += w * t.v(j, c);
      absolute[static_cast<std::size_t>(c)] += std::abs(w * t.v(j, c));
    }
  }
  for (std::size_t c = 0; c < kWidth; ++c) {
    const double d = out(i, static_cast<Index>(c)) - sum[c] / total;
    error += d * d;
    size += absolute[c] * absolute[c] / (total * total);
  }
  return error;
}

DemoRow whole_text(const DemoSetting& setting, Text& t) {
  DemoRow row;
  const Index length = t.q.rows;
  const GridMask<float> mask = sequence_mask(length, "auto");
  DemoMatrix<float> out(length, kWidth);
  row.seconds = seconds_of(
      [&] { masked_linear_attention(t.q.tensor(), t.k.tensor(), t.v.tensor(), mask, out.tensor(), {}, {}, setting.context); });
  const auto dense = time_dense(length, 1024, [&](Index count) {
    const RowSample sample(mask, 0, count);
    DemoMatrix<float> part(count, kWidth), sums(count, 1);
    sample.multiply_low_rank({t.q.view().row_range(0, count), t.k.view(), t.v.view()},
                             {part.view(), {sums.values.data(), count}}, setting.context);
  });
  double error = 0, size = 0;
  for (Index s = 0; s < 16; ++s) error += row_error(t, out, s * (length / 16) + 101 * s, size);
  row.name = "linear attention on 65,536 characters, m = d = 64";
  row.length = length;
  row.engine = mask.report({.columns = kWidth, .rank = kWidth}).engine;
  row.dense_seconds = dense.seconds;
  row.extrapolated = dense.extrapolated;
  row.matrix_bytes = 4.0 * static_cast<double>(length) * static_cast<double>(length);
  row.error = std::sqrt(error / size);
  return row;
}

// Seconds against length for three engines, both axes by powers of two.
Image time_picture(const DemoSetting& setting, const Text& t) {
  const std::vector<Index> lengths = {256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  std::vector<std::pair<std::string, Colour>> engines = {{"direct", {200, 60, 20}}, {"exponentials", {20, 140, 60}}};
  const std::vector<BuildInfo::Part> parts = build_info().parts;
  if (std::any_of(parts.begin(), parts.end(), [](const auto& part) { return part.found && part.engines == "fft"; })) {
    engines.push_back({"fft", {30, 80, 200}});
  }
  std::vector<std::vector<double>> seconds;
  for (const auto& engine : engines) {
    std::vector<double> line;
    for (const Index length : lengths) {
      const GridMask<float> mask = sequence_mask(length, engine.first);
      DemoMatrix<float> out(length, kWidth);
      const auto part = [&](const DemoMatrix<float>& m) { return as_tensor(m.view().row_range(0, length)); };
      const auto run = [&] {
        masked_linear_attention(part(t.q), part(t.k), part(t.v), mask, out.tensor(), {}, {}, setting.context);
      };
      run();
      line.push_back(length > 4096 ? seconds_of(run) : std::min(seconds_of(run), seconds_of(run)));
    }
    seconds.push_back(std::move(line));
  }
  Image image(560, 400);
  const Index left = 70, bottom = 350, width = 460, height = 310;
  const double low = -13, high = 1;  // log2 of seconds
  const auto x_of = [&](std::size_t i) {
    return left + width * static_cast<Index>(i) / static_cast<Index>(lengths.size() - 1);
  };
  const auto y_of = [&](double s) {
    return bottom -
           static_cast<Index>(static_cast<double>(height) * (std::clamp(std::log2(s), low, high) - low) / (high - low));
  };
  for (double tick = low; tick <= high; tick += 2) {
    const Index y = y_of(std::exp2(tick));
    draw_line(image, left, y, left + width, y, {225, 225, 225});
    char text[32];
    std::snprintf(text, sizeof(text), "%.1e", std::exp2(tick));
    draw_text(image, 10, y - 3, text);
  }
  for (std::size_t i = 0; i < lengths.size(); ++i) draw_text(image, x_of(i) - 12, bottom + 10, std::to_string(lengths[i]));
  for (std::size_t e = 0; e < engines.size(); ++e) {
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      fill_rectangle(image, x_of(i) - 3, y_of(seconds[e][i]) - 3, 7, 7, engines[e].second);
      if (i == 0) continue;
      for (Index thick = 0; thick < 2; ++thick) {
        draw_line(image, x_of(i - 1), y_of(seconds[e][i - 1]) + thick, x_of(i), y_of(seconds[e][i]) + thick, engines[e].second);
      }
    }
  }
  return image;
}

}  // namespace

void demo_sequence(const DemoSetting& setting, std::vector<DemoRow>& rows, std::vector<DemoPicture>& pictures) {
  const std::string text = read_whole_file(setting.path("shakespeare_65536.txt"));
  setting.say("linear attention on " + std::to_string(text.size()) + " characters");
  Text t{projected_text(text, 11, true), projected_text(text, 12, true), projected_text(text, 13, false)};
  rows.push_back(whole_text(setting, t));
  setting.say("time against length");
  pictures.push_back({"time_against_length.png", time_picture(setting, t)});
}

}  // namespace espalier::tools
