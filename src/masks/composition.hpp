// What masks made of masks share: entries as a sum of placed parts, parameters in a row, reports of the parts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/error.hpp>
#include <espalier/core/mask.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace espalier {

inline bool is_tile_engine(const std::string& engine) {
  return engine == "direct" || engine == "dense";
}

// Entries sum over parts k of factor M_k(i - row_k, j - col_k), 0 outside the parts; and a border around them all. Its
// gradient's scratch memory holds the scratch of every part in order, then the factor's gradient, then row, column, corner.
template <class T>
class CompositionSource final : public EntrySource<T> {
 public:
  struct Part {
    MaskPointer<T> mask;
    Index row = 0, col = 0;
  };
  // border_count > 0: rows and columns below it have these weights, in the order of Entries::border.
  explicit CompositionSource(std::vector<Part> parts, T factor = T(1), Index border_count = 0, std::vector<T> border = {})
      : parts_(std::move(parts)), factor_(factor), count_(border_count), border_(std::move(border)) {
    for (const Part& p : parts_) {
      entries_.push_back(p.mask->entries());
      offsets_.push_back(inner_size_);
      inner_size_ += p.mask->entries_gradient_size();
    }
  }
  // The parts' scratch, one for the factor, three for the border.
  Index scratch_size() const { return inner_size_ + 4; }
  Index inner_size() const { return inner_size_; }
  Index offset(std::size_t part) const { return offsets_[part]; }

  void fill(Index row0, Index rows, Index col0, Index cols, T* out, Index stride) const override {
    for (Index i = 0; i < rows; ++i) std::fill_n(out + i * stride, cols, T(0));
    std::vector<T> tile(static_cast<std::size_t>(rows * cols));
    over_parts(row0, rows, col0, cols, [&](std::size_t k, Index i0, Index ni, Index j0, Index nj) {
      const Part& p = parts_[k];
      fill_tile(entries_[k], i0 - p.row, ni, j0 - p.col, nj, tile.data(), nj);
      for (Index i = 0; i < ni; ++i) {
        T* to = out + (i0 - row0 + i) * stride + (j0 - col0);
        for (Index j = 0; j < nj; ++j) to[j] += factor_ * tile[static_cast<std::size_t>(i * nj + j)];
      }
    });
    over_border(row0, rows, col0, cols, [&](Index i, Index j, std::size_t which) { out[i * stride + j] = border_[which]; });
  }
  void add_gradient(Index row0, Index rows, Index col0, Index cols, const T* bar, Index stride, T* out) const override {
    std::vector<T> tile(static_cast<std::size_t>(rows * cols)), entry(tile.size());
    over_parts(row0, rows, col0, cols, [&](std::size_t k, Index i0, Index ni, Index j0, Index nj) {
      const Part& p = parts_[k];
      fill_tile(entries_[k], i0 - p.row, ni, j0 - p.col, nj, entry.data(), nj);
      for (Index i = 0; i < ni; ++i) {
        const T* from = bar + (i0 - row0 + i) * stride + (j0 - col0);
        T sum = 0;
        for (Index j = 0; j < nj; ++j) {
          const auto at = static_cast<std::size_t>(i * nj + j);
          tile[at] = factor_ * from[j];
          sum += entry[at] * from[j];
        }
        out[inner_size_] += sum;
      }
      add_tile_gradient(entries_[k], i0 - p.row, ni, j0 - p.col, nj, tile.data(), nj,
                        p.mask->entries_gradient(out + offsets_[k]));
    });
    over_border(row0, rows, col0, cols, [&](Index i, Index j, std::size_t which) {
      out[inner_size_ + 1 + static_cast<Index>(which)] += bar[i * stride + j];
    });
  }

 private:
  // f(part, i0, ni, j0, nj): what a tile shares with a part.
  template <class F>
  void over_parts(Index row0, Index rows, Index col0, Index cols, const F& f) const {
    for (std::size_t k = 0; k < parts_.size(); ++k) {
      const Index i0 = std::max(row0, parts_[k].row), i1 = std::min(row0 + rows, parts_[k].row + entries_[k].rows);
      const Index j0 = std::max(col0, parts_[k].col), j1 = std::min(col0 + cols, parts_[k].col + entries_[k].cols);
      if (i0 < i1 && j0 < j1) f(k, i0, i1 - i0, j0, j1 - j0);
    }
  }
  template <class F>
  void over_border(Index row0, Index rows, Index col0, Index cols, const F& f) const {
    if (row0 >= count_ && col0 >= count_) return;
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < (row0 + i < count_ ? cols : std::min(cols, count_ - col0)); ++j) {
        f(i, j, row0 + i < count_ ? (col0 + j < count_ ? std::size_t{2} : std::size_t{0}) : std::size_t{1});
      }
    }
  }

  std::vector<Part> parts_;
  std::vector<Entries<T>> entries_;
  std::vector<Index> offsets_;
  Index inner_size_ = 0;
  T factor_;
  Index count_;
  std::vector<T> border_;
};

template <class T>
Entries<T> source_entries(const CompositionSource<T>& source, Index rows, Index cols) {
  Entries<T> e;
  e.kind = EntryKind::source;
  e.rows = rows;
  e.cols = cols;
  e.source = &source;
  e.parameter_count = source.scratch_size();
  return e;
}

// ---- parameters ------------------------------------------------------------------------------------------------------

template <class T, class B>
Index parameter_count(const MaskPointer<T, B>& mask) {
  return static_cast<Index>(mask->parameters().size());
}
// The next parameters of `all` as a mask; `at` moves on. A mask without parameters is shared as it is.
template <class T, class B>
MaskPointer<T, B> next_mask(const MaskPointer<T, B>& mask, std::span<const double> all, std::size_t& at) {
  const std::size_t count = mask->parameters().size();
  at += count;
  return count == 0 ? mask : mask->with_parameters(all.subspan(at - count, count));
}
inline void check_count(std::span<const double> parameters, std::size_t expected) {
  if (parameters.size() != expected) {
    throw ShapeError("parameters", static_cast<Index>(parameters.size()), static_cast<Index>(expected));
  }
}
inline void check_finite(const std::string& what, double value) {
  if (!std::isfinite(value)) throw ValueError(what + " is not finite");
}
template <class T, class B>
void append_parameters(const MaskPointer<T, B>& mask, std::vector<double>& all) {
  const auto p = mask->parameters();
  all.insert(all.end(), p.begin(), p.end());
}
// The mask itself, never null: arguments of a base class are evaluated in any order, each checks for itself.
template <class T, class B>
const Mask<T, B>& checked(const MaskPointer<T, B>& mask) {
  if (mask == nullptr) throw ValueError("a mask made of masks got none (null pointer)");
  return *mask;
}

// ---- reports ---------------------------------------------------------------------------------------------------------

// The inner mask's engines for a shape, the one it chooses first; none where its options leave it no engine.
template <class T, class B>
std::vector<Report> choices(const MaskPointer<T, B>& mask, Shape shape) {
  try {
    return mask->engines(shape);
  } catch (const ValueError&) {
    return {};
  }
}
// The first of them alone: what it chooses.
inline std::vector<Report> first_of(std::vector<Report> all) {
  if (all.size() > 1) all.erase(all.begin() + 1, all.end());
  return all;
}
template <class T, class B>
std::vector<Report> chosen(const MaskPointer<T, B>& mask, Shape shape) {
  return first_of(choices<T, B>(mask, shape));
}
// The name of the tile engine of a mask around one with these engines. It must not depend on what is cheapest: a name that a
// report lists for one shape is then known for every other.
inline std::string tile_engine_name(const std::vector<Report>& inner) {
  const bool dense = std::any_of(inner.begin(), inner.end(), [](const Report& r) { return r.engine == "dense"; });
  return dense ? "dense" : "direct";
}
// The engines of masks that run one after the other, as one; empty where one of them has none.
template <class T, class B>
std::vector<Report> chosen_together(const std::vector<MaskPointer<T, B>>& masks, Shape shape) {
  Report all;
  std::vector<std::string> names;
  Certificate bound;
  bool certified = false;
  all.row_wise = true;
  const auto take_larger = [](std::optional<double>& to, const std::optional<double>& from, bool first) {
    if (first || (to && from)) {
      to = first ? from : std::optional<double>(std::max(*to, *from));
    } else {
      to.reset();
    }
  };
  for (const auto& mask : masks) {
    const auto one = chosen<T, B>(mask, shape);
    if (one.empty()) return {};
    const Report& r = one.front();
    if (std::find(names.begin(), names.end(), r.engine) == names.end()) names.push_back(r.engine);
    if (r.certificate) {
      take_larger(bound.row, r.certificate->row, !certified);
      take_larger(bound.entry, r.certificate->entry, !certified);
      take_larger(bound.pointwise, r.certificate->pointwise, !certified);
      take_larger(bound.norm, r.certificate->norm, !certified);
      bound.estimated = bound.estimated || r.certificate->estimated;
      certified = true;
    }
    all.terms = std::max(all.terms, r.terms);
    all.rounding_estimate = std::max(all.rounding_estimate, r.rounding_estimate);
    all.predicted_seconds += r.predicted_seconds;
    all.flops += r.flops;
    all.bytes += r.bytes;
    all.extra_bytes = std::max(all.extra_bytes, r.extra_bytes);
    all.row_wise = all.row_wise && r.row_wise;
    all.warnings.insert(all.warnings.end(), r.warnings.begin(), r.warnings.end());
  }
  if (certified) all.certificate = bound;
  for (const auto& n : names) all.engine += (all.engine.empty() ? "" : "+") + n;
  all.reason = "what each of " + std::to_string(masks.size()) + " masks chooses";
  return {all};
}
// Candidates of a mask whose parts choose `parts` and whose own tile engine would be `tiles`: tiles replace parts that would
// run on tiles anyway, in one pass; otherwise both are offered. A part whose engine the caller forced keeps it.
inline std::vector<Report> with_tiles(std::vector<Report> parts, Report tiles, bool forced) {
  if (parts.empty()) return forced ? std::vector<Report>() : std::vector<Report>{std::move(tiles)};
  if (is_tile_engine(parts.front().engine)) return {std::move(tiles)};
  if (!forced) parts.push_back(std::move(tiles));
  return parts;
}

}  // namespace espalier
