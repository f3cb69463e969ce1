"""Registers: a thread computes 8 x 8 outputs, so that 16 loads from shared memory feed 64 products.

After    numba_cuda/shared_tile   (new here: the convolution as a matrix product, and lines marked # 1)
Idea     shared_tile loads about one number for every product, and a multiprocessor multiplies four times as
         fast as it loads. A thread that holds 8 pixels and 8 filters in registers uses each number that it
         loads 8 times. To fill such a tile with pixels of any shape, the convolution is seen as a matrix
         product: pixels by taps times taps by filters, with the first matrix never built. A table says for
         each tap how far from the corner of the window it lies, in x and in rows and columns.
         All indices of the loop are unsigned and their constants known, so that the compiler can see that
         4 numbers lie side by side and loads them at once (LDS.128).
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside: taps (r, s, c), packed weights [G,taps,K/G], 8 taps of x and of w in shared memory
Threads  block 256 for 128 pixels by 128 filters, fewer where a small problem wants smaller tiles; grid
         ⌈N·P·Q/pixels⌉·⌈K/G/filters⌉·G·parts, the parts of the taps being added at the end
Cost     FLOP   2·N·K·P·Q·C/G·R·S, tiles and steps of 8 taps filled up with zeros
         bytes  x: itemsize·N·P·Q·C/G·R·S for each of ⌈K/G/filters⌉ tiles, w: itemsize·K·C/G·R·S for each
                of ⌈N·P·Q/pixels⌉, from L2; y once, and twice for every part where there are parts
Limits   every block waits for its loads before it multiplies; one value a load, one word a store; fewer
         than 16 filters in a group leave threads idle; less than 2^32 elements; compiled once a problem
Source   own; Chetlur et al., cuDNN: Efficient Primitives for Deep Learning, arXiv:1410.0759, 2014; lanes in
         the order of Gray, github.com/NervanaSystems/maxas/wiki/SGEMM
"""

from numba import cuda, float32, float64, uint32

from convzoo.plan import Plan
from convzoo.problem import Conv2d

from ._implicit_gemm import DEPTH, NOWHERE, Gemm, adding, cut, packing, planned, storing
from ._launch import Launch

ALGORITHM = "gemm"


def build(gemm: Gemm):
    """The kernel for one problem, not yet compiled."""
    prob = gemm.problem
    real = float32 if prob.dtype == "float32" else float64
    PIXELS, FILTERS, HIGH, WIDE = gemm.tile
    THREADS, nhwc = gemm.tile.threads, prob.layout == "nhwc"
    PITCH = PIXELS + 4  # in nhwc a warp writes 8 taps of 4 pixels: this spreads them over all banks
    X_SIZE, W_SIZE = DEPTH * PITCH, DEPTH * FILTERS
    X_LOADS, W_LOADS = DEPTH * PIXELS // THREADS, DEPTH * FILTERS // THREADS
    rows_of_warps = uint32(PIXELS // (8 * HIGH))
    C, H, W, P, Q = (uint32(n) for n in (prob.C, prob.H, prob.W, prob.P, prob.Q))
    G, M, depth, width = (uint32(n) for n in (prob.groups, gemm.pixels, *gemm.packed[1:]))
    across, down, steps, each = map(uint32, (gemm.across, gemm.down, gemm.steps, gemm.steps_of_part))
    (top, left), (stride_h, stride_w) = map(uint32, prob.padding[::2]), map(uint32, prob.stride)
    next_c, next_v = (uint32(1), C) if nhwc else (H * W, uint32(1))  # from one to the next, in x

    store = storing(gemm, vectors=False)

    @cuda.jit(device=True, inline="always")
    def multiply(xs, ws, sums, m, f, k):  # 1 one tap of the tile
        a, b = cuda.local.array(HIGH, real), cuda.local.array(WIDE, real)
        for i in range(HIGH):
            a[i] = xs[m + uint32(k * PITCH + i // 4 * 32 + i % 4)]
        for j in range(WIDE):
            b[j] = ws[f + uint32(k * FILTERS + j // 4 * 16 + j % 4)]
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] += a[i] * b[j]

    def convolve(x, w, b, table, y):
        xs = cuda.shared.array(X_SIZE, real, alignment=16)
        ws = cuda.shared.array(W_SIZE, real, alignment=16)
        sums = cuda.local.array((HIGH, WIDE), real)  # 1
        values = cuda.local.array(X_LOADS, real)
        origin = cuda.local.array(
            X_LOADS, uint32
        )  # of the windows of the pixels that this thread loads
        row = cuda.local.array(X_LOADS, uint32)
        column = cuda.local.array(X_LOADS, uint32)
        t, i = (
            uint32(cuda.threadIdx.x),
            uint32(cuda.blockIdx.x),
        )  # neighbouring blocks share pixels, in L2
        f0, m0 = uint32(i % across * FILTERS), uint32(i // across % down * PIXELS)
        g, part = i // across // down % G, i // across // down // G
        for e in range(X_LOADS):
            u = uint32(t + uint32(e * THREADS))
            m = uint32(m0 + (u // DEPTH if nhwc else u % PIXELS))
            n, p, q = m // Q // P, m // Q % P, m % Q
            row[e] = p * stride_h if m < M else NOWHERE
            column[e] = q * stride_w
            origin[e] = (n * H * W + p * stride_h * W + q * stride_w) * next_v
            origin[e] += g * (C // G) * next_c if nhwc else (n * (C - 1) + g * (C // G)) * next_c
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] = real(0)
        lane, warp = t % uint32(32), t // uint32(32)
        m = uint32(warp % rows_of_warps * (8 * HIGH) + lane // 2 % 8 * 4)
        f = uint32(warp // rows_of_warps * (4 * WIDE) + (lane % 2 + lane // 16 * 2) * 4)

        for step in range(uint32(part * each), uint32(min(part * each + each, steps))):
            first = uint32(step * DEPTH)
            for e in range(X_LOADS):
                u = uint32(t + uint32(e * THREADS))
                k = uint32(first + (u % DEPTH if nhwc else u // PIXELS))
                h, v = row[e] + table[depth + k], column[e] + table[depth + depth + k]
                values[e] = real(0)
                if top <= h < top + H and left <= v < left + W:
                    values[e] = x[uint32(origin[e] + table[k] - (top * W + left) * next_v)]
            for e in range(X_LOADS):
                u = uint32(t + uint32(e * THREADS))
                k, pixel = (u % DEPTH, u // DEPTH) if nhwc else (u // PIXELS, u % PIXELS)
                xs[uint32(k * PITCH + pixel)] = values[e]
            for e in range(W_LOADS):
                u = uint32(t + uint32(e * THREADS))
                ws[u] = w[uint32((g * depth + first + u // FILTERS) * width + f0 + u % FILTERS)]
            cuda.syncthreads()  # all is written before anything is read
            multiply(xs, ws, sums, m, f, 0)  # eight calls, for a loop would have to compute addresses
            multiply(xs, ws, sums, m, f, 1)
            multiply(xs, ws, sums, m, f, 2)
            multiply(xs, ws, sums, m, f, 3)
            multiply(xs, ws, sums, m, f, 4)
            multiply(xs, ws, sums, m, f, 5)
            multiply(xs, ws, sums, m, f, 6)
            multiply(xs, ws, sums, m, f, 7)
            cuda.syncthreads()  # all is read before the next taps are written

        store(y, b, sums, part, g, uint32(m0 + m), uint32(f0 + f))

    return convolve


def launches(p: Conv2d) -> tuple[Launch, ...]:
    gemm = cut(p)
    array = f"{p.dtype}[::1]"
    threads = gemm.tile.threads
    convolve = Launch(
        "convolve", build(gemm), f"void({array}, {array}, {array}, uint32[::1], {array})",
        gemm.blocks, threads, max(1, 512 // threads),
    )  # fmt: skip
    return (packing(gemm), convolve, *([adding(gemm)] if gemm.parts > 1 else []))


def plan(p: Conv2d) -> Plan:
    return planned(cut(p), launches(p))
