// RecurrentMask: coefficients of each token around the backend's step.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/functions/exponential_sum.hpp>
#include <espalier/masks/recurrent.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <cstdint>
#include <string>

#include "backend/recurrence.hpp"
#include "core/number_text.hpp"
#include "functions/decay_groups.hpp"

namespace espalier {

namespace {

void check_terms(const ExponentialSum& sum) {
  for (const ExponentialTerm& t : sum.terms) {
    const bool finite = std::isfinite(t.coefficient.real()) && std::isfinite(t.coefficient.imag()) &&
                        std::isfinite(t.decay.real()) && std::isfinite(t.decay.imag());
    // Powers of the distance beyond 16 have no accurate sum in double anyway.
    if (!finite || t.power < 0 || t.power > 16) {
      throw ValueError("RecurrentMask: a term is not finite or its power is not within 0 .. 16");
    }
    if (t.decay.real() < 0) {
      throw ValueError("RecurrentMask: a term grows (decay " + number_text(t.decay.real()) + ", expected at least 0)");
    }
  }
}

}  // namespace

// With u = i - j, state k of a group holds sum_j u^k / k! exp(-s u) b_j x_jᵀ, and a token later
//   S_k := exp(-s) sum_{l <= k} S_l / (k - l)!,   the new token going to S_0.
// Turning groups hold exp(i w n) S after n tokens, w = Im s: such a state only decays, and the turn goes into `in` and `out`.
template <class T>
struct RecurrentMask<T>::State {
  ExponentialSum sum;
  std::vector<DecayGroup> groups;
  Certificate certificate{};
  Index m, c, width, length = 0;
  std::vector<double> decay, in, out, couple_weight, values;
  std::vector<Index> couple_start{0}, couple_state;
  std::vector<double> a, b, x, y;

  State(ExponentialSum given, Index features, Index columns) : sum(std::move(given)), m(features), c(columns) {
    check_terms(sum);
    groups = decay_groups(sum);
    if (m < 1) throw ValueError("RecurrentMask: " + std::to_string(m) + " features, expected at least 1");
    if (c < 0) throw ValueError("RecurrentMask: " + std::to_string(c) + " columns, expected at least 0");
    width = (c + 1 + 7) / 8 * 8;
    for (const DecayGroup& g : groups) {
      const int powers = static_cast<int>(g.coefficients.size());
      const auto first = static_cast<Index>(decay.size());
      for (int k = powers - 1; k >= 0; --k) {
        for (int w = 0; w < g.width(); ++w) {
          decay.push_back(std::expm1(-g.decay.real()));
          for (int l = k - 1; l >= 0; --l) {
            couple_state.push_back(first + static_cast<Index>(powers - 1 - l) * g.width() + w);
            couple_weight.push_back(std::exp(-g.decay.real()) / factorial(k - l));
          }
          couple_start.push_back(static_cast<Index>(couple_state.size()));
        }
      }
    }
    in.resize(decay.size()), out.resize(decay.size());
    values.assign(decay.size() * static_cast<std::size_t>(m * width), 0.0);
    a.resize(static_cast<std::size_t>(m)), b.resize(a.size());
    x.assign(static_cast<std::size_t>(width), 0.0), y = x;
    x[static_cast<std::size_t>(c)] = 1;
  }

  // 52 bits of a hash (FNV-1a) over what gives the states their meaning: a whole number that a double holds.
  double fingerprint() const {
    std::uint64_t hash = 14695981039346656037u;
    const auto add = [&](std::uint64_t bits) {
      for (int byte = 0; byte < 8; ++byte) hash = (hash ^ (bits >> (8 * byte) & 255)) * 1099511628211u;
    };
    add(static_cast<std::uint64_t>(m)), add(static_cast<std::uint64_t>(c));
    for (const DecayGroup& g : groups) {
      add(std::bit_cast<std::uint64_t>(g.decay.real())), add(std::bit_cast<std::uint64_t>(g.decay.imag()));
      for (const std::complex<double>& v : g.coefficients) {
        add(std::bit_cast<std::uint64_t>(v.real())), add(std::bit_cast<std::uint64_t>(v.imag()));
      }
    }
    return static_cast<double>(hash >> 12);
  }

  void coefficients() {
    std::size_t at = 0;
    for (const DecayGroup& g : groups) {
      // The angle to twice double's digits: its rounding would be an error of the phase that grows with the length.
      const double time = static_cast<double>(length), angle = g.decay.imag() * time;
      const double rest = std::fma(g.decay.imag(), time, -angle);
      const std::complex<double> turn(std::cos(angle) - rest * std::sin(angle), std::sin(angle) + rest * std::cos(angle));
      for (std::size_t k = g.coefficients.size(); k-- > 0;) {
        const std::complex<double> read = g.coefficients[k] * factorial(static_cast<int>(k)) * std::conj(turn);
        in[at] = k == 0 ? (!g.real ? turn.real() : 1.0) : 0.0;
        out[at++] = !g.real ? read.real() : g.coefficients[k].real() * factorial(static_cast<int>(k));
        if (g.real) continue;
        in[at] = k == 0 ? turn.imag() : 0.0;
        out[at++] = -read.imag();
      }
    }
  }

  void take(const T* new_b, const T* new_x, const T* query, double* result) {
    coefficients();
    std::copy_n(new_b, m, b.begin());
    std::copy_n(new_x, c, x.begin());
    if (query != nullptr) std::copy_n(query, m, a.begin());
    const backend::RecurrenceStep step{static_cast<Index>(decay.size()),
                                       m,
                                       width,
                                       decay.data(),
                                       in.data(),
                                       out.data(),
                                       couple_state.empty() ? nullptr : couple_start.data(),
                                       couple_state.data(),
                                       couple_weight.data()};
    backend::recurrence_step(step, a.data(), b.data(), x.data(), values.data(), result);
    ++length;
  }
};

template <class T>
RecurrentMask<T>::RecurrentMask(ExponentialSum sum, Index features, Index columns)
    : state_(std::make_unique<State>(std::move(sum), features, columns)) {}

template <class T>
RecurrentMask<T>::RecurrentMask(const DistanceFunction& f, Index longest, Index features, Index columns,
                                const MaskOptions& options) {
  FitOptions fit_options;
  fit_options.tolerance = options.tolerance >= 0 ? options.tolerance : sizeof(T) == sizeof(float) ? 1e-6 : 1e-12;
  fit_options.kind = options.tolerance_kind;
  fit_options.one_sided = true;
  ExponentialFit fit = fit_exponentials(f, longest, fit_options);
  if (!fit.met) throw ValueError("RecurrentMask: " + fit.reason);
  state_ = std::make_unique<State>(std::move(fit.sum), features, columns);
  state_->certificate = fit.certificate;
}

template <class T>
RecurrentMask<T>::~RecurrentMask() = default;
template <class T>
RecurrentMask<T>::RecurrentMask(const RecurrentMask& other) : state_(std::make_unique<State>(*other.state_)) {}
template <class T>
RecurrentMask<T>& RecurrentMask<T>::operator=(const RecurrentMask& other) {
  if (this != &other) state_ = std::make_unique<State>(*other.state_);
  return *this;
}
template <class T>
RecurrentMask<T>::RecurrentMask(RecurrentMask&&) noexcept = default;
template <class T>
RecurrentMask<T>& RecurrentMask<T>::operator=(RecurrentMask&&) noexcept = default;

template <class T>
Index RecurrentMask<T>::features() const {
  return state_->m;
}
template <class T>
Index RecurrentMask<T>::columns() const {
  return state_->c;
}
template <class T>
Index RecurrentMask<T>::length() const {
  return state_->length;
}
template <class T>
const ExponentialSum& RecurrentMask<T>::sum() const {
  return state_->sum;
}
template <class T>
const Certificate& RecurrentMask<T>::certificate() const {
  return state_->certificate;
}

template <class T>
void RecurrentMask<T>::step(VectorView<const T> a, VectorView<const T> b, VectorView<const T> x, VectorView<T> y, T* row_sum) {
  State& s = *state_;
  const auto check = [](const char* name, Index got, Index expected) {
    if (got != expected) throw ShapeError(name, got, expected);
  };
  check("a", a.size, s.m);
  check("b", b.size, s.m);
  check("x", x.size, s.c);
  check("y", y.size, s.c);
  s.take(b.data, x.data, a.data, s.y.data());
  for (Index k = 0; k < s.c; ++k) y[k] = static_cast<T>(s.y[static_cast<std::size_t>(k)]);
  if (row_sum != nullptr) *row_sum = static_cast<T>(s.y[static_cast<std::size_t>(s.c)]);
}

template <class T>
void RecurrentMask<T>::prefill(MatrixView<const T> b, MatrixView<const T> x) {
  State& s = *state_;
  if (b.cols != s.m) throw ShapeError("b columns", b.cols, s.m);
  if (x.cols != s.c) throw ShapeError("x columns", x.cols, s.c);
  if (x.rows != b.rows) throw ShapeError("x rows", x.rows, b.rows);
  for (Index i = 0; i < b.rows; ++i) s.take(b.row(i), x.row(i), nullptr, nullptr);
}

// The length, the mask's fingerprint, then the states.
template <class T>
std::vector<double> RecurrentMask<T>::save() const {
  std::vector<double> numbers{static_cast<double>(state_->length), state_->fingerprint()};
  numbers.insert(numbers.end(), state_->values.begin(), state_->values.end());
  return numbers;
}
template <class T>
void RecurrentMask<T>::restore(std::span<const double> numbers) {
  const auto expected = static_cast<Index>(state_->values.size()) + 2;
  if (static_cast<Index>(numbers.size()) != expected) {
    throw ShapeError("RecurrentMask state", static_cast<Index>(numbers.size()), expected);
  }
  if (!(numbers[0] >= 0) || numbers[0] != std::floor(numbers[0]))
    throw ValueError("RecurrentMask: the saved length is no count");
  if (numbers[1] != state_->fingerprint()) {
    throw ValueError("RecurrentMask: the saved state is that of another mask (its terms, features or columns differ)");
  }
  state_->length = static_cast<Index>(numbers[0]);
  std::copy(numbers.begin() + 2, numbers.end(), state_->values.begin());
}

template class ESPALIER_EXPORT RecurrentMask<float>;
template class ESPALIER_EXPORT RecurrentMask<double>;

}  // namespace espalier
