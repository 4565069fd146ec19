// Arithmetic of the self-gradient block: picture + scale * c, where c is the gradient after several layers, each a 1x1
// convolution and tanh.
#pragma once

#include <cfloat>
#include <cmath>

#include "numbers.cuh"

namespace sgn {

constexpr int MAX_CHANNELS = 4;
constexpr int MAX_LAYERS = 64;

// Hyperbolic tangent to a relative error of 4e-7. It is odd, so 0 gives exactly 0; NaN stays NaN.
// It is x * P(x^2) / Q(x^2) with P and Q of degree 4: the minimax approximation of the relative error on [-9.02, 9.02],
// found by a least-squares fit with Lawson's reweighting. At 9.02 tanh becomes 1 in float. Unlike the library's tanhf it
// has no branches, so the loop over pixels is vectorised. Unlike 1 - 2 / (exp(2 x) + 1) it keeps small numbers, such as
// raw gradients.
SGN_HOST_DEVICE float hyperbolic_tangent(float x) {
  x = x > 9.02f ? 9.02f : x;
  x = x < -9.02f ? -9.02f : x;
  const float square = x * x;
  float numerator = 1.331759829e-08f;
  numerator = numerator * square + 2.058243216e-05f;
  numerator = numerator * square + 3.493972422e-03f;
  numerator = numerator * square + 1.337966654e-01f;
  numerator = numerator * square + 1.0f;
  float denominator = 7.761419046e-07f;
  denominator = denominator * square + 3.282989862e-04f;
  denominator = denominator * square + 2.587083941e-02f;
  denominator = denominator * square + 4.671298185e-01f;
  denominator = denominator * square + 1.0f;
  float result = x * numerator / denominator;
  result = result > 1.0f ? 1.0f : result;
  result = result < -1.0f ? -1.0f : result;
  return result;
}

// One layer at one pixel: a 1x1 convolution with weights[to][from], then tanh.
template <int CHANNELS>
SGN_HOST_DEVICE void tanh_layer(const float* weights, float (&pixel)[CHANNELS]) {
  float mixed[CHANNELS];
  SGN_UNROLL
  for (int to = 0; to < CHANNELS; ++to) {
    float sum = 0.0f;
    SGN_UNROLL
    for (int from = 0; from < CHANNELS; ++from) sum += weights[to * CHANNELS + from] * pixel[from];
    mixed[to] = sum;
  }
  SGN_UNROLL
  for (int channel = 0; channel < CHANNELS; ++channel) pixel[channel] = hyperbolic_tangent(mixed[channel]);
}

SGN_HOST_DEVICE float corrected(float picture, float scale, float correction) { return picture + scale * correction; }

// Mean square below which a gradient is not normalised further: SMALLEST_MEAN_SQUARE in Python.
constexpr float SMALLEST_MEAN_SQUARE = 1e-24f;

// Return the factor that gives a picture's gradient a root mean square of 1. Squares may overflow to infinity, which is
// taken for the largest float. A NaN stays NaN.
SGN_HOST_DEVICE float inverse_root_mean_square(float sum_of_squares, float count) {
  float mean_square = sum_of_squares / count;
  if (mean_square < SMALLEST_MEAN_SQUARE) mean_square = SMALLEST_MEAN_SQUARE;
  if (mean_square > FLT_MAX) mean_square = FLT_MAX;
  return 1.0f / sqrtf(mean_square);
}

}  // namespace sgn
