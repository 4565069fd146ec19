// Where the elements of a picture batch (N, C, H, W) lie in memory: C planes, or H * W pixels of C elements each.
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

  // The bit mask of such a batch: (N, ceil(C / 8), H, W) bytes in the same memory format.
  SGN_HOST_DEVICE Layout of_mask() const { return Layout{batch, (channels + 7) / 8, pixels, channels_last}; }
};

}  // namespace sgn
