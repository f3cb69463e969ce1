// PTX instructions that CUDA C++ has no words for, each behind a function; the kernels of this folder use them.
//
// On a GPU each function is one line of inline assembler. Any other compiler (no __CUDACC__) takes the
// same names from tests/cuda_emulator/ptx.h, which does what the PTX manual says, and checks what it
// asks for: so a kernel's .cu is one text for nvcc, NVRTC and g++. Whatever is added here is added there.
//
//   cvt_rna_tf32(f)                 the bits of f, rounded to TF32: nearest, ties away from zero
//   mma_m16n8k8_tf32(d, a, b)       d[16,8] += a[16,8] @ b[8,8], spread over the registers of a warp
//   ldmatrix_x4(d, row)             four 8 x 8 matrices of 16 bits (8 x 4 words) from rows in shared memory
//   cp_async16(to, from, valid)     starts a copy of 16 bytes to shared memory, past the registers;
//   cp_async4(to, from, valid)      ... of 4 bytes. Zeros if not valid: `from` is not read then
//   cp_async_commit()               closes this thread's group of copies
//   cp_async_wait<N>()              waits until at most N groups of this thread are on their way; other
//                                   threads see what has landed behind the next barrier
//   load4(from)  store4(to, v)      one access of 16 bytes
//   named_barrier(id, threads)      __syncthreads() among some warps: barrier 1 to 15, threads a multiple of 32
//   DYNAMIC_SHARED(T, name)         T *name: the shared memory that the launch gives, of any size
//
// cp.async, mma with TF32 and cvt.rna.tf32 need compute capability 8.0. On older GPUs the copies are
// ordinary loads and stores (correct, with nothing to wait for) and the others do not compile.
//
// Fragments of mma_m16n8k8_tf32 in the lanes of a warp, with g = lane / 4 and t = lane % 4
// (PTX ISA, "Matrix Fragments for mma.m16n8k8"):
//   a[0] (row g,  column t)   a[1] (g + 8, t)   a[2] (g, t + 4)   a[3] (g + 8, t + 4)
//   b[0] (row t,  column g)   b[1] (t + 4, g)
//   d[0] (row g,  column 2t)  d[1] (g, 2t + 1)  d[2] (g + 8, 2t)  d[3] (g + 8, 2t + 1)
//
// Fragments of ldmatrix_x4: lane l gives the address of row l % 8 of matrix l / 8, which is 16 bytes,
// aligned; d[i] is the 32-bit word l % 4 of row l / 4 of matrix i.

#ifndef CONVZOO_PTX
#define CONVZOO_PTX
#ifndef __CUDACC__
#include "ptx.h"  // of tests/cuda_emulator
#else

#define PTX static __device__ __forceinline__

#define DYNAMIC_SHARED(T, name)                                     \
    extern __shared__ __align__(1024) unsigned char dynamic_bytes[]; \
    T *const name = reinterpret_cast<T *>(dynamic_bytes)

PTX float4 load4(const float *from) { return *reinterpret_cast<const float4 *>(from); }

PTX void store4(float *to, float4 v) { *reinterpret_cast<float4 *>(to) = v; }

PTX void named_barrier(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

PTX unsigned shared_address(const void *p)
{
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

#if __CUDA_ARCH__ >= 800

PTX void cp_async16(void *to, const void *from, bool valid = true)
{
    // .cg keeps these lines out of L1, which is for what threads read themselves
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

PTX void cp_async4(void *to, const void *from, bool valid = true)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 4 : 0)
                 : "memory");
}

PTX void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
PTX void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

PTX unsigned cvt_rna_tf32(float f)
{
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(f));
    return bits;
}

PTX void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

PTX void ldmatrix_x4(unsigned (&d)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared_address(row))
                 : "memory");
}

#else  // before Ampere

PTX void cp_async16(void *to, const void *from, bool valid = true)
{
    *static_cast<float4 *>(to) =
        valid ? *static_cast<const float4 *>(from) : make_float4(0.f, 0.f, 0.f, 0.f);
}

PTX void cp_async4(void *to, const void *from, bool valid = true)
{
    *static_cast<float *>(to) = valid ? *static_cast<const float *>(from) : 0.f;
}

PTX void cp_async_commit() {}

template <int N>
PTX void cp_async_wait() {}

#endif  // __CUDA_ARCH__ >= 800

#undef PTX
#endif  // __CUDACC__
#endif  // CONVZOO_PTX
