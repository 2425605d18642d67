// Products with a nested far field on the host.
// SPDX-License-Identifier: Apache-2.0
//
// Points are put in patch order once, so that the rows of a patch, and those of neighbouring patches along the last axis, are
// one block: near pairs are exact tiles over such blocks. The far part goes through the levels by panels of features: lane
// (r, k) of a panel is the product of feature r with column k of x, weighted by the basis vectors at the leaves. Every task
// owns what it writes and sums in an order of its own: bits do not depend on threads.
#include "backend/patches.hpp"

#include "backend/block_product.hpp"
#include "backend/cpu/patch_call.hpp"
#include "backend/cpu/progress_part.hpp"
#include "backend/elementwise.hpp"
#include "backend/tiles.hpp"

#include <algorithm>

namespace espalier::backend {

namespace {

// One product with everything in patch order; rows are padded to whole blocks (kBlockPadding), the padding is zero.
template <class T>
struct PatchCall {
  const PatchedGrid<T>* grid;
  bool transpose;
  MatrixView<const T, Cpu> a, b, x;  // a and b empty: the plain product
  MatrixView<T, Cpu> y;
  T* row_sum;  // null: not wanted
};

// Scratch of one worker, in elements.
template <class T>
struct PatchScratch {
  Index size = 0;
  Index basis, weighted, sums, y;
  PatchScratch(const PatchedGrid<T>& grid, Index panel, Index features, Index columns) {
    const Index points = count(grid.patch), most = grid.levels.empty() ? 0 : grid.levels.front().basis;
    basis = take(points * most);
    weighted = take(points * most * panel);
    sums = take(points * padded_width(std::max<Index>(1, features)));
    y = take(points * padded_width(columns));
  }
  Index take(Index n) {
    const Index at = size;
    size += align_elements<T>(n + kBlockPadding);
    return at;
  }
};

// Near pairs of one leaf: y and row sums are overwritten.
template <class T>
void near_leaf(const PatchCall<T>& call, Index leaf, T* sums, T* y, const Context<Cpu>& inner) {
  const Index i0 = call.grid->begin(leaf), ni = call.grid->points(leaf);
  bool first = true;
  visit_near(*call.grid, leaf, [&](Index from, Index last, Near) {
    const Entries<T, Cpu> e = near_entries(*call.grid, call.transpose, leaf, from, last);
    const Index j0 = call.grid->begin(from), nj = e.cols;
    const MatrixView<T, Cpu> to = first ? call.y.row_range(i0, ni) : MatrixView<T, Cpu>(y, ni, call.y.cols);
    const MatrixView<const T, Cpu> x = call.x.row_range(j0, nj);
    VectorView<T, Cpu> r;
    if (call.row_sum != nullptr) r = {first ? call.row_sum + i0 : sums, ni};
    if (call.a) {
      tile_low_rank<T, Cpu>(e, {call.a.row_range(i0, ni), call.b.row_range(j0, nj), x}, {to, r}, false, inner);
    } else {
      tile_multiply<T, Cpu>(e, x, to, false, inner);
    }
    if (!first) {
      add_rows(y, call.y.cols, ni, call.y.cols, call.y.row(i0), call.y.row_stride);
      for (Index i = 0; r && i < ni; ++i) call.row_sum[i0 + i] += sums[i];
    }
    first = false;
  });
}

// Far part of y for features first .. first + features - 1 of a and b; features 0: of the plain product.
template <class T>
void far_panel(const PatchCall<T>& call, Index first, Index features, const PatchScratch<T>& at, T* scratch, T* memory,
               const Context<Cpu>& context) {
  const Index c = call.x.cols, width = padded_width(c), basis = call.grid->levels.front().basis,
              f = std::max<Index>(1, features);
  const PatchPass<T> pass(*call.grid, call.transpose, f * width, memory);
  const Context<Cpu> inner = within_task(context);
  // [points, R f] weights of a leaf: basis vectors times features.
  const auto weights = [&](Index leaf, bool mirrored, MatrixView<const T, Cpu> from, T* mine) -> const T* {
    leaf_basis(*call.grid, leaf, mirrored, mine + at.basis);
    if (features == 0) return mine + at.basis;
    const Index n = call.grid->points(leaf);
    expand_panel<T, Cpu>({mine + at.basis, n, basis}, from.columns(first, f).row_range(call.grid->begin(leaf), n),
                         {mine + at.weighted, n, basis * f}, inner);
    return mine + at.weighted;
  };
  const ProgressPart moments(context, 0, 0.25), couplings(context, 0.25, 0.75), locals(context, 0.75, 1);
  parallel_for(
      moments.context(), call.grid->leaves(),
      [&](Index leaf, int worker) {
        const T* w = weights(leaf, !call.transpose, call.b, scratch + worker * at.size);
        block_product(basis * f, c, call.grid->points(leaf), w, 1, basis * f, call.x.row(call.grid->begin(leaf)),
                      call.x.row_stride, pass.moments(0, leaf), width, false);
      },
      "far field");
  pass.run(couplings.context());
  parallel_for(
      locals.context(), call.grid->leaves(),
      [&](Index leaf, int worker) {
        const T* w = weights(leaf, call.transpose, call.a, scratch + worker * at.size);
        block_product(call.grid->points(leaf), c, basis * f, w, basis * f, 1, pass.locals(0, leaf), width,
                      call.y.row(call.grid->begin(leaf)), call.y.row_stride, true);
      },
      "far field");
}

// Far part of the row sums, r_i += a_i . (M b)_i: one plain product with b.
template <class T>
void far_row_sums(const PatchCall<T>& call, const PatchScratch<T>& at, T* scratch, T* memory, const Context<Cpu>& context) {
  const Index m = call.a.cols, width = padded_width(m), basis = call.grid->levels.front().basis;
  const PatchPass<T> pass(*call.grid, call.transpose, width, memory);
  parallel_for(context, call.grid->leaves(), [&](Index leaf, int worker) {
    T* mine = scratch + worker * at.size;
    leaf_basis(*call.grid, leaf, !call.transpose, mine + at.basis);
    block_product(basis, m, call.grid->points(leaf), mine + at.basis, 1, basis, call.b.row(call.grid->begin(leaf)),
                  call.b.row_stride, pass.moments(0, leaf), width, false);
  });
  pass.run(context);
  parallel_for(context, call.grid->leaves(), [&](Index leaf, int worker) {
    T* mine = scratch + worker * at.size;
    T* sums = mine + at.sums;
    const Index i0 = call.grid->begin(leaf), n = call.grid->points(leaf);
    leaf_basis(*call.grid, leaf, call.transpose, mine + at.basis);
    block_product(n, m, basis, mine + at.basis, basis, 1, pass.locals(0, leaf), width, sums, width, false);
    for (Index i = 0; i < n; ++i) {
      T sum = 0;
      for (Index k = 0; k < m; ++k) sum += call.a(i0 + i, k) * sums[i * width + k];
      call.row_sum[i0 + i] += sum;
    }
  });
}

template <class T>
void run(const PatchCall<T>& call, const Context<Cpu>& context) {
  const PatchedGrid<T>& grid = *call.grid;
  const Index features = call.a.cols, width = padded_width(call.x.cols);
  const Index panel = call.a ? panel_features(grid, features, width, context.scratch_bytes) : 1;
  const Index lanes = std::max(panel * width, call.row_sum != nullptr ? padded_width(features) : 0);
  const PatchScratch<T> at(grid, panel, features, call.x.cols);
  Context<Cpu> limited = context;
  limited.threads = static_cast<int>(std::min<Index>({call.grid->leaves(), thread_count(context), kMaxWorkers}));
  const Index scratch_size = at.size * limited.threads;
  Buffer<T, Cpu> memory(scratch_size + 2 * PatchPass<T>::elements(grid) * lanes + kBlockPadding);
  T* scratch = memory.data();
  T* pass = scratch + scratch_size;
  const Context<Cpu> inner = within_task(context);
  // Near tiles, row sums, and panels of features, which take about as long as the tiles together.
  const bool far = !grid.levels.empty(), sums = far && call.row_sum != nullptr, panels = far && call.x.cols > 0;
  const double near_share = panels ? 0.5 : sums ? 0.9 : 1, sums_share = !sums ? 0 : panels ? 0.05 : 0.1;
  const ProgressPart near_part(limited, 0, near_share), sums_part(limited, near_share, panels ? near_share + sums_share : 1),
      panels_part(limited, near_share + sums_share, 1);
  parallel_for(
      near_part.context(), call.grid->leaves(),
      [&](Index leaf, int worker) {
        T* mine = scratch + worker * at.size;
        near_leaf(call, leaf, mine + at.sums, mine + at.y, inner);
      },
      "near tiles");
  if (sums) far_row_sums(call, at, scratch, pass, sums_part.context());
  if (!panels) return;
  if (!call.a) far_panel(call, 0, 0, at, scratch, pass, panels_part.context());
  for (Index r = 0; r < features; r += panel) {
    const double all = static_cast<double>(features);
    const Index last = std::min(features, r + panel);
    const ProgressPart part(panels_part.context(), static_cast<double>(r) / all, static_cast<double>(last) / all);
    far_panel(call, r, last - r, at, scratch, pass, part.context());
  }
}

// y = (M ∘ A Bᵀ) X for operands in patch order, columns of x in blocks.
template <class T>
void product(const PatchedGrid<T>& grid, bool transpose, MatrixView<const T, Cpu> a, MatrixView<const T, Cpu> b,
             MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, VectorView<T, Cpu> row_sum, const Context<Cpu>& context) {
  Ordered<T> result(grid, y.cols);
  Buffer<T, Cpu> sums(row_sum ? row_sum.size : 0);
  for (Index c = 0; c == 0 || c < x.cols; c += kColumnBlock) {
    const Index columns = std::min(kColumnBlock, x.cols - c);
    const double all = static_cast<double>(x.cols);
    const ProgressPart block(context, c == 0 ? 0 : static_cast<double>(c) / all,
                             c + columns == x.cols ? 1 : static_cast<double>(c + columns) / all);
    PatchCall<T> call{
        &grid, transpose, a, b, x.columns(c, columns), result.view.columns(c, columns), c == 0 ? sums.data() : nullptr};
    run(call, block.context());
  }
  put_back<T>(grid, result.view, y, context);
  for (Index i = 0; row_sum && i < row_sum.size; ++i) row_sum[grid.index[static_cast<std::size_t>(i)]] = sums.data()[i];
}

}  // namespace

template <class T, class B>
void patch_multiply(const PatchedGrid<T>& m, MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                    const Context<B>& context) {
  const Ordered<T> own = ordered<T>(m, x, context);
  product<T>(m, transpose, {}, {}, own.view, y, {}, context);
}

template <class T, class B>
void patch_low_rank(const PatchedGrid<T>& m, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                    const Context<B>& context) {
  if (!in.a || in.a.cols == 0) {
    fill(out.y, T(0), context);
    if (out.row_sum) fill(MatrixView<T, Cpu>(out.row_sum.data, 1, out.row_sum.size), T(0), context);
    return;
  }
  const Ordered<T> a = ordered<T>(m, in.a, context), b = ordered<T>(m, in.b, context), x = ordered<T>(m, in.x, context);
  product<T>(m, transpose, a.view, b.view, x.view, out.y, out.row_sum, context);
}

template <class T>
std::size_t patch_bytes(const PatchedGrid<T>& m, Index rank, Index columns) {
  const Index block = std::min(kColumnBlock, std::max<Index>(1, columns)), width = padded_width(block);
  const Index panel = rank > 0 ? panel_features(m, rank, width, Context<Cpu>{}.scratch_bytes) : 1;
  const Index lanes = std::max(panel * width, padded_width(rank));
  const Index workers = std::min(m.leaves(), kMaxWorkers);
  // Operands and gradients in patch order: a, b, x, y and, of gradients, one more of each.
  const Index ordered_columns = 4 * padded_width(std::max<Index>(1, columns)) + 4 * padded_width(rank);
  const Index points = count(m.patch), run = longest_run(m);
  // Gradients take more for a worker: those of a run of sources beside the leaf's own.
  const Index worker = PatchScratch<T>(m, panel, rank, block).size +
                       (rank > 0 ? run * (padded_width(rank) + padded_width(std::max<Index>(1, columns))) + 256 : 0);
  std::size_t bytes = tile_low_rank_bytes<Cpu>(points, run, rank, columns, sizeof(T)) * static_cast<std::size_t>(workers);
  bytes += static_cast<std::size_t>(workers * worker + 2 * PatchPass<T>::elements(m) * lanes + kBlockPadding +
                                    static_cast<Index>(m.index.size()) * (ordered_columns + 1)) *
           sizeof(T);
  return bytes;
}

#define ESPALIER_INSTANTIATE(T)                                                                                          \
  template void patch_multiply(const PatchedGrid<T>&, MatrixView<const T, Cpu>, MatrixView<T, Cpu>, bool,                \
                               const Context<Cpu>&);                                                                     \
  template void patch_low_rank(const PatchedGrid<T>&, const LowRankInputs<T, Cpu>&, const LowRankOutputs<T, Cpu>&, bool, \
                               const Context<Cpu>&);                                                                     \
  template std::size_t patch_bytes(const PatchedGrid<T>&, Index, Index);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
