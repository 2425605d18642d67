// Demo, trees and graphs: a mask on 166,742 directory entries, heat on the US road network.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/graphs/graph.hpp>
#include <espalier/graphs/tree.hpp>
#include <espalier/io/files.hpp>
#include <espalier/io/graph_files.hpp>
#include <espalier/io/tree_files.hpp>
#include <espalier/masks/dense.hpp>
#include <espalier/masks/diffusion.hpp>
#include <espalier/masks/tree_distance.hpp>

#include "demo.hpp"
#include "pictures.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

namespace espalier::tools {

namespace {

constexpr Index kColumns = 16;

// Time of a product with an L x L matrix that is already formed, from some rows of it (their values do not matter).
DenseTime time_formed(Index length, const DemoSetting& setting) {
  const Index count = 64;
  const std::vector<double> values(static_cast<std::size_t>(count * length), 0.5);
  const DenseMask<float> sample(MatrixView<const double>(values.data(), count, length));
  const DemoMatrix<float> x = normal_matrix(length, kColumns, 5);
  DemoMatrix<float> y(count, kColumns);
  sample.multiply(x.view(), y.view(), setting.context);
  const double seconds = seconds_of([&] { sample.multiply(x.view(), y.view(), setting.context); });
  return {seconds * static_cast<double>(length) / static_cast<double>(count), true};
}

// Path lengths from one node to all of its tree by walking outwards; infinity elsewhere.
std::vector<double> distances_from(const Tree& tree, const std::vector<std::vector<Index>>& children, Index node) {
  std::vector<double> d(static_cast<std::size_t>(tree.size()), std::numeric_limits<double>::infinity());
  std::vector<Index> open = {node};
  d[static_cast<std::size_t>(node)] = 0;
  while (!open.empty()) {
    const Index v = open.back();
    open.pop_back();
    const auto visit = [&](Index u, double w) {
      if (std::isfinite(d[static_cast<std::size_t>(u)])) return;
      d[static_cast<std::size_t>(u)] = d[static_cast<std::size_t>(v)] + w;
      open.push_back(u);
    };
    const Index parent = tree.parent()[static_cast<std::size_t>(v)];
    if (parent >= 0) visit(parent, tree.weights()[static_cast<std::size_t>(v)]);
    for (const Index c : children[static_cast<std::size_t>(v)]) visit(c, tree.weights()[static_cast<std::size_t>(c)]);
  }
  return d;
}

DemoRow directory_tree(const DemoSetting& setting) {
  DemoRow row;
  const double rate = 0.7;
  TreeFile file = read_tree_file(setting.path("debian_files.parents.gz"));
  const auto tree = std::make_shared<const Tree>(std::move(file.parent), std::move(file.weights));
  const Index length = tree->size();
  const TreeDistanceMask<float> mask(tree, Exponential{.rate = rate});
  const DemoMatrix<float> x = normal_matrix(length, kColumns, 21);
  DemoMatrix<float> y(length, kColumns);
  mask.multiply(x.view(), y.view(), setting.context);
  row.seconds = seconds_of([&] { mask.multiply(x.view(), y.view(), setting.context); });
  const auto dense = time_formed(length, setting);
  std::vector<std::vector<Index>> children(static_cast<std::size_t>(length));
  for (Index v = 0; v < length; ++v) {
    const Index p = tree->parent()[static_cast<std::size_t>(v)];
    if (p >= 0) children[static_cast<std::size_t>(p)].push_back(v);
  }
  double error = 0, size = 0;
  for (Index s = 0; s < 24; ++s) {
    const Index i = s * (length / 24);
    const std::vector<double> d = distances_from(*tree, children, i);
    for (Index c = 0; c < kColumns; ++c) {
      double exact = 0, absolute = 0;
      for (Index j = 0; j < length; ++j) {
        const double w = std::exp(-rate * d[static_cast<std::size_t>(j)]);
        exact += w * x(j, c);
        absolute += std::abs(w * x(j, c));
      }
      error += (y(i, c) - exact) * (y(i, c) - exact);
      size += absolute * absolute;
    }
  }
  row.name = "tree distance on 166,742 directory entries, 16 columns";
  row.length = length;
  row.engine = mask.report({.columns = kColumns}).engine;
  row.dense_seconds = dense.seconds;
  row.extrapolated = true;
  row.matrix_bytes = 4.0 * static_cast<double>(length) * static_cast<double>(length);
  row.error = std::sqrt(error / size);
  row.remark = "dense: forming the matrix is not counted";
  return row;
}

void roads(const DemoSetting& setting, std::vector<DemoRow>& rows, std::vector<DemoPicture>& pictures) {
  const GraphFile file = read_graph_file(setting.path("usroads.mtx.gz"));
  const MatrixFile places =
      parse_matrix_market_array(read_whole_file(setting.path("usroads_coord.mtx.gz")), "usroads_coord.mtx.gz");
  const auto graph = std::make_shared<const Graph>(file.nodes, file.edges);
  const Index length = graph->nodes();
  const DenseTime dense = time_formed(length, setting);
  const DemoMatrix<float> x = normal_matrix(length, kColumns, 31);
  DemoMatrix<double> exact_x(length, kColumns), exact(length, kColumns);
  std::copy(x.values.begin(), x.values.end(), exact_x.values.begin());
  for (const double time : {2.0, 20.0}) {
    char name[80];
    std::snprintf(name, sizeof(name), "heat on the US roads, t = %g, 16 columns", time);
    setting.say(name);
    DemoRow row;
    const DiffusionMask<float> mask(graph, time, GraphOperator::laplacian);
    const DiffusionMask<double> reference(graph, time, GraphOperator::laplacian, {.tolerance = 1e-13});
    DemoMatrix<float> y(length, kColumns);
    row.seconds = seconds_of([&] { mask.multiply(x.view(), y.view(), setting.context); });
    reference.multiply(exact_x.view(), exact.view(), setting.context);
    double error = 0, size = 0;  // relative to ||X||, the norm of the kernel's certificate (||M|| = 1)
    for (std::size_t p = 0; p < y.values.size(); ++p) {
      error += (y.values[p] - exact.values[p]) * (y.values[p] - exact.values[p]);
      size += exact_x.values[p] * exact_x.values[p];
    }
    row.name = name;
    row.length = length;
    row.engine = mask.report({.columns = kColumns}).engine;
    row.dense_seconds = dense.seconds;
    row.extrapolated = true;
    row.matrix_bytes = 4.0 * static_cast<double>(length) * static_cast<double>(length);
    row.error = std::sqrt(error / size);
    row.remark = "dense: forming the matrix is not counted";
    rows.push_back(row);
  }
  // Heat from one crossing in the middle of the country: two times, logarithmic colours, the contiguous states only.
  std::vector<float> source(static_cast<std::size_t>(length)), heat(source.size());
  const auto longitude = [&](Index i) { return places.values[static_cast<std::size_t>(2 * i)]; };
  const auto latitude = [&](Index i) { return places.values[static_cast<std::size_t>(2 * i + 1)]; };
  std::vector<Index> shown_as(source.size(), -1);
  GraphFile shown;
  std::vector<double> shown_places;
  double nearest = std::numeric_limits<double>::infinity();
  Index middle = 0;
  for (Index i = 0; i < length; ++i) {
    const double dx = longitude(i) + 98.6, dy = latitude(i) - 39.8;
    if (dx * dx + dy * dy < nearest) nearest = dx * dx + dy * dy, middle = i;
    if (longitude(i) < -126 || longitude(i) > -66 || latitude(i) < 24 || latitude(i) > 50) continue;
    shown_as[static_cast<std::size_t>(i)] = shown.nodes++;
    shown_places.insert(shown_places.end(), {longitude(i), latitude(i)});
  }
  for (const Edge& e : file.edges) {
    const Index u = shown_as[static_cast<std::size_t>(e.u)], v = shown_as[static_cast<std::size_t>(e.v)];
    if (u >= 0 && v >= 0) shown.edges.push_back({u, v, e.weight});
  }
  source[static_cast<std::size_t>(middle)] = 1;
  for (const double time : {100.0, 2000.0}) {
    const DiffusionMask<float> mask(graph, time, GraphOperator::laplacian);
    mask.multiply({source.data(), length, 1}, {heat.data(), length, 1}, setting.context);
    std::vector<double> values(static_cast<std::size_t>(shown.nodes));
    for (Index i = 0; i < length; ++i) {
      const Index at = shown_as[static_cast<std::size_t>(i)];
      if (at >= 0) values[static_cast<std::size_t>(at)] = heat[static_cast<std::size_t>(i)];
    }
    char name[40];
    std::snprintf(name, sizeof(name), "heat_t%g.png", time);
    pictures.push_back({name, graph_picture(values, shown, shown_places, {.log_colour = true})});
  }
}

}  // namespace

void demo_graphs(const DemoSetting& setting, std::vector<DemoRow>& rows, std::vector<DemoPicture>& pictures) {
  setting.say("the tree of 166,742 directory entries");
  rows.push_back(directory_tree(setting));
  roads(setting, rows, pictures);
}

}  // namespace espalier::tools
