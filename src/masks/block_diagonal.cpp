// BlockDiagonalMask: every block on its own rows.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/masks/block_diagonal.hpp>

#include "backend/elementwise.hpp"
#include "masks/composition.hpp"

namespace espalier {

namespace {

template <class T>
const CompositionSource<T>& composition(const std::shared_ptr<const EntrySource<T>>& source) {
  return static_cast<const CompositionSource<T>&>(*source);
}

template <class T, class B>
Index total(const std::vector<MaskPointer<T, B>>& blocks, Index (Mask<T, B>::*size)() const) {
  if (blocks.empty()) throw ValueError("BlockDiagonalMask: no blocks");
  Index sum = 0;
  for (const auto& b : blocks) {
    sum += (checked<T, B>(b).*size)();
  }
  return sum;
}

// count rows from `first` of a view that may be empty (not given, not wanted).
template <class V>
V some_rows(V view, Index first, Index count) {
  return view ? view.row_range(first, count) : view;
}
template <class T, class B>
VectorView<T, B> some(VectorView<T, B> v, Index first, Index count) {
  return v && count > 0 ? VectorView<T, B>{v.data + first, count} : VectorView<T, B>();
}

}  // namespace

template <class T, class B>
BlockDiagonalMask<T, B>::BlockDiagonalMask(std::vector<MaskPointer<T, B>> blocks, MaskOptions options)
    : Mask<T, B>(total<T, B>(blocks, &Mask<T, B>::rows), total<T, B>(blocks, &Mask<T, B>::cols), std::move(options)),
      blocks_(std::move(blocks)) {
  std::vector<typename CompositionSource<T>::Part> parts;
  bool entries = true;
  Index row = 0, col = 0;
  for (const auto& b : blocks_) {
    append_parameters<T, B>(b, parameters_);
    entries = entries && b->entries().kind != EntryKind::none;
    parts.push_back({b, row, col});
    row += b->rows();
    col += b->cols();
  }
  if (entries) source_ = std::make_shared<CompositionSource<T>>(std::move(parts));
}
template <class T, class B>
BlockDiagonalMask<T, B>::~BlockDiagonalMask() = default;

template <class T, class B>
Entries<T, B> BlockDiagonalMask<T, B>::entries() const {
  return source_ ? source_entries(composition<T>(source_), this->rows(), this->cols()) : Entries<T, B>();
}
template <class T, class B>
Index BlockDiagonalMask<T, B>::entries_gradient_size() const {
  return source_ ? composition<T>(source_).scratch_size() : 0;
}
template <class T, class B>
EntriesGradient<T, B> BlockDiagonalMask<T, B>::entries_gradient(T* scratch) const {
  EntriesGradient<T, B> g;
  g.source = scratch;
  return g;
}
template <class T, class B>
void BlockDiagonalMask<T, B>::fold_entries_gradient(const T* scratch, VectorView<T, B> parameter_bar,
                                                    const Context<B>& context) const {
  Index at = 0;
  for (std::size_t k = 0; k < blocks_.size(); ++k) {
    const Index count = parameter_count<T, B>(blocks_[k]);
    blocks_[k]->fold_entries_gradient(scratch + composition<T>(source_).offset(k), {parameter_bar.data + at, count}, context);
    at += count;
  }
}
template <class T, class B>
std::span<const double> BlockDiagonalMask<T, B>::parameters() const {
  return parameters_;
}
template <class T, class B>
std::shared_ptr<const Mask<T, B>> BlockDiagonalMask<T, B>::with_parameters(std::span<const double> p) const {
  check_count(p, parameters_.size());
  std::vector<MaskPointer<T, B>> blocks;
  std::size_t at = 0;
  for (const auto& b : blocks_) blocks.push_back(next_mask<T, B>(b, p, at));
  return std::make_shared<BlockDiagonalMask>(std::move(blocks), this->options());
}

template <class T, class B>
void BlockDiagonalMask<T, B>::apply(MatrixView<const T, B> x, MatrixView<T, B> y, bool transpose,
                                    const Context<B>& context) const {
  Index row = 0, col = 0;
  for (const auto& b : blocks_) {
    if (transpose) {
      b->multiply_transpose(x.row_range(row, b->rows()), y.row_range(col, b->cols()), context);
    } else {
      b->multiply(x.row_range(col, b->cols()), y.row_range(row, b->rows()), context);
    }
    row += b->rows();
    col += b->cols();
  }
}

template <class T, class B>
void BlockDiagonalMask<T, B>::add_parameter_gradient(MatrixView<const T, B> x, MatrixView<const T, B> y_bar,
                                                     VectorView<T, B> parameter_bar, const Context<B>& context) const {
  backend::Buffer<T, B> bar(parameter_bar.size);
  Index row = 0, col = 0, at = 0;
  for (const auto& b : blocks_) {
    const Index count = parameter_count<T, B>(b);
    if (count > 0) {
      b->multiply_vjp(x.row_range(col, b->cols()), y_bar.row_range(row, b->rows()), {}, {bar.data() + at, count}, context);
    }
    row += b->rows();
    col += b->cols();
    at += count;
  }
  const MatrixView<T, B> all(parameter_bar.data, 1, parameter_bar.size);
  backend::add_scaled<T, B>(T(1), bar.matrix(1, parameter_bar.size), all, context);
}

template <class T, class B>
void BlockDiagonalMask<T, B>::apply_low_rank(const LowRankInputs<T, B>& in, const LowRankOutputs<T, B>& out, bool transpose,
                                             const Context<B>& context) const {
  // to: rows of the outputs, from: rows of the keys.
  Index to = 0, from = 0;
  for (const auto& b : blocks_) {
    const Index n = transpose ? b->cols() : b->rows(), k = transpose ? b->rows() : b->cols();
    const LowRankInputs<T, B> part{in.a.row_range(to, n), in.b.row_range(from, k), in.x.row_range(from, k)};
    const LowRankOutputs<T, B> result{out.y.row_range(to, n), some(out.row_sum, to, n)};
    if (transpose) {
      b->multiply_low_rank_transpose(part, result, context);
    } else {
      b->multiply_low_rank(part, result, context);
    }
    to += n;
    from += k;
  }
}

template <class T, class B>
void BlockDiagonalMask<T, B>::apply_low_rank_vjp(const LowRankInputs<T, B>& in, const LowRankCotangents<T, B>& cotangents,
                                                 const LowRankGradients<T, B>& gradients, const Context<B>& context) const {
  Index row = 0, col = 0, at = 0;
  for (const auto& b : blocks_) {
    const Index n = b->rows(), k = b->cols(), count = parameter_count<T, B>(b);
    b->multiply_low_rank_vjp({in.a.row_range(row, n), in.b.row_range(col, k), in.x.row_range(col, k)},
                             {some_rows(cotangents.y, row, n), some(cotangents.row_sum, row, n)},
                             {some_rows(gradients.a, row, n), some_rows(gradients.b, col, k), some_rows(gradients.x, col, k),
                              some(gradients.parameters, at, count)},
                             context);
    row += n;
    col += k;
    at += count;
  }
}

template <class T, class B>
std::vector<Report> BlockDiagonalMask<T, B>::candidates(Shape shape) const {
  std::vector<Report> all = chosen_together<T, B>(blocks_, shape);
  for (Report& r : all) r.extra_bytes += sizeof(T) * parameters_.size();
  return all;
}

template class ESPALIER_EXPORT BlockDiagonalMask<float, Cpu>;
template class ESPALIER_EXPORT BlockDiagonalMask<double, Cpu>;

}  // namespace espalier
