// The search for the shortest sum of exponentials: closed forms, the old terms, reduced interpolants, grids; best picked.
// SPDX-License-Identifier: Apache-2.0
#include "functions/decay_starts.hpp"
#include "functions/fit_certificate.hpp"
#include "functions/variable_projection.hpp"

#include <espalier/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace espalier {

namespace {

using fitting::Basis;
using fitting::Problem;
using fitting::Solution;

// Reduction to more states than this many times the tolerance still visible in the singular values: no short sum.
constexpr double kHopeless = 1e4;
// A singular value is some 30 times the error that its reduction leaves.
constexpr double kHeadroom = 30;
// Another start may gain this factor at most.
constexpr double kNearMiss = 20;
// Rows x slots^2 that one polish may touch; beyond it coefficients alone are fitted.
constexpr double kPolishWork = 2e7;
// Rows x slots of all least-squares problems after which a search that has not met the tolerance ends: about 0.1 s.
constexpr double kSearchWork = 4e6;
// Stricter aims that are tried where a search sticks at its own, each a tenth of the one before: the error of the best sums
// falls in jumps, so that a start with more slots may pass. Not where it misses by more than a hundred times: the worst that
// was seen to pass missed 38 times.
constexpr int kStricter = 3;
constexpr double kStuckNear = 100;
// Below kClimbBelow, and where a search sticks at kClimb times its tolerance or fewer, the decays of looser fits are climbed
// from: so close to the rounding of double the spectrum no longer gives starts, while decays of n and n + 1 terms still
// resemble each other.
constexpr double kClimb = 1e5, kClimbBelow = 1e-9;
constexpr double kLooser[] = {10, 100};
constexpr Index kRungs = 8;
constexpr int kClimbSteps = 40;

std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", v);
  return text;
}

class Search {
 public:
  // Sums within `accepted` are taken, whatever stricter tolerance the problem aims at.
  Search(Problem& problem, const FitOptions& options, double accepted)
      : p_(problem), options_(options), accepted_(accepted), work_before_(problem.work) {}

  // Whether a stricter aim has any hope where this search missed its own.
  bool worth_another() const { return !best_.met && !hopeless_; }
  // Whether decays that reach a looser tolerance are worth a climb: it missed by a few digits only.
  bool worth_climbing() const { return !best_.met && closest_excess_ < kClimb; }

  // From the decays of a sum that is within a looser tolerance: as many on a logarithmic axis and more, polished each time.
  ExponentialFit climb(const ExponentialSum& loose) {
    Basis basis;
    for (const ExponentialTerm& t : loose.terms) basis.decays.push_back(t.decay);
    take_samples(p_);
    const Index first = static_cast<Index>(basis.decays.size()) + 1;
    for (Index slots = first; all_real(basis) && slots <= std::min(p_.max_slots, first + kRungs) && !best_.met; ++slots) {
      const Basis start{resampled(basis, slots), 0};
      if (start.decays.empty()) break;
      Solution s = polish(p_, start, kClimbSteps, 3);
      attempt(s, "real decays");
      basis = std::move(s.basis);
    }
    return done();
  }

  ExponentialFit run() {
    hopeless_ = p_.tolerance == 0;
    if (closed_form()) return done();
    if (p_.tolerance == 0) {
      best_.reason = p_.f->name() + " is no finite sum of decaying exponentials, and tolerance 0 asks for an exact one";
      return done();
    }
    if (p_.last < p_.first || p_.largest == 0) {
      offer(ExponentialSum{}, "zero");
      return done();
    }
    if (p_.integers && p_.one_sided && p_.kind == ToleranceKind::row && p_.first == 0 && p_.all[0] == 0) {
      hopeless_ = true;
      note("row 0 is f(0) = 0 alone and has no relative error (first = 1 leaves distance 0 to the caller)");
    }
    take_samples(p_);
    if (p_.samples.rough) {
      hopeless_ = true;
      note("sampling was given up there");
      return done();
    }
    if (options_.start && refit()) return done();
    if (jets()) return done();
    const std::string known = notes_;
    shortest(false);
    // A second look costs as much again: not for what needs as many samples as it has distances.
    if (!best_.met && (!p_.integers || p_.samples.needed < static_cast<Index>(p_.all.size() / 4))) {
      tried_.clear(), notes_ = known, work_before_ = p_.work;
      shortest(true);
    }
    return done();
  }

 private:
  // Whether `sum` is within tolerance, slots and amplification; kept where it is better than what there is.
  bool offer(const ExponentialSum& sum, const std::string& method) {
    const fitting::Checked checked = p_.integers ? check_integers(p_, sum) : check_range(p_, sum);
    ExponentialFit fit;
    fit.sum = sum, fit.method = method, fit.certificate = checked.certificate;
    fit.fitted_negative = checked.negative, fit.amplification = checked.amplification;
    const std::optional<double> error = wanted(fit.certificate);
    fit.met = error && *error <= accepted_ && sum.slots() <= p_.max_slots && fit.amplification <= p_.max_amplification;
    const bool better = fit.met ? !best_.met || sum.slots() < best_.sum.slots()
                                : !best_.met && error && error_of(best_) > *error && fit.amplification <= p_.max_amplification;
    if (better) best_ = fit;
    return fit.met;
  }

  std::optional<double> wanted(const Certificate& c) const {
    if (p_.kind == ToleranceKind::row) return c.row;
    return p_.kind == ToleranceKind::entry ? c.entry : c.pointwise;
  }
  double error_of(const ExponentialFit& fit) const {
    return fit.method.empty() ? HUGE_VAL : wanted(fit.certificate).value_or(HUGE_VAL);
  }

  bool closed_form() {
    auto sum = p_.f->exponential_terms();
    if (sum && sum->least_decay() < 0) {
      note("f grows like exp(" + number(-sum->least_decay()) + " d)");
      return false;
    }
    if (sum && sum->slots() <= p_.max_slots) {
      // Equal to f in exact arithmetic: the bounds are 0, rounding is reported elsewhere.
      best_.sum = std::move(*sum);
      best_.certificate.row = best_.certificate.entry = best_.certificate.pointwise = 0;
      best_.amplification = p_.largest > 0 ? best_.sum.magnitude(p_.first, p_.last) / p_.largest : 0;
      best_.met = true, best_.method = "closed form";
      return true;
    }
    if (!p_.integers || p_.tolerance == 0) return false;
    const auto form = recognise_exponential(*p_.f, p_.last);
    p_.evaluations += 64;
    if (!form || form->slope > 0) return false;
    if (form->factor == 0) return offer(ExponentialSum{}, "zero");
    return offer(ExponentialSum{{{form->factor, -form->slope, 0}}}, "exponential");
  }

  // Starts from the terms of an earlier fit; a derivative may also share its decays, once and twice.
  bool refit() {
    Basis basis;
    for (const ExponentialTerm& t : options_.start->terms) {
      std::complex<double> s = t.decay;
      if (t.coefficient.imag() != 0 && s.imag() == 0) continue;
      if (s.imag() < 0) s = std::conj(s);
      if (std::find(basis.decays.begin(), basis.decays.end(), s) == basis.decays.end()) basis.decays.push_back(s);
    }
    if (basis.decays.empty() || basis.columns() > p_.max_slots) return false;
    const Eigen::VectorXd weight = first_weights(p_);
    if (attempt(project(p_, basis, weight), "shared decays")) return true;
    if (attempt(polish(p_, basis, 15, 2), "refit")) return true;
    // The derivative of c exp(-s d) is a jet of the same decay; twice the slots, so the search below goes on.
    basis.powers = 1;
    if (basis.columns() <= p_.max_slots) attempt(project(p_, basis, weight), "shared decays with jets");
    return false;
  }

  bool jets() {
    Basis basis;
    basis.decays = {0.0};
    const Eigen::VectorXd weight = fitting::first_weights(p_);
    for (basis.powers = 0; basis.powers <= 4 && basis.columns() <= p_.max_slots; ++basis.powers) {
      const Solution s = project(p_, basis, weight);
      // More than two may still be beaten by exponentials.
      if (attempt(s, basis.powers == 0 ? "constant" : "jets")) return basis.powers <= 1;
    }
    return false;
  }

  bool attempt(const Solution& s, const std::string& method) {
    return s.excess * p_.tolerance <= accepted_ && offer(to_sum(p_, s), method);
  }

  struct Tried {
    Solution solution;
    bool met = false;
  };

  // The best fit of `slots` states: starts from the interpolant, from the polished decays of a neighbour, from a grid.
  const Tried& with(Index slots, const fitting::LoewnerStart& loewner) {
    const auto found = tried_.find(slots);
    if (found != tried_.end()) return found->second;
    Tried t;
    t.solution.excess = HUGE_VAL;
    // Beyond what double precision resolves the interpolant has nothing new.
    const Basis interpolant{loewner.decays(slots), 0};
    const bool fresh = interpolant.columns() >= slots - 1;
    if (fresh) consider(interpolant.decays, t);
    const bool oscillates =
        std::any_of(t.solution.basis.decays.begin(), t.solution.basis.decays.end(), [](auto z) { return z.imag() > z.real(); });
    // On the integers the interpolant is near the best; other starts may gain a little. On a real range it cannot see what is
    // finer than its grid.
    if (!oscillates && slots > 1 && (!p_.integers || !fresh || t.solution.excess < kNearMiss)) {
      for (const Index other : {slots - 1, slots + 1}) {
        const auto neighbour = tried_.find(other);
        if (neighbour != tried_.end()) consider(resampled(neighbour->second.solution.basis, slots), t);
      }
      consider(fitting::logarithmic_decays(p_, slots), t);
    }
    return tried_[slots] = t;
  }

  void consider(const std::vector<std::complex<double>>& decays, Tried& t) {
    if (t.met || decays.empty()) return;
    const Basis basis{decays, 0};
    const double size = static_cast<double>(p_.samples.value.size() * basis.columns() * basis.columns());
    const int steps = static_cast<int>(std::min(40.0, kPolishWork / size));
    Solution s = steps > 0 ? polish(p_, basis, steps, 3) : project(p_, basis, fitting::first_weights(p_));
    t.met = attempt(s, all_real(s.basis) ? "real decays" : "complex decays");
    if (t.met || s.excess < t.solution.excess) t.solution = std::move(s);
  }

  static bool all_real(const Basis& basis) {
    return std::all_of(basis.decays.begin(), basis.decays.end(), [](auto z) { return z.imag() == 0; });
  }

  // Best decays of n and n + 1 real terms have the same density on a logarithmic axis.
  static std::vector<std::complex<double>> resampled(const Basis& basis, Index count) {
    if (basis.decays.size() < 2 || count < 2 || !all_real(basis)) return {};
    std::vector<double> logs;
    for (const auto& s : basis.decays) {
      if (s.real() > 0) logs.push_back(std::log(s.real()));
    }
    if (logs.size() < 2) return {};
    std::sort(logs.begin(), logs.end());
    std::vector<std::complex<double>> out;
    const double scale = static_cast<double>(logs.size()) / static_cast<double>(count);
    for (Index k = 0; k < count; ++k) {
      const double at = (static_cast<double>(k) + 0.5) * scale - 0.5;
      const auto i = static_cast<std::size_t>(std::clamp(std::floor(at), 0.0, static_cast<double>(logs.size() - 2)));
      out.push_back(std::exp(logs[i] + (at - static_cast<double>(i)) * (logs[i + 1] - logs[i])));
    }
    return out;
  }

  // Up from the numerical rank until the tolerance is met, then down until it is not.
  void shortest(bool refined) {
    const fitting::LoewnerStart loewner(p_, refined);
    const auto& sigma = loewner.singular_values();
    const Index limit = best_.met ? best_.sum.slots() - 1 : p_.max_slots;
    const Index order = loewner.order(1);
    note("the Loewner matrix of its generating function has " + std::to_string(order) +
         " singular values above the tolerance, of " + std::to_string(sigma.size()));
    if (limit < sigma.size() && sigma[limit] > kHopeless) {
      hopeless_ = true;
      note("a sum of " + std::to_string(limit) + " slots misses it " + number(sigma[limit]) + " times");
      const Basis basis{loewner.decays(limit), 0};
      if (!best_.met && !basis.decays.empty()) {
        offer(to_sum(p_, project(p_, basis, fitting::first_weights(p_))), "best of the search");
      }
      return;
    }
    Index slots = std::clamp<Index>(loewner.order(kHeadroom), 1, limit);
    double least = HUGE_VAL;
    for (int stuck = 0; !with(slots, loewner).met;) {
      const double excess = with(slots, loewner).solution.excess;
      stuck = excess < 0.5 * least ? 0 : stuck + 1;
      if (excess < least) least = excess, closest_ = slots;
      if (slots == limit || stuck >= 4 || p_.work - work_before_ > kSearchWork) {
        if (best_.met) return;
        hopeless_ = slots == limit || least > kStuckNear;
        closest_excess_ = least;
        note("polished sums of up to " + std::to_string(slots) + " slots " +
             (least > 1 ? "miss the tolerance " + number(least) + " times"
                        : "are within it at the samples only, or amplify rounding more than " + number(p_.max_amplification) +
                              " times"));
        offer(to_sum(p_, tried_[closest_].solution), "best of the search");
        return;
      }
      slots = std::min(limit, slots + (stuck > 1 ? 2 : 1));
    }
    while (slots > 1 && with(slots - 1, loewner).met) --slots;
  }

  void note(const std::string& text) { notes_ += (notes_.empty() ? "" : "; ") + text; }

  ExponentialFit done() {
    best_.certificate.estimated = !p_.integers && best_.certificate.estimated;
    best_.evaluations = p_.evaluations, best_.solves = p_.solves, best_.work = p_.work;
    if (!best_.reason.empty()) return best_;
    const char* kind = p_.kind == ToleranceKind::row ? "row" : p_.kind == ToleranceKind::entry ? "entry" : "pointwise";
    const std::string error = std::string(kind) + " error " + number(error_of(best_));
    if (best_.met) {
      best_.reason = best_.method + ", " + std::to_string(best_.sum.slots()) + " slots, " + error + " (tolerance " +
                     number(accepted_) + ")";
    } else {
      best_.reason = p_.f->name() + " is no short sum of exponentials: " + std::to_string(p_.samples.needed) + " samples of " +
                     number(p_.last - p_.first + 1) + " distances carry it; " + notes_;
      if (!best_.method.empty()) {
        best_.reason += "; best found: " + best_.method + ", " + std::to_string(best_.sum.slots()) + " slots, " + error;
      }
      best_.reason += " (tolerance " + number(p_.tolerance) + ", at most " + std::to_string(p_.max_slots) + " slots)";
    }
    return best_;
  }

  Problem& p_;
  const FitOptions& options_;
  double accepted_;
  ExponentialFit best_;
  std::map<Index, Tried> tried_;
  Index closest_ = 1;
  double closest_excess_ = HUGE_VAL;
  double work_before_;
  bool hopeless_ = false;
  std::string notes_;
};

// The search at the tolerance that was asked for; where it ends without a sum, at stricter ones.
ExponentialFit search(Problem& problem, const FitOptions& options) {
  const double asked = problem.tolerance;
  Search first(problem, options, asked);
  ExponentialFit fit = first.run();
  bool another = first.worth_another();
  for (int k = 0; k < kStricter && another; ++k) {
    problem.tolerance *= 0.1;
    problem.samples = {};
    Search stricter(problem, options, asked);
    ExponentialFit next = stricter.run();
    another = stricter.worth_another();
    if (next.met) {
      fit = std::move(next);
    } else {
      fit.evaluations = next.evaluations, fit.solves = next.solves, fit.work = next.work;
    }
  }
  if (fit.met || asked > kClimbBelow || !first.worth_climbing()) return fit;
  for (const double looser : kLooser) {
    problem.tolerance = looser * asked;
    problem.samples = {};
    const ExponentialFit loose = Search(problem, options, problem.tolerance).run();
    if (!loose.met) continue;
    problem.tolerance = asked;
    problem.samples = {};
    ExponentialFit next = Search(problem, options, asked).climb(loose.sum);
    if (next.met) return next;
    fit.evaluations = next.evaluations, fit.solves = next.solves, fit.work = next.work;
    break;
  }
  return fit;
}

}  // namespace

ExponentialFit fit_exponentials(const DistanceFunction& f, Index count, const FitOptions& options) {
  Problem problem = fitting::integer_problem(f, count, options);
  return search(problem, options);
}

ExponentialFit fit_exponentials(const DistanceFunction& f, RealRange range, const FitOptions& options) {
  Problem problem = fitting::range_problem(f, range, options);
  // One search costs seconds of pieces where f is rough: no second one.
  return Search(problem, options, options.tolerance).run();
}

Certificate certify(const DistanceFunction& f, const ExponentialSum& sum, Index count, const FitOptions& options) {
  return check_integers(fitting::integer_problem(f, count, options), sum).certificate;
}

Certificate certify(const DistanceFunction& f, const ExponentialSum& sum, RealRange range, const FitOptions& options) {
  Problem problem = fitting::range_problem(f, range, options);
  return check_range(problem, sum).certificate;
}

}  // namespace espalier
