// Forms of masks on one axis: how far entries become few products a chunk of tokens, or none.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/options.hpp>
#include <espalier/functions/distance_function.hpp>
#include <espalier/functions/exponential_sum.hpp>

#include <cstddef>
#include <functional>
#include <optional>
#include <string>

#include "masks/chunk_basis.hpp"
#include "masks/set_up_watch.hpp"

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

// Exponentials between chunks: the cheapest chunk and gap whose far values have a short sum that meets the tolerance and whose
// terms the type has digits for. plain: for products without features. Cost: a few fits and passes over the values.
template <class T>
SequenceForm<T> exponential_form(const SequenceValues& source, const SequenceStart& start, bool plain, double tolerance,
                                 ToleranceKind kind, const SetUpWatch& watch);

// Chunks near the diagonal alone: what lies beyond them is within the tolerance together.
template <class T>
SequenceForm<T> band_form(const ToeplitzValues& values, bool plain, double tolerance, ToleranceKind kind,
                          const SetUpWatch& watch);

}  // namespace espalier
