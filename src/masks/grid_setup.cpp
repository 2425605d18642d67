// GridMask on the host: sizes, keys, tables from functions, and its command-line form.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/form.hpp>

#include "core/number_text.hpp"
#include "masks/grid_table.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>

namespace espalier {

Index grid_length(const std::vector<Index>& sizes) {
  if (sizes.empty()) throw ValueError("GridMask: no sizes, expected at least one");
  constexpr Index kKeys = std::numeric_limits<std::int32_t>::max();
  Index length = 1, table = 1;
  for (std::size_t t = 0; t < sizes.size(); ++t) {
    const Index n = sizes[t];
    if (n < 1) throw ValueError("GridMask: size " + std::to_string(t) + " is " + std::to_string(n) + ", expected at least 1");
    // n is tested alone first: 2 n - 1 must not overflow either.
    if (n > kKeys || 2 * n - 1 > kKeys / table) {
      throw ValueError("GridMask: the table of offsets would have more than 2^31 - 1 entries; use smaller sizes");
    }
    length *= n;
    table *= 2 * n - 1;
  }
  return length;
}

Index grid_table_size(const std::vector<Index>& sizes) {
  Index size = 1;
  for (const Index n : sizes) size *= 2 * n - 1;
  return size;
}

GridKeys grid_keys(const std::vector<Index>& sizes) {
  const Index length = grid_length(sizes), centre = (grid_table_size(sizes) - 1) / 2;
  GridKeys keys;
  keys.row.resize(static_cast<std::size_t>(length));
  keys.column.resize(static_cast<std::size_t>(length));
  std::vector<Index> at(sizes.size(), 0);
  for (std::size_t i = 0; i < keys.row.size(); ++i) {
    Index key = 0;
    for (std::size_t t = 0; t < sizes.size(); ++t) key = key * (2 * sizes[t] - 1) + at[t];
    keys.column[i] = static_cast<std::int32_t>(key);
    keys.row[i] = static_cast<std::int32_t>(key + centre);
    for (std::size_t t = sizes.size(); t-- > 0;) {
      if (++at[t] < sizes[t]) break;
      at[t] = 0;
    }
  }
  return keys;
}

namespace {

// Offsets of equal distance form a class, so that f (perhaps a slow expression) is called once a class: by the integer
// distance (l1, max), by the absolute offset (l2), by the offset itself.
struct DistanceClasses {
  std::vector<double> distance;
};

DistanceClasses distance_classes(const std::vector<Index>& sizes, Distance distance) {
  DistanceClasses c;
  Index sum = 0, largest = 0;
  for (const Index n : sizes) sum += n - 1, largest = std::max(largest, n - 1);
  const auto count_up = [&](Index first, Index last) {
    for (Index d = first; d <= last; ++d) c.distance.push_back(static_cast<double>(d));
  };
  if (distance == Distance::l1) count_up(0, sum);
  if (distance == Distance::max) count_up(0, largest);
  if (distance == Distance::offset) count_up(1 - sizes[0], sizes[0] - 1);
  if (distance != Distance::l2) return c;
  std::vector<Index> at(sizes.size(), 0);
  for (Index k = grid_length(sizes); k > 0; --k) {
    double square = 0;
    for (const Index a : at) square += static_cast<double>(a) * static_cast<double>(a);
    c.distance.push_back(std::sqrt(square));
    for (std::size_t t = sizes.size(); t-- > 0;) {
      if (++at[t] < sizes[t]) break;
      at[t] = 0;
    }
  }
  return c;
}

// Calls visit(position in the table, class) for the offsets that are kept.
template <class F>
void for_each_offset(const std::vector<Index>& sizes, Distance distance, bool causal, const F& visit) {
  const Index size = grid_table_size(sizes), centre = (size - 1) / 2;
  std::vector<Index> o;
  o.reserve(sizes.size());
  for (const Index n : sizes) o.push_back(1 - n);
  for (Index position = 0; position < size; ++position) {
    if (!causal || position >= centre) {
      Index sum = 0, largest = 0, corner = 0;
      for (std::size_t t = 0; t < sizes.size(); ++t) {
        const Index a = o[t] < 0 ? -o[t] : o[t];
        sum += a, largest = std::max(largest, a), corner = corner * sizes[t] + a;
      }
      const Index by[] = {sum, corner, largest, o[0] + sizes[0] - 1};
      visit(static_cast<std::size_t>(position), static_cast<std::size_t>(by[static_cast<int>(distance)]));
    }
    for (std::size_t t = sizes.size(); t-- > 0;) {
      if (++o[t] < sizes[t]) break;
      o[t] = 1 - sizes[t];
    }
  }
}
static_assert(static_cast<int>(Distance::l1) == 0 && static_cast<int>(Distance::l2) == 1 &&
              static_cast<int>(Distance::max) == 2 && static_cast<int>(Distance::offset) == 3);

}  // namespace

std::vector<double> grid_function_table(const std::vector<Index>& sizes, const DistanceFunction& f, Distance distance,
                                        bool causal) {
  if (distance == Distance::offset && sizes.size() != 1) {
    throw ValueError("GridMask: the distance 'offset' is for one axis, got " + std::to_string(sizes.size()) +
                     "; use l1, l2, max or a table");
  }
  const DistanceClasses classes = distance_classes(sizes, distance);
  std::vector<double> value(classes.distance.size());
  std::vector<bool> known(value.size(), false);
  std::vector<double> table(static_cast<std::size_t>(grid_table_size(sizes)), 0.0);
  for_each_offset(sizes, distance, causal, [&](std::size_t position, std::size_t c) {
    if (!known[c]) {
      value[c] = f(classes.distance[c]);
      known[c] = true;
      if (!std::isfinite(value[c])) {
        throw FunctionError(f.name(), "not finite at the distance " + number_text(classes.distance[c]));
      }
    }
    table[position] = value[c];
  });
  return table;
}

GridClasses grid_classes(const std::vector<Index>& sizes, Distance distance, bool causal) {
  GridClasses classes{distance_classes(sizes, distance).distance, {}};
  // Sorted by class in two passes: counts, then places.
  std::vector<std::int32_t>& start = classes.offsets.start;
  start.assign(classes.distance.size() + 1, 0);
  for_each_offset(sizes, distance, causal, [&](std::size_t, std::size_t c) { ++start[c + 1]; });
  for (std::size_t c = 0; c < classes.distance.size(); ++c) start[c + 1] += start[c];
  classes.offsets.index.resize(static_cast<std::size_t>(start.back()));
  std::vector<std::int32_t> next(start.begin(), start.end() - 1);
  for_each_offset(sizes, distance, causal, [&](std::size_t position, std::size_t c) {
    classes.offsets.index[static_cast<std::size_t>(next[c]++)] = static_cast<std::int32_t>(position);
  });
  return classes;
}

backend::SumRows grid_parameter_rows(const GridClasses& classes, const DistanceFunction& f) {
  backend::SumRows rows;
  const std::size_t parameters = f.parameters().size(), count = classes.distance.size();
  const auto kept = [&](std::size_t c) { return classes.offsets.start[c] < classes.offsets.start[c + 1]; };
  const auto add = [&](std::size_t c, double weight) {
    rows.index.push_back(static_cast<std::int32_t>(c));
    rows.weight.push_back(weight);
  };
  if (f.last_integer() >= 0) {  // a table: its parameters are its values, and classes ascend with the distance
    std::size_t c = 0;
    for (std::size_t p = 0; p < parameters; ++p) {
      for (; c < count && classes.distance[c] <= static_cast<double>(p); ++c) {
        if (kept(c)) add(c, 1);
      }
      rows.start.push_back(static_cast<std::int32_t>(rows.index.size()));
    }
    return rows;
  }
  for (std::size_t p = 0; p < parameters; ++p) {
    for (std::size_t c = 0; c < count; ++c) {
      if (kept(c)) add(c, f.derivative(p, classes.distance[c]));
    }
    rows.start.push_back(static_cast<std::int32_t>(rows.index.size()));
  }
  return rows;
}

void finish_grid_table(bool causal, std::vector<double>& table) {
  if (causal) std::fill_n(table.begin(), table.size() / 2, 0.0);
  double largest = 0;
  for (const double v : table) largest = std::max(largest, std::abs(v));
  for (double& v : table) {
    if (std::abs(v) < 1e-30 * largest) v = 0;
  }
}

backend::SeenOffsets grid_seen_offsets(const std::vector<Index>& sizes, const std::vector<double>& table) {
  std::vector<Index> kept;
  std::copy_if(sizes.begin(), sizes.end(), std::back_inserter(kept), [](Index n) { return n > 1; });
  if (kept.empty()) kept.push_back(1);
  // Runs by their start in the table, then the longest first; of equal length in the table's order.
  const Index n = kept.back(), wide = 2 * n - 1, size = static_cast<Index>(table.size());
  std::vector<std::pair<Index, Index>> runs;
  for (Index p = 0; p < size;) {
    const Index first = p, end = p - p % wide + wide;
    while (p < end && table[static_cast<std::size_t>(p)] != 0) ++p;
    if (p > first) runs.emplace_back(first, p - first);
    if (p < end) ++p;  // a 0
  }
  std::stable_sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  backend::SeenOffsets seen;
  const std::size_t axes = kept.size();
  seen.axes = static_cast<Index>(axes);
  seen.numbers.assign(2 * axes + runs.size() * (axes + 1), 1);
  for (std::size_t t = axes; t-- > 0;) {
    seen.numbers[t] = static_cast<std::int32_t>(kept[t]);
    if (t > 0) seen.numbers[axes + t - 1] = seen.numbers[axes + t] * seen.numbers[t];
  }
  std::int32_t* run = seen.numbers.data() + 2 * axes;
  for (const auto& [first, length] : runs) {
    run[axes - 1] = static_cast<std::int32_t>(first % wide - (n - 1));
    run[axes] = static_cast<std::int32_t>(run[axes - 1] + length - 1);
    Index rest = first / wide;
    for (std::size_t t = axes - 1; t-- > 0;) {
      run[t] = static_cast<std::int32_t>(rest % (2 * kept[t] - 1) - (kept[t] - 1));
      rest /= 2 * kept[t] - 1;
    }
    run += axes + 1;
  }
  return seen;
}

namespace {

SequenceValues sequence_values(const std::vector<double>& table, const std::optional<DistanceFunction>& f,
                               std::optional<Distance> distance, bool causal) {
  SequenceValues s;
  const std::size_t centre = table.size() / 2;
  s.values.lower.assign(table.begin() + static_cast<std::ptrdiff_t>(centre), table.end());
  s.values.upper.assign(table.rbegin() + static_cast<std::ptrdiff_t>(centre), table.rend());
  // An even function of a signed offset may have odd derivatives: its sides are kept apart.
  s.values.symmetric = !causal && distance != Distance::offset && s.values.lower == s.values.upper;
  const auto zero = [](const std::vector<double>& f_values) {
    return std::all_of(f_values.begin() + 1, f_values.end(), [](double v) { return v == 0; });
  };
  // A function that is 0 here (scale 0) may have derivatives that are not.
  const bool learns = f && !f->parameters().empty();
  s.values.has_upper = !causal && (learns || !zero(s.values.upper));
  s.values.has_lower = learns || !zero(s.values.lower);
  // Not looked at: 8 bytes a token.
  if (s.values.symmetric || !s.values.has_upper) s.values.upper = std::vector<double>();
  if (!f) return s;
  if (f->last_integer() < 0) s.parameters = f->parameters().size();
  s.derivative = [g = *f, sign = distance == Distance::offset](std::size_t p, Index offset) {
    return g.derivative(p, static_cast<double>(sign || offset >= 0 ? offset : -offset));
  };
  s.lower = *f;
  s.upper = *f;
  if (distance == Distance::offset) {
    s.upper = DistanceFunction(Callable{[g = *f](double d) { return g(-d); }, f->name() + " of negative offsets"});
  }
  return s;
}

}  // namespace

std::function<SequenceValues()> grid_sequence_values(const GridSource& source) {
  return [&table = source.table, &f = source.function, distance = source.distance, causal = source.causal] {
    return sequence_values(table, f, distance, causal);
  };
}

void check_grid_table(std::span<const double> table, double largest) {
  for (std::size_t p = 0; p < table.size(); ++p) {
    if (std::abs(table[p]) <= largest) continue;  // false for NaN
    throw ValueError("GridMask: table entry " + std::to_string(p) + " (row-major) is " + number_text(table[p]) +
                     ", expected a finite number within the element type");
  }
}

}  // namespace espalier

ESPALIER_MASK_FORM(grid)

namespace espalier::forms {

namespace {

std::vector<Index> parse_sizes(const std::string& text) {
  const auto fail = [&]() -> ValueError { return ValueError("grid:" + text + ": expected sizes as in grid:14x14"); };
  std::vector<Index> sizes;
  const char* at = text.data();
  const char* end = at + text.size();
  while (true) {
    Index n = 0;
    const auto [next, error] = std::from_chars(at, end, n);
    if (error != std::errc() || n < 1) throw fail();
    sizes.push_back(n);
    if (next == end) return sizes;
    if (*next != 'x') throw fail();
    at = next + 1;
  }
}

Distance parse_distance(const std::string& name) {
  if (name == "l1") return Distance::l1;
  if (name == "l2") return Distance::l2;
  if (name == "max") return Distance::max;
  if (name == "offset") return Distance::offset;
  throw ValueError("--distance: '" + name + "' (expected l1, l2, max or offset)");
}

std::string shape_text(const std::vector<Index>& shape) {
  std::string text;
  for (const Index n : shape) text += (text.empty() ? "" : " x ") + std::to_string(n);
  return text;
}

template <class T>
std::vector<MaskPointer<T>> build_grid(FormArguments& arguments) {
  const std::vector<Index> sizes = parse_sizes(arguments.operand());
  GridOptions options;
  static_cast<MaskOptions&>(options) = arguments.mask_options();
  options.causal = arguments.causal_shift().has_value();  // the mask is square: the shift is 0
  const auto table = arguments.array_flag("table");
  const auto function = arguments.function();
  if (table.has_value() == function.has_value()) {
    throw ValueError(table ? "--table: excludes --function (give one of them)"
                           : "--function: is missing (expected --function F or --table T.npy for a grid)");
  }
  if (function) {
    const Distance distance = parse_distance(arguments.text("distance").value_or("l1"));
    if (distance == Distance::offset && sizes.size() != 1) {
      throw ValueError("--distance: 'offset' is for one axis (expected l1, l2 or max for grid:" + arguments.operand() +
                       ", or --table)");
    }
    return {std::make_shared<GridMask<T>>(sizes, *function, distance, options)};
  }
  (void)grid_length(sizes);
  std::vector<Index> expected;
  expected.reserve(sizes.size());
  for (const Index n : sizes) expected.push_back(2 * n - 1);
  const bool heads = table->shape.size() == sizes.size() + 1;
  const std::vector<Index> own(table->shape.begin() + (heads ? 1 : 0), table->shape.end());
  if (own != expected) {
    throw ValueError("--table: " + *arguments.text("table") + ": " + shape_text(table->shape) + " (expected " +
                     shape_text(expected) + " for grid:" + arguments.operand() + ", or one table a head: H x " +
                     shape_text(expected) + ")");
  }
  const auto size = static_cast<std::size_t>(grid_table_size(sizes));
  std::vector<MaskPointer<T>> masks;
  for (std::size_t first = 0; first + size <= table->values.size(); first += size) {
    masks.push_back(std::make_shared<GridMask<T>>(sizes, std::span<const double>(table->values).subspan(first, size), options));
  }
  if (masks.empty()) throw ValueError("--table: " + *arguments.text("table") + ": no head (expected at least one)");
  return masks;
}

}  // namespace

MaskForm grid_form() {
  MaskForm form;
  form.kind = "grid";
  form.operand = "N1xN2x...";
  form.help = "block-Toeplitz on a grid, index order row-major: a function of the distance or a table of offsets";
  form.flags = {
      {"function", "F", "expression in d, or table:FILE.npy"},
      {"distance", "l1|l2|max|offset", "distance of the offset i - j; offset: i - j itself, one axis only (default l1)"},
      {"table", "T.npy", "entries by offset, (2N1-1) x ...; with a leading H one table a head"}};
  form.build_float = build_grid<float>;
  form.build_double = build_grid<double>;
  form.grid_sizes = [](FormArguments& arguments) { return parse_sizes(arguments.operand()); };
  return form;
}

}  // namespace espalier::forms
