// Products by state on the host: groups of rows on threads, blocks of 64 rows in the register tile.
// SPDX-License-Identifier: Apache-2.0
#include "backend/state_products.hpp"

#include "backend/block_product.hpp"
#include "backend/cpu/parallel.hpp"
#include "backend/elementwise.hpp"

#include <algorithm>
#include <type_traits>

namespace espalier::backend {

namespace {

// Rows of a chunk: its own pairs cost 32 (m + c) multiply-adds a row, the state 2 m c; at m = c = 64 a third of the whole.
constexpr Index kChunk = 64;
// Rows of a chunk that are computed together: pairs above their diagonal are left out.
constexpr Index kStrip = 16;
constexpr Index kMaxGroups = 16;
constexpr Index kMinGroup = 8 * kChunk;

Index floor_divide(Index a, Index b) {
  return a >= 0 ? a / b : -((b - 1 - a) / b);
}

// Queries and keys on one axis t: query i at t = i, key j at t = j - shift; a query sees the keys at or before it. Groups are
// [first + g, first + g + 1) * length; t = 0 is always a border, so that with all pairs allowed keys and queries lie in groups
// of their own.
struct Axis {
  Index rows, cols, shift, first, count, length;

  Axis(Index rows_, Index cols_, Index wanted_shift, Index state_size) : rows(rows_), cols(cols_) {
    // Beyond these nothing changes: all pairs, or none.
    shift = wanted_shift >= cols - 1 ? cols : std::max(wanted_shift, -rows);
    const Index low = std::min<Index>(0, -shift), high = std::max(rows, cols - shift);
    // Groups' states together stay below 64 MiB.
    const Index groups = std::clamp<Index>((Index{1} << 23) / std::max<Index>(1, state_size), 1, kMaxGroups);
    length = std::max(kMinGroup, ((high - low) / groups + kChunk) / kChunk * kChunk);
    first = floor_divide(low, length);
    count = floor_divide(high - 1, length) - first + 1;
  }
  Index begin(Index group) const { return (first + group) * length; }
  // The queries and keys with t in [t0, t1), as indices [from, to).
  Index query(Index t) const { return std::clamp<Index>(t, 0, rows); }
  Index key(Index t) const { return std::clamp<Index>(t + shift, 0, cols); }
  bool has_queries(Index g) const { return query(begin(g)) < query(begin(g + 1)); }
  bool has_keys(Index g) const { return key(begin(g)) < key(begin(g + 1)); }
  Index last_query_group() const { return rows > 0 ? floor_divide(rows - 1, length) - first : -1; }
};

// n rows from `row`, with the additional column and the weight, zero beyond the width: n x stride.
template <class T>
void pack(const Columns<T, Cpu>& m, Index row, Index n, MatrixView<const T, Cpu> weight, T* out, Index stride) {
  for (Index i = 0; i < n; ++i, out += stride) {
    if (m.matrix.cols > 0) std::copy_n(m.matrix.row(row + i), m.matrix.cols, out);
    Index k = m.matrix.cols;
    if (m.ones) {
      out[k++] = T(1);
    } else if (m.last) {
      out[k++] = *m.last.row(row + i);
    }
    std::fill(out + k, out + stride, T(0));
    if (!weight) continue;
    const T w = *weight.row(row + i);
    for (Index c = 0; c < k; ++c) out[c] *= w;
  }
}

// One worker's memory, and the steps over one chunk.
template <class T>
class Chunk {
 public:
  Chunk(const StateProduct<T, Cpu>& in)
      : in_(in),
        m_(in.a.width()),
        c_(in.x.width()),
        m_pad_(padded_width(m_)),
        c_pad_(padded_width(c_)),
        a_(kChunk * m_pad_),
        b_(kChunk * m_pad_),
        b_turned_(m_ * kChunk),
        x_(kChunk * c_pad_),
        y_(kChunk * c_pad_),
        scores_(kChunk * kChunk),
        state_(m_ * c_pad_) {}

  Index state_size() const { return m_ * c_pad_; }

  // state += sum over keys [from, to) of b_j (v_j x_j)ᵀ.
  void add_keys(Index from, Index to, double* state) {
    for (Index j = from; j < to; j += kChunk) {
      const Index n = std::min(kChunk, to - j);
      load_keys(j, n);
      add_loaded(n, state);
    }
  }

  // The queries [i0, i1) with the state before them and the keys [j0, j1) of the same stretch of t, which starts at t0; then
  // the state moves on past these keys.
  void advance(const Axis& axis, Index t0, Index t1, double* state, bool keys_still_wanted, MatrixView<T, Cpu> y,
               MatrixView<T, Cpu> y_last, bool accumulate) {
    const Index i0 = axis.query(t0), queries = axis.query(t1) - i0, j0 = axis.key(t0), keys = axis.key(t1) - j0;
    if (keys > 0) load_keys(j0, keys);
    if (queries > 0) {
      pack<T>(in_.a, i0, queries, {}, a_.data(), m_pad_);
      block_product(queries, c_, m_, a_.data(), m_pad_, Index{1}, rounded(state), c_pad_, y_.data(), c_pad_, false);
      if (keys > 0) add_pairs(i0, queries, j0 - axis.shift, keys);
      store(i0, queries, y, y_last, accumulate);
    }
    if (keys > 0 && keys_still_wanted) add_loaded(keys, state);
  }

 private:
  void load_keys(Index j, Index n) {
    pack<T>(in_.b, j, n, {}, b_.data(), m_pad_);
    pack<T>(in_.x, j, n, in_.col_weight, x_.data(), c_pad_);
  }
  void add_loaded(Index n, double* state) {
    // The chunk's own sum in T (64 terms), the running sum in double: over 65,536 tokens float alone would lose 3 digits.
    block_product(m_, c_, n, b_.data(), Index{1}, m_pad_, x_.data(), c_pad_, state_.data(), c_pad_, false);
    for (Index k = 0; k < m_ * c_pad_; ++k) state[k] += static_cast<double>(state_.data()[k]);
  }
  const T* rounded(const double* state) {
    if constexpr (std::is_same_v<T, double>) {
      return state;
    } else {
      for (Index k = 0; k < m_ * c_pad_; ++k) state_.data()[k] = static_cast<T>(state[k]);
      return state_.data();
    }
  }
  // y += (a bᵀ, where key_t <= query_t) x, strip by strip; both run over the same stretch of t.
  void add_pairs(Index query_t, Index queries, Index key_t, Index keys) {
    for (Index k = 0; k < m_; ++k) {
      T* row = b_turned_.data() + k * kChunk;
      for (Index j = 0; j < keys; ++j) row[j] = b_.data()[j * m_pad_ + k];
      std::fill(row + keys, row + kChunk, T(0));
    }
    for (Index i = 0; i < queries; i += kStrip) {
      const Index n = std::min(kStrip, queries - i);
      const Index depth = std::clamp<Index>(query_t + i + n - key_t, 0, keys);
      if (depth == 0) continue;
      T* scores = scores_.data();
      block_product(n, depth, m_, a_.data() + i * m_pad_, m_pad_, Index{1}, b_turned_.data(), kChunk, scores, kChunk, false);
      for (Index r = 0; r < n; ++r) {
        const Index seen = std::clamp<Index>(query_t + i + r + 1 - key_t, 0, depth);
        std::fill(scores + r * kChunk + seen, scores + r * kChunk + depth, T(0));
      }
      block_product(n, c_, depth, scores, kChunk, Index{1}, x_.data(), c_pad_, y_.data() + i * c_pad_, c_pad_, true);
    }
  }
  void store(Index i0, Index n, MatrixView<T, Cpu> y, MatrixView<T, Cpu> y_last, bool accumulate) {
    const Index c = in_.x.matrix.cols;
    for (Index i = 0; i < n; ++i) {
      const T w = in_.row_weight ? *in_.row_weight.row(i0 + i) : T(1);
      const T* from = y_.data() + i * c_pad_;
      if (y) {
        T* to = y.row(i0 + i);
        for (Index k = 0; k < c; ++k) to[k] = (accumulate ? to[k] : T(0)) + w * from[k];
      }
      if (y_last) {
        T& to = *y_last.row(i0 + i);
        to = (accumulate ? to : T(0)) + w * from[c];
      }
    }
  }

  const StateProduct<T, Cpu>& in_;
  Index m_, c_, m_pad_, c_pad_;
  Buffer<T, Cpu> a_, b_, b_turned_, x_, y_, scores_, state_;
};

}  // namespace

template <class T, class B>
void state_product(const StateProduct<T, B>& in, MatrixView<T, B> y, MatrixView<T, B> y_last, bool accumulate,
                   const Context<B>& context) {
  if (in.rows == 0) return;
  const Index size = in.a.width() * padded_width(in.x.width());
  const Axis axis(in.rows, in.cols, in.shift, size);
  const Index last = axis.last_query_group();
  // starts[g]: first the sum over group g - 1, then the sum over all groups before g.
  Buffer<double, B> starts((last + 1) * size);
  parallel_for(context, last + 1, [&](Index g, int) {
    double* state = starts.data() + g * size;
    std::fill_n(state, size, 0.0);
    if (g == 0 || !axis.has_keys(g - 1)) return;
    Chunk<T> chunk(in);
    chunk.add_keys(axis.key(axis.begin(g - 1)), axis.key(axis.begin(g)), state);
  });
  for (Index g = 1; g <= last; ++g) {
    for (Index k = 0; k < size; ++k) starts.data()[g * size + k] += starts.data()[(g - 1) * size + k];
  }
  parallel_for(
      context, last + 1,
      [&](Index g, int) {
        if (!axis.has_queries(g)) return;
        Chunk<T> chunk(in);
        double* state = starts.data() + g * size;
        const Index end = std::min(axis.begin(g + 1), axis.rows);
        for (Index t = axis.begin(g); t < end; t += kChunk) {
          chunk.advance(axis, t, std::min(t + kChunk, axis.begin(g + 1)), state, t + kChunk < end, y, y_last, accumulate);
        }
      },
      "state product");
}

std::size_t state_product_bytes(Index rank, Index columns, std::size_t element) {
  const Index c = padded_width(columns), m = padded_width(rank), groups = kMaxGroups + 2;
  const Index state = rank * c, chunk = kChunk * (2 * m + 2 * c + kChunk) + kChunk * rank + state;
  return static_cast<std::size_t>(groups) *
         (sizeof(double) * static_cast<std::size_t>(state) + element * static_cast<std::size_t>(chunk) + 1024);
}

template <class T, class B>
void prefix_sums(MatrixView<const T, B> x, Index shift, MatrixView<T, B> y, const Context<B>& context) {
  const Index c = y.cols;
  if (y.rows == 0 || c == 0) return;
  const Axis axis(y.rows, x.rows, shift, c);
  const Index last = axis.last_query_group();
  Buffer<double, B> starts((last + 1) * c);
  const auto add = [&](Index from, Index to, double* sum) {
    for (Index j = from; j < to; ++j) {
      for (Index k = 0; k < c; ++k) sum[k] += static_cast<double>(x(j, k));
    }
  };
  parallel_for(context, last + 1, [&](Index g, int) {
    double* sum = starts.data() + g * c;
    std::fill_n(sum, c, 0.0);
    if (g > 0) add(axis.key(axis.begin(g - 1)), axis.key(axis.begin(g)), sum);
  });
  for (Index g = 1; g <= last; ++g) {
    for (Index k = 0; k < c; ++k) starts.data()[g * c + k] += starts.data()[(g - 1) * c + k];
  }
  parallel_for(context, last + 1, [&](Index g, int) {
    double* sum = starts.data() + g * c;
    Index j = axis.key(axis.begin(g));
    for (Index i = axis.query(axis.begin(g)); i < axis.query(axis.begin(g + 1)); ++i) {
      const Index end = axis.key(i + 1);
      add(j, end, sum);
      j = end;
      for (Index k = 0; k < c; ++k) y(i, k) = static_cast<T>(sum[k]);
    }
  });
}

#define ESPALIER_INSTANTIATE(T)                                                                                                \
  template void state_product(const StateProduct<T, Cpu>&, MatrixView<T, Cpu>, MatrixView<T, Cpu>, bool, const Context<Cpu>&); \
  template void prefix_sums(MatrixView<const T, Cpu>, Index, MatrixView<T, Cpu>, const Context<Cpu>&);
ESPALIER_INSTANTIATE(float)
ESPALIER_INSTANTIATE(double)
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::backend
