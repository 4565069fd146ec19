// Memory layout of a picture batch (N, C, H, W): C planes, or H * W pixels of C elements each.
#pragma once

#include "numbers.cuh"

namespace sgn {

struct Layout {
  int64_t batch;
  int64_t channels;
  int64_t pixels;  // H * W
  bool channels_last;

  SGN_HOST_DEVICE int64_t picture_size() const { return channels * pixels; }

  SGN_HOST_DEVICE int64_t offset(int64_t picture, int64_t channel, int64_t pixel) const {
    return picture * picture_size() + (channels_last ? pixel * channels + channel : channel * pixels + pixel);
  }
};

}  // namespace sgn
