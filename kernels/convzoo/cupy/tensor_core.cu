// One block sums a tile of ROWS pixels x COLUMNS filters on the tensor cores. tensor_core_tf32.py and
// tensor_core_3xtf32.py, beside this file, compile and launch it.
//
// The compiler's command line says ROWS and COLUMNS (64 or 128 each) and PRODUCTS: tensor-core products
// for each product of the problem, 1 (TF32), 3 (3xTF32), or 0 (none: float32 FMAs, for few taps).
// x is [N,H,W,G,channels] and w [G,filters,depth], channels, filters and depth padded with zeros; depth
// runs over (r, s, channel) as if they were one index.
#include "_ptx.cuh"

typedef long long distance;

constexpr int TALL = ROWS / 2, WIDE = PRODUCTS == 1 ? COLUMNS / 2 : 32;  // pixels, filters of a warp
constexpr int M = TALL / 16, N = WIDE / 8;                               // its tiles of mma
constexpr int SETS = PRODUCTS == 3 ? 2 : 1;  // sums of a warp: of the big products, and of the small
constexpr int THREADS = 64 * COLUMNS / WIDE, STAGES = 3;
constexpr int DEPTH = 32;                        // of a step: a row of a tile is 128 bytes,
constexpr int CHUNKS = DEPTH / 4;                // 8 chunks of 16 bytes, one cp.async each
constexpr int STAGE = (ROWS + COLUMNS) * DEPTH;  // floats

struct __align__(16) Window {  // of one output pixel: where it starts in memory and in the image
    const float *x;
    int h, w;
};

// Chunk c of row r lies at c ^ (r & 7): eight rows of one chunk, and eight chunks of one row, then fall
// into eight different groups of four banks.
__device__ __forceinline__ int at(int row, int chunk) { return row * DEPTH + ((chunk ^ (row & 7)) << 2); }

#if PRODUCTS == 0
// The sums of a thread are where mma would leave them, so both ways share the end of the kernel.
__device__ __forceinline__ void multiply(
    float (&sums)[SETS][M][N][4], const float *xs, const float *ws, int row, int column, int lane)
{
#pragma unroll 4
    for (int k = 0; k < DEPTH; ++k) {
        float v[2 * M], u[2 * N];
#pragma unroll
        for (int i = 0; i < 2 * M; ++i)
            v[i] = xs[at(row + 8 * i + lane / 4, k / 4) + k % 4];
#pragma unroll
        for (int j = 0; j < 2 * N; ++j)
            u[j] = ws[at(column + j / 2 * 8 + lane % 4 * 2 + j % 2, k / 4) + k % 4];
#pragma unroll
        for (int i = 0; i < 2 * M; ++i)
#pragma unroll
            for (int j = 0; j < 2 * N; ++j)
                sums[0][i / 2][j / 2][i % 2 * 2 + j % 2] += v[i] * u[j];
    }
}
#else
// v = big + small, both of 11 bits: exact where v has up to 22 bits, and 2^-23 |v| away at most
__device__ __forceinline__ void split(unsigned v, unsigned &big, unsigned &small)
{
    const float f = __uint_as_float(v);
    big = cvt_rna_tf32(f);
    if (PRODUCTS == 3)
        small = cvt_rna_tf32(f - __uint_as_float(big));
}

__device__ __forceinline__ void multiply(
    float (&sums)[SETS][M][N][4], const float *xs, const float *ws, int row, int column, int lane)
{
#pragma unroll
    for (int k = 0; k < CHUNKS; k += 2) {  // an mma is two chunks deep
        unsigned w_big[N][2], w_small[N][2];
#pragma unroll
        for (int j = 0; j < N; j += 2) {  // two tiles of w: rows 0-7 and 8-15, each two chunks
            unsigned v[4];
            ldmatrix_x4(v, ws + at(column + 8 * j + lane % 8 + lane / 16 * 8, k + lane / 8 % 2));
#pragma unroll
            for (int e = 0; e < 4; ++e)
                split(v[e], w_big[j + e / 2][e % 2], w_small[j + e / 2][e % 2]);
        }
#pragma unroll
        for (int i = 0; i < M; ++i) {
            unsigned v[4], big[4], small[4];
            ldmatrix_x4(v, xs + at(row + 16 * i + lane % 16, k + lane / 16));
#pragma unroll
            for (int e = 0; e < 4; ++e)
                split(v[e], big[e], small[e]);
            // The tensor cores cut sums to 24 bits, so small products have sums of their own, where
            // that costs little. All tiles before the next product: none waits for its last sum.
#pragma unroll
            for (int j = 0; j < N && PRODUCTS == 3; ++j)
                mma_m16n8k8_tf32(sums[SETS - 1][i][j], small, w_big[j]);
#pragma unroll
            for (int j = 0; j < N; ++j)
                mma_m16n8k8_tf32(sums[0][i][j], big, w_big[j]);
#pragma unroll
            for (int j = 0; j < N && PRODUCTS == 3; ++j)
                mma_m16n8k8_tf32(sums[SETS - 1][i][j], big, w_small[j]);
        }
    }
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 256 / THREADS) tensor_core(
    const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b,
    float *__restrict__ y,
    int pixels, int H, int W, int K, int P, int Q, int R, int S, int groups, int channels, int depth,
    int stride_h, int stride_w, int dilation_h, int dilation_w, int top, int left, int nhwc)
{
    DYNAMIC_SHARED(float, stages);
    Window *const windows = reinterpret_cast<Window *>(stages + STAGES * STAGE);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;

    // Blocks that share pixels are neighbours in time: tiles of filters, then groups, vary fastest.
    const int outputs = K / groups, tiles = (outputs + COLUMNS - 1) / COLUMNS;
    const int group = blockIdx.x / tiles % groups, first_filter = blockIdx.x % tiles * COLUMNS;
    const int first_pixel = blockIdx.x / tiles / groups * ROWS;
    const int pixel_size = groups * channels;
    w += ((distance)group * tiles * COLUMNS + first_filter) * depth;

    for (int i = thread; i < ROWS; i += THREADS) {
        const int m = first_pixel + i, n = m / (P * Q), p = m / Q % P, q = m % Q;
        const int h = p * stride_h - top, v = q * stride_w - left;
        const distance start = (((distance)n * H + h) * W + v) * pixel_size + group * channels;
        windows[i] = {x + start, m < pixels ? h : -(1 << 30), v};  // no pixel: outside of every image
    }
    __syncthreads();

    // This thread copies chunk `mine` of some rows; (r, s, c) is where that chunk stands in depth.
    const int mine = thread % CHUNKS, mine_from = thread / CHUNKS;
    int r = 0, s = 0, c = 4 * mine;
    auto load = [&](int step) {
        float *xs = stages + step % STAGES * STAGE, *ws = xs + ROWS * DEPTH;
        if (step * DEPTH < depth) {
            for (; c >= channels && r < R; c -= channels)
                if (++s == S) {
                    s = 0;
                    ++r;
                }
            const int down = r * dilation_h, right = s * dilation_w;
            const int offset = (down * W + right) * pixel_size + c;
#pragma unroll 4  // no more: the registers are full of sums
            for (int j = 0; j < ROWS; j += THREADS / CHUNKS) {
                const int i = j + mine_from;
                const Window window = windows[i];
                const bool inside = (r < R) & ((unsigned)(window.h + down) < (unsigned)H) &
                                    ((unsigned)(window.w + right) < (unsigned)W);
                cp_async16(xs + at(i, mine), window.x + offset, inside);
            }
            const float *from = w + (distance)mine_from * depth + step * DEPTH + 4 * mine;
#pragma unroll
            for (int i = 0; i < COLUMNS; i += THREADS / CHUNKS)
                cp_async16(ws + at(i + mine_from, mine), from + (distance)i * depth);
            c += DEPTH;
        }
        cp_async_commit();  // an empty group too: the wait below counts groups
    };

    const int row = warp % 2 * TALL, column = warp / 2 * WIDE;
    float sums[SETS][M][N][4] = {};
    for (int step = 0; step < STAGES - 1; ++step)
        load(step);
    for (int step = 0; step * DEPTH < depth; ++step) {
        cp_async_wait<STAGES - 2>();  // my copies of this step have landed, and behind the barrier
        __syncthreads();              // everybody's; the stage of the step before is free now
        load(step + STAGES - 1);
        const float *xs = stages + step % STAGES * STAGE;
        multiply(sums, xs, xs + ROWS * DEPTH, row, column, lane);
    }

    const distance next_k = nhwc ? 1 : (distance)P * Q;
    const bool in_pairs = nhwc && K % 2 == 0 && outputs % 2 == 0;
    float *out[2 * M];  // the output pixels of this thread's rows
#pragma unroll
    for (int i = 0; i < 2 * M; ++i) {
        const int m = first_pixel + row + 8 * i + lane / 4, n = m / (P * Q);
        out[i] = m >= pixels ? nullptr : y + (nhwc ? (distance)m * K : (distance)n * K * P * Q + m % (P * Q));
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const int filter = first_filter + column + 8 * j + lane % 4 * 2, k = group * outputs + filter;
        const bool first = filter < outputs, second = filter + 1 < outputs;
        const float bias = first ? b[k] : 0, next_bias = second ? b[k + 1] : 0;
#pragma unroll
        for (int i = 0; i < 2 * M; ++i) {
            if (!first || !out[i])
                continue;
            float *to = out[i] + k * next_k;
            float sum = sums[0][i / 2][j][i % 2 * 2], next_sum = sums[0][i / 2][j][i % 2 * 2 + 1];
            if (SETS == 2) {
                sum += sums[SETS - 1][i / 2][j][i % 2 * 2];
                next_sum += sums[SETS - 1][i / 2][j][i % 2 * 2 + 1];
            }
            sum += bias;
            next_sum += next_bias;
            if (in_pairs)
                *reinterpret_cast<float2 *>(to) = make_float2(sum, next_sum);
            else {
                to[0] = sum;
                if (second)
                    to[next_k] = next_sum;
            }
        }
    }
}
