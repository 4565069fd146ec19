// The kernels on a CPU: loops over the arithmetic of the .cuh files, vectorised by the compiler and split among threads
// by whoever calls: `parallel(count, grain, function)` calls function(begin, end) on parts of [0, count), none of them
// but the last smaller than grain.
#pragma once

#include <algorithm>
#include <vector>

#include "epilogues.cuh"
#include "layout.cuh"
#include "self_gradient_block.cuh"

namespace sgn {

constexpr int64_t TILE = 64;             // pixels worked on at a time: all their channels stay in the first cache
constexpr int64_t GRAIN = 16 * 1024;     // elements that are worth a thread
constexpr int BITS = 8;                  // channels that share a byte of a mask

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

// The block on up to TILE pixels of one picture. factor: what the gradient is multiplied by first.
template <int CHANNELS, typename T>
void block_of_tile(const T* image, const T* gradient, T* result, const Layout& layout, int64_t picture, int64_t start,
                   const float* weights, int64_t layers, float scale, float factor) {
  const int64_t count = std::min(TILE, layout.pixels - start);
  float values[CHANNELS][TILE] = {};  // beyond count: zeros, which stay zeros
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

// image, gradient, result: as layout says, 1 to MAX_CHANNELS channels; weights: (layers, C, C).
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

// Calls element(i, bit, at) for up to TILE pixels of one picture and the eight channels (or the last few) of one byte of
// the mask, in memory order: pixel start + i, channel byte * 8 + bit, which lies at `at`.
template <typename Element>
void over_byte(const Layout& layout, int64_t picture, int64_t byte, int64_t start, int64_t pixels,
               const Element& element) {
  const int count = int(std::min<int64_t>(BITS, layout.channels - byte * BITS));
  const int64_t first = layout.offset(picture, byte * BITS, start);
  if (layout.channels_last)
    for (int64_t i = 0; i < pixels; ++i)
      for (int bit = 0; bit < count; ++bit) element(i, bit, first + i * layout.channels + bit);
  else
    for (int bit = 0; bit < count; ++bit)
      for (int64_t i = 0; i < pixels; ++i) element(i, bit, first + bit * layout.pixels + i);
}

// Calls body(picture, byte, start, pixels) for every tile of every byte of the mask.
template <typename Parallel, typename Body>
void over_tiles_of_mask(const Layout& layout, const Parallel& parallel, const Body& body) {
  const int64_t tiles = tiles_of(layout), bytes = layout.of_mask().channels;
  parallel(layout.batch * tiles * bytes, grain_of(TILE * BITS), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      // Bytes of one tile follow each other in memory where channels come last, tiles of one byte where they do not.
      const int64_t rest = item % (tiles * bytes);
      const int64_t byte = layout.channels_last ? rest % bytes : rest / tiles;
      const int64_t start = (layout.channels_last ? rest / bytes : rest % tiles) * TILE;
      body(item / (tiles * bytes), byte, start, std::min(TILE, layout.pixels - start));
    }
  });
}

// result = relu(features * scale + shift), mask = its bits; scale, shift: one a channel.
template <typename T, typename Parallel>
void scale_shift_relu_on_cpu(const T* features, const float* scale, const float* shift, T* result, uint8_t* mask,
                             const Layout& layout, const Parallel& parallel) {
  const Layout mask_layout = layout.of_mask();
  over_tiles_of_mask(layout, parallel, [&](int64_t picture, int64_t byte, int64_t start, int64_t pixels) {
    const float *scales = scale + byte * BITS, *shifts = shift + byte * BITS;
    uint32_t bits[TILE] = {};  // as wide as the features, for the sake of vector registers
    over_byte(layout, picture, byte, start, pixels, [&](int64_t i, int bit, int64_t at) {
      const float number = scale_shift(to_float(features[at]), scales[bit], shifts[bit]);
      bits[i] |= mask_bit(number, bit);
      result[at] = rounded_to<T>(relu(number));
    });
    for (int64_t i = 0; i < pixels; ++i) mask[mask_layout.offset(picture, byte, start + i)] = uint8_t(bits[i]);
  });
}

// result = (mask ? gradient * scale : 0) + residual; scale: one a channel; residual may be null.
template <typename T, typename Parallel>
void mask_scale_add_on_cpu(const T* gradient, const uint8_t* mask, const float* scale, const T* residual, T* result,
                           const Layout& layout, const Parallel& parallel) {
  const Layout mask_layout = layout.of_mask();
  over_tiles_of_mask(layout, parallel, [&](int64_t picture, int64_t byte, int64_t start, int64_t pixels) {
    const float* scales = scale + byte * BITS;
    uint32_t bits[TILE];
    for (int64_t i = 0; i < pixels; ++i) bits[i] = mask[mask_layout.offset(picture, byte, start + i)];
    const auto element = [&](int64_t i, int bit, int64_t at, float other) {
      result[at] = rounded_to<T>(masked_scale_add(to_float(gradient[at]), bits[i], bit, scales[bit], other));
    };
    if (residual == nullptr)
      over_byte(layout, picture, byte, start, pixels, [&](int64_t i, int bit, int64_t at) { element(i, bit, at, 0.0f); });
    else
      over_byte(layout, picture, byte, start, pixels,
                [&](int64_t i, int bit, int64_t at) { element(i, bit, at, to_float(residual[at])); });
  });
}

}  // namespace sgn
