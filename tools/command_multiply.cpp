// espalier multiply: Y = M X.
// SPDX-License-Identifier: Apache-2.0
#include "command.hpp"
#include "mask_flags.hpp"

#include <algorithm>
#include <cstdio>

namespace espalier::tools {

namespace {

void add_flags(Flags& flags) {
  flags.value("input", "X.npy", "[L, c] or [L]; for grids also [N1, ..., Nd] or [N1, ..., Nd, c]; one mask a head: [H, L, c]");
  flags.value("output", "Y.npy", "the product, of the shape of X");
  flags.toggle("transpose", "Y = transposed M times X");
  flags.optional_value("causal", "top-left", "zero the entries with j > i, after the border");
  add_mask_flags(flags, false);
}

// How the sizes of X are read: heads x (rows x columns).
struct InputShape {
  Index heads = 1, rows = 0, columns = 1;
  std::size_t row_axis = 0;
  bool grid = false;
};

InputShape read_shape(const std::vector<Index>& shape, const std::string& path, const MaskSources& sources, Index heads,
                      Index rows, const std::string& text, Index border) {
  const std::size_t n = shape.size();
  if (heads > 1 || (n == 3 && sources.table_shape.size() > sources.grid.size() && !sources.grid.empty())) {
    if (n != 3) {
      throw ValueError(path + ": shape " + shape_text(shape) + " (expected [" + std::to_string(heads) + ", " +
                       std::to_string(rows) + ", c]: " + heads_text(sources, text) + ")");
    }
    if (shape[0] != heads) {
      throw ValueError(path + ": " + std::to_string(shape[0]) + " heads (expected " + std::to_string(heads) + ": " +
                       heads_text(sources, text) + ")");
    }
    if (shape[1] != rows) refuse_size(path, "rows", shape[1], rows, text, border);
    return {heads, rows, shape[2], 1, false};
  }
  const auto& grid = sources.grid;
  const bool first_fits = n >= 1 && shape[0] == rows && n <= 2;
  if (!first_fits && !grid.empty() && border == 0 && (n == grid.size() || n == grid.size() + 1) &&
      std::equal(grid.begin(), grid.end(), shape.begin())) {
    return {1, rows, n == grid.size() ? 1 : shape[n - 1], 0, true};
  }
  if (n != 1 && n != 2) {
    throw ValueError(path + ": shape " + shape_text(shape) + " (expected [" + std::to_string(rows) + "] or [" +
                     std::to_string(rows) + ", c] for " + text + ")");
  }
  if (shape[0] != rows) refuse_size(path, "rows", shape[0], rows, text, border);
  return {1, rows, n == 2 ? shape[1] : 1, 0, false};
}

template <class T>
void multiply(Run& run, const NpyArray& input, const std::string& in_path, const std::string& out_path, Precision precision) {
  const bool transpose = run.flags.on("transpose");
  const auto causal = run.flags.text("causal");
  if (causal && *causal != "top-left")
    throw FlagError("causal", "'" + *causal + "' (expected --causal alone: j > i is zeroed)");
  MaskRequest request;
  if (!input.shape.empty()) request.size = {input.shape[0], input.shape[0]};
  if (input.shape.size() == 3) request.size = {input.shape[1], input.shape[1]};
  request.size_file = in_path;
  request.square = true;
  request.wrapped = causal.has_value();
  if (causal) request.causal_shift = 0;
  BuiltMask<T> mask = build_mask<T>(run, request);
  run.flags.check_all_used();
  const Index x_rows = transpose ? mask.rows() : mask.cols();
  const Index y_rows = transpose ? mask.cols() : mask.rows();
  const auto heads = static_cast<Index>(mask.heads.size());
  const InputShape s = read_shape(input.shape, in_path, mask.sources, heads, x_rows, mask.text, mask.border);
  if (causal) make_causal(run, mask, 0);

  const Shape shape{.columns = s.columns, .rank = 0, .heads = 1};
  Report chosen = chosen_engine(run, mask, shape);
  const std::vector<T> x = convert<T>(input);
  std::vector<T> y(static_cast<std::size_t>(heads * y_rows * s.columns));
  const Context<Cpu> context = run.context();
  run.timed("apply", [&] {
    for (Index h = 0; h < heads; ++h) {
      const MatrixView<const T> xh(x.data() + h * x_rows * s.columns, x_rows, s.columns);
      const MatrixView<T> yh(y.data() + h * y_rows * s.columns, y_rows, s.columns);
      const auto& m = *mask.heads[static_cast<std::size_t>(h)];
      transpose ? m.multiply_transpose(xh, yh, context) : m.multiply(xh, yh, context);
    }
  });
  std::vector<Index> out_shape = input.shape;
  if (!s.grid) out_shape[s.row_axis] = y_rows;
  take_bounds(mask.heads[0]->engines(shape), chosen);
  run.describe(chosen, listed_engines(run, mask, shape), heads);
  run.report["mask"] = mask.text;
  run.report["size"] = y_rows == x_rows ? nlohmann::json(y_rows) : nlohmann::json({mask.rows(), mask.cols()});
  run.report["columns"] = s.columns;
  run.report["type"] = precision == Precision::single ? "float" : "double";
  run.report["tolerance"] = run.tolerance(precision);
  run.outputs.fill_npy(out_path, out_shape, y.data());
  char line[200];
  std::snprintf(line, sizeof(line), "%s: L = %td, %td columns, %.3g s, %s", chosen.engine.c_str(), y_rows, s.columns * heads,
                run.report["seconds_apply"].get<double>(), certificate_text(chosen).c_str());
  run.finish(line);
}

void run_multiply(Run& run) {
  const std::string in_path = run.flags.required("input", "X.npy");
  const std::string out_path = run.flags.required("output", "Y.npy");
  (void)run.flags.required("mask", "a mask, for example grid:14x14");
  run.outputs.reserve("output", out_path);
  const NpyArray input = run.inputs.floats("input", in_path);
  if (input.shape.empty()) throw FormatError(in_path, 0, "a single number (expected [L] or [L, c])");
  const Precision precision = run.precision({&input});
  if (precision == Precision::single) {
    multiply<float>(run, input, in_path, out_path, precision);
  } else {
    multiply<double>(run, input, in_path, out_path, precision);
  }
}

}  // namespace

Command multiply_command() {
  return {"multiply", "Y = M X: the product of a mask with a matrix",
          "  espalier multiply --mask grid:64x64 --function 'exp(-0.1*d)' --input x.npy --output y.npy\n"
          "  espalier multiply --mask tree:taxa.nwk --function 'exp(-d)' --input x.npy --output y.npy --report -\n"
          "  espalier multiply --mask graph:roads.mtx.gz --time 14 --input x.npy --output y.npy --tolerance 1e-4",
          add_flags, run_multiply};
}

}  // namespace espalier::tools
