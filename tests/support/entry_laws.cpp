// Laws of a mask's entries by tile, and of what it says about its engines.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "support/law_run.hpp"

namespace espalier::test {

namespace {

// Calls tile(row0, rows, col0, cols) over the whole mask.
template <class F>
void over_tiles(const DenseMatrix& m, Index height, Index width, const F& tile) {
  for (Index i = 0; i < m.rows; i += height) {
    for (Index j = 0; j < m.cols; j += width) tile(i, std::min(height, m.rows - i), j, std::min(width, m.cols - j));
  }
}

template <class T>
void check_entries(LawRun<T>& run) {
  const Entries<T> e = run.mask.entries();
  if (e.kind == EntryKind::none) return;
  run.expect(e.rows == run.m.rows && e.cols == run.m.cols, "entries", "entries() has another size than the mask");
  // Single entries, tiles that do not divide the size, and the largest that a source is asked for.
  for (const auto& [height, width] : {std::pair<Index, Index>{128, 128}, {5, 3}, {1, 7}}) {
    DenseMatrix got(run.m.rows, run.m.cols);
    over_tiles(run.m, height, width, [&](Index i0, Index ni, Index j0, Index nj) {
      Guarded<T> tile(ni, nj, 2);
      fill_tile(e, i0, ni, j0, nj, tile.view().data, nj + 2);
      run.expect(tile.intact(), "entries", "fill_tile writes beside its tile");
      for (Index i = 0; i < ni; ++i) {
        for (Index j = 0; j < nj; ++j) got(i0 + i, j0 + j) = static_cast<double>(tile.view()(i, j));
      }
    });
    // A product with a unit column: the product's bound holds for entries, relative to the largest.
    const double error = largest(sum(1, got, -1, run.m)), most = largest(run.m);
    run.bound("entries", error == 0 ? 0 : error / most, run.product_bound(),
              std::to_string(height) + " x " + std::to_string(width) + " tiles");
  }
}

template <class T>
void check_entries_gradient(LawRun<T>& run) {
  const Entries<T> e = run.mask.entries();
  const Index parameters = static_cast<Index>(run.mask.parameters().size());
  if (e.kind == EntryKind::none || parameters == 0) return;
  const Guarded<T> weight = make_input<T>(run.m.rows, run.m.cols, InputKind::with_signs, 127);
  Guarded<T> scratch(1, run.mask.entries_gradient_size()), bar(1, parameters);
  scratch.set(DenseMatrix(1, run.mask.entries_gradient_size()));
  bar.set(DenseMatrix(1, parameters));
  const EntriesGradient<T> sink = run.mask.entries_gradient(scratch.view().data);
  over_tiles(run.m, 60, 37, [&](Index i0, Index ni, Index j0, Index nj) {
    add_tile_gradient(e, i0, ni, j0, nj, weight.view().row(i0) + j0, run.m.cols, sink);
  });
  run.mask.fold_entries_gradient(scratch.view().data, bar.vector(), {});
  run.expect(scratch.intact(), "bounds", "entries_gradient points outside its scratch");
  const DenseMatrix w = weight.dense();
  check_parameter_gradient(run, "entries gradient", bar.column(), {w, absolute(w)}, "over tiles");
}

template <class T>
void check_engines(LawRun<T>& run) {
  for (const Index columns : {1, 3, 33}) {
    for (const Index rank : {0, 1, 3, 33}) {
      const Shape shape{.columns = columns, .rank = rank};
      if (!run.can(shape)) continue;
      run.law("engines", [&] {
        const std::string where = describe(shape, InputKind::positive);
        const auto engines = run.mask.engines(shape);
        if (engines.empty()) return run.note("engines", where + ": none");
        double last = 0;
        for (const Report& r : engines) {
          run.expect(!r.engine.empty() && !r.reason.empty(), "engines", where + ": an engine without name or reason");
          run.expect(std::isfinite(r.predicted_seconds) && r.predicted_seconds >= last, "engines",
                     where + ": predicted seconds of " + r.engine + " not finite or not in order");
          run.expect(r.flops >= 0 && r.bytes >= 0 && r.rounding_estimate >= 0, "engines",
                     where + ": negative figures of " + r.engine);
          last = r.predicted_seconds;
        }
        const Report chosen = run.mask.report(shape), again = run.mask.report(shape);
        run.expect(chosen.engine == engines.front().engine, "engines", where + ": report() is not the first of engines()");
        run.expect(chosen.engine == again.engine && chosen.predicted_seconds == again.predicted_seconds, "engines",
                   where + ": report() differs the second time");
      });
    }
  }
}

}  // namespace

template <class T>
void check_entries_and_engines(LawRun<T>& run) {
  run.law("entries", [&] { check_entries(run); });
  run.law("entries gradient", [&] { check_entries_gradient(run); });
  check_engines(run);
}

template void check_entries_and_engines(LawRun<float>&);
template void check_entries_and_engines(LawRun<double>&);

}  // namespace espalier::test
