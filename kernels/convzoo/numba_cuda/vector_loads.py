"""Sixteen bytes at a time: four neighbouring channels, filters or outputs move in one instruction.

After    numba_cuda/register_tile   (new here: lines marked # 1)
Idea     A load of 16 bytes costs the instructions of one of 4: an address, a comparison with the edge of the
         image, a load. Four taps of a window lie side by side in x where its channels run fastest, and four
         filters do where the packed weights are read, so both are loaded by four; so are y's neighbours
         stored. x[N,C,H,W], and groups whose channels are no multiple of 4, are first brought into that
         order, with zeros for the channels that are missing.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: x[N,H,W,G,C'] with C' = C/G filled up to a multiple of 4, written for each call unless x is
         given so; taps (r, s, c), packed weights [G,taps,K/G], 8 taps of x and of w in shared memory
Threads  block 256 for 128 pixels by 128 filters, fewer where a small problem wants smaller tiles; grid
         ⌈N·P·Q/pixels⌉·⌈K/G/filters⌉·G·parts; to rearrange, 256 for 32 pixels by 32 channels
Cost     FLOP   2·N·K·P·Q·C'·R·S, tiles and steps of 8 taps filled up with zeros
         bytes  x read and written once more to rearrange it; then as register_tile
Limits   every block waits for its loads before it multiplies; 1 to 3 channels a group are loaded as 4; fewer
         than 16 filters in a group leave threads idle; less than 2^32 elements; compiled once a problem
Source   own; NVIDIA, CUDA Pro Tip: Increase Performance with Vectorized Memory Access, 2013
"""

from numba import cuda, float32, uint32

from convzoo.plan import Plan
from convzoo.problem import Conv2d

from ._implicit_gemm import DEPTH, NOWHERE, Gemm, adding, cut, packing, planned, storing
from ._launch import Launch
from ._ptx import load4, store4

ALGORITHM = "gemm"
DTYPES = ("float32",)
SIDE = 32  # of the squares in which x is rearranged


def build(gemm: Gemm):
    """The kernel for one problem, not yet compiled. x is [N,H,W,G,channels]."""
    prob = gemm.problem
    PIXELS, FILTERS, HIGH, WIDE = gemm.tile
    THREADS = gemm.tile.threads
    PITCH = PIXELS + 4  # a warp writes 2 taps of 16 pixels: this spreads them over all banks
    X_SIZE, W_SIZE = DEPTH * PITCH, DEPTH * FILTERS
    X_LOADS, W_LOADS = DEPTH * PIXELS // 4 // THREADS, DEPTH * FILTERS // 4 // THREADS  # 1
    rows_of_warps = uint32(PIXELS // (8 * HIGH))
    C, H, W, P, Q = (uint32(n) for n in (gemm.channels, prob.H, prob.W, prob.P, prob.Q))
    G, M, depth, width = (uint32(n) for n in (prob.groups, gemm.pixels, *gemm.packed[1:]))
    across, down, steps, each = map(uint32, (gemm.across, gemm.down, gemm.steps, gemm.steps_of_part))
    (top, left), (stride_h, stride_w) = map(uint32, prob.padding[::2]), map(uint32, prob.stride)
    store = storing(gemm, vectors=True)  # 1

    @cuda.jit(device=True, inline="always")
    def multiply(xs, ws, sums, m, f, k):  # one tap of the tile
        a, b = cuda.local.array(HIGH, float32), cuda.local.array(WIDE, float32)
        for i in range(0, HIGH, 4):  # 1
            a[i], a[i + 1], a[i + 2], a[i + 3] = load4(xs, m + uint32(k * PITCH + i * 8))
        for j in range(0, WIDE, 4):  # 1
            b[j], b[j + 1], b[j + 2], b[j + 3] = load4(ws, f + uint32(k * FILTERS + j * 4))
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] += a[i] * b[j]

    def convolve(x, w, b, table, y):
        xs = cuda.shared.array(X_SIZE, float32, alignment=16)
        ws = cuda.shared.array(W_SIZE, float32, alignment=16)
        sums = cuda.local.array((HIGH, WIDE), float32)
        values = cuda.local.array((X_LOADS, 4), float32)
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
            m = uint32(m0 + (t + uint32(e * THREADS)) // 2)
            n, p, q = m // Q // P, m // Q % P, m % Q
            row[e] = p * stride_h if m < M else NOWHERE
            column[e] = q * stride_w
            origin[e] = ((n * H + p * stride_h) * W + q * stride_w) * (G * C) + g * C
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] = float32(0)
        lane, warp = t % uint32(32), t // uint32(32)
        m = uint32(warp % rows_of_warps * (8 * HIGH) + lane // 2 % 8 * 4)
        f = uint32(warp // rows_of_warps * (4 * WIDE) + (lane % 2 + lane // 16 * 2) * 4)

        k0, pixel = uint32(t % 2 * 4), uint32(t // 2)  # 1 four taps of a pixel
        for step in range(uint32(part * each), uint32(min(part * each + each, steps))):
            first = uint32(step * DEPTH)
            k = uint32(first + k0)
            for e in range(X_LOADS):
                h, v = row[e] + table[depth + k], column[e] + table[depth + depth + k]
                values[e, 0] = values[e, 1] = values[e, 2] = values[e, 3] = float32(0)
                if top <= h < top + H and left <= v < left + W:
                    at = uint32(origin[e] + table[k] - (top * W + left) * (G * C))
                    values[e, 0], values[e, 1], values[e, 2], values[e, 3] = load4(x, at)  # 1
            for e in range(X_LOADS):
                for i in range(4):
                    xs[k0 * PITCH + pixel + uint32(i * PITCH + e * (THREADS // 2))] = values[e, i]
            for e in range(W_LOADS):
                u = uint32(t * 4 + uint32(e * THREADS * 4))
                at = uint32((g * depth + first + u // FILTERS) * width + f0 + u % FILTERS)
                w0, w1, w2, w3 = load4(w, at)  # 1
                store4(ws, u, w0, w1, w2, w3)
            cuda.syncthreads()  # all is written before anything is read
            multiply(xs, ws, sums, m, f, 0)
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


def arranging(gemm: Gemm) -> Launch:
    """x in the layout of the problem → x[N,H,W,G,channels], both flat, by squares of SIDE."""
    prob = gemm.problem
    nhwc = prob.layout == "nhwc"
    PITCHED = (SIDE, SIDE + 1)  # so that a column, too, lies in 32 banks
    G, C, HW, channels = (
        uint32(n) for n in (prob.groups, prob.C // prob.groups, prob.H * prob.W, gemm.channels)
    )
    every = uint32(prob.groups * gemm.channels)
    across, down = uint32(-(-int(HW) // SIDE)), uint32(-(-int(every) // SIDE))

    def arrange(x, arranged):
        square = cuda.shared.array(PITCHED, float32)
        i, column = uint32(cuda.blockIdx.x), uint32(cuda.threadIdx.x)
        pixel0, c0, n = (
            uint32(i % across * SIDE),
            uint32(i // across % down * SIDE),
            i // across // down,
        )
        for more in range(0, SIDE, 8):
            row = uint32(cuda.threadIdx.y + more)
            pixel, c = (pixel0 + row, c0 + column) if nhwc else (pixel0 + column, c0 + row)
            value = float32(0)
            if pixel < HW and c < every and c % channels < C:
                c = uint32(c // channels * C + c % channels)
                value = x[
                    uint32((n * HW + pixel) * (G * C) + c if nhwc else (n * G * C + c) * HW + pixel)
                ]
            square[row, column] = value
        cuda.syncthreads()
        for more in range(0, SIDE, 8):
            row = uint32(cuda.threadIdx.y + more)
            if pixel0 + row < HW and c0 + column < every:
                at = uint32((n * HW + pixel0 + row) * every + c0 + column)
                arranged[at] = square[row, column] if nhwc else square[column, row]

    blocks = prob.N * int(across) * int(down)
    return Launch("arrange", arrange, "void(float32[::1], float32[::1])", blocks, (SIDE, 8))


def launches(p: Conv2d) -> tuple[Launch, ...]:
    gemm = cut(p, channels=-(-(p.C // p.groups) // 4) * 4)
    as_given = p.layout == "nhwc" and gemm.channels == p.C // p.groups
    threads = gemm.tile.threads
    signature = "void(float32[::1], float32[::1], float32[::1], uint32[::1], float32[::1])"
    return (
        packing(gemm),
        *([] if as_given else [arranging(gemm)]),
        Launch("convolve", build(gemm), signature, gemm.blocks, threads, max(1, 512 // threads)),
        *([adding(gemm)] if gemm.parts > 1 else []),
    )


def plan(p: Conv2d) -> Plan:
    return planned(cut(p, channels=-(-(p.C // p.groups) // 4) * 4), launches(p))
