// Engines of masks on one axis whose far entries are smooth or vanish: exponentials between chunks, or a band.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>
#include <espalier/core/low_rank.hpp>
#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>
#include <espalier/functions/distance_function.hpp>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "masks/chunk_basis.hpp"
#include "masks/grid_engines.hpp"

namespace espalier {

// The mask: values by distance, and where they come from closed forms, these (their exact sums of exponentials then need no
// search). f(i - j) for i >= j, f(j - i) for i < j.
struct SequenceValues {
  ToeplitzValues values;
  std::optional<DistanceFunction> lower, upper;
  std::size_t parameters = 0;                              // of the function; 0: none, or a table
  std::function<double(std::size_t, Index)> derivative{};  // dM_ij / dp by the offset i - j
};

template <class T>
struct SequenceForm {
  ChunkBasis<T> basis;
  ExponentialSum lower, upper;
  double rounding = 0;  // kinds row and entry: what the terms leave of a row, relative to it
  std::string reason;   // how it was found; why it cannot be, where basis.met is false
  bool met() const { return basis.met; }
};

// Where fits of a mask a parameter step away begin: those of low-rank products and of plain ones.
struct SequenceStart {
  ExponentialSum lower[2], upper[2];
  // Of exponentials and of the band: how many steps ago some derivative was found to have no such form; 0: it was not, or so
  // long ago that it is worth another search.
  Index failed[2] = {0, 0};
};

// Forms are made by the first report or product that may want them, once; the rest is const and safe from several threads.
template <class T>
class SequenceEngines final : public GridEngine<T> {
 public:
  // values: called at most once, when the first form is made.
  SequenceEngines(Index length, std::function<SequenceValues()> values, const MaskOptions& options, double tolerance,
                  SequenceStart start = {});

  bool serves(const std::string& engine) const override;
  void add_candidates(Shape shape, double best_other, std::vector<Report>& all, const SetUpWatch& watch) const override;
  std::unique_ptr<const GridEngine<T>> with_source(const GridSource& source) const override;

  void multiply(const std::string& engine, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                const Context<Cpu>& context) const override;
  void multiply_low_rank(const std::string& engine, const LowRankInputs<T, Cpu>& in, const LowRankOutputs<T, Cpu>& out,
                         bool transpose, const Context<Cpu>& context) const override;
  // All in one pass. Learns where the mask is a function of few parameters whose derivatives have such a form too.
  bool multiply_low_rank_vjp(const std::string& engine, const LowRankInputs<T, Cpu>& in,
                             const LowRankCotangents<T, Cpu>& cotangents, const LowRankGradients<T, Cpu>& gradients, bool learn,
                             std::vector<double>& parameter_bar, const Context<Cpu>& context) const override;

 private:
  enum class Kind { exponentials, band };
  struct Slot {
    std::once_flag once;
    std::unique_ptr<const SequenceForm<T>> form;
    std::atomic<const SequenceForm<T>*> ready{nullptr};
  };
  // The form with derivatives, for gradients; not usable where some derivative has none.
  struct Learning {
    std::once_flag once;
    bool usable = false;
    std::atomic<bool> searched{false}, failed{false};
    backend::ChunkedToeplitz<T> form;
    // Where derivatives reach over more chunks than the band does: the mask itself over as many. Otherwise of length 0.
    backend::ChunkedToeplitz<T> wider;
  };
  // What has been found so far, or else where this one would have started itself.
  SequenceStart found() const;
  const Learning& learning(Kind kind, const SetUpWatch& watch) const;
  void make_learning(Kind kind, Learning& learning, const SetUpWatch& watch) const;
  // False where some derivative has no sum of exponentials, or no form with the others.
  bool find_derivatives(Kind kind, Learning& learning, const SetUpWatch& watch) const;
  const SequenceForm<T>& form(Kind kind, bool plain, const SetUpWatch& watch = SetUpWatch()) const;
  SequenceForm<T> make_exponentials(bool plain, const SetUpWatch& watch) const;
  SequenceForm<T> form_of_shape(bool plain, Index chunk, Index gap, const SetUpWatch& watch) const;
  SequenceForm<T> make_band(bool plain, const SetUpWatch& watch) const;
  std::optional<ExponentialSum> fit_side(bool is_lower, bool plain, Index chunk, Index gap, double max_amplification,
                                         std::string& reason, const SetUpWatch& watch) const;
  SequenceForm<T> form_of_sums(bool plain, Index chunk, Index gap, double max_amplification, const SetUpWatch& watch) const;
  double most_rounding() const;
  Report report(Kind kind, const SequenceForm<T>& form, Shape shape) const;
  bool wanted(const char* name) const;
  const SequenceValues& source() const;

  Index length_;
  std::function<SequenceValues()> make_values_;
  mutable std::once_flag source_once_;
  mutable SequenceValues source_;
  MaskOptions options_;
  double tolerance_;
  SequenceStart start_;
  mutable Slot slots_[4];
  mutable Learning learning_[2];
};

}  // namespace espalier
