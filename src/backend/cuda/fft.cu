// ToeplitzFft on cuFFT: chunks of padded complex arrays, each a pair of real columns; loads multiply, stores contract.
// SPDX-License-Identifier: Apache-2.0
#include "backend/fft.hpp"

#include "backend/cuda/fft_kernels.cuh"
#include "backend/cuda/fft_plans.hpp"
#include "backend/transfers.hpp"

#include <algorithm>
#include <limits>

namespace espalier::backend {

namespace {

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
