// Diffusion on a road network: set-up, time per term, and the fraction of the memory bandwidth, measured in one run.
// SPDX-License-Identifier: Apache-2.0
//
// diffusion_benchmark [graph file | "grid" ("grid")] [time (140)] [columns (16)] [tolerance (1e-6)] [repeats (5)]
// One thread. "grid": 360 x 360 with every third link left out by a hash, about the size and degree of the US roads. The
// bandwidth is that of y += c x on arrays of a panel's size, right before each product. Medians over the repeats, of wall
// time and of processor time (which other work on the machine disturbs less).
#include <espalier/io/graph_files.hpp>
#include <espalier/masks/diffusion.hpp>

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace espalier;

double seconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Stopwatch {
  double wall = seconds(CLOCK_MONOTONIC), processor = seconds(CLOCK_PROCESS_CPUTIME_ID);
  double wall_passed() const { return seconds(CLOCK_MONOTONIC) - wall; }
  double processor_passed() const { return seconds(CLOCK_PROCESS_CPUTIME_ID) - processor; }
};

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

Graph road_like_grid() {
  const Index side = 360;
  std::vector<Edge> edges;
  const auto kept = [](Index i, Index direction) {
    const auto h = static_cast<std::uint64_t>(2 * i + direction) * 0x9E3779B97F4A7C15u;
    return (h >> 40) % 3 != 0;
  };
  for (Index r = 0; r < side; ++r) {
    for (Index c = 0; c < side; ++c) {
      const Index i = r * side + c;
      if (c + 1 < side && kept(i, 0)) edges.push_back({i, i + 1});
      if (r + 1 < side && kept(i, 1)) edges.push_back({i, i + side});
    }
  }
  return Graph(side * side, edges);
}

// Bytes a second of processor time of y += c x: two reads and a write an element.
double bandwidth(std::vector<double>& x, std::vector<double>& y) {
  const Stopwatch watch;
  for (int pass = 0; pass < 8; ++pass) {
    const double c = 1e-3 * pass;
    for (std::size_t i = 0; i < x.size(); ++i) y[i] += c * x[i];
  }
  return 8.0 * 3 * sizeof(double) * static_cast<double>(x.size()) / watch.processor_passed();
}

template <class T>
void measure(const std::shared_ptr<const Graph>& graph, double time, Index columns, double tolerance, int repeats) {
  const Index n = graph->nodes();
  std::vector<T> x(static_cast<std::size_t>(n * columns)), y(x.size());
  for (std::size_t p = 0; p < x.size(); ++p) x[p] = static_cast<T>(std::sin(static_cast<double>(p)));
  const std::size_t panel = static_cast<std::size_t>(n * std::min<Index>(columns, 16));
  std::vector<double> from(panel, 1.0), to(panel, 0.0);
  std::vector<double> setup, wall, processor, fraction, rate;
  Report report;
  for (int r = 0; r < repeats; ++r) {
    rate.push_back(bandwidth(from, to));
    const Stopwatch watch;
    const DiffusionMask<T> mask(graph, time, GraphOperator::laplacian, {.engine = "chebyshev", .tolerance = tolerance});
    setup.push_back(watch.processor_passed());
    Context<Cpu> context;
    context.threads = 1;
    mask.multiply({x.data(), n, columns}, {y.data(), n, columns}, context);
    processor.push_back(watch.processor_passed());
    wall.push_back(watch.wall_passed());
    report = mask.report({.columns = columns});
    // A term and panel: current read once, previous and y read and written, the operator read.
    const bool in_double = sizeof(T) == 8 || report.reason.find("in double") != std::string::npos;
    const double element = in_double ? 8 : 4, panels = std::ceil(static_cast<double>(columns) / 16);
    const double bytes =
        static_cast<double>(report.terms - 1) *
        (5 * element * static_cast<double>(n * columns) +
         panels * ((4 + element) * static_cast<double>(graph->stored()) + (8 + element) * static_cast<double>(n)));
    fraction.push_back(bytes / (processor.back() - setup.back()) / rate.back());
  }
  std::printf("%-6s  %5lld  %9.3f  %9.3f  %9.3f  %9.3f  %10.1f  %8.2f   %s\n", sizeof(T) == 8 ? "double" : "float",
              static_cast<long long>(report.terms), median(setup), median(processor), median(wall),
              1e3 * (median(processor) - median(setup)) / static_cast<double>(report.terms), 1e-9 * median(rate),
              median(fraction), report.reason.c_str());
}

}  // namespace

int main(int count, char** values) {
  try {
    const std::string name = count > 1 ? values[1] : "grid";
    const double time = count > 2 ? std::atof(values[2]) : 140;
    const Index columns = count > 3 ? std::atoll(values[3]) : 16;
    const double tolerance = count > 4 ? std::atof(values[4]) : 1e-6;
    const int repeats = count > 5 ? std::max(1, std::atoi(values[5])) : 5;
    std::shared_ptr<const Graph> graph;
    if (name == "grid") {
      graph = std::make_shared<const Graph>(road_like_grid());
    } else {
      const GraphFile file = read_graph_file(name);
      graph = std::make_shared<const Graph>(file.nodes, file.edges);
    }
    std::printf("%s: %lld nodes, %lld nonzeros, Laplacian, t = %g, %lld columns, tolerance %g, one thread\n", name.c_str(),
                static_cast<long long>(graph->nodes()), static_cast<long long>(graph->stored()), time,
                static_cast<long long>(columns), tolerance);
    std::printf("data    terms  set-up s    total s     wall s    ms/term  y+=cx GB/s  fraction\n");
    measure<double>(graph, time, columns, tolerance, repeats);
    measure<float>(graph, time, columns, tolerance, repeats);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "diffusion_benchmark: %s\n", error.what());
    return 1;
  }
  return 0;
}
