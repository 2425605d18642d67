// Rows that see no key on a device: bits of features, then one thread a row.
// SPDX-License-Identifier: Apache-2.0
#include "backend/seen.hpp"

#include "backend/cuda/device.hpp"
#include "backend/seen_rows.hpp"

namespace espalier::backend {

namespace {

template <class T>
struct WriteWords {
  DeviceMatrix<const T> m;
  std::uint64_t* words;
  Index count;
  __device__ void operator()(Index j, Index w) const {
    const Index left = m.cols - 64 * w;
    words[j * count + w] = feature_word(&m(j, 64 * w), left < 64 ? left : Index{64});
  }
};
struct WriteBlockWords {
  const std::uint64_t* keys;
  std::uint64_t* blocks;
  Index count, rows;
  __device__ void operator()(Index block, Index w) const {
    std::uint64_t all = 0;
    for (Index j = block * 64; j < rows && j < block * 64 + 64; ++j) all |= keys[j * count + w];
    blocks[block * count + w] = all;
  }
};
template <class T>
struct ClearUnseen {
  SeenGrid grid;
  FeatureWords words;
  int direction;
  T* d;
  __device__ void operator()(Index i, Index) const {
    const T sum = d[i];
    if (!(sum - sum == T(0)) || sum == T(0)) return;  // not finite: stays
    if (!sees_key(grid, words, i, direction)) d[i] = T(0);
  }
};

}  // namespace

template <class T, class B>
void clear_unseen(const PlacedSeen<B>& seen, bool transpose, MatrixView<const T, B> a, MatrixView<const T, B> b,
                  VectorView<T, B> d, const Context<B>& context) {
  const Index count = (b.cols + 63) / 64, blocks = (b.rows + 63) / 64;
  Buffer<std::uint64_t, B> memory((2 * b.rows + blocks) * count, context);
  std::uint64_t *rows = memory.data(), *keys = rows + b.rows * count, *all = keys + b.rows * count;
  over_elements(a.rows, count, context, WriteWords<T>{on_device(a), rows, count});
  over_elements(b.rows, count, context, WriteWords<T>{on_device(b), keys, count});
  over_elements(blocks, count, context, WriteBlockWords{keys, all, count, b.rows});
  over_elements(d.size, 1, context, ClearUnseen<T>{seen.grid(), {rows, keys, all, count}, transpose ? -1 : 1, d.data});
}

#define ESPALIER_INSTANTIATE(T)                                                                                   \
  template void clear_unseen(const PlacedSeen<Cuda>&, bool, MatrixView<const T, Cuda>, MatrixView<const T, Cuda>, \
                             VectorView<T, Cuda>, const Context<Cuda>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
