// x as the implicit GEMMs read it: [N,C,H,W] or [N,H,W,C] becomes [N,H·W,G,channels], with zeros behind
// the C/G channels of a group. _implicit_gemm.py, beside this file, compiles and launches it.

constexpr int TILE = 32, ROWS = 8;  // a block turns 32 x 32 values over; it has 32 x 8 threads

extern "C" __global__ void __launch_bounds__(TILE *ROWS) channels_last(
    const float *__restrict__ x, float *__restrict__ y,
    int pixels, int groups, int inputs, int channels, int nhwc)
{
    __shared__ float tile[TILE][TILE + 1];  // one more: a column then lies in 32 different banks
    const int width = groups * channels, across = (width + TILE - 1) / TILE;
    const int down = (pixels + TILE - 1) / TILE;
    const int first_c = blockIdx.x % across * TILE, first_pixel = blockIdx.x / across % down * TILE;
    const long long image = blockIdx.x / across / down;
    const long long next_c = nhwc ? 1 : pixels, next_pixel = nhwc ? groups * inputs : 1;
    x += image * pixels * groups * inputs;
    y += image * pixels * width;

    // Neighbouring threads read neighbouring pixels,
    const int pixel = first_pixel + threadIdx.x;
#pragma unroll
    for (int i = threadIdx.y; i < TILE; i += ROWS) {
        const int c = first_c + i, in_group = c % channels;
        const bool there = c < width && in_group < inputs && pixel < pixels;
        tile[i][threadIdx.x] = there ? x[(c / channels * inputs + in_group) * next_c + pixel * next_pixel] : 0;
    }
    __syncthreads();
    // and write neighbouring channels.
    const int c = first_c + threadIdx.x;
#pragma unroll
    for (int i = threadIdx.y; i < TILE; i += ROWS)
        if (first_pixel + i < pixels && c < width)
            y[(long long)(first_pixel + i) * width + c] = tile[threadIdx.x][i];
}
