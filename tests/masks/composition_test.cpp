// Masks around masks: the names of their engines do not depend on what is cheapest for a shape.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/masks/bordered.hpp>
#include <espalier/masks/dense.hpp>
#include <espalier/masks/diffusion.hpp>
#include <espalier/masks/grid.hpp>
#include <espalier/masks/low_rank.hpp>
#include <espalier/masks/ones.hpp>
#include <espalier/masks/scaled.hpp>
#include <espalier/masks/sum.hpp>
#include <espalier/masks/tree_distance.hpp>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

using namespace espalier;

namespace {

using Masks = std::vector<std::pair<std::string, MaskPointer<double>>>;

// Small masks of every kind: some shapes are cheapest by tiles, others by the mask's own product.
Masks inner_masks() {
  const std::vector<double> values(36, 0.5);
  const MatrixView<const double> square(values.data(), 6, 6), narrow(values.data(), 6, 2);
  const auto tree = std::make_shared<const Tree>(std::vector<Index>{-1, 0, 0}, std::vector<double>{0, 1, 1});
  const auto graph = std::make_shared<const Graph>(3, std::vector<Edge>{{0, 1}, {1, 2}});
  return {{"ones", std::make_shared<OnesMask<double>>(6, 6)},
          {"dense", std::make_shared<DenseMask<double>>(square)},
          {"low-rank", std::make_shared<LowRankMask<double>>(narrow, MatrixView<const double>())},
          {"grid", std::make_shared<GridMask<double>>(std::vector<Index>{40}, Exponential{0.3})},
          {"table", std::make_shared<GridMask<double>>(std::vector<Index>{18}, std::span<const double>(values).first(35))},
          {"tree", std::make_shared<TreeDistanceMask<double>>(tree, Exponential{0.3})},
          {"dense tree", std::make_shared<TreeDistanceMask<double>>(tree, Rational{2})},
          {"graph", std::make_shared<DiffusionMask<double>>(graph, 1)}};
}

// A mask around another, with this engine.
using Around = std::function<MaskPointer<double>(MaskPointer<double>, const std::string&)>;

MaskOptions with_engine(const std::string& engine) {
  MaskOptions options;
  options.engine = engine;
  return options;
}

std::vector<std::pair<std::string, Around>> arounds() {
  const BorderWeights weights{2, 2, 2};
  return {
      {"bordered",
       [=](MaskPointer<double> m, const std::string& engine) {
         return std::make_shared<BorderedMask<double>>(m, 3, weights, with_engine(engine));
       }},
      {"scaled", [](MaskPointer<double> m,
                    const std::string& engine) { return std::make_shared<ScaledMask<double>>(m, 2.0, with_engine(engine)); }},
      {"bordered scaled",
       [=](MaskPointer<double> m, const std::string& engine) {
         return std::make_shared<BorderedMask<double>>(std::make_shared<ScaledMask<double>>(m, 2.0), 3, weights,
                                                       with_engine(engine));
       }},
      {"sum", [](MaskPointer<double> m, const std::string& engine) {
         return std::make_shared<SumMask<double>>(std::vector<MaskPointer<double>>{m, m}, with_engine(engine));
       }}};
}

const std::vector<Shape> shapes = {{.columns = 1},
                                   {.columns = 2},
                                   {.columns = 64},
                                   {.columns = 1, .rank = 1},
                                   {.columns = 2, .rank = 2},
                                   {.columns = 3, .rank = 64},
                                   {.columns = 64, .rank = 16}};

bool is_tiles(const std::string& engine) {
  return engine == "direct" || engine == "dense";
}

}  // namespace

TEST_CASE("a tile engine that a mask around another lists for one shape runs every shape") {
  int listed = 0;
  for (const auto& [around_name, around] : arounds()) {
    for (const auto& [inner_name, inner] : inner_masks()) {
      CAPTURE(around_name);
      CAPTURE(inner_name);
      const MaskPointer<double> mask = around(inner, "auto");
      for (const Shape& shape : shapes) {
        for (const Report& r : mask->engines(shape)) {
          if (!is_tiles(r.engine)) continue;
          ++listed;
          const MaskPointer<double> forced = around(inner, r.engine);
          for (const Shape& other : shapes) CHECK(forced->report(other).engine == r.engine);
        }
      }
    }
  }
  CHECK(listed > 100);
}
