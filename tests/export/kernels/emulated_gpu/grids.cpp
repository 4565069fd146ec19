// csrc/cuda_grids.cu on the emulated GPU, as functions that ctypes can call. dtype: 0 float, 1 Half, 2 BFloat16.
#include "cuda_grids.cu"

namespace {

template <typename Function>
int for_type(int dtype, const Function& function) {
  switch (dtype) {
    case 0: return function(float{});
    case 1: return function(sgn::Half{});
    default: return function(sgn::BFloat16{});
  }
}

}  // namespace

extern "C" int self_gradient_block(int dtype, const void* image, const void* gradient, void* result, int64_t batch,
                                   int64_t channels, int64_t pixels, bool channels_last, const float* weights,
                                   int64_t layers, float scale, bool rms) {
  return for_type(dtype, [&](auto type) {
    using T = decltype(type);
    const sgn::Layout layout{batch, channels, pixels, channels_last};
    std::vector<float> workspace(size_t(sgn::self_gradient_block_workspace(layout, rms)));
    return int(sgn::self_gradient_block_on_cuda(static_cast<const T*>(image), static_cast<const T*>(gradient),
                                                static_cast<T*>(result), layout, weights, layers, scale, rms,
                                                workspace.data(), nullptr));
  });
}

extern "C" int scale_shift_relu(int dtype, const void* features, const float* scale, const float* shift, void* result,
                                uint8_t* mask, int64_t batch, int64_t channels, int64_t pixels, bool channels_last) {
  return for_type(dtype, [&](auto type) {
    using T = decltype(type);
    return int(sgn::scale_shift_relu_on_cuda(static_cast<const T*>(features), scale, shift, static_cast<T*>(result),
                                             mask, {batch, channels, pixels, channels_last}, nullptr));
  });
}

extern "C" int mask_scale_add(int dtype, const void* gradient, const uint8_t* mask, const float* scale,
                              const void* residual, void* result, int64_t batch, int64_t channels, int64_t pixels,
                              bool channels_last) {
  return for_type(dtype, [&](auto type) {
    using T = decltype(type);
    return int(sgn::mask_scale_add_on_cuda(static_cast<const T*>(gradient), mask, scale,
                                           static_cast<const T*>(residual), static_cast<T*>(result),
                                           {batch, channels, pixels, channels_last}, nullptr));
  });
}
