// The functions of kernels/convzoo/cupy/_ptx.cuh on a CPU, each with what could go wrong on a GPU.
//
//   copies     cp.async lands at the wait and not before; from its start its target is NaN, because the
//              hardware may write there at any time between. Who reads too early or reuses a buffer too
//              early meets NaN. Both writes are seen by the sanitizers
//   addresses  16-byte accesses must be aligned to 16 bytes, 4-byte copies to 4
//   mma        fragments as the tables in _ptx.cuh say. The products are exact; sums are those of tensor
//              cores as Fasi, Higham, Mikaitis and Pranesh found them (PeerJ Comput. Sci. 7:e330, 2021):
//              four products and the sum so far are aligned to the largest of them, what lies below
//              its last place but one is cut off, and so is the result. Whole numbers below 2^24 are exact
//   TF32       mma cuts off the 13 low bits of what it is given, as the hardware does: cvt_rna_tf32 rounds

#pragma once

#include <vector>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

UNSEEN inline void check_aligned(const void *p, unsigned bytes, const char *what)
{
    if (reinterpret_cast<uintptr_t>(p) % bytes)
        fail(what);
}

struct Copy {
    void *to;
    const void *from;  // null: zeros
    int bytes;
};

// Groups of one thread in order, the last one still open.
struct Copies {
    std::vector<std::vector<Copy>> groups{1};
    unsigned block = 0;  // the copies of an earlier block are forgotten
};
inline Copies copies[MOST_THREADS];

// Told of every copy when it starts and when it has landed (wgmma.h listens).
inline void (*watch_copies)(const Copy &, bool landed) = nullptr;

inline Copies &my_copies()
{
    Copies &mine = copies[block.running];
    if (mine.block != block.number)
        mine = Copies{{{}}, block.number};
    return mine;
}

template <int BYTES>
void start_copy(void *to, const void *from, bool valid)
{
    constexpr const char *problem = BYTES == 16 ? "cp_async16 needs addresses that are multiples of 16"
                                                : "cp_async4 needs addresses that are multiples of 4";
    check_aligned(to, BYTES, problem);
    check_aligned(from, BYTES, problem);
    std::memset(to, 0xff, BYTES);
    if (watch_copies)
        watch_copies({to, from, BYTES}, false);
    my_copies().groups.back().push_back({to, valid ? from : nullptr, BYTES});
}

inline void land_all_but(std::size_t groups)
{
    auto &mine = my_copies().groups;
    while (mine.size() > groups + 1) {
        for (const Copy &c : mine.front()) {
            if (c.from)
                std::memcpy(c.to, c.from, c.bytes);
            else
                std::memset(c.to, 0, c.bytes);
            if (watch_copies)
                watch_copies(c, true);
        }
        mine.erase(mine.begin());
    }
}

UNSEEN inline char *shared_start() { return dynamic_shared; }

// A TF32 operand: what the tensor core sees of 32 bits.
inline double tf32(unsigned bits) { return __uint_as_float(bits & 0xffffe000u); }

// c + the n products in p, as a tensor core sums them.
inline float sum_as_tensor_core(float c, const double *p, int n)
{
    double most = std::fabs(c), total = 0;
    for (int i = 0; i < n; ++i)
        most = std::fmax(most, std::fabs(p[i]));
    if (!(most > 0) || !std::isfinite(most) || std::isnan(c)) {
        total = c;
        for (int i = 0; i < n; ++i)
            total += p[i];
        return static_cast<float>(total);
    }
    const int last = std::ilogb(most) - 24;  // the place below the last one of a float
    const double scale = std::ldexp(1.0, -last);
    total = std::trunc(c * scale);
    for (int i = 0; i < n; ++i)
        total += std::trunc(p[i] * scale);
    total = std::ldexp(total, last);  // of a whole number below 2^53: exact so far
    float rounded = static_cast<float>(total);
    if (std::fabs(static_cast<double>(rounded)) > std::fabs(total))
        rounded = std::nextafterf(rounded, 0.0f);
    return rounded;
}

}  // namespace cuda_on_cpu

#define DYNAMIC_SHARED(T, name) T *const name = reinterpret_cast<T *>(cuda_on_cpu::shared_start())

inline float4 load4(const float *from)
{
    cuda_on_cpu::check_aligned(from, 16, "load4 needs an address that is a multiple of 16");
    return *reinterpret_cast<const float4 *>(from);
}

inline void store4(float *to, float4 v)
{
    cuda_on_cpu::check_aligned(to, 16, "store4 needs an address that is a multiple of 16");
    *reinterpret_cast<float4 *>(to) = v;
}

inline void named_barrier(int id, int threads)
{
    if (id < 1 || id > 15 || threads < 32 || threads % 32 || threads > cuda_on_cpu::block.count)
        cuda_on_cpu::fail("named_barrier needs an id of 1 to 15 and a multiple of 32 threads");
    cuda_on_cpu::meet(cuda_on_cpu::barriers[id], threads);
}

inline void cp_async16(void *to, const void *from, bool valid = true)
{
    cuda_on_cpu::start_copy<16>(to, from, valid);
}

inline void cp_async4(void *to, const void *from, bool valid = true)
{
    cuda_on_cpu::start_copy<4>(to, from, valid);
}

inline void cp_async_commit() { cuda_on_cpu::my_copies().groups.emplace_back(); }

template <int N>
void cp_async_wait()
{
    cuda_on_cpu::land_all_but(N);
}

inline unsigned cvt_rna_tf32(float f)
{
    const unsigned bits = __float_as_uint(f);
    // an infinity or a NaN keeps its upper bits; the sum carries into the exponent where it must
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

UNSEEN inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    const unsigned words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned(*const told)[cuda_on_cpu::MOST_WORDS] = cuda_on_cpu::tell(words, 6);
    const int g = cuda_on_cpu::lane() / 4, t = cuda_on_cpu::lane() % 4;
    for (int i = 0; i < 4; ++i) {
        const int row = g + i / 2 * 8, column = 2 * t + i % 2;
        double products[8];
        for (int k = 0; k < 8; ++k)
            products[k] = cuda_on_cpu::tf32(told[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2]) *
                          cuda_on_cpu::tf32(told[column * 4 + k % 4][4 + k / 4]);
        d[i] = cuda_on_cpu::sum_as_tensor_core(d[i], products, 4);
        d[i] = cuda_on_cpu::sum_as_tensor_core(d[i], products + 4, 4);
    }
}

inline void ldmatrix_x4(unsigned (&d)[4], const void *row)
{
    cuda_on_cpu::check_aligned(row, 16, "ldmatrix_x4 needs rows at multiples of 16 bytes");
    const uint64_t address = reinterpret_cast<uintptr_t>(row);
    const unsigned words[2] = {static_cast<unsigned>(address), static_cast<unsigned>(address >> 32)};
    const unsigned(*const told)[cuda_on_cpu::MOST_WORDS] = cuda_on_cpu::tell(words, 2);
    const int lane = cuda_on_cpu::lane();
    for (int i = 0; i < 4; ++i) {
        const unsigned *const halves = told[i * 8 + lane / 4];
        const auto *const words_of_row = reinterpret_cast<const unsigned *>(
            static_cast<uintptr_t>(halves[0] | static_cast<uint64_t>(halves[1]) << 32));
        std::memcpy(&d[i], words_of_row + lane % 4, 4);
    }
}
