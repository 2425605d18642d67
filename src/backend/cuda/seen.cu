// Rows that see no key on a device: bits of features, then one thread a row.
// SPDX-License-Identifier: Apache-2.0
#include "backend/seen.hpp"

#include "backend/cuda/device.hpp"
#include "backend/seen_rows.hpp"

namespace espalier::backend {

namespace {

template <class T>
struct WriteKeyWords {
  DeviceMatrix<const T> b;
  std::uint64_t* keys;
  Index words;
  __device__ void operator()(Index j, Index w) const {
    const Index left = b.cols - 64 * w;
    keys[j * words + w] = feature_word(&b(j, 64 * w), left < 64 ? left : Index{64});
  }
};
struct WriteBlockWords {
  const std::uint64_t* keys;
  std::uint64_t* blocks;
  Index words, rows;
  __device__ void operator()(Index block, Index w) const {
    std::uint64_t all = 0;
    for (Index j = block * 64; j < rows && j < block * 64 + 64; ++j) all |= keys[j * words + w];
    blocks[block * words + w] = all;
  }
};
template <class T>
struct ClearUnseen {
  SeenGrid grid;
  KeyWords keys;
  int direction;
  DeviceMatrix<const T> a;
  T* d;
  __device__ void operator()(Index i, Index) const {
    const T sum = d[i];
    if (!(sum - sum == T(0)) || sum == T(0)) return;  // not finite: stays
    if (!sees_key(grid, keys, i, direction, &a(i, 0), a.cols)) d[i] = T(0);
  }
};

}  // namespace

template <class T, class B>
void clear_unseen(const PlacedSeen<B>& seen, bool transpose, MatrixView<const T, B> a, MatrixView<const T, B> b,
                  VectorView<T, B> d, const Context<B>& context) {
  const Index words = (b.cols + 63) / 64, blocks = (b.rows + 63) / 64;
  if (words == 0) return;
  Buffer<std::uint64_t, B> memory((b.rows + blocks) * words, context);
  std::uint64_t *keys = memory.data(), *all = keys + b.rows * words;
  over_elements(b.rows, words, context, WriteKeyWords<T>{on_device(b), keys, words});
  over_elements(blocks, words, context, WriteBlockWords{keys, all, words, b.rows});
  over_elements(d.size, 1, context, ClearUnseen<T>{seen.grid(), {keys, all, words}, transpose ? -1 : 1, on_device(a), d.data});
}

#define ESPALIER_INSTANTIATE(T)                                                                                   \
  template void clear_unseen(const PlacedSeen<Cuda>&, bool, MatrixView<const T, Cuda>, MatrixView<const T, Cuda>, \
                             VectorView<T, Cuda>, const Context<Cuda>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
