// The demo: the library's main job on the shipped data, each case one row of a table with its true error.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "run.hpp"

#include <espalier/core/mask.hpp>
#include <espalier/io/image.hpp>

#include <functional>
#include <string>
#include <vector>

namespace espalier::tools {

struct DemoRow {
  std::string name;
  Index length = 0;  // L
  std::string engine;
  double seconds = 0;
  double dense_seconds = 0;   // our own tiles on the same threads
  bool extrapolated = false;  // dense_seconds from a sample of rows
  double matrix_bytes = 0;    // what the L x L matrix would need
  double error = 0;           // against double, in the norm of docs/math.md section 6
  std::string remark;
};

// A picture to be written: file name and image.
struct DemoPicture {
  std::string name;
  Image image;
};

// What the cases share: data folder, context, a line of progress on standard output.
struct DemoSetting {
  std::string data;
  Context<Cpu> context;
  std::function<void(const std::string&)> say;
  std::string path(const std::string& file) const { return data + "/" + file; }
};

// Rows i and columns j of numbers, row-major, T.
template <class T>
struct DemoMatrix {
  Index rows = 0, cols = 0;
  std::vector<T> values;
  DemoMatrix() = default;
  DemoMatrix(Index r, Index c) : rows(r), cols(c), values(static_cast<std::size_t>(r * c)) {}
  MatrixView<T> view() { return {values.data(), rows, cols}; }
  MatrixView<const T> view() const { return {values.data(), rows, cols}; }
  TensorView<T> tensor() { return {values.data(), 1, 1, rows, cols}; }
  T& operator()(Index i, Index j) { return values[static_cast<std::size_t>(i * cols + j)]; }
  T operator()(Index i, Index j) const { return values[static_cast<std::size_t>(i * cols + j)]; }
};

// Standard normal numbers of one seed.
DemoMatrix<float> normal_matrix(Index rows, Index cols, std::uint64_t seed, double factor = 1);

// Some rows of a mask that has entries, as a mask of its own: what the dense way is timed on.
class RowSample final : public Mask<float> {
 public:
  RowSample(const Mask<float>& whole, Index first, Index count);
  Entries<float> entries() const override;

 protected:
  void apply(MatrixView<const float> x, MatrixView<float> y, bool transpose, const Context<Cpu>& context) const override;

 private:
  const Mask<float>* whole_;
  Index first_;
};

// Seconds of `work(count)` on `count` of L rows, scaled to L; count grows until it takes about a second or reaches L.
struct DenseTime {
  double seconds;
  bool extrapolated;
};
DenseTime time_dense(Index length, Index first_count, const std::function<void(Index count)>& work);

// The cases, in demo_*.cpp. Each adds its rows and pictures.
void demo_grids(const DemoSetting& setting, std::vector<DemoRow>& rows, std::vector<DemoPicture>& pictures);
void demo_sequence(const DemoSetting& setting, std::vector<DemoRow>& rows, std::vector<DemoPicture>& pictures);
void demo_graphs(const DemoSetting& setting, std::vector<DemoRow>& rows, std::vector<DemoPicture>& pictures);
// `accuracy`: lines of the table of accuracy against k.
void demo_search(const DemoSetting& setting, std::vector<DemoRow>& rows, std::vector<std::string>& accuracy);
void demo_learning(const DemoSetting& setting, std::vector<DemoPicture>& pictures);

}  // namespace espalier::tools
