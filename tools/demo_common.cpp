// What the demo's cases share: seeded matrices, samples of rows, timing of the dense way.
// SPDX-License-Identifier: Apache-2.0
#include "demo.hpp"

#include <espalier/core/error.hpp>
#include <espalier/core/random.hpp>

#include <algorithm>

namespace espalier::tools {

DemoMatrix<float> normal_matrix(Index rows, Index cols, std::uint64_t seed, double factor) {
  DemoMatrix<float> m(rows, cols);
  const Random random(seed);
  for (std::size_t p = 0; p < m.values.size(); ++p) m.values[p] = static_cast<float>(factor * random.normal(p));
  return m;
}

RowSample::RowSample(const Mask<float>& whole, Index first, Index count)
    : Mask<float>(count, whole.cols(), MaskOptions{.engine = "direct"}), whole_(&whole), first_(first) {
  if (whole.entries().kind != EntryKind::offset_table) throw ValueError("RowSample: only for masks with an offset table");
}

Entries<float> RowSample::entries() const {
  Entries<float> e = whole_->entries();
  e.rows = this->rows();
  e.row_key += first_;
  return e;
}

void RowSample::apply(MatrixView<const float> x, MatrixView<float> y, bool transpose, const Context<Cpu>& context) const {
  this->apply_by_tiles(x, y, transpose, context);
}

DenseTime time_dense(Index length, Index first_count, const std::function<void(Index)>& work) {
  // About a second of measured work is enough for two digits; up to 5 s the whole is run.
  for (Index count = std::min(first_count, length);; count = std::min(length, count * 4)) {
    const double seconds = seconds_of([&] { work(count); });
    const double whole = seconds * static_cast<double>(length) / static_cast<double>(count);
    if (count == length) return {seconds, false};
    if (whole <= 5) {
      return {seconds_of([&] { work(length); }), false};
    }
    if (seconds >= 0.5) return {whole, true};
  }
}

}  // namespace espalier::tools
