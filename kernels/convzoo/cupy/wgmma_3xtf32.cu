// Two warpgroups sum a tile of ROWS pixels x COLUMNS filters with wgmma. wgmma_3xtf32.py, beside this
// file, compiles and launches it, with ROWS x COLUMNS (128 x 128, 256 x 64 or 128 x 64) and STAGES as macros.
//
// x is [N,H,W,G,channels]; w is [2,G,filters,depth], the big parts and the small parts of the weights.
// channels, filters and depth are padded with zeros; depth runs over (r, s, channel) as one index.
#include "_ptx.cuh"
#include "_wgmma.cuh"

typedef long long distance;

constexpr int THREADS = 256;
constexpr int DEPTH = 32;                                 // of a step: a row of a tile is 128 bytes,
constexpr int CHUNKS = DEPTH / 4;                         // 8 chunks of 16 bytes, one cp.async each
constexpr int STAGE = (ROWS + 2 * COLUMNS) * DEPTH;       // floats: x, big parts of w, small parts
constexpr int M = ROWS / 128;                             // 64-row tiles of a warpgroup

struct __align__(16) Window {  // of one output pixel: where it starts in memory and in the image
    const float *x;
    int h, w;
};

// The 128-byte swizzle that wgmma reads, and that keeps copies and ldmatrix from meeting in a bank.
__device__ __forceinline__ int at(int row, int chunk) { return row * DEPTH + ((chunk ^ (row & 7)) << 2); }

extern "C" __global__ void __launch_bounds__(THREADS, ROWS * COLUMNS == 128 * 64 ? 2 : 1) wgmma_3xtf32(
    const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b,
    float *__restrict__ y,
    int pixels, int H, int W, int K, int P, int Q, int R, int S, int groups, int channels, int depth,
    int stride_h, int stride_w, int dilation_h, int dilation_w, int top, int left, int nhwc)
{
    DYNAMIC_SHARED(float, stages);
    Window *const windows = reinterpret_cast<Window *>(stages + STAGES * STAGE);
    const int thread = threadIdx.x, lane = thread % 32;

    // Blocks that share pixels are neighbours in time: tiles of filters, then groups, vary fastest.
    const int outputs = K / groups, tiles = (outputs + COLUMNS - 1) / COLUMNS;
    const int group = blockIdx.x / tiles % groups, first_filter = blockIdx.x % tiles * COLUMNS;
    const int first_pixel = blockIdx.x / tiles / groups * ROWS;
    const int pixel_size = groups * channels;
    const distance small_parts = (distance)groups * tiles * COLUMNS * depth;
    w += ((distance)group * tiles * COLUMNS + first_filter) * depth;

    for (int i = thread; i < ROWS; i += THREADS) {
        const int m = first_pixel + i, n = m / (P * Q), p = m / Q % P, q = m % Q;
        const int h = p * stride_h - top, v = q * stride_w - left;
        const distance start = (((distance)n * H + h) * W + v) * pixel_size + group * channels;
        windows[i] = {x + start, m < pixels ? h : -(1 << 30), v};  // no pixel: outside of every image
    }
    __syncthreads();

    // This thread copies chunk `mine` of every 32nd row; (r, s, c) is where that chunk stands in depth.
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
#pragma unroll
            for (int j = 0; j < ROWS; j += THREADS / CHUNKS) {
                const int i = j + mine_from;
                const Window window = windows[i];
                const bool inside = (r < R) & ((unsigned)(window.h + down) < (unsigned)H) &
                                    ((unsigned)(window.w + right) < (unsigned)W);
                cp_async16(xs + at(i, mine), window.x + offset, inside);
            }
            const float *from = w + (distance)mine_from * depth + step * DEPTH + 4 * mine;
#pragma unroll
            for (int i = 0; i < COLUMNS; i += THREADS / CHUNKS) {
                float *to = ws + at(i + mine_from, mine);
                cp_async16(to, from + (distance)i * depth);
                cp_async16(to + COLUMNS * DEPTH, from + (distance)i * depth + small_parts);
            }
            c += DEPTH;
        }
        cp_async_commit();  // an empty group too: the wait below counts groups
    };

    const int row = thread / 128 * 64 * M + thread / 32 % 4 * 16;  // of this warp, in the first tile
    float sums[2][M][COLUMNS / 2] = {};     // of the big products, and of the small: see below
    unsigned big[2][M][4], small[2][M][4];  // x in registers, in turn: the last ones are still read
    for (int step = 0; step < STAGES - 2; ++step)
        load(step);
    for (int step = 0; step * DEPTH < depth; ++step) {
        cp_async_wait<STAGES - 3>();  // my copies of this step have landed,
        fence_async();                // for wgmma too, and behind the barrier everybody's
        __syncthreads();
        const float *xs = stages + step % STAGES * STAGE, *ws = xs + ROWS * DEPTH;
#pragma unroll
        for (int k = 0; k < CHUNKS; k += 2) {  // a wgmma is two chunks deep
            const int turn = k / 2 % 2;
#pragma unroll
            for (int i = 0; i < M; ++i) {
                unsigned v[4];
                ldmatrix_x4(v, xs + at(row + 64 * i + lane % 16, k + lane / 16));
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    big[turn][i][e] = cvt_rna_tf32(__uint_as_float(v[e]));
                    const float rest = __uint_as_float(v[e]) - __uint_as_float(big[turn][i][e]);
                    small[turn][i][e] = cvt_rna_tf32(rest);
                }
            }
            const unsigned long long w_big = rows_of_128_bytes(ws + 4 * k);
            const unsigned long long w_small = rows_of_128_bytes(ws + COLUMNS * DEPTH + 4 * k);
            // The tensor cores cut sums to 24 bits. To add a small product to a large sum would cut that
            // once more, so small products have sums of their own.
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < M; ++i) {
                wgmma_m64k8_tf32(sums[0][i], big[turn][i], w_big);
                wgmma_m64k8_tf32(sums[1][i], small[turn][i], w_big);
                wgmma_m64k8_tf32(sums[1][i], big[turn][i], w_small);
            }
            wgmma_commit();
            if (k == 0)
                load(step + STAGES - 2);  // where the step before the last one was: nobody reads it now
            wgmma_wait<1>();              // the tensor cores have one group more, while x is split
        }
    }
    wgmma_wait<0>();
    cp_async_wait<0>();

    const distance next_k = nhwc ? 1 : (distance)P * Q;
    const bool in_pairs = nhwc && K % 2 == 0 && outputs % 2 == 0;
    float *out[2 * M];  // the output pixels of this thread's rows
#pragma unroll
    for (int i = 0; i < 2 * M; ++i) {
        const int m = first_pixel + row + i / 2 * 64 + i % 2 * 8 + lane / 4, n = m / (P * Q);
        out[i] = m >= pixels ? nullptr : y + (nhwc ? (distance)m * K : (distance)n * K * P * Q + m % (P * Q));
    }
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; ++j) {
        const int filter = first_filter + 8 * j + lane % 4 * 2, k = group * outputs + filter;
        const bool first = filter < outputs, second = filter + 1 < outputs;
        const float bias = first ? b[k] : 0, next_bias = second ? b[k + 1] : 0;
#pragma unroll
        for (int i = 0; i < 2 * M; ++i) {
            if (!first || !out[i])
                continue;
            float *to = out[i] + k * next_k;
            const int at_row = 4 * j + i % 2 * 2;
            const float sum = sums[0][i / 2][at_row] + sums[1][i / 2][at_row] + bias;
            const float next_sum = sums[0][i / 2][at_row + 1] + sums[1][i / 2][at_row + 1] + next_bias;
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
