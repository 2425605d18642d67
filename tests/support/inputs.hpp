// Test arrays: seeded inputs of several characters, in memory whose margins and gaps are watched.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/views.hpp>

#include "support/reference.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace espalier::test {

// positive: uniform in (0, 1); with_signs: standard normal; alternating: + and - by row, nearly equal in size (smooth masks
// cancel); spike: one row of numbers, zero elsewhere; log_normal: exp(1.5 normal) with random sign.
enum class InputKind { positive, with_signs, alternating, spike, log_normal };
inline constexpr InputKind input_kinds[] = {InputKind::positive, InputKind::with_signs, InputKind::alternating,
                                            InputKind::spike, InputKind::log_normal};
std::string name_of(InputKind kind);

// A rows x cols array with `gap` elements between rows and a margin on both sides. Margins and gaps hold one guard pattern;
// `intact` says whether they still do.
template <class T>
class Guarded {
 public:
  Guarded() = default;
  // Elements are NaN, so that an output that a call forgets to write is seen.
  Guarded(Index rows, Index cols, Index gap = 0);

  MatrixView<T> view() { return {storage_.data() + margin, rows_, cols_, cols_ + gap_}; }
  MatrixView<const T> view() const { return {storage_.data() + margin, rows_, cols_, cols_ + gap_}; }
  // One row as a vector.
  VectorView<T> vector() { return {storage_.data() + margin, rows_ * cols_}; }
  VectorView<const T> vector() const { return {storage_.data() + margin, rows_ * cols_}; }
  DenseMatrix dense() const { return dense_matrix<T>(view()); }
  // The same numbers as one column.
  DenseMatrix column() const;

  void set(const DenseMatrix& values);
  // Fills margins and gaps with NaN: an input whose surroundings must not matter. `intact` holds from then on, too.
  void poison();
  bool intact() const;
  // Bit patterns of all elements, margins and gaps included.
  bool same_bits(const Guarded& other) const;

 private:
  static constexpr Index margin = 40;
  bool is_element(Index position) const;

  Index rows_ = 0, cols_ = 0, gap_ = 0;
  T guard_ = T(-98765);
  std::vector<T> storage_ = std::vector<T>(2 * margin, guard_);
};

// Seeded numbers of a kind. The spike lies in the middle row.
template <class T>
Guarded<T> make_input(Index rows, Index cols, InputKind kind, std::uint64_t seed, Index gap = 0);

}  // namespace espalier::test
