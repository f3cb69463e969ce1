// Small kernels that show what the emulator does, right ones and wrong ones (test_cuda_emulator.py).

#include "_ptx.cuh"

constexpr int THREADS = 128;

extern "C" __global__ void reverse(float *x, int with_barrier)
{
    __shared__ float kept[THREADS];
    kept[threadIdx.x] = x[blockIdx.x * THREADS + threadIdx.x];
    if (with_barrier)
        __syncthreads();
    x[blockIdx.x * THREADS + threadIdx.x] = kept[THREADS - 1 - threadIdx.x];
}

// shared memory that nobody has written: both kinds
extern "C" __global__ void unwritten(float *y)
{
    __shared__ float kept[THREADS];
    DYNAMIC_SHARED(float, given);
    y[threadIdx.x] = kept[threadIdx.x];
    y[THREADS + threadIdx.x] = given[threadIdx.x];
    kept[threadIdx.x] = given[threadIdx.x] = 1;
}

// three groups of copies, of which some may still be on their way when they are read
extern "C" __global__ void copy_in_groups(const float *x, float *y, int on_their_way, int valid)
{
    __shared__ __align__(16) float kept[3][4 * THREADS];
    float *const mine = &kept[0][4 * threadIdx.x];
    for (int group = 0; group < 3; ++group) {
        cp_async16(mine + group * 4 * THREADS, valid ? x + 4 * threadIdx.x : nullptr, valid);
        cp_async_commit();
    }
    if (on_their_way == 0)
        cp_async_wait<0>();
    if (on_their_way == 1)
        cp_async_wait<1>();
    if (on_their_way == 2)
        cp_async_wait<2>();
    for (int group = 0; group < 3; ++group)
        for (int i = 0; i < 4; ++i)
            y[(group * THREADS + threadIdx.x) * 4 + i] = mine[group * 4 * THREADS + i];
}

extern "C" __global__ void copy_words(const float *x, float *y, int with_barrier)
{
    __shared__ float kept[THREADS];
    cp_async4(&kept[threadIdx.x], &x[threadIdx.x], threadIdx.x % 2);
    cp_async_commit();
    cp_async_wait<0>();
    if (with_barrier)
        __syncthreads();
    y[threadIdx.x] = kept[THREADS - 1 - threadIdx.x];
}

extern "C" __global__ void off_by(const float *x, float *y, int what, int elements)
{
    __shared__ __align__(16) float kept[8 * THREADS];
    float *const mine = kept + 4 * threadIdx.x + elements;
    unsigned words[4];
    if (what == 0)
        cp_async16(kept + 4 * threadIdx.x, x + elements);
    if (what == 1)
        cp_async16(mine, x);
    if (what == 2)
        store4(mine, load4(x));
    if (what == 3)
        store4(y, load4(x + elements));
    if (what == 4)
        ldmatrix_x4(words, mine);
}

extern "C" __global__ void multiply(const float *a, const float *b, float *d, int round)
{
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    const float rows[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
    const float columns[2] = {b[t * 8 + g], b[(t + 4) * 8 + g]};
    unsigned A[4], B[2];
    for (int i = 0; i < 4; ++i)
        A[i] = round ? cvt_rna_tf32(rows[i]) : __float_as_uint(rows[i]);
    for (int i = 0; i < 2; ++i)
        B[i] = round ? cvt_rna_tf32(columns[i]) : __float_as_uint(columns[i]);
    float D[4];
    for (int i = 0; i < 4; ++i)
        D[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    mma_m16n8k8_tf32(D, A, B);
    for (int i = 0; i < 4; ++i)
        d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = D[i];
}

extern "C" __global__ void round_to_tf32(const float *x, float *y)
{
    y[threadIdx.x] = __uint_as_float(cvt_rna_tf32(x[threadIdx.x]));
}

// four matrices of 8 x 4 words, from rows of 8 words
extern "C" __global__ void matrices(const float *x, float *y)
{
    __shared__ __align__(16) float rows[32][8];
    for (int i = 0; i < 8; ++i)
        rows[threadIdx.x][i] = x[threadIdx.x * 8 + i];
    __syncwarp();
    unsigned words[4];
    ldmatrix_x4(words, &rows[threadIdx.x][4]);
    for (int i = 0; i < 4; ++i)
        y[i * 32 + threadIdx.x] = __uint_as_float(words[i]);
}

extern "C" __global__ void shuffles(const float *x, float *y)
{
    const float v = x[threadIdx.x];
    y[threadIdx.x] = __shfl_xor_sync(~0u, v, 5);
    y[32 + threadIdx.x] = __shfl_down_sync(~0u, v, 3);
    y[64 + threadIdx.x] = __shfl_up_sync(~0u, v, 3);
    y[96 + threadIdx.x] = __shfl_sync(~0u, v, 7);
}

// Two pairs of warps, each with a barrier of its own; the second pair waits twice.
extern "C" __global__ void two_barriers(float *y)
{
    __shared__ float kept[THREADS];
    const int pair = threadIdx.x / 64;
    kept[threadIdx.x] = threadIdx.x;
    named_barrier(1 + pair, 64);
    if (pair == 1)
        named_barrier(2, 64);
    y[threadIdx.x] = kept[threadIdx.x ^ 32];
}

extern "C" __global__ void some_leave(float *y)
{
    if (threadIdx.x >= 100)
        return;
    __syncthreads();
    y[threadIdx.x] = 1;
}

extern "C" __global__ void part_of_a_warp(float *y)
{
    if (threadIdx.x % 32 < 16)
        y[threadIdx.x] = __shfl_xor_sync(~0u, y[threadIdx.x], 1);
}

// writes `elements` behind the last element of an array in one of three memories
extern "C" __global__ void beyond(float *x, int elements, int where)
{
    __shared__ float kept[THREADS], others[THREADS];
    DYNAMIC_SHARED(float, given);
    kept[threadIdx.x] = others[threadIdx.x] = given[threadIdx.x] = 0;
    float *const start = where == 0 ? x : where == 1 ? given : where == 2 ? kept : others;
    start[threadIdx.x + elements] = 1;
}
