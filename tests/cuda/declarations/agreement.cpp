// The declarations that stand in for the CUDA toolkit agree with its real headers, in every number and signature. Compiling
// this file is the test.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <cufft.h>

#include <cstddef>
#include <type_traits>

// Ours again, in a namespace and without extern "C" (a C function may be declared once). A macro of another value than the
// toolkit's is a redefinition, which the compiler reports.
#define ESPALIER_CUDA_DECLARATIONS_ONLY
namespace ours {
#include "declarations/cufft.h"
}

namespace {

// The toolkit's type in place of ours, through pointers, const and functions.
template <class T>
struct Theirs {
  using Type = T;
};
template <class T>
struct Theirs<T*> {
  using Type = typename Theirs<T>::Type*;
};
template <class T>
struct Theirs<const T> {
  using Type = const typename Theirs<T>::Type;
};
template <class R, class... A>
struct Theirs<R(A...)> {
  using Type = typename Theirs<R>::Type(typename Theirs<A>::Type...);
};
#define SAME_TYPE(name)       \
  template <>                 \
  struct Theirs<ours::name> { \
    using Type = ::name;      \
  }
SAME_TYPE(cudaError);
SAME_TYPE(cudaMemcpyKind);
SAME_TYPE(cudaFuncAttribute);
SAME_TYPE(cudaDeviceAttr);
SAME_TYPE(cudaStreamCaptureStatus);
SAME_TYPE(cufftResult);
SAME_TYPE(cufftType);
SAME_TYPE(float2);
SAME_TYPE(double2);
#undef SAME_TYPE

#define SAME_FUNCTION(name) static_assert(std::is_same_v<Theirs<decltype(ours::name)>::Type, decltype(::name)>, #name)
SAME_FUNCTION(cudaMalloc);
SAME_FUNCTION(cudaMallocAsync);
SAME_FUNCTION(cudaFree);
SAME_FUNCTION(cudaFreeAsync);
SAME_FUNCTION(cudaMallocHost);
SAME_FUNCTION(cudaHostAlloc);
SAME_FUNCTION(cudaFreeHost);
SAME_FUNCTION(cudaMemGetInfo);
SAME_FUNCTION(cudaMemcpy);
SAME_FUNCTION(cudaMemcpyAsync);
SAME_FUNCTION(cudaMemcpy2D);
SAME_FUNCTION(cudaMemcpy2DAsync);
SAME_FUNCTION(cudaMemset);
SAME_FUNCTION(cudaMemsetAsync);
SAME_FUNCTION(cudaMemset2DAsync);
SAME_FUNCTION(cudaStreamCreate);
SAME_FUNCTION(cudaStreamCreateWithFlags);
SAME_FUNCTION(cudaStreamDestroy);
SAME_FUNCTION(cudaStreamSynchronize);
SAME_FUNCTION(cudaStreamQuery);
SAME_FUNCTION(cudaStreamWaitEvent);
SAME_FUNCTION(cudaStreamIsCapturing);
SAME_FUNCTION(cudaLaunchHostFunc);
SAME_FUNCTION(cudaEventCreate);
SAME_FUNCTION(cudaEventCreateWithFlags);
SAME_FUNCTION(cudaEventDestroy);
SAME_FUNCTION(cudaEventRecord);
SAME_FUNCTION(cudaEventQuery);
SAME_FUNCTION(cudaEventSynchronize);
SAME_FUNCTION(cudaGetLastError);
SAME_FUNCTION(cudaPeekAtLastError);
SAME_FUNCTION(cudaGetErrorName);
SAME_FUNCTION(cudaGetErrorString);
SAME_FUNCTION(cudaGetDeviceCount);
SAME_FUNCTION(cudaGetDevice);
SAME_FUNCTION(cudaSetDevice);
SAME_FUNCTION(cudaDeviceSynchronize);
SAME_FUNCTION(cudaDeviceGetAttribute);
SAME_FUNCTION(cudaFuncSetAttribute);
SAME_FUNCTION(cudaDriverGetVersion);
SAME_FUNCTION(cudaRuntimeGetVersion);
SAME_FUNCTION(cufftCreate);
SAME_FUNCTION(cufftDestroy);
SAME_FUNCTION(cufftPlan1d);
SAME_FUNCTION(cufftPlanMany);
SAME_FUNCTION(cufftMakePlanMany);
SAME_FUNCTION(cufftMakePlanMany64);
SAME_FUNCTION(cufftGetSize);
SAME_FUNCTION(cufftSetAutoAllocation);
SAME_FUNCTION(cufftSetWorkArea);
SAME_FUNCTION(cufftSetStream);
SAME_FUNCTION(cufftExecR2C);
SAME_FUNCTION(cufftExecC2R);
SAME_FUNCTION(cufftExecC2C);
SAME_FUNCTION(cufftExecD2Z);
SAME_FUNCTION(cufftExecZ2D);
SAME_FUNCTION(cufftExecZ2Z);
SAME_FUNCTION(cufftGetVersion);
#undef SAME_FUNCTION

#define SAME_NUMBER(name) static_assert(static_cast<int>(ours::name) == static_cast<int>(::name), #name)
SAME_NUMBER(cudaSuccess);
SAME_NUMBER(cudaErrorInvalidValue);
SAME_NUMBER(cudaErrorMemoryAllocation);
SAME_NUMBER(cudaErrorInitializationError);
SAME_NUMBER(cudaErrorInvalidConfiguration);
SAME_NUMBER(cudaErrorInvalidPitchValue);
SAME_NUMBER(cudaErrorInvalidMemcpyDirection);
SAME_NUMBER(cudaErrorInvalidDeviceFunction);
SAME_NUMBER(cudaErrorNoDevice);
SAME_NUMBER(cudaErrorInvalidDevice);
SAME_NUMBER(cudaErrorInvalidResourceHandle);
SAME_NUMBER(cudaErrorNotReady);
SAME_NUMBER(cudaErrorIllegalAddress);
SAME_NUMBER(cudaErrorLaunchOutOfResources);
SAME_NUMBER(cudaErrorLaunchFailure);
SAME_NUMBER(cudaErrorNotSupported);
SAME_NUMBER(cudaErrorUnknown);
SAME_NUMBER(cudaMemcpyHostToHost);
SAME_NUMBER(cudaMemcpyHostToDevice);
SAME_NUMBER(cudaMemcpyDeviceToHost);
SAME_NUMBER(cudaMemcpyDeviceToDevice);
SAME_NUMBER(cudaMemcpyDefault);
SAME_NUMBER(cudaFuncAttributeMaxDynamicSharedMemorySize);
SAME_NUMBER(cudaFuncAttributePreferredSharedMemoryCarveout);
SAME_NUMBER(cudaDevAttrMaxThreadsPerBlock);
SAME_NUMBER(cudaDevAttrMaxBlockDimX);
SAME_NUMBER(cudaDevAttrMaxBlockDimY);
SAME_NUMBER(cudaDevAttrMaxBlockDimZ);
SAME_NUMBER(cudaDevAttrMaxGridDimX);
SAME_NUMBER(cudaDevAttrMaxGridDimY);
SAME_NUMBER(cudaDevAttrMaxGridDimZ);
SAME_NUMBER(cudaDevAttrMaxSharedMemoryPerBlock);
SAME_NUMBER(cudaDevAttrWarpSize);
SAME_NUMBER(cudaDevAttrMultiProcessorCount);
SAME_NUMBER(cudaDevAttrComputeCapabilityMajor);
SAME_NUMBER(cudaDevAttrComputeCapabilityMinor);
SAME_NUMBER(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
SAME_NUMBER(cudaDevAttrMaxSharedMemoryPerBlockOptin);
SAME_NUMBER(cudaDevAttrMemoryPoolsSupported);
SAME_NUMBER(cudaStreamCaptureStatusNone);
SAME_NUMBER(cudaStreamCaptureStatusActive);
SAME_NUMBER(cudaStreamCaptureStatusInvalidated);
SAME_NUMBER(CUFFT_SUCCESS);
SAME_NUMBER(CUFFT_INVALID_PLAN);
SAME_NUMBER(CUFFT_ALLOC_FAILED);
SAME_NUMBER(CUFFT_INVALID_TYPE);
SAME_NUMBER(CUFFT_INVALID_VALUE);
SAME_NUMBER(CUFFT_INTERNAL_ERROR);
SAME_NUMBER(CUFFT_EXEC_FAILED);
SAME_NUMBER(CUFFT_SETUP_FAILED);
SAME_NUMBER(CUFFT_INVALID_SIZE);
SAME_NUMBER(CUFFT_UNALIGNED_DATA);
SAME_NUMBER(CUFFT_INVALID_DEVICE);
SAME_NUMBER(CUFFT_NO_WORKSPACE);
SAME_NUMBER(CUFFT_NOT_IMPLEMENTED);
SAME_NUMBER(CUFFT_NOT_SUPPORTED);
SAME_NUMBER(CUFFT_R2C);
SAME_NUMBER(CUFFT_C2R);
SAME_NUMBER(CUFFT_C2C);
SAME_NUMBER(CUFFT_D2Z);
SAME_NUMBER(CUFFT_Z2D);
SAME_NUMBER(CUFFT_Z2Z);
#undef SAME_NUMBER

#define SAME_LAYOUT(name) static_assert(sizeof(ours::name) == sizeof(::name) && alignof(ours::name) == alignof(::name), #name)
SAME_LAYOUT(uint3);
SAME_LAYOUT(dim3);
SAME_LAYOUT(int2);
SAME_LAYOUT(int4);
SAME_LAYOUT(uint2);
SAME_LAYOUT(uint4);
SAME_LAYOUT(float2);
SAME_LAYOUT(float3);
SAME_LAYOUT(float4);
SAME_LAYOUT(double2);
#undef SAME_LAYOUT

}  // namespace

int main() {
  return 0;
}
