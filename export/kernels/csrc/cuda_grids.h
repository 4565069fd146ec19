// The kernel on an NVIDIA GPU, as the bindings call it: device pointers, asynchronous on the stream. T is float, Half or
// BFloat16.
#pragma once

#include <cuda_runtime_api.h>

#include "layout.cuh"

namespace sgn {

// Returns how many floats of device memory self_gradient_block_on_cuda needs as its workspace.
int64_t self_gradient_block_workspace(const Layout& layout, bool normalise);

template <typename T>
cudaError_t self_gradient_block_on_cuda(const T* image, const T* gradient, T* result, const Layout& layout,
                                        const float* weights, int64_t layers, float scale, bool normalise,
                                        float* workspace, cudaStream_t stream);

}  // namespace sgn
