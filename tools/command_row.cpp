// espalier row: one row of a mask by the library's own product, as numbers or as a picture.
// SPDX-License-Identifier: Apache-2.0
#include "command.hpp"
#include "mask_flags.hpp"
#include "pictures.hpp"

#include <cmath>
#include <cstdio>

namespace espalier::tools {

namespace {

void add_flags(Flags& flags) {
  flags.value("row", "i", "number of the row; on grids also i1,i2,...");
  flags.value("output", "R.npy|R.png", "the row, or a picture of it");
  flags.value("coordinates", "XY.npy|XY.mtx", "places of a graph's nodes, for its picture");
  flags.toggle("log-colour", "colours by the logarithm of the absolute value");
  flags.value("size", "L", "number of rows of a mask without a size of its own");
  flags.optional_value("causal", "top-left", "zero the entries with j > i, after the border");
  add_mask_flags(flags, false);
}

// "5", or "3,4" on a grid: the row's number in the whole mask.
Index row_number(const std::string& text, const std::vector<Index>& grid, Index border, Index rows, const std::string& mask) {
  std::vector<Index> numbers;
  for (std::size_t at = 0;;) {
    const auto comma = text.find(',', at);
    numbers.push_back(integer_from(text.substr(at, comma == std::string::npos ? comma : comma - at), "row"));
    if (comma == std::string::npos) break;
    at = comma + 1;
  }
  Index row = numbers[0];
  if (numbers.size() > 1) {
    if (numbers.size() != grid.size()) {
      throw FlagError("row", text + ": " + std::to_string(numbers.size()) + " numbers (expected " +
                                 (grid.empty() ? "one" : "one or " + std::to_string(grid.size())) + " for " + mask + ")");
    }
    row = 0;
    for (std::size_t d = 0; d < grid.size(); ++d) {
      if (numbers[d] < 0 || numbers[d] >= grid[d]) {
        throw FlagError("row", text + ": " + std::to_string(numbers[d]) + " (expected 0 .. " + std::to_string(grid[d] - 1) +
                                   " in dimension " + std::to_string(d) + " of " + mask + ")");
      }
      row = row * grid[d] + numbers[d];
    }
    row += border;
  }
  if (row < 0 || row >= rows) {
    throw FlagError("row", text + " (expected 0 .. " + std::to_string(rows - 1) + " for " + mask + ")");
  }
  return row;
}

std::vector<double> read_coordinates(const Run& run, const std::string& path, Index nodes) {
  MatrixFile m;
  if (name_without_gz(path).ends_with(".mtx")) {
    m = parse_matrix_market_array(run.inputs.text("coordinates", path), path);
  } else {
    const NpyArray a = run.inputs.array("coordinates", path);
    if (!a.is_floating() || a.shape.size() != 2) {
      throw FormatError(path, 0, name_of(a.type) + " of shape " + shape_text(a.shape) + " (expected floats, [nodes, 2])");
    }
    m = {a.shape[0], a.shape[1], convert<double>(a)};
  }
  if (m.rows != nodes || m.cols != 2) {
    throw FormatError(path, 0,
                      "shape " + shape_text({m.rows, m.cols}) + " (expected " + shape_text({nodes, 2}) + ", a place a node)");
  }
  for (const double v : m.values) {
    if (!std::isfinite(v)) throw FormatError(path, 0, "a coordinate is not finite");
  }
  return m.values;
}

template <class T>
Image draw(const BuiltMask<T>& mask, const std::vector<T>& row, const std::vector<double>& coordinates, PictureStyle style) {
  // Extra tokens have no place in the picture.
  const std::vector<double> values(row.begin() + mask.border, row.end());
  const MaskSources& s = mask.sources;
  if (s.graph) return graph_picture(values, *s.graph, coordinates, style);
  if (s.tree) return tree_picture(values, *s.tree, style);
  if (s.grid.size() == 2 || s.grid.size() == 3) return heat_picture(values, s.grid, style);
  return curve_picture(values, style);
}

template <class T>
void write_row(Run& run, const std::string& path, Precision precision) {
  const bool picture = path.ends_with(".png");
  PictureStyle style;
  if (picture) style.log_colour = run.flags.on("log-colour");
  const std::string text = run.flags.required("row", "the number of a row");
  const auto causal = run.flags.text("causal");
  if (causal && *causal != "top-left")
    throw FlagError("causal", "'" + *causal + "' (expected --causal alone: j > i is zeroed)");
  MaskRequest request;
  const Index size = run.flags.integer("size", 1, kMostSize).value_or(0);
  request.size = {size, size};
  request.square = true;
  request.wrapped = causal.has_value();
  if (causal) request.causal_shift = 0;
  BuiltMask<T> mask = build_mask<T>(run, request);
  std::vector<double> coordinates;
  if (picture) {
    if (mask.heads.size() > 1)
      throw FlagError("output", path + ": no picture of one mask a head (expected a name ending in .npy)");
    if (mask.sources.graph) {
      const auto file = run.flags.text("coordinates");
      if (!file) throw FlagError("coordinates", "is missing (expected the places of the graph's nodes, for its picture)");
      coordinates = read_coordinates(run, *file, mask.sources.graph->nodes);
    } else if (mask.sources.grid.size() > 3) {
      throw FlagError("output", path + ": no picture of a grid of more than 3 dimensions (expected a name ending in .npy)");
    }
  }
  const Index i = row_number(text, mask.sources.grid, mask.border, mask.rows(), mask.text);
  run.flags.check_all_used();
  if (causal) make_causal(run, mask, 0);
  const Index rows = mask.rows(), cols = mask.cols();
  const auto heads = static_cast<Index>(mask.heads.size());
  const Shape shape{.columns = 1, .rank = 0, .heads = 1};
  Report chosen = chosen_engine(run, mask, shape);
  std::vector<T> unit(static_cast<std::size_t>(rows)), row(static_cast<std::size_t>(heads * cols));
  unit[static_cast<std::size_t>(i)] = T(1);
  const Context<Cpu> context = run.context();
  run.timed("apply", [&] {
    for (Index h = 0; h < heads; ++h) {
      mask.heads[static_cast<std::size_t>(h)]->multiply_transpose(MatrixView<const T>(unit.data(), rows, 1),
                                                                  MatrixView<T>(row.data() + h * cols, cols, 1), context);
    }
  });
  std::string bytes;
  if (picture) {
    bytes = encode_png(draw(mask, row, coordinates, style));
    run.outputs.fill(path, [&bytes](WholeFile& file) { file.write(bytes); });
  } else {
    const bool per_head =
        heads > 1 || (!mask.sources.grid.empty() && mask.sources.table_shape.size() > mask.sources.grid.size());
    run.outputs.fill_npy(path, per_head ? std::vector<Index>{heads, cols} : std::vector<Index>{cols}, row.data());
  }
  take_bounds(mask.heads[0]->engines(shape), chosen);
  run.describe(chosen, listed_engines(run, mask, shape), heads);
  run.report["mask"] = mask.text;
  run.report["size"] = rows == cols ? nlohmann::json(rows) : nlohmann::json({rows, cols});
  run.report["columns"] = 1;
  run.report["type"] = precision == Precision::single ? "float" : "double";
  run.report["tolerance"] = run.tolerance(precision);
  char line[200];
  std::snprintf(line, sizeof(line), "%s: L = %td, row %td, %.3g s, %s", chosen.engine.c_str(), rows, i,
                run.report["seconds_apply"].get<double>(), certificate_text(chosen).c_str());
  run.finish(line);
}

void run_row(Run& run) {
  (void)run.flags.required("mask", "a mask, for example grid:14x14");
  const std::string path = run.flags.required("output", "R.npy or R.png");
  if (!path.ends_with(".npy") && !path.ends_with(".png")) {
    throw FlagError("output", path + ": unknown kind of file (expected a name ending in .npy or .png)");
  }
  run.outputs.reserve("output", path);
  // Without an input the numbers are double unless asked otherwise.
  if (run.flags.text("type").value_or("double") == "float") {
    write_row<float>(run, path, Precision::single);
  } else {
    write_row<double>(run, path, Precision::twofold);
  }
}

}  // namespace

Command row_command() {
  return {"row", "one row of a mask, as numbers or as a picture",
          "  espalier row --mask grid:64x64 --function 'exp(-0.1*d)' --row 32,32 --output row.png\n"
          "  espalier row --mask graph:roads.mtx --time 14 --row 0 --coordinates xy.mtx --log-colour --output heat.png\n"
          "  espalier row --mask tree:taxa.nwk --function 'exp(-d)' --row 7 --output row.npy",
          add_flags, run_row};
}

}  // namespace espalier::tools
