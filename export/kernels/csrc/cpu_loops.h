// The kernel on a CPU: loops over the arithmetic of the .cuh files, which the compiler vectorises. The caller splits them
// among threads: `parallel(count, grain, function)` calls function(begin, end) on parts of [0, count). Only the last part
// may be smaller than grain.
#pragma once

#include <algorithm>
#include <vector>

#include "layout.cuh"
#include "self_gradient_block.cuh"

namespace sgn {

constexpr int64_t TILE = 64;          // pixels processed at a time: all their channels stay in the first-level cache
constexpr int64_t GRAIN = 16 * 1024;  // fewest elements that are worth a thread

inline int64_t grain_of(int64_t elements_an_item) {
  return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, elements_an_item));
}

inline int64_t tiles_of(const Layout& layout) { return (layout.pixels + TILE - 1) / TILE; }

template <typename T>
float sum_of_squares(const T* numbers, int64_t count) {
  constexpr int64_t LANES = 32, CHUNK = 1024;
  double total = 0;
  for (int64_t start = 0; start < count; start += CHUNK) {
    const int64_t end = std::min(count, start + CHUNK), even = start + (end - start) / LANES * LANES;
    float lanes[LANES] = {};
    for (int64_t i = start; i < even; i += LANES)
      for (int64_t lane = 0; lane < LANES; ++lane) {
        const float number = to_float(numbers[i + lane]);
        lanes[lane] += number * number;
      }
    for (int64_t i = even; i < end; ++i) lanes[i - even] += to_float(numbers[i]) * to_float(numbers[i]);
    for (const float lane : lanes) total += lane;
  }
  return float(total);
}

// Computes the block on up to TILE pixels of one picture. factor: the gradient is multiplied by it first.
template <int CHANNELS, typename T>
void block_of_tile(const T* image, const T* gradient, T* result, const Layout& layout, int64_t picture, int64_t start,
                   const float* weights, int64_t layers, float scale, float factor) {
  const int64_t count = std::min(TILE, layout.pixels - start);
  float values[CHANNELS][TILE] = {};  // beyond count they are zeros, which stay zeros
  for (int channel = 0; channel < CHANNELS; ++channel) {
    const T* from = gradient + layout.offset(picture, channel, start);
    if (layout.channels_last)
      for (int64_t i = 0; i < count; ++i) values[channel][i] = factor * to_float(from[i * CHANNELS]);
    else
      for (int64_t i = 0; i < count; ++i) values[channel][i] = factor * to_float(from[i]);
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    float kernel[CHANNELS * CHANNELS];
    std::copy_n(weights + layer * CHANNELS * CHANNELS, CHANNELS * CHANNELS, kernel);
    for (int64_t i = 0; i < TILE; ++i) {
      float pixel[CHANNELS];
      SGN_UNROLL
      for (int channel = 0; channel < CHANNELS; ++channel) pixel[channel] = values[channel][i];
      tanh_layer<CHANNELS>(kernel, pixel);
      SGN_UNROLL
      for (int channel = 0; channel < CHANNELS; ++channel) values[channel][i] = pixel[channel];
    }
  }
  for (int channel = 0; channel < CHANNELS; ++channel) {
    const int64_t offset = layout.offset(picture, channel, start);
    const int64_t step = layout.channels_last ? CHANNELS : 1;
    if (step == 1)
      for (int64_t i = 0; i < count; ++i)
        result[offset + i] = rounded_to<T>(corrected(to_float(image[offset + i]), scale, values[channel][i]));
    else
      for (int64_t i = 0; i < count; ++i)
        result[offset + i * step] =
            rounded_to<T>(corrected(to_float(image[offset + i * step]), scale, values[channel][i]));
  }
}

template <int CHANNELS, typename T, typename Parallel>
void block_of_channels(const T* image, const T* gradient, T* result, const Layout& layout, const float* weights,
                       int64_t layers, float scale, bool normalise, const Parallel& parallel) {
  std::vector<float> factors(layout.batch, 1.0f);
  if (normalise)
    parallel(layout.batch, grain_of(layout.picture_size()), [&](int64_t begin, int64_t end) {
      for (int64_t picture = begin; picture < end; ++picture)
        factors[picture] =
            inverse_root_mean_square(sum_of_squares(gradient + picture * layout.picture_size(), layout.picture_size()),
                                     float(layout.picture_size()));
    });
  const int64_t tiles = tiles_of(layout);
  parallel(layout.batch * tiles, grain_of(TILE * CHANNELS * layers), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item)
      block_of_tile<CHANNELS>(image, gradient, result, layout, item / tiles, item % tiles * TILE, weights, layers, scale,
                              factors[item / tiles]);
  });
}

// image, gradient, result: laid out as `layout`, with 1 to MAX_CHANNELS channels; weights: (layers, C, C).
template <typename T, typename Parallel>
void self_gradient_block_on_cpu(const T* image, const T* gradient, T* result, const Layout& layout,
                                const float* weights, int64_t layers, float scale, bool normalise,
                                const Parallel& parallel) {
  switch (layout.channels) {
    case 1: return block_of_channels<1>(image, gradient, result, layout, weights, layers, scale, normalise, parallel);
    case 2: return block_of_channels<2>(image, gradient, result, layout, weights, layers, scale, normalise, parallel);
    case 3: return block_of_channels<3>(image, gradient, result, layout, weights, layers, scale, normalise, parallel);
    case 4: return block_of_channels<4>(image, gradient, result, layout, weights, layers, scale, normalise, parallel);
  }
}

}  // namespace sgn
