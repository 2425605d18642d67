// Derivatives of a mask that act on the terms of its own sum of exponentials.
// SPDX-License-Identifier: Apache-2.0
#include <complex>
#include <optional>

#include "functions/decay_groups.hpp"
#include "masks/chunk_basis.hpp"

namespace espalier {

namespace {

using Complex = std::complex<double>;

bool is_identity(const std::vector<double>& m, Index n) {
  for (Index p = 0; p < n; ++p) {
    for (Index q = 0; q < n; ++q) {
      if (m[static_cast<std::size_t>(p * n + q)] != (p == q ? 1 : 0)) return false;
    }
  }
  return true;
}

// A derivative as factors of the mask's terms: the k-th group's entries Z change by (value + slope d) Z.
struct Factors {
  std::vector<Complex> value, slope;
};
std::optional<Factors> factors_of(const ExponentialSum& derivative, const std::vector<DecayGroup>& groups) {
  Factors f{std::vector<Complex>(groups.size()), std::vector<Complex>(groups.size())};
  for (const ExponentialTerm& t : derivative.terms) {
    if (t.power > 1) return std::nullopt;
    bool found = false;
    for (std::size_t k = 0; k < groups.size() && !found; ++k) {
      const DecayGroup& g = groups[k];
      // Re c exp(-s d) is the same with both conjugate. A real term has no imaginary part to take in.
      const bool same = t.decay == g.decay, turned = t.decay == std::conj(g.decay);
      if (!same && !turned) continue;
      const Complex c = (same ? t.coefficient : std::conj(t.coefficient)) / g.coefficients[0];
      if (g.real && c.imag() != 0) return std::nullopt;
      (t.power == 0 ? f.value : f.slope)[k] += c;
      found = true;
    }
    if (!found) return std::nullopt;
  }
  return f;
}

// The side's derivatives by terms; false where its states are not the terms of its sum, or some derivative needs others.
template <class T>
bool add_terms(const backend::ChunkSide<T>& as_lower, const ExponentialSum& sum, const std::vector<const ExponentialSum*>& all,
               backend::ChunkSide<T>& side) {
  const Index r = as_lower.states;
  if (r != as_lower.basis || !as_lower.couple_state.empty() || !is_identity(as_lower.in, r) || !is_identity(as_lower.out, r)) {
    return false;
  }
  const std::vector<DecayGroup> groups = decay_groups(sum);
  for (const DecayGroup& g : groups) {
    if (g.coefficients.size() != 1 || g.coefficients[0] == Complex(0)) return false;
    side.term_turns.push_back(g.real ? 0 : 1);
    if (!g.real) side.term_turns.push_back(0);
  }
  if (static_cast<Index>(side.term_turns.size()) != r) return false;
  for (Index q = 0; q < r; ++q) {
    if (side.term_turns[static_cast<std::size_t>(q)] != 0 && as_lower.angle[static_cast<std::size_t>(q)] == 0) return false;
  }
  for (const ExponentialSum* derivative : all) {
    const std::optional<Factors> f = factors_of(*derivative, groups);
    if (!f) return false;
    for (std::size_t k = 0; k < groups.size(); ++k) {
      side.term_value.push_back(f->value[k].real()), side.term_slope.push_back(f->slope[k].real());
      if (groups[k].real) continue;
      side.term_value.push_back(f->value[k].imag()), side.term_slope.push_back(f->slope[k].imag());
    }
  }
  return true;
}

}  // namespace

template <class T>
bool term_form(bool symmetric, const SideSums& sums, const std::vector<ToeplitzDerivative>& derivatives,
               const ChunkBasis<T>& basis, backend::ChunkedToeplitz<T>& form) {
  form = basis.product;
  if (derivatives.empty() || form.length <= form.gap * form.chunk) return false;
  const backend::ChunkedToeplitz<T> turned = backend::transposed(form);
  for (const bool upper : {false, true}) {
    if (!(upper ? form.has_upper : form.has_lower)) continue;
    const bool own = upper && !symmetric;
    std::vector<const ExponentialSum*> all;
    all.reserve(derivatives.size());
    for (const ToeplitzDerivative& d : derivatives) all.push_back(own ? &d.sums.upper : &d.sums.lower);
    if (!add_terms<T>(upper ? turned.lower : form.lower, own ? sums.upper : sums.lower, all, upper ? form.upper : form.lower)) {
      form = {};
      return false;
    }
  }
  return true;
}

template bool term_form(bool, const SideSums&, const std::vector<ToeplitzDerivative>&, const ChunkBasis<float>&,
                        backend::ChunkedToeplitz<float>&);
template bool term_form(bool, const SideSums&, const std::vector<ToeplitzDerivative>&, const ChunkBasis<double>&,
                        backend::ChunkedToeplitz<double>&);

}  // namespace espalier
