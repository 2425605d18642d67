// Every allocation of a product, counted: malloc and its family, operator new and mmap stay within what the report says.
// SPDX-License-Identifier: Apache-2.0
//
// The functions below take the place of the C library's for this whole program, the libraries it loads included.
#include <espalier/attention/softmax.hpp>
#include <espalier/attention/top_k.hpp>
#include <espalier/masks/combinators.hpp>
#include <espalier/masks/dense.hpp>
#include <espalier/masks/diffusion.hpp>
#include <espalier/masks/grid.hpp>
#include <espalier/masks/low_rank.hpp>
#include <espalier/masks/ones.hpp>
#include <espalier/masks/tree_distance.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <doctest/doctest.h>

// Sanitizers bring an allocator of their own, and other C libraries other names.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ESPALIER_OTHER_ALLOCATOR
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define ESPALIER_OTHER_ALLOCATOR
#endif

#ifndef ESPALIER_OTHER_ALLOCATOR
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

std::atomic<std::ptrdiff_t> live{0}, peak{0};

void add(std::ptrdiff_t bytes) {
  const std::ptrdiff_t now = live.fetch_add(bytes) + bytes;
  std::ptrdiff_t seen = peak.load();
  while (now > seen && !peak.compare_exchange_weak(seen, now)) {
  }
}
void* counted(void* p) {
  if (p != nullptr) add(static_cast<std::ptrdiff_t>(malloc_usable_size(p)));
  return p;
}

}  // namespace

extern "C" {

void* __libc_malloc(std::size_t);
void __libc_free(void*);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t n) noexcept {
  return counted(__libc_malloc(n));
}
void* calloc(std::size_t n, std::size_t size) noexcept {
  return counted(__libc_calloc(n, size));
}
void* memalign(std::size_t alignment, std::size_t n) noexcept {
  return counted(__libc_memalign(alignment, n));
}
void* aligned_alloc(std::size_t alignment, std::size_t n) noexcept {
  return counted(__libc_memalign(alignment, n));
}
int posix_memalign(void** p, std::size_t alignment, std::size_t n) noexcept {
  *p = counted(__libc_memalign(alignment, n));
  return *p == nullptr ? ENOMEM : 0;
}
void free(void* p) noexcept {
  if (p != nullptr) add(-static_cast<std::ptrdiff_t>(malloc_usable_size(p)));
  __libc_free(p);
}
void* realloc(void* p, std::size_t n) noexcept {
  // Old and new exist side by side while one is copied to the other.
  const auto before = p == nullptr ? 0 : static_cast<std::ptrdiff_t>(malloc_usable_size(p));
  void* q = counted(__libc_realloc(p, n));
  if (q != nullptr || n == 0) add(-before);
  return q;
}
void* mmap(void* address, std::size_t n, int protection, int flags, int file, off_t offset) noexcept {
  void* p = reinterpret_cast<void*>(syscall(SYS_mmap, address, n, protection, flags, file, offset));
  if (p != MAP_FAILED) add(static_cast<std::ptrdiff_t>(n));
  return p;
}
int munmap(void* p, std::size_t n) noexcept {
  const auto result = static_cast<int>(syscall(SYS_munmap, p, n));
  if (result == 0) add(-static_cast<std::ptrdiff_t>(n));
  return result;
}

}  // extern "C"

namespace es = espalier;
using es::Index;

namespace {

// The most bytes that were alive at once during the call, beyond those alive before it.
template <class F>
std::size_t bytes_during(const F& call) {
  const std::ptrdiff_t before = live.load();
  peak.store(before);
  call();
  return static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, peak.load() - before));
}

std::size_t at(Index i) {
  return static_cast<std::size_t>(i);
}

// ---- masks -----------------------------------------------------------------------------------------------------------

template <class T>
using Make = std::function<es::MaskPointer<T>(Index length)>;

template <class T>
struct Case {
  std::string name;
  Make<T> make;
  bool forms_matrix = false;  // its engine keeps L x L entries, as the report says
  Index least = 0;            // shorter ones have no such engine
};

template <class O = es::MaskOptions>
O forced(const std::string& engine) {
  O o;
  o.engine = engine;
  return o;
}

std::shared_ptr<const es::Tree> binary_tree(Index n) {
  std::vector<Index> parent(at(n), -1);
  for (Index v = 1; v < n; ++v) parent[at(v)] = (v - 1) / 2;
  return std::make_shared<const es::Tree>(parent);
}

// A ring with chords.
std::shared_ptr<const es::Graph> ring(Index n) {
  std::vector<es::Edge> edges;
  for (Index v = 0; v + 1 < n; ++v) edges.push_back({v, v + 1});
  for (Index v = 0; v + 7 < n; v += 3) edges.push_back({v, v + 7});
  return std::make_shared<const es::Graph>(n, edges);
}

template <class T>
Make<T> grid(const std::string& engine, bool causal = false) {
  return [=](Index n) {
    auto o = forced<es::GridOptions>(engine);
    o.causal = causal;
    return std::make_shared<es::GridMask<T>>(std::vector<Index>{n}, es::Exponential{0.01, 1}, es::Distance::l1, o);
  };
}
template <class T>
Make<T> sequence(const std::string& engine) {
  return [=](Index n) {
    auto o = forced<es::GridOptions>(engine);
    o.tolerance = 1e-5;
    const es::DistanceFunction f = engine == "piecewise"
                                       ? es::DistanceFunction(es::logarithmic_buckets(std::vector<double>(32, 0.5), 400))
                                   : engine == "band" ? es::DistanceFunction(es::Gaussian{20})
                                                      : es::DistanceFunction(es::Rational{16});
    return std::make_shared<es::GridMask<T>>(std::vector<Index>{n}, f, es::Distance::l1, o);
  };
}
template <class T>
Make<T> image(const std::string& engine) {
  return [=](Index n) {
    std::vector<double> table(at((2 * (n / 16) - 1) * 31), 0.25);
    return std::make_shared<es::GridMask<T>>(std::vector<Index>{n / 16, 16}, table, forced<es::GridOptions>(engine));
  };
}
template <class T>
Make<T> far_field() {
  return [=](Index n) {
    auto o = forced<es::GridOptions>("far-field");
    o.tolerance = 1e-5;
    return std::make_shared<es::GridMask<T>>(std::vector<Index>{n / 32, 32}, es::Rational{16}, es::Distance::l2, o);
  };
}
template <class T>
Make<T> tree(const std::string& engine) {
  return [=](Index n) {
    auto o = forced<es::TreeOptions>(engine);
    o.learn_edge_weights = true;
    return std::make_shared<es::TreeDistanceMask<T>>(binary_tree(n), es::AffineExponential{{-0.5}}, o);
  };
}
template <class T>
Make<T> forest() {
  return [](Index n) {
    std::vector<Index> parent(at(n), -1);
    for (Index v = 0; v < n; ++v) parent[at(v)] = v % 9 == 0 ? -1 : v - 1;
    es::TreeOptions o;
    o.between_trees = 0.1;
    o.engine = "sweep";
    return std::make_shared<es::TreeDistanceMask<T>>(std::make_shared<const es::Tree>(parent), es::AffineExponential{{-0.5}},
                                                     o);
  };
}
template <class T>
Make<T> diffusion(const std::string& engine) {
  return [=](Index n) {
    return std::make_shared<es::DiffusionMask<T>>(ring(n), 3.0, es::GraphOperator::laplacian, forced(engine));
  };
}
template <class T>
Make<T> low_rank(const std::string& engine) {
  return [=](Index n) {
    const std::vector<double> f(at(n * 5), 0.5);
    return std::make_shared<es::LowRankMask<T>>(es::MatrixView<const double>(f.data(), n, 5), es::MatrixView<const double>(),
                                                forced(engine));
  };
}
template <class T>
Make<T> ones(const std::string& engine, bool causal) {
  return [=](Index n) { return std::make_shared<es::OnesMask<T>>(n, n, causal, 0, forced(engine)); };
}
template <class T>
Make<T> dense() {
  return [](Index n) {
    const std::vector<double> m(at(n * n), 0.5);
    return std::make_shared<es::DenseMask<T>>(es::MatrixView<const double>(m.data(), n, n));
  };
}

template <class T>
Make<T> bordered(const Make<T>& inner) {
  return [=](Index n) { return std::make_shared<es::BorderedMask<T>>(inner(n - 16), 16, es::BorderWeights{0.5, 0.25, 2}); };
}
template <class T>
Make<T> sum(const Make<T>& p, const Make<T>& q) {
  return [=](Index n) { return std::make_shared<es::SumMask<T>>(std::vector<es::MaskPointer<T>>{p(n), q(n)}); };
}
template <class T>
Make<T> scaled(const Make<T>& inner) {
  return [=](Index n) { return std::make_shared<es::ScaledMask<T>>(inner(n), 1.5); };
}
template <class T>
Make<T> blocks(const Make<T>& p, const Make<T>& q) {
  return [=](Index n) {
    return std::make_shared<es::BlockDiagonalMask<T>>(std::vector<es::MaskPointer<T>>{p(n / 2), q(n - n / 2)});
  };
}
template <class T>
Make<T> causal(const Make<T>& inner) {
  return [=](Index n) { return std::make_shared<es::CausalMask<T>>(inner(n)); };
}

bool has_fft() {
  const auto engines = es::GridMask<float>({32}, es::Exponential{0.01, 1}).engines({});
  return std::any_of(engines.begin(), engines.end(), [](const es::Report& r) { return r.engine == "fft"; });
}

template <class T>
std::vector<Case<T>> cases() {
  const auto sweep = tree<T>("sweep"), chebyshev = diffusion<T>("chebyshev"), direct = grid<T>("direct");
  std::vector<Case<T>> all = {
      {"ones", ones<T>("prefix", false)},
      {"ones, causal", ones<T>("prefix", true)},
      {"ones, direct", ones<T>("direct", true)},
      {"dense", dense<T>(), true},
      {"low rank", low_rank<T>("factors")},
      {"low rank, direct", low_rank<T>("direct")},
      {"grid, direct", direct},
      {"grid, causal", grid<T>("direct", true)},
      {"image, direct", image<T>("direct")},
      {"sequence, exponentials", sequence<T>("exponentials"), false, 512},
      {"sequence, band", sequence<T>("band"), false, 512},
      {"sequence, piecewise", sequence<T>("piecewise"), false, 512},
      {"image, far field", far_field<T>(), false, 512},
      {"tree, sweep", sweep},
      {"tree, dense", tree<T>("dense"), true},
      {"forest, sweep", forest<T>()},
      {"diffusion, chebyshev", chebyshev},
      {"bordered direct", bordered<T>(direct)},
      {"bordered sweep", bordered<T>(sweep)},
      {"bordered chebyshev", bordered<T>(chebyshev)},
      {"sum of direct", sum<T>(direct, image<T>("direct"))},
      {"sum of sweep and chebyshev", sum<T>(sweep, chebyshev)},
      {"scaled direct", scaled<T>(direct)},
      {"scaled sweep", scaled<T>(sweep)},
      {"blocks of direct and ones", blocks<T>(direct, ones<T>("prefix", true))},
      {"blocks of sweep and chebyshev", blocks<T>(sweep, chebyshev)},
      {"causal direct", causal<T>(direct)},
      {"causal low rank", causal<T>(low_rank<T>("auto"))},
      {"causal chebyshev", causal<T>(chebyshev), true},
  };
  if (has_fft()) {
    const auto spectral = grid<T>("fft");
    for (Case<T>& more : std::vector<Case<T>>{{"grid, fft", spectral},
                                              {"image, fft", image<T>("fft")},
                                              {"bordered fft", bordered<T>(spectral)},
                                              {"sum of fft and sweep", sum<T>(spectral, sweep)},
                                              {"scaled fft", scaled<T>(spectral)},
                                              {"blocks of fft and sweep", blocks<T>(spectral, sweep)}}) {
      all.push_back(std::move(more));
    }
  }
  return all;
}

// ---- products --------------------------------------------------------------------------------------------------------

// Arguments of every product of one size; made before anything is counted.
template <class T>
struct Arrays {
  Arrays(const es::Mask<T>& mask, Index features, Index columns)
      : n(mask.rows()),
        m(features),
        c(columns),
        a(at(n * m), T(0.5)),
        b(a),
        x(at(n * c), T(0.25)),
        y_bar(x),
        r_bar(at(n), T(1)),
        y(x),
        r(r_bar),
        a_bar(a),
        b_bar(a),
        x_bar(x),
        p_bar(mask.parameters().size(), T(0)) {}

  es::LowRankInputs<T> in() const { return {{a.data(), n, m}, {b.data(), n, m}, {x.data(), n, c}}; }
  es::LowRankOutputs<T> out() { return {{y.data(), n, c}, {r.data(), n}}; }
  es::LowRankCotangents<T> bars() const { return {{y_bar.data(), n, c}, {r_bar.data(), n}}; }
  es::VectorView<T> parameters() { return {p_bar.empty() ? nullptr : p_bar.data(), static_cast<Index>(p_bar.size())}; }
  es::LowRankGradients<T> gradients() {
    return {{a_bar.data(), n, m}, {b_bar.data(), n, m}, {x_bar.data(), n, c}, parameters()};
  }

  Index n, m, c;
  std::vector<T> a, b, x, y_bar, r_bar, y, r, a_bar, b_bar, x_bar, p_bar;
};

// A new mask each time: what it makes on first need and keeps counts as well.
template <class T>
class Measured {
 public:
  Measured(const Case<T>& one, Index length, Index m, Index c, const es::Context<es::Cpu>& context)
      : one_(one), length_(length), m_(m), c_(c), context_(context) {}

  std::size_t multiply(bool transpose) const {
    return during([&](const es::Mask<T>& mask, Arrays<T>& r) {
      const es::MatrixView<const T> x(r.x.data(), r.n, c_);
      const es::MatrixView<T> y(r.y.data(), r.n, c_);
      transpose ? mask.multiply_transpose(x, y, context_) : mask.multiply(x, y, context_);
    });
  }
  std::size_t low_rank(bool transpose) const {
    return during([&](const es::Mask<T>& mask, Arrays<T>& r) {
      transpose ? mask.multiply_low_rank_transpose(r.in(), r.out(), context_)
                : mask.multiply_low_rank(r.in(), r.out(), context_);
    });
  }
  std::size_t multiply_vjp() const {
    return during([&](const es::Mask<T>& mask, Arrays<T>& r) {
      mask.multiply_vjp({r.x.data(), r.n, c_}, {r.y_bar.data(), r.n, c_}, {r.x_bar.data(), r.n, c_}, r.parameters(), context_);
    });
  }
  std::size_t low_rank_vjp() const {
    return during(
        [&](const es::Mask<T>& mask, Arrays<T>& r) { mask.multiply_low_rank_vjp(r.in(), r.bars(), r.gradients(), context_); });
  }

 private:
  template <class F>
  std::size_t during(const F& product) const {
    const es::MaskPointer<T> mask = one_.make(length_);
    Arrays<T> arrays(*mask, m_, c_);
    return bytes_during([&] { product(*mask, arrays); });
  }
  const Case<T>& one_;
  Index length_, m_, c_;
  es::Context<es::Cpu> context_;
};

es::Context<es::Cpu> context_of(int threads, std::size_t scratch_bytes = es::Context<es::Cpu>{}.scratch_bytes) {
  es::Context<es::Cpu> context;
  context.threads = threads;
  context.scratch_bytes = scratch_bytes;
  return context;
}

struct Size {
  Index length, m, c;
};

// Arguments, gradients and parameters of a masked product's vjp.
template <class T>
std::size_t argument_bytes(Index n, Index m, Index c, std::size_t parameters) {
  return sizeof(T) * (at(n * (4 * m + 4 * c + 2)) + parameters);
}

}  // namespace

TEST_CASE("the counters see every way to take memory") {
  const std::size_t n = std::size_t{1} << 20;
  const auto seen = [&](const auto& take) {
    const std::size_t bytes = bytes_during(take);
    return bytes >= n && bytes < n + 8192;
  };
  const std::ptrdiff_t before = live.load();
  CHECK(seen([&] { std::free(std::malloc(n)); }));
  CHECK(seen([&] { std::free(std::calloc(n / 8, 8)); }));
  CHECK(seen([&] { std::free(std::realloc(nullptr, n)); }));
  CHECK(seen([&] { std::free(std::aligned_alloc(64, n)); }));
  CHECK(seen([&] { std::vector<char>(n).swap(*std::make_unique<std::vector<char>>()); }));
  CHECK(seen([&] { ::operator delete (::operator new (n, std::align_val_t{64}), std::align_val_t{64}); }));
  CHECK(seen([&] {
    void* p = nullptr;
    if (posix_memalign(&p, 64, n) == 0) std::free(p);
  }));
  CHECK(seen([&] {
    void* p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(p, n);
  }));
  CHECK(live.load() == before);
}

TEST_CASE_TEMPLATE("products stay within report().extra_bytes, whatever the threads", T, float, double) {
  for (const Case<T>& one : cases<T>()) {
    for (const Size size : {Size{96, 3, 5}, {512, 24, 40}, {2048, 40, 24}, {1024, 1, 1}}) {
      const Index length = size.length, m = size.m, c = size.c;
      if (length < one.least) continue;
      const es::MaskPointer<T> mask = one.make(length);
      const std::size_t plain = mask->report({.columns = c}).extra_bytes;
      const std::size_t masked = mask->report({.columns = c, .rank = m}).extra_bytes;
      for (const int threads : {1, 2, 7}) {
        CAPTURE(one.name);
        CAPTURE(length);
        CAPTURE(m);
        CAPTURE(threads);
        const Measured<T> measured(one, length, m, c, context_of(threads));
        CHECK(measured.multiply(false) <= plain);
        CHECK(measured.multiply(true) <= plain);
        CHECK(measured.low_rank(false) <= masked);
        CHECK(measured.low_rank(true) <= masked);
      }
    }
  }
}

// Plans, the circulant in double and the spectrum of the first product count as well: few columns do not hide them.
TEST_CASE_TEMPLATE("the first FFT product of few columns stays within report().extra_bytes", T, float, double) {
  if (!has_fft()) return;
  for (const std::vector<Index>& sizes :
       {std::vector<Index>{256, 256}, {3, 5000}, {7, 11, 13}, {20, 30, 40}, {1 << 17}, {65537}, {31, 1, 257}}) {
    const Case<T> one{"fft", [&](Index) {
                        return std::make_shared<es::GridMask<T>>(sizes, es::Exponential{0.01, 1}, es::Distance::l1,
                                                                 forced<es::GridOptions>("fft"));
                      }};
    const es::MaskPointer<T> mask = one.make(0);
    CAPTURE(mask->rows());
    for (const Index c : {1, 2, 3}) {
      const std::size_t plain = mask->report({.columns = c}).extra_bytes;
      const std::size_t masked = mask->report({.columns = c, .rank = 1}).extra_bytes;
      for (const int threads : {1, 2}) {
        CAPTURE(c);
        CAPTURE(threads);
        const Measured<T> measured(one, 0, 1, c, context_of(threads));
        const std::size_t product = measured.multiply(false), low_rank = measured.low_rank(false);
        CHECK(product <= plain);
        CHECK(low_rank <= masked);
      }
    }
  }
}

// The search for the products of tables counts as well: it is part of the first report.
TEST_CASE_TEMPLATE("separable products stay within report().extra_bytes, whatever the threads", T, float, double) {
  const auto make = [](std::vector<Index> sizes, const es::DistanceFunction& f) {
    return Case<T>{"separable", [=](Index) {
                     return std::make_shared<es::GridMask<T>>(sizes, f, es::Distance::l1, forced<es::GridOptions>("separable"));
                   }};
  };
  for (const Case<T>& one :
       {make({24, 40}, es::Exponential{0.1}), make({128, 65}, es::DampedCosine{0.1, 0.05}),
        make({9, 30, 35}, es::Exponential{0.2}), make({200, 300}, es::Gaussian{3}), make({400, 500}, es::Exponential{0.1})}) {
    for (const Index c : {1, 5, 40, 130}) {
      const es::MaskPointer<T> mask = one.make(0);
      const std::size_t plain = mask->report({.columns = c}).extra_bytes;
      for (const int threads : {1, 2, 7}) {
        CAPTURE(mask->rows());
        CAPTURE(c);
        CAPTURE(threads);
        const Measured<T> measured(one, 0, 0, c, context_of(threads));
        CHECK(measured.multiply(false) <= plain);
        CHECK(measured.multiply(true) <= plain);
      }
    }
  }
}

TEST_CASE_TEMPLATE("gradients stay within extra_bytes, four times the scratch memory and twelve times their arguments", T,
                   float, double) {
  const std::size_t scratch = std::size_t{1} << 20;
  for (const Case<T>& one : cases<T>()) {
    for (const Size size : {Size{96, 3, 5}, {512, 24, 40}, {2048, 40, 24}}) {
      const Index length = size.length, m = size.m, c = size.c;
      if (length < one.least) continue;
      const es::MaskPointer<T> mask = one.make(length);
      const std::size_t arguments = argument_bytes<T>(length, m, c, mask->parameters().size());
      for (const int threads : {1, 2, 7}) {
        CAPTURE(one.name);
        CAPTURE(length);
        CAPTURE(threads);
        const Measured<T> measured(one, length, m, c, context_of(threads, scratch));
        CHECK(measured.multiply_vjp() <= mask->report({.columns = c}).extra_bytes + 4 * scratch + 12 * arguments);
        CHECK(measured.low_rank_vjp() <= mask->report({.columns = c, .rank = m}).extra_bytes + 4 * scratch + 12 * arguments);
      }
    }
  }
}

// With little scratch memory what is left grows like L (m + c): a factor 4 when L doubles, or when m and c both do, would be
// L^2 or L m c. States of m x c numbers, sixteen groups of rows with one each and some to spare, do not grow with L.
TEST_CASE_TEMPLATE("memory is never proportional to L^2 or to L m c", T, float, double) {
  // One thread: what several hold at one moment depends on when they meet.
  const es::Context<es::Cpu> context = context_of(1, std::size_t{1} << 18);
  for (const Case<T>& one : cases<T>()) {
    if (one.forms_matrix) continue;
    const auto most = [&](Index length, Index m, Index c) {
      const Measured<T> measured(one, length, m, c, context);
      return std::array<std::size_t, 3>{std::max(measured.multiply(false), measured.multiply(true)),
                                        std::max(measured.low_rank(false), measured.low_rank(true)), measured.low_rank_vjp()};
    };
    const auto small = most(1024, 16, 16), longer = most(2048, 16, 16), wider = most(1024, 32, 32);
    for (std::size_t k = 0; k < small.size(); ++k) {
      CAPTURE(one.name);
      CAPTURE(k);
      CHECK(longer[k] <= 2 * small[k] + small[k] / 2 + (std::size_t{1} << 16));
      CHECK(wider[k] <= 2 * small[k] + small[k] / 2 + (std::size_t{1} << 16) + 18 * 33 * 48 * sizeof(double));
    }
  }
}

// Found by review: 92 bytes a token beside the mask, 12 GB at 2^27 tokens. Values by distance take 8, those of a fit with their
// sums 16, what a basis misses by chunk and position 16.
TEST_CASE("reports of long sequences take at most 44 bytes a token") {
  const Index length = Index{1} << 18;
  for (const es::DistanceFunction& f :
       {es::DistanceFunction(es::Rational{.width = 16}), es::DistanceFunction(es::Gaussian{.width = 900})}) {
    const es::GridMask<float> mask({length}, f, es::Distance::l1, {});
    for (const Index rank : {0, 64}) {
      std::string engine;
      const std::size_t bytes = bytes_during([&] { engine = mask.report({.columns = 64, .rank = rank}).engine; });
      CAPTURE(rank);
      CAPTURE(bytes);
      CHECK(engine == "exponentials");
      CHECK(bytes <= 44 * at(length));
    }
  }
}

TEST_CASE_TEMPLATE("softmax and top-k attention stay within their bounds", T, float, double) {
  const Index heads = 2;
  struct Shape {
    Index length, d, c, k;
  };
  for (const Shape shape : {Shape{70, 3, 5, 7}, {1000, 64, 64, 10}, {3000, 33, 8, 300}, {2500, 8, 100, 2500}}) {
    const Index length = shape.length, d = shape.d, c = shape.c, k = shape.k;
    const std::vector<T> q(at(heads * length * d), T(0.5)), v(at(heads * length * c), T(0.25));
    std::vector<T> out(v), scores(at(heads * length * k));
    std::vector<std::int64_t> indices(scores.size());
    const es::TensorView<const T> queries(q.data(), 1, heads, length, d), values(v.data(), 1, heads, length, c);
    const es::TensorView<T> outs(out.data(), 1, heads, length, c), products(scores.data(), 1, heads, length, k);
    const es::TensorView<std::int64_t> found(indices.data(), 1, heads, length, k);
    const es::GridMask<T> bias({length}, es::Exponential{0.1, 1});
    const es::GridMask<T> mask({length}, es::Exponential{0.2, 1});
    for (const int threads : {1, 2, 7}) {
      CAPTURE(length);
      CAPTURE(threads);
      const auto context = context_of(threads);
      CHECK(bytes_during([&] { es::softmax_attention(queries, queries, values, outs, {}, bias, mask, {}, context); }) <=
            es::softmax_attention_bytes(d, c, sizeof(T), threads));
      CHECK(bytes_during([&] { es::top_k_attention(queries, queries, values, outs, found, products, {}, context); }) <=
            es::top_k_bytes(length, d, k, sizeof(T), threads));
    }
  }
}
#endif
