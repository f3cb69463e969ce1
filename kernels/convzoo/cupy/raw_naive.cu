// One thread computes one output. raw_naive.py, beside this file, compiles and launches it.
//
// REAL is float or double; the compiler's command line says which. A size fits an int, which
// raw_naive.py checks. A distance between two elements may not: arrays may have more than 2^31 of them.

typedef long long distance;

extern "C" __global__ void raw_naive(
    const REAL *__restrict__ x, const REAL *__restrict__ w, const REAL *__restrict__ b,
    REAL *__restrict__ y,
    int N, int C, int H, int W, int K, int R, int S, int P, int Q, int groups,
    int stride_h, int stride_w, int dilation_h, int dilation_w, int top, int left, int nhwc)
{
    const distance i = (distance)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (distance)N * K * P * Q)
        return;  // the last block has threads to spare

    // Threads are numbered as y lies in memory: the 32 of a warp then store one run of neighbours.
    int n, k, p, q;
    distance rest = i;
    if (nhwc) {
        k = rest % K; rest /= K;
        q = rest % Q; rest /= Q;
        p = rest % P; n = rest / P;
    } else {
        q = rest % Q; rest /= Q;
        p = rest % P; rest /= P;
        k = rest % K; n = rest / K;
    }

    // The loops below serve both layouts: all that differs is how far apart neighbours in x are.
    const distance next_c = nhwc ? 1 : (distance)H * W;
    const distance next_h = nhwc ? (distance)W * C : W;
    const distance next_v = nhwc ? C : 1;

    const int inputs = C / groups, outputs = K / groups;  // channels of one group
    const REAL *image = x + (distance)n * C * H * W + k / outputs * inputs * next_c;
    const REAL *tap = w + (distance)k * inputs * R * S;  // w is read in its own order, front to back
    REAL total = b[k];
    for (int c = 0; c < inputs; ++c)
        for (int r = 0; r < R; ++r) {
            const int h = p * stride_h + r * dilation_h - top;
            for (int s = 0; s < S; ++s, ++tap) {
                const int v = q * stride_w + s * dilation_w - left;
                if (0 <= h && h < H && 0 <= v && v < W)
                    total += image[c * next_c + h * next_h + v * next_v] * *tap;
            }
        }
    y[i] = total;
}
