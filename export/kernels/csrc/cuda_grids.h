// The kernels on an NVIDIA GPU, as the bindings call them: device pointers, asynchronous on the stream. T is float,
// Half or BFloat16.
#pragma once

#include <cuda_runtime_api.h>

#include "layout.cuh"

namespace sgn {

// Floats of device memory that self_gradient_block_on_cuda wants as its workspace.
int64_t self_gradient_block_workspace(const Layout& layout, bool normalise);

template <typename T>
cudaError_t self_gradient_block_on_cuda(const T* image, const T* gradient, T* result, const Layout& layout,
                                        const float* weights, int64_t layers, float scale, bool normalise,
                                        float* workspace, cudaStream_t stream);

template <typename T>
cudaError_t scale_shift_relu_on_cuda(const T* features, const float* scale, const float* shift, T* result,
                                     uint8_t* mask, const Layout& layout, cudaStream_t stream);

// residual may be null.
template <typename T>
cudaError_t mask_scale_add_on_cuda(const T* gradient, const uint8_t* mask, const float* scale, const T* residual,
                                   T* result, const Layout& layout, cudaStream_t stream);

}  // namespace sgn
