// Warpgroup matrix instructions of Hopper (sm_90a): four warps multiply 64 rows at once, asynchronously.
//
// On a GPU each function is PTX. Any other compiler takes the same names from tests/cuda_emulator/wgmma.h.
//
//   wgmma_m64k8_tf32(d, a, b)     d[64,N] += a[64,8] @ b[N,8]ᵀ in TF32, N = 64 or 128; starts, and returns
//   wgmma_fence()                 before the first of them, and after registers they use were written
//   wgmma_commit()                closes the warpgroup's group of multiplications
//   wgmma_wait<N>()               waits until at most N groups are at work: until then d and a must not be
//                                 touched, nor the shared memory behind b written
//   fence_async()                 by a thread that wrote shared memory, cp.async included, before the
//                                 barrier behind which multiplications read it
//   rows_of_128_bytes(p)          what b is: rows of 128 bytes from p on, 16-byte chunk c of row r at
//                                 c ^ (r % 8) ("128-byte swizzle"); p a multiple of 1024 bytes, plus 32
//                                 bytes for each 8 columns to the right
//
// Fragments, with g = lane / 4, t = lane % 4, and the 16 rows from 16 * (warp % 4) on:
//   a      as in mma_m16n8k8_tf32
//   d[4j .. 4j+3]   columns 8j .. 8j+7, as d of mma_m16n8k8_tf32 (PTX ISA, "Register fragments for wgmma")

#ifndef __CUDACC__
#include "wgmma.h"  // of tests/cuda_emulator
#else

#define PTX static __device__ __forceinline__

PTX void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

PTX void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int N>
PTX void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

PTX void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The descriptor of a matrix in shared memory (PTX ISA, "Matrix descriptor format"): address / 16 in its
// low 14 bits, 1024 / 16 from one group of 8 rows to the next, 1 for the 128-byte swizzle.
PTX unsigned long long rows_of_128_bytes(const void *p)
{
    const unsigned long long address = static_cast<unsigned>(__cvta_generic_to_shared(p));
    return address / 16 % (1 << 14) | 64ull << 32 | 1ull << 62;
}

// Registers d[i] to d[i + 15] as operands of assembler, and their numbers.
#define SUMS(i)                                                                                         \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),         \
        "+f"(d[i + 6]), "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]),                \
        "+f"(d[i + 11]), "+f"(d[i + 12]), "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])

PTX void wgmma_m64k8_tf32(float (&d)[32], const unsigned (&a)[4], unsigned long long b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%32, %33, %34, %35}, %36, 1, 1, 1;"
                 : SUMS(0), SUMS(16)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

PTX void wgmma_m64k8_tf32(float (&d)[64], const unsigned (&a)[4], unsigned long long b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, 1, 1, 1;"
                 : SUMS(0), SUMS(16), SUMS(32), SUMS(48)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef SUMS
#undef PTX
#endif  // __CUDACC__
