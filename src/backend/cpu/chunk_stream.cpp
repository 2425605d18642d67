// The scan over chunks on the host, for any instruction set.
// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/chunk_stream.hpp"

#include "backend/cpu/targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/chunk_stream.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/chunk_scan-inl.hpp"
#include "backend/cpu/dispatch.hpp"

HWY_BEFORE_NAMESPACE();
namespace espalier::backend {
namespace HWY_NAMESPACE {

void chunk_scan_float(const ScanStep<float>& scan, Index from, Index to, float* moments, float* state) {
  scan_chunk(scan, from, to, moments, state);
}
void chunk_scan_double(const ScanStep<double>& scan, Index from, Index to, double* moments, double* state) {
  scan_chunk(scan, from, to, moments, state);
}

}  // namespace HWY_NAMESPACE
}  // namespace espalier::backend
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::backend {

HWY_EXPORT(chunk_scan_float);
HWY_EXPORT(chunk_scan_double);

template <>
void run_scan(const ScanStep<float>& scan, Index from, Index to, float* moments, float* state) {
  ESPALIER_DISPATCH(chunk_scan_float)(scan, from, to, moments, state);
}
template <>
void run_scan(const ScanStep<double>& scan, Index from, Index to, double* moments, double* state) {
  ESPALIER_DISPATCH(chunk_scan_double)(scan, from, to, moments, state);
}

}  // namespace espalier::backend
#endif  // HWY_ONCE
