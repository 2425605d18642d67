// The main function of tests on a real GPU: says so and returns 77 (skipped) where there is none.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/cuda.hpp>

#include <cstdio>

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

int main(int argc, char** argv) {
  if (espalier::cuda_device_count() == 0) {
    std::printf("skipped: no CUDA device\n");
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
