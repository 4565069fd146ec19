// In place of CUDA's header of this name: a block of GPU threads as as many CPU threads, one block after the other. It
// shows whether the grids reach every element once and wait where they must, not what a GPU's own instructions do.
#pragma once

#include <barrier>
#include <cstddef>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block runs at a time, so its memory may be the program's
#define SGN_LAUNCH(kernel, blocks, shared_bytes, stream, ...) \
  emulated::launch(blocks, THREADS, shared_bytes, [&] { kernel(__VA_ARGS__); })
#define SGN_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(emulated::dynamic_shared())

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace emulated {

constexpr unsigned MOST_THREADS = 1024, WARP = 32;

struct Index {
  unsigned x;
};

inline std::barrier<>* block_barrier = nullptr;
inline std::vector<unsigned char> shared_memory;
inline float lanes[MOST_THREADS];

inline void* dynamic_shared() { return shared_memory.data(); }

}  // namespace emulated

inline thread_local emulated::Index threadIdx, blockIdx;

inline void __syncthreads() { emulated::block_barrier->arrive_and_wait(); }

// The number of the lane `distance` above in the same warp; every thread of the block has to call.
inline float __shfl_down_sync(unsigned, float number, int distance) {
  using namespace emulated;
  lanes[threadIdx.x] = number;
  __syncthreads();
  const bool inside = threadIdx.x % WARP + unsigned(distance) < WARP;
  const float other = inside ? lanes[threadIdx.x + unsigned(distance)] : number;
  __syncthreads();
  return other;
}

namespace emulated {

template <typename Kernel>
void launch(unsigned blocks, unsigned threads, size_t shared_bytes, const Kernel& kernel) {
  std::barrier<> barrier(threads);
  block_barrier = &barrier;
  shared_memory.assign(shared_bytes, 0xff);  // NaN, until the kernel writes
  std::vector<std::thread> running;
  for (unsigned thread = 0; thread < threads; ++thread)
    running.emplace_back([&, thread] {
      threadIdx.x = thread;
      for (unsigned block = 0; block < blocks; ++block) {
        blockIdx.x = block;
        kernel();
        barrier.arrive_and_wait();
      }
    });
  for (auto& thread : running) thread.join();
}

}  // namespace emulated
