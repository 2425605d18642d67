// Products on two long axes: factors, their shared certificate, planes turned in between.
// SPDX-License-Identifier: Apache-2.0
#include "masks/long_axes.hpp"

#include <algorithm>
#include <cmath>

#include "backend/cpu/progress_part.hpp"
#include "backend/elementwise.hpp"

namespace espalier {

namespace {

// Planes gathered at once: a cache line of a row.
constexpr Index kGroupBytes = 64;

// Rows a cache line more than a power of two apart.
Index stride_of(Index n) {
  return (n + 15) / 16 * 16 + 16;
}

}  // namespace

template <class T>
typename LongAxes<T>::Factor LongAxes<T>::factor(const backend::TrainAxis<T>& axis, Index k, Index columns,
                                                 const MaskOptions& options) {
  const Index width = 2 * axis.size - 1;
  const std::vector<double> table(axis.values.begin() + k * width, axis.values.begin() + (k + 1) * width);
  GridOptions own;
  static_cast<MaskOptions&>(own) = options;
  Factor f;
  f.mask = std::make_unique<const GridMask<T>>(std::vector<Index>{axis.size}, table, own);
  f.report = f.mask->report({.columns = columns});
  linear_ = linear_ && (f.report.engine == "exponentials" || f.report.engine == "band");
  if (engines_.find(f.report.engine) == std::string::npos) engines_ += (engines_.empty() ? "" : ", ") + f.report.engine;
  return f;
}

template <class T>
LongAxes<T>::LongAxes(const std::vector<Index>& sizes, const OffsetTrain<T>& train, double tolerance,
                      const MaskOptions& options, const SetUpWatch& watch)
    : cost_(options.cost) {
  const backend::TrainAxis<T>&u = train.axes[0], &v = train.axes[1];
  std::vector<Index> step(sizes.size(), 1);
  for (std::size_t t = sizes.size(); t-- > 1;) step[t - 1] = step[t] * sizes[t];
  const Index u_step = step[static_cast<std::size_t>(u.axis)], v_step = step[static_cast<std::size_t>(v.axis)];
  plane_ = {u.size, v.size, u_step, v_step, stride_of(v.size), u.size * stride_of(v.size) + 16};
  turned_ = {v.size, u.size, v_step, u_step, stride_of(u.size), v.size * stride_of(u.size) + 16};
  MaskOptions own = options;
  own.engine = "auto";
  own.tolerance = tolerance;
  own.tolerance_kind = ToleranceKind::row;
  double row = 0, entry = 0;
  const auto largest = [](const backend::TrainAxis<T>& a, Index k) {
    double most = 0;
    for (Index o = 0; o < 2 * a.size - 1; ++o) {
      most = std::max(most, std::abs(static_cast<double>(a.values[static_cast<std::size_t>(k * (2 * a.size - 1) + o)])));
    }
    return most;
  };
  for (Index k = 0; k < train.terms; ++k) {
    watch.look();
    rows_.push_back(factor(u, k, v.size, own));
    watch.look();
    columns_.push_back(factor(v, k, u.size, own));
    const auto bound = [](const Factor& f, bool rows) {
      if (!f.report.certificate) return 0.0;
      return rows ? *f.report.certificate->row : *f.report.certificate->entry;
    };
    // (1 + a)(1 + b) - 1: of both factors.
    const auto both = [](double a, double b) { return a + b + a * b; };
    row = std::max(row, both(bound(rows_.back(), true), bound(columns_.back(), true)));
    entry += largest(u, k) * largest(v, k) * both(bound(rows_.back(), false), bound(columns_.back(), false));
  }
  // Rows of the sum of absolute products are at most `amplification` times those of M.
  certificate_.row = *train.certificate.row + train.amplification * row;
  certificate_.entry = *train.certificate.entry + (train.largest > 0 ? entry / train.largest : 0.0);
}

template <class T>
double LongAxes<T>::seconds(Index columns) const {
  double one = 0;
  for (const Factor& f : rows_) one += f.report.predicted_seconds;
  for (const Factor& f : columns_) one += f.report.predicted_seconds;
  // Eight passes for gathering and scattering into fresh memory, two for each turn, three for each sum but the first.
  const double terms = static_cast<double>(rows_.size()), points = static_cast<double>(plane_.rows * plane_.cols);
  return static_cast<double>(columns) * (one + (8 + 2 * terms + 3 * (terms - 1)) * points * sizeof(T) / cost_.bandwidth);
}

template <class T>
double LongAxes<T>::flops(Index columns) const {
  double one = 0;
  for (const Factor& f : rows_) one += f.report.flops;
  for (const Factor& f : columns_) one += f.report.flops;
  return one * static_cast<double>(columns);
}

template <class T>
Index LongAxes<T>::group_size(Index columns) const {
  // Whole, half or a quarter of a cache line of floats, while the planes of a side take more than 24 MiB.
  Index group = kGroupBytes / static_cast<Index>(sizeof(T));
  while (group > 4 && group * plane_.distance * static_cast<Index>(sizeof(T)) > (Index{24} << 20)) group /= 2;
  return std::min(columns, group);
}

template <class T>
std::size_t LongAxes<T>::bytes(Index columns) const {
  std::size_t most = 0;
  for (const auto* side : {&rows_, &columns_}) {
    for (const Factor& f : *side) most += f.report.extra_bytes;
  }
  const Index group = group_size(std::max<Index>(1, columns));
  const Index planes = plane_.distance * (group + 1) + turned_.distance * (group + 2);
  return most + sizeof(T) * static_cast<std::size_t>(planes);
}

template <class T>
void LongAxes<T>::multiply(MatrixView<const T, Cpu> x, MatrixView<T, Cpu> y, bool transpose,
                           const Context<Cpu>& context) const {
  const Index group = group_size(x.cols);
  const backend::Buffer<T, Cpu> from(plane_.distance * group), to(turned_.distance * group);
  const backend::Buffer<T, Cpu> one(plane_.distance), around(turned_.distance), part(rows_.size() > 1 ? turned_.distance : 0);
  const auto plane = [](const backend::PlaneShape& s, T* data) { return MatrixView<T, Cpu>(data, s.rows, s.cols, s.stride); };
  // Each factor's product of a column counts alike.
  const double products = static_cast<double>(2 * x.cols) * static_cast<double>(rows_.size());
  double done = 0;
  const auto apply = [&](const Factor& f, MatrixView<T, Cpu> in, MatrixView<T, Cpu> out) {
    const backend::ProgressPart share(context, done / products, (done + 1) / products);
    transpose ? f.mask->multiply_transpose(in, out, share.context()) : f.mask->multiply(in, out, share.context());
    done += 1;
  };
  for (Index first = 0; first < x.cols; first += group) {
    const Index count = std::min(group, x.cols - first);
    backend::gather_planes<T>(plane_, x, first, count, from.data(), context);
    for (Index c = 0; c < count; ++c) {
      const MatrixView<T, Cpu> sum = plane(turned_, to.data() + c * turned_.distance);
      for (std::size_t k = 0; k < rows_.size(); ++k) {
        apply(rows_[k], plane(plane_, from.data() + c * plane_.distance), plane(plane_, one.data()));
        backend::transpose_plane<T>(plane(plane_, one.data()), plane(turned_, around.data()), context);
        apply(columns_[k], plane(turned_, around.data()), k == 0 ? sum : plane(turned_, part.data()));
        if (k > 0) backend::add_scaled<T, Cpu>(T(1), plane(turned_, part.data()), sum, context);
      }
    }
    backend::scatter_planes<T>(turned_, to.data(), first, count, y, context);
  }
}

template class LongAxes<float>;
template class LongAxes<double>;

}  // namespace espalier
