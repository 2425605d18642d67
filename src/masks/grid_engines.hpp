// What an engine of GridMask is beside tiles and FFT, and the list of those on the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>
#include <espalier/core/low_rank.hpp>
#include <espalier/core/options.hpp>
#include <espalier/core/report.hpp>
#include <espalier/functions/distance_function.hpp>
#include <espalier/masks/grid.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "masks/set_up_watch.hpp"

namespace espalier {

// The mask as its engines see it. It refers to what outlives them.
struct GridSource {
  const std::vector<Index>& sizes;
  std::optional<Distance> distance;  // empty: a free table
  bool causal;
  const std::vector<double>& table;  // as applied
  const std::optional<DistanceFunction>& function;
};

// One or more ways to make the products of a grid mask, each with a name of its own; made at once, set up on first need, safe
// from several threads.
template <class T>
class GridEngine {
 public:
  virtual ~GridEngine() = default;

  virtual bool serves(const std::string& engine) const = 0;

  // Adds the reports of its ways for products of this shape, unless none could beat `best_other` seconds.
  // Errors: ValueError where the options force one of its ways and that cannot serve this mask, with the reason; Cancelled
  // where the watch asks for a stop of a set-up that this takes; the next call then makes it.
  virtual void add_candidates(Shape shape, double best_other, std::vector<Report>& all, const SetUpWatch& watch) const = 0;

  // engine: a name that add_candidates gave for this shape.
  virtual void multiply(const std::string& engine, MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                        const Context<Cpu>& context) const = 0;
  virtual void multiply_low_rank(const std::string& engine, const LowRankInputs<T, Cpu>& in, const LowRankOutputs<T, Cpu>& out,
                                 bool transpose, const Context<Cpu>& context) const = 0;
  // Adds all gradients but those of the mask's parameters. With learn, and where it can, adds these to parameter_bar (in
  // double) and returns true; otherwise leaves it alone and returns false.
  virtual bool multiply_low_rank_vjp(const std::string& engine, const LowRankInputs<T, Cpu>& in,
                                     const LowRankCotangents<T, Cpu>& cotangents, const LowRankGradients<T, Cpu>& gradients,
                                     bool learn, std::vector<double>& parameter_bar, const Context<Cpu>& context) const = 0;

  // The same engine for a mask a parameter step away.
  virtual std::unique_ptr<const GridEngine<T>> with_source(const GridSource& source) const = 0;
};

// Whether sums, squares and products of such entries stay within T with digits to spare: their largest between 1e-20 and 1e20
// (1e-140 and 1e140 in double), or all 0. Outside only tiles and FFT run: what these engines store would overflow, or lose
// small entries beside the certificate.
template <class T>
bool in_range_of_engines(const GridSource& source);

// Those that a grid of these sizes may want.
template <class T>
std::vector<std::unique_ptr<const GridEngine<T>>> grid_engines(const GridSource& source, const MaskOptions& options,
                                                               double tolerance);

}  // namespace espalier
