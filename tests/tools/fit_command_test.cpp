// espalier fit: the file it writes, held against the function by a loop written from the contract.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "tools/command_runner.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <complex>
#include <functional>
#include <string>
#include <vector>

using namespace command_tests;
using nlohmann::json;

namespace {

std::complex<double> number(const json& j) {
  return j.is_array() ? std::complex<double>(j.at(0).get<double>(), j.at(1).get<double>()) : j.get<double>();
}

// f(d) = Re sum c d^p exp(-s d).
double value(const json& terms, double d) {
  double sum = 0;
  for (const json& t : terms) {
    const int power = t.contains("power") ? t.at("power").get<int>() : 0;
    sum += (number(t.at("coefficient")) * std::pow(d, power) * std::exp(-number(t.at("decay")) * d)).real();
  }
  return sum;
}

struct Errors {
  double row = 0, entry = 0, pointwise = 0;
};

// Every row of the mask on `count` points, summed anew.
Errors errors_of(const json& terms, const std::function<double(double)>& f, int count, int first, bool one_sided) {
  std::vector<double> y, e;
  Errors out;
  double largest = 0;
  for (int d = 0; d < count; ++d) {
    y.push_back(std::abs(f(d))), e.push_back(d < first ? 0 : std::abs(value(terms, d) - f(d)));
    largest = std::max(largest, y.back());
  }
  for (std::size_t d = 0; d < y.size(); ++d) {
    out.entry = std::max(out.entry, e[d] / largest);
    if (y[d] >= 1e-7 * largest) out.pointwise = std::max(out.pointwise, e[d] / y[d]);
  }
  for (int i = 0; i < count; ++i) {
    double error = 0, norm = 0;
    for (int j = 0; j < (one_sided ? i + 1 : count); ++j) {
      error += e[static_cast<std::size_t>(std::abs(i - j))], norm += y[static_cast<std::size_t>(std::abs(i - j))];
    }
    out.row = std::max(out.row, error / norm);
  }
  return out;
}

struct FitCase {
  std::string function;
  std::function<double(double)> f;
  int count, first;
  std::string kind;
  double tolerance;
  bool one_sided;
};

}  // namespace

TEST_CASE("fit writes terms whose errors are the certified ones") {
  const Folder folder;
  std::vector<double> table;
  for (int d = 0; d < 700; ++d) table.push_back(d < 65 ? std::sin(d * d) : 2 * std::exp(-d / 90.0) + 0.1);
  folder.array("table.npy", {700}, table);
  const auto of_table = [&](double d) { return table[static_cast<std::size_t>(d)]; };
  const std::vector<FitCase> cases = {
      {"exp(-d/200)", [](double d) { return std::exp(-d / 200); }, 1000, 0, "row", 1e-8, false},
      {"1/(1+d/16)", [](double d) { return 1 / (1 + d / 16); }, 900, 0, "row", 1e-5, false},
      {"1/(1+d/16)", [](double d) { return 1 / (1 + d / 16); }, 900, 0, "pointwise", 1e-4, false},
      {"exp(-(d/50)^2)", [](double d) { return std::exp(-(d / 50) * (d / 50)); }, 600, 0, "entry", 1e-6, false},
      {"exp(-(d/50)^2)", [](double d) { return std::exp(-(d / 50) * (d / 50)); }, 600, 0, "row", 1e-5, true},
      {"cos(d/50)*exp(-d/400)", [](double d) { return std::cos(d / 50) * std::exp(-d / 400); }, 800, 0, "row", 1e-6, false},
      {"1+d+d^2/10", [](double d) { return 1 + d + d * d / 10; }, 300, 0, "row", 1e-9, false},
      {"table:table.npy", of_table, 700, 65, "row", 1e-6, false},
      {"0", [](double) { return 0.0; }, 50, 0, "row", 1e-6, false},
      {"3", [](double) { return 3.0; }, 1, 0, "row", 1e-6, false},
  };
  for (const FitCase& c : cases) {
    CAPTURE(c.function);
    CAPTURE(c.kind);
    const Outcome r =
        folder.run("fit --function '" + c.function + "' --distances " + std::to_string(c.first) + ":" +
                   std::to_string(c.count) + " --tolerance " + std::to_string(c.tolerance * 1e9) + "e-9 --tolerance-kind " +
                   c.kind + (c.one_sided ? " --one-sided" : "") + " --output t.json --report r.json");
    REQUIRE_MESSAGE(r.code == 0, r.err);
    CHECK(r.out.rfind("fit: L = " + std::to_string(c.count) + ", ", 0) == 0);
    const json fit = json::parse(text_of(folder.path("t.json"))), report = json::parse(text_of(folder.path("r.json")));
    const json& bound = fit.at("certified_error");
    CHECK(bound.at(c.kind).get<double>() <= c.tolerance);
    double largest = 0;
    for (int d = 0; d < c.count; ++d) largest = std::max(largest, std::abs(c.f(d)));
    if (largest > 0) {
      const Errors e = errors_of(fit.at("terms"), c.f, c.count, c.first, c.one_sided);
      // Here f~ and f are rounded, in the certificate they are not.
      const double rounding = 1e-13;
      CHECK(e.entry <= bound.at("entry").get<double>() + rounding);
      CHECK(e.row <= bound.at("row").get<double>() + rounding);
      if (!bound.at("pointwise").is_null()) CHECK(e.pointwise <= bound.at("pointwise").get<double>() + 1e-6 * rounding * 1e7);
      CHECK(e.entry >= 0.9 * bound.at("entry").get<double>() - 1e-12);
    }
    for (const json& t : fit.at("terms")) CHECK(number(t.at("decay")).real() >= 0);
    CHECK(report.at("command") == "fit");
    CHECK(report.at("terms") == fit.at("terms").size());
    CHECK(report.at("certified_error").at("row") == bound.at("row"));
    CHECK(report.at("fitted_negative") == fit.at("fitted_negative"));
    CHECK(report.at("tolerance_kind") == c.kind);
    CHECK(report.at("size") == c.count);
    CHECK(report.at("seconds_apply").is_number());
  }
}

TEST_CASE("fit without a tolerance takes the default of its type") {
  const Folder folder;
  const std::string line = "fit --function '1/(1+d/16)' --distances 0:200 --output t.json --report r.json";
  const std::vector<std::pair<std::string, double>> defaults = {
      {"", 1e-12}, {" --type double", 1e-12}, {" --type float", 1e-6}};
  for (const auto& one : defaults) {
    const std::string& type = one.first;
    const double tolerance = one.second;
    CAPTURE(type);
    const Outcome r = folder.run(line + type);
    REQUIRE_MESSAGE(r.code == 0, r.err);
    const json fit = json::parse(text_of(folder.path("t.json"))), report = json::parse(text_of(folder.path("r.json")));
    CHECK(fit.at("tolerance").get<double>() == tolerance);
    CHECK(report.at("tolerance").get<double>() == tolerance);
    CHECK(fit.at("certified_error").at("row").get<double>() <= tolerance);
    CHECK(errors_of(
              fit.at("terms"), [](double d) { return 1 / (1 + d / 16); }, 200, 0, false)
              .row <= tolerance + 1e-13);  // rounding here
  }
}

TEST_CASE("fit counts places where f >= 0 and its sum is negative") {
  const Folder folder;
  REQUIRE(folder.run("fit --function 'exp(-(d/30)^2)' --distances 0:400 --tolerance 1e-4 --output t.json").code == 0);
  const json fit = json::parse(text_of(folder.path("t.json")));
  int negative = 0;
  for (int d = 0; d < 400; ++d) negative += value(fit.at("terms"), d) < 0;
  CHECK(negative > 0);
  CHECK(fit.at("fitted_negative").get<int>() == negative);
}

TEST_CASE("a tolerance that cannot be met leaves the old file, and says why") {
  const Folder folder;
  folder.text("t.json", "old");
  std::vector<double> noise;
  std::uint32_t state = 1;
  for (int d = 0; d < 5000; ++d) {
    state = state * 1664525u + 1013904223u;
    noise.push_back(static_cast<double>(state >> 8) / (1 << 23) - 1);
  }
  folder.array("noise.npy", {5000}, noise);
  const auto names = folder.names();
  const Outcome r = folder.run("fit --function table:noise.npy --distances 0:5000 --tolerance 1e-3 --output t.json");
  CHECK(r.code == 2);
  CHECK(r.out.empty());
  CHECK(r.err.find("espalier: --tolerance: 1e-3 cannot be met: noise.npy is no short sum of exponentials: 5000 samples") == 0);
  CHECK(text_of(folder.path("t.json")) == "old");
  CHECK(folder.names() == names);
  const Outcome elsewhere = folder.run("fit --function 'exp(-d)' --distances 0:9 --tolerance 1e-3 --output no_folder/t.json");
  CHECK(elsewhere.code == 2);
  CHECK(elsewhere.err.find("--output: no_folder/t.json") != std::string::npos);
}
