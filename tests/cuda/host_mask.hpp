// A device mask behind the interface of a host mask, so that the laws of tests/support hold for it too: every call copies its
// operands to the device, with gaps and guarded margins, and the results back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <espalier/core/error.hpp>
#include <espalier/core/mask.hpp>
#include <espalier/cuda.hpp>

#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace espalier::test {

// A host matrix on the device, gaps between rows included, with margins whose pattern is checked when it comes back.
template <class T>
class Mirror {
 public:
  explicit Mirror(MatrixView<const T> host)
      : host_(host), size_(host.data == nullptr || host.rows == 0 ? 0 : (host.rows - 1) * host.row_stride + host.cols) {
    if (!host) return;
    std::vector<T> values(static_cast<std::size_t>(size_ + 2 * kMargin), kGuard);
    if (size_ > 0) std::memcpy(values.data() + kMargin, host.data, static_cast<std::size_t>(size_) * sizeof(T));
    memory_ = DeviceBuffer<T>(std::span<const T>(values));
  }
  explicit Mirror(MatrixView<T> host) : Mirror(MatrixView<const T>(host)) {}
  MatrixView<T, Cuda> view() const {
    return host_ ? MatrixView<T, Cuda>(memory_.data() + kMargin, host_.rows, host_.cols, host_.row_stride)
                 : MatrixView<T, Cuda>();
  }
  // The same as a vector, for matrices of one row.
  VectorView<T, Cuda> vector() const { return {view().data, host_.cols}; }
  void copy_back(MatrixView<T> to) const {
    if (!to) return;
    const std::vector<T> values = memory_.to_host();
    for (Index k = 0; k < kMargin; ++k) {
      if (values[static_cast<std::size_t>(k)] != kGuard || values[values.size() - 1 - static_cast<std::size_t>(k)] != kGuard) {
        throw std::logic_error("a device call wrote beside its output");
      }
    }
    if (size_ > 0) std::memcpy(to.data, values.data() + kMargin, static_cast<std::size_t>(size_) * sizeof(T));
  }

 private:
  static constexpr Index kMargin = 36;
  static constexpr T kGuard = T(-54321);
  MatrixView<const T> host_;
  Index size_;
  DeviceBuffer<T> memory_;
};

template <class T>
MatrixView<T> one_row(VectorView<T> v) {
  return {v.data, 1, v.size};
}

template <class T>
class HostMask final : public Mask<T> {
 public:
  explicit HostMask(std::shared_ptr<const Mask<T, Cuda>> device)
      : Mask<T>(device->rows(), device->cols(), device->options()),
        device_(std::move(device)),
        entries_(copied_entries(*device_)) {}

  Entries<T> entries() const override { return entries_.entries; }
  Index entries_gradient_size() const override { return device_->entries_gradient_size(); }
  EntriesGradient<T> entries_gradient(T* scratch) const override {
    const EntriesGradient<T, Cuda> on_device = device_->entries_gradient(scratch);
    EntriesGradient<T> g;
    g.values = on_device.values, g.table = on_device.table, g.border = on_device.border;
    return g;
  }
  void fold_entries_gradient(const T* scratch, VectorView<T> bar, const Context<Cpu>& context) const override {
    const Mirror<T> in(MatrixView<const T>(scratch, 1, entries_gradient_size())), out(one_row(bar));
    device_->fold_entries_gradient(in.view().data, out.vector(), device_context(context));
    out.copy_back(one_row(bar));
  }
  std::span<const double> parameters() const override { return device_->parameters(); }
  std::shared_ptr<const Mask<T>> with_parameters(std::span<const double> p) const override {
    return std::make_shared<HostMask>(device_->with_parameters(p));
  }

 protected:
  void apply(MatrixView<const T> x, MatrixView<T> y, bool transpose, const Context<Cpu>& context) const override {
    const Mirror<T> in(x), out(y);
    if (transpose) {
      device_->multiply_transpose(in.view(), out.view(), device_context(context));
    } else {
      device_->multiply(in.view(), out.view(), device_context(context));
    }
    out.copy_back(y);
  }
  void add_parameter_gradient(MatrixView<const T> x, MatrixView<const T> y_bar, VectorView<T> bar,
                              const Context<Cpu>& context) const override {
    std::vector<T> more(static_cast<std::size_t>(bar.size));
    const MatrixView<T> row(more.data(), 1, bar.size);
    const Mirror<T> in(x), cotangent(y_bar), out(row);
    device_->multiply_vjp(in.view(), cotangent.view(), {}, out.vector(), device_context(context));
    out.copy_back(row);
    for (Index p = 0; p < bar.size; ++p) bar[p] += more[static_cast<std::size_t>(p)];
  }
  void apply_low_rank(const LowRankInputs<T>& in, const LowRankOutputs<T>& out, bool transpose,
                      const Context<Cpu>& context) const override {
    const Mirror<T> a(in.a), b(in.b), x(in.x), y(out.y), row_sum(one_row(out.row_sum));
    LowRankOutputs<T, Cuda> wanted{y.view(), {}};
    if (out.row_sum) wanted.row_sum = row_sum.vector();
    if (transpose) {
      device_->multiply_low_rank_transpose({a.view(), b.view(), x.view()}, wanted, device_context(context));
    } else {
      device_->multiply_low_rank({a.view(), b.view(), x.view()}, wanted, device_context(context));
    }
    y.copy_back(out.y);
    row_sum.copy_back(one_row(out.row_sum));
  }
  void apply_low_rank_vjp(const LowRankInputs<T>& in, const LowRankCotangents<T>& bars, const LowRankGradients<T>& out,
                          const Context<Cpu>& context) const override {
    const Mirror<T> a(in.a), b(in.b), x(in.x), y_bar(bars.y),
        row_sum_bar(MatrixView<const T>(bars.row_sum.data, 1, bars.row_sum.size));
    const Mirror<T> a_bar(out.a), b_bar(out.b), x_bar(out.x), p_bar(one_row(out.parameters));
    LowRankCotangents<T, Cuda> cotangents{y_bar.view(), {}};
    if (bars.row_sum) cotangents.row_sum = row_sum_bar.vector();
    LowRankGradients<T, Cuda> wanted{a_bar.view(), b_bar.view(), x_bar.view(), {}};
    if (out.parameters) wanted.parameters = p_bar.vector();
    device_->multiply_low_rank_vjp({a.view(), b.view(), x.view()}, cotangents, wanted, device_context(context));
    a_bar.copy_back(out.a), b_bar.copy_back(out.b), x_bar.copy_back(out.x);
    p_bar.copy_back(one_row(out.parameters));
  }
  std::vector<Report> candidates(Shape shape) const override { return device_->engines(shape); }

 private:
  // The device's entries in host memory.
  struct CopiedEntries {
    Entries<T> entries;
    std::shared_ptr<std::vector<T>> table;
    std::shared_ptr<std::vector<std::int32_t>> row_key, col_key;
  };
  template <class U>
  static std::shared_ptr<std::vector<U>> copied(const U* from, Index size);
  static CopiedEntries copied_entries(const Mask<T, Cuda>& mask);
  static Context<Cuda> device_context(const Context<Cpu>& context) {
    return {nullptr, context.scratch_bytes, context.progress};
  }

  std::shared_ptr<const Mask<T, Cuda>> device_;
  CopiedEntries entries_;
};

template <class T>
template <class U>
std::shared_ptr<std::vector<U>> HostMask<T>::copied(const U* from, Index size) {
  return std::make_shared<std::vector<U>>(download(VectorView<const U, Cuda>{from, size}));
}

template <class T>
typename HostMask<T>::CopiedEntries HostMask<T>::copied_entries(const Mask<T, Cuda>& mask) {
  const Entries<T, Cuda> e = mask.entries();
  CopiedEntries c;
  if (e.kind != EntryKind::offset_table) return c;
  c.table = copied(e.table, e.table_size);
  c.row_key = copied(e.row_key, e.rows);
  c.col_key = copied(e.col_key, e.cols);
  c.entries.kind = e.kind;
  c.entries.causal = e.causal, c.entries.causal_shift = e.causal_shift;
  c.entries.rows = e.rows, c.entries.cols = e.cols;
  c.entries.table = c.table->data(), c.entries.table_size = e.table_size;
  c.entries.row_key = c.row_key->data(), c.entries.col_key = c.col_key->data();
  return c;
}

}  // namespace espalier::test
