// One run of the laws over one mask: the case, its reference matrix and what was found broken. Shared by *_laws.cpp only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/error.hpp>

#include "support/mask_laws.hpp"
#include "support/operations.hpp"

#include <algorithm>
#include <exception>
#include <sstream>
#include <string>
#include <vector>

namespace espalier::test {

struct Violation {
  std::string law, details;
};

template <class T>
class LawRun {
 public:
  LawRun(const MaskCase<T>& the_case, std::shared_ptr<const Mask<T>> the_mask, std::string engine)
      : c(the_case),
        mask(*the_mask),
        m(c.reference(mask.parameters())),
        owner_(std::move(the_mask)),
        engine_(std::move(engine)) {}

  const MaskCase<T>& c;
  const Mask<T>& mask;
  DenseMatrix m;
  std::vector<Violation> found;

  double product_bound() const { return c.product_bound > 0 ? c.product_bound : sizeof(T) == 4 ? 1e-6 : 1e-12; }
  // False where a forced engine cannot do a product of this shape; such calls are not made.
  bool can(Shape shape) const {
    if (engine_.empty()) return true;
    try {
      mask.engines(shape);
      return true;
    } catch (const ValueError&) {
      return false;
    }
  }
  // A masked product of rank 0 counts as one of rank 1: rank 0 would ask for the plain product.
  bool can(Operation o, Shape shape) const {
    return can({.columns = shape.columns, .rank = is_low_rank(o) ? std::max<Index>(1, shape.rank) : 0});
  }

  void note(const std::string& law, const std::string& details) {
    found.push_back({law, (engine_.empty() ? "" : "engine " + engine_ + ": ") + details});
  }
  void expect(bool holds, const std::string& law, const std::string& details) {
    if (!holds) note(law, details);
  }
  void bound(const std::string& law, double error, double limit, const std::string& where) {
    if (error <= limit) return;
    std::ostringstream text;
    text << where << ": error " << error << ", bound " << limit;
    note(law, text.str());
  }
  // Runs a law; an exception breaks it.
  template <class F>
  void law(const std::string& name, const F& body) {
    try {
      body();
    } catch (const std::exception& e) {
      note(name, std::string("threw: ") + e.what());
    }
  }

 private:
  std::shared_ptr<const Mask<T>> owner_;
  std::string engine_;
};

inline std::string describe(Shape shape, InputKind kind) {
  return "columns " + std::to_string(shape.columns) + ", rank " + std::to_string(shape.rank) + ", " + name_of(kind) + " input";
}

// The groups of laws, each in a source of its own.
template <class T>
void check_products(LawRun<T>& run);
template <class T>
void check_gradients(LawRun<T>& run);
template <class T>
void check_conduct(LawRun<T>& run);
template <class T>
void check_entries_and_engines(LawRun<T>& run);

// A gradient of the parameters against central differences of the reference: pbar_p against sum_ij weight_ij dM_ij / dp.
template <class T>
void check_parameter_gradient(LawRun<T>& run, const std::string& law, const DenseMatrix& parameter_bar, const Measured& weight,
                              const std::string& where);

}  // namespace espalier::test
