// Conversions between the stored types (float, Half, BFloat16) and float, which everything is computed in. They use no
// library of types: the same lines serve PyTorch's tensors and ONNX Runtime's, the host and the device.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define SGN_HOST_DEVICE __host__ __device__ __forceinline__
#define SGN_UNROLL _Pragma("unroll")
#else
#define SGN_HOST_DEVICE inline
#define SGN_UNROLL _Pragma("GCC unroll 8")
#endif

namespace sgn {

// IEEE 754 binary16.
struct Half {
  uint16_t bits;
};

// The upper half of a float.
struct BFloat16 {
  uint16_t bits;
};

SGN_HOST_DEVICE uint32_t bits_of(float number) {
  uint32_t bits;
  memcpy(&bits, &number, sizeof(bits));
  return bits;
}

SGN_HOST_DEVICE float from_bits(uint32_t bits) {
  float number;
  memcpy(&number, &bits, sizeof(number));
  return number;
}

// The host's conversions are branch-free, so that the compiler can vectorise loops over them; a device has
// instructions for them. Both round to nearest, ties to even.

SGN_HOST_DEVICE float to_float(float number) { return number; }

SGN_HOST_DEVICE float to_float(BFloat16 number) { return from_bits(uint32_t(number.bits) << 16); }

SGN_HOST_DEVICE float to_float(Half number) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(number.bits));
#else
  const uint32_t magnitude = number.bits & 0x7fffu;
  const uint32_t sign = uint32_t(number.bits & 0x8000u) << 16;
  const uint32_t rebias = magnitude >= 0x7c00u ? 224u << 23 : 112u << 23;  // infinity and NaN stay as they are
  const uint32_t normal = (magnitude << 13) + rebias;
  const uint32_t subnormal = bits_of(float(int32_t(magnitude)) * 0x1p-24f);
  return from_bits(sign | (magnitude < 0x0400u ? subnormal : normal));
#endif
}

template <typename T>
SGN_HOST_DEVICE T rounded_to(float number);

template <>
SGN_HOST_DEVICE float rounded_to<float>(float number) {
  return number;
}

template <>
SGN_HOST_DEVICE BFloat16 rounded_to<BFloat16>(float number) {
#if defined(__CUDA_ARCH__)
  return BFloat16{__bfloat16_as_ushort(__float2bfloat16_rn(number))};
#else
  const uint32_t bits = bits_of(number);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return BFloat16{uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded)};
#endif
}

template <>
SGN_HOST_DEVICE Half rounded_to<Half>(float number) {
#if defined(__CUDA_ARCH__)
  return Half{__half_as_ushort(__float2half_rn(number))};
#else
  const uint32_t bits = bits_of(number);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  // Near 0.5 the last bit of a float has the value of a subnormal half's last bit, so the addition rounds.
  const uint32_t subnormal = bits_of(from_bits(magnitude) + 0.5f) - bits_of(0.5f);
  uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? 0x7c00u : result;
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
  return Half{uint16_t(result | ((bits >> 16) & 0x8000u))};
#endif
}

}  // namespace sgn
