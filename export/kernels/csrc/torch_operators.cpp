// The kernel as the PyTorch operator sgn::self_gradient_block, on the CPU and, where SGN_CUDA is defined, on CUDA. It is
// for inference and has no derivative. reference.py says what it computes.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cpu_loops.h"

#if defined(SGN_CUDA)
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda_grids.h"
#endif

namespace {

using at::Tensor;
using sgn::Layout;

// Returns the memory format that all inputs are brought into: channels last where the first tensor is so, else contiguous.
at::MemoryFormat format_of(const Tensor& tensor) {
  return !tensor.is_contiguous() && tensor.is_contiguous(at::MemoryFormat::ChannelsLast)
             ? at::MemoryFormat::ChannelsLast
             : at::MemoryFormat::Contiguous;
}

void check_pictures(const Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.dim() == 4, name, " must be (N, C, H, W), not ", tensor.sizes());
  TORCH_CHECK(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kHalf ||
                  tensor.scalar_type() == at::kBFloat16,
              name, " must be float32, float16 or bfloat16, not ", tensor.scalar_type());
}

void check_like(const Tensor& tensor, const Tensor& other, const char* name, const char* other_name) {
  TORCH_CHECK(tensor.sizes() == other.sizes() && tensor.scalar_type() == other.scalar_type() &&
                  tensor.device() == other.device(),
              name, " must have the shape, dtype and device of ", other_name);
}

void check_floats(const Tensor& tensor, at::IntArrayRef sizes, const Tensor& other, const char* name) {
  TORCH_CHECK(tensor.scalar_type() == at::kFloat && tensor.sizes() == sizes && tensor.device() == other.device(), name,
              " must be float32 ", sizes, " on the other tensors' device, not ", tensor.scalar_type(), " ",
              tensor.sizes());
}

Layout layout_of(const Tensor& tensor, at::MemoryFormat format) {
  return Layout{tensor.size(0), tensor.size(1), tensor.size(2) * tensor.size(3),
                format == at::MemoryFormat::ChannelsLast};
}

template <typename T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Calls function(T{}) for the stored type T of the tensor's elements.
template <typename Function>
void for_type_of(const Tensor& tensor, const Function& function) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return function(float{});
    case at::kHalf: return function(sgn::Half{});
    default: return function(sgn::BFloat16{});
  }
}

// The devices that the kernel runs on; both classes have the same function.
struct OnCpu {
  explicit OnCpu(const Tensor&) {}

  static auto parallel() {
    return [](int64_t count, int64_t grain, const auto& function) { at::parallel_for(0, count, grain, function); };
  }

  template <typename T>
  void block(const T* image, const T* gradient, T* result, const Layout& layout, const Tensor& weights, float scale,
             bool rms) const {
    sgn::self_gradient_block_on_cpu(image, gradient, result, layout, read<float>(weights), weights.size(0), scale, rms,
                                    parallel());
  }
};

#if defined(SGN_CUDA)
struct OnCuda {
  c10::cuda::CUDAGuard guard;
  cudaStream_t stream;

  explicit OnCuda(const Tensor& tensor) : guard(tensor.device()), stream(c10::cuda::getCurrentCUDAStream()) {}

  static void check(cudaError_t error) {
    TORCH_CHECK(error == cudaSuccess, "a fused kernel could not be started: ", cudaGetErrorString(error));
  }

  template <typename T>
  void block(const T* image, const T* gradient, T* result, const Layout& layout, const Tensor& weights, float scale,
             bool rms) const {
    const Tensor workspace = at::empty({sgn::self_gradient_block_workspace(layout, rms)}, weights.options());
    check(sgn::self_gradient_block_on_cuda(image, gradient, result, layout, read<float>(weights), weights.size(0), scale,
                                           rms, write<float>(workspace), stream));
  }
};
#endif

template <typename Where>
Tensor self_gradient_block(const Tensor& image, const Tensor& gradient, const Tensor& weights, double scale, bool rms) {
  check_pictures(image, "image");
  check_like(gradient, image, "gradient", "image");
  const int64_t channels = image.size(1);
  TORCH_CHECK(channels >= 1 && channels <= sgn::MAX_CHANNELS, "image must have 1 to ", sgn::MAX_CHANNELS,
              " channels, not ", channels);
  TORCH_CHECK(weights.dim() == 3 && weights.size(0) >= 1 && weights.size(0) <= sgn::MAX_LAYERS,
              "weights must be (layers, C, C) with 1 to ", sgn::MAX_LAYERS, " layers, not ", weights.sizes());
  check_floats(weights, {weights.size(0), channels, channels}, image, "weights");
  const auto format = format_of(image);
  const Tensor images = image.contiguous(format), gradients = gradient.contiguous(format);
  const Tensor kernels = weights.contiguous(), result = at::empty_like(images, images.options(), format);
  const Where where(image);
  for_type_of(image, [&](auto type) {
    using T = decltype(type);
    where.block(read<T>(images), read<T>(gradients), write<T>(result), layout_of(images, format), kernels, float(scale),
                rms);
  });
  return result;
}

}  // namespace

TORCH_LIBRARY(sgn, library) {
#define SGN_OPERATOR(schema) library.def(schema, {at::Tag::pt2_compliant_tag});
#include "operators.def"
#undef SGN_OPERATOR
}

TORCH_LIBRARY_IMPL(sgn, CPU, library) {
  library.impl("self_gradient_block", self_gradient_block<OnCpu>);
}

#if defined(SGN_CUDA)
TORCH_LIBRARY_IMPL(sgn, CUDA, library) {
  library.impl("self_gradient_block", self_gradient_block<OnCuda>);
}
#endif
