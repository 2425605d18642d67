// Demo, grids: a 2-D mask on the photo's pixels, and masked linear attention on its patches.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/attention/feature_map.hpp>
#include <espalier/attention/masked_linear.hpp>
#include <espalier/masks/grid.hpp>

#include "demo.hpp"
#include "pictures.hpp"

#include <algorithm>
#include <cmath>

namespace espalier::tools {

namespace {

constexpr Index kSide = 512, kPatch = 8, kPatches = kSide / kPatch;

double pixel_weight(Index i, Index j) {  // Gaussian of the Euclidean distance, width 12 pixels
  const double di = static_cast<double>(i / kSide - j / kSide), dj = static_cast<double>(i % kSide - j % kSide);
  return std::exp(-(di * di + dj * dj) / 144);
}

DemoRow pixels(const DemoSetting& setting, const DemoMatrix<float>& photo) {
  DemoRow row;
  const Index length = kSide * kSide;
  const GridMask<float> mask({kSide, kSide}, Gaussian{.width = 12}, Distance::l2);
  DemoMatrix<float> y(length, 3);
  mask.multiply(photo.view(), y.view(), setting.context);  // spectra are made on first need: not part of the time
  row.seconds = seconds_of([&] { mask.multiply(photo.view(), y.view(), setting.context); });
  const auto dense = time_dense(length, 256, [&](Index count) {
    const RowSample sample(mask, 0, count);
    DemoMatrix<float> part(count, 3);
    sample.multiply(photo.view(), part.view(), setting.context);
  });
  double error = 0, size = 0;
  for (Index s = 0; s < 24; ++s) {
    const Index i = s * (length / 24) + 57 * s;
    for (Index c = 0; c < 3; ++c) {
      double exact = 0;
      for (Index j = 0; j < length; ++j) exact += pixel_weight(i, j) * photo(j, c);
      error += (y(i, c) - exact) * (y(i, c) - exact);
      size += exact * exact;  // pixels and weights are >= 0: |M| |X| = M X
    }
  }
  row.name = "Gaussian mask on the photo's pixels, 3 columns";
  row.length = length;
  row.engine = mask.report({.columns = 3}).engine;
  row.dense_seconds = dense.seconds;
  row.extrapolated = dense.extrapolated;
  row.matrix_bytes = 4.0 * static_cast<double>(length) * static_cast<double>(length);
  row.error = std::sqrt(error / size);
  return row;
}

// The photo's patches as rows of 192 numbers, centred.
DemoMatrix<float> patches(const DemoMatrix<float>& photo) {
  DemoMatrix<float> p(kPatches * kPatches, kPatch * kPatch * 3);
  for (Index i = 0; i < p.rows; ++i) {
    for (Index a = 0; a < kPatch * kPatch; ++a) {
      const Index y = i / kPatches * kPatch + a / kPatch, x = i % kPatches * kPatch + a % kPatch;
      for (Index c = 0; c < 3; ++c) p(i, a * 3 + c) = photo(y * kSide + x, c) - 0.5f;
    }
  }
  return p;
}

DemoMatrix<float> projected(const DemoMatrix<float>& x, Index width, std::uint64_t seed) {
  const DemoMatrix<float> w = normal_matrix(x.cols, width, seed, 1 / std::sqrt(static_cast<double>(x.cols)));
  DemoMatrix<float> y(x.rows, width);
  for (Index i = 0; i < x.rows; ++i) {
    for (Index k = 0; k < x.cols; ++k) {
      for (Index c = 0; c < width; ++c) y(i, c) += x(i, k) * w(k, c);
    }
  }
  return y;
}

double patch_weight(Index i, Index j) {
  const auto d = static_cast<double>(std::abs(i / kPatches - j / kPatches) + std::abs(i % kPatches - j % kPatches));
  return 1 / (1 + d * d / 36);
}

void put(Image& to, const Image& from, Index x0) {
  for (Index y = 0; y < std::min(from.height, to.height); ++y) {
    for (Index x = 0; x < std::min(from.width, to.width - x0); ++x) {
      for (Index c = 0; c < 3; ++c) {
        to.pixels[static_cast<std::size_t>((y * to.width + x0 + x) * 3 + c)] =
            from.pixels[static_cast<std::size_t>((y * from.width + x) * from.channels + (from.channels == 3 ? c : 0))];
      }
    }
  }
}

// One patch's normalised weights over the photo, without and with the mask, beside the photo.
Image weights_picture(const Image& photo, const DemoMatrix<float>& q, const DemoMatrix<float>& k, Index query) {
  std::vector<std::vector<double>> weights(2, std::vector<double>(static_cast<std::size_t>(k.rows)));
  for (std::size_t masked = 0; masked < 2; ++masked) {
    double sum = 0;
    for (Index j = 0; j < k.rows; ++j) {
      double dot = 0;
      for (Index c = 0; c < q.cols; ++c) dot += q(query, c) * k(j, c);
      weights[masked][static_cast<std::size_t>(j)] = dot * (masked == 1 ? patch_weight(query, j) : 1);
      sum += weights[masked][static_cast<std::size_t>(j)];
    }
    for (double& w : weights[masked]) w /= sum;
  }
  const Image plain = heat_picture(weights[0], {kPatches, kPatches}, {});
  const Image masked = heat_picture(weights[1], {kPatches, kPatches}, {.log_colour = true});
  Image all(photo.width + plain.width + masked.width + 16, std::max({photo.height, plain.height, masked.height}));
  put(all, photo, 0);
  const Index y = query / kPatches * kPatch, x = query % kPatches * kPatch;
  const Colour red{255, 0, 0};
  for (Index edge = 0; edge < 2; ++edge) {
    draw_line(all, x - edge, y - edge, x + kPatch + edge, y - edge, red);
    draw_line(all, x - edge, y + kPatch + edge, x + kPatch + edge, y + kPatch + edge, red);
    draw_line(all, x - edge, y - edge, x - edge, y + kPatch + edge, red);
    draw_line(all, x + kPatch + edge, y - edge, x + kPatch + edge, y + kPatch + edge, red);
  }
  put(all, plain, photo.width + 8);
  put(all, masked, photo.width + plain.width + 16);
  return all;
}

DemoRow patch_attention(const DemoSetting& setting, const DemoMatrix<float>& photo, const Image& image,
                        std::vector<DemoPicture>& pictures) {
  DemoRow row;
  const Index length = kPatches * kPatches, width = 64;
  const DemoMatrix<float> x = patches(photo);
  DemoMatrix<float> q = projected(x, width, 1), k = projected(x, width, 2), v = projected(x, width, 3);
  const FeatureMap<float> map(width, {.kind = FeatureKind::elu});
  DemoMatrix<float> fq(length, width), fk(length, width), out(length, width);
  map.apply(q.tensor(), fq.tensor());
  map.apply(k.tensor(), fk.tensor());
  const GridMask<float> mask({kPatches, kPatches}, Rational{.width = 6, .power = 2}, Distance::l1);
  const GridMask<float> tiles({kPatches, kPatches}, Rational{.width = 6, .power = 2}, Distance::l1, {{.engine = "direct"}});
  const auto run = [&](const GridMask<float>& m) {
    masked_linear_attention(fq.tensor(), fk.tensor(), v.tensor(), m, out.tensor(), {}, {}, setting.context);
  };
  run(tiles);
  row.dense_seconds = seconds_of([&] { run(tiles); });
  run(mask);
  row.seconds = seconds_of([&] { run(mask); });
  double error = 0, size = 0;
  for (Index i = 0; i < length; i += 61) {
    std::vector<double> sum(static_cast<std::size_t>(width)), absolute(static_cast<std::size_t>(width));
    double total = 0;
    for (Index j = 0; j < length; ++j) {
      double dot = 0;
      for (Index c = 0; c < width; ++c) dot += static_cast<double>(fq(i, c)) * fk(j, c);
      const double w = patch_weight(i, j) * dot;
      total += w;
      for (Index c = 0; c < width; ++c) {
        sum[static_cast<std::size_t>(c)] += w * v(j, c);
        absolute[static_cast<std::size_t>(c)] += std::abs(w * v(j, c));
      }
    }
    for (Index c = 0; c < width; ++c) {
      const double d = out(i, c) - sum[static_cast<std::size_t>(c)] / total;
      error += d * d;
      size += absolute[static_cast<std::size_t>(c)] * absolute[static_cast<std::size_t>(c)] / (total * total);
    }
  }
  row.name = "linear attention on the photo's 64 x 64 patches";
  row.length = length;
  row.engine = mask.report({.columns = width, .rank = width}).engine;
  row.matrix_bytes = 4.0 * static_cast<double>(length) * static_cast<double>(length);
  row.error = std::sqrt(error / size);
  row.remark = row.engine == "direct" ? "tiles win at this size: the dense way, never formed" : "";
  pictures.push_back({"patch_weights.png", weights_picture(image, fq, fk, 17 * kPatches + 28)});
  return row;
}

}  // namespace

void demo_grids(const DemoSetting& setting, std::vector<DemoRow>& rows, std::vector<DemoPicture>& pictures) {
  const Image image = read_pnm(setting.path("astronaut.ppm.gz"));
  DemoMatrix<float> photo(kSide * kSide, 3);
  for (std::size_t p = 0; p < photo.values.size(); ++p) photo.values[p] = static_cast<float>(image.pixels[p]) / 255;
  setting.say("2-D mask on the photo, 512 x 512");
  rows.push_back(pixels(setting, photo));
  setting.say("linear attention on the photo's patches");
  rows.push_back(patch_attention(setting, photo, image, pictures));
}

}  // namespace espalier::tools
