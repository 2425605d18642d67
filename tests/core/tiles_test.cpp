// Tile products and their fused gradients, for every kind of entries with borders, causal zeros and scales, against slow loops
// in double. Run once for each instruction set (tests/CMakeLists.txt).
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/instruction_set.hpp>
#include <espalier/core/mask.hpp>
#include <espalier/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace espalier {
namespace {

enum class Form { ones, dense, toeplitz, grid, flipped, factors, sparse, source };
const std::vector<Form> kForms = {Form::ones,    Form::dense,   Form::toeplitz, Form::grid,
                                  Form::flipped, Form::factors, Form::sparse,   Form::source};
struct Case {
  Form form;
  Index rows, cols;  // with the border
  Index border_rows = 0, border_cols = 0;
  bool causal = false;
  Index causal_shift = 0;
  double scale = 1;
};

constexpr Index kRank = 11;  // of factors: one more than the kernel's chunk of 8, and odd

// Entries p (i + 1) / (j + 2) with one parameter p = 0.5.
template <class T>
class Quotients final : public EntrySource<T> {
 public:
  void fill(Index row0, Index rows, Index col0, Index cols, T* out, Index stride) const override {
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) {
        out[i * stride + j] = static_cast<T>(0.5 * static_cast<double>(row0 + i + 1) / static_cast<double>(col0 + j + 2));
      }
    }
  }
  void add_gradient(Index row0, Index rows, Index col0, Index cols, const T* bar, Index stride,
                    T* parameter_bar) const override {
    double sum = 0;
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) {
        sum += static_cast<double>(bar[i * stride + j]) * static_cast<double>(row0 + i + 1) / static_cast<double>(col0 + j + 2);
      }
    }
    parameter_bar[0] += static_cast<T>(sum);
  }
};

// A mask of the user's own: entries of one form over random numbers, which are its parameters (border last).
template <class T>
class FormMask final : public Mask<T> {
 public:
  // table: the entries of a Toeplitz form by i - j, random where empty.
  explicit FormMask(const Case& c, const std::function<double(Index)>& table = {})
      : Mask<T>(c.rows, c.cols, {.engine = "direct"}), case_(c) {
    const Index n = c.rows - c.border_rows, k = c.cols - c.border_cols;
    n_ = n, k_ = k;
    Index count = 0;
    if (c.form == Form::dense) count = n * k;
    if (c.form == Form::toeplitz || c.form == Form::flipped) {
      count = std::max<Index>(1, n + k - 1);
      for (Index i = 0; i < n; ++i)
        row_key_.push_back(static_cast<std::int32_t>(c.form == Form::toeplitz ? i + k - 1 : n - 1 - i));
      for (Index j = 0; j < k; ++j) col_key_.push_back(static_cast<std::int32_t>(c.form == Form::toeplitz ? j : j - k + 1));
      // flipped: position n - 1 - i + k - 1 - j, a Hankel matrix.
    }
    if (c.form == Form::grid) {  // lines of 14 tokens
      const Index w = 14, h = (std::max(n, k) + w - 1) / w, line = 2 * w - 1;
      count = std::max<Index>(1, (2 * h - 1) * line);
      for (Index i = 0; i < n; ++i) row_key_.push_back(static_cast<std::int32_t>((i / w + h - 1) * line + i % w + w - 1));
      for (Index j = 0; j < k; ++j) col_key_.push_back(static_cast<std::int32_t>((j / w) * line + j % w));
    }
    if (c.form == Form::factors) count = (n + k) * kRank;
    if (c.form == Form::sparse) {
      row_start_.push_back(0);
      for (Index i = 0; i < n; ++i) {
        for (Index j = 0; j < k; ++j) {
          if (Random(5).uniform(i * k + j) < 0.05 && j / 96 != 1) col_index_.push_back(static_cast<std::int32_t>(j));
        }
        row_start_.push_back(static_cast<Index>(col_index_.size()));
      }
      count = static_cast<Index>(col_index_.size());
    }
    if (c.form == Form::source) count = 1;
    const Random random(17);
    for (Index p = 0; p < count; ++p) values_.push_back(static_cast<T>(random.normal(p)));
    for (Index p = 0; table && p < count; ++p) values_[static_cast<std::size_t>(p)] = static_cast<T>(table(p - k + 1));
    if (c.form == Form::source) values_[0] = T(0.5);
    for (const double b : {0.75, -1.25, 2.0}) values_.push_back(static_cast<T>(b));
    parameters_.assign(values_.begin(), values_.end());
  }

  Entries<T> entries() const override {
    Entries<T> e;
    e.rows = case_.rows, e.cols = case_.cols;
    e.border_rows = case_.border_rows, e.border_cols = case_.border_cols;
    e.causal = case_.causal, e.causal_shift = case_.causal_shift;
    e.scale = static_cast<T>(case_.scale);
    const Index count = border_at();
    for (Index b = 0; b < 3; ++b) e.border[b] = values_[static_cast<std::size_t>(count + b)];
    e.values = values_.data();
    e.values_stride = k_;
    e.left = values_.data();
    e.right = values_.data() + n_ * kRank;
    e.left_stride = e.right_stride = e.factor_rank = kRank;
    e.table = values_.data();
    e.table_size = count;
    e.row_key = row_key_.data();
    e.col_key = col_key_.data();
    e.row_start = row_start_.data();
    e.col_index = col_index_.data();
    e.source = &source_;
    e.parameter_count = 1;
    switch (case_.form) {
      case Form::ones:
        e.kind = EntryKind::ones;
        break;
      case Form::dense:
        e.kind = EntryKind::dense;
        break;
      case Form::factors:
        e.kind = EntryKind::factors;
        break;
      case Form::sparse:
        e.kind = EntryKind::sparse;
        break;
      case Form::source:
        e.kind = EntryKind::source;
        break;
      default:
        e.kind = EntryKind::offset_table;
        break;
    }
    return e;
  }
  Index entries_gradient_size() const override { return static_cast<Index>(values_.size()); }
  EntriesGradient<T> entries_gradient(T* scratch) const override {
    EntriesGradient<T> g;
    g.border = scratch + border_at();
    switch (case_.form) {
      case Form::dense:
      case Form::sparse:
        g.values = scratch;
        break;
      case Form::factors:
        g.left = scratch, g.right = scratch + n_ * kRank;
        break;
      case Form::source:
        g.source = scratch;
        break;
      case Form::ones:
        break;
      default:
        g.table = scratch;
        break;
    }
    return g;
  }
  void fold_entries_gradient(const T* scratch, VectorView<T> bar, const Context<Cpu>&) const override {
    for (Index p = 0; p < bar.size; ++p) bar[p] += scratch[p];
  }
  std::span<const double> parameters() const override { return parameters_; }

  // The reference: entry (i, j), and f(p, dM_ij / dp) for each parameter p that it depends on.
  template <class F>
  double entry(Index i, Index j, const F& f) const {
    if (case_.causal && j - i > case_.causal_shift) return 0;
    const Index count = border_at();
    const auto value = [&](Index p) { return static_cast<double>(values_[static_cast<std::size_t>(p)]); };
    if (i < case_.border_rows || j < case_.border_cols) {
      const Index p = count + (i >= case_.border_rows ? 1 : j >= case_.border_cols ? 0 : 2);
      f(p, 1.0);
      return value(p);
    }
    i -= case_.border_rows, j -= case_.border_cols;
    const double s = static_cast<double>(static_cast<T>(case_.scale));
    const Index w = 14, h = (std::max(n_, k_) + w - 1) / w;
    Index p = 0;
    switch (case_.form) {
      case Form::ones:
        return s;
      case Form::dense:
        p = i * k_ + j;
        break;
      case Form::toeplitz:
        p = i - j + k_ - 1;
        break;
      case Form::flipped:
        p = n_ - 1 - i + k_ - 1 - j;
        break;
      case Form::grid:
        p = (i / w - j / w + h - 1) * (2 * w - 1) + i % w - j % w + w - 1;
        break;
      case Form::factors: {
        double sum = 0;
        for (Index r = 0; r < kRank; ++r) {
          const Index left = i * kRank + r, right = (n_ + j) * kRank + r;
          sum += value(left) * value(right);
          f(left, s * value(right));
          f(right, s * value(left));
        }
        return s * sum;
      }
      case Form::sparse: {
        const auto first = col_index_.begin() + row_start_[static_cast<std::size_t>(i)];
        const auto last = col_index_.begin() + row_start_[static_cast<std::size_t>(i) + 1];
        const auto found = std::find(first, last, static_cast<std::int32_t>(j));
        if (found == last) return 0;
        p = found - col_index_.begin();
        break;
      }
      case Form::source: {
        const double g = static_cast<double>(i + 1) / static_cast<double>(j + 2);
        f(Index(0), s * g);
        return s * 0.5 * g;
      }
    }
    f(p, s);
    return s * value(p);
  }

 protected:
  void apply(MatrixView<const T> x, MatrixView<T> y, bool transpose, const Context<Cpu>& context) const override {
    this->apply_by_tiles(x, y, transpose, context);
  }

 private:
  Index border_at() const { return static_cast<Index>(values_.size()) - 3; }

  Case case_;
  Index n_ = 0, k_ = 0;
  std::vector<T> values_;
  std::vector<double> parameters_;
  std::vector<std::int32_t> row_key_, col_key_, col_index_;
  std::vector<Index> row_start_;
  Quotients<T> source_;
};

// Rows x cols random numbers in a matrix with gaps between rows, which hold NaN.
template <class T>
struct Data {
  Data(Index rows_, Index cols_, std::uint64_t stream) : rows(rows_), cols(cols_), stride(cols_ + 3) {
    memory.assign(static_cast<std::size_t>(rows * stride), std::numeric_limits<T>::quiet_NaN());
    const Random random(3, stream);
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) view()(i, j) = static_cast<T>(random.normal(i * cols + j));
    }
  }
  MatrixView<T> view() { return {memory.data(), rows, cols, stride}; }
  MatrixView<const T> view() const { return {memory.data(), rows, cols, stride}; }
  bool gaps_untouched() const {
    for (Index i = 0; i < rows; ++i) {
      for (Index k = cols; k < stride; ++k) {
        if (!std::isnan(memory[static_cast<std::size_t>(i * stride + k)])) return false;
      }
    }
    return true;
  }
  Index rows, cols, stride;
  std::vector<T> memory;
};

// A sum and the sum of the absolute values of its terms, for each element.
struct Sums {
  explicit Sums(Index n) : value(static_cast<std::size_t>(n)), size(static_cast<std::size_t>(n)) {}
  void add(Index at, double term, double magnitude) {
    value[static_cast<std::size_t>(at)] += term;
    size[static_cast<std::size_t>(at)] += std::abs(magnitude);
  }
  void add(Index at, double term) { add(at, term, term); }
  std::vector<double> value, size;
};

// || y - sums ||_F / || sum of magnitudes ||_F.
template <class T>
double error(const T* y, Index rows, Index cols, Index stride, const Sums& sums) {
  double difference = 0, total = 0;
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < cols; ++j) {
      const auto at = static_cast<std::size_t>(i * cols + j);
      const double d = static_cast<double>(y[i * stride + j]) - sums.value[at];
      difference += d * d;
      total += sums.size[at] * sums.size[at];
    }
  }
  if (difference == 0) return 0;
  return std::sqrt(difference) / std::sqrt(total);
}
template <class T>
double error(const Data<T>& y, const Sums& sums) {
  return error(y.memory.data(), y.rows, y.cols, y.stride, sums);
}

template <class T>
constexpr double kBound = sizeof(T) == sizeof(float) ? 1e-6 : 1e-12;

std::string describe(const Case& c) {
  return "form " + std::to_string(static_cast<int>(c.form)) + ", " + std::to_string(c.rows) + " x " + std::to_string(c.cols) +
         ", border " + std::to_string(c.border_rows) + " " + std::to_string(c.border_cols) + ", causal " +
         std::to_string(c.causal) + " shift " + std::to_string(c.causal_shift) + ", scale " + std::to_string(c.scale);
}

template <class T>
void check_products(const Case& c, Index m, Index width, const Context<Cpu>& context) {
  const FormMask<T> mask(c);
  CAPTURE(describe(c));
  CAPTURE(m);
  CAPTURE(width);
  const auto nothing = [](Index, double) {};
  for (const bool transpose : {false, true}) {
    CAPTURE(transpose);
    const Index to = transpose ? c.cols : c.rows, from = transpose ? c.rows : c.cols;
    const Data<T> a(to, m, 1), b(from, m, 2), x(from, width, 3);
    Data<T> y(to, width, 4), z(to, width, 5);
    std::vector<T> r(static_cast<std::size_t>(to), T(7));
    Sums plain(to * width), product(to * width), row_sum(to);
    for (Index i = 0; i < to; ++i) {
      for (Index j = 0; j < from; ++j) {
        const double e = transpose ? mask.entry(j, i, nothing) : mask.entry(i, j, nothing);
        double s = 0, s_size = 0;
        for (Index k = 0; k < m; ++k) {
          const double term = static_cast<double>(a.view()(i, k)) * static_cast<double>(b.view()(j, k));
          s += term;
          s_size += std::abs(term);
        }
        row_sum.add(i, e * s, e * s_size);
        for (Index k = 0; k < width; ++k) {
          const double v = static_cast<double>(x.view()(j, k));
          plain.add(i * width + k, e * v);
          product.add(i * width + k, e * s * v, e * s_size * v);
        }
      }
    }
    const LowRankInputs<T> in{a.view(), b.view(), x.view()};
    if (transpose) {
      mask.multiply_transpose(x.view(), z.view(), context);
      mask.multiply_low_rank_transpose(in, {y.view(), {r.data(), to}}, context);
    } else {
      mask.multiply(x.view(), z.view(), context);
      mask.multiply_low_rank(in, {y.view(), {r.data(), to}}, context);
    }
    CHECK(error(z, plain) <= kBound<T>);
    CHECK(error(y, product) <= kBound<T>);
    CHECK(y.gaps_untouched());
    CHECK(error(r.data(), to, 1, 1, row_sum) <= kBound<T>);
  }
}

// Which gradients are asked for, and which cotangents are given.
struct Wanted {
  bool a = true, b = true, x = true, parameters = true, y_bar = true, r_bar = true;
};

template <class T>
struct Gradients {
  Gradients(const Case& c, Index m, Index width, Index parameters_)
      : a(c.rows, m, 11), b(c.cols, m, 12), x(c.cols, width, 13), parameters(static_cast<std::size_t>(parameters_), T(9)) {}
  Data<T> a, b, x;
  std::vector<T> parameters;
};

template <class T>
void run_vjp(const FormMask<T>& mask, const LowRankInputs<T>& in, const Data<T>& y_bar, std::vector<T>& r_bar,
             const Wanted& wanted, Gradients<T>& g, const Context<Cpu>& context) {
  LowRankGradients<T> out;
  if (wanted.a) out.a = g.a.view();
  if (wanted.b) out.b = g.b.view();
  if (wanted.x) out.x = g.x.view();
  if (wanted.parameters) out.parameters = {g.parameters.data(), static_cast<Index>(g.parameters.size())};
  LowRankCotangents<T> bars;
  if (wanted.y_bar) bars.y = y_bar.view();
  if (wanted.r_bar) bars.row_sum = {r_bar.data(), static_cast<Index>(r_bar.size())};
  mask.multiply_low_rank_vjp(in, bars, out, context);
}

template <class T>
void check_gradients(const Case& c, Index m, Index width, const Wanted& wanted, const Context<Cpu>& context) {
  const FormMask<T> mask(c);
  CAPTURE(describe(c));
  CAPTURE(m);
  CAPTURE(width);
  const Data<T> a(c.rows, m, 1), b(c.cols, m, 2), x(c.cols, width, 3), y_bar(c.rows, width, 4);
  std::vector<T> r_bar;
  for (Index i = 0; i < c.rows; ++i) r_bar.push_back(static_cast<T>(Random(8).normal(i)));
  const Index count = mask.entries_gradient_size();
  Sums a_bar(c.rows * m), b_bar(c.cols * m), x_bar(c.cols * width), parameter_bar(count), plain_bar(count);
  for (Index i = 0; i < c.rows; ++i) {
    for (Index j = 0; j < c.cols; ++j) {
      double s = 0, s_size = 0, w = 0, w_size = 0, v = 0, v_size = 0;
      for (Index k = 0; k < m; ++k) {
        const double term = static_cast<double>(a.view()(i, k)) * static_cast<double>(b.view()(j, k));
        s += term, s_size += std::abs(term);
      }
      for (Index k = 0; k < width; ++k) {
        const double term = static_cast<double>(y_bar.view()(i, k)) * static_cast<double>(x.view()(j, k));
        v += term, v_size += std::abs(term);
      }
      if (wanted.y_bar) w = v, w_size = v_size;
      if (wanted.r_bar) {
        w += static_cast<double>(r_bar[static_cast<std::size_t>(i)]);
        w_size += std::abs(static_cast<double>(r_bar[static_cast<std::size_t>(i)]));
      }
      const double e = mask.entry(i, j, [&](Index p, double slope) {
        parameter_bar.add(p, s * w * slope, s_size * w_size * slope);
        plain_bar.add(p, v * slope, v_size * slope);
      });
      for (Index k = 0; k < m; ++k) {
        a_bar.add(i * m + k, e * w * static_cast<double>(b.view()(j, k)), e * w_size * static_cast<double>(b.view()(j, k)));
        b_bar.add(j * m + k, e * w * static_cast<double>(a.view()(i, k)), e * w_size * static_cast<double>(a.view()(i, k)));
      }
      for (Index k = 0; wanted.y_bar && k < width; ++k) {
        const double t = static_cast<double>(y_bar.view()(i, k));
        x_bar.add(j * width + k, e * s * t, e * s_size * t);
      }
    }
  }
  Gradients<T> g(c, m, width, count);
  run_vjp(mask, {a.view(), b.view(), x.view()}, y_bar, r_bar, wanted, g, context);
  if (wanted.a) CHECK(error(g.a, a_bar) <= kBound<T>);
  if (wanted.b) CHECK(error(g.b, b_bar) <= kBound<T>);
  if (wanted.x) CHECK(error(g.x, x_bar) <= kBound<T>);
  if (wanted.parameters) CHECK(error(g.parameters.data(), 1, count, count, parameter_bar) <= kBound<T>);
  mask.multiply_vjp(x.view(), y_bar.view(), {}, {g.parameters.data(), count}, context);
  CHECK(error(g.parameters.data(), 1, count, count, plain_bar) <= kBound<T>);
}

const std::vector<Index> kSizes = {1, 2, 3, 7, 8, 13, 64, 101, 197};
const std::vector<Index> kWidths = {1, 3, 33, 64};

// Shapes and decorations, spread over the cases so that each form meets each of them.
template <class F>
void over_cases(const F& f) {
  Index turn = 0;
  for (const Form form : kForms) {
    for (const Index n : kSizes) {
      const Index m = kWidths[static_cast<std::size_t>(turn % 4)], c = kWidths[static_cast<std::size_t>(turn / 4 % 4)];
      f(Case{form, n, n}, m, c);
      f(Case{form, n, n + turn % 5, 0, 0, true, turn % 3 - 1, 0.5}, c, m);
      if (n > 2) f(Case{form, n, n - 1, 1, 2, turn % 2 == 0, 1, -1.5}, m, m);
      if (n > 2) f(Case{form, n + 1, n, 0, 1, false, 0, 1.0}, c, c);
      ++turn;
    }
  }
}

}  // namespace

TEST_CASE("the instruction set in use is one that the machine has") {
  const std::vector<std::string> sets = instruction_sets();
  CHECK(std::find(sets.begin(), sets.end(), instruction_set()) != sets.end());
}

TEST_CASE_TEMPLATE("products equal the slow loop for every kind of entries", T, float, double) {
  over_cases([](const Case& c, Index m, Index width) { check_products<T>(c, m, width, {.threads = 1}); });
}

TEST_CASE_TEMPLATE("gradients equal the slow loop for every kind of entries", T, float, double) {
  over_cases([](const Case& c, Index m, Index width) { check_gradients<T>(c, m, width, {}, {.threads = 1}); });
}

TEST_CASE_TEMPLATE("several stripes and little scratch memory", T, float, double) {
  for (const Form form : kForms) {
    const Case c{form, 150, 1100, form == Form::factors ? 0 : 1, 0, form == Form::grid, 900, 0.25};
    check_products<T>(c, 5, 9, {.threads = 2, .scratch_bytes = 20000});
    check_gradients<T>(c, 5, 9, {}, {.threads = 2});
  }
}

TEST_CASE_TEMPLATE("borders that end inside a later tile", T, float, double) {
  for (const Form form : kForms) {
    if (form == Form::factors) continue;  // tested with narrow borders; its slow loop is the slowest
    const Case c{form, 270, 250, 131, 99, form == Form::grid, 60, -0.5};
    check_products<T>(c, 5, 9, {.threads = 1});
    check_gradients<T>(c, 5, 9, {}, {.threads = 1});
  }
}

// Few rows read columns of x where they lie, unless rows of x are about a page apart; then, and for many rows, they are packed.
TEST_CASE_TEMPLATE("the same bits for any distance of the rows", T, float, double) {
  const FormMask<T> mask({Form::grid, 197, 197, 1, 1});
  for (const Index width : {4, 12, 24, 32, 60, 64, 128}) {
    const Data<T> a(197, 64, 1), b(197, 64, 2), near(197, width, 3);
    const Index far_stride = 1024 / static_cast<Index>(sizeof(T)) + 5;
    std::vector<T> far(static_cast<std::size_t>(197 * far_stride), std::numeric_limits<T>::quiet_NaN());
    const MatrixView<T> apart(far.data(), 197, width, far_stride);
    for (Index i = 0; i < 197; ++i) std::copy_n(near.view().row(i), width, apart.row(i));
    Data<T> y(197, width, 4), z(197, width, 5);
    mask.multiply_low_rank({a.view(), b.view(), near.view()}, {y.view()});
    mask.multiply_low_rank({a.view(), b.view(), apart}, {z.view()});
    CHECK(std::memcmp(y.memory.data(), z.memory.data(), y.memory.size() * sizeof(T)) == 0);
    // Sums that underflow to zero from below: +0 both ways.
    const T tiny = sizeof(T) == 4 ? T(1e-15) : T(1e-150), small = -tiny * tiny;
    const std::vector<T> ones(197 * 64, tiny);
    const MatrixView<const T> factor(ones.data(), 197, 64);
    for (Index i = 0; i < 197; ++i) std::fill_n(apart.row(i), width, small);
    Data<T> tiny_x(197, width, 3);
    for (Index i = 0; i < 197; ++i) std::fill_n(tiny_x.view().row(i), width, small);
    mask.multiply_low_rank({factor, factor, tiny_x.view()}, {y.view()});
    mask.multiply_low_rank({factor, factor, apart}, {z.view()});
    CHECK(std::memcmp(y.memory.data(), z.memory.data(), y.memory.size() * sizeof(T)) == 0);
  }
}

// With few rows and whole vectors of columns these lie along the lanes of the tile: every height of it, rows beyond the mask's
// last, results that start from zeros, tiles left out at the beginning, in the middle and all of them, sources in pieces.
TEST_CASE_TEMPLATE("few rows with columns along lanes", T, float, double) {
  for (Index n = 1; n <= 40; ++n) check_products<T>({Form::toeplitz, n, 150 - n}, n % 7 + 1, 64, {.threads = 1});
  for (const Form form : kForms) {
    for (const Index width : {Index{32}, Index{64}, Index{128}}) {
      check_products<T>({form, 131, 113, 1, 1, false, 0, 0.5}, 3, width, {.threads = 2});
      check_products<T>({form, 256, 90, 0, 0, true, -140}, 2, width, {.threads = 1});
    }
    check_products<T>({form, 90, 200, 0, 0, true, -100}, 2, 64, {.threads = 1});  // nothing is visible
    check_products<T>({form, 101, 700, 0, 0, true, 250, 1.0}, 5, 64, {.threads = 2, .scratch_bytes = 20000});
  }
}

TEST_CASE_TEMPLATE("gradients not wanted and cotangents not given", T, float, double) {
  for (int bits = 1; bits < 64; ++bits) {
    const Wanted w{(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0, (bits & 16) != 0, (bits & 32) != 0};
    check_gradients<T>({Form::toeplitz, 70, 130, 0, 0, true, 40, 2.0}, 6, 10, w, {.threads = 1});
  }
}

TEST_CASE_TEMPLATE("the same bits for any number of threads", T, float, double) {
  for (const Form form : kForms) {
    const Case c{form, 300, 1200, 0, 0, true, 600};
    const FormMask<T> mask(c);
    const Index m = 17, width = 20, count = mask.entries_gradient_size();
    const Data<T> a(c.rows, m, 1), b(c.cols, m, 2), x(c.cols, width, 3), y_bar(c.rows, width, 4);
    std::vector<T> r_bar(static_cast<std::size_t>(c.rows), T(0.5));
    const auto all = [&](int threads) {
      const Context<Cpu> context{.threads = threads};
      const LowRankInputs<T> in{a.view(), b.view(), x.view()};
      std::vector<T> bits;
      Data<T> y(c.rows, width, 5);
      mask.multiply_low_rank(in, {y.view()}, context);
      bits.insert(bits.end(), y.memory.begin(), y.memory.end());
      mask.multiply(x.view(), y.view(), context);
      bits.insert(bits.end(), y.memory.begin(), y.memory.end());
      Gradients<T> g(c, m, width, count);
      run_vjp(mask, in, y_bar, r_bar, {}, g, context);
      for (const auto* v : {&g.a.memory, &g.b.memory, &g.x.memory, &g.parameters})
        bits.insert(bits.end(), v->begin(), v->end());
      return bits;
    };
    const std::vector<T> one = all(1);
    for (const int threads : {1, 2, 3}) {
      const std::vector<T> other = all(threads);
      CHECK(std::memcmp(one.data(), other.data(), one.size() * sizeof(T)) == 0);
    }
  }
}

TEST_CASE_TEMPLATE("NaN passes through to the rows it meets, and to no others", T, float, double) {
  const FormMask<T> mask({Form::toeplitz, 40, 40});
  Data<T> a(40, 5, 1), b(40, 5, 2), x(40, 7, 3), y(40, 7, 4);
  a.view()(13, 2) = std::numeric_limits<T>::quiet_NaN();
  mask.multiply_low_rank({a.view(), b.view(), x.view()}, {y.view()});
  for (Index i = 0; i < 40; ++i) CHECK(std::isnan(y.view()(i, 3)) == (i == 13));
}

TEST_CASE("a table that runs into subnormal numbers: right, and no slower") {
  const Index n = 1500, m = 16;
  const auto decay = [](double rate) { return [rate](Index d) { return std::exp(-rate * std::abs(static_cast<double>(d))); }; };
  const Data<float> a(n, m, 1), b(n, m, 2), x(n, m, 3);
  const auto run = [&](double rate, Data<float>& y) {
    const FormMask<float> mask({Form::toeplitz, n, n}, decay(rate));
    double least = std::numeric_limits<double>::infinity();
    for (int k = 0; k < 9; ++k) {
      const std::clock_t start = std::clock();
      mask.multiply_low_rank({a.view(), b.view(), x.view()}, {y.view()}, {.threads = 1});
      least = std::min(least, static_cast<double>(std::clock() - start));
    }
    return least;
  };
  Data<float> slow(n, m, 4), fast(n, m, 5);
  const double subnormal = run(0.1, slow), normal = run(0.001, fast);
  // Without flush-to-zero 5 to 10; 1.0 measured on a quiet machine, and room for other work on this one.
  CHECK(subnormal <= 2 * normal);
  Sums sums(n * m);
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j) {
      double s = 0;
      for (Index k = 0; k < m; ++k) s += static_cast<double>(a.view()(i, k)) * static_cast<double>(b.view()(j, k));
      s *= decay(0.1)(i - j);
      for (Index k = 0; k < m; ++k) sums.add(i * m + k, s * static_cast<double>(x.view()(j, k)));
    }
  }
  CHECK(error(slow, sums) <= kBound<float>);
}

#if defined(__SSE__)
TEST_CASE("the caller's floating-point state survives a call and a throw") {
  const unsigned before = _mm_getcsr();
  const unsigned odd = (before & ~0x8040u) | 0x6000u;  // round to zero, subnormals kept
  const FormMask<float> mask({Form::toeplitz, 300, 300});
  Data<float> a(300, 5, 1), b(300, 5, 2), x(300, 7, 3), y(300, 7, 4);
  _mm_setcsr(odd);
  mask.multiply_low_rank({a.view(), b.view(), x.view()}, {y.view()}, {.threads = 2});
  CHECK((_mm_getcsr() & ~0x3fu) == (odd & ~0x3fu));
  Progress progress;
  std::stop_source stop;
  progress.stop = stop.get_token();
  stop.request_stop();
  CHECK_THROWS(mask.multiply_low_rank({a.view(), b.view(), x.view()}, {y.view()}, {.threads = 2, .progress = &progress}));
  CHECK((_mm_getcsr() & ~0x3fu) == (odd & ~0x3fu));
  _mm_setcsr(before);
}
#endif

}  // namespace espalier
