// The command against slow double loops written from its contract alone: every mask form, every attention, every gradient.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <optional>
#include <sstream>

#include "tools/command_runner.hpp"

#include <nlohmann/json.hpp>

using namespace command_tests;

namespace {

using Vector = std::vector<double>;

// Reproducible numbers in (-1, 1).
Vector numbers(std::size_t count, unsigned seed) {
  Vector v(count);
  std::uint32_t state = seed * 2654435761u + 12345u;
  for (double& x : v) {
    state = state * 1664525u + 1013904223u;
    x = (static_cast<double>(state >> 8) + 0.5) / (1 << 23) - 1;
  }
  return v;
}

double largest_difference(const Vector& a, const Vector& b) {
  REQUIRE(a.size() == b.size());
  double d = 0, scale = 1e-300;
  for (std::size_t i = 0; i < a.size(); ++i) {
    d = std::max(d, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
    if (std::isnan(a[i]) != std::isnan(b[i])) return HUGE_VAL;
  }
  return d / scale;
}

// A square matrix by its entries.
struct Matrix {
  Index n = 0;
  Vector m;
  double& operator()(Index i, Index j) { return m[static_cast<std::size_t>(i * n + j)]; }
  double operator()(Index i, Index j) const { return m[static_cast<std::size_t>(i * n + j)]; }
};
Matrix make(Index n, const std::function<double(Index, Index)>& f) {
  Matrix a{n, Vector(static_cast<std::size_t>(n * n))};
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j) a(i, j) = f(i, j);
  }
  return a;
}
Matrix product(const Matrix& a, const Matrix& b) {
  return make(a.n, [&](Index i, Index j) {
    double s = 0;
    for (Index k = 0; k < a.n; ++k) s += a(i, k) * b(k, j);
    return s;
  });
}
// exp(A) by a Taylor series of A / 2^10 and ten squarings.
Matrix exponential(Matrix a) {
  for (double& x : a.m) x /= 1024;
  Matrix sum = make(a.n, [](Index i, Index j) { return i == j ? 1.0 : 0.0; }), term = sum;
  for (int k = 1; k < 20; ++k) {
    term = product(term, a);
    for (double& x : term.m) x /= k;
    for (std::size_t p = 0; p < sum.m.size(); ++p) sum.m[p] += term.m[p];
  }
  for (int k = 0; k < 10; ++k) sum = product(sum, sum);
  return sum;
}
Matrix bordered(const Matrix& inner, Index border, double row, double column, double corner) {
  return make(inner.n + border, [&](Index i, Index j) {
    if (i < border && j < border) return corner;
    if (i < border) return row;
    if (j < border) return column;
    return inner(i - border, j - border);
  });
}
Matrix lower(const Matrix& a) {
  return make(a.n, [&](Index i, Index j) { return j > i ? 0.0 : a(i, j); });
}

// The forest of the tests: two trees. Distances by walking up from both ends.
const std::string forest = "((A:0.5,B:1.25)C:2,D:0.75);(E:3);";  // 0: root, 1: C, 2: A, 3: B, 4: D, 5: root, 6: E
double forest_distance(Index i, Index j, bool unweighted) {
  static const Index parent[] = {-1, 0, 1, 1, 0, -1, 5};
  static const double length[] = {0, 2, 0.5, 1.25, 0.75, 0, 3};
  std::vector<std::pair<Index, double>> above;
  double d = 0;
  for (Index v = i; v >= 0; v = parent[v]) {
    above.emplace_back(v, d);
    d += unweighted ? 1 : length[v];
  }
  d = 0;
  for (Index v = j; v >= 0; v = parent[v]) {
    for (const auto& [u, up] : above) {
      if (u == v) return up + d;
    }
    d += unweighted ? 1 : length[v];
  }
  return -1;
}

// A weighted graph of six nodes: a self-loop at 1, node 5 isolated.
const std::string graph_text = "# toy graph, nodes 6 edges 6\n0 1 1.5\n1 2 0.5\n2 0 2\n3 2\n1 1 0.25\n3 4 1\n";
Matrix graph_adjacency() {
  Matrix a = make(6, [](Index, Index) { return 0.0; });
  const auto edge = [&](Index u, Index v, double w) { a(u, v) = a(v, u) = w; };
  edge(0, 1, 1.5);
  edge(1, 2, 0.5);
  edge(2, 0, 2);
  edge(3, 2, 1);
  edge(1, 1, 0.25);
  edge(3, 4, 1);
  return a;
}
Matrix graph_operator(const std::string& name) {
  const Matrix a = graph_adjacency();
  Vector degree(6, 0);
  for (Index i = 0; i < 6; ++i) {
    for (Index j = 0; j < 6; ++j) degree[static_cast<std::size_t>(i)] += a(i, j);
  }
  return make(6, [&](Index i, Index j) {
    const double di = degree[static_cast<std::size_t>(i)], dj = degree[static_cast<std::size_t>(j)];
    if (name == "adjacency") return -a(i, j);
    if (name == "laplacian") return (i == j ? di : 0) - a(i, j);
    if (di == 0) return 0.0;
    const double one = i == j ? 1 : 0;
    if (name == "random-walk") return one - a(i, j) / di;
    return dj == 0 ? one : one - a(i, j) / std::sqrt(di * dj);
  });
}

// A mask as flags and as a matrix.
struct MaskCase {
  std::string flags;
  Matrix matrix;
};

void write_mask_files(const Folder& folder) {
  folder.text("forest.nwk", forest);
  folder.text("forest.txt", "# the same\n-1\n0 2\n1 0.5\n1 1.25\n0 0.75\n-1\n5 3\n");
  folder.text("forest.parents", "-1 top\n0 2\n1 0.5\n1 1.25\n0 0.75\n-1 other root\n5 3\n");
  folder.array<std::int64_t>("forest.npy", {7}, {-1, 0, 1, 1, 0, -1, 5});
  folder.array<double>("lengths.npy", {7}, {9, 2, 0.5, 1.25, 0.75, 9, 3});
  folder.text("graph.txt", graph_text);
  folder.text("graph.mtx",
              "%%MatrixMarket matrix coordinate real symmetric\n6 6 6\n2 1 1.5\n3 2 0.5\n3 1 2\n4 3 1\n2 2 0.25\n5 4 1\n");
  folder.text("graph.graph", "6 6 1\n2 1.5 3 2\n1 1.5 3 0.5 2 0.25\n2 0.5 1 2 4 1\n3 1 5 1\n4 1\n\n");
  folder.array("dense.npy", {5, 5}, numbers(25, 1));
  folder.array("left.npy", {5, 2}, numbers(10, 2));
  folder.array("right.npy", {5, 2}, numbers(10, 3));
  folder.array("table1.npy", {9}, numbers(9, 4));
  folder.array("table2.npy", {3, 5}, numbers(15, 5));
  folder.array<double>("values.npy", {8}, {1, 0.5, -0.25, 0.125, 3, 2, 1, 0});
}

Matrix grid_matrix(const Shape& sizes, const std::function<double(const std::vector<Index>&)>& f) {
  Index length = 1;
  for (const Index n : sizes) length *= n;
  return make(length, [&](Index i, Index j) {
    std::vector<Index> offset(sizes.size());
    for (std::size_t d = sizes.size(); d-- > 0;) {
      offset[d] = i % sizes[d] - j % sizes[d];
      i /= sizes[d];
      j /= sizes[d];
    }
    return f(offset);
  });
}

std::vector<MaskCase> mask_cases() {
  std::vector<MaskCase> cases;
  const Vector dense = numbers(25, 1), f = numbers(10, 2), g = numbers(10, 3), t1 = numbers(9, 4), t2 = numbers(15, 5);
  const auto at = [](const Vector& v, Index p) { return v[static_cast<std::size_t>(p)]; };
  cases.push_back({"ones", make(5, [](Index, Index) { return 1.0; })});
  cases.push_back({"dense:dense.npy", Matrix{5, dense}});
  cases.push_back({"low-rank:left.npy", make(5, [&](Index i, Index j) {
                     return at(f, 2 * i) * at(f, 2 * j) + at(f, 2 * i + 1) * at(f, 2 * j + 1);
                   })});
  cases.push_back({"low-rank:left.npy,right.npy", make(5, [&](Index i, Index j) {
                     return at(f, 2 * i) * at(g, 2 * j) + at(f, 2 * i + 1) * at(g, 2 * j + 1);
                   })});
  cases.push_back(
      {"grid:6 --function 'exp(-0.1*d)'", grid_matrix({6}, [](auto& o) { return std::exp(-0.1 * std::abs(o[0])); })});
  cases.push_back({"grid:6 --distance offset --function '1/(3+floor(d/2)^2+erf(d))'", grid_matrix({6}, [](auto& o) {
                     const auto d = static_cast<double>(o[0]);
                     return 1 / (3 + std::pow(std::floor(d / 2), 2) + std::erf(d));
                   })});
  cases.push_back({"grid:6 --function '_e*cos(1000*_pi*d/7)'", grid_matrix({6}, [](auto& o) {
                     return std::numbers::e * std::cos(1000 * std::numbers::pi * static_cast<double>(std::abs(o[0])) / 7);
                   })});
  cases.push_back({"grid:2x3 --function 'log(d+2)'", grid_matrix({2, 3}, [](auto& o) {
                     return std::log(static_cast<double>(std::abs(o[0]) + std::abs(o[1])) + 2);
                   })});
  cases.push_back({"grid:3x2 --distance l2 --function 'cos(d/2)'", grid_matrix({3, 2}, [](auto& o) {
                     return std::cos(std::hypot(static_cast<double>(o[0]), static_cast<double>(o[1])) / 2);
                   })});
  cases.push_back({"grid:2x2x2 --distance max --function '1/(1+d)'", grid_matrix({2, 2, 2}, [](auto& o) {
                     return 1.0 / static_cast<double>(1 + std::max({std::abs(o[0]), std::abs(o[1]), std::abs(o[2])}));
                   })});
  cases.push_back({"grid:2x3 --function table:values.npy", grid_matrix({2, 3}, [](auto& o) {
                     return Vector{1, 0.5, -0.25, 0.125}[static_cast<std::size_t>(std::abs(o[0]) + std::abs(o[1]))];
                   })});
  cases.push_back({"grid:5 --table table1.npy", grid_matrix({5}, [&](auto& o) { return at(t1, o[0] + 4); })});
  cases.push_back(
      {"grid:2x3 --table table2.npy", grid_matrix({2, 3}, [&](auto& o) { return at(t2, (o[0] + 1) * 5 + o[1] + 2); })});
  const auto tree = [](double a, bool unweighted, double between) {
    return make(7, [=](Index i, Index j) {
      const double d = forest_distance(i, j, unweighted);
      return d < 0 ? between : std::exp(-a * d);
    });
  };
  cases.push_back({"tree:forest.nwk --function 'exp(-0.3*d)'", tree(0.3, false, 0)});
  cases.push_back({"tree:forest.txt --function 'exp(-0.3*d)' --between-trees -0.5", tree(0.3, false, -0.5)});
  cases.push_back({"tree:forest.parents --function 'exp(-0.3*d)'", tree(0.3, false, 0)});
  cases.push_back({"tree:forest.npy --weights lengths.npy --function 'exp(0.2*d)'", tree(-0.2, false, 0)});
  cases.push_back({"tree:forest.npy --function 'exp(-d)' --between-trees 2", tree(1, true, 2)});
  cases.push_back({"tree:forest.nwk --unweighted --function 'exp(-d)'", tree(1, true, 0)});
  cases.push_back({"tree:forest.nwk --function '1/(1+d)'", make(7, [](Index i, Index j) {
                     const double d = forest_distance(i, j, false);
                     return d < 0 ? 0.0 : 1 / (1 + d);
                   })});
  cases.push_back({"tree:forest.nwk --function '0-2*exp(-d)'", make(7, [](Index i, Index j) {
                     const double d = forest_distance(i, j, false);
                     return d < 0 ? 0.0 : -2 * std::exp(-d);
                   })});
  const auto diffusion = [](const std::string& op, double t) {
    Matrix m = graph_operator(op);
    for (double& x : m.m) x *= -t;
    return exponential(m);
  };
  for (const char* file : {"graph.txt", "graph.mtx", "graph.graph"}) {
    cases.push_back({std::string("graph:") + file + " --time 0.7", diffusion("laplacian", 0.7)});
  }
  for (const char* op : {"adjacency", "laplacian", "normalized-laplacian", "random-walk"}) {
    cases.push_back({std::string("graph:graph.txt --time 1.3 --operator ") + op, diffusion(op, 1.3)});
  }
  const std::size_t plain = cases.size();
  for (std::size_t k = 0; k < plain; k += 3) {
    cases.push_back({cases[k].flags + " --border 1", bordered(cases[k].matrix, 1, 1, 1, 1)});
    cases.push_back({cases[k].flags + " --border 2 --border-weight 0.5,-2,3", bordered(cases[k].matrix, 2, 0.5, -2, 3)});
    cases.push_back(
        {cases[k].flags + " --border 1 --border-weight 0.25 --causal", lower(bordered(cases[k].matrix, 1, 0.25, 0.25, 0.25))});
    cases.push_back({cases[k].flags + " --causal", lower(cases[k].matrix)});
  }
  return cases;
}

}  // namespace

TEST_CASE("multiply and row: every form of mask, border, causal, transpose, float and double") {
  const Folder folder;
  write_mask_files(folder);
  for (const MaskCase& c : mask_cases()) {
    CAPTURE(c.flags);
    const Index n = c.matrix.n;
    const Vector x = numbers(static_cast<std::size_t>(n * 2), 7);
    folder.array("x.npy", {n, 2}, x);
    for (const bool transpose : {false, true}) {
      Vector y(x.size(), 0);
      for (Index i = 0; i < n; ++i) {
        for (Index j = 0; j < n; ++j) {
          const double m = transpose ? c.matrix(j, i) : c.matrix(i, j);
          for (Index k = 0; k < 2; ++k) y[static_cast<std::size_t>(2 * i + k)] += m * x[static_cast<std::size_t>(2 * j + k)];
        }
      }
      const Outcome r = folder.run("multiply --mask " + c.flags + " --input x.npy --output y.npy --report r.json" +
                                   (transpose ? " --transpose" : ""));
      REQUIRE_MESSAGE(r.code == 0, r.err);
      CHECK(std::count(r.out.begin(), r.out.end(), '\n') == 1);
      CHECK(largest_difference(folder.read("y.npy", {n, 2}), y) < 1e-11);
      if (transpose) continue;
      const Outcome single = folder.run("multiply --mask " + c.flags + " --input x.npy --output y.npy --type float --quiet");
      REQUIRE_MESSAGE(single.code == 0, single.err);
      CHECK(single.out.empty());
      CHECK(espalier::read_npy(folder.path("y.npy")).type == espalier::NpyType::float32);
      CHECK(largest_difference(folder.read("y.npy", {n, 2}), y) < 2e-6);
    }
    const bool sized = c.flags.rfind("ones", 0) == 0;
    const Outcome row =
        folder.run("row --mask " + c.flags + " --row 2 --output row.npy" + (sized ? " --size " + std::to_string(n) : ""));
    REQUIRE_MESSAGE(row.code == 0, row.err);
    const auto first = c.matrix.m.begin() + 2 * n;
    CHECK(largest_difference(folder.read("row.npy", {n}), Vector(first, first + n)) < 1e-11);
  }
}

TEST_CASE("a causal order over a graph's kernel: bounds within the tolerance, known in the run that makes them") {
  const Folder folder;
  std::string path;  // too long to be decomposed for one product
  for (int v = 1; v < 300; ++v) path += std::to_string(v - 1) + " " + std::to_string(v) + "\n";
  folder.text("path.txt", path);
  folder.array("x.npy", {300, 2}, numbers(600, 7));
  const std::string command =
      "multiply --mask graph:path.txt --time 1.3 --causal --input x.npy --output y.npy --report r.json ";
  for (const double tolerance : {1e-2, 1e-6, 1e-12}) {
    std::ostringstream flags;
    flags << "--tolerance " << tolerance;
    const Outcome r = folder.run(command + flags.str());
    REQUIRE_MESSAGE(r.code == 0, r.err);
    CHECK(r.out.find("certified error") != std::string::npos);
    const auto report = nlohmann::json::parse(text_of(folder.path("r.json")));
    CHECK(report["certified_error"]["norm"].get<double>() <= tolerance);
    CHECK(report["certified_error"]["row"].is_number());
    CHECK(report["warnings"].empty());
  }
  REQUIRE(folder.run(command + "--tolerance 0").code == 0);
  CHECK(nlohmann::json::parse(text_of(folder.path("r.json")))["certified_error"].is_null());
}

TEST_CASE("linear attention by FFT: rows without weight are 0 and counted") {
  const Folder folder;
  Vector table(2 * 600 - 1, 0.0);  // rows see the keys 3 .. 8 before them
  for (std::size_t o = 602; o <= 607; ++o) table[o] = 1;
  folder.array("table.npy", {1199}, table);
  Vector positive = numbers(1200, 3);
  for (double& x : positive) x = std::abs(x);
  for (const char* name : {"q.npy", "k.npy", "v.npy"}) folder.array(name, {600, 2}, positive);
  for (const std::string engine : {"direct", "fft"}) {
    const Outcome r = folder.run(
        "attend --attention linear --feature-map identity --mask grid:600 --table table.npy --query q.npy --key k.npy "
        "--value v.npy --output o.npy --report r.json --engine " +
        engine);
    if (engine == "fft" && r.err.find("engines that would") != std::string::npos) continue;  // a build without FFT
    REQUIRE_MESSAGE(r.code == 0, r.err);
    const auto report = nlohmann::json::parse(text_of(folder.path("r.json")));
    CHECK(report["floored_rows"] == 3);
    CHECK(report["warnings"].empty());
    const auto o = folder.read("o.npy", {600, 2});
    for (std::size_t p = 0; p < 6; ++p) CHECK(o[p] == 0);
    CHECK(o[6] > 0);
  }
}

TEST_CASE("multiply: shapes of X, one table a head, half precision, packed files") {
  const Folder folder;
  const Vector x = numbers(12, 1);
  const auto m = grid_matrix({2, 3}, [](auto& o) { return std::exp(-static_cast<double>(std::abs(o[0]) + std::abs(o[1]))); });
  const auto expected = [&](Index columns) {
    Vector y(static_cast<std::size_t>(6 * columns), 0);
    for (Index i = 0; i < 6; ++i) {
      for (Index j = 0; j < 6; ++j) {
        for (Index k = 0; k < columns; ++k) {
          y[static_cast<std::size_t>(i * columns + k)] += m(i, j) * x[static_cast<std::size_t>(j * columns + k)];
        }
      }
    }
    return y;
  };
  for (const Shape& shape : {Shape{6}, Shape{6, 2}, Shape{2, 3}, Shape{2, 3, 2}, Shape{6, 1}, Shape{2, 3, 1}}) {
    Index size = 1;
    for (const Index s : shape) size *= s;
    folder.array("x.npy", shape, Vector(x.begin(), x.begin() + size));
    const Outcome r = folder.run("multiply --mask grid:2x3 --function 'exp(-d)' --input x.npy --output y.npy");
    REQUIRE_MESSAGE(r.code == 0, r.err);
    CHECK(largest_difference(folder.read("y.npy", shape), expected(size / 6)) < 1e-12);
  }
  const Vector table = numbers(2 * 5, 9), z = numbers(2 * 3 * 2, 10);
  folder.array("table.npy", {2, 5}, table);
  folder.array("z.npy", {2, 3, 2}, z);
  const Outcome r = folder.run("multiply --mask grid:3 --table table.npy --input z.npy --output y.npy --repeat 3 --report -");
  REQUIRE_MESSAGE(r.code == 0, r.err);
  Vector y(12, 0);
  for (std::size_t h = 0; h < 2; ++h) {
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t j = 0; j < 3; ++j) {
        for (std::size_t k = 0; k < 2; ++k) y[h * 6 + i * 2 + k] += table[h * 5 + i + 2 - j] * z[h * 6 + j * 2 + k];
      }
    }
  }
  CHECK(largest_difference(folder.read("y.npy", {2, 3, 2}), y) < 1e-12);
  for (const char* key : {"command",
                          "mask",
                          "size",
                          "columns",
                          "type",
                          "engine",
                          "reason",
                          "engines",
                          "tolerance",
                          "certified_error",
                          "terms",
                          "threads",
                          "seconds_set_up",
                          "seconds_apply",
                          "seconds_apply_min",
                          "seconds_backward",
                          "seconds_backward_min",
                          "flops",
                          "bytes",
                          "extra_bytes",
                          "floored_rows",
                          "warnings",
                          "rounding_estimate",
                          "fitted_negative"}) {
    CHECK_MESSAGE(r.out.find("\"" + std::string(key) + "\":") != std::string::npos, key);
  }
  REQUIRE(folder.run("row --mask grid:3 --table table.npy --row 1 --output r.npy").code == 0);
  CHECK(folder.read("r.npy", {2, 3})[5] == doctest::Approx(table[5 + 1]));
  REQUIRE(folder.run("row --mask grid:2x3 --function 'exp(-d)' --row 1,2 --border 1 --output r.npy").code == 0);
  CHECK(folder.read("r.npy", {7})[6] == doctest::Approx(1.0));
}

TEST_CASE("row draws pictures; info describes; node lists") {
  const Folder folder;
  write_mask_files(folder);
  folder.array("xy.npy", {6, 2}, numbers(12, 3));
  const std::pair<std::string, int> pictures[] = {
      {"grid:20 --function 'exp(-d)'", 0},
      {"grid:5x4 --function 'exp(-d)' --log-colour --border 1", 0},
      {"grid:3x4x5 --function 'exp(-d)'", 0},
      {"tree:forest.nwk --function 'exp(-d)'", 0},
      {"graph:graph.txt --time 1 --coordinates xy.npy", 0},
      {"graph:graph.txt --time 1", 2},
  };
  for (const auto& picture : pictures) {
    const auto [flags, code] = picture;
    CAPTURE(picture.first);
    const Outcome r = folder.run("row --mask " + flags + " --row 1 --output p.png");
    CHECK_MESSAGE(r.code == code, r.err);
    if (code == 0) CHECK(text_of(folder.path("p.png")).substr(1, 3) == "PNG");
    if (code == 2) CHECK(r.err.find("--coordinates: ") != std::string::npos);
  }
  const Outcome info = folder.run("info");
  CHECK(info.code == 0);
  for (const char* key : {"version", "instruction_set", "threads", "licence", "parts", "masks"}) {
    CHECK_MESSAGE(info.out.find("\"" + std::string(key) + "\":") != std::string::npos, key);
  }
  const Outcome nodes = folder.run("info --mask tree:forest.nwk --function 'exp(-d)' --nodes-output nodes.tsv");
  REQUIRE_MESSAGE(nodes.code == 0, nodes.err);
  CHECK(nodes.out.find("\"sweep\"") != std::string::npos);
  CHECK(text_of(folder.path("nodes.tsv")).rfind("index\tname\tparent\tlength\n0\t\t-1\t0\n1\tC\t0\t2\n2\tA\t1\t0.5\n", 0) == 0);
  // The table needs no function; an engine does.
  const Outcome alone = folder.run("info --mask tree:forest.nwk --nodes-output alone.tsv");
  REQUIRE_MESSAGE(alone.code == 0, alone.err);
  CHECK(text_of(folder.path("alone.tsv")) == text_of(folder.path("nodes.tsv")));
  CHECK(alone.out.find("\"rows\"") != std::string::npos);
  const Outcome engines = folder.run("info --mask tree:forest.nwk");
  CHECK(engines.code == 2);
  CHECK(engines.err.find("--function") != std::string::npos);
  const Outcome unused = folder.run("info --mask tree:forest.nwk --nodes-output unused.tsv --columns 3");
  CHECK(unused.code == 2);
  CHECK(unused.err.find("--columns") != std::string::npos);
}

TEST_CASE("command: what cannot be printed is a failure of the disk") {
  if (!std::filesystem::exists("/dev/full")) return;
  const Folder folder;
  folder.array<double>("x.npy", {5}, Vector(5, 1.0));
  const std::string multiply = "multiply --mask grid:5 --function 'exp(-d)' --input x.npy --output y.npy";
  for (const std::string& line : {multiply, multiply + " --report -", std::string("info"), std::string("--help"),
                                  std::string("fit --help"), std::string("--version")}) {
    const Outcome r = folder.run_into("/dev/full", line);
    CAPTURE(line);
    CHECK(r.code == 1);
    CHECK(r.err.find("espalier: standard output cannot be written") == 0);
  }
  CHECK(folder.run(multiply + " --report - --quiet").code == 0);
}

namespace {

// One attention problem of the contract, in double; everything by loops.
struct Attention {
  std::string kind = "linear";
  Index batch = 1, heads = 2, key_heads = 2, queries = 5, keys = 5, width = 3, values = 2;
  Vector q, k, v;
  std::function<double(Index, Index, Index)> mask, bias;  // of head, i, j
  std::function<Vector(const double*)> feature;
  double scale = 1 / std::sqrt(3.0), feature_epsilon = 0, weight_epsilon = 0;
  bool normalise = true;
  std::optional<Index> shift;
  Index key_count = -1;
  Index top = 1;
  mutable Vector normaliser, log_sum_exp;

  bool takes_part(Index i, Index j) const {
    if (shift && j - i > *shift) return false;
    if (key_count >= 0 && (j >= key_count || (queries == keys && i >= key_count))) return false;
    return true;
  }
  double dot(Index qh, Index i, Index kh, Index j) const {
    double s = 0;
    for (Index c = 0; c < width; ++c) {
      s += q[static_cast<std::size_t>((qh * queries + i) * width + c)] *
           k[static_cast<std::size_t>((kh * keys + j) * width + c)];
    }
    return s;
  }
  double weight(Index qh, Index h, Index i, Index kh, Index j) const {
    const double m = mask ? mask(h, i, j) : 1;
    if (kind != "linear") return m * std::exp(scale * dot(qh, i, kh, j) + (bias ? bias(h, i, j) : 0));
    const Vector a = feature(q.data() + (qh * queries + i) * width), b = feature(k.data() + (kh * keys + j) * width);
    double s = 0;
    for (std::size_t r = 0; r < a.size(); ++r) s += (a[r] + feature_epsilon) * (b[r] + feature_epsilon);
    return m * s + weight_epsilon;
  }
  Vector forward() const {
    Vector out(static_cast<std::size_t>(batch * heads * queries * values), 0);
    normaliser.assign(static_cast<std::size_t>(batch * heads * queries), 0);
    for (Index qh = 0; qh < batch * heads; ++qh) {
      const Index h = qh % heads, kh = qh / heads * key_heads + h / (heads / key_heads);
      for (Index i = 0; i < queries; ++i) {
        std::vector<Index> part;
        for (Index j = 0; j < keys; ++j) {
          if (takes_part(i, j)) part.push_back(j);
        }
        if (kind == "top-k") {
          std::stable_sort(part.begin(), part.end(), [&](Index a, Index b) { return dot(qh, i, kh, a) > dot(qh, i, kh, b); });
          part.resize(std::min<std::size_t>(part.size(), static_cast<std::size_t>(top)));
        }
        double sum = 0;
        double* row = out.data() + (qh * queries + i) * values;
        for (const Index j : part) {
          const double w = weight(qh, h, i, kh, j);
          sum += w;
          for (Index c = 0; c < values; ++c) row[c] += w * v[static_cast<std::size_t>((kh * keys + j) * values + c)];
        }
        normaliser[static_cast<std::size_t>(qh * queries + i)] = sum;
        for (Index c = 0; c < values && (normalise || kind != "linear"); ++c) row[c] = sum != 0 ? row[c] / sum : 0;
      }
    }
    return out;
  }
};

// Gradient of sum(g * forward()) with respect to the numbers of `at`, by central differences.
Vector differences(const Attention& a, Vector& at, const Vector& g) {
  Vector result;
  for (double& x : at) {
    const double saved = x, h = 1e-5;
    double side[2];
    for (const int s : {0, 1}) {
      x = saved + (s == 0 ? -h : h);
      const Vector out = a.forward();
      side[s] = 0;
      for (std::size_t p = 0; p < g.size(); ++p) side[s] += g[p] * out[p];
    }
    x = saved;
    result.push_back((side[1] - side[0]) / (2 * h));
  }
  return result;
}

double relu(double x) {
  return std::max(x, 0.0);
}
std::function<Vector(const double*)> elementwise(double (*f)(double), Index width) {
  return [f, width](const double* x) {
    Vector y;
    for (Index c = 0; c < width; ++c) y.push_back(f(x[c]));
    return y;
  };
}

// Writes Q, K, V and G, runs with every gradient, and compares all of it. table: the learnable numbers behind mask or bias.
void check_attention(const Folder& folder, Attention& a, const std::string& flags, Vector* table = nullptr,
                     const Shape& table_shape = {}, const std::string& table_flag = "--table-gradient") {
  CAPTURE(flags);
  const Shape q_shape{a.batch, a.heads, a.queries, a.width}, k_shape{a.batch, a.key_heads, a.keys, a.width};
  const Shape v_shape{a.batch, a.key_heads, a.keys, a.values}, o_shape{a.batch, a.heads, a.queries, a.values};
  a.q = numbers(static_cast<std::size_t>(a.batch * a.heads * a.queries * a.width), 21);
  a.k = numbers(static_cast<std::size_t>(a.batch * a.key_heads * a.keys * a.width), 22);
  a.v = numbers(static_cast<std::size_t>(a.batch * a.key_heads * a.keys * a.values), 23);
  const Vector out = a.forward(), normaliser = a.normaliser, g = numbers(out.size(), 24);
  folder.array("q.npy", q_shape, a.q);
  folder.array("k.npy", k_shape, a.k);
  folder.array("v.npy", v_shape, a.v);
  folder.array("g.npy", o_shape, g);
  const std::string sums = a.kind == "linear" ? " --normalizer d.npy" : a.kind == "softmax" ? " --log-sum-exp d.npy" : "";
  const Outcome r = folder.run("attend --attention " + a.kind + " --query q.npy --key k.npy --value v.npy --output o.npy " +
                               flags + sums + " --output-gradient g.npy --query-gradient qg.npy --key-gradient kg.npy " +
                               "--value-gradient vg.npy" + (table != nullptr ? " " + table_flag + " tg.npy" : ""));
  REQUIRE_MESSAGE(r.code == 0, r.err);
  CHECK(largest_difference(folder.read("o.npy", o_shape), out) < 1e-11);
  if (!sums.empty()) {
    Vector expected = normaliser;
    if (a.kind == "softmax") {
      for (double& x : expected) x = std::log(x);
    }
    const Vector got = folder.read("d.npy", {a.batch, a.heads, a.queries});
    for (std::size_t p = 0; p < got.size(); ++p) {
      if (std::isinf(expected[p])) {
        CHECK(got[p] == expected[p]);
      } else {
        CHECK(got[p] == doctest::Approx(expected[p]).epsilon(1e-10));
      }
    }
  }
  CHECK(largest_difference(folder.read("qg.npy", q_shape), differences(a, a.q, g)) < 1e-6);
  CHECK(largest_difference(folder.read("kg.npy", k_shape), differences(a, a.k, g)) < 1e-6);
  CHECK(largest_difference(folder.read("vg.npy", v_shape), differences(a, a.v, g)) < 1e-6);
  if (table != nullptr) CHECK(largest_difference(folder.read("tg.npy", table_shape), differences(a, *table, g)) < 1e-6);
}

}  // namespace

TEST_CASE("linear attention: feature maps, epsilons, grouped heads, counts, causal order, tables") {
  const Folder folder;
  write_mask_files(folder);
  const std::pair<const char*, double (*)(double)> maps[] = {
      {"identity", [](double x) { return x; }},
      {"relu", relu},
      {"elu", [](double x) { return x > 0 ? x + 1 : std::exp(x); }},
      {"squared", [](double x) { return x * x; }},
      {"exp", [](double x) { return std::exp(x); }},
  };
  for (const auto& [name, f] : maps) {
    Attention a;
    a.feature = elementwise(f, 3);
    a.feature_epsilon = 0.1;
    a.weight_epsilon = std::string(name) == "identity" ? 4 : 0.01;  // keeps the identity's denominators away from 0
    check_attention(folder, a,
                    std::string("--feature-map ") + name + " --feature-epsilon 0.1 --weight-epsilon " +
                        (std::string(name) == "identity" ? "4" : "0.01"));
  }
  Attention base;
  base.feature = elementwise([](double x) { return std::exp(x); }, 3);
  base.batch = 2;
  base.heads = 4;
  {
    Attention a = base;
    a.normalise = false;
    a.shift = 0;
    check_attention(folder, a, "--feature-map exp --unnormalized --causal");
  }
  {
    Attention a = base;
    a.key_count = 3;
    folder.array<std::int64_t>("n.npy", {2}, {3, 3});
    check_attention(folder, a, "--feature-map exp --key-count n.npy");
  }
  {
    Attention a = base;
    a.keys = 7;
    a.shift = 2;
    check_attention(folder, a, "--feature-map exp --causal=bottom-right");
    a.shift = 0;
    check_attention(folder, a, "--feature-map exp --causal=top-left --weight-epsilon 0", nullptr);
  }
  // Tables: one for all, one a head, with border, causal; by tiles and by FFT.
  Vector one = numbers(9, 31), each = numbers(4 * 9, 32);
  for (double& x : one) x += 1.5;
  for (double& x : each) x += 1.5;
  folder.array("one.npy", {9}, one);
  folder.array("each.npy", {4, 9}, each);
  for (const char* engine : {"", " --engine direct", " --engine fft"}) {
    Attention a = base;
    a.mask = [&](Index, Index i, Index j) { return one[static_cast<std::size_t>(i - j + 4)]; };
    check_attention(folder, a, std::string("--feature-map exp --mask grid:5 --table one.npy") + engine, &one, {9});
    a.mask = [&](Index h, Index i, Index j) { return each[static_cast<std::size_t>(h * 9 + i - j + 4)]; };
    check_attention(folder, a, std::string("--feature-map exp --mask grid:5 --table each.npy") + engine, &each, {4, 9});
    a.shift = 0;
    check_attention(folder, a, std::string("--feature-map exp --mask grid:5 --table each.npy --causal") + engine, &each,
                    {4, 9});
  }
  Attention a = base;
  a.queries = a.keys = 6;
  a.mask = [&](Index h, Index i, Index j) {
    return i == 0 || j == 0 ? 0.5 : each[static_cast<std::size_t>(h * 9 + i - j + 4)];
  };
  check_attention(folder, a, "--feature-map exp --mask grid:5 --table each.npy --border 1 --border-weight 0.5", &each, {4, 9});
}

TEST_CASE("linear attention over every form of mask") {
  const Folder folder;
  write_mask_files(folder);
  for (const MaskCase& c : mask_cases()) {
    Attention a;
    a.queries = a.keys = c.matrix.n;
    a.normalise = false;  // signed masks have denominators near 0
    a.feature = elementwise([](double x) { return std::exp(x); }, 3);
    const auto causal = c.flags.find(" --causal");
    a.mask = [&c](Index, Index i, Index j) { return c.matrix(i, j); };
    if (causal != std::string::npos) a.shift = 0;
    check_attention(folder, a, "--feature-map exp --unnormalized --mask " + c.flags);
  }
}

TEST_CASE("positive softmax features: shifts are undone in every output") {
  const Folder folder;
  const Vector w = numbers(4 * 3, 41);
  folder.array("w.npy", {4, 3}, w);
  for (const double scale : {1 / std::sqrt(3.0), 2.0}) {
    for (const bool normalise : {true, false}) {
      for (const char* extra : {"", " --feature-epsilon 0.2", " --weight-epsilon 0.3"}) {
        Attention a;
        a.heads = 4;
        a.normalise = normalise;
        if (std::string(extra).find("feature") != std::string::npos) a.feature_epsilon = 0.2;
        if (std::string(extra).find("weight") != std::string::npos) a.weight_epsilon = 0.3;
        a.feature = [&w, scale](const double* x) {
          Vector y(4);
          double square = 0;
          for (int c = 0; c < 3; ++c) square += scale * x[c] * x[c];
          for (std::size_t r = 0; r < 4; ++r) {
            double dot = 0;
            for (std::size_t c = 0; c < 3; ++c) dot += w[r * 3 + c] * std::sqrt(scale) * x[c];
            y[r] = std::exp(dot - square / 2) / 2;
          }
          return y;
        };
        check_attention(folder, a,
                        "--feature-map positive-softmax --projection w.npy --scale " + std::string() +
                            (scale == 2 ? "2" : "0.57735026918962573") + extra + (normalise ? "" : " --unnormalized"));
      }
    }
  }
}

// Found by use: with --weight-epsilon features ran without shifts, and float data of norm 30 gave rows without a key.
TEST_CASE("positive softmax features of large inputs beside a weight epsilon") {
  const Folder folder;
  const Vector w = numbers(4 * 3, 41);
  folder.array("w.npy", {4, 3}, w);
  Attention a;
  a.q = numbers(2 * 5 * 3, 1);
  a.k = numbers(2 * 5 * 3, 2);
  a.v = numbers(2 * 5 * 2, 3);
  // Products of the first rows of features reach e^-150, those of the last stay near 1; epsilon lies between them.
  for (std::size_t p = 0; p < a.q.size(); ++p) a.q[p] = static_cast<float>(a.q[p] * (p % 15 < 9 ? 12 : 1));
  for (double& x : a.k) x = static_cast<float>(x);
  for (double& x : a.v) x = static_cast<float>(x);
  a.weight_epsilon = 1e-30;
  a.feature = [&w](const double* x) {
    Vector y(4);
    double square = 0;
    for (int c = 0; c < 3; ++c) square += x[c] * x[c];
    for (std::size_t r = 0; r < 4; ++r) {
      double dot = 0;
      for (std::size_t c = 0; c < 3; ++c) dot += w[r * 3 + c] * x[c];
      y[r] = std::exp(dot - square / 2) / 2;
    }
    return y;
  };
  folder.array<float>("q.npy", {2, 5, 3}, std::vector<float>(a.q.begin(), a.q.end()));
  folder.array<float>("k.npy", {2, 5, 3}, std::vector<float>(a.k.begin(), a.k.end()));
  folder.array<float>("v.npy", {2, 5, 2}, std::vector<float>(a.v.begin(), a.v.end()));
  const Outcome run = folder.run(
      "attend --attention linear --query q.npy --key k.npy --value v.npy --output o.npy --normalizer d.npy --report r.json "
      "--feature-map positive-softmax --projection w.npy --scale 1 --weight-epsilon 1e-30");
  REQUIRE_MESSAGE(run.code == 0, run.err);
  const Vector want = a.forward();
  // Exponents up to 500 in float: 500 eps each; positive weights.
  CHECK(largest_difference(folder.read("o.npy", {2, 5, 2}), want) < 1e-4);
  CHECK(text_of(folder.path("r.json")).find("\"floored_rows\": 0") != std::string::npos);
}

// Found by use: NaN in padding rows of Q gave NaN gradients.
TEST_CASE("padding rows of Q, K and V may hold NaN under every kind of attention") {
  const Folder folder;
  Vector q = numbers(6 * 3, 1), k = numbers(6 * 3, 2), v = numbers(6 * 2, 3);
  folder.array("g.npy", {6, 2}, numbers(6 * 2, 4));
  folder.array<std::int64_t>("n.npy", {1}, {4});
  const std::vector<std::string> kinds = {"linear --feature-map exp", "linear --feature-map positive-softmax --features 5",
                                          "linear --feature-map elu --weight-epsilon 0.1", "softmax", "top-k --k 2"};
  for (const std::string& kind : kinds) {
    std::vector<Vector> results[2];
    for (const int run : {0, 1}) {
      const double padding = run == 0 ? 0.5 : std::nan("");
      std::fill(q.begin() + 12, q.end(), padding);
      std::fill(k.begin() + 12, k.end(), padding);
      std::fill(v.begin() + 8, v.end(), padding);
      folder.array("q.npy", {6, 3}, q);
      folder.array("k.npy", {6, 3}, k);
      folder.array("v.npy", {6, 2}, v);
      const Outcome r =
          folder.run("attend --query q.npy --key k.npy --value v.npy --output o.npy --key-count n.npy --attention " + kind +
                     " --output-gradient g.npy --query-gradient qg.npy --key-gradient kg.npy " + "--value-gradient vg.npy");
      REQUIRE_MESSAGE(r.code == 0, r.err);
      results[run] = {folder.read("o.npy", {6, 2}), folder.read("qg.npy", {6, 3}), folder.read("kg.npy", {6, 3}),
                      folder.read("vg.npy", {6, 2})};
    }
    CAPTURE(kind);
    CHECK(results[0] == results[1]);
    for (const std::size_t p : {12, 17}) {
      CHECK(results[1][1][p] == 0);
      CHECK(results[1][2][p] == 0);
    }
  }
}

// Found by use: exp(tA) of a path has entries of 1e-20, which came out as -1e-14 and were refused.
TEST_CASE("kernels of graphs under softmax: entries that are 0 up to the engine's error are no negative masks") {
  const Folder folder;
  std::string edges;
  for (int i = 0; i + 1 < 60; ++i) edges += std::to_string(i) + " " + std::to_string(i + 1) + "\n";
  folder.text("path.txt", edges);
  folder.array("q.npy", {60, 2}, numbers(120, 1));
  const std::string run = "attend --attention softmax --query q.npy --key q.npy --value q.npy --output o.npy ";
  for (const char* type : {"float", "double"}) {
    const Outcome r = folder.run(run + "--mask graph:path.txt --time 3 --operator adjacency --type " + type);
    CHECK_MESSAGE(r.code == 0, r.err);
  }
  folder.text("path.txt", edges + "0 59 -1\n");  // exp(tA) has entries far below 0
  const Outcome refused = folder.run(run + "--mask graph:path.txt --time 1 --operator adjacency");
  CHECK(refused.code == 2);
  CHECK_MESSAGE(refused.err.find("(expected entries >= 0 under softmax)") != std::string::npos, refused.err);
}

TEST_CASE("softmax attention: bias and mask tables, causal, counts, grouped heads") {
  const Folder folder;
  write_mask_files(folder);
  Attention base;
  base.kind = "softmax";
  base.batch = 2;
  base.heads = 4;
  check_attention(folder, base, "");
  {
    Attention a = base;
    a.scale = 0.9;
    a.shift = 0;
    a.key_count = 4;
    folder.array<std::int64_t>("n.npy", {2}, {4, 4});
    check_attention(folder, a, "--scale 0.9 --causal --key-count n.npy");
  }
  Vector bias = numbers(4 * 9, 51), positive = numbers(9, 52);
  for (double& x : positive) x += 1.5;
  folder.array("bias.npy", {4, 9}, bias);
  folder.array("positive.npy", {9}, positive);
  Attention a = base;
  a.bias = [&](Index h, Index i, Index j) { return bias[static_cast<std::size_t>(h * 9 + i - j + 4)]; };
  check_attention(folder, a, "--bias grid:5 --table bias.npy", &bias, {4, 9});
  a.mask = [&](Index, Index i, Index j) { return positive[static_cast<std::size_t>(i - j + 4)]; };
  check_attention(folder, a, "--bias grid:5 --bias-table bias.npy --mask grid:5 --table positive.npy", &positive, {9});
  check_attention(folder, a, "--bias grid:5 --bias-table bias.npy --mask grid:5 --table positive.npy", &bias, {4, 9},
                  "--bias-table-gradient");
  Attention t = base;
  t.queries = t.keys = 7;
  t.bias = [](Index, Index i, Index j) {
    const double d = forest_distance(i, j, false);
    return d < 0 ? 0.0 : std::exp(-d);
  };
  check_attention(folder, t, "--bias tree:forest.nwk --function 'exp(-d)'");
  Attention bordered_bias = base;
  bordered_bias.queries = bordered_bias.keys = 6;
  bordered_bias.bias = [&](Index h, Index i, Index j) {
    return i == 0 || j == 0 ? 0 : bias[static_cast<std::size_t>(h * 9 + i - j + 4)];
  };
  check_attention(folder, bordered_bias, "--bias grid:5 --table bias.npy --border 1", &bias, {4, 9});
}

TEST_CASE("softmax attention: a boolean or infinite bias leaves pairs out") {
  const Folder folder;
  Attention a;
  a.kind = "softmax";
  const auto left_out = [](Index i, Index j) { return (i * 3 + j) % 4 == 1 || i == 2; };
  a.bias = [&](Index, Index i, Index j) { return left_out(i, j) ? -HUGE_VAL : 0.0; };
  Vector matrix;
  std::string flags;
  for (Index i = 0; i < 5; ++i) {
    for (Index j = 0; j < 5; ++j) {
      matrix.push_back(a.bias(0, i, j));
      flags += left_out(i, j) ? '\0' : '\1';
    }
  }
  folder.array("b.npy", {5, 5}, matrix);
  check_attention(folder, a, "--bias dense:b.npy");
  std::string header = "{'descr': '|b1', 'fortran_order': False, 'shape': (5, 5), }\n";
  folder.text("b1.npy", std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size()) + '\0' + header + flags);
  check_attention(folder, a, "--bias dense:b1.npy");
}

TEST_CASE("top-k: attention and search") {
  const Folder folder;
  for (const Index k : {1, 3, 9}) {
    Attention a;
    a.kind = "top-k";
    a.heads = 4;
    a.top = k;
    check_attention(folder, a, "--k " + std::to_string(k));
    a.shift = 0;
    a.scale = 0.3;
    check_attention(folder, a, "--causal --scale 0.3 --k " + std::to_string(k));
  }
  Attention a;
  a.heads = a.key_heads = 1;
  a.q = numbers(15, 21);
  a.k = numbers(15, 22);
  std::copy(a.k.begin(), a.k.begin() + 3, a.k.begin() + 9);  // keys 0 and 3 tie
  folder.array("q.npy", {5, 3}, a.q);
  folder.array("k.npy", {5, 3}, a.k);
  const Outcome r = folder.run("top-k --query q.npy --key k.npy --k 6 --indices i.npy --scores s.npy --exclude-self");
  REQUIRE_MESSAGE(r.code == 0, r.err);
  const auto indices = espalier::read_npy(folder.path("i.npy"));
  CHECK(indices.type == espalier::NpyType::int64);
  const Vector index = folder.read("i.npy", {5, 6}), score = folder.read("s.npy", {5, 6});
  for (Index i = 0; i < 5; ++i) {
    std::vector<Index> order;
    for (Index j = 0; j < 5; ++j) {
      if (j != i) order.push_back(j);
    }
    std::stable_sort(order.begin(), order.end(), [&](Index x, Index y) { return a.dot(0, i, 0, x) > a.dot(0, i, 0, y); });
    for (std::size_t p = 0; p < 6; ++p) {
      const auto at = static_cast<std::size_t>(i * 6) + p;
      CHECK(index[at] == (p < 4 ? static_cast<double>(order[p]) : -1));
      if (p < 4) CHECK(score[at] == doctest::Approx(a.dot(0, i, 0, order[p])).epsilon(1e-12));
      if (p >= 4) CHECK(score[at] == -HUGE_VAL);
    }
  }
}

TEST_CASE("the toy answers") {
  const Folder folder;
  folder.array<double>("q.npy", {4, 2}, {1, 2, 3, 4, 1, -1, 1, 3});
  folder.array<double>("k.npy", {4, 2}, {-3, 1, 1, 5, -2, -3, 4, 1});
  folder.array<double>("v.npy", {4, 1}, {-1, 2, 3, 1});
  REQUIRE(
      folder.run("attend --attention linear --feature-map relu --query q.npy --key k.npy --value v.npy --output o.npy").code ==
      0);
  CHECK(largest_difference(folder.read("o.npy", {4, 1}), {1.3684, 1.3488, 1.2, 1.3846}) < 1e-3);
  folder.array<float>("one.npy", {3, 1}, {1, 1, 1});
  folder.array<float>("w.npy", {3, 1}, {1, 0, 0});
  REQUIRE(folder
              .run("attend --attention linear --feature-map relu --causal --query one.npy --key one.npy --value w.npy --output "
                   "o.npy")
              .code == 0);
  CHECK(largest_difference(folder.read("o.npy", {3, 1}), {1, 1.0 / 2, 1.0 / 3}) < 1e-6);
}
