// The floating-point state of the library's worker threads: subnormals are flushed inside a call, and after it, or after a
// throw, every thread is as it was. The calling thread alone: tiles_test.cpp.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/mask.hpp>

#include <atomic>
#include <stdexcept>
#include <vector>

#if defined(__SSE__) && defined(_OPENMP)
#include <xmmintrin.h>

namespace es = espalier;
using es::Index;

namespace {

constexpr unsigned kFlush = 0x8040, kFlags = 0x3f;  // flush to zero and subnormals are zero; exceptions that have occurred

// Entries of 1 that look at the state of the thread that asks for them, and throw where told.
class Watching final : public es::EntrySource<float> {
 public:
  explicit Watching(bool throws) : throws_(throws) {}
  void fill(Index, Index rows, Index, Index cols, float* out, Index stride) const override {
    if ((_mm_getcsr() & kFlush) == kFlush) ++flushed;
    ++asked;
    if (throws_) throw std::runtime_error("no entries here");
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) out[i * stride + j] = 1;
    }
  }
  void add_gradient(Index, Index, Index, Index, const float*, Index, float*) const override {}
  mutable std::atomic<int> asked{0}, flushed{0};

 private:
  bool throws_;
};

class WatchedMask final : public es::Mask<float> {
 public:
  WatchedMask(Index n, bool throws) : Mask(n, n), source(throws) {}
  es::Entries<float> entries() const override {
    es::Entries<float> e;
    e.kind = es::EntryKind::source;
    e.rows = e.cols = rows();
    e.source = &source;
    return e;
  }
  Watching source;

 protected:
  void apply(es::MatrixView<const float> x, es::MatrixView<float> y, bool transpose,
             const es::Context<es::Cpu>& context) const override {
    apply_by_tiles(x, y, transpose, context);
  }
};

// Of the threads that OpenMP keeps for this thread: the same that the library's parallel regions run on.
std::vector<unsigned> states(int threads, unsigned to_set = 0) {
  std::vector<unsigned> seen(static_cast<std::size_t>(threads));
#pragma omp parallel for num_threads(threads) schedule(static, 1)  // a turn for each
  for (int t = 0; t < threads; ++t) {
    if (to_set != 0) _mm_setcsr(to_set);
    seen[static_cast<std::size_t>(t)] = _mm_getcsr() & ~kFlags;
  }
  return seen;
}

}  // namespace

TEST_CASE("worker threads flush subnormals inside a call and are as before after it, and after a throw in them") {
  const int threads = 3;
  const Index n = 1500;
  const unsigned normal = _mm_getcsr(), odd = (normal & ~kFlush & ~kFlags) | 0x6000U;  // round to zero, subnormals kept
  const std::vector<float> x(static_cast<std::size_t>(n), 1.0F);
  std::vector<float> y(x.size());
  for (const bool throws : {false, true}) {
    CAPTURE(throws);
    const WatchedMask mask(n, throws);
    const std::vector<unsigned> before = states(threads, odd);
    CHECK(before == std::vector<unsigned>(static_cast<std::size_t>(threads), odd));
    const auto call = [&] {
      es::Context<es::Cpu> context;
      context.threads = threads;
      mask.multiply({x.data(), n, 1}, {y.data(), n, 1}, context);
    };
    if (throws) {
      CHECK_THROWS_AS(call(), std::runtime_error);
    } else {
      call();
      CHECK(y[0] > 1499);
    }
    CHECK(mask.source.asked > 0);
    CHECK(mask.source.flushed == mask.source.asked);
    CHECK(states(threads) == before);
  }
  states(threads, normal);
}
#endif
