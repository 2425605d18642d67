// Engines of masks on one axis whose far entries are smooth or vanish: exponentials between chunks, or a band.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>
#include <espalier/core/low_rank.hpp>
#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "masks/grid_engines.hpp"
#include "masks/sequence_form.hpp"

namespace espalier {

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
