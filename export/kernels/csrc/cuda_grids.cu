// The kernel on an NVIDIA GPU: grids over the arithmetic of the .cuh files.

#include "cuda_grids.h"

#include "self_gradient_block.cuh"

// CUDA's syntax beyond attributes and functions, as macros that a test without a GPU defines otherwise.
#if !defined(SGN_LAUNCH)
#define SGN_LAUNCH(kernel, blocks, shared_bytes, stream, ...) \
  kernel<<<blocks, THREADS, shared_bytes, stream>>>(__VA_ARGS__)
#define SGN_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

namespace sgn {
namespace {

constexpr int THREADS = 256;
constexpr int WARP = 32;
constexpr int64_t PIXELS_A_BLOCK = 4 * THREADS;
constexpr int64_t PICTURE_IN_SHARED_MEMORY = 40 * 1024;  // bytes; every device has 48 KiB a block, the rest is for weights

// Returns the sum of all threads' numbers to every thread. Its order is fixed, so that it is the same each time.
__device__ float sum_over_block(float number) {
  __shared__ float of_warps[THREADS / WARP];
  for (int distance = WARP / 2; distance > 0; distance /= 2) number += __shfl_down_sync(~0u, number, distance);
  if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = number;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < THREADS / WARP; ++warp) sum += of_warps[warp];
  __syncthreads();
  return sum;
}

template <int CHANNELS>
__device__ void load_weights(const float* weights, int layers, float* kernels) {
  for (int i = threadIdx.x; i < layers * CHANNELS * CHANNELS; i += THREADS) kernels[i] = weights[i];
}

template <int CHANNELS, typename T>
__device__ void block_at(const T* image, T* result, const Layout& layout, int64_t picture, int64_t at,
                         const float* kernels, int layers, float scale, float (&pixel)[CHANNELS]) {
  for (int layer = 0; layer < layers; ++layer) tanh_layer<CHANNELS>(kernels + layer * CHANNELS * CHANNELS, pixel);
  SGN_UNROLL
  for (int channel = 0; channel < CHANNELS; ++channel) {
    const int64_t offset = layout.offset(picture, channel, at);
    result[offset] = rounded_to<T>(corrected(to_float(image[offset]), scale, pixel[channel]));
  }
}

// One block of threads for each picture. The gradient is staged in shared memory until its root mean square is known, so
// that each number is read from global memory once.
template <int CHANNELS, typename T>
__global__ void block_of_picture(const T* image, const T* gradient, T* result, Layout layout, const float* weights,
                                 int layers, float scale) {
  SGN_DYNAMIC_SHARED(float, staged);  // the picture's gradient, in memory order
  __shared__ float kernels[MAX_LAYERS * CHANNELS * CHANNELS];
  load_weights<CHANNELS>(weights, layers, kernels);
  const int64_t picture = blockIdx.x, size = layout.picture_size();
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < size; i += THREADS) {
    const float number = to_float(gradient[picture * size + i]);
    staged[i] = number;
    squares += number * number;
  }
  const float factor = inverse_root_mean_square(sum_over_block(squares), float(size));
  for (int64_t at = threadIdx.x; at < layout.pixels; at += THREADS) {
    float pixel[CHANNELS];
    SGN_UNROLL
    for (int channel = 0; channel < CHANNELS; ++channel) pixel[channel] = factor * staged[layout.offset(0, channel, at)];
    block_at<CHANNELS>(image, result, layout, picture, at, kernels, layers, scale, pixel);
  }
}

__host__ __device__ int64_t parts_of(const Layout& layout) {
  return (layout.pixels + PIXELS_A_BLOCK - 1) / PIXELS_A_BLOCK;
}

// For pictures too large for shared memory: writes squares[picture * parts + part], which block_of_part sums up.
template <typename T>
__global__ void squares_of_part(const T* gradient, float* squares, Layout layout) {
  const int64_t parts = parts_of(layout), picture = blockIdx.x / parts, part = blockIdx.x % parts;
  const int64_t size = layout.picture_size(), step = PIXELS_A_BLOCK * layout.channels;
  const int64_t end = (part + 1) * step < size ? (part + 1) * step : size;
  float sum = 0.0f;
  for (int64_t i = part * step + threadIdx.x; i < end; i += THREADS) {
    const float number = to_float(gradient[picture * size + i]);
    sum += number * number;
  }
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// Several blocks of threads for each picture. squares: null where the gradient is not normalised.
template <int CHANNELS, typename T>
__global__ void block_of_part(const T* image, const T* gradient, T* result, Layout layout, const float* weights,
                              int layers, float scale, const float* squares) {
  __shared__ float kernels[MAX_LAYERS * CHANNELS * CHANNELS];
  load_weights<CHANNELS>(weights, layers, kernels);
  const int64_t parts = parts_of(layout), picture = blockIdx.x / parts, part = blockIdx.x % parts;
  float sum = 0.0f;
  if (squares != nullptr)
    for (int64_t i = threadIdx.x; i < parts; i += THREADS) sum += squares[picture * parts + i];
  sum = sum_over_block(sum);  // also waits for the weights
  const float factor = squares == nullptr ? 1.0f : inverse_root_mean_square(sum, float(layout.picture_size()));
  const int64_t start = part * PIXELS_A_BLOCK;
  const int64_t end = start + PIXELS_A_BLOCK < layout.pixels ? start + PIXELS_A_BLOCK : layout.pixels;
  for (int64_t at = start + threadIdx.x; at < end; at += THREADS) {
    float pixel[CHANNELS];
    SGN_UNROLL
    for (int channel = 0; channel < CHANNELS; ++channel)
      pixel[channel] = factor * to_float(gradient[layout.offset(picture, channel, at)]);
    block_at<CHANNELS>(image, result, layout, picture, at, kernels, layers, scale, pixel);
  }
}

bool fits_shared_memory(const Layout& layout) {
  return layout.picture_size() * int64_t(sizeof(float)) <= PICTURE_IN_SHARED_MEMORY;
}

template <int CHANNELS, typename T>
cudaError_t launch_block(const T* image, const T* gradient, T* result, const Layout& layout, const float* weights,
                         int layers, float scale, bool normalise, float* workspace, cudaStream_t stream) {
  if (normalise && fits_shared_memory(layout)) {
    const size_t bytes = size_t(layout.picture_size()) * sizeof(float);
    SGN_LAUNCH(block_of_picture<CHANNELS>, unsigned(layout.batch), bytes, stream, image, gradient, result, layout,
               weights, layers, scale);
    return cudaGetLastError();
  }
  const unsigned blocks = unsigned(layout.batch * parts_of(layout));
  if (normalise) SGN_LAUNCH(squares_of_part, blocks, 0, stream, gradient, workspace, layout);
  SGN_LAUNCH(block_of_part<CHANNELS>, blocks, 0, stream, image, gradient, result, layout, weights, layers, scale,
             normalise ? workspace : nullptr);
  return cudaGetLastError();
}

}  // namespace

int64_t self_gradient_block_workspace(const Layout& layout, bool normalise) {
  return normalise && !fits_shared_memory(layout) ? layout.batch * parts_of(layout) : 0;
}

template <typename T>
cudaError_t self_gradient_block_on_cuda(const T* image, const T* gradient, T* result, const Layout& layout,
                                        const float* weights, int64_t layers, float scale, bool normalise,
                                        float* workspace, cudaStream_t stream) {
  if (layout.batch * layout.picture_size() == 0) return cudaSuccess;
  const auto launch = [&](auto launcher) {
    return launcher(image, gradient, result, layout, weights, int(layers), scale, normalise, workspace, stream);
  };
  switch (layout.channels) {
    case 1: return launch(launch_block<1, T>);
    case 2: return launch(launch_block<2, T>);
    case 3: return launch(launch_block<3, T>);
    case 4: return launch(launch_block<4, T>);
  }
  return cudaErrorInvalidValue;
}

#define SGN_INSTANTIATE(T)                                                                                           \
  template cudaError_t self_gradient_block_on_cuda<T>(const T*, const T*, T*, const Layout&, const float*, int64_t, \
                                                      float, bool, float*, cudaStream_t);

SGN_INSTANTIATE(float)
SGN_INSTANTIATE(Half)
SGN_INSTANTIATE(BFloat16)

}  // namespace sgn
