// Arithmetic of the first pass's epilogues. A ReLU leaves behind one bit an element, all that its way back needs; the
// bits of eight channels of a pixel share a byte, the first channel's being the lowest.
#pragma once

#include "numbers.cuh"

namespace sgn {

SGN_HOST_DEVICE float scale_shift(float feature, float scale, float shift) { return feature * scale + shift; }

// NaN stays NaN, as in PyTorch.
SGN_HOST_DEVICE float relu(float number) { return number < 0.0f ? 0.0f : number; }

// The bit of one channel, in its place within the byte: whether the ReLU let the number through.
SGN_HOST_DEVICE uint32_t mask_bit(float number, int channel_in_byte) {
  return (number > 0.0f ? 1u : 0u) << channel_in_byte;
}

// The way back through ReLU and scale, with the gradient that comes by the residual path.
SGN_HOST_DEVICE float masked_scale_add(float gradient, uint32_t mask, int channel_in_byte, float scale, float residual) {
  return ((mask >> channel_in_byte & 1u) != 0 ? gradient * scale : 0.0f) + residual;
}

}  // namespace sgn
