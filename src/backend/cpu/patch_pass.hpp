// One pass over the patches of a far field: moments up the levels, couplings, and down again to the leaves.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/context.hpp>

#include "backend/block_product.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/cpu/progress_part.hpp"
#include "backend/patches.hpp"

#include <algorithm>
#include <string_view>

namespace espalier::backend {

// Moments (what sources give) and locals (what rows read) of every patch of every level, [R, lanes] each, for `lanes`
// independent columns, a multiple of kBlockPadding.
template <class T>
class PatchPass {
 public:
  PatchPass(const PatchedGrid<T>& grid, bool transpose, Index lanes, T* memory)
      : grid_(grid), transpose_(transpose), lanes_(lanes), moments_(memory), locals_(memory + elements(grid) * lanes) {
    Index at = 0;
    for (const PatchLevel<T>& l : grid.levels) {
      begin_.push_back(at);
      at += count(l.patches) * l.basis;
    }
  }
  // Basis vectors of all patches: moments, or locals, take this many elements a lane.
  static Index elements(const PatchedGrid<T>& grid) {
    Index n = 0;
    for (const PatchLevel<T>& l : grid.levels) n += count(l.patches) * l.basis;
    return n;
  }

  T* moments(std::size_t level, Index patch) const { return moments_ + slot(level, patch); }
  T* locals(std::size_t level, Index patch) const { return locals_ + slot(level, patch); }

  // From the leaves' moments to the leaves' locals.
  void run(const Context<Cpu>& context) const {
    const std::size_t top = grid_.levels.size() - 1;
    for (std::size_t l = 1; l <= top; ++l) over_patches(l, context, &PatchPass::gather_children);
    // Couplings take nearly all of the time, each level a quarter (or an eighth) of the one below.
    double done = 0;
    for (std::size_t l = 0; l <= top; ++l) {
      const double after = l == top ? 1 : done + 0.75 * (1 - done);
      const ProgressPart part(context, done, after);
      over_patches(l, part.context(), &PatchPass::couple, "far field");
      done = after;
    }
    for (std::size_t l = top; l > 0; --l) over_patches(l, context, &PatchPass::give_children);
  }

 private:
  Index slot(std::size_t level, Index patch) const { return (begin_[level] + patch * grid_.levels[level].basis) * lanes_; }
  void over_patches(std::size_t level, const Context<Cpu>& context, void (PatchPass::*task)(std::size_t, Index) const,
                    std::string_view phase = {}) const {
    parallel_for(
        context, count(grid_.levels[level].patches), [&](Index patch, int) { (this->*task)(level, patch); }, phase);
  }
  // visit(child's number in the level below, its transfer as rows use it, as sources do).
  template <class F>
  void visit_children(std::size_t level, Index patch, const F& visit) const {
    const PatchLevel<T>&l = grid_.levels[level], &below = grid_.levels[level - 1];
    const Axes at = place(patch, l.patches);
    const Index children = count(l.split), size = below.basis * l.basis;
    for (Index c = 0; c < children; ++c) {
      Axes child = place(c, l.split);
      bool there = true;
      for (std::size_t t = 0; t < 3; ++t) {
        child[t] += at[t] * l.split[t];
        there = there && child[t] < below.patches[t];
      }
      const T* by_row = l.transfer.data() + c * size;
      const T* by_source = l.transfer.data() + (children - 1 - c) * size;
      if (there) visit(flat(child, below.patches), transpose_ ? by_source : by_row, transpose_ ? by_row : by_source);
    }
  }

  void gather_children(std::size_t level, Index patch) const {
    const Index above = grid_.levels[level].basis, below = grid_.levels[level - 1].basis;
    bool first = true;
    visit_children(level, patch, [&](Index child, const T*, const T* by_source) {
      block_product(above, lanes_, below, by_source, 1, above, moments(level - 1, child), lanes_, moments(level, patch), lanes_,
                    !first);
      first = false;
    });
  }
  void give_children(std::size_t level, Index patch) const {
    const Index above = grid_.levels[level].basis, below = grid_.levels[level - 1].basis;
    visit_children(level, patch, [&](Index child, const T* by_row, const T*) {
      block_product(below, lanes_, above, by_row, above, 1, locals(level, patch), lanes_, locals(level - 1, child), lanes_,
                    true);
    });
  }
  void couple(std::size_t level, Index patch) const {
    const PatchLevel<T>& l = grid_.levels[level];
    const PatchLevel<T>* parent = level + 1 < grid_.levels.size() ? &grid_.levels[level + 1] : nullptr;
    const Axes at = place(patch, l.patches);
    const Index r = l.basis;
    T* to = locals(level, patch);
    bool first = true;
    for (std::size_t k = 0; k < l.offsets.size(); ++k) {
      Axes o = l.offsets[k];
      if (transpose_) o = {-o[0], -o[1], -o[2]};
      visit_source(l, parent, grid_.cross, at, o, [&](const Axes& source) {
        const T* coupling = l.coupling.data() + static_cast<Index>(k) * r * r;
        block_product(r, lanes_, r, coupling, transpose_ ? 1 : r, transpose_ ? r : 1, moments(level, flat(source, l.patches)),
                      lanes_, to, lanes_, !first);
        first = false;
      });
    }
    if (first) std::fill_n(to, r * lanes_, T(0));
  }

  const PatchedGrid<T>& grid_;
  bool transpose_;
  Index lanes_;
  T* moments_;
  T* locals_;
  std::vector<Index> begin_;
};

}  // namespace espalier::backend
