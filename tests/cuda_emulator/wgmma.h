// The functions of kernels/convzoo/cupy/_wgmma.cuh on a CPU, as late as the PTX manual lets them happen.
//
//   at the wait  a multiplication reads its registers and its shared memory, and writes its sums, when the
//                warpgroup waits for its group: whatever was overwritten since it started shows
//   two views    wgmma does not read shared memory as threads do, but through the "async proxy", which here
//                is a second copy of it. What a cp.async of a thread brought gets there by that thread's
//                fence_async(). Only copies do: an operand written by plain stores stays NaN
//   descriptors  are taken apart again, and the swizzle is what the address's own bits make it
//   the order    every group must begin with a fence; all four warps of a warpgroup must come

#pragma once

#include "ptx.h"

namespace cuda_on_cpu {

struct Multiplication {
    float *d;
    const unsigned *a;
    unsigned long long b;
    int columns;
};

struct Multiplications {
    std::vector<std::vector<Multiplication>> groups{1};
    std::vector<Copy> unfenced;  // landed copies of this thread that wgmma does not see yet
    bool fenced = false;
    unsigned block = 0;
};
inline Multiplications multiplications[MOST_THREADS];

inline Multiplications &my_multiplications()
{
    Multiplications &mine = multiplications[block.running];
    if (mine.block != block.number)
        mine = Multiplications{{{}}, {}, false, block.number};
    return mine;
}

// Shared memory as wgmma sees it, NaN at the start of a block.
inline std::vector<char> async_view;

UNSEEN inline char *in_async_view(std::size_t offset, std::size_t bytes)
{
    static unsigned of_block = 0;
    if (of_block != block.number) {
        async_view.assign(dynamic_shared_bytes, static_cast<char>(0xff));
        of_block = block.number;
    }
    if (offset + bytes > async_view.size())
        fail("wgmma reads behind the end of shared memory");
    return async_view.data() + offset;
}

UNSEEN inline void watch(const Copy &copy, bool landed)
{
    if (landed)
        my_multiplications().unfenced.push_back(copy);
    else
        std::memset(in_async_view(static_cast<char *>(copy.to) - dynamic_shared, copy.bytes), 0xff,
                    copy.bytes);
}
inline const bool watching = (watch_copies = watch, true);

UNSEEN inline void meet_warpgroup()
{
    if (block.count % 128)
        fail("wgmma needs whole warpgroups of 128 threads");
    meet(warpgroups[block.running / 128], 128);
}

// b[column][k] of a descriptor: rows of 128 bytes in groups of 8, chunks swizzled by the address itself.
UNSEEN inline double operand(unsigned long long b, int column, int k)
{
    const std::size_t start = b % (1 << 14) * 16, next_group = (b >> 32) % (1 << 14) * 16;
    const std::size_t plain = start + column / 8 * next_group + column % 8 * 128 + k * 4;
    unsigned bits;
    std::memcpy(&bits, in_async_view(plain ^ ((plain >> 7 & 7) << 4), 4), 4);
    return tf32(bits);
}

UNSEEN inline void multiply_now(const Multiplication &m)
{
    const unsigned(*const told)[MOST_WORDS] = tell(m.a, 4);
    const int g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < m.columns / 2; ++i) {
        const int row = g + i % 4 / 2 * 8, column = i / 4 * 8 + 2 * t + i % 2;
        double products[8];
        for (int k = 0; k < 8; ++k)
            products[k] = tf32(told[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2]) * operand(m.b, column, k);
        m.d[i] = sum_as_tensor_core(m.d[i], products, 4);
        m.d[i] = sum_as_tensor_core(m.d[i], products + 4, 4);
    }
}

inline void start_multiplication(float *d, const unsigned *a, unsigned long long b, int columns)
{
    if (!my_multiplications().fenced)
        fail("a group of wgmma needs a wgmma_fence() before it");
    meet_warpgroup();
    my_multiplications().groups.back().push_back({d, a, b, columns});
}

}  // namespace cuda_on_cpu

UNSEEN inline void wgmma_fence()
{
    cuda_on_cpu::meet_warpgroup();
    cuda_on_cpu::my_multiplications().fenced = true;
}

UNSEEN inline void wgmma_commit()
{
    cuda_on_cpu::meet_warpgroup();
    cuda_on_cpu::my_multiplications().groups.emplace_back();
    cuda_on_cpu::my_multiplications().fenced = false;
}

template <int N>
void wgmma_wait()
{
    cuda_on_cpu::meet_warpgroup();
    auto &groups = cuda_on_cpu::my_multiplications().groups;
    while (groups.size() > N + 1) {
        for (const auto &m : groups.front())
            cuda_on_cpu::multiply_now(m);
        groups.erase(groups.begin());
    }
}

UNSEEN inline void fence_async()
{
    for (const auto &copy : cuda_on_cpu::my_multiplications().unfenced)
        std::memcpy(cuda_on_cpu::in_async_view(
                        static_cast<char *>(copy.to) - cuda_on_cpu::dynamic_shared, copy.bytes),
                    copy.to, copy.bytes);
    cuda_on_cpu::my_multiplications().unfenced.clear();
}

UNSEEN inline unsigned long long rows_of_128_bytes(const void *p)
{
    const std::size_t offset = static_cast<const char *>(p) - cuda_on_cpu::dynamic_shared;
    if (offset % 1024 % 32 || offset % 1024 >= 128)
        cuda_on_cpu::fail("rows_of_128_bytes needs a multiple of 1024 bytes and 0, 32, 64 or 96");
    return offset / 16 | 64ull << 32 | 1ull << 62;
}

template <int SUMS>
void wgmma_m64k8_tf32(float (&d)[SUMS], const unsigned (&a)[4], unsigned long long b)
{
    static_assert(SUMS == 32 || SUMS == 64);
    cuda_on_cpu::start_multiplication(d, a, b, 2 * SUMS);
}
