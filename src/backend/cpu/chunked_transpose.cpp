// The transpose of a mask in chunk-basis form.
// SPDX-License-Identifier: Apache-2.0
#include "backend/chunked.hpp"

#include <utility>

namespace espalier::backend {

namespace {

// out Dⁿ in, transposed: in and out change places, and with them row and source. The states are put in reverse order, so that
// couplings again come from later states; a pair in reverse order turns the same way as its transpose.
template <class T>
ChunkSide<T> turned(const ChunkSide<T>& side) {
  ChunkSide<T> r = side;
  std::swap(r.row, r.source);
  const Index basis = side.basis, states = side.states;
  const auto at = [](Index k) { return static_cast<std::size_t>(k); };
  for (Index q = 0; q < states; ++q) {
    const Index to = states - 1 - q;
    r.log_decay[at(to)] = side.log_decay[at(q)];
    r.angle[at(to)] = q > 0 && side.angle[at(q - 1)] != 0 ? side.angle[at(q - 1)] : 0;
    for (Index p = 0; p < basis; ++p) {
      r.in[at(to * basis + p)] = side.out[at(p * states + q)];
      r.out[at(p * states + to)] = side.in[at(q * basis + p)];
    }
  }
  if (side.couple_start.empty()) return r;
  r.couple_start.assign(1, 0);
  r.couple_state.clear();
  r.couple_weight.clear();
  for (Index to = 0; to < states; ++to) {
    for (Index q = 0; q < states; ++q) {
      for (Index k = side.couple_start[at(q)]; k < side.couple_start[at(q + 1)]; ++k) {
        if (side.couple_state[at(k)] != states - 1 - to) continue;
        r.couple_state.push_back(states - 1 - q);
        r.couple_weight.push_back(side.couple_weight[at(k)]);
      }
    }
    r.couple_start.push_back(static_cast<Index>(r.couple_state.size()));
  }
  return r;
}

}  // namespace

template <class T>
Index transposed_near(const ChunkedToeplitz<T>& m, Index o) {
  const Index band = 2 * m.gap * m.chunk - 1, tile = 2 * m.chunk - 1;
  if (o < band) return band - 1 - o;
  const Index first = band + (o - band) / tile * tile;
  return first + tile - 1 - (o - first);
}

template <class T>
ChunkedToeplitz<T> transposed(const ChunkedToeplitz<T>& m) {
  ChunkedToeplitz<T> r = m;
  for (Index o = 0; o < static_cast<Index>(m.near.size()); ++o) {
    r.near[static_cast<std::size_t>(transposed_near(m, o))] = m.near[static_cast<std::size_t>(o)];
  }
  for (Index& n : r.exact) n = -n;
  std::swap(r.has_lower, r.has_upper);
  r.lower = turned(m.upper);
  r.upper = turned(m.lower);
  return r;
}

#define ESPALIER_INSTANTIATE(T)                                     \
  template Index transposed_near(const ChunkedToeplitz<T>&, Index); \
  template ChunkedToeplitz<T> transposed(const ChunkedToeplitz<T>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
