// Expressions by muParser.
// SPDX-License-Identifier: Apache-2.0
#include "expression.hpp"

#include "flags.hpp"

#include <muParser.h>

#include <cmath>
#include <memory>
#include <mutex>
#include <numbers>

namespace espalier::tools {

namespace {

// A parser with its variable. Evaluation writes the variable, hence the lock: masks may ask from several threads.
struct Expression {
  mu::Parser parser;
  double d = 1;
  std::mutex mutex;
};

double floor_of(double x) {
  return std::floor(x);
}
double erf_of(double x) {
  return std::erf(x);
}
double log_of(double x) {
  return std::log(x);
}

}  // namespace

DistanceFunction distance_expression(const std::string& text, const std::string& flag) {
  const std::string name = shortened(text);
  auto expression = std::make_shared<Expression>();
  try {
    expression->parser.DefineFun("floor", floor_of);
    expression->parser.DefineFun("erf", erf_of);
    expression->parser.DefineFun("log", log_of);
    // The parser's own pi is good to 13 digits (2.3.3).
    expression->parser.DefineConst("_pi", std::numbers::pi);
    expression->parser.DefineConst("_e", std::numbers::e);
    expression->parser.DefineVar("d", &expression->d);
    expression->parser.SetExpr(text);
    (void)expression->parser.Eval();
    if (expression->parser.GetNumResults() != 1) throw FlagError(flag, "'" + name + "' has several values (expected one)");
  } catch (const mu::Parser::exception_type& error) {
    throw FlagError(flag, "'" + name + "': " + shortened(error.GetMsg()) + " (expected an expression in d)");
  }
  if (text.find('=') != std::string::npos && text.find("==") == std::string::npos && text.find("<=") == std::string::npos &&
      text.find(">=") == std::string::npos && text.find("!=") == std::string::npos) {
    throw FlagError(flag, "'" + name + "' assigns to a variable (expected an expression in d)");
  }
  return DistanceFunction(Callable{[expression](double d) {
                                     const std::lock_guard lock(expression->mutex);
                                     expression->d = d;
                                     return expression->parser.Eval();
                                   },
                                   name});
}

}  // namespace espalier::tools
