// CUDA's words for an ordinary C++ compiler: runs kernels without barriers, one thread after another.
//
// A test compiles this header, a .cu file and EXPORT(kernel) as one file. launch_<kernel> then takes
// the arguments as cuLaunchKernel does, as pointers to them, and their sizes too: an int where the
// kernel expects a long long is what goes wrong unseen between Python and CUDA.

#include <cstddef>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};

static thread_local uint3 threadIdx, blockIdx, blockDim, gridDim;

// Runs all blocks from first_block (along x) on: a test of huge arrays has no time for the others.
// False, and nothing is run, if the arguments do not have the number and the sizes of the parameters.
template <typename... Parameters, std::size_t... I>
bool launch(void (*kernel)(Parameters...), const unsigned *grid, const unsigned *block,
            unsigned first_block, void **arguments, const std::size_t *sizes, std::size_t count,
            std::index_sequence<I...>)
{
    const std::size_t expected[] = {sizeof(Parameters)...};
    if (count != sizeof...(Parameters))
        return false;
    for (std::size_t i = 0; i < count; ++i)
        if (sizes[i] != expected[i])
            return false;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = first_block; x < grid[0]; ++x)
                for (unsigned tz = 0; tz < block[2]; ++tz)
                    for (unsigned ty = 0; ty < block[1]; ++ty)
                        for (unsigned tx = 0; tx < block[0]; ++tx) {
                            blockIdx = {x, y, z};
                            threadIdx = {tx, ty, tz};
                            kernel(*static_cast<Parameters *>(arguments[I])...);
                        }
    return true;
}

template <typename... Parameters>
bool launch(void (*kernel)(Parameters...), const unsigned *grid, const unsigned *block,
            unsigned first_block, void **arguments, const std::size_t *sizes, std::size_t count)
{
    return launch(kernel, grid, block, first_block, arguments, sizes, count,
                  std::index_sequence_for<Parameters...>());
}

#define EXPORT(kernel)                                                                               \
    extern "C" bool launch_##kernel(const unsigned *grid, const unsigned *block, unsigned first_block, \
                                    void **arguments, const std::size_t *sizes, std::size_t count)   \
    {                                                                                                \
        return launch(kernel, grid, block, first_block, arguments, sizes, count);                    \
    }
