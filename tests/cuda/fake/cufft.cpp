// The fake cuFFT: plans, work areas and transforms by the rules that the library relies on.
// SPDX-License-Identifier: Apache-2.0
//
// Rules and where the cuFFT manual has them; cufft_rules_test has a case for each, and runs against the real library too:
//   1  transforms are not normalised: inverse(forward(x)) = n x                             "Fourier Transform Types"
//   2  R2C is forward and C2R inverse; C2C takes its direction                              "cufftExecC2C, R2C, C2R"
//   3  R2C gives n/2 + 1 values along the last axis, C2R takes as many                      "Data Layout"
//   4  inembed or onembed null: packed data, strides and distances are ignored              "cufftPlanMany"
//   5  else element (x, y, z) of batch b lies at b dist + ((x embed[1] + y) embed[2] + z) stride; embed[0] is not used
//                                                                                           "Advanced Data Layout"
//   6  packed and in place, a real row is padded to 2 (n/2 + 1) values                      "Data Layout"
//   7  C2R out of place overwrites its input                                                "Data Layout"
//   8  execution is asynchronous, on the plan's stream; the default stream if none was set  "Streamed cuFFT Transforms"
//   9  a plan is made once; a plan that was only created cannot be executed                 "cufftCreate, cufftMakePlanMany"
//  10  without automatic allocation (set before the plan is made) a work area of at least the given size must be set before
//      execution; it is scratch; setting one gives an automatic one back                    "Caller Allocated Work Area
//      Support"
//  11  a plan runs only the transform it was made for                                       "cufftExecC2C, R2C, C2R"
// Stricter than the manual: a plan must outlive its transforms, and work areas always have the size of the data.
#include "fake/device.hpp"
#include "fake/dft.hpp"

#include <algorithm>
#include <complex>
#include <cstring>
#include <stdexcept>

namespace espalier::fake {

namespace {

bool real_input(cufftType type) {
  return type == CUFFT_R2C || type == CUFFT_D2Z;
}
bool real_output(cufftType type) {
  return type == CUFFT_C2R || type == CUFFT_Z2D;
}
bool is_double(cufftType type) {
  return type == CUFFT_D2Z || type == CUFFT_Z2D || type == CUFFT_Z2Z;
}

// Sizes of the stored array on one side, and where its elements lie.
struct Side {
  long long size[3], embed[3];
  long long stride, distance;
  std::size_t element;  // bytes
  long long offset(long long b, long long x, long long y, long long z) const {
    return b * distance + ((x * embed[1] + y) * embed[2] + z) * stride;
  }
  // Bytes from the pointer to behind the last element.
  std::size_t span(long long batch) const {
    return static_cast<std::size_t>(offset(batch - 1, size[0] - 1, size[1] - 1, size[2] - 1) + 1) * element;
  }
};

// Axes are kept right-aligned in three: a transform of one axis has sizes 1, 1, n.
Side side_of(const Plan& plan, bool input, bool in_place) {
  const bool real = input ? real_input(plan.type) : real_output(plan.type);
  const bool half = input ? real_output(plan.type) : real_input(plan.type);
  Side side{};
  for (int a = 0; a < 3; ++a) side.size[a] = plan.n[a];
  if (half) side.size[2] = plan.n[2] / 2 + 1;
  side.element = (is_double(plan.type) ? sizeof(double) : sizeof(float)) * (real ? 1 : 2);
  if (plan.basic) {
    for (int a = 0; a < 3; ++a) side.embed[a] = side.size[a];
    if (real && in_place) side.embed[2] = 2 * (plan.n[2] / 2 + 1);
    side.stride = 1;
    side.distance = side.embed[0] * side.embed[1] * side.embed[2];
  } else {
    for (int a = 0; a < 3; ++a) side.embed[a] = input ? plan.in_embed[a] : plan.out_embed[a];
    side.stride = input ? plan.in_stride : plan.out_stride;
    side.distance = input ? plan.in_distance : plan.out_distance;
  }
  return side;
}

template <class F>
void for_each(const Side& side, const F& f) {
  for (long long x = 0; x < side.size[0]; ++x) {
    for (long long y = 0; y < side.size[1]; ++y) {
      for (long long z = 0; z < side.size[2]; ++z) f(x, y, z);
    }
  }
}

// T: float or double.
template <class T>
void run_transform(const Plan& plan, const void* in, void* out, int sign) {
  const Side from = side_of(plan, true, in == out), to = side_of(plan, false, in == out);
  const long long *n = plan.n, points = n[0] * n[1] * n[2];
  const auto at = [n](long long x, long long y, long long z) { return static_cast<std::size_t>((x * n[1] + y) * n[2] + z); };
  const auto* const source = static_cast<const T*>(in);
  auto* const target = static_cast<T*>(out);
  // In place batches may lie one over the other's input: all is read before anything is written.
  std::vector<std::vector<std::complex<double>>> lines;
  for (long long b = 0; b < plan.batch; ++b) {
    std::vector<std::complex<double>> data(static_cast<std::size_t>(points));
    for_each(from, [&](long long x, long long y, long long z) {
      const long long o = from.offset(b, x, y, z);
      if (real_input(plan.type)) {
        data[at(x, y, z)] = source[o];
        return;
      }
      const std::complex<double> value(source[2 * o], source[2 * o + 1]);
      data[at(x, y, z)] = value;
      // The half that is not stored.
      if (real_output(plan.type) && z > 0 && 2 * z != n[2])
        data[at((n[0] - x) % n[0], (n[1] - y) % n[1], n[2] - z)] = std::conj(value);
    });
    transform(data, {n[0], n[1], n[2]}, sign);
    lines.push_back(std::move(data));
  }
  if (real_output(plan.type) && in != out) {
    auto* const spoiled = static_cast<T*>(const_cast<void*>(in));
    for (long long b = 0; b < plan.batch; ++b) {
      for_each(from, [&](long long x, long long y, long long z) {
        std::memset(spoiled + 2 * from.offset(b, x, y, z), 0xff, 2 * sizeof(T));
      });
    }
  }
  for (long long b = 0; b < plan.batch; ++b) {
    const auto& data = lines[static_cast<std::size_t>(b)];
    for_each(to, [&](long long x, long long y, long long z) {
      const long long o = to.offset(b, x, y, z);
      const std::complex<double> value = data[at(x, y, z)];
      if (real_output(plan.type)) {
        target[o] = static_cast<T>(value.real());
      } else {
        target[2 * o] = static_cast<T>(value.real());
        target[2 * o + 1] = static_cast<T>(value.imag());
      }
    });
  }
}

// cuFFT's own kind of error, counted like every call.
cufftResult refuse(Call& call, cufftResult injected) {
  call.give();
  return call.error() == cudaErrorLaunchFailure ? CUFFT_EXEC_FAILED : injected;
}

Plan* find_plan(cufftHandle handle) {
  const auto it = device().plans.find(handle);
  return it == device().plans.end() ? nullptr : &it->second;
}

void clobber_work_area(const Plan& plan) {
  if (plan.work_bytes == 0) return;
  if (device().find(plan.work_area, plan.work_bytes) == nullptr)
    throw std::runtime_error("cuFFT's work area was freed before the transform ran");
  std::memset(plan.work_area, 0xff, plan.work_bytes);
}

cufftResult execute(cufftHandle handle, cufftType type, const void* in, void* out, int sign) {
  Call call("cufftExec", cudaErrorUnknown);
  if (call.refused()) return refuse(call, CUFFT_EXEC_FAILED);
  const Plan* const plan = find_plan(handle);
  if (plan == nullptr || !plan->made || plan->type != type) return CUFFT_INVALID_PLAN;
  if (sign != CUFFT_FORWARD && sign != CUFFT_INVERSE) return CUFFT_INVALID_VALUE;
  Device& d = device();
  if (!d.known(plan->stream)) return CUFFT_INVALID_VALUE;
  if (plan->work_bytes > 0 && plan->work_area == nullptr) return CUFFT_NO_WORKSPACE;
  const Side from = side_of(*plan, true, in == out), to = side_of(*plan, false, in == out);
  const std::size_t in_bytes = from.span(plan->batch), out_bytes = to.span(plan->batch);
  const auto* const in_buffer = d.find(in, in_bytes);
  const auto* const out_buffer = d.find(out, out_bytes);
  if (in_buffer == nullptr || out_buffer == nullptr || in_buffer->ending || out_buffer->ending) return CUFFT_INVALID_VALUE;
  // The manual asks for the alignment of the complex type on both sides.
  const std::uintptr_t alignment = is_double(type) ? 16 : 8;
  if (reinterpret_cast<std::uintptr_t>(in) % alignment != 0 || reinterpret_cast<std::uintptr_t>(out) % alignment != 0) {
    return CUFFT_UNALIGNED_DATA;
  }
  // The plan's state at this moment counts: a stream or work area set later is for later transforms.
  d.enqueue(plan->stream, [handle, then = *plan, in, out, sign, in_bytes, out_bytes] {
    if (find_plan(handle) == nullptr) throw std::runtime_error("a cuFFT plan was destroyed before its transform ran");
    if (device().find(in, in_bytes) == nullptr || device().find(out, out_bytes) == nullptr) {
      throw std::runtime_error("a transform's data was freed before it ran");
    }
    clobber_work_area(then);
    if (is_double(then.type)) {
      run_transform<double>(then, in, out, sign);
    } else {
      run_transform<float>(then, in, out, sign);
    }
  });
  return CUFFT_SUCCESS;
}

template <class Int>
cufftResult make_plan(cufftHandle handle, int rank, const Int* n, const Int* in_embed, long long in_stride,
                      long long in_distance, const Int* out_embed, long long out_stride, long long out_distance, cufftType type,
                      long long batch, std::size_t* work_bytes) {
  Plan* const plan = find_plan(handle);
  if (plan == nullptr || plan->made) return CUFFT_INVALID_PLAN;
  if (type != CUFFT_R2C && type != CUFFT_C2R && type != CUFFT_C2C && !is_double(type)) return CUFFT_INVALID_TYPE;
  if (rank < 1 || rank > 3 || n == nullptr) return CUFFT_INVALID_VALUE;
  if (batch < 1 || std::any_of(n, n + rank, [](Int size) { return size < 1; })) return CUFFT_INVALID_SIZE;
  Plan made = *plan;
  made.rank = rank;
  made.type = type;
  made.batch = batch;
  made.basic = in_embed == nullptr || out_embed == nullptr;
  for (int a = 0; a < rank; ++a) {
    made.n[3 - rank + a] = n[a];
    if (made.basic) continue;
    made.in_embed[3 - rank + a] = in_embed[a];
    made.out_embed[3 - rank + a] = out_embed[a];
  }
  made.in_stride = in_stride, made.in_distance = in_distance;
  made.out_stride = out_stride, made.out_distance = out_distance;
  if (!made.basic && (in_stride < 1 || out_stride < 1 || in_distance < 0 || out_distance < 0)) return CUFFT_INVALID_VALUE;
  const long long points = made.n[0] * made.n[1] * (made.n[2] / 2 + 1) * batch;
  made.work_bytes = static_cast<std::size_t>(points) * 2 * (is_double(type) ? sizeof(double) : sizeof(float));
  if (made.automatic) {
    made.work_area = device().allocate(made.work_bytes, "cuFFT's work area", true);
    if (made.work_area == nullptr) return CUFFT_ALLOC_FAILED;
  }
  made.made = true;
  *plan = made;
  if (work_bytes != nullptr) *work_bytes = made.work_bytes;
  return CUFFT_SUCCESS;
}

}  // namespace

std::string Plan::words() const {
  if (!made) return "created only";
  std::string text = "size ";
  for (int a = 3 - rank; a < 3; ++a) text += (a > 3 - rank ? " x " : "") + std::to_string(n[a]);
  return text + ", batch " + std::to_string(batch);
}

}  // namespace espalier::fake

using namespace espalier::fake;

extern "C" {

cufftResult cufftCreate(cufftHandle* handle) {
  Call call("cufftCreate", cudaErrorUnknown);
  if (call.refused()) return refuse(call, CUFFT_ALLOC_FAILED);
  *handle = device().next_plan++;
  device().plans[*handle] = Plan{};
  return CUFFT_SUCCESS;
}

cufftResult cufftDestroy(cufftHandle handle) {
  Call call("cufftDestroy", cudaErrorUnknown);
  const Plan* const plan = find_plan(handle);
  if (plan == nullptr) return CUFFT_INVALID_PLAN;
  if (plan->automatic && plan->work_area != nullptr) {
    device().release(static_cast<const char*>(plan->work_area));
  }
  device().plans.erase(handle);
  return call.refused() ? refuse(call, CUFFT_INTERNAL_ERROR) : CUFFT_SUCCESS;
}

cufftResult cufftMakePlanMany(cufftHandle plan, int rank, int* n, int* inembed, int istride, int idist, int* onembed,
                              int ostride, int odist, cufftType type, int batch, size_t* work_bytes) {
  Call call("cufftMakePlanMany", cudaErrorUnknown);
  if (call.refused()) return refuse(call, CUFFT_ALLOC_FAILED);
  return make_plan(plan, rank, n, inembed, istride, idist, onembed, ostride, odist, type, batch, work_bytes);
}

cufftResult cufftMakePlanMany64(cufftHandle plan, int rank, long long int* n, long long int* inembed, long long int istride,
                                long long int idist, long long int* onembed, long long int ostride, long long int odist,
                                cufftType type, long long int batch, size_t* work_bytes) {
  Call call("cufftMakePlanMany64", cudaErrorUnknown);
  if (call.refused()) return refuse(call, CUFFT_ALLOC_FAILED);
  return make_plan(plan, rank, n, inembed, istride, idist, onembed, ostride, odist, type, batch, work_bytes);
}

cufftResult cufftPlanMany(cufftHandle* plan, int rank, int* n, int* inembed, int istride, int idist, int* onembed, int ostride,
                          int odist, cufftType type, int batch) {
  Call call("cufftPlanMany", cudaErrorUnknown);
  if (call.refused()) return refuse(call, CUFFT_ALLOC_FAILED);
  const cufftHandle handle = device().next_plan++;
  device().plans[handle] = Plan{};
  const cufftResult result = make_plan(handle, rank, n, inembed, istride, idist, onembed, ostride, odist, type, batch, nullptr);
  if (result == CUFFT_SUCCESS) {
    *plan = handle;
  } else {
    device().plans.erase(handle);
  }
  return result;
}

cufftResult cufftPlan1d(cufftHandle* plan, int n, cufftType type, int batch) {
  return cufftPlanMany(plan, 1, &n, nullptr, 1, 0, nullptr, 1, 0, type, batch);
}

cufftResult cufftGetSize(cufftHandle handle, size_t* work_bytes) {
  Call call("cufftGetSize", cudaErrorUnknown);
  if (call.refused()) return refuse(call, CUFFT_INTERNAL_ERROR);
  const Plan* const plan = find_plan(handle);
  if (plan == nullptr || !plan->made) return CUFFT_INVALID_PLAN;
  *work_bytes = plan->work_bytes;
  return CUFFT_SUCCESS;
}

cufftResult cufftSetAutoAllocation(cufftHandle handle, int automatic) {
  Call call("cufftSetAutoAllocation", cudaErrorUnknown);
  if (call.refused()) return refuse(call, CUFFT_INTERNAL_ERROR);
  Plan* const plan = find_plan(handle);
  if (plan == nullptr || plan->made) return CUFFT_INVALID_PLAN;
  plan->automatic = automatic != 0;
  return CUFFT_SUCCESS;
}

cufftResult cufftSetWorkArea(cufftHandle handle, void* area) {
  Call call("cufftSetWorkArea", cudaErrorUnknown);
  if (call.refused()) return refuse(call, CUFFT_INTERNAL_ERROR);
  Plan* const plan = find_plan(handle);
  if (plan == nullptr || !plan->made) return CUFFT_INVALID_PLAN;
  if (device().find(area, plan->work_bytes) == nullptr) return CUFFT_INVALID_VALUE;
  if (plan->automatic) device().release(static_cast<const char*>(plan->work_area));
  plan->automatic = false;
  plan->work_area = area;
  return CUFFT_SUCCESS;
}

cufftResult cufftSetStream(cufftHandle handle, cudaStream_t stream) {
  Call call("cufftSetStream", cudaErrorUnknown);
  if (call.refused()) return refuse(call, CUFFT_INTERNAL_ERROR);
  Plan* const plan = find_plan(handle);
  if (plan == nullptr) return CUFFT_INVALID_PLAN;
  if (!device().known(stream)) return CUFFT_INVALID_VALUE;
  plan->stream = stream;
  return CUFFT_SUCCESS;
}

cufftResult cufftGetVersion(int* version) {
  *version = 12000;
  return CUFFT_SUCCESS;
}

cufftResult cufftExecR2C(cufftHandle plan, cufftReal* in, cufftComplex* out) {
  return execute(plan, CUFFT_R2C, in, out, CUFFT_FORWARD);
}
cufftResult cufftExecC2R(cufftHandle plan, cufftComplex* in, cufftReal* out) {
  return execute(plan, CUFFT_C2R, in, out, CUFFT_INVERSE);
}
cufftResult cufftExecC2C(cufftHandle plan, cufftComplex* in, cufftComplex* out, int direction) {
  return execute(plan, CUFFT_C2C, in, out, direction);
}
cufftResult cufftExecD2Z(cufftHandle plan, cufftDoubleReal* in, cufftDoubleComplex* out) {
  return execute(plan, CUFFT_D2Z, in, out, CUFFT_FORWARD);
}
cufftResult cufftExecZ2D(cufftHandle plan, cufftDoubleComplex* in, cufftDoubleReal* out) {
  return execute(plan, CUFFT_Z2D, in, out, CUFFT_INVERSE);
}
cufftResult cufftExecZ2Z(cufftHandle plan, cufftDoubleComplex* in, cufftDoubleComplex* out, int direction) {
  return execute(plan, CUFFT_Z2Z, in, out, direction);
}

}  // extern "C"
