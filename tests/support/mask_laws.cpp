// Runs all groups of laws, for the mask as it is and for each engine forced.
// SPDX-License-Identifier: Apache-2.0
#include "support/mask_laws.hpp"

#include <doctest/doctest.h>

#include "support/law_run.hpp"

#include <algorithm>
#include <set>

namespace espalier::test {

namespace {

template <class T>
void check_all(LawRun<T>& run) {
  if (run.mask.rows() != run.m.rows || run.mask.cols() != run.m.cols) {
    run.note("size", std::to_string(run.mask.rows()) + " x " + std::to_string(run.mask.cols()) + ", reference " +
                         std::to_string(run.m.rows) + " x " + std::to_string(run.m.cols));
    return;
  }
  check_products(run);
  check_gradients(run);
  check_conduct(run);
  check_entries_and_engines(run);
}

template <class T>
std::set<std::string> engine_names(const Mask<T>& mask) {
  std::set<std::string> names;
  for (const Shape shape : {Shape{.columns = 3}, Shape{.columns = 33, .rank = 33}}) {
    for (const Report& r : mask.engines(shape)) names.insert(r.engine);
  }
  return names;
}

template <class T>
std::vector<Violation> violations(const MaskCase<T>& c) {
  LawRun<T> run(c, c.mask, "");
  check_all(run);
  std::vector<Violation> found = run.found;
  if (!c.with_engine) return found;
  try {
    for (const std::string& engine : engine_names(*c.mask)) {
      const auto forced = c.with_engine(engine);
      LawRun<T> one(c, forced, engine);
      for (const Shape shape : {Shape{.columns = 3}, Shape{.columns = 33, .rank = 33}}) {
        if (!one.can(shape)) continue;
        for (const Report& r : forced->engines(shape)) {
          one.expect(r.engine == engine, "engines", "forced, but engines() names " + r.engine);
        }
      }
      check_all(one);
      found.insert(found.end(), one.found.begin(), one.found.end());
    }
  } catch (const std::exception& e) {
    found.push_back({"engines", std::string("forcing each engine threw: ") + e.what()});
  }
  return found;
}

}  // namespace

template <class T>
std::vector<std::string> broken_laws(const MaskCase<T>& c) {
  std::vector<std::string> names;
  for (const Violation& v : violations(c)) {
    if (std::find(names.begin(), names.end(), v.law) == names.end()) names.push_back(v.law);
  }
  return names;
}

template <class T>
void check_mask_laws(const MaskCase<T>& c) {
  const std::vector<Violation> found = violations(c);
  // One broken law often shows in hundreds of places: the first twelve are enough to read.
  std::string text;
  for (std::size_t v = 0; v < std::min<std::size_t>(found.size(), 12); ++v) {
    text += "\n  " + found[v].law + ": " + found[v].details;
  }
  INFO(c.name << std::string(sizeof(T) == 4 ? " (float)" : " (double)") << ": " << found.size() << " violations" << text);
  CHECK(found.empty());
}

std::vector<Index> law_sizes() {
  return {1, 2, 3, 7, 8, 13, 64, 101};
}

template void check_mask_laws(const MaskCase<float>&);
template void check_mask_laws(const MaskCase<double>&);
template std::vector<std::string> broken_laws(const MaskCase<float>&);
template std::vector<std::string> broken_laws(const MaskCase<double>&);

}  // namespace espalier::test
