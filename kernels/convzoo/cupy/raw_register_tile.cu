// A tile of y for each block, a small tile of that in the registers of each thread.
//
// raw_register_tile.py, beside this file, says why, lays out what is read here, and compiles it with
//   TILE_K, TILE_M   filters and pixels (of all images, in a row) of a block's tile
//   EACH_K           filters of a thread's tile, 8 or 4; it has 8 pixels

#include "_ptx.cuh"

constexpr int STEP = 8;  // taps that are in shared memory at once, for each of two buffers
constexpr int THREADS = TILE_K / EACH_K * (TILE_M / 8);
constexpr int BLOCKS = THREADS == 256 ? 2 : 384 / THREADS;  // on a multiprocessor: 128 or 170 registers
constexpr int WARPS_ALONG_K = TILE_K / (4 * EACH_K);  // a warp is 4 threads along K by 8 along pixels
constexpr int W_ROWS_AT_ONCE = THREADS / (TILE_K / 4), X_ROWS_AT_ONCE = THREADS / TILE_M;
static_assert(THREADS % TILE_M == 0 && STEP % X_ROWS_AT_ONCE == 0, "a tile that threads cannot share");

template <int RUNS, int APART>
__device__ __forceinline__ void load_runs(float *to, const float *from)
{
#pragma unroll
    for (int i = 0; i < RUNS; ++i) {
        const float4 run = load4(from + i * APART);
        to[4 * i] = run.x, to[4 * i + 1] = run.y, to[4 * i + 2] = run.z, to[4 * i + 3] = run.w;
    }
}

// x[N, G, C/G, H, W]; w[G, steps * STEP, padded_K], zeros where there is no tap or no filter; b[K];
// taps[steps * STEP]: the distance from a window's corner in x, then row + column * 2^32, where taps that
// there are not lie below x; y[parts, N, K, P, Q] or, if nhwc, [parts, N, P, Q, K].
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) raw_register_tile(
    const float *__restrict__ x, const float *__restrict__ w, const float *__restrict__ b,
    const longlong2 *__restrict__ taps, float *__restrict__ y, int nhwc,
    int N, int G, long long group_size, int H, int W, int group_K, int padded_K, int P, int Q,
    int stride_h, int stride_w, int top, int left, int steps, int steps_of_a_block)
{
    __shared__ __align__(16) float w_tile[2][STEP][TILE_K];
    __shared__ __align__(16) float x_tile[2][STEP][TILE_M];

    const int thread = threadIdx.x, PQ = P * Q, pixels = N * PQ, K = G * group_K;
    // Blocks in a row differ in their filters first: they read the same pixels at about the same time.
    const int tiles_k = padded_K / TILE_K, rest = blockIdx.x / tiles_k;
    const int k0 = blockIdx.x % tiles_k * TILE_K, g = rest % G, m0 = rest / G * TILE_M;
    const int first = blockIdx.y * steps_of_a_block, end = min(first + steps_of_a_block, steps);

    // The corner of this thread's window. A pixel that there is not lies above all images.
    const int m = m0 + thread % TILE_M, n = m / PQ, p = m % PQ / Q, q = m % Q;
    const int h0 = m < pixels ? p * stride_h - top : -(1 << 30), v0 = q * stride_w - left;
    const float *const corner = x + ((long long)n * G + g) * group_size + (long long)h0 * W + v0;

    // What this thread fetches next: rows of 16 bytes of w, single elements of x for its own pixel.
    const int w_row = thread / (TILE_K / 4), w_column = thread % (TILE_K / 4) * 4;
    const int x_row = thread / TILE_M, x_column = thread % TILE_M;
    const long long first_tap = (long long)first * STEP, all_taps = (long long)steps * STEP;
    const float *next_w = w + (g * all_taps + first_tap + w_row) * padded_K + k0 + w_column;
    const longlong2 *next_tap = taps + first_tap + x_row;

    auto fetch = [&](int buffer) {
#pragma unroll
        for (int i = 0; i < STEP; i += W_ROWS_AT_ONCE)
            if (i + w_row < STEP)
                cp_async16(&w_tile[buffer][i + w_row][w_column], next_w + (long long)i * padded_K);
#pragma unroll
        for (int i = 0; i < STEP; i += X_ROWS_AT_ONCE) {
            const longlong2 tap = __ldg(next_tap + i);  // one load for three numbers
            const int row = (int)tap.y, column = (int)(tap.y >> 32);
            const bool valid = (unsigned)(h0 + row) < (unsigned)H && (unsigned)(v0 + column) < (unsigned)W;
            cp_async4(&x_tile[buffer][i + x_row][x_column], corner + tap.x, valid);
        }
        cp_async_commit();
        next_w += (long long)STEP * padded_K;
        next_tap += STEP;
    };

    // Of its warp's tile a thread has runs of 4 filters, 16 apart, and 2 runs of 4 pixels, 32 apart: the
    // lanes of a warp then read neighbouring 16 bytes, without bank conflicts. Neighbouring lanes share
    // their pixels, and lanes that differ by 2 to 14 their filters: the order of maxas's SGEMM (Gray),
    // which lets shared memory answer a 16-byte load of a whole warp in fewer turns than four.
    const int warp = thread / 32, lane = thread % 32;
    const int my_k = warp % WARPS_ALONG_K * 4 * EACH_K + (lane / 16 * 2 + lane % 2) * 4;
    const int my_m = warp / WARPS_ALONG_K * 64 + lane / 2 % 8 * 4;
    float sums[EACH_K][8] = {};

    fetch(0);
    int buffer = 0;
    for (int step = first; step < end; ++step, buffer ^= 1) {
        cp_async_wait<0>();
        __syncthreads();  // this step's taps are there for all, and all are done with the step before
        if (step + 1 < end)
            fetch(buffer ^ 1);
#pragma unroll
        for (int t = 0; t < STEP; ++t) {
            float factors[EACH_K], values[8];
            load_runs<EACH_K / 4, 16>(factors, &w_tile[buffer][t][my_k]);
            load_runs<2, 32>(values, &x_tile[buffer][t][my_m]);
#pragma unroll
            for (int i = 0; i < EACH_K; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j)
                    sums[i][j] += factors[i] * values[j];
        }
    }

    // A part of the taps gives sums of its own; the first one brings the bias.
    y += (long long)blockIdx.y * pixels * K;
#pragma unroll
    for (int i = 0; i < EACH_K; ++i) {
        const int k = k0 + my_k + i / 4 * 16 + i % 4;
        const float bias = k < group_K && blockIdx.y == 0 ? b[g * group_K + k] : 0.f;
#pragma unroll
        for (int j = 0; j < 8; ++j)
            sums[i][j] += bias;
    }

    // Runs of four along whichever are neighbours in y, pixels or (nhwc) filters: stored at once if each
    // run there is whole and lies at a multiple of 16 bytes, else one by one.
    auto place = [&](int k, int m) {
        return nhwc ? (long long)m * K + g * group_K + k
                    : ((long long)(m / PQ) * K + g * group_K + k) * PQ + m % PQ;
    };
    const bool at_once = (nhwc ? group_K : PQ) % 4 == 0;
#pragma unroll
    for (int each = 0; each < EACH_K * 2; ++each) {  // of squares of 4 x 4 sums, their 4 runs
        const int i = each / 8 * 4, j = each / 4 % 2 * 4, e = each % 4;
        const int k = k0 + my_k + i * 4 + (nhwc ? 0 : e), m = m0 + my_m + j * 8 + (nhwc ? e : 0);
        float run[4];
#pragma unroll
        for (int o = 0; o < 4; ++o)
            run[o] = nhwc ? sums[i + o][j + e] : sums[i + e][j + o];
        if (at_once) {
            if (k < group_K && m < pixels)
                store4(y + place(k, m), make_float4(run[0], run[1], run[2], run[3]));
        } else {
#pragma unroll
            for (int o = 0; o < 4; ++o)
                if (k + (nhwc ? o : 0) < group_K && m + (nhwc ? 0 : o) < pixels)
                    y[place(k + (nhwc ? o : 0), m + (nhwc ? 0 : o))] = run[o];
        }
    }
}
