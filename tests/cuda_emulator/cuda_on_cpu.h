// CUDA's words for g++: a .cu file of kernels becomes a library that runs them on the CPU.
//
// A test compiles this header, a .cu file and EXPORT(kernel) for each of its kernels as one file.
// launch_<kernel> then takes the arguments as cuLaunchKernel does, as pointers to them, and their sizes
// too: an int where the kernel expects a long long is what goes wrong unseen between Python and CUDA.
//
// One block runs at a time; its threads are fibres (fibres.h). Shared memory, both kinds, is filled with
// NaN before each block, so that what a block reads and has not written shows. Kernels that use PTX
// include _ptx.cuh, which beside this compiler is ptx.h. Not modelled: caches, bank conflicts, time,
// blocks that run at once, and loads and stores of one thread that another sees out of order.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "fibres.h"

#define __CUDA_ARCH__ 900  // the newest that ptx.h knows

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// One block at a time: its shared memory may be static, in a section of which we know start and end.
#define __shared__ static __attribute__((section("cuda_shared")))
extern "C" __attribute__((weak, visibility("hidden"))) char __start_cuda_shared[], __stop_cuda_shared[];

using uint3 = cuda_on_cpu::Index;
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(16) longlong2 {
    long long x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Functions, not variables: a sanitizer must not see that fibres share what they read here.
UNSEEN inline uint3 thread_index() { return cuda_on_cpu::fibres[cuda_on_cpu::block.running].index; }
UNSEEN inline uint3 block_index() { return cuda_on_cpu::block.index; }
UNSEEN inline uint3 block_extent() { return cuda_on_cpu::block.threads; }
UNSEEN inline uint3 grid_extent() { return cuda_on_cpu::block.blocks; }
#define threadIdx thread_index()
#define blockIdx block_index()
#define blockDim block_extent()
#define gridDim grid_extent()

inline void __syncthreads() { cuda_on_cpu::meet(cuda_on_cpu::barriers[0], cuda_on_cpu::block.count); }

// --- what the lanes of a warp tell one another ---------------------------------------------------------

namespace cuda_on_cpu {

constexpr int MOST_WORDS = 64;

// Two buffers in turn: a lane may be one instruction ahead of those that still read its last words.
inline unsigned told[2][MOST_THREADS][MOST_WORDS];

inline int lane() { return block.running % WARP; }

// Every lane of the warp gives n words and waits for the others. Returns what lane i gave, at [i].
UNSEEN inline unsigned (*tell(const unsigned *words, int n))[MOST_WORDS]
{
    const int first = block.running / WARP * WARP, turn = warps[block.running / WARP].happened % 2;
    for (int i = 0; i < n; ++i)
        told[turn][block.running][i] = words[i];
    meet_warp();
    return told[turn] + first;
}

UNSEEN inline void whole_warp(unsigned mask)
{
    if (mask != 0xffffffffu)
        fail("a mask of less than the whole warp is not modelled");
}

template <typename T>
UNSEEN T shuffle(unsigned mask, T value, int from)
{
    static_assert(sizeof(T) == 4);
    whole_warp(mask);
    unsigned word;
    std::memcpy(&word, &value, 4);
    std::memcpy(&value, tell(&word, 1)[from], 4);
    return value;
}

}  // namespace cuda_on_cpu

inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    cuda_on_cpu::whole_warp(mask);
    cuda_on_cpu::meet_warp();
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int from)
{
    return cuda_on_cpu::shuffle(mask, value, from & 31);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int other)
{
    return cuda_on_cpu::shuffle(mask, value, cuda_on_cpu::lane() ^ other);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance)
{
    const int from = cuda_on_cpu::lane() + distance;
    return cuda_on_cpu::shuffle(mask, value, from < 32 ? from : cuda_on_cpu::lane());
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance)
{
    const int from = cuda_on_cpu::lane() - static_cast<int>(distance);
    return cuda_on_cpu::shuffle(mask, value, from >= 0 ? from : cuda_on_cpu::lane());
}

// --- math and memory functions that kernels use --------------------------------------------------------

template <typename T>
T __ldg(const T *p)
{
    return *p;
}
inline float __uint_as_float(unsigned u)
{
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
inline unsigned __float_as_uint(float f)
{
    unsigned u;
    std::memcpy(&u, &f, 4);
    return u;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (static_cast<uint64_t>(a) * b) >> 32; }
template <typename T>
T min(T a, T b)
{
    return b < a ? b : a;
}
template <typename T>
T max(T a, T b)
{
    return a < b ? b : a;
}

// --- launches ------------------------------------------------------------------------------------------

namespace cuda_on_cpu {

inline char *dynamic_shared;  // of the block that runs
inline std::size_t dynamic_shared_bytes;


struct Launch {
    unsigned grid[3], threads[3];
    unsigned first_block;  // along x: a test of huge arrays has no time for the others
    unsigned shared_bytes, schedule, seed;
};

UNSEEN inline void poison(char *first, char *end)
{
    for (volatile char *p = first; p != end; ++p)
        *p = static_cast<char>(0xff);
}

// Null, or what was wrong: then the rest has not been run.
inline const char *run_all(const Launch &launch, void (*kernel)(void *), void *arguments)
{
    static unsigned number;
    block = Block{};
    block.kernel = kernel;
    block.arguments = arguments;
    block.blocks = {launch.grid[0], launch.grid[1], launch.grid[2]};
    block.threads = {launch.threads[0], launch.threads[1], launch.threads[2]};
    block.state = launch.seed * 0x9e3779b97f4a7c15u + 1;
    static char error[sizeof block.error];
    const uint64_t count = uint64_t(block.threads.x) * block.threads.y * block.threads.z;
    if (count == 0 || count > MOST_THREADS) {
        std::snprintf(error, sizeof error, "a block has 1 to 1024 threads, got %llu",
                      static_cast<unsigned long long>(count));
        return error;
    }
    block.count = static_cast<int>(count);
    void *memory = nullptr;
    if (launch.shared_bytes && posix_memalign(&memory, 1024, launch.shared_bytes))
        return "no memory for dynamic shared memory";
    dynamic_shared = static_cast<char *>(memory);
    dynamic_shared_bytes = launch.shared_bytes;
    for (unsigned z = 0; z < launch.grid[2] && !*block.error; ++z)
        for (unsigned y = 0; y < launch.grid[1] && !*block.error; ++y)
            for (unsigned x = launch.first_block; x < launch.grid[0] && !*block.error; ++x) {
                block.index = {x, y, z};
                block.number = ++number;
                poison(dynamic_shared, dynamic_shared + launch.shared_bytes);
                poison(__start_cuda_shared, __stop_cuda_shared);
                run_block(static_cast<Schedule>(launch.schedule));
            }
    std::free(memory);
    if (!*block.error)
        return nullptr;
    std::memcpy(error, block.error, sizeof error);
    forget_fibres();
    return error;
}

// The arguments of one kernel, as cuLaunchKernel takes them.
template <auto kernel, typename... Parameters, std::size_t... I>
const char *launch_with(void (*)(Parameters...), std::index_sequence<I...>, const Launch &launch,
                        void **arguments, const std::size_t *sizes, std::size_t count)
{
    const std::size_t expected[] = {sizeof(Parameters)...};
    bool fit = count == sizeof...(Parameters);
    for (std::size_t i = 0; fit && i < count; ++i)
        fit = sizes[i] == expected[i];
    if (!fit)
        return "arguments do not have the number and the sizes of the parameters";
    return run_all(
        launch, [](void *p) { kernel(*static_cast<Parameters *>(static_cast<void **>(p)[I])...); },
        arguments);
}

template <auto kernel, typename... Parameters>
const char *launch_any(void (*pointer)(Parameters...), const Launch &launch, void **arguments,
                       const std::size_t *sizes, std::size_t count)
{
    return launch_with<kernel>(pointer, std::index_sequence_for<Parameters...>(), launch, arguments,
                               sizes, count);
}

}  // namespace cuda_on_cpu

#define EXPORT(kernel)                                                                              \
    extern "C" const char *launch_##kernel(const cuda_on_cpu::Launch *launch, void **arguments,     \
                                           const std::size_t *sizes, std::size_t count)             \
    {                                                                                               \
        return cuda_on_cpu::launch_any<kernel>(kernel, *launch, arguments, sizes, count);           \
    }
