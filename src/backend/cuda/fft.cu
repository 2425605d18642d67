// ToeplitzFft on cuFFT: chunks of padded complex arrays, each a pair of real columns; loads multiply, stores contract.
// SPDX-License-Identifier: Apache-2.0
#include "backend/fft.hpp"

#include "backend/cuda/device.hpp"
#include "backend/cuda/fft_plans.hpp"
#include "backend/transfers.hpp"

#include <algorithm>
#include <limits>

namespace espalier::backend {

namespace {

// A grid of n0 x n1 x n2 padded to h0 x h1 x h2; unused axes come first and have length 1.
struct Grid3 {
  int n[3] = {1, 1, 1}, h[3] = {1, 1, 1};

  __host__ __device__ Index points() const { return static_cast<Index>(h[0]) * h[1] * h[2]; }
  __host__ __device__ Index length() const { return static_cast<Index>(n[0]) * n[1] * n[2]; }
  // Index in the grid of a place in the padded array, -1 in the padding.
  __device__ Index inside(Index place) const {
    const auto p = static_cast<unsigned>(place), plane = static_cast<unsigned>(h[1]) * static_cast<unsigned>(h[2]);
    const int p0 = static_cast<int>(p / plane), p1 = static_cast<int>(p % plane / static_cast<unsigned>(h[2])),
              p2 = static_cast<int>(p % static_cast<unsigned>(h[2]));
    if (p0 >= n[0] || p1 >= n[1] || p2 >= n[2]) return -1;
    return (static_cast<Index>(p0) * n[1] + p1) * n[2] + p2;
  }
  // Place in the padded array of an index in the grid.
  __device__ Index place(Index index) const {
    const auto i = static_cast<unsigned>(index), plane = static_cast<unsigned>(n[1]) * static_cast<unsigned>(n[2]);
    const unsigned i0 = i / plane, i1 = i % plane / static_cast<unsigned>(n[2]), i2 = i % static_cast<unsigned>(n[2]);
    return (static_cast<Index>(i0) * h[1] + i1) * h[2] + i2;
  }
  // Place of a position in the table of offsets (2 n0 - 1) x (2 n1 - 1) x (2 n2 - 1): negative offsets wrap around.
  __device__ Index place_of_offset(Index position) const {
    Index rest = position, at = 0, step = 1;
    for (int t = 2; t >= 0; --t) {
      const Index width = 2 * static_cast<Index>(n[t]) - 1, offset = rest % width - (n[t] - 1);
      rest /= width;
      at += step * (offset < 0 ? offset + h[t] : offset);
      step *= h[t];
    }
    return at;
  }
  Index table_size() const { return (2 * static_cast<Index>(n[0]) - 1) * (2 * n[1] - 1) * (2 * n[2] - 1); }
};

template <class T>
struct alignas(2 * sizeof(T)) Complex {
  T re, im;
};

// The columns of a matrix with one more behind it: given numbers, or ones. Pair k holds columns 2 k and 2 k + 1.
template <class T>
struct PairColumns {
  DeviceMatrix<const T> matrix;
  const T* extra;  // null: ones
  bool has_extra;

  __host__ __device__ Index cols() const { return matrix.cols + (has_extra ? 1 : 0); }
  __host__ __device__ Index pairs() const { return (cols() + 1) / 2; }
  __device__ T value(Index i, Index c) const {
    if (c < matrix.cols) return matrix(i, c);
    if (c == matrix.cols && has_extra) return extra == nullptr ? T(1) : extra[i];
    return T(0);
  }
  __device__ Complex<T> pair(Index i, Index k) const { return {value(i, 2 * k), value(i, 2 * k + 1)}; }
};

// The arrays in work: features first_feature .. + features - 1, of each the pairs first_pair .. + pairs - 1.
struct Chunk {
  Index first_feature, features, first_pair, pairs;
  Index arrays() const { return features * pairs; }
};

// ---- kernels: threads along the array, so that its long side is read and written in whole lines -----------------------

// z[r][k][place] = s(i, r) x_k(i) inside, 0 in the padding; s without data: 1.
template <class T>
__global__ void __launch_bounds__(kThreads)
    load_kernel(Grid3 grid, Chunk chunk, DeviceMatrix<const T> s, PairColumns<T> x, Complex<T>* z) {
  const Index points = grid.points(), place = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  if (place >= points) return;
  const Index r = static_cast<Index>(blockIdx.y), i = grid.inside(place);
  const T factor = i < 0 || s.data == nullptr ? T(1) : s(i, chunk.first_feature + r);
  // All pairs of one row: what one of them loads the next finds in the first-level cache.
  for (Index k = 0; k < chunk.pairs; ++k) {
    Complex<T> value{T(0), T(0)};
#ifndef ESPALIER_DEFECT_PADDING
    if (i >= 0) {
#else
    if (i < 0) continue;
    {
#endif
      value = x.pair(i, chunk.first_pair + k);
      value.re *= factor, value.im *= factor;
    }
    z[(r * chunk.pairs + k) * points + place] = value;
  }
}

// z *= spectrum, or its conjugate.
template <class T>
__global__ void __launch_bounds__(kThreads)
    spectrum_kernel(Index points, const Complex<T>* spectrum, bool conjugate, Complex<T>* z) {
  const Index f = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  if (f >= points) return;
  const Complex<T> s = spectrum[f];
  const T im = conjugate ? -s.im : s.im;
  Complex<T>& at = z[static_cast<Index>(blockIdx.y) * points + f];
  const Complex<T> v = at;
  at = {v.re * s.re - v.im * im, v.re * im + v.im * s.re};
}

// y(i, column of pair k) (+)= sum_r s(i, r) z[r][k](i), s without data: 1; the column behind y's is row_sum.
template <class T>
__global__ void __launch_bounds__(kThreads) store_kernel(Grid3 grid, Chunk chunk, DeviceMatrix<const T> s, const Complex<T>* z,
                                                         bool add, DeviceMatrix<T> y, T* row_sum) {
  const Index i = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x),
              k = static_cast<Index>(blockIdx.y);
  if (i >= grid.length()) return;
  const Index points = grid.points(), place = grid.place(i);
  Complex<T> sum{T(0), T(0)};
  for (Index r = 0; r < chunk.features; ++r) {
    const Complex<T> v = z[(r * chunk.pairs + k) * points + place];
    const T factor = s.data == nullptr ? T(1) : s(i, chunk.first_feature + r);
    sum.re += factor * v.re, sum.im += factor * v.im;
  }
  const Index c = 2 * (chunk.first_pair + k);
  if (c < y.cols) {
    y(i, c) = (add ? y(i, c) : T(0)) + sum.re;
  } else if (c == y.cols && row_sum != nullptr) {
    row_sum[i] = (add ? row_sum[i] : T(0)) + sum.re;
  }
  if (c + 1 < y.cols) {
    y(i, c + 1) = (add ? y(i, c + 1) : T(0)) + sum.im;
  } else if (c + 1 == y.cols && row_sum != nullptr) {
    row_sum[i] = (add ? row_sum[i] : T(0)) + sum.im;
  }
}

// g(i, r) (+)= sum over the pairs k of z[r][k](i) . x_k(i).
template <class T>
__global__ void __launch_bounds__(kThreads)
    contract_kernel(Grid3 grid, Chunk chunk, const Complex<T>* z, PairColumns<T> x, bool add, DeviceMatrix<T> g) {
  const Index i = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x),
              r = static_cast<Index>(blockIdx.y);
  if (i >= grid.length()) return;
  const Index points = grid.points(), place = grid.place(i);
  T sum = 0;
  for (Index k = 0; k < chunk.pairs; ++k) {
    const Complex<T> v = z[(r * chunk.pairs + k) * points + place], w = x.pair(i, chunk.first_pair + k);
    sum += v.re * w.re + v.im * w.im;
  }
  T& to = g(i, chunk.first_feature + r);
  to = (add ? to : T(0)) + sum;
}

// sum += conj(z) u over the arrays of a chunk, in double.
template <class T>
__global__ void __launch_bounds__(kThreads)
    correlate_kernel(Index points, Index arrays, const Complex<T>* z, const Complex<T>* u, Complex<double>* sum) {
  const Index f = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  if (f >= points) return;
  Complex<double> s = sum[f];
  for (Index a = 0; a < arrays; ++a) {
    const Complex<T> v = z[a * points + f], w = u[a * points + f];
    const double vr = v.re, vi = v.im, wr = w.re, wi = w.im;
    s.re += vr * wr + vi * wi;
    s.im += vr * wi - vi * wr;
  }
  sum[f] = s;
}

struct TableToCirculant {
  Grid3 grid;
  const double* table;
  Complex<double>* circulant;
  __device__ void operator()(Index, Index position) const { circulant[grid.place_of_offset(position)] = {table[position], 0}; }
};
template <class T>
struct RoundSpectrum {
  const Complex<double>* from;
  double factor;
  Complex<T>* to;
  __device__ void operator()(Index, Index f) const {
    to[f] = {static_cast<T>(factor * from[f].re), static_cast<T>(factor * from[f].im)};
  }
};
template <class T>
struct AddCirculantToTable {
  Grid3 grid;
  const Complex<double>* circulant;
  double factor;
  T* table;
  __device__ void operator()(Index, Index position) const {
    table[position] += static_cast<T>(factor * circulant[grid.place_of_offset(position)].re);
  }
};

Grid3 padded_grid(const std::vector<Index>& sizes) {
  Grid3 grid;
  int t = 2;
  for (auto n = sizes.rbegin(); n != sizes.rend(); ++n) {
    if (*n == 1) continue;
    grid.n[t] = static_cast<int>(*n);
    grid.h[t] = static_cast<int>(2 * smooth_length(*n));
    --t;
  }
  return grid;
}
std::vector<int> axes_of(const Grid3& grid) {
  std::vector<int> axes;
  for (const int h : grid.h) {
    if (h > 1) axes.push_back(h);
  }
  return axes;
}

// Arrays in work at once. 64 MB of them go through load, transform, product, transform and store while they are near (an H100's
// second-level cache holds 50 MB) and are enough for every processor; a launch has at most 65,535 rows of blocks.
constexpr std::size_t kChunkBytes = std::size_t{64} << 20;
Index arrays_at_once(Index points, std::size_t element, std::size_t scratch_bytes, Index sets) {
  const std::size_t bytes = std::min(kChunkBytes, scratch_bytes / 4) / static_cast<std::size_t>(sets);
  return std::clamp<Index>(static_cast<Index>(bytes / (2 * element)) / points, 1, 32768);
}

// Calls work(chunk) for all features and pairs: chunks of whole features, or of one feature's pairs where these do not fit.
template <class F>
void over_chunks(Index features, Index pairs, Index arrays, const F& work) {
  const Index pairs_at_once = std::min(pairs, arrays), features_at_once = std::max<Index>(1, arrays / pairs_at_once);
  for (Index r = 0; r < features; r += features_at_once) {
    for (Index k = 0; k < pairs; k += pairs_at_once) {
      work(Chunk{r, std::min(features_at_once, features - r), k, std::min(pairs_at_once, pairs - k)});
    }
  }
}

template <class T>
Index arrays_needed(Index features, Index pairs, Index arrays) {
  const Index pairs_at_once = std::min(pairs, arrays);
  return pairs_at_once * std::min(features, std::max<Index>(1, arrays / pairs_at_once));
}

}  // namespace

template <>
bool has_fft<Cuda>(const std::vector<Index>& sizes) {
  const auto longer = std::count_if(sizes.begin(), sizes.end(), [](Index n) { return n > 1; });
  return longer >= 1 && longer <= 3 && toeplitz_fft_points(sizes) <= std::numeric_limits<std::int32_t>::max();
}

template <>
std::size_t toeplitz_fft_bytes<Cuda>(const std::vector<Index>& sizes, Index columns, Index rank, std::size_t element) {
  const auto points = static_cast<std::size_t>(toeplitz_fft_points(sizes));
  const Index arrays = arrays_at_once(static_cast<Index>(points), element, Context<Cuda>{}.scratch_bytes, 1);
  const Index wanted = std::max<Index>(1, rank) * ((columns + 2) / 2);
  // The arrays, as much again for cuFFT's work area, and for the table's gradient spectra in double.
  return static_cast<std::size_t>(std::min(arrays, wanted)) * points * 4 * element + points * 2 * 2 * sizeof(double);
}

// ---- the class -------------------------------------------------------------------------------------------------------

template <class T, class B>
struct ToeplitzFft<T, B>::State {
  explicit State(const std::vector<Index>& sizes) : grid(padded_grid(sizes)), plans(axes_of(grid)) {}

  // z = transform of (s_r x_k) for a chunk's features and pairs.
  void forward(const Chunk& chunk, const DeviceMatrix<const T>& s, const PairColumns<T>& x, Complex<T>* z,
               const Context<Cuda>& context) const {
    gpu::launch(load_kernel<T>, dim3(block_count(grid.points(), kThreads), static_cast<unsigned>(chunk.features)),
                dim3(kThreads), 0, stream_of(context), grid, chunk, s, x, z);
    plans.transform(reinterpret_cast<T*>(z), chunk.arrays(), CUFFT_FORWARD, context);
  }
  // z = inverse transform of z times the spectrum.
  void filter(Index arrays, const T* spectrum, bool conjugate, Complex<T>* z, const Context<Cuda>& context) const {
    gpu::launch(spectrum_kernel<T>, dim3(block_count(grid.points(), kThreads), static_cast<unsigned>(arrays)), dim3(kThreads),
                0, stream_of(context), grid.points(), reinterpret_cast<const Complex<T>*>(spectrum), conjugate, z);
    plans.transform(reinterpret_cast<T*>(z), arrays, CUFFT_INVERSE, context);
  }
  void store(const Chunk& chunk, const DeviceMatrix<const T>& s, const Complex<T>* z, bool add, MatrixView<T, Cuda> y,
             T* row_sum, const Context<Cuda>& context) const {
    gpu::launch(store_kernel<T>, dim3(block_count(grid.length(), kThreads), static_cast<unsigned>(chunk.pairs)), dim3(kThreads),
                0, stream_of(context), grid, chunk, s, z, add, on_device(y), row_sum);
  }
  void contract(const Chunk& chunk, const Complex<T>* z, const PairColumns<T>& x, MatrixView<T, Cuda> g,
                const Context<Cuda>& context) const {
    gpu::launch(contract_kernel<T>, dim3(block_count(grid.length(), kThreads), static_cast<unsigned>(chunk.features)),
                dim3(kThreads), 0, stream_of(context), grid, chunk, z, x, chunk.first_pair > 0, on_device(g));
  }
  void correlate(Index arrays, const Complex<T>* z, const Complex<T>* u, Complex<double>* sum,
                 const Context<Cuda>& context) const {
    gpu::launch(correlate_kernel<T>, dim3(block_count(grid.points(), kThreads)), dim3(kThreads), 0, stream_of(context),
                grid.points(), arrays, z, u, sum);
  }
  // table += the correlation whose spectrum is `sum`.
  void add_table(Buffer<double, Cuda>& sum, T* table, const Context<Cuda>& context) const {
    plans.transform(sum.data(), 1, CUFFT_INVERSE, context);
    over_elements(1, grid.table_size(), context,
                  AddCirculantToTable<T>{grid, reinterpret_cast<const Complex<double>*>(sum.data()),
                                         1 / static_cast<double>(grid.points()), table});
  }
  Buffer<double, Cuda> zero_spectrum(bool wanted, const Context<Cuda>& context) const {
    Buffer<double, Cuda> sum(wanted ? 2 * grid.points() : 0, context);
    fill(sum.matrix(1, sum.size()), 0.0, context);
    return sum;
  }

  Grid3 grid;
  mutable FftPlans plans;
};

template <class T, class B>
ToeplitzFft<T, B>::ToeplitzFft(std::vector<Index> sizes, bool) {
  if (!has_fft<B>(sizes)) throw BackendError("cuFFT transforms of at most three axes are supported");
  state_ = std::make_unique<State>(sizes);
}
template <class T, class B>
ToeplitzFft<T, B>::~ToeplitzFft() = default;

template <class T, class B>
Buffer<T, B> ToeplitzFft<T, B>::spectrum(const double* table, const Context<B>& context) const {
  const Grid3& grid = state_->grid;
  const Index points = grid.points();
  Buffer<T, B> result(2 * points);
  Buffer<double, B> on_stream(grid.table_size(), context), circulant = state_->zero_spectrum(true, context);
  upload<double, B>(table, on_stream.data(), on_stream.size(), context);
  auto* z = reinterpret_cast<Complex<double>*>(circulant.data());
  over_elements(1, grid.table_size(), context, TableToCirculant{grid, on_stream.data(), z});
  state_->plans.transform(circulant.data(), 1, CUFFT_FORWARD, context);
  // Divided here by what two unnormalised transforms multiply with.
  over_elements(1, points, context,
                RoundSpectrum<T>{z, 1 / static_cast<double>(points), reinterpret_cast<Complex<T>*>(result.data())});
  return result;
}

template <class T, class B>
void ToeplitzFft<T, B>::multiply(const T* spectrum, MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                                 const Context<B>& context) const {
  const State& s = *state_;
  const PairColumns<T> columns{on_device(x), nullptr, false};
  const Index arrays = arrays_at_once(s.grid.points(), sizeof(T), context.scratch_bytes, 1);
  if (columns.pairs() == 0) return;
  Buffer<T, B> memory(2 * s.grid.points() * arrays_needed<T>(1, columns.pairs(), arrays), context);
  auto* z = reinterpret_cast<Complex<T>*>(memory.data());
  over_chunks(1, columns.pairs(), arrays, [&](const Chunk& chunk) {
    check_cancelled(context);
    s.forward(chunk, {}, columns, z, context);
    s.filter(chunk.arrays(), spectrum, transpose, z, context);
    s.store(chunk, {}, z, false, y, nullptr, context);
  });
}

template <class T, class B>
void ToeplitzFft<T, B>::multiply_low_rank(const T* spectrum, const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out,
                                          bool transpose, const Context<B>& context) const {
  const State& s = *state_;
  const PairColumns<T> columns{on_device(in.x), nullptr, static_cast<bool>(out.row_sum)};
  const Index m = in.a.cols, pairs = columns.pairs();
  if (pairs == 0) return;
  if (m == 0) {
    fill(out.y, T(0), context);
    if (out.row_sum) fill(MatrixView<T, B>(out.row_sum.data, 1, out.row_sum.size), T(0), context);
    return;
  }
  const Index arrays = arrays_at_once(s.grid.points(), sizeof(T), context.scratch_bytes, 1);
  Buffer<T, B> memory(2 * s.grid.points() * arrays_needed<T>(m, pairs, arrays), context);
  auto* z = reinterpret_cast<Complex<T>*>(memory.data());
  over_chunks(m, pairs, arrays, [&](const Chunk& chunk) {
    check_cancelled(context);
    s.forward(chunk, on_device(in.b), columns, z, context);
    s.filter(chunk.arrays(), spectrum, transpose, z, context);
    s.store(chunk, on_device(in.a), z, chunk.first_feature > 0, out.y, out.row_sum.data, context);
  });
}

// For every feature r and pair of columns k, with z = b_r x_k, u = a_r y_bar_k, x and y_bar with the row sums' column:
//   a_bar_r += <M z, y_bar_k>     b_bar_r += <Mᵀ u, x_k>     x_bar_k += b_r (Mᵀ u)     table spectrum += conj(Z) U.
template <class T, class B>
void ToeplitzFft<T, B>::multiply_low_rank_vjp(const T* spectrum, const LowRankInputs<T, B>& in,
                                              const LowRankCotangents<T, B>& cotangents,
                                              const LowRankGradients<T, B>& gradients, T* table_bar,
                                              const Context<B>& context) const {
  const State& s = *state_;
  const bool with_y = static_cast<bool>(cotangents.y), with_r = static_cast<bool>(cotangents.row_sum);
  DeviceMatrix<const T> x_matrix = on_device(in.x), y_matrix = on_device(cotangents.y);
  if (!with_y) x_matrix.cols = y_matrix.cols = 0;
  const PairColumns<T> x{x_matrix, nullptr, with_r}, y_bar{y_matrix, cotangents.row_sum.data, with_r};
  const Index m = in.a.cols, pairs = x.pairs();
  const bool want_x = gradients.x && with_y, nothing = m == 0 || pairs == 0;
  if (gradients.x && (nothing || !want_x)) fill(gradients.x, T(0), context);
  if (gradients.a && nothing) fill(gradients.a, T(0), context);
  if (gradients.b && nothing) fill(gradients.b, T(0), context);
  if (nothing) return;
  const bool want_z = gradients.a || table_bar != nullptr, want_u = gradients.b || want_x || table_bar != nullptr;
  const Index arrays = arrays_at_once(s.grid.points(), sizeof(T), context.scratch_bytes, 2);
  const Index size = 2 * s.grid.points() * arrays_needed<T>(m, pairs, arrays);
  Buffer<T, B> z_memory(want_z ? size : 0, context), u_memory(want_u ? size : 0, context);
  Buffer<double, B> sum = s.zero_spectrum(table_bar != nullptr, context);
  auto* z = reinterpret_cast<Complex<T>*>(z_memory.data());
  auto* u = reinterpret_cast<Complex<T>*>(u_memory.data());
  over_chunks(m, pairs, arrays, [&](const Chunk& chunk) {
    check_cancelled(context);
    if (want_z) s.forward(chunk, on_device(in.b), x, z, context);
    if (want_u) s.forward(chunk, on_device(in.a), y_bar, u, context);
    if (table_bar != nullptr) {
      s.correlate(chunk.arrays(), z, u, reinterpret_cast<Complex<double>*>(sum.data()), context);
    }
    if (gradients.a) {
      s.filter(chunk.arrays(), spectrum, false, z, context);
      s.contract(chunk, z, y_bar, gradients.a, context);
    }
    if (!gradients.b && !want_x) return;
    s.filter(chunk.arrays(), spectrum, true, u, context);
    if (gradients.b) s.contract(chunk, u, x, gradients.b, context);
    if (want_x) s.store(chunk, on_device(in.b), u, chunk.first_feature > 0, gradients.x, nullptr, context);
  });
  if (table_bar != nullptr) s.add_table(sum, table_bar, context);
}

template <class T, class B>
void ToeplitzFft<T, B>::add_table_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar, T* table_bar,
                                           const Context<B>& context) const {
  const State& s = *state_;
  const PairColumns<T> from{on_device(x), nullptr, false}, to{on_device(y_bar), nullptr, false};
  if (from.pairs() == 0) return;
  const Index arrays = arrays_at_once(s.grid.points(), sizeof(T), context.scratch_bytes, 2);
  const Index size = 2 * s.grid.points() * arrays_needed<T>(1, from.pairs(), arrays);
  Buffer<T, B> z_memory(size, context), u_memory(size, context);
  Buffer<double, B> sum = s.zero_spectrum(true, context);
  auto* z = reinterpret_cast<Complex<T>*>(z_memory.data());
  auto* u = reinterpret_cast<Complex<T>*>(u_memory.data());
  over_chunks(1, from.pairs(), arrays, [&](const Chunk& chunk) {
    check_cancelled(context);
    s.forward(chunk, {}, from, z, context);
    s.forward(chunk, {}, to, u, context);
    s.correlate(chunk.arrays(), z, u, reinterpret_cast<Complex<double>*>(sum.data()), context);
  });
  s.add_table(sum, table_bar, context);
}

template class ToeplitzFft<float, Cuda>;
template class ToeplitzFft<double, Cuda>;

}  // namespace espalier::backend
