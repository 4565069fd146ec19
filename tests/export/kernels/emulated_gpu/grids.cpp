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
