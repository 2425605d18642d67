// Gradients of products with a nested far field on the host.
// SPDX-License-Identifier: Apache-2.0
//
// With S_ij = a_i . b_j and W_ij = y_bar_i . x_j + r_bar_i:
//   a_bar_i = sum_j M_ij W_ij b_j     b_bar_j = sum_i M_ij W_ij a_i     x_bar_j = sum_i M_ij S_ij y_bar_i
// Near pairs: all three from tiles whose scores and W are computed once. Far pairs: lane (r, k) of the moments of sources is
// b_jr x_jk, and of those of rows a_ir y_bar_ik. The first, coupled, give a_bar_ir = sum_k T_i[r, k] y_bar_ik; the second give
// both others, b_bar_jr = sum_k T_j[r, k] x_jk and x_bar_jk = sum_r T_j[r, k] b_jr: two passes where three products would take
// three, each lane of T in registers only. What r_bar adds is a plain product of m columns each way.
#include "backend/block_product.hpp"
#include "backend/cpu/patch_call.hpp"
#include "backend/cpu/progress_part.hpp"
#include "backend/elementwise.hpp"
#include "backend/patches.hpp"
#include "backend/tiles.hpp"

#include <algorithm>
#include <vector>

namespace espalier::backend {

namespace {

// One call with everything in patch order; rows are padded to whole blocks, the padding is zero. Gradients not wanted and
// cotangents not given are empty. Gradients are added to.
template <class T>
struct PatchGradients {
  const PatchedGrid<T>* grid;
  MatrixView<const T, Cpu> a, b, x, y_bar;
  VectorView<const T, Cpu> r_bar;
  MatrixView<T, Cpu> a_bar, b_bar, x_bar;
};

// Scratch of one worker, in elements.
template <class T>
struct Scratch {
  Index size = 0;
  Index basis, weighted, a_bar, b_bar, x_bar;
  Scratch(const PatchGradients<T>& call, Index panel) {
    const PatchedGrid<T>& grid = *call.grid;
    const Index points = count(grid.patch), most = grid.levels.empty() ? 0 : grid.levels.front().basis;
    basis = take(points * most);
    weighted = take(points * most * panel);
    a_bar = take(call.a_bar ? points * call.a.cols : 0);
    b_bar = take(call.b_bar ? longest_run(grid) * call.b.cols : 0);
    x_bar = take(call.x_bar ? longest_run(grid) * call.x.cols : 0);
  }
  Index take(Index n) {
    const Index at = size;
    size += align_elements<T>(n + kBlockPadding);
    return at;
  }
};

// ---- near pairs --------------------------------------------------------------------------------------------------------

// Leaves whose runs of one sort are done one after the other, by one worker.
using LeafTask = std::vector<Index>;
// Tasks that write apart, so that they may run at the same time; sums come in the order of phases, which no thread changes.
struct NearPhase {
  Near sort;
  std::vector<LeafTask> tasks;
};

template <class T>
std::vector<NearPhase> near_phases(const PatchedGrid<T>& grid) {
  const Axes patches = leaf_patches(grid);
  std::vector<NearPhase> phases;
  if (grid.cross) {
    // Rows of leaves meet themselves alone, and so do columns of leaves.
    NearPhase rows{Near::level_row, std::vector<LeafTask>(static_cast<std::size_t>(patches[1]))},
        columns{Near::level_column, std::vector<LeafTask>(static_cast<std::size_t>(patches[2]))};
    for (Index leaf = 0; leaf < count(patches); ++leaf) {
      const Axes at = place(leaf, patches);
      rows.tasks[static_cast<std::size_t>(at[1])].push_back(leaf);
      columns.tasks[static_cast<std::size_t>(at[2])].push_back(leaf);
    }
    phases.push_back(std::move(rows));
    phases.push_back(std::move(columns));
  }
  // Leaves three apart along some axis have no neighbour in common.
  for (Index colour = 0; colour < 27; ++colour) {
    NearPhase phase{Near::neighbour, {}};
    for (Index leaf = 0; leaf < count(patches); ++leaf) {
      const Axes at = place(leaf, patches);
      if (flat({at[0] % 3, at[1] % 3, at[2] % 3}, {3, 3, 3}) == colour) phase.tasks.push_back({leaf});
    }
    if (!phase.tasks.empty()) phases.push_back(std::move(phase));
  }
  return phases;
}

template <class T>
void near_run(const PatchGradients<T>& call, Index leaf, Index from, Index last, const Scratch<T>& at, T* mine,
              const Context<Cpu>& inner) {
  const Index i0 = call.grid->begin(leaf), ni = call.grid->points(leaf), j0 = call.grid->begin(from),
              nj = call.grid->begin(last + 1) - j0;
  const auto rows = [&](auto view) { return view ? view.row_range(i0, ni) : view; };
  const auto sources = [&](auto view) { return view ? view.row_range(j0, nj) : view; };
  const auto scratch = [&](MatrixView<T, Cpu> like, Index place, Index n) {
    return like ? MatrixView<T, Cpu>(mine + place, n, like.cols) : MatrixView<T, Cpu>();
  };
  const LowRankGradients<T, Cpu> to{
      scratch(call.a_bar, at.a_bar, ni), scratch(call.b_bar, at.b_bar, nj), scratch(call.x_bar, at.x_bar, nj), {}};
  VectorView<const T, Cpu> r_bar;
  if (call.r_bar) r_bar = {call.r_bar.data + i0, ni};
  tile_low_rank_vjp<T, Cpu>(near_entries(*call.grid, false, leaf, from, last), {rows(call.a), sources(call.b), sources(call.x)},
                            {rows(call.y_bar), r_bar}, to, {}, 0, inner);
  const auto add = [](MatrixView<T, Cpu> part, MatrixView<T, Cpu> whole, Index begin) {
    if (part) add_rows(part.data, part.row_stride, part.rows, part.cols, whole.row(begin), whole.row_stride);
  };
  add(to.a, call.a_bar, i0);
  add(to.b, call.b_bar, j0);
  add(to.x, call.x_bar, j0);
}

template <class T>
void near_gradients(const PatchGradients<T>& call, const Scratch<T>& at, T* scratch, const Context<Cpu>& context) {
  const Context<Cpu> inner = within_task(context);
  const std::vector<NearPhase> phases = near_phases(*call.grid);
  const auto all = static_cast<double>(phases.size());
  for (std::size_t p = 0; p < phases.size(); ++p) {
    const NearPhase& phase = phases[p];
    const ProgressPart part(context, static_cast<double>(p) / all, static_cast<double>(p + 1) / all);
    parallel_for(
        part.context(), static_cast<Index>(phase.tasks.size()),
        [&](Index task, int worker) {
          for (const Index leaf : phase.tasks[static_cast<std::size_t>(task)]) {
            check_cancelled(context);
            visit_near(*call.grid, leaf, [&](Index from, Index last, Near sort) {
              if (sort == phase.sort) near_run(call, leaf, from, last, at, scratch + worker * at.size, inner);
            });
          }
        },
        "near tiles");
  }
}

// ---- far pairs ---------------------------------------------------------------------------------------------------------

// One way through the far field. backwards: from rows to sources, with Mᵀ.
template <class T>
struct FarWay {
  const PatchGradients<T>* call;
  bool backwards;
  Scratch<T> at;
  T* scratch;
  T* memory;  // moments and locals

  Index basis() const { return call->grid->levels.front().basis; }
  T* of(int worker) const { return scratch + worker * at.size; }
  // Basis vectors at the points of a leaf, [points, R]: for what comes in, or for what is read.
  T* vectors(Index leaf, bool reads, T* mine) const {
    leaf_basis(*call->grid, leaf, reads == backwards, mine + at.basis);
    return mine + at.basis;
  }

  // Features first .. first + features - 1 times these columns come in; T is read as the file's head says.
  void panel(Index first, Index features, Index first_column, Index columns, const Context<Cpu>& context) const {
    const PatchGradients<T>& c = *call;
    const Index width = padded_width(columns), r = basis();
    const PatchPass<T> pass(*c.grid, backwards, features * width, memory);
    const MatrixView<const T, Cpu> in = backwards ? c.a : c.b, in_columns = (backwards ? c.y_bar : c.x),
                                   out_columns = backwards ? c.x : c.y_bar;
    const MatrixView<T, Cpu> dots = backwards ? c.b_bar : c.a_bar;
    const Context<Cpu> inner = within_task(context);
    const ProgressPart moments(context, 0, 0.2), couplings(context, 0.2, 0.75), locals(context, 0.75, 1);
    parallel_for(
        moments.context(), c.grid->leaves(),
        [&](Index leaf, int worker) {
          const Index i0 = c.grid->begin(leaf), n = c.grid->points(leaf);
          T* weighted = of(worker) + at.weighted;
          expand_panel<T, Cpu>({vectors(leaf, false, of(worker)), n, r}, in.columns(first, features).row_range(i0, n),
                               {weighted, n, r * features}, inner);
          block_product(r * features, columns, n, weighted, 1, r * features, in_columns.row(i0) + first_column,
                        in_columns.row_stride, pass.moments(0, leaf), width, false);
        },
        "far field");
    pass.run(couplings.context());
    parallel_for(
        locals.context(), c.grid->leaves(),
        [&](Index leaf, int worker) {
          const Index i0 = c.grid->begin(leaf);
          const T* v = vectors(leaf, true, of(worker));
          for (Index f = 0; f < features; ++f) {
            BlockReading<T> read{};
            read.rows = c.grid->points(leaf), read.cols = columns, read.depth = r;
            read.a = v, read.a_row = r, read.a_step = 1;
            read.b = pass.locals(0, leaf) + f * width, read.b_step = features * width;
            if (dots) {
              read.x = out_columns.row(i0) + first_column, read.x_step = out_columns.row_stride;
              read.dots = dots.row(i0) + first + f, read.dots_step = dots.row_stride;
            }
            if (backwards && c.x_bar) {
              read.scale = c.b.row(i0) + first + f, read.scale_step = c.b.row_stride;
              read.y = c.x_bar.row(i0) + first_column, read.y_step = c.x_bar.row_stride;
            }
            block_reading(read);
          }
        },
        "far field");
  }

  // What r_bar adds: a_bar_i += r_bar_i (M B)_i, or b_bar += Mᵀ (r_bar ∘ A). The weights go into the basis.
  void row_sums(const Context<Cpu>& context) const {
    const PatchGradients<T>& c = *call;
    const MatrixView<T, Cpu> to = backwards ? c.b_bar : c.a_bar;
    if (!c.r_bar || !to) return;
    const MatrixView<const T, Cpu> in = backwards ? c.a : c.b;
    const Index m = in.cols, width = padded_width(m), r = basis();
    const PatchPass<T> pass(*c.grid, backwards, width, memory);
    const auto weighted = [&](Index leaf, bool reads, int worker) {
      T* v = vectors(leaf, reads, of(worker));
      if (reads == backwards) return v;
      for (Index i = 0; i < c.grid->points(leaf); ++i) {
        for (Index q = 0; q < r; ++q) v[i * r + q] *= c.r_bar[c.grid->begin(leaf) + i];
      }
      return v;
    };
    parallel_for(context, c.grid->leaves(), [&](Index leaf, int worker) {
      block_product(r, m, c.grid->points(leaf), weighted(leaf, false, worker), 1, r, in.row(c.grid->begin(leaf)), in.row_stride,
                    pass.moments(0, leaf), width, false);
    });
    pass.run(context);
    parallel_for(context, c.grid->leaves(), [&](Index leaf, int worker) {
      block_product(c.grid->points(leaf), m, r, weighted(leaf, true, worker), r, 1, pass.locals(0, leaf), width,
                    to.row(c.grid->begin(leaf)), to.row_stride, true);
    });
  }
};

template <class T>
void run(const PatchGradients<T>& call, const Context<Cpu>& context) {
  const PatchedGrid<T>& grid = *call.grid;
  const Index features = call.a.cols, columns = call.y_bar ? call.x.cols : 0, block = std::min(kColumnBlock, columns);
  const Index panel = columns > 0 ? panel_features(grid, features, padded_width(block), context.scratch_bytes) : 0;
  const Index lanes = std::max(panel * padded_width(block), call.r_bar ? padded_width(features) : 0);
  const Scratch<T> at(call, panel);
  Context<Cpu> limited = context;
  limited.threads = static_cast<int>(std::min<Index>({call.grid->leaves(), thread_count(context), kMaxWorkers}));
  const Index scratch_size = at.size * limited.threads;
  Buffer<T, Cpu> memory(scratch_size + 2 * PatchPass<T>::elements(grid) * lanes + kBlockPadding);
  T* scratch = memory.data();
  const bool far = !grid.levels.empty();
  const ProgressPart near(limited, 0, far ? 0.4 : 1), far_part(limited, 0.4, 1);
  near_gradients(call, at, scratch, near.context());
  if (!far) return;
  std::vector<FarWay<T>> ways;
  if (call.a_bar) ways.push_back({&call, false, at, scratch, scratch + scratch_size});
  if (call.b_bar || call.x_bar) ways.push_back({&call, true, at, scratch, scratch + scratch_size});
  // Panels of all ways count alike, and the row sums like one.
  const Index panels = columns > 0 ? (features + panel - 1) / panel * ((columns + block - 1) / block) : 0;
  const double all = static_cast<double>(ways.size()) * static_cast<double>(panels + (call.r_bar ? 1 : 0));
  double done = 0;
  const auto step = [&](const auto& work) {
    const ProgressPart part(far_part.context(), done / all, (done + 1) / all);
    work(part.context());
    ++done;
  };
  for (const FarWay<T>& way : ways) {
    if (call.r_bar) step([&](const Context<Cpu>& c) { way.row_sums(c); });
    for (Index k = 0; k < columns; k += block) {
      for (Index r = 0; r < features; r += panel) {
        step([&](const Context<Cpu>& c) { way.panel(r, std::min(panel, features - r), k, std::min(block, columns - k), c); });
      }
    }
  }
}

}  // namespace

template <class T, class B>
void patch_low_rank_vjp(const PatchedGrid<T>& m, const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                        const LowRankGradients<T, B>& gradients, const Context<B>& context) {
  const MatrixView<const T, B> y_bar = in.x.cols > 0 ? cotangents.y : MatrixView<const T, B>{};
  const bool any = in.a.cols > 0 && (y_bar || cotangents.row_sum);
  for (const auto& out : {gradients.a, gradients.b, gradients.x}) {
    if (out && !any) fill(out, T(0), context);
  }
  if (gradients.x && !y_bar) fill(gradients.x, T(0), context);
  const bool with_x = gradients.x && y_bar;
  if (!any || (!gradients.a && !gradients.b && !with_x)) return;
  const auto own = [&](MatrixView<const T, B> view) { return view ? ordered<T>(m, view, context) : Ordered<T>(); };
  const auto result = [&](bool wanted, Index cols) { return wanted ? Ordered<T>(m, cols) : Ordered<T>(); };
  const Ordered<T> a = own(in.a), b = own(in.b), x = own(y_bar ? in.x : MatrixView<const T, B>{}), y = own(y_bar);
  const Ordered<T> a_bar = result(static_cast<bool>(gradients.a), in.a.cols),
                   b_bar = result(static_cast<bool>(gradients.b), in.b.cols), x_bar = result(with_x, in.x.cols);
  Buffer<T, Cpu> r_bar(cotangents.row_sum ? cotangents.row_sum.size : 0);
  for (Index i = 0; i < r_bar.size(); ++i) r_bar.data()[i] = cotangents.row_sum[m.index[static_cast<std::size_t>(i)]];
  PatchGradients<T> call{&m, a.view, b.view, x.view, y.view, {}, a_bar.view, b_bar.view, x_bar.view};
  if (r_bar.size() > 0) call.r_bar = {r_bar.data(), r_bar.size()};
  run(call, context);
  if (gradients.a) put_back<T>(m, a_bar.view, gradients.a, context);
  if (gradients.b) put_back<T>(m, b_bar.view, gradients.b, context);
  if (with_x) put_back<T>(m, x_bar.view, gradients.x, context);
}

#define ESPALIER_INSTANTIATE(T)                                                                                           \
  template void patch_low_rank_vjp(const PatchedGrid<T>&, const LowRankInputs<T, Cpu>&, const LowRankCotangents<T, Cpu>&, \
                                   const LowRankGradients<T, Cpu>&, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
