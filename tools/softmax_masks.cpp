// Masks under softmax: their entries, and that none of them is negative.
// SPDX-License-Identifier: Apache-2.0
#include "mask_flags.hpp"

#include <espalier/masks/combinators.hpp>

#include <algorithm>
#include <cmath>
#include <sstream>

namespace espalier::tools {

namespace {

// Entries that were looked at, as a matrix.
template <class T>
class MatrixMask final : public Mask<T> {
 public:
  MatrixMask(Index rows, Index cols, std::vector<T> values) : Mask<T>(rows, cols), values_(std::move(values)) {}
  Entries<T> entries() const override {
    Entries<T> e;
    e.kind = EntryKind::dense;
    e.rows = this->rows();
    e.cols = e.values_stride = this->cols();
    e.values = values_.data();
    return e;
  }

 protected:
  void apply(MatrixView<const T> x, MatrixView<T> y, bool transpose, const Context<Cpu>& context) const override {
    this->apply_by_tiles(x, y, transpose, context);
  }

 private:
  std::vector<T> values_;
};

// Calls f(i, j, entry) for all entries, tile by tile.
template <class T, class F>
void over_entries(const Entries<T>& e, const F& f) {
  constexpr Index tile = 128;
  std::vector<T> values(static_cast<std::size_t>(tile * tile));
  for (Index i = 0; i < e.rows; i += tile) {
    for (Index j = 0; j < e.cols; j += tile) {
      const Index rows = std::min(tile, e.rows - i), cols = std::min(tile, e.cols - j);
      fill_tile(e, i, rows, j, cols, values.data(), tile);
      for (Index a = 0; a < rows; ++a) {
        for (Index b = 0; b < cols; ++b) f(i + a, j + b, values[static_cast<std::size_t>(a * tile + b)]);
      }
    }
  }
}

// The smallest entry; where it stands, where entries are looked at one by one.
struct Smallest {
  double value = 0;
  Index row = -1, col = -1;
};

template <class T>
Smallest smallest_entry(const Entries<T>& e) {
  Smallest least;
  const auto look = [&](double value, Index row, Index col) {
    if (value < least.value) least = {value, row, col};
  };
  if (e.border_rows > 0 && e.cols > e.border_cols) look(static_cast<double>(e.border[0]), -1, -1);
  if (e.border_cols > 0 && e.rows > e.border_rows) look(static_cast<double>(e.border[1]), -1, -1);
  if (e.border_rows > 0 && e.border_cols > 0) look(static_cast<double>(e.border[2]), -1, -1);
  if (e.kind == EntryKind::offset_table) {  // every element of the table is an entry
    for (Index p = 0; p < e.table_size; ++p) look(static_cast<double>(e.scale * e.table[p]), -1, -1);
    return least;
  }
  if (e.kind == EntryKind::ones) {
    look(static_cast<double>(e.scale), -1, -1);
    return least;
  }
  over_entries(e, [&](Index i, Index j, T value) { look(static_cast<double>(value), i, j); });
  return least;
}

// The largest sum of a row's |entries|: bounds the matrix's 2-norm, if it is symmetric.
template <class T>
double largest_row_sum(const Entries<T>& e) {
  std::vector<double> sums(static_cast<std::size_t>(e.rows));
  over_entries(e, [&](Index i, Index, T value) { sums[static_cast<std::size_t>(i)] += std::abs(static_cast<double>(value)); });
  return sums.empty() ? 0 : *std::max_element(sums.begin(), sums.end());
}

}  // namespace

template <class T>
void need_entries(Run& run, BuiltMask<T>& m, const std::string& flag) {
  run.set_up_seconds(seconds_of([&] {
    for (auto& mask : m.heads) {
      if (m.sources.graph) {
        const Report r = chosen_engine(run, *mask, {.columns = 64});
        m.entry_error = r.rounding_estimate + (r.certificate && r.certificate->norm ? *r.certificate->norm : 0);
      }
      if (mask->entries().kind != EntryKind::none) continue;
      try {
        // A causal order that leaves nothing out: the matrix is formed, every entry kept.
        MaskOptions options;
        options.tolerance = mask->options().tolerance;
        mask = std::make_shared<CausalMask<T>>(mask, mask->cols(), options);
      } catch (const ValueError& error) {
        throw FlagError(flag, without_class(error.what()));
      }
    }
  }));
}
template void need_entries<float>(Run&, BuiltMask<float>&, const std::string&);
template void need_entries<double>(Run&, BuiltMask<double>&, const std::string&);

template <class T>
void need_non_negative(Run& run, BuiltMask<T>& m) {
  run.set_up_seconds(seconds_of([&] {
    for (auto& mask : m.heads) {
      const Entries<T> entries = mask->entries();
      const Smallest least = smallest_entry(entries);
      if (!(least.value < 0)) continue;
      // exp(tA) spans many orders of magnitude: an entry that is 0 up to the engine's error may come out below 0.
      if (m.entry_error > 0 && -least.value <= m.entry_error * largest_row_sum(entries)) {
        std::vector<T> values(static_cast<std::size_t>(entries.rows * entries.cols));
        over_entries(entries, [&](Index i, Index j, T value) {
          values[static_cast<std::size_t>(i * entries.cols + j)] = std::max(value, T(0));
        });
        mask = std::make_shared<MatrixMask<T>>(entries.rows, entries.cols, std::move(values));
        continue;
      }
      std::ostringstream text;
      text << m.text << ": ";
      if (least.row >= 0) {
        text << "entry (" << least.row << ", " << least.col << ") is ";
      } else {
        text << "an entry is ";
      }
      text << least.value << " (expected entries >= 0 under softmax)";
      throw FlagError("mask", text.str());
    }
  }));
}
template void need_non_negative<float>(Run&, BuiltMask<float>&);
template void need_non_negative<double>(Run&, BuiltMask<double>&);

}  // namespace espalier::tools
